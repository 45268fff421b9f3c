//! cqrs-es over postgres-es, with a PostgreSQL cluster of its own.

use crate::{
    Result,
    event::{Event, Move, Parcel},
    server::{PATIENCE, Server, free_port},
};
use cqrs_es::{
    Aggregate, DomainEvent,
    event_sink::EventSink,
    persist::{PersistedEventRepository, SerializedEvent},
};
use postgres_es::{PostgresCqrs, PostgresEventRepository, postgres_cqrs};
use rustix::process::{Signal, geteuid};
use sqlx::{Pool, Postgres, postgres::PgPoolOptions};
use std::{
    env, fs, io,
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// Where the crate keeps events, as in its own `db/init.sql`.
pub(crate) const TABLE: &str = "CREATE TABLE events (
    aggregate_type text NOT NULL,
    aggregate_id   text NOT NULL,
    sequence       bigint CHECK (sequence >= 0) NOT NULL,
    event_type     text NOT NULL,
    event_version  text NOT NULL,
    payload        json NOT NULL,
    metadata       json NOT NULL,
    PRIMARY KEY (aggregate_type, aggregate_id, sequence)
)";

/// The framework, its repository and their server.
pub(crate) struct Cqrs {
    framework: PostgresCqrs<Parcel>,
    repository: PostgresEventRepository,
    pool: Pool<Postgres>,
    _server: Server,
}

impl Cqrs {
    /// Creates a cluster in `folder`, starts it and connects.
    pub(crate) async fn start(folder: &Path, connections: u32) -> Result<Self> {
        let (mut server, url) = cluster(folder)?;
        let options = PgPoolOptions::new().max_connections(connections);
        let deadline = Instant::now() + PATIENCE;
        let pool = loop {
            server.check()?;
            match options.clone().connect(&url).await {
                Ok(pool) => break pool,
                Err(error) if Instant::now() > deadline => return Err(error.into()),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        };
        sqlx::query(TABLE).execute(&pool).await?;
        for setting in ["fsync", "synchronous_commit"] {
            let value: (String,) = sqlx::query_as(&format!("SHOW {setting}")).fetch_one(&pool).await?;
            if value.0 != "on" {
                return Err(format!("PostgreSQL runs with {setting} = {}", value.0).into());
            }
        }
        let framework = postgres_cqrs(pool.clone(), Vec::new(), ());
        Ok(Self { framework, repository: PostgresEventRepository::new(pool.clone()), pool, _server: server })
    }

    /// Records one event: through the framework, which always loads, or straight into its repository.
    pub(crate) async fn append(&self, command: Move, loading: bool) -> Result<()> {
        if loading {
            return Ok(self.framework.execute(&command.id.to_string(), command).await?);
        }
        let event = Event::new(command);
        let record = SerializedEvent::new(
            command.id.to_string(),
            usize::try_from(command.version)?,
            Parcel::TYPE.to_owned(),
            event.event_type(),
            event.event_version(),
            serde_json::to_value(&event)?,
            serde_json::json!({}),
        );
        Ok(self.repository.persist::<Parcel>(&[record], None).await?)
    }

    /// Writes out what the server still holds in memory, so that it does not do so in the measurement of another.
    pub(crate) async fn settle(&self) -> Result<()> {
        sqlx::query("CHECKPOINT").execute(&self.pool).await?;
        Ok(())
    }
}

/// Why the command is refused.
#[derive(Debug)]
pub(crate) struct Refused;

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("another history than expected")
    }
}

impl std::error::Error for Refused {}

impl DomainEvent for Event {
    fn event_type(&self) -> String {
        self.kind().to_owned()
    }

    fn event_version(&self) -> String {
        "1.0".to_owned()
    }
}

impl Aggregate for Parcel {
    const TYPE: &'static str = "parcel";
    type Command = Move;
    type Event = Event;
    type Error = Refused;
    type Services = ();

    async fn handle(&mut self, command: Move, (): &(), sink: &EventSink<Self>) -> Result<(), Refused> {
        let event = self.decide(command).ok_or(Refused)?;
        sink.write(event, self).await;
        Ok(())
    }

    fn apply(&mut self, event: Event) {
        self.evolve(&event);
    }
}

/// Creates a cluster and starts its server; gives it with the URL of its database.
fn cluster(folder: &Path) -> Result<(Server, String)> {
    let programs = programs()?;
    let (data, port) = (folder.join("data"), free_port()?);
    let owner = owner()?;
    if let Some((uid, gid)) = owner {
        chown(folder, Some(uid), Some(gid))?;
    }
    let program = |name: &str| {
        let mut command = Command::new(programs.join(name));
        command.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null());
        if let Some((uid, gid)) = owner {
            command.uid(uid).gid(gid);
        }
        command
    };
    let arguments = ["--auth=trust", "--username=rivals", "--encoding=UTF8", "--no-locale", "-D"];
    let made = program("initdb").args(arguments).arg(&data).output()?;
    if !made.status.success() {
        return Err(format!("initdb: {}", String::from_utf8_lossy(&made.stderr)).into());
    }
    let mut command = program("postgres");
    command.arg("-D").arg(&data).arg("-p").arg(port.to_string()).arg("-k").arg(folder);
    for setting in [
        "listen_addresses=127.0.0.1",
        "shared_buffers=1GB",
        "max_wal_size=8GB",
        "fsync=on",
        "synchronous_commit=on",
    ] {
        command.args(["-c", setting]);
    }
    let log = fs::File::create(folder.join("log"))?;
    let server = Server::start(command.stderr(log), Signal::INT)?;
    Ok((server, format!("postgres://rivals@127.0.0.1:{port}/postgres?sslmode=disable")))
}

/// The folder of PostgreSQL's programs: on the path, or where Debian puts them, the newest first.
fn programs() -> Result<PathBuf> {
    let on_path =
        env::var_os("PATH").into_iter().flat_map(|path| env::split_paths(&path).collect::<Vec<_>>());
    let mut debian: Vec<_> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .collect();
    debian.sort_unstable_by(|a, b| b.cmp(a));
    let debian = debian.into_iter().map(|version| format!("/usr/lib/postgresql/{version}/bin").into());
    let whole = |folder: &PathBuf| folder.join("initdb").is_file() && folder.join("postgres").is_file();
    on_path
        .chain(debian)
        .find(whole)
        .ok_or_else(|| "no PostgreSQL: put initdb and postgres on the path (Debian: postgresql)".into())
}

/// Whom the server runs as where we are root, which it refuses to be.
fn owner() -> io::Result<Option<(u32, u32)>> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let accounts = fs::read_to_string("/etc/passwd")?;
    let account = |name: &str| {
        let fields: Vec<_> = accounts.lines().map(|line| line.split(':').collect::<Vec<_>>()).collect();
        let fields = fields.into_iter().find(|fields| fields.first() == Some(&name))?;
        Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))
    };
    let found = account("postgres").or_else(|| account("nobody"));
    found.map(Some).ok_or_else(|| io::Error::other("neither a user postgres nor nobody to run PostgreSQL as"))
}
