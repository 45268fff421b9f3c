//! Finds, fetches, starts and supervises a nats-server: for `waybill dev` and for tests.
//!
//! The process is started again on the same port when it dies, and stopped by its id. Its configuration is the file in
//! `conf/`, its log goes to the data folder.

mod binary;
mod fetch;
mod launch;
mod process;
mod secured;

pub use binary::{Binary, LocateError};
pub use launch::Node;
pub use secured::Secured;

use crate::{Access, Durability};
use async_nats::{ConnectOptions, jetstream};
use launch::Launch;
use process::{GRACE, POLL, ask_to_end, end_orphan, signal, stopped};
use rustix::process::Signal;
use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};
use tokio::{
    process::Child,
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// How long the server may take until JetStream answers. A large log that was not closed well is read at start.
const READY_WITHIN: Duration = Duration::from_mins(2);
/// How soon a dead server is started again; doubled up to the second figure while it keeps dying.
const RESTART_AFTER: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// A server that lived so long has not died at start.
const STABLE: Duration = Duration::from_secs(5);

/// How to run a server.
#[derive(Clone, Debug)]
pub struct Config {
    /// Which nats-server.
    pub binary: Binary,
    /// Where it keeps everything: data, configuration, log. Used by one server at a time.
    pub data_dir: PathBuf,
    /// The port for clients; None takes a free one and keeps it.
    pub port: Option<u16>,
    /// What it does before it acknowledges.
    pub durability: Durability,
    /// Whether it is started again when it dies.
    pub restart: bool,
    /// Makes it a node of a cluster.
    pub node: Option<Node>,
    /// Makes it trust nobody.
    pub guard: Option<Guard>,
}

/// A server that trusts nobody.
#[derive(Clone, Debug)]
pub struct Guard {
    /// Folder with its configuration, as `waybill nats-config` makes it.
    pub folder: PathBuf,
    /// As whom it is looked whether it answers.
    pub access: Access,
}

impl Config {
    /// One durable server on a free port, started again when it dies.
    pub fn new(binary: Binary, data_dir: impl Into<PathBuf>) -> Self {
        let data_dir = data_dir.into();
        Self {
            binary,
            data_dir,
            port: None,
            durability: Durability::Always,
            restart: true,
            node: None,
            guard: None,
        }
    }
}

/// Why a server does not run.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data folder cannot be used, or the binary cannot be run.
    #[error("cannot run nats-server in {}", dir.display())]
    Io {
        /// The data folder.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another Waybill runs its server there.
    #[error("another process is running a nats-server in {}: stop it, or choose another folder", dir.display())]
    InUse {
        /// The data folder.
        dir: PathBuf,
    },
    /// A server that an earlier run left behind does not end.
    #[error("nats-server with process id {pid}, left by an earlier run, does not end: end it first")]
    Orphan {
        /// Its process id.
        pid: u32,
    },
    /// It ended at once: a port that is taken, for example.
    #[error("nats-server ended at its start ({status}); {log}")]
    Exited {
        /// How it ended.
        status: String,
        /// Its last words.
        log: String,
    },
    /// JetStream does not answer.
    #[error("JetStream does not answer after {READY_WITHIN:?}; {log}")]
    NotReady {
        /// The last words of the server.
        log: String,
    },
}

/// A running nats-server. Dropping it kills the process; [`stop`](Self::stop) lets it close its files first.
#[derive(Debug)]
pub struct Server {
    port: u16,
    /// As whom it is looked whether it answers, where it trusts nobody.
    access: Option<Access>,
    /// The process id, None while it is dead.
    pid: watch::Receiver<Option<u32>>,
    stop: CancellationToken,
    supervisor: JoinHandle<()>,
    /// Locked as long as the server is ours.
    lock: File,
}

impl Server {
    /// Starts a server and waits until JetStream answers. Ends what a killed Waybill left running on the same folder.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let io = |source| StartError::Io { dir: config.data_dir.clone(), source };
        fs::create_dir_all(&config.data_dir).map_err(io)?;
        let dir = config.data_dir.canonicalize().map_err(io)?;
        let lock = lock(&dir)?;
        end_orphan(&dir).await.map_err(|pid| StartError::Orphan { pid })?;

        let launch = Launch::prepare(&config, &dir).map_err(io)?;
        let mut child = launch.spawn(config.port).map_err(io)?;
        let access = config.guard.map(|guard| guard.access);
        let port = await_ready(&launch, access.as_ref(), &mut child).await?;
        tracing::info!(
            version = config.binary.version, port, durability = %config.durability, dir = %dir.display(),
            "nats-server is ready"
        );
        let (state, pid) = watch::channel(child.id());
        let stop = CancellationToken::new();
        let supervisor = Supervisor { launch, port, restart: config.restart, state, stop: stop.clone() };
        Ok(Self { port, access, pid, stop, supervisor: tokio::spawn(supervisor.run(child)), lock })
    }

    /// Where clients connect.
    pub fn url(&self) -> String {
        url(self.port)
    }

    /// The process id; None while the process is dead.
    pub fn pid(&self) -> Option<u32> {
        *self.pid.borrow()
    }

    /// Whether JetStream answers, waiting for it until `deadline`.
    pub async fn ready(&self, deadline: Duration) -> bool {
        let answer = async {
            while !answers(self.port, self.access.as_ref()).await {
                sleep(POLL).await;
            }
        };
        timeout(deadline, answer).await.is_ok()
    }

    /// Ends the process, after it has closed its files if it does so in time.
    pub async fn stop(mut self) {
        self.stop.cancel();
        if let Err(error) = (&mut self.supervisor).await {
            tracing::error!(%error, "the supervisor of nats-server failed");
        }
    }

    /// Kills the process as a crash would and waits until it is dead. It is started again, unless configured otherwise.
    pub async fn kill(&self) {
        let mut pid = self.pid.clone();
        let Some(victim) = *pid.borrow_and_update() else { return };
        signal(victim, Signal::KILL);
        // An error means that the supervisor is gone, and the process with it.
        pid.wait_for(|now| *now != Some(victim)).await.ok();
    }

    /// Stops the process from running, without ending it: as if the machine hung.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
        if let Some(pid) = self.pid() {
            stopped(pid);
        }
    }

    /// Lets a paused process run on.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, which: Signal) {
        if let Some(pid) = self.pid() {
            signal(pid, which);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Aborting also kills, but only when the runtime gets to it, which may never be.
        self.supervisor.abort();
        self.signal(Signal::KILL);
        // Closing would not do while a process that is just being forked still holds a copy.
        self.lock.unlock().ok();
    }
}

/// Starts the process again when it dies, until told to stop.
struct Supervisor {
    launch: Launch,
    port: u16,
    restart: bool,
    state: watch::Sender<Option<u32>>,
    stop: CancellationToken,
}

impl Supervisor {
    async fn run(self, mut child: Child) {
        let mut delay = RESTART_AFTER.0;
        loop {
            let started = Instant::now();
            let status = tokio::select! {
                status = child.wait() => status,
                () = self.stop.cancelled() => {
                    end(&mut child).await;
                    self.state.send_replace(None);
                    return;
                }
            };
            self.state.send_replace(None);
            tracing::warn!(
                ?status,
                restart = self.restart,
                "nats-server has died; {}",
                self.launch.last_words()
            );
            if !self.restart {
                return;
            }
            if started.elapsed() > STABLE {
                delay = RESTART_AFTER.0;
            }
            let Some(next) = self.start_again(&mut delay).await else { return };
            child = next;
            self.state.send_replace(child.id());
            tracing::info!(port = self.port, "nats-server is started again");
        }
    }

    /// None when told to stop meanwhile.
    async fn start_again(&self, delay: &mut Duration) -> Option<Child> {
        loop {
            let stopped = timeout(*delay, self.stop.cancelled()).await.is_ok();
            if stopped {
                return None;
            }
            *delay = (*delay * 2).min(RESTART_AFTER.1);
            match self.launch.spawn(Some(self.port)) {
                Ok(child) => return Some(child),
                Err(error) => tracing::error!(%error, "cannot start nats-server again"),
            }
        }
    }
}

fn describe(status: io::Result<ExitStatus>) -> String {
    status.map_or_else(|error| error.to_string(), |status| status.to_string())
}

async fn end(child: &mut Child) {
    if let Some(pid) = child.id() {
        ask_to_end(pid);
    }
    if timeout(GRACE, child.wait()).await.is_err() {
        tracing::warn!("nats-server does not end by itself and is killed");
        child.kill().await.ok();
    }
}

fn lock(dir: &Path) -> Result<File, StartError> {
    let io = |source| StartError::Io { dir: dir.to_owned(), source };
    let file = File::create(dir.join("nats-server.lock")).map_err(io)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StartError::InUse { dir: dir.to_owned() }),
        Err(TryLockError::Error(source)) => Err(io(source)),
    }
}

/// The port of this very process, once JetStream answers there. Another server may be answering on the port asked for.
async fn await_ready(launch: &Launch, access: Option<&Access>, child: &mut Child) -> Result<u16, StartError> {
    let pid = child.id();
    let ready = async {
        loop {
            if let Some(port) = pid.and_then(|pid| launch.port_of(pid))
                && answers(port, access).await
            {
                return port;
            }
            sleep(POLL).await;
        }
    };
    tokio::select! {
        status = child.wait() => {
            Err(StartError::Exited { status: describe(status), log: launch.last_words() })
        }
        port = timeout(READY_WITHIN, ready) => {
            port.map_err(|_| StartError::NotReady { log: launch.last_words() })
        }
    }
}

/// Whether JetStream answers at this moment.
async fn answers(port: u16, access: Option<&Access>) -> bool {
    let ask = async {
        if let Some(access) = access {
            // Whoever it lets in has no streams of its own to ask for.
            return access.apply(ConnectOptions::new()).connect(url(port)).await.ok().map(|_| ());
        }
        let client = ConnectOptions::new().connect(url(port)).await.ok()?;
        jetstream::new(client).query_account().await.ok().map(|_| ())
    };
    matches!(timeout(Duration::from_secs(2), ask).await, Ok(Some(())))
}

fn url(port: u16) -> String {
    format!("nats://127.0.0.1:{port}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_nats::jetstream::{Context, stream};
    use std::net::TcpListener;

    const SOON: Duration = Duration::from_secs(30);

    async fn config(dir: &Path) -> Config {
        Config::new(Binary::locate(None).await.unwrap(), dir)
    }

    async fn connect(server: &Server) -> Context {
        jetstream::new(ConnectOptions::new().connect(server.url()).await.unwrap())
    }

    async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
        let waiting = async {
            while !condition().await {
                sleep(POLL).await;
            }
        };
        assert!(timeout(SOON, waiting).await.is_ok(), "never: {what}");
    }

    #[tokio::test]
    async fn is_started_again_on_the_same_port_with_its_data() {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start(config(dir.path()).await).await.unwrap();
        let (url, pid) = (server.url(), server.pid().unwrap());
        let group =
            rustix::process::getpgid(rustix::process::Pid::from_raw(pid.try_into().unwrap())).unwrap();
        assert_eq!(group.as_raw_pid(), i32::try_from(pid).unwrap(), "Ctrl-C must not reach it");

        let jetstream = connect(&server).await;
        let stream = stream::Config { name: "S".into(), subjects: vec!["s".into()], ..Default::default() };
        jetstream.create_stream(stream).await.unwrap();
        jetstream.publish("s", "kept".into()).await.unwrap().await.unwrap();

        for _ in 0..2 {
            let before = server.pid();
            server.kill().await;
            assert!(server.ready(SOON).await);
            assert!(server.pid().is_some() && server.pid() != before);
        }
        assert_eq!(server.url(), url);
        let message = connect(&server).await.get_stream("S").await.unwrap().get_raw_message(1).await.unwrap();
        assert_eq!(&*message.payload, b"kept");

        let log = fs::read_to_string(dir.path().join("nats-server.log")).unwrap();
        assert_eq!(log.matches("Server is ready").count(), 3, "{log}");
        server.stop().await;
        assert!(ConnectOptions::new().connect(&url).await.is_err());
        let log = fs::read_to_string(dir.path().join("nats-server.log")).unwrap();
        assert!(log.contains("Server Exiting"), "it closed its files: {log}");
    }

    #[tokio::test]
    async fn runs_as_configured_and_stays_dead_when_told_so() {
        let dir = tempfile::tempdir().unwrap();
        let mut config =
            Config { restart: false, durability: Durability::Interval, ..config(dir.path()).await };
        let up = "../".repeat(std::env::current_dir().unwrap().components().count() - 1);
        config.binary.path = Path::new(&up).join(config.binary.path.strip_prefix("/").unwrap());
        let server = Server::start(config).await.unwrap();
        server.kill().await;
        eventually("the supervisor ends", async || server.supervisor.is_finished()).await;
        assert_eq!(server.pid(), None);
        server.kill().await;
        server.stop().await;
        assert!(
            fs::read_to_string(dir.path().join("nats-server.conf")).unwrap().contains("sync_interval: 2m")
        );
    }

    #[tokio::test]
    async fn a_folder_has_one_server_and_dropping_it_ends_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path()).await;
        let server = Server::start(config.clone()).await.unwrap();
        let error = Server::start(config.clone()).await.unwrap_err();
        assert!(matches!(error, StartError::InUse { .. }), "{error}");
        assert!(answers(server.port, None).await, "the first one is left alone");

        let pid = server.pid().unwrap();
        drop(server);
        let real = dir.path().canonicalize().unwrap();
        eventually("the process ends", async || !process::runs_on(pid, &real).await).await;
        Server::start(config).await.unwrap().stop().await;
    }

    #[tokio::test]
    async fn ends_what_a_killed_waybill_left_behind_even_if_it_hangs() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path()).await;
        let real = dir.path().canonicalize().unwrap();
        let mut orphan = Launch::prepare(&config, &real).unwrap().spawn(None).unwrap();
        let pid = orphan.id().unwrap();
        eventually("the pid file is written", async || {
            fs::read_to_string(launch::pid_file(&real)).is_ok_and(|text| text.trim() == pid.to_string())
        })
        .await;
        signal(pid, Signal::STOP);

        let server = Server::start(config).await.unwrap();
        assert!(orphan.try_wait().unwrap().is_some());
        assert_ne!(server.pid(), Some(pid));
        server.stop().await;
    }

    #[tokio::test]
    async fn leaves_alone_a_process_that_has_the_old_id_by_chance() {
        let dir = tempfile::tempdir().unwrap();
        let mut stranger =
            tokio::process::Command::new("sleep").arg("600").kill_on_drop(true).spawn().unwrap();
        fs::write(launch::pid_file(dir.path()), stranger.id().unwrap().to_string()).unwrap();
        Server::start(config(dir.path()).await).await.unwrap().stop().await;
        assert!(stranger.try_wait().unwrap().is_none());
    }

    #[tokio::test]
    async fn says_that_the_port_is_taken_even_by_another_nats_server() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let first = Server::start(config(other.path()).await).await.unwrap();
        let config = Config { port: Some(first.port), ..config(dir.path()).await };
        let error = Server::start(config).await.unwrap_err();
        assert!(matches!(error, StartError::Exited { .. }), "{error}");
        assert!(error.to_string().contains("address already in use"), "{error}");
    }

    #[tokio::test]
    async fn does_not_answer_while_paused() {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start(config(dir.path()).await).await.unwrap();
        server.pause();
        assert!(!server.ready(Duration::from_millis(200)).await);
        server.resume();
        assert!(server.ready(SOON).await);
        server.pause();
        server.stop().await;
    }

    #[tokio::test]
    async fn three_nodes_make_a_cluster_that_outlives_one() {
        let dir = tempfile::tempdir().unwrap();
        let free: Vec<_> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let ports: Vec<_> = free.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
        drop(free);
        let base = config(dir.path()).await;
        let nodes = ports.iter().enumerate().map(|(index, &cluster_port)| {
            let name = format!("nats-{}", index + 1);
            let data_dir = dir.path().join(&name);
            let node = Node { name, cluster_port, all_cluster_ports: ports.clone() };
            Server::start(Config { data_dir, node: Some(node), restart: false, ..base.clone() })
        });
        let servers = futures::future::try_join_all(nodes).await.unwrap();

        let jetstream = connect(&servers[0]).await;
        let config = || stream::Config {
            name: "S".into(),
            subjects: vec!["s".into()],
            num_replicas: 3,
            allow_atomic_publish: true,
            ..Default::default()
        };
        eventually("three nodes hold the stream", async || {
            jetstream.get_or_create_stream(config()).await.is_ok()
        })
        .await;
        let info = jetstream.get_stream("S").await.unwrap().get_info().await.unwrap();
        assert_eq!(info.config.num_replicas, 3);
        assert_eq!(info.cluster.unwrap().replicas.len(), 2);
        jetstream.publish("s", "one".into()).await.unwrap().await.unwrap();

        servers[2].kill().await;
        let publish = async || match jetstream.publish("s", "two".into()).await {
            Ok(ack) => ack.await.is_ok(),
            Err(_) => false,
        };
        eventually("two nodes accept", publish).await;
        servers[1].kill().await;
        let lonely = jetstream.publish("s", "three".into()).await.unwrap();
        assert!(timeout(Duration::from_secs(1), lonely.into_future()).await.map_or(true, |ack| ack.is_err()));
    }

    #[tokio::test]
    async fn names_what_cannot_be_run() {
        let dir = tempfile::tempdir().unwrap();
        let binary = Binary { path: "/nonexistent/nats-server".into(), version: "2.15.1".into() };
        let error = Server::start(Config::new(binary, dir.path())).await.unwrap_err();
        assert!(matches!(error, StartError::Io { .. }), "{error}");
    }
}

#[cfg(test)]
mod testing {
    use std::{
        path::{Path, PathBuf},
        process::Command,
    };

    /// A shell script that can be run. Another process writes it: a file that this one has open for writing, or has
    /// just had while it forked, cannot be executed.
    pub(super) fn script(path: &Path, text: &str) -> PathBuf {
        let written = Command::new("sh")
            .args(["-c", "printf '#!/bin/sh\\n%s\\n' \"$1\" > \"$0\" && chmod +x \"$0\""])
            .args([path.as_os_str(), text.as_ref()])
            .status();
        assert!(written.unwrap().success());
        path.to_owned()
    }
}
