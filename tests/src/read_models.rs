//! Where read models are kept: stories are told on SQLite, and once more on PostgreSQL.

use crate::Cluster;
use projections::database::{PostgresUrl, Storage};
use serde_json::Value;
use std::{
    fs, io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    thread,
};
use tokio::process::Command;
use waybill::{databases::Databases, failure::Failure, system::Service};

/// Which database the read models of a story are on. Each executable of stories says it once, for all of them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ReadModels {
    /// Files in a folder.
    OnSqlite,
    /// A server for each story, on it a database and a role for each service.
    OnPostgres,
}

/// Servers that one story has left to the next, as long as any is told: to make one takes longer than most stories.
static LEFT: Mutex<Weak<Servers>> = Mutex::new(Weak::new());

type Servers = Mutex<Vec<Cluster>>;

impl ReadModels {
    /// What they need: a server, where they are not files. It ends when this is dropped, or the stories beside it end.
    ///
    /// # Panics
    /// Where there is no PostgreSQL; the message names what to install.
    pub fn kept(self) -> Kept {
        if self == Self::OnSqlite {
            return Kept { cluster: None, flag: None, servers: None };
        }
        let servers = {
            let mut left = locked(&LEFT);
            let servers = left.upgrade().unwrap_or_default();
            *left = Arc::downgrade(&servers);
            servers
        };
        let left = locked(&servers).pop();
        let cluster = left.inspect(empty).unwrap_or_else(start);
        let flag = format!("--postgres={}", cluster.url("postgres"));
        Kept { cluster: Some(cluster), flag: Some(flag), servers: Some(servers) }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A server that believes who comes: to check a password takes long in a debug build. The stories of who may come have
/// their own.
fn start() -> Cluster {
    let cluster = Cluster::start();
    let file = cluster.sql("postgres", "SHOW hba_file");
    let written = fs::write(&file, "host all all 127.0.0.1/32 trust\n");
    written.unwrap_or_else(|error| panic!("{file}: {error}"));
    cluster.sql("postgres", "SELECT pg_reload_conf()");
    cluster
}

/// Takes everything away that the story before has left, and whoever of it is still there.
fn empty(cluster: &Cluster) {
    let databases = "FROM pg_database WHERE datname LIKE 'waybill\\_%'";
    let of_story = format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname IN (SELECT datname {databases})"
    );
    cluster.sql("postgres", &of_story);
    for database in cluster.sql("postgres", &format!("SELECT datname {databases}")).lines() {
        // Its role is called like it.
        cluster.sql(database, &format!("DROP OWNED BY {database} CASCADE"));
    }
}

/// Where the read models of one story are, for as long as it is told.
#[derive(Debug)]
pub struct Kept {
    cluster: Option<Cluster>,
    flag: Option<String>,
    servers: Option<Arc<Servers>>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        // What has gone wrong is not left to others.
        if let (Some(servers), Some(cluster)) = (&self.servers, self.cluster.take())
            && !thread::panicking()
        {
            locked(servers).push(cluster);
        }
    }
}

impl Kept {
    /// The server; none on SQLite.
    pub fn cluster(&self) -> Option<&Cluster> {
        self.cluster.as_ref()
    }

    /// These flags of `waybill dev`, with the one that says where read models are.
    pub fn flags<'a>(&'a self, flags: &[&'a str]) -> Vec<&'a str> {
        [flags, self.flag.as_deref().as_slice()].concat()
    }

    /// A database and a role for every service; on SQLite nothing is needed.
    pub async fn databases(&self) -> Result<Databases, Failure> {
        match &self.cluster {
            None => Ok(Databases::default()),
            Some(cluster) => Databases::provision(&cluster.url("postgres").parse()?, &Service::ALL).await,
        }
    }

    /// Where the read model of a service is, for whoever may see everything.
    ///
    /// # Panics
    /// Never: it is a URL.
    pub fn storage(&self, service: &str, folder: &Path) -> Storage {
        match &self.cluster {
            None => Storage::Sqlite(folder.to_owned()),
            Some(cluster) => {
                let url = cluster.url(&format!("waybill_{service}")).parse();
                Storage::Postgres(url.unwrap_or_else(|error| panic!("{error}")))
            }
        }
    }

    /// Loses the read model of a service for good, while nobody uses it.
    pub async fn lose(&self, service: &str, folder: &Path) -> Result<(), Failure> {
        if let Some(cluster) = &self.cluster {
            let admin: PostgresUrl = cluster.url("postgres").parse()?;
            return Ok(admin.withdraw(service).await?);
        }
        let name = format!("{service}.");
        for entry in fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()? {
            if entry.file_name().to_string_lossy().starts_with(&name) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// Changes what is written down of each generation of a read model, as another version of the program would have written
    /// it.
    ///
    /// # Panics
    /// Where nothing is written down.
    pub async fn change_generations(
        &self,
        service: &str,
        folder: &Path,
        change: impl Fn(&mut Value),
    ) -> Result<(), Failure> {
        let ask = async |sql: &str| match &self.cluster {
            Some(cluster) => {
                Ok(cluster.sql(&format!("waybill_{service}"), &sql.replace("waybill_", "waybill.")))
            }
            None => sqlite(&folder.join(format!("{service}.sqlite")), sql).await,
        };
        let mut document: Value =
            serde_json::from_str(&ask("SELECT document FROM waybill_catalogue").await?)?;
        document["generations"].as_array_mut().into_iter().flatten().for_each(change);
        let document = document.to_string().replace('\'', "''");
        ask(&format!("UPDATE waybill_catalogue SET document = '{document}'")).await?;
        Ok(())
    }
}

/// What a statement answers, as one text.
async fn sqlite(file: &Path, sql: &str) -> Result<String, Failure> {
    let program = "import sqlite3, sys\n\
        db = sqlite3.connect(sys.argv[1])\n\
        for (text,) in db.execute(sys.argv[2]): print(text)\n\
        db.commit()";
    let done = Command::new("python3").args(["-c", program]).arg(file).arg(sql).output().await?;
    if done.status.success() {
        Ok(String::from_utf8(done.stdout)?)
    } else {
        Err(String::from_utf8_lossy(&done.stderr).into())
    }
}
