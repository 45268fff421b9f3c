//! Rows as they are told: JSON with one member per column, sealed where the tables hold them sealed.

use super::pending::Rows;
use crate::{
    View,
    database::{Database, DatabaseError, Row},
    table::{Key, Table, Type, Value},
};
use events::feed;
use jiff::Timestamp;
use nats::FeedRow;
use serde_json::{Map, Value as Json};
use std::{
    collections::HashMap,
    fmt::Write,
    sync::{LazyLock, Mutex, PoisonError},
};
use uuid::Uuid;

/// Rows of one statement at most.
const MOST: usize = 64;

/// Reads these rows as they are now. Those that are not there are gone.
pub(super) async fn read(
    view: &View,
    database: &Database,
    wanted: &Rows,
) -> Result<Vec<FeedRow>, DatabaseError> {
    let mut told = Vec::with_capacity(wanted.len());
    for table in view.tables {
        let keys: Vec<_> =
            wanted.iter().filter(|(name, _)| *name == table.name).map(|(_, key)| key).collect();
        let mut left = &keys[..];
        while !left.is_empty() {
            // Few texts are enough for every count.
            let count = if left.len() >= MOST { MOST } else { 1 << left.len().ilog2() };
            let (now, later) = left.split_at(count);
            left = later;
            let values = now.iter().flat_map(|Key(parts)| parts.iter().cloned()).collect();
            let mut found = HashMap::new();
            for row in database.rows(sql(table, count), values).await? {
                let (key, body) = (key_of(table, &row)?, json(table, &row)?);
                found.insert(key, Json::Object(body).to_string());
            }
            told.extend(now.iter().map(|key| {
                let key: Vec<_> = key.0.iter().map(text).collect();
                let subject = feed::subject(view.name, table.name, key.iter().cloned());
                FeedRow { subject, body: found.remove(&key).map(Into::into) }
            }));
        }
    }
    Ok(told)
}

/// The texts that were ever needed: a handful per table, kept for ever.
static TEXTS: LazyLock<Mutex<HashMap<(&'static str, usize), &'static str>>> = LazyLock::new(Mutex::default);

/// Selects so many rows by key.
fn sql(table: &Table, rows: usize) -> &'static str {
    let mut texts = TEXTS.lock().unwrap_or_else(PoisonError::into_inner);
    let make = || {
        let names: Vec<_> = table.all().map(|(name, _)| *name).collect();
        let mut sql = format!("SELECT {} FROM {} WHERE ", names.join(", "), table.name);
        let mut parameter = 0;
        for row in 0..rows {
            sql.push_str(if row == 0 { "(" } else { " OR (" });
            for (place, (name, _)) in table.key.iter().enumerate() {
                parameter += 1;
                let and = if place == 0 { "" } else { " AND " };
                // Writing to a string cannot fail.
                let _ = write!(sql, "{and}{name} = ${parameter}");
            }
            sql.push(')');
        }
        &*sql.leak()
    };
    texts.entry((table.name, rows)).or_insert_with(make)
}

/// The row as JSON.
fn json(table: &Table, row: &Row) -> Result<Map<String, Json>, DatabaseError> {
    table.all().map(|(name, kind)| Ok((camel(name), column(row, name, *kind)?))).collect()
}

fn column(row: &Row, name: &'static str, kind: Type) -> Result<Json, DatabaseError> {
    Ok(match kind {
        Type::Uuid => row.find::<Uuid>(name)?.map(|id| id.to_string()).into(),
        Type::Text => row.find::<String>(name)?.into(),
        Type::Int => row.find::<i64>(name)?.into(),
        Type::Bool => row.find::<bool>(name)?.into(),
        Type::Timestamp => row.find::<Timestamp>(name)?.map(|time| time.to_string()).into(),
        Type::Json => row.find_json::<Json>(name)?.unwrap_or_default(),
    })
}

fn key_of(table: &Table, row: &Row) -> Result<Vec<String>, DatabaseError> {
    let part = |(name, kind): &(&'static str, Type)| {
        Ok(match column(row, name, *kind)? {
            Json::String(text) => text,
            other => other.to_string(),
        })
    };
    table.key.iter().map(part).collect()
}

/// A part of a key as text.
pub(crate) fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::Bool(it) => it.to_string(),
        Value::Int(it) => it.to_string(),
        Value::Timestamp(it) => it.to_string(),
        Value::Uuid(it) => it.to_string(),
        Value::Text(it) => it.to_string(),
        Value::Json(it) => it.clone(),
    }
}

/// `user_id` as `userId`.
fn camel(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |text, word| {
        let (head, rest) = word.split_at_checked(1).unwrap_or_default();
        text + &head.to_ascii_uppercase() + rest
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    static TABLE: Table = Table {
        name: "t",
        key: &[("a", Type::Int), ("b", Type::Text)],
        columns: &[("first_seen_at", Type::Timestamp)],
        indexes: &[],
    };

    #[test]
    fn rows_are_asked_for_by_key() {
        let expected = "SELECT a, b, first_seen_at FROM t WHERE (a = $1 AND b = $2) OR (a = $3 AND b = $4)";
        assert_eq!(sql(&TABLE, 2), expected);
        assert_eq!(camel("first_seen_at"), "firstSeenAt");
        assert_eq!(camel("id"), "id");
    }
}
