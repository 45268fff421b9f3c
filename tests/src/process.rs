//! The real executable as a process: to be killed, and started again on what it left behind.

use crate::eventually;
use projections::database::Storage;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    env, fs,
    fs::File,
    io,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};
use tokio::process::{Child, Command};
use waybill::{
    api::{Api, Tokens},
    system::{Config, Service},
};

const READY_WITHIN: Duration = Duration::from_secs(90);
const ENDED_WITHIN: Duration = Duration::from_mins(1);

/// A running `waybill dev`. Dropped, it and its nats-server are killed.
#[derive(Debug)]
pub struct Process {
    child: Child,
    dir: PathBuf,
    /// Asks its services.
    pub api: Api,
    /// Where its NATS is.
    pub nats_url: String,
}

impl Process {
    /// Where the executable is: beside the tests, in `target/<profile>/`.
    ///
    /// # Panics
    /// When it was not built.
    pub fn executable() -> PathBuf {
        let tests = env::current_exe().unwrap_or_default();
        // target/debug/deps/stories-0123456789abcdef
        let path = tests.ancestors().nth(2).map(|profile| profile.join("waybill")).unwrap_or_default();
        assert!(path.exists(), "{} is missing: cargo build -p waybill", path.display());
        path
    }

    /// The folder `target`, where tests keep what they install.
    ///
    /// # Panics
    /// When the executable was not built.
    pub fn target() -> PathBuf {
        Self::executable().ancestors().nth(2).unwrap_or_else(|| Path::new(".")).to_owned()
    }

    /// Runs `waybill dev` on a data folder, on free ports, and waits until it is ready.
    ///
    /// # Panics
    /// When it does not become ready in time, or ends; its log is shown.
    pub async fn dev(dir: &Path, flags: &[&str]) -> io::Result<Self> {
        Self::dev_with(dir, flags, &[]).await
    }

    /// The same, with more in its environment.
    ///
    /// # Panics
    /// When it does not become ready in time, or ends; its log is shown.
    pub async fn dev_with(dir: &Path, flags: &[&str], env: &[(&str, &str)]) -> io::Result<Self> {
        let child = Self::command(dir, flags)?.envs(env.iter().copied()).spawn()?;
        // From here on whatever is started ends with this.
        let api = Api::at(BTreeMap::new());
        let mut process = Self { child, dir: dir.to_owned(), api, nats_url: String::new() };
        process.ready().await;
        Ok(process)
    }

    /// After a kill: runs it again on what it left behind, and waits until it is ready.
    ///
    /// # Panics
    /// When it does not become ready in time, or ends; its log is shown.
    pub async fn again(&mut self, flags: &[&str]) -> io::Result<()> {
        self.child = Self::spawn(&self.dir, flags)?;
        self.ready().await;
        Ok(())
    }

    /// After it has ended: runs it again, with more in its environment; whether it became ready before it ended.
    ///
    /// # Panics
    /// When it neither becomes ready nor ends in time; its log is shown.
    pub async fn again_with(&mut self, flags: &[&str], env: &[(&str, &str)]) -> io::Result<bool> {
        self.child = Self::command(&self.dir, flags)?.envs(env.iter().copied()).spawn()?;
        Ok(self.ready_or_ended().await.is_ok())
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.status().is_some()
    }

    /// How it has ended; none while it runs.
    pub fn status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    async fn ready(&mut self) {
        if let Err(status) = self.ready_or_ended().await {
            panic!("waybill dev ended with {status}:\n{}", log(&self.dir));
        }
    }

    async fn ready_or_ended(&mut self) -> Result<(), ExitStatus> {
        let Self { child, dir, .. } = self;
        let file = eventually("waybill dev is ready, or has ended", READY_WITHIN, async || {
            if let Ok(Some(status)) = child.try_wait() {
                return Some(Err(status));
            }
            let text = fs::read(dir.join("dev.json")).ok()?;
            let file: Value = serde_json::from_slice(&text).ok()?;
            // After a kill the file of the last run is still there.
            (file["pid"].as_u64() == child.id().map(u64::from)).then_some(Ok(file))
        })
        .await?;
        file["natsUrl"].as_str().unwrap_or_default().clone_into(&mut self.nats_url);
        let tokens = Tokens::of_dev(dir, &self.nats_url).await;
        let tokens =
            tokens.unwrap_or_else(|error| panic!("waybill dev issues no tokens: {error}\n{}", log(dir)));
        let urls = serde_json::from_value(file["services"].clone()).unwrap_or_default();
        self.api = Api::at(urls).with_tokens(tokens);
        Ok(())
    }

    /// Runs `waybill dev` on a data folder without waiting for anything. It is killed when dropped.
    pub fn spawn(dir: &Path, flags: &[&str]) -> io::Result<Child> {
        Self::command(dir, flags)?.spawn()
    }

    /// Its standard error is the log, and nothing else is in it.
    fn command(dir: &Path, flags: &[&str]) -> io::Result<Command> {
        fs::create_dir_all(dir)?;
        let log = File::options().create(true).append(true).open(log_file(dir))?;
        let mut command = Command::new(Self::executable());
        command
            .args([
                "dev",
                "--ports",
                "gateway=0,users=0,orders=0,payments=0,inventory=0,shipping=0,notifications=0,fulfilment=0,operations=0",
                "--data",
            ])
            .arg(dir)
            .args(flags)
            .stdin(Stdio::null())
            // What it says to whoever starts it is no log: it holds a token.
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true);
        Ok(command)
    }

    /// Where its log is.
    pub fn log_file(&self) -> PathBuf {
        log_file(&self.dir)
    }

    /// Runs `waybill serve` for one service of a system on a free port, without waiting for anything. It is killed when
    /// dropped.
    pub fn serve(service: Service, config: &Config, data: &Path) -> io::Result<Child> {
        Command::new(Self::executable())
            .args(["serve", service.name(), "--port", "0", "--log", "warn", "--nats-url", &config.nats_url])
            .arg("--data")
            .arg(data)
            .env("WAYBILL_MASTER_KEY", &*config.master_key.to_base64())
            .envs(database(config, service.name()))
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
    }

    /// Kills it as a crash would. Its nats-server goes on, as an orphan.
    pub async fn kill(&mut self) -> io::Result<()> {
        self.child.kill().await
    }

    /// Kills its nats-server as a crash would.
    pub fn kill_nats(&self) {
        kill_nats(&self.dir);
    }

    /// Asks it to stop, and waits until it has.
    ///
    /// # Panics
    /// When it does not end in time.
    pub async fn stop(mut self) -> io::Result<ExitStatus> {
        if let Some(pid) = self.child.id().and_then(pid) {
            kill_process(pid, Signal::TERM)?;
        }
        let ended = tokio::time::timeout(ENDED_WITHIN, self.child.wait()).await;
        let ended = ended.unwrap_or_else(|_| panic!("waybill dev does not end:\n{}", log(&self.dir)));
        // It stopped its server: the id may be somebody else's soon.
        fs::remove_file(nats_pid_file(&self.dir)).ok();
        ended
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The child is killed by its own drop.
        kill_nats(&self.dir);
        if std::thread::panicking() {
            eprintln!("log of waybill dev:\n{}", log(&self.dir));
        }
    }
}

fn kill_nats(dir: &Path) {
    let recorded = fs::read_to_string(nats_pid_file(dir)).unwrap_or_default();
    let recorded = recorded.trim().parse().ok().and_then(pid);
    if let Some(pid) = recorded {
        // It has ended already where this fails.
        kill_process(pid, Signal::KILL).ok();
    }
}

fn nats_pid_file(dir: &Path) -> PathBuf {
    dir.join("nats/nats-server.pid")
}

/// The variable that says where a service has its read model on PostgreSQL; none on SQLite, or where it has none.
pub(crate) fn database(config: &Config, service: &str) -> Option<(&'static str, String)> {
    match config.databases.storage(service.parse().ok()?, &config.data) {
        Storage::Postgres(url) => Some(("WAYBILL_DATABASE_URL", url.reveal())),
        Storage::Sqlite(_) => None,
    }
}

pub(crate) fn pid(id: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(id).ok()?)
}

fn log_file(dir: &Path) -> PathBuf {
    dir.join("waybill.log")
}

/// The end of its log.
fn log(dir: &Path) -> String {
    let text = fs::read_to_string(log_file(dir)).unwrap_or_default();
    let lines: Vec<_> = text.lines().rev().take(40).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

/// Runs a command of the executable to its end: its exit code, and everything it said.
pub async fn run(arguments: &[&str]) -> io::Result<(Option<i32>, String)> {
    let mut command = Command::new(Process::executable());
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(ENDED_WITHIN, command.output()).await;
    let output = output.map_err(|_| io::Error::other(format!("{arguments:?} does not end")))??;
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    Ok((output.status.code(), said.concat()))
}
