//! A PostgreSQL server of its own, for tests and measurements: in a temporary folder, on a free port, ended with its last user.
//! As root it runs as a user without privileges, which PostgreSQL insists on.

use super::PostgresUrl;
use std::{
    env, fs,
    net::{TcpListener, TcpStream},
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// How long the server may take to start, after a crash too, and to end.
const PATIENCE: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(20);

/// Who may do everything on it.
const ADMIN: &str = "postgres";
const PASSWORD: &str = "only for tests";

/// Why there is no server, or what it refused.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ClusterError(String);

/// A running server. Dropped, it is killed.
#[derive(Debug)]
pub struct Cluster {
    folder: TempDir,
    programs: PathBuf,
    /// As whom it runs; `None` for whoever started it.
    user: Option<(u32, u32)>,
    port: u16,
    /// Parameters of the server beside what it needs to be here, such as `fsync=off`.
    settings: Vec<String>,
    server: Mutex<Option<Child>>,
}

impl Cluster {
    /// Makes one and starts it with these parameters, such as `fsync=off`.
    pub fn start(settings: &[&str]) -> Result<Self, ClusterError> {
        let programs = Self::programs()?;
        let folder = tempfile::tempdir().map_err(|error| failed("a temporary folder", &error))?;
        let user = Self::runs_as()?;
        if let Some((user, group)) = user {
            chown(folder.path(), Some(user), Some(group)).map_err(|error| failed("chown", &error))?;
        }
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let port = port.map_err(|error| failed("a free port", &error))?.port();
        let mut settings: Vec<_> = settings.iter().map(|&setting| setting.to_owned()).collect();
        let here = settings.iter_mut().try_for_each(|setting| carried(setting, folder.path(), user));
        here.map_err(|error| failed("a certificate", &error))?;
        let cluster = Self { folder, programs, user, port, settings, server: Mutex::new(None) };
        let secret = cluster.folder.path().join("password");
        fs::write(&secret, PASSWORD).map_err(|error| failed(secret.display(), &error))?;
        let mut initdb = cluster.command("initdb");
        initdb.args([
            "--username",
            ADMIN,
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--no-sync",
            "--pwfile",
        ]);
        succeeds(initdb.arg(secret).arg("-D").arg(cluster.data()))?;
        cluster.launch()?;
        Ok(cluster)
    }

    /// Where the programs of the server are.
    pub fn programs() -> Result<PathBuf, ClusterError> {
        let on_path =
            env::var_os("PATH").into_iter().flat_map(|path| env::split_paths(&path).collect::<Vec<_>>());
        // The program finds its files from where it really is.
        let on_path = on_path.filter_map(|folder| {
            fs::canonicalize(folder.join("postgres")).ok()?.parent().map(Path::to_owned)
        });
        let versions = |parent: &str, rest: &str| {
            let mut all: Vec<_> = fs::read_dir(parent)
                .into_iter()
                .flatten()
                .filter_map(|entry| Some(entry.ok()?.path().join(rest)))
                .filter(|path| path.join("postgres").exists())
                .collect();
            all.sort();
            all.reverse();
            all
        };
        let packaged = ["/usr/lib/postgresql", "/opt/homebrew/opt", "/usr/local/opt"];
        let mut known = on_path.chain(packaged.into_iter().flat_map(|parent| versions(parent, "bin")));
        let complete = |folder: &PathBuf| {
            ["initdb", "postgres", "psql"].iter().all(|program| folder.join(program).exists())
        };
        known.find(complete).ok_or_else(|| {
            let how = "there is no PostgreSQL 15 or newer: apt-get install postgresql (Debian, Ubuntu), \
                       brew install postgresql@16 (macOS)";
            ClusterError(how.to_owned())
        })
    }

    /// Ids of the user and the group that it runs as; none for whoever starts it.
    pub fn runs_as() -> Result<Option<(u32, u32)>, ClusterError> {
        rustix::process::getuid().is_root().then(unprivileged).transpose()
    }

    /// A new, empty database for whoever may do everything.
    pub fn database(&self, name: &str) -> Result<PostgresUrl, ClusterError> {
        self.sql(&self.url(ADMIN), &format!("CREATE DATABASE {name}"))?;
        self.url(name).parse().map_err(|error| failed(name, &error))
    }

    /// The URL of a database for whoever may do everything.
    pub fn url(&self, database: &str) -> String {
        let password = PASSWORD.replace(' ', "%20");
        format!("postgres://{ADMIN}:{password}@127.0.0.1:{}/{database}?sslmode=disable", self.port)
    }

    /// What `psql` answers whoever the URL names.
    pub fn sql(&self, url: &str, sql: &str) -> Result<String, ClusterError> {
        let mut psql = Command::new(self.programs.join("psql"));
        psql.args(["--no-psqlrc", "-qtA", "-v", "ON_ERROR_STOP=1", url, "-c", sql]);
        Ok(String::from_utf8_lossy(&succeeds(&mut psql)?.stdout).trim().to_owned())
    }

    /// Ends it as a crash does: the postmaster is killed, nothing is written down.
    pub fn kill(&self) {
        let server = self.server.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut server) = server {
            server.kill().ok();
            server.wait().ok();
        }
    }

    /// Ends it as `pg_ctl stop -m immediate` does: without writing down what is in memory.
    pub fn stop_immediately(&self) {
        let server = self.server.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(server) = server {
            quit(server);
        }
    }

    /// Starts it, after a crash too, and waits until it answers.
    pub fn launch(&self) -> Result<(), ClusterError> {
        let deadline = Instant::now() + PATIENCE;
        while !self.launched(deadline)? {
            // What is left of the one that was killed goes within a moment.
            if Instant::now() >= deadline {
                return Err(ClusterError(format!("PostgreSQL does not start:\n{}", self.log())));
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    fn launched(&self, deadline: Instant) -> Result<bool, ClusterError> {
        let log = fs::File::options().create(true).append(true).open(self.folder.path().join("log"));
        let mut postgres = self.command("postgres");
        let needed = ["listen_addresses=127.0.0.1", "unix_socket_directories=", "max_connections=300"];
        for setting in needed.into_iter().chain(self.settings.iter().map(String::as_str)) {
            postgres.args(["-c", setting]);
        }
        postgres.arg("-D").arg(self.data()).arg("-p").arg(self.port.to_string()).stdin(Stdio::null());
        postgres.stdout(Stdio::null()).stderr(log.map_or_else(|_| Stdio::null(), Stdio::from));
        let mut server = postgres.spawn().map_err(|error| failed("postgres", &error))?;
        while Instant::now() < deadline {
            if let Ok(Some(_)) = server.try_wait() {
                return Ok(false);
            }
            let answers = TcpStream::connect(("127.0.0.1", self.port)).is_ok()
                && self.sql(&self.url(ADMIN), "SELECT 1").is_ok();
            if answers {
                *self.server.lock().unwrap_or_else(PoisonError::into_inner) = Some(server);
                return Ok(true);
            }
            thread::sleep(POLL);
        }
        quit(server);
        Ok(false)
    }

    /// The process id of its first process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(Child::id)
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// What it has written down so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.current_dir(self.folder.path());
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
        command
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop_immediately();
    }
}

/// Immediate shutdown, with all of its processes.
fn quit(mut server: Child) {
    let pid = i32::try_from(server.id()).ok().and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        rustix::process::kill_process(pid, rustix::process::Signal::QUIT).ok();
    }
    let deadline = Instant::now() + PATIENCE;
    while matches!(server.try_wait(), Ok(None)) && Instant::now() < deadline {
        thread::sleep(POLL);
    }
    server.kill().ok();
    server.wait().ok();
}

/// Ids of a user and a group without privileges.
fn unprivileged() -> Result<(u32, u32), ClusterError> {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let ids = |name: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    let found = ids("postgres").or_else(|| ids("nobody"));
    found.ok_or_else(|| ClusterError("there is neither a user postgres nor nobody".to_owned()))
}

fn succeeds(command: &mut Command) -> Result<Output, ClusterError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| failed(&program, &error))?;
    if output.status.success() {
        return Ok(output);
    }
    Err(ClusterError(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

/// Takes a certificate or a key to where the server can read it, and belongs to whom it runs as.
fn carried(setting: &mut String, folder: &Path, user: Option<(u32, u32)>) -> std::io::Result<()> {
    let Some((name, file)) = setting.split_once('=').filter(|(name, _)| name.starts_with("ssl_")) else {
        return Ok(());
    };
    let copy = folder.join(name);
    fs::copy(file, &copy)?;
    if let Some((user, group)) = user {
        chown(&copy, Some(user), Some(group))?;
    }
    *setting = format!("{name}={}", copy.display());
    Ok(())
}

fn failed(what: impl std::fmt::Display, error: &dyn std::error::Error) -> ClusterError {
    ClusterError(format!("{what}: {error}"))
}
