//! The seam between read models and their database, on SQLite: everything that is particular to SQLite is in here and
//! in `sqlite/`. A second database is a second module with the same few methods.
//!
//! The journal is a write-ahead log without a sync per commit: after a power cut the last commits may be missing, never
//! half there. The checkpoint is part of each commit, so the projector just does the missing ones again.

mod moment;
mod row;
mod schema;
mod statement;

pub use moment::{Difference, Disagreement, Moment};
pub use row::{Row, Stored};

use crate::{change::Changes, table::Value, view::View};
use events::{Context, Position};
use sqlx::{
    ConnectOptions, Connection, SqliteConnection, SqlitePool, query, query_with,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use statement::Statements;
use std::{path::Path, time::Duration};

/// Why the database did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action}")]
pub struct DatabaseError {
    action: &'static str,
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl DatabaseError {
    fn new(action: &'static str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { action, source: source.into() }
    }
}

/// How long to wait for another process that writes to the same file.
const BUSY: Duration = Duration::from_secs(5);

/// Connections for queries. Each is a thread of its own.
const READERS: u32 = 4;

/// The database of one service, for reading. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Database {
    readers: SqlitePool,
    options: SqliteConnectOptions,
    view: &'static View,
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

/// The one connection that writes. Who holds it need not be alone: commits compare and set the checkpoint.
#[derive(Debug)]
pub struct Writer {
    connection: SqliteConnection,
    statements: Statements,
    view: &'static View,
}

impl Database {
    /// Opens the file, or creates it, and sees to it that it has the tables of `view`: those of another version of the
    /// program are dropped, and the stream is read again from its start.
    pub async fn open(path: &Path, view: &'static View) -> Result<Self, DatabaseError> {
        let failed = |error| DatabaseError::new("open the database", error);
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .busy_timeout(BUSY)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            // Bulk writes: a larger cache and fewer, larger moves from the log into the file.
            .pragma("cache_size", "-32768")
            .pragma("wal_autocheckpoint", "4000")
            .pragma("temp_store", "memory")
            .statement_cache_capacity(512)
            .disable_statement_logging();
        let mut connection = options.connect().await.map_err(failed)?;
        schema::ensure(&mut connection, view).await?;
        connection.close().await.map_err(failed)?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .acquire_timeout(BUSY)
            .connect_lazy_with(options.clone().pragma("query_only", "on"));
        Ok(Self { readers, options, view })
    }

    /// A connection that writes. An error when the tables are by now those of another version of the program.
    pub async fn writer(&self) -> Result<Writer, DatabaseError> {
        let connection = self.options.connect().await;
        let connection = connection.map_err(|error| DatabaseError::new("open the database", error))?;
        let mut writer = Writer { connection, statements: Statements::default(), view: self.view };
        writer.checkpoints().await?;
        Ok(writer)
    }

    /// Every row that a query finds. Parameters are written `$1`, `$2`, …
    pub async fn rows(&self, sql: &'static str, values: Vec<Value>) -> Result<Vec<Row>, DatabaseError> {
        let rows = query_with(sql, statement::arguments(values)?).fetch_all(&self.readers).await;
        let rows = rows.map_err(|error| DatabaseError::new("query the read model", error))?;
        Ok(rows.into_iter().map(Row::new).collect())
    }

    /// The one row that a query finds, if there is one.
    pub async fn row(&self, sql: &'static str, values: Vec<Value>) -> Result<Option<Row>, DatabaseError> {
        let row = query_with(sql, statement::arguments(values)?).fetch_optional(&self.readers).await;
        let row = row.map_err(|error| DatabaseError::new("query the read model", error))?;
        Ok(row.map(Row::new))
    }

    /// Lets go of the file.
    pub async fn close(&self) {
        self.readers.close().await;
    }
}

impl Writer {
    /// Up to where each stream of the view is in the tables.
    pub async fn checkpoints(&mut self) -> Result<Vec<Position>, DatabaseError> {
        schema::checkpoints(&mut self.connection, self.view).await
    }

    /// Writes changes and moves checkpoints, all or nothing. Checkpoints go first: who loses has written nothing yet.
    pub async fn commit(&mut self, changes: Changes, moves: &[Move]) -> Result<Commit, DatabaseError> {
        let failed = |error| DatabaseError::new("commit to the read model", error);
        let mut transaction = self.connection.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        for step in moves {
            let sql = "UPDATE waybill_checkpoint SET sequence = $1 \
                       WHERE projection = $2 AND stream = $3 AND sequence = $4";
            let outcome = query(sql)
                .bind(step.to.cast_signed())
                .bind(self.view.name)
                .bind(step.context.stream())
                .bind(step.from.cast_signed())
                .execute(&mut *transaction)
                .await
                .map_err(failed)?;
            if outcome.rows_affected() == 0 {
                transaction.rollback().await.map_err(failed)?;
                return Ok(Commit::Lost);
            }
        }
        for (table, rows) in changes.into_tables() {
            self.statements.write(&mut transaction, table, rows).await?;
        }
        transaction.commit().await.map_err(failed)?;
        Ok(Commit::Done)
    }
}
