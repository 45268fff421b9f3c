//! The files in `pacts/`: one for each consumer and provider.

use pact_models::{PactSpecification, pact::Pact};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// The folder of the files.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("pacts")
}

/// The file of a pair.
pub fn pact_file(consumer: &str, provider: &str) -> PathBuf {
    folder().join(format!("{consumer}-{provider}.json"))
}

/// Every file with its consumer and provider, by name.
///
/// # Panics
/// Where one cannot be read.
pub fn files() -> Vec<(PathBuf, String, String)> {
    let paths = fs::read_dir(folder()).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<_> = paths
        .map(|path| {
            let pact = read(&path).unwrap_or_else(|| panic!("{} is no JSON", path.display()));
            let name = |of: &str| pact[of]["name"].as_str().unwrap_or_default().to_owned();
            let (consumer, provider) = (name("consumer"), name("provider"));
            (path, consumer, provider)
        })
        .collect();
    files.sort();
    files
}

/// Compares a pact with its file, or writes it where `UPDATE_GOLDEN` is set.
///
/// # Panics
/// Where they differ.
pub fn agree(pact: &dyn Pact) {
    let file = pact_file(&pact.consumer().name, &pact.provider().name);
    let made = pact.to_json(PactSpecification::V4);
    let made = made.unwrap_or_else(|error| panic!("{} cannot be written: {error}", file.display()));
    if read(&file).as_ref() == Some(&made) {
        return;
    }
    let shown = file.display();
    assert!(
        std::env::var_os("UPDATE_GOLDEN").is_some(),
        "{shown} is not what the consumer asks for: run UPDATE_GOLDEN=1 cargo test, and then without it: the provider has to agree"
    );
    fs::create_dir_all(folder()).unwrap_or_else(|error| panic!("{shown}: {error}"));
    fs::write(&file, format!("{made:#}\n")).unwrap_or_else(|error| panic!("{shown}: {error}"));
}

fn read(path: &Path) -> Option<Value> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}
