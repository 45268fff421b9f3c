//! YAML as JSON.

use crate::{installed, python};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// Knows the resources of Kubernetes, and brings a parser of YAML with it.
const PARSER: &str = "kubernetes-validate==1.37.0";

/// Where the package lies that the documents are read with.
pub async fn parser() -> PathBuf {
    installed(PARSER).await
}

/// Every document of a file.
///
/// # Panics
/// Where it is no YAML.
pub async fn documents(path: &Path) -> Vec<Value> {
    let script = "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(open(sys.argv[1])))))";
    let read = python(&parser().await, &[]).args(["-c", script]).arg(path).output().await;
    let read = read.unwrap_or_else(|error| panic!("python3: {error}"));
    assert!(read.status.success(), "{}: {}", path.display(), String::from_utf8_lossy(&read.stderr));
    serde_json::from_slice(&read.stdout).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A text of Compose with its variables filled in: `${NAME:-default}`.
///
/// # Panics
/// Where a variable does not end.
pub fn interpolated(text: &str, variables: &BTreeMap<String, String>) -> String {
    let mut parts = text.split("${");
    let mut whole = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (variable, rest) = part.split_once('}').unwrap_or_else(|| panic!("${{{part} does not end"));
        let (name, default) = variable.split_once(":-").unwrap_or((variable, ""));
        let value = variables.get(name).filter(|value| !value.is_empty());
        whole.push_str(value.map_or(default, String::as_str));
        whole.push_str(rest);
    }
    whole
}

/// The variables of a file such as `.env`.
///
/// # Panics
/// Where there is no such file.
pub fn variables(path: &Path) -> BTreeMap<String, String> {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let lines = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('='));
    lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}
