//! `waybill serve` as real processes against the NATS of a [`World`]: to be killed one by one.

use crate::{Process, World, eventually, process};
use rustix::process::{Signal, kill_process};
use serde_json::Value;
use std::{
    ffi::OsStr,
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};
use tokio::process::{Child, Command};

/// Far more than starting or stopping takes.
const WITHIN: Duration = Duration::from_mins(1);

/// A running `waybill serve`. Dropped, it is killed.
#[derive(Debug)]
pub struct Serve {
    child: Child,
    dir: PathBuf,
}

impl Serve {
    /// Serves one service on a free port: on SQLite with a read model in a folder of its own beside those of the world, on
    /// PostgreSQL with that of the world.
    pub fn start(world: &World, service: &str, name: &str) -> io::Result<Self> {
        Self::with(world, service, name, &[] as &[&str])
    }

    /// The same, with more flags. Its log is JSON.
    pub fn with(world: &World, service: &str, name: &str, flags: &[impl AsRef<OsStr>]) -> io::Result<Self> {
        Self::with_env(world, service, name, (flags, &[]))
    }

    /// The same, with more in its environment.
    pub fn with_env(
        world: &World,
        service: &str,
        name: &str,
        more: (&[impl AsRef<OsStr>], &[(&str, &str)]),
    ) -> io::Result<Self> {
        Self::by(&Process::executable(), world, service, name, more)
    }

    /// The same, with another executable: that of another version.
    pub fn by(
        executable: &Path,
        world: &World,
        service: &str,
        name: &str,
        (flags, env): (&[impl AsRef<OsStr>], &[(&str, &str)]),
    ) -> io::Result<Self> {
        let dir = world.config.data.with_file_name(name);
        fs::create_dir_all(&dir)?;
        let key = dir.join("master.key");
        fs::write(&key, &*world.config.master_key.to_base64())?;
        let log = fs::File::options().create(true).append(true).open(dir.join("log"))?;
        let child = Command::new(executable)
            .args(["serve", service, "--port", "0", "--log-format", "json"])
            .args(["--nats-url", &world.config.nats_url, "--data"])
            .arg(&dir)
            .arg("--master-key-file")
            .arg(key)
            .args(flags)
            .envs(process::database(&world.config, service))
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
        Ok(Self { child, dir })
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.status().is_some()
    }

    /// How it has ended; none while it runs.
    pub fn status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Where it listens, once it does.
    ///
    /// # Panics
    /// When it does not in time.
    pub async fn address(&self) -> SocketAddr {
        eventually("it listens", WITHIN, async || {
            let line = self.log().into_iter().find(|line| line["message"] == "listening")?;
            line["address"].as_str()?.parse().ok()
        })
        .await
    }

    /// Waits until it listens, or has ended: it may die before.
    ///
    /// # Panics
    /// When it does neither in time.
    pub async fn listens_or_ends(&mut self) {
        eventually("it listens, or has ended", WITHIN, async || {
            let listens = self.log().into_iter().any(|line| line["message"] == "listening");
            (listens || self.has_ended()).then_some(())
        })
        .await;
    }

    /// The most memory that it had resident so far, in MiB; none where the system does not tell.
    pub fn peak_mib(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()?)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? / 1024)
    }

    /// What it has logged.
    pub fn log(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Kills it as a crash would.
    pub async fn kill(&mut self) -> io::Result<()> {
        self.child.kill().await
    }

    /// Asks it to read its configuration again.
    pub fn hang_up(&self) -> io::Result<()> {
        self.signal(Signal::HUP)
    }

    /// Asks it to stop.
    pub fn terminate(&self) -> io::Result<()> {
        self.signal(Signal::TERM)
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        let pid = self.child.id().and_then(process::pid).ok_or(io::ErrorKind::NotFound)?;
        Ok(kill_process(pid, signal)?)
    }

    /// Waits until it has ended.
    ///
    /// # Panics
    /// When it does not end in time.
    pub async fn ended(&mut self) -> io::Result<ExitStatus> {
        let ended = tokio::time::timeout(WITHIN, self.child.wait()).await;
        ended.unwrap_or_else(|_| panic!("{} does not end", self.dir.display()))
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
