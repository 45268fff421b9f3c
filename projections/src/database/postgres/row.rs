//! What columns of PostgreSQL hold, as the types that were written. Answers to queries with parameters are binary.

use super::value::{EPOCH, JSONB};
use jiff::Timestamp;
use sqlx::{ColumnIndex, Error, Row as _, ValueRef, postgres::PgRow};
use uuid::Uuid;

type Found<T> = Result<Option<T>, Error>;

fn bytes(row: &PgRow, column: impl ColumnIndex<PgRow>) -> Found<&[u8]> {
    let value = row.try_get_raw(column)?;
    if value.is_null() { Ok(None) } else { value.as_bytes().map(Some).map_err(Error::Decode) }
}

fn wrong<T>(kind: &str) -> Result<T, Error> {
    Err(Error::Decode(format!("the column holds no {kind}").into()))
}

fn utf8(bytes: &[u8]) -> Result<&str, Error> {
    std::str::from_utf8(bytes).map_err(|error| Error::Decode(error.into()))
}

pub(in crate::database) fn int(row: &PgRow, column: impl ColumnIndex<PgRow>) -> Found<i64> {
    let Some(bytes) = bytes(row, column)? else { return Ok(None) };
    if let Ok(bytes) = bytes.try_into() {
        return Ok(Some(i64::from_be_bytes(bytes)));
    }
    // A constant in a query.
    bytes.try_into().map_or_else(|_| wrong("number"), |bytes| Ok(Some(i32::from_be_bytes(bytes).into())))
}

pub(in crate::database) fn bool(row: &PgRow, column: impl ColumnIndex<PgRow>) -> Found<bool> {
    match bytes(row, column)? {
        None => Ok(None),
        Some([byte]) => Ok(Some(*byte != 0)),
        Some(_) => wrong("yes or no"),
    }
}

pub(in crate::database) fn text(row: &PgRow, column: impl ColumnIndex<PgRow>) -> Found<String> {
    let Some(bytes) = bytes(row, column)? else { return Ok(None) };
    utf8(bytes).map(str::to_owned).map(Some)
}

pub(in crate::database) fn json(row: &PgRow, column: impl ColumnIndex<PgRow>) -> Found<&str> {
    match bytes(row, column)? {
        None => Ok(None),
        Some([JSONB, text @ ..]) => utf8(text).map(Some),
        Some(_) => wrong("document"),
    }
}

pub(in crate::database) fn uuid(row: &PgRow, column: impl ColumnIndex<PgRow>) -> Found<Uuid> {
    let Some(bytes) = bytes(row, column)? else { return Ok(None) };
    Uuid::from_slice(bytes).map_or_else(|_| wrong("identifier"), |id| Ok(Some(id)))
}

pub(in crate::database) fn timestamp(row: &PgRow, column: impl ColumnIndex<PgRow>) -> Found<Timestamp> {
    let Some(time) = int(row, column)? else { return Ok(None) };
    let time = time.checked_add(EPOCH).and_then(|time| Timestamp::from_microsecond(time).ok());
    time.map_or_else(|| wrong("moment"), |time| Ok(Some(time)))
}
