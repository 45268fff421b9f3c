//! How the files of a service stand. None is made.

use super::{connect, file};
use crate::database::{
    DatabaseError,
    examine::{DatabaseLook, Found},
};
use events::{Context, Position};
use sqlx::{Row as _, SqliteConnection, query, query_scalar, sqlite::SqliteConnectOptions};
use std::{io, path::Path};

/// What the file with the catalogue says.
pub(in crate::database) async fn examine(folder: &Path, service: &str) -> Result<Found, DatabaseError> {
    let failed = |error| DatabaseError::new("read the catalogue of generations", error);
    let look = DatabaseLook { server: "SQLite".to_owned(), ..DatabaseLook::default() };
    if !folder.join(file(service, 0)).exists() {
        return Ok(Found { look, catalogue: None });
    }
    let mut connection = open(folder, service, 0).await?;
    let sql = "SELECT count(*) FROM sqlite_schema WHERE name = 'waybill_catalogue'";
    let known: i64 = query_scalar(sql).fetch_one(&mut connection).await.map_err(failed)?;
    if known == 0 {
        return Ok(Found { look, catalogue: None });
    }
    let sql = "SELECT document FROM waybill_catalogue WHERE projection = $1";
    let catalogue = query_scalar(sql).bind(service).fetch_optional(&mut connection).await.map_err(failed)?;
    Ok(Found { look, catalogue })
}

/// Up to where the tables of a generation are, and how many aggregates wait.
pub(in crate::database) async fn standing(
    folder: &Path,
    service: &str,
    generation: u32,
) -> Result<(Vec<Position>, u64), DatabaseError> {
    let failed = |error| DatabaseError::new("read the checkpoints", error);
    let mut connection = open(folder, service, generation).await?;
    let sql = "SELECT stream, sequence FROM waybill_checkpoint WHERE projection = $1 ORDER BY stream";
    let rows = query(sql).bind(service).fetch_all(&mut connection).await.map_err(failed)?;
    let positions = rows.iter().filter_map(|row| {
        let context = Context::of_stream(row.get("stream"))?;
        Some(Position { context, sequence: row.get::<i64, _>("sequence").cast_unsigned() })
    });
    let sql = "SELECT count(*) FROM waybill_parked WHERE projection = $1";
    let parked: i64 = query_scalar(sql).bind(service).fetch_one(&mut connection).await.map_err(failed)?;
    Ok((positions.collect(), parked.cast_unsigned()))
}

/// The names of the files of a service.
pub(in crate::database) async fn files(folder: &Path, service: &str) -> Result<Vec<String>, DatabaseError> {
    let failed = |error| DatabaseError::new("list the files of the read model", error);
    let mut entries = match tokio::fs::read_dir(folder).await {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut names = Vec::new();
    while let Some(entry) = entries.next_entry().await.map_err(failed)? {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let number = name.strip_prefix(service).and_then(|rest| rest.strip_suffix(".sqlite"));
        let is_ours = number.is_some_and(|rest| {
            rest.is_empty() || rest.strip_prefix('.').is_some_and(|number| number.parse::<u32>().is_ok())
        });
        if is_ours {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Copies a file as it is at one moment. False where it is gone.
pub(in crate::database) async fn copy(folder: &Path, name: &str, to: &Path) -> Result<bool, DatabaseError> {
    let failed = |error| DatabaseError::new("copy the read model", error);
    let (from, to) = (folder.join(name), to.join(name));
    if !from.exists() {
        return Ok(false);
    }
    // From an attempt before this one.
    let _ = tokio::fs::remove_file(&to).await;
    let options = SqliteConnectOptions::new().filename(from).busy_timeout(super::BUSY);
    let mut connection = connect(&options).await.map_err(failed)?;
    let copied = query("VACUUM INTO $1").bind(to.to_string_lossy().into_owned());
    copied.execute(&mut connection).await.map_err(failed)?;
    Ok(true)
}

async fn open(folder: &Path, service: &str, generation: u32) -> Result<SqliteConnection, DatabaseError> {
    let options = SqliteConnectOptions::new()
        .filename(folder.join(file(service, generation)))
        .busy_timeout(super::BUSY)
        .pragma("query_only", "on");
    connect(&options).await.map_err(|error| DatabaseError::new("open the database", error))
}
