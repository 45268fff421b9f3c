//! Read models on PostgreSQL, 15 or newer: one database and one role per service.
//!
//! A generation of tables is a schema, and the search path of a connection names exactly one. A commit is as durable as
//! the server makes it: with its own setting nothing that was answered is missing after a crash.

mod cluster;
mod examine;
mod generation;
mod insert;
mod moment;
mod parked;
mod provision;
mod row;
mod schema;
mod statement;
mod url;
mod value;

use super::{Commit, DatabaseError, Move, Past, Row};
use crate::{change::Changes, table::Value, view::View};
use events::Position;
use service::crash_point;
use sqlx::{
    ConnectOptions, Connection, PgConnection, PgPool, postgres::PgConnectOptions, postgres::PgPoolOptions,
    query_with,
};
use statement::Statements;
use std::{fmt, time::Duration};

pub use cluster::{Cluster, ClusterError};
pub(super) use examine::{examine, standing};
pub(super) use generation::{Shelf, close, closed, remove, reopen};
pub(super) use moment::rows;
pub(super) use parked::all as parked;
pub(super) use row::{bool, int, json, text, timestamp, uuid};
pub(super) use schema::begins;
#[cfg(test)]
pub(super) use schema::model;
pub use url::{PostgresUrl, UrlError};

/// Connections for queries.
const READERS: u32 = 4;

/// How long a query waits for a connection.
const ACQUIRE: Duration = Duration::from_secs(3);

/// How long it may take to connect, and to answer what takes no work.
const ANSWER: Duration = Duration::from_secs(5);

/// How long a commit may take before its outcome is looked up in the database instead.
const COMMIT: Duration = Duration::from_mins(1);

/// A schema of the database of one service, for reading.
#[derive(Clone)]
pub(super) struct Database {
    readers: PgPool,
    options: PgConnectOptions,
    view: &'static View,
}

/// The one connection that writes.
#[derive(Debug)]
pub(super) struct Writer {
    connection: PgConnection,
    statements: Statements,
    view: &'static View,
}

/// Without the options, which hold a password.
impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").field("view", &self.view.name).finish_non_exhaustive()
    }
}

/// The schema of a generation.
fn name(service: &str, generation: u32) -> String {
    format!("{service}_{generation}")
}

/// Connects. Nobody waits for long for a server that says nothing.
async fn connect(options: &PgConnectOptions) -> Result<PgConnection, DatabaseError> {
    let late = |error| DatabaseError::new("open the database", error);
    let connected = tokio::time::timeout(ANSWER, options.connect()).await.map_err(late)?;
    connected.map_err(|error| DatabaseError::new("open the database", error))
}

/// How a schema is connected to.
fn options(url: &PostgresUrl, service: &str, schema: &str) -> PgConnectOptions {
    url.options()
        .clone()
        .application_name(&format!("waybill {service}"))
        .options([
            ("search_path", schema),
            // Whoever dies or is cut off lets go of what it holds within seconds.
            ("idle_in_transaction_session_timeout", "10s"),
            ("tcp_keepalives_idle", "5"),
            ("tcp_keepalives_interval", "2"),
            ("tcp_keepalives_count", "3"),
            ("lock_timeout", "5s"),
            ("jit", "off"),
        ])
        .statement_cache_capacity(512)
        .disable_statement_logging()
}

impl Database {
    /// Makes the schema where it is missing, with the tables of `view`: complete, or without indexes and to be read from
    /// these positions on. An error where it has those of another version of the program.
    pub(in crate::database) async fn open(
        url: &PostgresUrl,
        view: &'static View,
        generation: u32,
        building: Option<&[Position]>,
    ) -> Result<Self, DatabaseError> {
        let schema = name(view.name, generation);
        let mut options = options(url, view.name, &schema);
        if building.is_some() {
            // What a crash takes back is built again; the switch waits for all that came before it.
            options = options.options([("synchronous_commit", "off")]);
        }
        let mut connection = connect(&options).await?;
        schema::ensure(&mut connection, view, &schema, building).await?;
        connection.close().await.map_err(|error| DatabaseError::new("open the database", error))?;
        let reading = [("default_transaction_read_only", "on"), ("statement_timeout", "30s")];
        let readers = PgPoolOptions::new()
            .max_connections(READERS)
            .acquire_timeout(ACQUIRE)
            .connect_lazy_with(options.clone().options(reading));
        Ok(Self { readers, options, view })
    }

    /// A connection that writes. An error when the tables are by now those of another version of the program.
    pub(in crate::database) async fn writer(&self) -> Result<Writer, DatabaseError> {
        let connection = connect(&self.options).await?;
        let mut writer = Writer { connection, statements: Statements::default(), view: self.view };
        writer.checkpoints().await?;
        Ok(writer)
    }

    /// Every row that a query finds.
    pub(in crate::database) async fn rows(
        &self,
        sql: &'static str,
        values: Vec<Value>,
    ) -> Result<Vec<Row>, DatabaseError> {
        let rows = query_with(sql, value::arguments(&values)?).fetch_all(&self.readers).await;
        let rows = rows.map_err(|error| DatabaseError::new("query the read model", error))?;
        Ok(rows.into_iter().map(Row::from).collect())
    }

    /// The one row that a query finds, if there is one.
    pub(in crate::database) async fn row(
        &self,
        sql: &'static str,
        values: Vec<Value>,
    ) -> Result<Option<Row>, DatabaseError> {
        let row = query_with(sql, value::arguments(&values)?).fetch_optional(&self.readers).await;
        let row = row.map_err(|error| DatabaseError::new("query the read model", error))?;
        Ok(row.map(Row::from))
    }

    /// Lets go of its connections.
    pub(in crate::database) async fn close(&self) {
        self.readers.close().await;
    }
}

impl Writer {
    /// Up to where each stream of the view is in the tables.
    pub(in crate::database) async fn checkpoints(&mut self) -> Result<Vec<Position>, DatabaseError> {
        schema::checkpoints(&mut self.connection, self.view).await
    }

    /// Whether this connection is the one of its generation that leads, which it is until it ends.
    pub(in crate::database) async fn lead(&mut self) -> Result<bool, DatabaseError> {
        let sql = "SELECT pg_try_advisory_lock(hashtext('waybill projector'), hashtext(current_schema()))";
        let led = sqlx::query_scalar(sql).fetch_one(&mut self.connection).await;
        led.map_err(|error| DatabaseError::new("ask who projects", error))
    }

    /// Writes changes and moves checkpoints. Where that takes too long the connection is given up, and with it what is
    /// not committed.
    pub(in crate::database) async fn commit(
        &mut self,
        changes: Changes,
        moves: &[Move],
        past: &Past,
    ) -> Result<Commit, DatabaseError> {
        let late = |error| DatabaseError::new("commit to the read model", error);
        tokio::time::timeout(COMMIT, self.commit_all(changes, moves, past)).await.map_err(late)?
    }

    async fn commit_all(
        &mut self,
        changes: Changes,
        moves: &[Move],
        past: &Past,
    ) -> Result<Commit, DatabaseError> {
        let failed = |error| DatabaseError::new("commit to the read model", error);
        loop {
            let mut transaction = self.connection.begin().await.map_err(failed)?;
            let stands = schema::advance(&mut transaction, self.view.name, moves).await?
                && parked::wait(&mut transaction, self.view.name, &past.held).await?;
            if !stands {
                transaction.rollback().await.map_err(failed)?;
                return Ok(Commit::Lost);
            }
            if !self.statements.write(&mut transaction, &changes).await? {
                transaction.rollback().await.map_err(failed)?;
                continue;
            }
            for parked in &past.parked {
                parked::insert(&mut transaction, self.view.name, parked).await?;
            }
            crash_point("project.before", self.view.name);
            transaction.commit().await.map_err(failed)?;
            crash_point("project.after", self.view.name);
            return Ok(Commit::Done);
        }
    }
}
