//! Bulk writes: rows of one table and one shape share a statement with one group of values per row.
//!
//! Measured on SQLite 3.51 itself (rows of a history, 1000 per transaction): values bound for 10 to 100 rows at a time
//! 370 to 530 thousand rows/s, one `json_each` statement for all of them 180 thousand.

use crate::{
    change::{Cell, Change, Rows},
    database::DatabaseError,
    table::{Key, Table, Value},
};
use sqlx::{Arguments, AssertSqlSafe, Sqlite, SqliteConnection, query_with, sqlite::SqliteArguments};
use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write,
    sync::Arc,
};

/// Rows of one statement at most. What remains of a batch goes into statements of half the rows, and half again, so that
/// few texts are enough for every batch. Each statement is handed to the thread of the connection and back; SQLite takes
/// 32766 values at a time.
const MOST: usize = 512;

/// What a statement does to each of its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Shape {
    /// Sets the columns of the first mask and adds to those of the second.
    Write(u32, u32),
    /// Deletes the row.
    Delete,
}

/// The texts of the statements used so far.
#[derive(Debug, Default)]
pub(super) struct Statements(HashMap<(&'static str, Shape, usize), Arc<str>>);

impl Statements {
    /// Writes the net changes of one table.
    pub(super) async fn write(
        &mut self,
        connection: &mut SqliteConnection,
        table: &'static Table,
        rows: Rows,
    ) -> Result<(), DatabaseError> {
        let mut shapes: BTreeMap<Shape, Vec<(Key, Change)>> = BTreeMap::new();
        for (key, change) in rows {
            shapes.entry(Shape::of(&change)).or_default().push((key, change));
        }
        for (shape, rows) in shapes {
            let (mut left, mut rows) = (rows.len(), rows.into_iter());
            while left > 0 {
                let count = if left >= MOST { MOST } else { 1 << left.ilog2() };
                left -= count;
                let mut arguments = SqliteArguments::default();
                for (Key(key), change) in rows.by_ref().take(count) {
                    key.into_iter().try_for_each(|value| bind(&mut arguments, value))?;
                    if let Change::Write(cells) = change {
                        cells.into_iter().try_for_each(|cell| bind_cell(&mut arguments, cell))?;
                    }
                }
                let text = self.0.entry((table.name, shape, count));
                let text = text.or_insert_with(|| shape.sql(table, count).into()).clone();
                let done = query_with(AssertSqlSafe(text), arguments).execute(&mut *connection).await;
                done.map_err(|error| DatabaseError::new("write to the read model", error))?;
            }
        }
        Ok(())
    }
}

impl Shape {
    fn of(change: &Change) -> Self {
        let Change::Write(cells) = change else { return Self::Delete };
        let mask = |wanted: fn(&Cell) -> bool| {
            cells.iter().rev().fold(0, |mask, cell| mask << 1 | u32::from(wanted(cell)))
        };
        Self::Write(mask(|cell| matches!(cell, Cell::Set(_))), mask(|cell| matches!(cell, Cell::Add(_))))
    }

    /// The statement for `rows` rows of `table`. Values are in the order of its columns, row by row.
    fn sql(self, table: &Table, rows: usize) -> String {
        let key: Vec<_> = table.key.iter().map(|(name, _)| *name).collect();
        let Self::Write(set, add) = self else {
            let groups = groups(key.len(), rows);
            return format!("DELETE FROM {} WHERE ({}) IN (VALUES {groups})", table.name, key.join(", "));
        };
        let mut names = key.clone();
        let mut update = String::new();
        for (place, (name, _)) in table.columns.iter().enumerate() {
            let separator = if update.is_empty() { "UPDATE SET " } else { ", " };
            // Writing to a string cannot fail.
            let _ = match ((set >> place) & 1, (add >> place) & 1) {
                (1, _) => write!(update, "{separator}{name} = excluded.{name}"),
                (_, 1) => {
                    let table = table.name;
                    write!(update, "{separator}{name} = coalesce({table}.{name}, 0) + excluded.{name}")
                }
                _ => continue,
            };
            names.push(name);
        }
        let update = if update.is_empty() { "NOTHING" } else { &update };
        format!(
            "INSERT INTO {} ({}) VALUES {} ON CONFLICT ({}) DO {update}",
            table.name,
            names.join(", "),
            groups(names.len(), rows),
            key.join(", ")
        )
    }
}

/// `(?, ?), (?, ?)`: so many groups of so many parameters.
fn groups(width: usize, rows: usize) -> String {
    let group = format!("({})", vec!["?"; width].join(", "));
    vec![group; rows].join(", ")
}

/// The parameters of a query.
pub(super) fn arguments(values: Vec<Value>) -> Result<SqliteArguments, DatabaseError> {
    let mut arguments = SqliteArguments::default();
    values.into_iter().try_for_each(|value| bind(&mut arguments, value))?;
    Ok(arguments)
}

fn bind_cell(arguments: &mut SqliteArguments, cell: Cell) -> Result<(), DatabaseError> {
    match cell {
        Cell::Keep => Ok(()),
        Cell::Set(value) => bind(arguments, value),
        Cell::Add(by) => bind(arguments, Value::Int(by)),
    }
}

fn bind(arguments: &mut SqliteArguments, value: Value) -> Result<(), DatabaseError> {
    fn add<'t, T: sqlx::Encode<'t, Sqlite> + sqlx::Type<Sqlite>>(
        arguments: &mut SqliteArguments,
        value: T,
    ) -> Result<(), sqlx::error::BoxDynError> {
        Arguments::add(arguments, value)
    }
    let added = match value {
        Value::Null => add(arguments, None::<i64>),
        Value::Bool(it) => add(arguments, it),
        Value::Int(it) => add(arguments, it),
        Value::Timestamp(it) => add(arguments, it.as_microsecond()),
        Value::Uuid(it) => add(arguments, it.into_bytes().to_vec()),
        Value::Text(it) => add(arguments, it),
        Value::Json(it) => add(arguments, it),
    };
    added.map_err(|error| DatabaseError::new("write a value", error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Type;

    const TABLE: Table = Table {
        name: "t",
        key: &[("a", Type::Int), ("b", Type::Int)],
        columns: &[("c", Type::Text), ("d", Type::Int), ("e", Type::Int)],
        indexes: &[],
    };

    #[test]
    fn a_shape_is_one_text() {
        let change = Change::Write(vec![Cell::Set(Value::Null), Cell::Keep, Cell::Add(1)]);
        assert_eq!(
            Shape::of(&change).sql(&TABLE, 2),
            "INSERT INTO t (a, b, c, e) VALUES (?, ?, ?, ?), (?, ?, ?, ?) ON CONFLICT (a, b) \
             DO UPDATE SET c = excluded.c, e = coalesce(t.e, 0) + excluded.e"
        );
        let nothing = Change::Write(vec![Cell::Keep; 3]);
        let sql = Shape::of(&nothing).sql(&TABLE, 1);
        assert_eq!(sql, "INSERT INTO t (a, b) VALUES (?, ?) ON CONFLICT (a, b) DO NOTHING");
        let sql = Shape::of(&Change::Delete).sql(&TABLE, 2);
        assert_eq!(sql, "DELETE FROM t WHERE (a, b) IN (VALUES (?, ?), (?, ?))");
    }
}
