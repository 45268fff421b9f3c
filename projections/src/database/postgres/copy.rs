//! Rows that are new go in by `COPY`: it takes the server half of what a statement takes that looks for each row first, and
//! writes less to its log.

use super::value::field;
use crate::{
    change::{Cell, Change},
    database::DatabaseError,
    table::{Key, Table},
};
use sqlx::{Connection, PgConnection};

/// Rows from which on it pays: a few more round trips are worth less than what they save.
pub(super) const PAYS: usize = 100;

/// What a binary copy begins with: its signature, no flags, and nothing more.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// What it ends with, where the number of fields of a row would stand.
const TRAILER: i16 = -1;

/// PostgreSQL's code for a row that is there already.
const UNIQUE_VIOLATION: &str = "23505";

/// Inserts whole rows. False where one is there already; then none is inserted.
pub(super) async fn insert(
    connection: &mut PgConnection,
    table: &'static Table,
    rows: &[(Key, Change)],
) -> Result<bool, DatabaseError> {
    let failed = |error| DatabaseError::new("write to the read model", error);
    let (names, data) = (names(table), data(table, rows)?);
    // A savepoint: what came before it stays, also where a row is there.
    let mut savepoint = connection.begin().await.map_err(failed)?;
    let sql = format!("COPY {} ({names}) FROM STDIN (FORMAT binary)", table.name);
    let mut copy = savepoint.copy_in_raw(&sql).await.map_err(failed)?;
    copy.send(data).await.map_err(failed)?;
    match copy.finish().await {
        Ok(_) => {
            savepoint.commit().await.map_err(failed)?;
            Ok(true)
        }
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some(UNIQUE_VIOLATION) => {
            savepoint.rollback().await.map_err(failed)?;
            Ok(false)
        }
        Err(error) => Err(failed(error)),
    }
}

fn names(table: &'static Table) -> String {
    table.all().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

/// The rows as a binary copy has them: <https://www.postgresql.org/docs/current/sql-copy.html>.
fn data(table: &'static Table, rows: &[(Key, Change)]) -> Result<Vec<u8>, DatabaseError> {
    let count = i16::try_from(table.all().count());
    let count = count.map_err(|error| DatabaseError::new("write a value", error))?;
    let mut data = HEADER.to_vec();
    for (Key(key), change) in rows {
        data.extend(count.to_be_bytes());
        for (value, (_, kind)) in key.iter().zip(table.key) {
            field(value, *kind, &mut data)?;
        }
        let Change::Write(cells) = change else { continue };
        for (cell, (_, kind)) in cells.iter().zip(table.columns) {
            if let Cell::Set(value) = cell {
                field(value, *kind, &mut data)?;
            }
        }
    }
    data.extend(TRAILER.to_be_bytes());
    Ok(data)
}
