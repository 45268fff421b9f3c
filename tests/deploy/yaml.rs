//! What tools from the Python registry say of YAML.

use serde_json::Value;
use std::{collections::BTreeMap, fs, path::Path};
use tempfile::NamedTempFile;
use waybill_tests::{installed, python, yaml};

/// Every document of a file.
pub(crate) use waybill_tests::yaml::documents;

/// What is wrong with the resources of a file, by the schemas of a version of Kubernetes; nothing where all is well.
pub(crate) async fn faults(path: &Path, version: &str) -> String {
    let run = ["-m", "kubernetes_validate", "--strict", "--quiet", "-k", version];
    let output = python(&yaml::parser().await, &[]).args(run).arg(path).output().await.unwrap();
    if output.status.success() {
        return String::new();
    }
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Parses the files of Compose, strictly.
const COMPOSE: &str = "compose-spec==0.2.1";

/// With the defaults of its variables, as Compose has them where there are no such variables.
fn by_default(path: &Path) -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    let text = yaml::interpolated(&fs::read_to_string(path).unwrap(), &BTreeMap::new());
    fs::write(file.path(), text).unwrap();
    file
}

/// A file of Compose with the defaults of its variables.
pub(crate) async fn interpolated(path: &Path) -> Value {
    documents(by_default(path).path()).await.remove(0)
}

/// Why a file is none of Compose; `None` where it is one.
pub(crate) async fn refused(path: &Path) -> Option<String> {
    let package = installed(COMPOSE).await;
    let script = "import sys\nfrom compose_spec import PyOptions\n\
                  PyOptions(apply_merge=True).from_yaml(open(sys.argv[1]).read()).validate()";
    let file = by_default(path);
    let output = python(&package, &[]).args(["-c", script]).arg(file.path()).output().await.unwrap();
    (!output.status.success()).then(|| String::from_utf8_lossy(&output.stderr).into_owned())
}
