//! The seam between read models and their database: what is particular to one is in the module that has its name.
//!
//! Queries are written once. A connection sees exactly one set of tables, so that SQL names them as they are declared; and
//! what it says means the same on every database.

#[cfg(test)]
mod conformance;
mod examine;
mod generation;
mod moment;
mod postgres;
mod row;
mod sqlite;
#[cfg(test)]
mod texts;

pub use examine::{DatabaseLook, TablesLook};
pub(crate) use generation::Shelf;
pub use moment::{Difference, Disagreement, Moment};
pub use postgres::{Cluster, ClusterError, PostgresUrl, UrlError};
pub use row::{Row, Stored};

use crate::{change::Changes, table::Value, view::View};
use events::{Context, Position, Subject};
use std::{collections::HashSet, path::PathBuf};

/// Why the database did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action}")]
pub struct DatabaseError {
    action: &'static str,
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl DatabaseError {
    pub(crate) fn new(
        action: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { action, source: source.into() }
    }
}

/// Where the read models of a service are kept.
#[derive(Clone, Debug)]
pub enum Storage {
    /// On SQLite, in files in this folder.
    Sqlite(PathBuf),
    /// In this database of PostgreSQL.
    Postgres(PostgresUrl),
}

/// What came of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commit {
    /// Changes and checkpoints are in the database.
    Done,
    /// Somebody else moved a checkpoint meanwhile. Nothing was written.
    Lost,
}

/// Moves the checkpoint of one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// Whose stream.
    pub context: Context,
    /// Where the checkpoint has to be.
    pub from: u64,
    /// Where it goes.
    pub to: u64,
}

/// The events of an aggregate that wait, from one on that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parked {
    /// The aggregate.
    pub subject: Subject,
    /// Sequence of the event that could not be read.
    pub sequence: u64,
    /// Why.
    pub error: String,
    /// Up to where in the stream of operations it was looked at what operators ask for.
    pub asked: u64,
}

impl Parked {
    /// Of the rows that keep them.
    fn all(rows: impl Iterator<Item = Row>) -> Result<Vec<Self>, DatabaseError> {
        let parked = |row: Row| {
            let Some(subject) = Subject::parse(&row.get::<String>("subject")?) else { return Ok(None) };
            Ok(Some(Self {
                subject,
                sequence: row.get::<i64>("sequence")?.cast_unsigned(),
                error: row.get("error")?,
                asked: row.get::<i64>("asked")?.cast_unsigned(),
            }))
        };
        rows.filter_map(|row| parked(row).transpose()).collect()
    }
}

/// What a batch passes over.
#[derive(Debug, Default)]
pub(crate) struct Past {
    /// Aggregates that waited before it and have events in it.
    pub(crate) held: HashSet<Subject>,
    /// Aggregates that begin to wait in it.
    pub(crate) parked: Vec<Parked>,
}

/// The database of one service, for reading. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Database(Reading);

#[derive(Clone, Debug)]
enum Reading {
    Sqlite(sqlite::Database),
    Postgres(postgres::Database),
}

/// The one connection that writes. Who holds it need not be alone: commits compare and set the checkpoint.
#[derive(Debug)]
pub struct Writer(Writing);

#[derive(Debug)]
enum Writing {
    Sqlite(sqlite::Writer),
    Postgres(Box<postgres::Writer>),
}

impl Database {
    /// Opens this generation of the tables of `view`, or creates it. An error where it is one of another version of the
    /// program.
    pub async fn open(
        storage: &Storage,
        view: &'static View,
        generation: u32,
    ) -> Result<Self, DatabaseError> {
        Ok(Self(match storage {
            Storage::Sqlite(folder) => {
                Reading::Sqlite(sqlite::Database::open(folder, view, generation, None).await?)
            }
            Storage::Postgres(url) => {
                Reading::Postgres(Box::pin(postgres::Database::open(url, view, generation, None)).await?)
            }
        }))
    }

    /// Empty tables of `view` in memory, for whoever is let go of with them: without checkpoints and without indexes.
    pub(crate) async fn scratch(view: &'static View) -> Result<(Self, Writer), DatabaseError> {
        let (database, writer) = sqlite::Database::scratch(view).await?;
        Ok((Self(Reading::Sqlite(database)), Writer(Writing::Sqlite(writer))))
    }

    /// A connection that writes. An error when the tables are by now those of another version of the program.
    pub async fn writer(&self) -> Result<Writer, DatabaseError> {
        Ok(Writer(match &self.0 {
            Reading::Sqlite(database) => Writing::Sqlite(database.writer().await?),
            Reading::Postgres(database) => Writing::Postgres(Box::new(Box::pin(database.writer()).await?)),
        }))
    }

    /// Every row that a query finds. Parameters are written `$1`, `$2`, …
    pub async fn rows(&self, sql: &'static str, values: Vec<Value>) -> Result<Vec<Row>, DatabaseError> {
        match &self.0 {
            Reading::Sqlite(database) => database.rows(sql, values).await,
            Reading::Postgres(database) => database.rows(sql, values).await,
        }
    }

    /// The one row that a query finds, if there is one.
    pub async fn row(&self, sql: &'static str, values: Vec<Value>) -> Result<Option<Row>, DatabaseError> {
        match &self.0 {
            Reading::Sqlite(database) => database.row(sql, values).await,
            Reading::Postgres(database) => database.row(sql, values).await,
        }
    }

    /// The tables as they are now.
    pub async fn moment(&self) -> Result<Moment, DatabaseError> {
        match &self.0 {
            Reading::Sqlite(database) => database.moment().await,
            Reading::Postgres(database) => database.moment().await,
        }
    }

    /// Lets go of its connections.
    pub async fn close(&self) {
        match &self.0 {
            Reading::Sqlite(database) => database.close().await,
            Reading::Postgres(database) => database.close().await,
        }
    }
}

impl Writer {
    /// Up to where each stream of the view is in the tables.
    pub async fn checkpoints(&mut self) -> Result<Vec<Position>, DatabaseError> {
        match &mut self.0 {
            Writing::Sqlite(writer) => writer.checkpoints().await,
            Writing::Postgres(writer) => writer.checkpoints().await,
        }
    }

    /// Whether this writer leads: of several on one generation one does, until its connection ends. It saves the others
    /// their work and is no guard; checkpoints are. On SQLite, which has one process as a rule, everybody leads.
    pub(crate) async fn lead(&mut self) -> Result<bool, DatabaseError> {
        match &mut self.0 {
            Writing::Sqlite(_) => Ok(true),
            Writing::Postgres(writer) => writer.lead().await,
        }
    }

    /// Writes changes and moves checkpoints, all or nothing. Checkpoints go first: who loses has written nothing yet.
    pub async fn commit(&mut self, changes: Changes, moves: &[Move]) -> Result<Commit, DatabaseError> {
        self.commit_past(changes, moves, &Past::default()).await
    }

    /// The same, past events that wait.
    pub(crate) async fn commit_past(
        &mut self,
        changes: Changes,
        moves: &[Move],
        past: &Past,
    ) -> Result<Commit, DatabaseError> {
        match &mut self.0 {
            Writing::Sqlite(writer) => writer.commit(changes, moves, past).await,
            Writing::Postgres(writer) => writer.commit(changes, moves, past).await,
        }
    }

    /// Everything that waits.
    pub async fn parked(&mut self) -> Result<Vec<Parked>, DatabaseError> {
        match &mut self.0 {
            Writing::Sqlite(writer) => writer.parked().await,
            Writing::Postgres(writer) => writer.parked().await,
        }
    }

    /// Applies what waited and ends its record, or moves it to `after`, all or nothing. Lost where the record or the
    /// checkpoint is no longer the one that was read.
    pub async fn bring_back(
        &mut self,
        changes: Changes,
        checkpoint: Position,
        parked: &Parked,
        after: Option<&Parked>,
    ) -> Result<Commit, DatabaseError> {
        match &mut self.0 {
            Writing::Sqlite(writer) => writer.bring_back(changes, checkpoint, parked, after).await,
            Writing::Postgres(writer) => writer.bring_back(changes, checkpoint, parked, after).await,
        }
    }
}
