//! All tables as they are at one moment, and where they differ from others.

use super::{DatabaseError, Parked, postgres, sqlite};
use crate::{
    table::{Table, Value},
    view::View,
};
use events::Position;
use futures::{TryStreamExt, stream::BoxStream};
use sha2::{Digest, Sha256};
use sqlx::{PgConnection, SqliteConnection};
use std::cmp::Ordering;

/// The tables as they are at one moment, whatever is written meanwhile.
#[derive(Debug)]
pub struct Moment {
    connection: Connection,
    checkpoints: Vec<Position>,
    view: &'static View,
}

/// A connection in a transaction, which ends with it.
#[derive(Debug)]
pub(super) enum Connection {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
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

/// The rows of a table in the order of its key: one value per column.
pub(super) type Rows<'a> = BoxStream<'a, Result<Vec<Value>, sqlx::Error>>;

impl Moment {
    pub(super) const fn new(connection: Connection, checkpoints: Vec<Position>, view: &'static View) -> Self {
        Self { connection, checkpoints, view }
    }

    /// Up to where each stream is in the tables.
    pub fn checkpoints(&self) -> &[Position] {
        &self.checkpoints
    }

    /// Where the tables begin, in the streams in which they do not begin at the first event.
    pub async fn since(&mut self) -> Result<Vec<Position>, DatabaseError> {
        match &mut self.connection {
            Connection::Sqlite(connection) => sqlite::begins(connection, self.view).await,
            Connection::Postgres(connection) => postgres::begins(connection, self.view).await,
        }
    }

    /// What waits in them.
    pub(crate) async fn parked(&mut self) -> Result<Vec<Parked>, DatabaseError> {
        match &mut self.connection {
            Connection::Sqlite(connection) => sqlite::parked(connection, self.view.name).await,
            Connection::Postgres(connection) => postgres::parked(connection, self.view.name).await,
        }
    }

    /// The same for the same rows, on every database: a hash over all tables, rows in the order of their keys.
    pub async fn digest(&mut self) -> Result<String, DatabaseError> {
        let mut digest = Sha256::new();
        for table in self.view.tables {
            digest.update(format!("{}\n", table.name));
            let mut rows = self.connection.rows(table);
            let failed = |error| DatabaseError::new("read the tables", error);
            while let Some(row) = rows.try_next().await.map_err(failed)? {
                for value in &row {
                    // With a length before it, no value runs into the next.
                    let text = canonical(value);
                    digest.update(format!("{}:{text}", text.len()));
                }
                digest.update("\n");
            }
        }
        Ok(digest.finalize().iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}")))
    }

    /// Where this differs from `right`, the way it should be: in the order of tables and keys.
    pub async fn differences(&mut self, right: &mut Self) -> Result<Vec<Difference>, DatabaseError> {
        let mut found = Vec::new();
        for table in self.view.tables {
            compare(table, self.connection.rows(table), right.connection.rows(table), &mut found)
                .await
                .map_err(|error| DatabaseError::new("compare the tables", error))?;
        }
        Ok(found)
    }
}

impl Connection {
    fn rows<'a>(&'a mut self, table: &'static Table) -> Rows<'a> {
        match self {
            Self::Sqlite(connection) => sqlite::rows(connection, table),
            Self::Postgres(connection) => postgres::rows(connection, table),
        }
    }
}

/// Walks through both in step, as both are sorted by key.
async fn compare(
    table: &'static Table,
    mut left: Rows<'_>,
    mut right: Rows<'_>,
    found: &mut Vec<Difference>,
) -> Result<(), sqlx::Error> {
    let width = table.key.len();
    let (mut ours, mut theirs) = (left.try_next().await?, right.try_next().await?);
    while found.len() < MOST {
        let order = match (&ours, &theirs) {
            (None, None) => break,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(ours), Some(theirs)) => ours[..width].cmp(&theirs[..width]),
        };
        let mut differ = |row: &Option<Vec<Value>>, kind| {
            let key: Vec<_> = row.iter().flatten().take(width).map(shown).collect();
            found.push(Difference { table: table.name, key: key.join(" "), kind });
        };
        if order.is_lt() {
            differ(&ours, Disagreement::Unexpected);
        } else if order.is_gt() {
            differ(&theirs, Disagreement::Missing);
        } else {
            let values = ours.iter().flatten().zip(theirs.iter().flatten()).zip(table.all());
            let columns =
                values.filter(|((ours, theirs), _)| !same(ours, theirs)).map(|(_, (name, _))| *name);
            let columns: Vec<_> = columns.collect();
            if !columns.is_empty() {
                differ(&ours, Disagreement::Differs(columns));
            }
        }
        if order.is_le() {
            ours = left.try_next().await?;
        }
        if order.is_ge() {
            theirs = right.try_next().await?;
        }
    }
    Ok(())
}

/// A value as text that is the same on every database: of a document the text may differ.
fn canonical(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::Json(text) => match serde_json::from_str::<serde_json::Value>(text) {
            Ok(document) => document.to_string(),
            Err(_) => text.clone(),
        },
        other => format!("={}", shown(other)),
    }
}

/// Whether two columns say the same. Of a document the text may differ: a database may keep it in a form of its own.
fn same(left: &Value, right: &Value) -> bool {
    let (Value::Json(left), Value::Json(right)) = (left, right) else { return left == right };
    let read = |text: &str| serde_json::from_str::<serde_json::Value>(text).ok();
    left == right || matches!((read(left), read(right)), (Some(left), Some(right)) if left == right)
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::Bool(it) => it.to_string(),
        Value::Int(it) => it.to_string(),
        Value::Timestamp(it) => it.to_string(),
        Value::Uuid(it) => it.to_string(),
        Value::Text(it) => it.to_string(),
        Value::Json(it) => it.clone(),
    }
}
