//! Python packages that tests use, installed into `target/` when they are first needed.

use crate::Process;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
};
use tempfile::TempDir;
use tokio::process::Command;

/// Where a package, `name==version`, lies with all that it needs.
///
/// # Panics
/// Where it cannot be installed; the message says what is missing.
pub async fn installed(package: &str) -> PathBuf {
    let target = Process::target();
    let place = target.join(package.replace("==", "-"));
    if !place.exists() {
        // At once or not at all: an installation that was broken off is not taken for one.
        let draft =
            tempfile::tempdir_in(&target).unwrap_or_else(|error| panic!("{}: {error}", target.display()));
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target"];
        let installing = Command::new("python3").args(pip).arg(draft.path()).arg(package).output().await;
        let Output { status, stderr, .. } = installing.unwrap_or_else(|error| {
            panic!("python3 is missing: install it, with pip (Debian: python3-pip): {error}")
        });
        let said = String::from_utf8_lossy(&stderr);
        assert!(status.success(), "pip cannot install {package} (Debian: python3-pip):\n{said}");
        keep(draft, &place);
    }
    place
}

/// Puts what was installed in its place.
///
/// # Panics
/// Where that is not possible.
pub(crate) fn keep(draft: TempDir, place: &Path) {
    // Another test may have been faster.
    if let Err(error) = fs::rename(draft.keep(), place) {
        assert!(place.exists(), "{}: {error}", place.display());
    }
}

/// Python with a package, and with modules in these folders.
pub fn python(package: &Path, modules: &[PathBuf]) -> Command {
    let folders = std::iter::once(package.to_owned()).chain(modules.iter().cloned());
    let path = std::env::join_paths(folders).unwrap_or_default();
    let mut command = Command::new("python3");
    command.env("PYTHONPATH", path).env("PYTHONDONTWRITEBYTECODE", "1").kill_on_drop(true);
    command
}
