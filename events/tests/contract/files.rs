//! The files of the contract, and how generated ones are compared or rewritten.

use events::{Aggregate, FactType};
use serde_json::Value;
use std::{fs, path::PathBuf};

/// A file beside the crate's manifest.
pub(crate) fn path(relative: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(relative)
}

/// The recorded body of a version.
pub(crate) fn golden(kind: &str, version: u32) -> Value {
    json(&format!("golden/{kind}/{version}.json")).unwrap_or_else(|| {
        panic!("{kind} {version} has no golden file: put a body as recorded into events/golden/{kind}/{version}.json")
    })
}

/// Reads a JSON file; `None` where there is none.
pub(crate) fn json(relative: &str) -> Option<Value> {
    let text = fs::read(path(relative)).ok()?;
    Some(serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{relative} is no JSON: {error}")))
}

/// Whether generated files are to be rewritten instead of compared.
pub(crate) fn updating() -> bool {
    std::env::var_os("UPDATE_GOLDEN").is_some()
}

/// Writes a generated file.
pub(crate) fn write(relative: &str, text: &str) {
    let path = path(relative);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// Every type of fact with the kind of aggregate it happens to.
pub(crate) fn facts() -> impl Iterator<Item = (Aggregate, &'static FactType)> {
    Aggregate::ALL
        .into_iter()
        .flat_map(|aggregate| FactType::of(aggregate).iter().map(move |f| (aggregate, f)))
}

/// Every version of every type of fact.
pub(crate) fn versions() -> impl Iterator<Item = (Aggregate, &'static FactType, u32)> {
    facts().flat_map(|(aggregate, fact)| (1..=fact.version).map(move |version| (aggregate, fact, version)))
}

/// The `<type>/<version>` of every file in `folder`, sorted.
pub(crate) fn listed(folder: &str) -> Vec<String> {
    let entries = |path: PathBuf| fs::read_dir(path).into_iter().flatten().map(|entry| entry.unwrap());
    let name = |entry: &fs::DirEntry| entry.file_name().into_string().unwrap();
    let mut files: Vec<_> = entries(path(folder))
        .flat_map(|kind| entries(kind.path()).map(move |file| format!("{}/{}", name(&kind), name(&file))))
        .collect();
    files.sort();
    files
}
