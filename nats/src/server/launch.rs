//! One start of a nats-server process: its files, its arguments, its log.

use super::Config;
use crate::Durability;
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{self, Path, PathBuf},
    process::Stdio,
};
use tokio::process::{Child, Command};

/// One node.
pub(super) const SINGLE: &str = include_str!("../../conf/single.conf");
/// A node of a cluster.
pub(super) const CLUSTER: &str = include_str!("../../conf/cluster.conf");
/// The line of both files that decides the durability.
const ALWAYS: &str = "sync_interval: always\n";

/// Beside the configuration of a server that trusts nobody.
const ACCOUNTS: &str = "accounts.conf";

const LOG: &str = "nats-server.log";
/// Each process tells here where it listens.
const PORTS: &str = "nats-ports";
/// Relative to the data folder, where the process runs: its path then needs no quoting.
const STORE: &str = "nats-data";

/// Everything needed to start the process, and to start it again.
pub(super) struct Launch {
    binary: PathBuf,
    dir: PathBuf,
    environment: Vec<(&'static str, String)>,
}

impl Launch {
    /// Writes the configuration into `dir`, which must be absolute, and puts away what the last run left.
    pub(super) fn prepare(config: &Config, dir: &Path) -> io::Result<Self> {
        let (template, environment) = match &config.node {
            None => (SINGLE, Vec::new()),
            Some(node) => (CLUSTER, node.environment()),
        };
        let guarded = match &config.guard {
            None => None,
            Some(guard) => {
                fs::copy(guard.folder.join(ACCOUNTS), dir.join(ACCOUNTS))?;
                let name = if config.node.is_some() { "cluster.conf" } else { "single.conf" };
                Some(fs::read_to_string(guard.folder.join(name))?)
            }
        };
        let template = guarded.as_deref().unwrap_or(template);
        write(&conf(dir), &configuration(template, config.durability))?;
        let log = dir.join(LOG);
        if log.exists() {
            fs::rename(&log, log.with_extension("log.old"))?;
        }
        let ports = dir.join(PORTS);
        if ports.exists() {
            fs::remove_dir_all(&ports)?;
        }
        fs::create_dir(&ports)?;
        // It runs in the data folder, where a relative path would lead elsewhere.
        let binary = path::absolute(&config.binary.path)?;
        Ok(Self { binary, dir: dir.to_owned(), environment })
    }

    /// Starts the process on `port`, or on a free one. [`port_of`](Self::port_of) tells when it listens.
    pub(super) fn spawn(&self, port: Option<u16>) -> io::Result<Child> {
        let log = OpenOptions::new().create(true).append(true).open(self.dir.join(LOG))?;
        let port = port.map_or_else(|| "-1".to_owned(), |port| port.to_string());
        let mut command = Command::new(&self.binary);
        command.arg("-c").arg(conf(&self.dir)).arg("-P").arg(pid_file(&self.dir));
        command.args(["-p", &port, "--ports_file_dir", PORTS]);
        command
            .envs(self.environment.iter().map(|(key, value)| (key, value)))
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C in the terminal must reach Waybill first, which then stops the server last.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
    }

    /// The port of the process `pid`, once it listens there.
    pub(super) fn port_of(&self, pid: u32) -> Option<u16> {
        let program = self.binary.file_name()?.to_string_lossy();
        let file = self.dir.join(PORTS).join(format!("{program}_{pid}.ports"));
        // {"nats":["nats://127.0.0.1:40123"]}, complete or not yet.
        let ports: serde_json::Value = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
        ports["nats"][0].as_str()?.rsplit(':').next()?.parse().ok()
    }

    /// The end of the log.
    pub(super) fn last_words(&self) -> String {
        const ENOUGH: u64 = 2000;
        let path = self.dir.join(LOG);
        let mut bytes = Vec::new();
        let read = File::open(&path).and_then(|mut file| {
            let start = file.metadata()?.len().saturating_sub(ENOUGH);
            file.seek(SeekFrom::Start(start))?;
            file.read_to_end(&mut bytes)
        });
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<_> = text.lines().rev().take(5).collect();
        let words: Vec<_> = lines.into_iter().rev().collect();
        let shown = path.display();
        read.map_or_else(
            |error| format!("{shown}: {error}"),
            |_| format!("{shown} ends with\n{}", words.join("\n")),
        )
    }
}

/// The configuration file in a data folder.
pub(super) fn conf(dir: &Path) -> PathBuf {
    dir.join("nats-server.conf")
}

/// The file with the process id in a data folder, written by the server.
pub(super) fn pid_file(dir: &Path) -> PathBuf {
    dir.join("nats-server.pid")
}

/// For its owner only: nodes of a cluster that trusts nobody find the password of the others in it.
fn write(file: &Path, text: &str) -> io::Result<()> {
    if file.exists() {
        fs::remove_file(file)?;
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(file)?.write_all(text.as_bytes())
}

fn configuration(template: &str, durability: Durability) -> String {
    match durability {
        Durability::Always => template.to_owned(),
        Durability::Interval => template.replace(ALWAYS, "sync_interval: 2m\n"),
    }
}

/// One node of a cluster on this machine: for tests of what a cluster does.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its name, unique in the cluster.
    pub name: String,
    /// Where the other nodes reach it.
    pub cluster_port: u16,
    /// The cluster ports of all nodes.
    pub all_cluster_ports: Vec<u16>,
}

impl Node {
    /// What `conf/cluster.conf` asks for.
    fn environment(&self) -> Vec<(&'static str, String)> {
        let routes: Vec<_> =
            self.all_cluster_ports.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
        vec![
            ("WAYBILL_NATS_NAME", self.name.clone()),
            ("WAYBILL_NATS_HOST", "127.0.0.1".into()),
            // The argument -p decides.
            ("WAYBILL_NATS_PORT", "-1".into()),
            ("WAYBILL_NATS_CLUSTER_PORT", self.cluster_port.to_string()),
            ("WAYBILL_NATS_MONITOR_PORT", "-1".into()),
            ("WAYBILL_NATS_STORE", STORE.into()),
            ("WAYBILL_NATS_ROUTES", format!("[{}]", routes.join(", "))),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durability_changes_one_line_and_nothing_else() {
        for template in [SINGLE, CLUSTER] {
            assert_eq!(template.matches(ALWAYS).count(), 1);
            assert_eq!(configuration(template, Durability::Always), template);
            let interval = configuration(template, Durability::Interval);
            assert_eq!(interval.replace("sync_interval: 2m\n", ALWAYS), template);
            assert!(!interval.contains(ALWAYS));
        }
        assert!(SINGLE.contains(&format!("store_dir: \"{STORE}\"\n")));
    }
}
