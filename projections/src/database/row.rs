//! Reading rows back into the types that were written.

use super::{DatabaseError, postgres, sqlite};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use sqlx::{postgres::PgRow, sqlite::SqliteRow};
use uuid::Uuid;

/// One row of an answer.
#[derive(Debug)]
pub struct Row(Native);

/// The row as its database gives it.
#[derive(Debug)]
enum Native {
    Sqlite(SqliteRow),
    Postgres(PgRow),
}

/// A type that a column can be read as.
pub trait Stored: Sized {
    /// What the column holds; `None` where it is empty.
    fn load(row: &Row, column: &str) -> Result<Option<Self>, sqlx::Error>;
}

impl From<SqliteRow> for Row {
    fn from(row: SqliteRow) -> Self {
        Self(Native::Sqlite(row))
    }
}

impl From<PgRow> for Row {
    fn from(row: PgRow) -> Self {
        Self(Native::Postgres(row))
    }
}

impl Row {
    /// What a column holds; an error where it is empty.
    pub fn get<T: Stored>(&self, column: &'static str) -> Result<T, DatabaseError> {
        self.find(column)?.ok_or_else(|| empty(column))
    }

    /// What a column holds, if it holds something.
    pub fn find<T: Stored>(&self, column: &'static str) -> Result<Option<T>, DatabaseError> {
        T::load(self, column).map_err(|error| DatabaseError::new("read a row", error))
    }

    /// What a column's JSON says, if it holds something.
    pub fn find_json<T: DeserializeOwned>(&self, column: &'static str) -> Result<Option<T>, DatabaseError> {
        let failed = |error| DatabaseError::new("read a row", error);
        let text = match &self.0 {
            Native::Sqlite(row) => sqlite::json(row, column),
            Native::Postgres(row) => postgres::json(row, column),
        };
        let text = text.map_err(failed)?;
        text.map(serde_json::from_str).transpose().map_err(|error| DatabaseError::new("read a row", error))
    }

    /// What a column's JSON says.
    pub fn json<T: DeserializeOwned>(&self, column: &'static str) -> Result<T, DatabaseError> {
        self.find_json(column)?.ok_or_else(|| empty(column))
    }
}

fn empty(column: &str) -> DatabaseError {
    DatabaseError::new("read a row", format!("column {column} is empty"))
}

macro_rules! stored {
    ($($to:ty: $load:ident),+ $(,)?) => {$(
        impl Stored for $to {
            fn load(row: &Row, column: &str) -> Result<Option<Self>, sqlx::Error> {
                match &row.0 {
                    Native::Sqlite(row) => sqlite::$load(row, column),
                    Native::Postgres(row) => postgres::$load(row, column),
                }
            }
        }
    )+};
}

stored! { i64: int, bool: bool, String: text, Uuid: uuid, Timestamp: timestamp }
