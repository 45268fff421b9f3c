//! `waybill serve` as real processes against the NATS of a [`World`]: to be killed one by one.

use crate::{Process, World};
use std::{fs, io, path::PathBuf, process::Stdio};
use tokio::process::{Child, Command};

/// A running `waybill serve`. Dropped, it is killed.
#[derive(Debug)]
pub struct Serve {
    child: Child,
    dir: PathBuf,
}

impl Serve {
    /// Serves one service on a free port, with read models in a folder of its own beside those of the world.
    pub fn start(world: &World, service: &str, name: &str) -> io::Result<Self> {
        Self::with(world, service, name, &[])
    }

    /// The same, with more flags.
    pub fn with(world: &World, service: &str, name: &str, flags: &[String]) -> io::Result<Self> {
        let dir = world.config.data.with_file_name(name);
        fs::create_dir_all(&dir)?;
        let key = dir.join("master.key");
        fs::write(&key, &*world.config.master_key.to_base64())?;
        let log = fs::File::options().create(true).append(true).open(dir.join("log"))?;
        let child = Command::new(Process::executable())
            .args(["serve", service, "--port", "0", "--nats-url", &world.config.nats_url, "--data"])
            .arg(&dir)
            .arg("--master-key-file")
            .arg(key)
            .args(flags)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
        Ok(Self { child, dir })
    }

    /// Kills it as a crash would.
    pub async fn kill(&mut self) -> io::Result<()> {
        self.child.kill().await
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            eprintln!(
                "log of {}:\n{}",
                self.dir.display(),
                lines[lines.len().saturating_sub(30)..].join("\n")
            );
        }
    }
}
