//! All tables as they are at one moment, and where they differ from others.

use super::{Database, DatabaseError, schema};
use crate::{table::Table, view::View};
use events::Position;
use futures::{TryStreamExt, stream::BoxStream};
use sqlx::{
    AssertSqlSafe, ConnectOptions, Row as _, SqliteConnection, TypeInfo, ValueRef, query, sqlite::SqliteRow,
};

/// The tables as they are at one moment, whatever is written meanwhile.
#[derive(Debug)]
pub struct Moment {
    connection: SqliteConnection,
    checkpoints: Vec<Position>,
    view: &'static View,
}

/// A row that two read models do not agree about. Without its values, which may be personal data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The table.
    pub table: &'static str,
    /// The row's key.
    pub key: String,
    /// What is wrong with it.
    pub kind: Disagreement,
}

/// How two read models disagree about a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Disagreement {
    /// Only the other one has it.
    Missing,
    /// The other one does not have it.
    Unexpected,
    /// These columns differ.
    Differs(Vec<&'static str>),
}

/// Differences listed at most: more say nothing more.
const MOST: usize = 1000;

/// A value as it is stored. Sorted as SQLite sorts within one column.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Raw {
    Null,
    Int(i64),
    Text(String),
    Blob(Vec<u8>),
}

impl Database {
    /// The tables as they are now.
    pub async fn moment(&self) -> Result<Moment, DatabaseError> {
        let failed = |error| DatabaseError::new("read the tables", error);
        let mut connection = self.options.connect().await.map_err(failed)?;
        // The transaction ends with the connection. It sees what was there at its first read.
        query("BEGIN").execute(&mut connection).await.map_err(failed)?;
        let checkpoints = schema::checkpoints(&mut connection, self.view).await?;
        Ok(Moment { connection, checkpoints, view: self.view })
    }
}

impl Moment {
    /// Up to where each stream is in the tables.
    pub fn checkpoints(&self) -> &[Position] {
        &self.checkpoints
    }

    /// Where this differs from `right`, the way it should be: in the order of tables and keys.
    pub async fn differences(&mut self, right: &mut Self) -> Result<Vec<Difference>, DatabaseError> {
        let mut found = Vec::new();
        for table in self.view.tables {
            compare(table, rows(&mut self.connection, table), rows(&mut right.connection, table), &mut found)
                .await
                .map_err(|error| DatabaseError::new("compare the tables", error))?;
        }
        Ok(found)
    }
}

type Rows<'a> = BoxStream<'a, Result<SqliteRow, sqlx::Error>>;

fn rows<'a>(connection: &'a mut SqliteConnection, table: &Table) -> Rows<'a> {
    let names: Vec<_> = table.all().map(|(name, _)| *name).collect();
    let key = &names[..table.key.len()];
    let sql = format!("SELECT {} FROM {} ORDER BY {}", names.join(", "), table.name, key.join(", "));
    query(AssertSqlSafe(sql)).fetch(connection)
}

/// Walks through both in step, as both are sorted by key.
async fn compare(
    table: &'static Table,
    mut left: Rows<'_>,
    mut right: Rows<'_>,
    found: &mut Vec<Difference>,
) -> Result<(), sqlx::Error> {
    let width = table.key.len();
    let (mut ours, mut theirs) = (next(&mut left).await?, next(&mut right).await?);
    while found.len() < MOST {
        let order = match (&ours, &theirs) {
            (None, None) => break,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some(ours), Some(theirs)) => ours[..width].cmp(&theirs[..width]),
        };
        let mut differ = |row: &Option<Vec<Raw>>, kind| {
            let key: Vec<_> = row.iter().flatten().take(width).map(Raw::shown).collect();
            found.push(Difference { table: table.name, key: key.join(" "), kind });
        };
        if order.is_lt() {
            differ(&ours, Disagreement::Unexpected);
        } else if order.is_gt() {
            differ(&theirs, Disagreement::Missing);
        } else if ours != theirs {
            let values = ours.iter().flatten().zip(theirs.iter().flatten()).zip(table.all());
            let columns = values.filter(|((ours, theirs), _)| ours != theirs).map(|(_, (name, _))| *name);
            differ(&ours, Disagreement::Differs(columns.collect()));
        }
        if order.is_le() {
            ours = next(&mut left).await?;
        }
        if order.is_ge() {
            theirs = next(&mut right).await?;
        }
    }
    Ok(())
}

async fn next(rows: &mut Rows<'_>) -> Result<Option<Vec<Raw>>, sqlx::Error> {
    let Some(row) = rows.try_next().await? else { return Ok(None) };
    (0..row.len()).map(|column| Raw::of(&row, column)).collect::<Result<_, _>>().map(Some)
}

impl Raw {
    fn of(row: &SqliteRow, column: usize) -> Result<Self, sqlx::Error> {
        let value = row.try_get_raw(column)?;
        if value.is_null() {
            return Ok(Self::Null);
        }
        Ok(match value.type_info().name() {
            "INTEGER" => Self::Int(row.try_get(column)?),
            "BLOB" => Self::Blob(row.try_get(column)?),
            _ => Self::Text(row.try_get(column)?),
        })
    }

    fn shown(&self) -> String {
        match self {
            Self::Null => "-".to_owned(),
            Self::Int(number) => number.to_string(),
            Self::Text(text) => text.clone(),
            Self::Blob(bytes) => {
                uuid::Uuid::from_slice(bytes).map_or_else(|_| format!("{bytes:?}"), |id| id.to_string())
            }
        }
    }
}
