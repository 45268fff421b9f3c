//! The databases that are measured: SQLite in a folder, and PostgreSQL, which is started here where it is found.

use crate::failure::Failure;
use projections::database::{Cluster, PostgresUrl, Storage};
use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

/// As a server with some memory is set up; it syncs before it answers.
const SETTINGS: [&str; 4] = ["fsync=on", "synchronous_commit=on", "shared_buffers=1GB", "max_wal_size=8GB"];

/// One kind of database.
pub(in crate::bench) struct Place {
    kind: Kind,
    /// Databases that were made.
    made: AtomicU32,
}

enum Kind {
    Sqlite(PathBuf),
    Postgres {
        /// Somebody who may make databases and roles.
        admin: Box<PostgresUrl>,
        /// Where it was started here.
        started: Option<Cluster>,
    },
}

impl Place {
    /// SQLite, and PostgreSQL where it is given or found.
    pub(in crate::bench) fn all(folder: &Path, postgres: Option<&PostgresUrl>) -> Result<Vec<Self>, Failure> {
        let sqlite = Kind::Sqlite(folder.to_owned());
        let postgres = match postgres {
            Some(url) => Some(Kind::Postgres { admin: Box::new(url.clone()), started: None }),
            None => match Cluster::start(&SETTINGS) {
                Ok(cluster) => {
                    let admin = Box::new(cluster.url("postgres").parse()?);
                    Some(Kind::Postgres { admin, started: Some(cluster) })
                }
                Err(error) => {
                    eprintln!("without PostgreSQL: {error}");
                    None
                }
            },
        };
        let kinds = [Some(sqlite), postgres].into_iter().flatten();
        Ok(kinds.map(|kind| Self { kind, made: AtomicU32::new(0) }).collect())
    }

    /// What it is called.
    pub(in crate::bench) const fn name(&self) -> &'static str {
        match self.kind {
            Kind::Sqlite(_) => "SQLite",
            Kind::Postgres { .. } => "PostgreSQL",
        }
    }

    /// An empty place for the read models of one service.
    pub(in crate::bench) async fn storage(&self) -> Result<Storage, Failure> {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        Ok(match &self.kind {
            Kind::Sqlite(folder) => Storage::Sqlite(folder.join(format!("views-{number}"))),
            Kind::Postgres { admin, .. } => {
                let name = name(number);
                admin.withdraw(&name).await?;
                Storage::Postgres(admin.provision(&name).await?)
            }
        })
    }

    /// Removes what was made on a server of somebody else.
    pub(in crate::bench) async fn clear(&self) -> Result<(), Failure> {
        let Kind::Postgres { admin, started: None } = &self.kind else { return Ok(()) };
        for number in 0..self.made.load(Ordering::Relaxed) {
            admin.withdraw(&name(number)).await?;
        }
        Ok(())
    }

    /// CPU time that a server which was started here has taken so far, in seconds; zero for a library, none where nobody can
    /// tell.
    pub(super) fn cpu_seconds(&self) -> Option<f64> {
        match &self.kind {
            Kind::Sqlite(_) => Some(0.0),
            Kind::Postgres { started, .. } => cpu_of(started.as_ref()?.pid()?),
        }
    }
}

fn name(number: u32) -> String {
    format!("bench_{number}")
}

/// CPU time of a process, its children, and those of them that have ended, in seconds; only Linux tells.
fn cpu_of(parent: u32) -> Option<f64> {
    let mut total = 0.0;
    for entry in std::fs::read_dir("/proc").ok()? {
        let name = entry.ok()?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Some(spent) = crate::bench::stage::times(&pid.to_string()) else { continue };
        if pid == parent {
            total += spent.own + spent.ended;
        } else if spent.parent == parent {
            total += spent.own;
        }
    }
    Some(total)
}
