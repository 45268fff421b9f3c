//! Reading rows back into the types that were written.

use super::DatabaseError;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use sqlx::{Row as _, sqlite::SqliteRow};
use uuid::Uuid;

/// One row of an answer.
#[derive(Debug)]
pub struct Row(SqliteRow);

/// A type that a column can be read as.
pub trait Stored: Sized {
    /// What the column holds; `None` where it is empty.
    fn load(row: &SqliteRow, column: &str) -> Result<Option<Self>, sqlx::Error>;
}

impl Row {
    pub(super) const fn new(row: SqliteRow) -> Self {
        Self(row)
    }

    /// What a column holds; an error where it is empty.
    pub fn get<T: Stored>(&self, column: &'static str) -> Result<T, DatabaseError> {
        self.find(column)?
            .ok_or_else(|| DatabaseError::new("read a row", format!("column {column} is empty")))
    }

    /// What a column holds, if it holds something.
    pub fn find<T: Stored>(&self, column: &'static str) -> Result<Option<T>, DatabaseError> {
        T::load(&self.0, column).map_err(|error| DatabaseError::new("read a row", error))
    }

    /// What a column's JSON says, if it holds something.
    pub fn find_json<T: DeserializeOwned>(&self, column: &'static str) -> Result<Option<T>, DatabaseError> {
        let text = self.0.try_get::<Option<&str>, _>(column);
        let text = text.map_err(|error| DatabaseError::new("read a row", error))?;
        text.map(serde_json::from_str).transpose().map_err(|error| DatabaseError::new("read a row", error))
    }

    /// What a column's JSON says.
    pub fn json<T: DeserializeOwned>(&self, column: &'static str) -> Result<T, DatabaseError> {
        let text = self.0.try_get::<&str, _>(column);
        let text = text.map_err(|error| DatabaseError::new("read a row", error))?;
        serde_json::from_str(text).map_err(|error| DatabaseError::new("read a row", error))
    }
}

impl Stored for i64 {
    fn load(row: &SqliteRow, column: &str) -> Result<Option<Self>, sqlx::Error> {
        row.try_get(column)
    }
}

impl Stored for bool {
    fn load(row: &SqliteRow, column: &str) -> Result<Option<Self>, sqlx::Error> {
        row.try_get(column)
    }
}

impl Stored for String {
    fn load(row: &SqliteRow, column: &str) -> Result<Option<Self>, sqlx::Error> {
        row.try_get(column)
    }
}

impl Stored for Uuid {
    fn load(row: &SqliteRow, column: &str) -> Result<Option<Self>, sqlx::Error> {
        let bytes = row.try_get::<Option<&[u8]>, _>(column)?;
        bytes
            .map(|bytes| Self::from_slice(bytes).map_err(|error| sqlx::Error::Decode(error.into())))
            .transpose()
    }
}

impl Stored for Timestamp {
    fn load(row: &SqliteRow, column: &str) -> Result<Option<Self>, sqlx::Error> {
        let time = row.try_get::<Option<i64>, _>(column)?;
        let read = |time| Self::from_microsecond(time).map_err(|error| sqlx::Error::Decode(error.into()));
        time.map(read).transpose()
    }
}
