//! YAML as JSON, and what tools from the Python registry say of it.

use serde_json::Value;
use std::path::Path;
use waybill_tests::{installed, python};

/// Knows the resources of Kubernetes, and brings a parser of YAML with it.
const VALIDATE: &str = "kubernetes-validate==1.37.0";

/// Every document of a file.
pub(crate) async fn documents(path: &Path) -> Vec<Value> {
    let package = installed(VALIDATE).await;
    let script = "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(open(sys.argv[1])))))";
    let output = python(&package, &[]).args(["-c", script]).arg(path).output().await.unwrap();
    assert!(output.status.success(), "{}: {}", path.display(), String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What is wrong with the resources of a file, by the schemas of a version of Kubernetes; nothing where all is well.
pub(crate) async fn faults(path: &Path, version: &str) -> String {
    let package = installed(VALIDATE).await;
    let run = ["-m", "kubernetes_validate", "--strict", "--quiet", "-k", version];
    let output = python(&package, &[]).args(run).arg(path).output().await.unwrap();
    if output.status.success() {
        return String::new();
    }
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Parses the files of Compose, strictly.
const COMPOSE: &str = "compose-spec==0.2.1";

/// Puts its default in the place of each variable, as Compose does where there is no such variable.
const INTERPOLATE: &str = r#"
import json, re, sys
text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", open(sys.argv[1]).read())
"#;

/// A file of Compose with the defaults of its variables.
pub(crate) async fn interpolated(path: &Path) -> Value {
    let package = installed(VALIDATE).await;
    let script = format!("{INTERPOLATE}import yaml\nprint(json.dumps(yaml.safe_load(text)))");
    let output = python(&package, &[]).args(["-c", &script]).arg(path).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Why a file is none of Compose; `None` where it is one.
pub(crate) async fn refused(path: &Path) -> Option<String> {
    let package = installed(COMPOSE).await;
    let script = format!(
        "{INTERPOLATE}from compose_spec import PyOptions\nPyOptions(apply_merge=True).from_yaml(text).validate()"
    );
    let output = python(&package, &[]).args(["-c", &script]).arg(path).output().await.unwrap();
    (!output.status.success()).then(|| String::from_utf8_lossy(&output.stderr).into_owned())
}
