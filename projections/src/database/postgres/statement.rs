//! Bulk writes: the rows of one table and one shape are one statement, with one array per column; those that are new need
//! less.

use super::{insert::Inserts, value::Column};
use crate::{
    change::{Cell, Change, Changes},
    database::DatabaseError,
    table::{Key, Table, Type, Value},
};
use sqlx::{Arguments, AssertSqlSafe, PgConnection, postgres::PgArguments, query_with};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// What a statement does to each of its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Shape {
    /// Sets the columns of the first mask and adds to those of the second.
    Write(u32, u32),
    /// Deletes the row.
    Delete,
}

/// The texts of the statements used so far, and what is known of tables.
#[derive(Debug, Default)]
pub(super) struct Statements {
    texts: HashMap<(&'static str, Shape), Arc<str>>,
    inserts: Inserts,
}

impl Statements {
    /// Writes the net changes of all tables. False where the transaction is void, because a row was taken for a new one and is
    /// none: it has to be written again, which each table asks for at most once.
    pub(super) async fn write(
        &mut self,
        connection: &mut PgConnection,
        changes: &Changes,
    ) -> Result<bool, DatabaseError> {
        for (table, shape, rows) in shapes(changes) {
            if !shape.is_whole(table) || !self.inserts.pays(table, rows.len()) {
                self.merge(connection, table, shape, &rows).await?;
            } else if !self.inserts.insert(connection, table, &rows).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The same, where no row is taken for a new one.
    pub(super) async fn merge_all(
        &mut self,
        connection: &mut PgConnection,
        changes: &Changes,
    ) -> Result<(), DatabaseError> {
        for (table, shape, rows) in shapes(changes) {
            self.merge(connection, table, shape, &rows).await?;
        }
        Ok(())
    }

    /// Writes rows that may be there already.
    async fn merge(
        &mut self,
        connection: &mut PgConnection,
        table: &'static Table,
        shape: Shape,
        rows: &[(&Key, &Change)],
    ) -> Result<(), DatabaseError> {
        let mut columns: Vec<_> = shape.columns(table).map(|(_, kind)| Column::new(*kind)).collect();
        for (Key(key), change) in rows {
            let (of_key, others) = columns.split_at_mut(key.len());
            for (column, value) in of_key.iter_mut().zip(key) {
                column.push(value)?;
            }
            let Change::Write(cells) = change else { continue };
            let changed = cells.iter().filter(|cell| **cell != Cell::Keep);
            for (column, cell) in others.iter_mut().zip(changed) {
                match cell {
                    Cell::Keep => {}
                    Cell::Set(value) => column.push(value)?,
                    Cell::Add(by) => column.push(&Value::Int(*by))?,
                }
            }
        }
        let mut arguments = PgArguments::default();
        for column in columns {
            let added = arguments.add(column);
            added.map_err(|error| DatabaseError::new("write a value", error))?;
        }
        let text = self.texts.entry((table.name, shape));
        let text = text.or_insert_with(|| shape.sql(table).into()).clone();
        let done = query_with(AssertSqlSafe(text), arguments).execute(connection).await;
        done.map_err(|error| DatabaseError::new("write to the read model", error))?;
        Ok(())
    }
}

/// The rows of each shape, table by table.
fn shapes(changes: &Changes) -> impl Iterator<Item = (&'static Table, Shape, Vec<(&Key, &Change)>)> {
    changes.tables().flat_map(|(table, rows)| {
        let mut shapes: BTreeMap<Shape, Vec<(&Key, &Change)>> = BTreeMap::new();
        for (key, change) in rows {
            shapes.entry(Shape::of(change)).or_default().push((key, change));
        }
        shapes.into_iter().map(move |(shape, rows)| (table, shape, rows))
    })
}

impl Shape {
    fn of(change: &Change) -> Self {
        let Change::Write(cells) = change else { return Self::Delete };
        let mask = |wanted: fn(&Cell) -> bool| {
            cells.iter().rev().fold(0, |mask, cell| mask << 1 | u32::from(wanted(cell)))
        };
        Self::Write(mask(|cell| matches!(cell, Cell::Set(_))), mask(|cell| matches!(cell, Cell::Add(_))))
    }

    /// Whether it says what is in every column.
    fn is_whole(self, table: &Table) -> bool {
        let Self::Write(set, _) = self else { return false };
        set.count_ones() as usize == table.columns.len()
    }

    /// The columns that a statement has values for: the key, then those that change.
    fn columns(self, table: &'static Table) -> impl Iterator<Item = &'static (&'static str, Type)> {
        let mask = match self {
            Self::Write(set, add) => set | add,
            Self::Delete => 0,
        };
        let changes = move |(place, column)| ((mask >> place) & 1 == 1).then_some(column);
        table.key.iter().chain(table.columns.iter().enumerate().filter_map(changes))
    }

    /// The statement for rows of `table`: its parameters are arrays, one per column.
    fn sql(self, table: &'static Table) -> String {
        let key: Vec<_> = table.key.iter().map(|(name, _)| *name).collect();
        let key = key.join(", ");
        let names: Vec<_> = self.columns(table).map(|(name, _)| *name).collect();
        let arrays: Vec<_> = (1..=names.len()).map(|place| format!("${place}")).collect();
        let arrays = arrays.join(", ");
        let name = table.name;
        let Self::Write(_, add) = self else {
            return format!("DELETE FROM {name} WHERE ({key}) IN (SELECT * FROM unnest({arrays}))");
        };
        let update = names[table.key.len()..].iter().map(|column| {
            if (add >> table.column(column)) & 1 == 1 {
                format!("{column} = coalesce({name}.{column}, 0) + excluded.{column}")
            } else {
                format!("{column} = excluded.{column}")
            }
        });
        let update = update.collect::<Vec<_>>().join(", ");
        let update = if update.is_empty() { "NOTHING".to_owned() } else { format!("UPDATE SET {update}") };
        format!(
            "INSERT INTO {name} ({}) SELECT * FROM unnest({arrays}) ON CONFLICT ({key}) DO {update}",
            names.join(", ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static TABLE: Table = Table {
        name: "t",
        key: &[("a", Type::Int), ("b", Type::Int)],
        columns: &[("c", Type::Text), ("d", Type::Int), ("e", Type::Int)],
        indexes: &[],
    };

    #[test]
    fn a_shape_is_one_text() {
        let change = Change::Write(vec![Cell::Set(Value::Null), Cell::Keep, Cell::Add(1)]);
        assert_eq!(
            Shape::of(&change).sql(&TABLE),
            "INSERT INTO t (a, b, c, e) SELECT * FROM unnest($1, $2, $3, $4) ON CONFLICT (a, b) \
             DO UPDATE SET c = excluded.c, e = coalesce(t.e, 0) + excluded.e"
        );
        let nothing = Change::Write(vec![Cell::Keep; 3]);
        let sql = Shape::of(&nothing).sql(&TABLE);
        assert_eq!(sql, "INSERT INTO t (a, b) SELECT * FROM unnest($1, $2) ON CONFLICT (a, b) DO NOTHING");
        let sql = Shape::of(&Change::Delete).sql(&TABLE);
        assert_eq!(sql, "DELETE FROM t WHERE (a, b) IN (SELECT * FROM unnest($1, $2))");
    }
}
