//! Read models on SQLite.
//!
//! The journal is a write-ahead log without a sync per commit: after a power cut the last commits may be missing, never
//! half there. The checkpoint is part of each commit, so the projector just does the missing ones again.

mod examine;
mod generation;
mod moment;
mod parked;
mod row;
mod schema;
mod statement;

use super::{Commit, DatabaseError, Move, Past, Row};
use crate::{change::Changes, table::Value, view::View};
use events::Position;
use service::crash_point;
use sqlx::{
    ConnectOptions, Connection, SqliteConnection, SqlitePool, query, query_with,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use statement::Statements;
use std::{
    path::Path,
    time::{Duration, Instant},
};

pub(super) use examine::{copy, examine, files, standing};
pub(super) use generation::{Shelf, adopt, close, closed, remove, reopen};
pub(super) use moment::rows;
pub(super) use parked::all as parked;
pub(super) use row::{bool, int, json, text, timestamp, uuid};
pub(super) use schema::begins;
#[cfg(test)]
pub(super) use schema::model;

/// How long to wait for another process that writes to the same file.
const BUSY: Duration = Duration::from_secs(5);

/// Connections for queries. Each is a thread of its own.
const READERS: u32 = 4;

/// A file of one service, for reading.
#[derive(Clone, Debug)]
pub(super) struct Database {
    readers: SqlitePool,
    options: SqliteConnectOptions,
    view: &'static View,
}

/// Connects. SQLite does not wait for its busy timeout when a file becomes one with a write-ahead log: whoever meets
/// another process at that moment is told at once that the file is locked, and tries again here.
async fn connect(options: &SqliteConnectOptions) -> Result<SqliteConnection, sqlx::Error> {
    let deadline = Instant::now() + BUSY;
    loop {
        match options.connect().await {
            Err(sqlx::Error::Database(error))
                if error.code().as_deref() == Some(LOCKED) && Instant::now() < deadline =>
            {
                tokio::time::sleep(LOCKED_PAUSE).await;
            }
            result => return result,
        }
    }
}

/// How a file is opened. Its folder is made.
async fn options(
    folder: &Path,
    service: &str,
    generation: u32,
) -> Result<SqliteConnectOptions, DatabaseError> {
    let made = tokio::fs::create_dir_all(folder).await;
    made.map_err(|error| DatabaseError::new("open the database", error))?;
    Ok(SqliteConnectOptions::new()
        .filename(folder.join(file(service, generation)))
        .create_if_missing(true)
        .busy_timeout(BUSY)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Normal)
        // Bulk writes: a larger cache and fewer, larger moves from the log into the file.
        .pragma("cache_size", "-32768")
        .pragma("wal_autocheckpoint", "4000")
        .pragma("temp_store", "memory")
        .statement_cache_capacity(512)
        .disable_statement_logging())
}

/// The file of a generation. That from before there were any is also the one that holds the catalogue.
fn file(service: &str, generation: u32) -> String {
    if generation == 0 { format!("{service}.sqlite") } else { format!("{service}.{generation}.sqlite") }
}

/// SQLite's code for a file that another connection has locked.
const LOCKED: &str = "5";
const LOCKED_PAUSE: Duration = Duration::from_millis(5);

/// The one connection that writes.
#[derive(Debug)]
pub(super) struct Writer {
    connection: SqliteConnection,
    statements: Statements,
    view: &'static View,
}

impl Database {
    /// Opens the file, or creates it, with the tables of `view`: complete, or without indexes and to be read from these
    /// positions on. An error where it has those of another version of the program.
    pub(in crate::database) async fn open(
        folder: &Path,
        view: &'static View,
        generation: u32,
        building: Option<&[Position]>,
    ) -> Result<Self, DatabaseError> {
        let failed = |error| DatabaseError::new("open the database", error);
        let options = options(folder, view.name, generation).await?;
        let mut connection = connect(&options).await.map_err(failed)?;
        schema::ensure(&mut connection, view, building).await?;
        connection.close().await.map_err(failed)?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .acquire_timeout(BUSY)
            .connect_lazy_with(options.clone().pragma("query_only", "on"));
        Ok(Self { readers, options, view })
    }

    /// Empty tables in memory, which live as long as the connection that writes.
    pub(in crate::database) async fn scratch(view: &'static View) -> Result<(Self, Writer), DatabaseError> {
        let failed = |error| DatabaseError::new("open tables in memory", error);
        // Each of these is a database of its own, shared by the connections that are made with it.
        let options: SqliteConnectOptions = "sqlite::memory:".parse().map_err(failed)?;
        let options = options.statement_cache_capacity(64).disable_statement_logging();
        let mut connection = connect(&options).await.map_err(failed)?;
        schema::bare(&mut connection, view).await?;
        let readers = SqlitePoolOptions::new().max_connections(1).acquire_timeout(BUSY);
        let readers = readers.connect_lazy_with(options.clone());
        let writer = Writer { connection, statements: Statements::default(), view };
        Ok((Self { readers, options, view }, writer))
    }

    /// A connection that writes. An error when the tables are by now those of another version of the program.
    pub(in crate::database) async fn writer(&self) -> Result<Writer, DatabaseError> {
        let connection = connect(&self.options).await;
        let connection = connection.map_err(|error| DatabaseError::new("open the database", error))?;
        let mut writer = Writer { connection, statements: Statements::default(), view: self.view };
        writer.checkpoints().await?;
        Ok(writer)
    }

    /// Every row that a query finds. Parameters are written `$1`, `$2`, …
    pub(in crate::database) async fn rows(
        &self,
        sql: &'static str,
        values: Vec<Value>,
    ) -> Result<Vec<Row>, DatabaseError> {
        let rows = query_with(sql, statement::arguments(values)?).fetch_all(&self.readers).await;
        let rows = rows.map_err(|error| DatabaseError::new("query the read model", error))?;
        Ok(rows.into_iter().map(Row::from).collect())
    }

    /// The one row that a query finds, if there is one.
    pub(in crate::database) async fn row(
        &self,
        sql: &'static str,
        values: Vec<Value>,
    ) -> Result<Option<Row>, DatabaseError> {
        let row = query_with(sql, statement::arguments(values)?).fetch_optional(&self.readers).await;
        let row = row.map_err(|error| DatabaseError::new("query the read model", error))?;
        Ok(row.map(Row::from))
    }

    /// Lets go of the file.
    pub(in crate::database) async fn close(&self) {
        self.readers.close().await;
    }
}

impl Writer {
    /// Up to where each stream of the view is in the tables.
    pub(in crate::database) async fn checkpoints(&mut self) -> Result<Vec<Position>, DatabaseError> {
        schema::checkpoints(&mut self.connection, self.view).await
    }

    /// Writes changes and moves checkpoints.
    pub(in crate::database) async fn commit(
        &mut self,
        changes: Changes,
        moves: &[Move],
        past: &Past,
    ) -> Result<Commit, DatabaseError> {
        let failed = |error| DatabaseError::new("commit to the read model", error);
        let mut transaction = self.connection.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        for step in moves {
            let sql = "UPDATE waybill_checkpoint SET sequence = $1 \
                       WHERE projection = $2 AND stream = $3 AND sequence = $4 AND closed = 0";
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
        for subject in &past.held {
            // Another projector has brought back what it waited for.
            if !parked::waits(&mut transaction, self.view.name, subject).await? {
                transaction.rollback().await.map_err(failed)?;
                return Ok(Commit::Lost);
            }
        }
        for (table, rows) in changes.into_tables() {
            self.statements.write(&mut transaction, table, rows).await?;
        }
        for parked in &past.parked {
            parked::insert(&mut transaction, self.view.name, parked).await?;
        }
        crash_point("project.before", self.view.name);
        transaction.commit().await.map_err(failed)?;
        crash_point("project.after", self.view.name);
        Ok(Commit::Done)
    }
}
