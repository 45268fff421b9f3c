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
