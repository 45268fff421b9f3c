//! What generations need of SQLite: a file for each, and one for the catalogue.

use super::{Writer, connect, file, options, schema};
use crate::{database::DatabaseError, table::Table, view::View};
use events::{Context, Position};
use sqlx::{AssertSqlSafe, Connection, Row as _, SqliteConnection, query};
use std::{io, path::Path};

/// Where the catalogue of a service is kept.
#[derive(Debug)]
pub(in crate::database) struct Shelf {
    connection: SqliteConnection,
    service: &'static str,
}

impl Shelf {
    pub(in crate::database) async fn open(
        folder: &Path,
        service: &'static str,
    ) -> Result<Self, DatabaseError> {
        let failed = |error| DatabaseError::new("open the catalogue of generations", error);
        let mut connection = open(folder, service, 0).await?;
        let sql = "CREATE TABLE IF NOT EXISTS waybill_catalogue (
            projection TEXT NOT NULL PRIMARY KEY,
            revision INTEGER NOT NULL,
            document TEXT NOT NULL
        ) STRICT, WITHOUT ROWID";
        query(sql).execute(&mut connection).await.map_err(failed)?;
        Ok(Self { connection, service })
    }

    /// The document with its revision.
    pub(in crate::database) async fn load(&mut self) -> Result<Option<(u64, String)>, DatabaseError> {
        let failed = |error| DatabaseError::new("read the catalogue of generations", error);
        let sql = "SELECT revision, document FROM waybill_catalogue WHERE projection = $1";
        let row = query(sql).bind(self.service).fetch_optional(&mut self.connection).await.map_err(failed)?;
        Ok(row.map(|row| (row.get::<i64, _>("revision").cast_unsigned(), row.get("document"))))
    }

    /// Replaces the document that has this revision, 0 for none. False where somebody was faster.
    pub(in crate::database) async fn swap(
        &mut self,
        revision: u64,
        document: &str,
    ) -> Result<bool, DatabaseError> {
        let failed = |error| DatabaseError::new("write the catalogue of generations", error);
        let sql = if revision == 0 {
            "INSERT INTO waybill_catalogue (projection, revision, document) VALUES ($1, $2 + 1, $3) \
             ON CONFLICT DO NOTHING"
        } else {
            "UPDATE waybill_catalogue SET revision = revision + 1, document = $3 \
             WHERE projection = $1 AND revision = $2"
        };
        let done = query(sql).bind(self.service).bind(revision.cast_signed()).bind(document);
        Ok(done.execute(&mut self.connection).await.map_err(failed)?.rows_affected() > 0)
    }
}

async fn open(folder: &Path, service: &str, generation: u32) -> Result<SqliteConnection, DatabaseError> {
    let options = options(folder, service, generation).await?;
    connect(&options).await.map_err(|error| DatabaseError::new("open the database", error))
}

/// Whether there are tables from before there were generations, and whether they are those of `view`.
pub(in crate::database) async fn adopt(
    folder: &Path,
    view: &'static View,
) -> Result<Option<bool>, DatabaseError> {
    schema::adopt(&mut open(folder, view.name, 0).await?, view).await
}

fn failed(error: sqlx::Error) -> DatabaseError {
    DatabaseError::new("close the tables", error)
}

/// From now on nothing is committed to these tables. Up to where they are built.
pub(in crate::database) async fn close(
    folder: &Path,
    service: &str,
    generation: u32,
    token: u64,
) -> Result<Vec<Position>, DatabaseError> {
    let mut connection = open(folder, service, generation).await?;
    let sql = "UPDATE waybill_checkpoint SET closed = $2 WHERE projection = $1 RETURNING stream, sequence";
    let rows = query(sql).bind(service).bind(token.cast_signed()).fetch_all(&mut connection).await;
    let position = |row: &sqlx::sqlite::SqliteRow| {
        let context = Context::of_stream(row.get("stream"))?;
        Some(Position { context, sequence: row.get::<i64, _>("sequence").cast_unsigned() })
    };
    let mut positions: Vec<_> = rows.map_err(failed)?.iter().filter_map(position).collect();
    positions.sort();
    Ok(positions)
}

/// What was closed with this token, or with any, takes commits again.
pub(in crate::database) async fn reopen(
    folder: &Path,
    service: &str,
    generation: u32,
    token: Option<u64>,
) -> Result<(), DatabaseError> {
    let mut connection = open(folder, service, generation).await?;
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
    folder: &Path,
    service: &str,
    generation: u32,
) -> Result<Option<u64>, DatabaseError> {
    schema::closed(&mut open(folder, service, generation).await?, service).await
}

/// Removes the tables.
pub(in crate::database) async fn remove(
    folder: &Path,
    service: &str,
    generation: u32,
) -> Result<(), DatabaseError> {
    if generation == 0 {
        return schema::clear(&mut open(folder, service, 0).await?, service).await;
    }
    for suffix in ["", "-wal", "-shm"] {
        match tokio::fs::remove_file(folder.join(file(service, generation) + suffix)).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(DatabaseError::new("remove the tables", error));
            }
            _ => {}
        }
    }
    Ok(())
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
        folder: &Path,
        from: u32,
        tables: &[&'static Table],
    ) -> Result<Vec<Position>, DatabaseError> {
        let failed = |error| DatabaseError::new("copy the tables", error);
        let path = folder.join(file(self.view.name, from));
        let attach = query("ATTACH DATABASE $1 AS source").bind(path.to_string_lossy().into_owned());
        attach.execute(&mut self.connection).await.map_err(failed)?;
        let copied = self.copy_attached(tables).await;
        query("DETACH DATABASE source").execute(&mut self.connection).await.map_err(failed)?;
        copied
    }

    async fn copy_attached(&mut self, tables: &[&'static Table]) -> Result<Vec<Position>, DatabaseError> {
        let failed = |error| DatabaseError::new("copy the tables", error);
        // Not an immediate one, which would hold up whoever writes to the source. It sees what was there at its first read.
        let mut transaction = self.connection.begin().await.map_err(failed)?;
        let sql =
            "SELECT stream, sequence FROM source.waybill_checkpoint WHERE projection = $1 ORDER BY stream";
        let rows = query(sql).bind(self.view.name).fetch_all(&mut *transaction).await.map_err(failed)?;
        let mut statements = Vec::new();
        for table in tables {
            let names: Vec<_> = table.all().map(|(name, _)| *name).collect();
            let (names, table) = (names.join(", "), table.name);
            statements.push(format!("DELETE FROM main.{table}"));
            statements.push(format!("INSERT INTO main.{table} ({names}) SELECT {names} FROM source.{table}"));
        }
        let parked = "projection, subject, sequence, error, asked";
        statements.push("DELETE FROM main.waybill_parked".to_owned());
        statements.push(format!(
            "INSERT INTO main.waybill_parked ({parked}) SELECT {parked} FROM source.waybill_parked"
        ));
        for sql in statements {
            query(AssertSqlSafe(sql)).execute(&mut *transaction).await.map_err(failed)?;
        }
        transaction.commit().await.map_err(failed)?;
        let positions = rows.iter().filter_map(|row| {
            let context = Context::of_stream(row.get("stream"))?;
            Some(Position { context, sequence: row.get::<i64, _>("sequence").cast_unsigned() })
        });
        Ok(positions.collect())
    }
}
