//! A PostgreSQL server of its own for tests: in a temporary folder, on a free port, ended with its last user. As root it runs
//! as a user without privileges, which PostgreSQL insists on. Also included by the tests of `projections`, by path.

use std::{
    env, fs,
    net::{TcpListener, TcpStream},
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Mutex, PoisonError, Weak},
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

/// A running server. Dropped, it is killed.
#[derive(Debug)]
pub struct Cluster {
    folder: TempDir,
    programs: PathBuf,
    /// As whom it runs; `None` for whoever runs the tests.
    user: Option<(u32, u32)>,
    port: u16,
    server: Mutex<Option<Child>>,
}

static SHARED: Mutex<Weak<Cluster>> = Mutex::new(Weak::new());

impl Cluster {
    /// The one that the tests of a process share, each with databases of its own.
    ///
    /// # Panics
    /// Where there is no PostgreSQL; the message names what to install.
    pub fn shared() -> Arc<Self> {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let cluster = Arc::new(Self::start());
            *shared = Arc::downgrade(&cluster);
            cluster
        })
    }

    /// One alone, to be killed.
    ///
    /// # Panics
    /// Where there is no PostgreSQL; the message names what to install.
    pub fn start() -> Self {
        let programs = programs();
        let folder = tempfile::tempdir().unwrap_or_else(|error| panic!("a temporary folder: {error}"));
        let user = rustix::process::getuid().is_root().then(unprivileged);
        if let Some((user, group)) = user {
            chown(folder.path(), Some(user), Some(group)).unwrap_or_else(|error| panic!("chown: {error}"));
        }
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let port = port.unwrap_or_else(|error| panic!("a free port: {error}")).port();
        let cluster = Self { folder, programs, user, port, server: Mutex::new(None) };
        let secret = cluster.folder.path().join("password");
        fs::write(&secret, PASSWORD).unwrap_or_else(|error| panic!("{}: {error}", secret.display()));
        let mut initdb = cluster.command("initdb");
        initdb.args([
            "--username",
            ADMIN,
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--no-sync",
            "--pwfile",
        ]);
        succeeds(initdb.arg(secret).arg("-D").arg(cluster.data()));
        cluster.launch();
        cluster
    }

    /// A new, empty database for whoever may do everything.
    ///
    /// # Panics
    /// Where it cannot be made.
    pub fn database(&self, name: &str) -> String {
        self.sql(ADMIN, &format!("CREATE DATABASE {name}"));
        self.url(name)
    }

    /// The URL of a database for whoever may do everything.
    pub fn url(&self, database: &str) -> String {
        let password = PASSWORD.replace(' ', "%20");
        format!("postgres://{ADMIN}:{password}@127.0.0.1:{}/{database}?sslmode=disable", self.port)
    }

    /// What `psql` answers in a database.
    ///
    /// # Panics
    /// Where it refuses.
    pub fn sql(&self, database: &str, sql: &str) -> String {
        let mut psql = self.psql(&self.url(database), sql);
        String::from_utf8_lossy(&succeeds(&mut psql).stdout).trim().to_owned()
    }

    /// The same as whoever the URL names; what it complains about where it refuses.
    ///
    /// # Errors
    /// What the server says.
    ///
    /// # Panics
    /// Where `psql` does not run.
    pub fn try_sql(&self, url: &str, sql: &str) -> Result<String, String> {
        let Output { status, stdout, stderr } =
            self.psql(url, sql).output().unwrap_or_else(|error| panic!("psql: {error}"));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if status.success() { Ok(text(&stdout)) } else { Err(text(&stderr)) }
    }

    fn psql(&self, url: &str, sql: &str) -> Command {
        let mut psql = Command::new(self.programs.join("psql"));
        psql.args(["--no-psqlrc", "-qtA", "-v", "ON_ERROR_STOP=1", url, "-c", sql]);
        psql
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
    ///
    /// # Panics
    /// When it does not; its log is shown.
    pub fn launch(&self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.launched(deadline) {
            // What is left of the one that was killed goes within a moment.
            assert!(Instant::now() < deadline, "PostgreSQL does not start:\n{}", self.log());
            thread::sleep(POLL);
        }
    }

    fn launched(&self, deadline: Instant) -> bool {
        let log = fs::File::options().create(true).append(true).open(self.folder.path().join("log"));
        let mut postgres = self.command("postgres");
        // The machine does not fail in a test, so nothing need be on the disk; a killed server has it in the kernel.
        for setting in
            ["fsync=off", "listen_addresses=127.0.0.1", "unix_socket_directories=", "max_connections=300"]
        {
            postgres.args(["-c", setting]);
        }
        postgres.arg("-D").arg(self.data()).arg("-p").arg(self.port.to_string()).stdin(Stdio::null());
        postgres.stdout(Stdio::null()).stderr(log.map_or_else(|_| Stdio::null(), Stdio::from));
        let mut server = postgres.spawn().unwrap_or_else(|error| panic!("postgres: {error}"));
        while Instant::now() < deadline {
            if let Ok(Some(_)) = server.try_wait() {
                return false;
            }
            let answers = TcpStream::connect(("127.0.0.1", self.port)).is_ok()
                && self.try_sql(&self.url(ADMIN), "SELECT 1").is_ok();
            if answers {
                *self.server.lock().unwrap_or_else(PoisonError::into_inner) = Some(server);
                return true;
            }
            thread::sleep(POLL);
        }
        quit(server);
        false
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn log(&self) -> String {
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
        if thread::panicking() {
            eprintln!("log of PostgreSQL:\n{}", self.log());
        }
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

/// Where the programs of the server are.
fn programs() -> PathBuf {
    let on_path =
        env::var_os("PATH").into_iter().flat_map(|path| env::split_paths(&path).collect::<Vec<_>>());
    // The program finds its files from where it really is.
    let on_path = on_path
        .filter_map(|folder| fs::canonicalize(folder.join("postgres")).ok()?.parent().map(Path::to_owned));
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
    let complete =
        |folder: &PathBuf| ["initdb", "postgres", "psql"].iter().all(|program| folder.join(program).exists());
    known.find(complete).unwrap_or_else(|| {
        panic!(
            "these tests need PostgreSQL 15 or newer: apt-get install postgresql (Debian, Ubuntu), \
             brew install postgresql@16 (macOS)"
        )
    })
}

/// Ids of a user and a group without privileges.
fn unprivileged() -> (u32, u32) {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let ids = |name: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    ids("postgres")
        .or_else(|| ids("nobody"))
        .unwrap_or_else(|| panic!("there is neither a user postgres nor nobody"))
}

fn succeeds(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    output
}
