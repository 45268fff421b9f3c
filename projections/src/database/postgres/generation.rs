//! What generations need of PostgreSQL: a schema for each, and one for the catalogue.

use super::{ANSWER, PostgresUrl, Writer, connect, name, options, schema};
use crate::{database::DatabaseError, table::Table};
use events::{Context, Position};
use sqlx::{
    AssertSqlSafe, Connection, PgConnection, Row as _,
    postgres::{PgConnectOptions, PgRow},
    query, query_scalar, raw_sql,
};
use std::fmt::{self, Write};
use tokio::time::{error::Elapsed, timeout};

/// Where the catalogue of a service is kept.
pub(in crate::database) struct Shelf {
    options: PgConnectOptions,
    /// Made again after a failure.
    connection: Option<PgConnection>,
    service: &'static str,
}

/// Without the options, which hold a password.
impl fmt::Debug for Shelf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shelf").field("service", &self.service).finish_non_exhaustive()
    }
}

impl Shelf {
    pub(in crate::database) async fn open(
        url: &PostgresUrl,
        service: &'static str,
    ) -> Result<Self, DatabaseError> {
        let failed = |error| DatabaseError::new("open the catalogue of generations", error);
        let options = options(url, service, "waybill");
        let mut connection = connect(&options).await?;
        schema::check(&mut connection).await?;
        let mut transaction = connection.begin().await.map_err(failed)?;
        // Whoever finds them missing makes them, one after the other.
        let sql = "SELECT pg_advisory_xact_lock(hashtext('waybill schema'), hashtext('waybill'));
            CREATE SCHEMA IF NOT EXISTS waybill;
            CREATE TABLE IF NOT EXISTS waybill.catalogue (
                projection text NOT NULL PRIMARY KEY,
                revision bigint NOT NULL,
                document text NOT NULL
            );";
        raw_sql(sql).execute(&mut *transaction).await.map_err(failed)?;
        transaction.commit().await.map_err(failed)?;
        Ok(Self { options, connection: Some(connection), service })
    }

    /// The connection, to be put back where it has done its work.
    async fn connection(&mut self) -> Result<PgConnection, DatabaseError> {
        match self.connection.take() {
            Some(connection) => Ok(connection),
            None => connect(&self.options).await,
        }
    }

    /// The document with its revision.
    pub(in crate::database) async fn load(&mut self) -> Result<Option<(u64, String)>, DatabaseError> {
        let failed = |error| DatabaseError::new("read the catalogue of generations", error);
        let mut connection = self.connection().await?;
        let sql = "SELECT revision, document FROM catalogue WHERE projection = $1";
        let row = timeout(ANSWER, query(sql).bind(self.service).fetch_optional(&mut connection)).await;
        let row = row.map_err(late)?.map_err(failed)?;
        self.connection = Some(connection);
        Ok(row.map(|row| (row.get::<i64, _>("revision").cast_unsigned(), row.get("document"))))
    }

    /// Replaces the document that has this revision, 0 for none. False where somebody was faster.
    pub(in crate::database) async fn swap(
        &mut self,
        revision: u64,
        document: &str,
    ) -> Result<bool, DatabaseError> {
        let failed = |error| DatabaseError::new("write the catalogue of generations", error);
        let mut connection = self.connection().await?;
        let sql = if revision == 0 {
            "INSERT INTO catalogue (projection, revision, document) VALUES ($1, $2 + 1, $3) \
             ON CONFLICT DO NOTHING"
        } else {
            "UPDATE catalogue SET revision = revision + 1, document = $3 WHERE projection = $1 AND revision = $2"
        };
        let done = query(sql).bind(self.service).bind(revision.cast_signed()).bind(document);
        let done = timeout(ANSWER, done.execute(&mut connection)).await.map_err(late)?.map_err(failed)?;
        self.connection = Some(connection);
        Ok(done.rows_affected() > 0)
    }
}

fn late(error: Elapsed) -> DatabaseError {
    DatabaseError::new("wait for the catalogue of generations", error)
}

fn failed(error: sqlx::Error) -> DatabaseError {
    DatabaseError::new("close the tables", error)
}

async fn open(url: &PostgresUrl, service: &str, generation: u32) -> Result<PgConnection, DatabaseError> {
    connect(&options(url, service, &name(service, generation))).await
}

fn position(row: &PgRow) -> Option<Position> {
    let context = Context::of_stream(row.get("stream"))?;
    Some(Position { context, sequence: row.get::<i64, _>("sequence").cast_unsigned() })
}

/// From now on nothing is committed to these tables: who is about to is waited for. Up to where they are built.
pub(in crate::database) async fn close(
    url: &PostgresUrl,
    service: &str,
    generation: u32,
    token: u64,
) -> Result<Vec<Position>, DatabaseError> {
    let mut connection = open(url, service, generation).await?;
    let mut transaction = connection.begin().await.map_err(failed)?;
    // In the order in which commits take their locks.
    let sql = "SELECT 1 FROM waybill_checkpoint WHERE projection = $1 ORDER BY stream FOR UPDATE";
    query(sql).bind(service).execute(&mut *transaction).await.map_err(failed)?;
    let sql = "UPDATE waybill_checkpoint SET closed = $2 WHERE projection = $1 RETURNING stream, sequence";
    let rows = query(sql).bind(service).bind(token.cast_signed()).fetch_all(&mut *transaction).await;
    let mut positions: Vec<_> = rows.map_err(failed)?.iter().filter_map(position).collect();
    transaction.commit().await.map_err(failed)?;
    positions.sort();
    Ok(positions)
}

/// What was closed with this token, or with any, takes commits again.
pub(in crate::database) async fn reopen(
    url: &PostgresUrl,
    service: &str,
    generation: u32,
    token: Option<u64>,
) -> Result<(), DatabaseError> {
    let mut connection = open(url, service, generation).await?;
    let sql = "UPDATE waybill_checkpoint SET closed = 0 \
               WHERE projection = $1 AND closed <> 0 AND closed = coalesce($2, closed)";
    query(sql)
        .bind(service)
        .bind(token.map(u64::cast_signed))
        .execute(&mut connection)
        .await
        .map_err(failed)?;
    Ok(())
}

/// What the tables are closed with.
pub(in crate::database) async fn closed(
    url: &PostgresUrl,
    service: &str,
    generation: u32,
) -> Result<Option<u64>, DatabaseError> {
    schema::closed(&mut open(url, service, generation).await?, service).await
}

/// Removes the tables.
pub(in crate::database) async fn remove(
    url: &PostgresUrl,
    service: &str,
    generation: u32,
) -> Result<(), DatabaseError> {
    let mut connection = open(url, service, generation).await?;
    let sql = format!("DROP SCHEMA IF EXISTS {} CASCADE", name(service, generation));
    let done = raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await;
    done.map(|_| ()).map_err(|error| DatabaseError::new("remove the tables", error))
}

impl Writer {
    /// What the tables are closed with.
    pub(in crate::database) async fn closed(&mut self) -> Result<Option<u64>, DatabaseError> {
        schema::closed(&mut self.connection, self.view.name).await
    }

    /// Makes the indexes that are missing.
    pub(in crate::database) async fn finish(&mut self) -> Result<(), DatabaseError> {
        schema::finish(&mut self.connection, self.view).await
    }

    /// Copies these tables, and what waits, from another generation as it is at one moment. Gives that moment.
    pub(in crate::database) async fn copy(
        &mut self,
        from: u32,
        tables: &[&'static Table],
    ) -> Result<Vec<Position>, DatabaseError> {
        let failed = |error| DatabaseError::new("copy the tables", error);
        let (source, service) = (name(self.view.name, from), self.view.name);
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ";
        let mut transaction = self.connection.begin_with(begin).await.map_err(failed)?;
        let there: bool = query_scalar("SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)")
            .bind(&source)
            .fetch_one(&mut *transaction)
            .await
            .map_err(failed)?;
        if !there {
            return Err(DatabaseError::new("copy the tables", "they are gone"));
        }
        let sql = format!(
            "SELECT stream, sequence FROM {source}.waybill_checkpoint WHERE projection = $1 ORDER BY stream"
        );
        let rows = query(AssertSqlSafe(sql)).bind(service).fetch_all(&mut *transaction).await;
        let rows = rows.map_err(failed)?;
        let mut sql = String::new();
        for table in tables {
            let names: Vec<_> = table.all().map(|(name, _)| *name).collect();
            let (names, table) = (names.join(", "), table.name);
            // Writing to a string cannot fail.
            let _ = write!(
                sql,
                "DELETE FROM {table}; INSERT INTO {table} ({names}) SELECT {names} FROM {source}.{table};"
            );
        }
        let parked = "projection, subject, sequence, error, asked";
        let _ = write!(
            sql,
            "DELETE FROM waybill_parked; \
             INSERT INTO waybill_parked ({parked}) SELECT {parked} FROM {source}.waybill_parked;"
        );
        raw_sql(AssertSqlSafe(sql)).execute(&mut *transaction).await.map_err(failed)?;
        transaction.commit().await.map_err(failed)?;
        Ok(rows.iter().filter_map(position).collect())
    }
}
