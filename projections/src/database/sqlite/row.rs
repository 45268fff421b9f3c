//! What columns of SQLite hold, as the types that were written.

use jiff::Timestamp;
use sqlx::{ColumnIndex, Error, Row as _, sqlite::SqliteRow};
use uuid::Uuid;

type Found<T> = Result<Option<T>, Error>;

pub(in crate::database) fn int(row: &SqliteRow, column: impl ColumnIndex<SqliteRow>) -> Found<i64> {
    row.try_get(column)
}

pub(in crate::database) fn bool(row: &SqliteRow, column: impl ColumnIndex<SqliteRow>) -> Found<bool> {
    row.try_get(column)
}

pub(in crate::database) fn text(row: &SqliteRow, column: impl ColumnIndex<SqliteRow>) -> Found<String> {
    row.try_get(column)
}

pub(in crate::database) fn json(row: &SqliteRow, column: impl ColumnIndex<SqliteRow>) -> Found<&str> {
    row.try_get(column)
}

pub(in crate::database) fn uuid(row: &SqliteRow, column: impl ColumnIndex<SqliteRow>) -> Found<Uuid> {
    let bytes = row.try_get::<Option<&[u8]>, _>(column)?;
    bytes.map(|bytes| Uuid::from_slice(bytes).map_err(|error| Error::Decode(error.into()))).transpose()
}

pub(in crate::database) fn timestamp(
    row: &SqliteRow,
    column: impl ColumnIndex<SqliteRow>,
) -> Found<Timestamp> {
    let time = row.try_get::<Option<i64>, _>(column)?;
    let read = |time| Timestamp::from_microsecond(time).map_err(|error| Error::Decode(error.into()));
    time.map(read).transpose()
}
