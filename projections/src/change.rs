//! Changes of rows as values, coalesced: whatever happens to a row within one batch ends as at most one change of it.

use crate::table::{Key, Table, Value};
use std::collections::BTreeMap;

/// What a batch of events changes.
#[derive(Debug, Default)]
pub struct Changes {
    /// One entry per table that changes. A service has a handful.
    tables: Vec<(&'static Table, Rows)>,
}

/// Net change per row. Sorted, so that every database sees the rows of its trees in order and takes its locks in order.
pub(crate) type Rows = BTreeMap<Key, Change>;

/// Net change of one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It is inserted or updated: one cell per column outside the key.
    Write(Vec<Cell>),
    /// It is gone.
    Delete,
}

/// Net change of one column of one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cell {
    /// As it is; empty in a new row.
    Keep,
    /// This value.
    Set(Value),
    /// So much more than it is; an empty column counts as 0.
    Add(i64),
}

impl Changes {
    /// The row is exactly this: columns that are not named are empty.
    pub fn upsert<const N: usize>(
        &mut self,
        table: &'static Table,
        key: impl Into<Key>,
        row: [(usize, Value); N],
    ) {
        let mut cells = vec![Cell::Set(Value::Null); table.columns.len()];
        for (column, value) in row {
            cells[column] = Cell::Set(value);
        }
        self.rows(table).insert(key.into(), Change::Write(cells));
    }

    /// These columns have these values; the others stay. A row that does not exist comes into being.
    pub fn patch<const N: usize>(
        &mut self,
        table: &'static Table,
        key: impl Into<Key>,
        row: [(usize, Value); N],
    ) {
        self.merge(table, key.into(), row.map(|(column, value)| (column, Cell::Set(value))));
    }

    /// A number grows by `by`; an empty one counts as 0. A row that does not exist comes into being.
    pub fn increment(&mut self, table: &'static Table, key: impl Into<Key>, column: usize, by: i64) {
        self.merge(table, key.into(), [(column, Cell::Add(by))]);
    }

    /// There is no such row.
    pub fn delete(&mut self, table: &'static Table, key: impl Into<Key>) {
        self.rows(table).insert(key.into(), Change::Delete);
    }

    /// The rows that change.
    pub(crate) fn keys(&self) -> impl Iterator<Item = (&'static Table, &Key)> {
        self.tables.iter().flat_map(|(table, rows)| rows.keys().map(move |key| (*table, key)))
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// Leaves out what changes in other tables.
    pub(crate) fn keep(&mut self, name: &str) {
        self.tables.retain(|(table, _)| table.name == name);
    }

    /// What changes, table by table.
    pub(crate) fn tables(&self) -> impl Iterator<Item = (&'static Table, &Rows)> {
        self.tables.iter().map(|(table, rows)| (*table, rows))
    }

    pub(crate) fn into_tables(self) -> Vec<(&'static Table, Rows)> {
        self.tables
    }

    fn rows(&mut self, table: &'static Table) -> &mut Rows {
        let place = self.tables.iter().position(|(known, _)| known.name == table.name);
        let place = place.unwrap_or_else(|| {
            self.tables.push((table, Rows::new()));
            self.tables.len() - 1
        });
        &mut self.tables[place].1
    }

    fn merge<const N: usize>(&mut self, table: &'static Table, key: Key, row: [(usize, Cell); N]) {
        let change = self.rows(table).entry(key);
        let change = change.or_insert_with(|| Change::Write(vec![Cell::Keep; table.columns.len()]));
        if *change == Change::Delete {
            *change = Change::Write(vec![Cell::Set(Value::Null); table.columns.len()]);
        }
        if let Change::Write(cells) = change {
            for (column, cell) in row {
                cells[column].follow(cell);
            }
        }
    }
}

impl Cell {
    /// What this change and then `next` come to.
    fn follow(&mut self, next: Self) {
        *self = match (&*self, next) {
            (_, Self::Keep) => return,
            (Self::Set(value), Self::Add(by)) => Self::Set(Value::Int(number(value).saturating_add(by))),
            (Self::Add(before), Self::Add(by)) => Self::Add(before.saturating_add(by)),
            (_, next) => next,
        };
    }
}

fn number(value: &Value) -> i64 {
    if let Value::Int(number) = value { *number } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Type;
    use proptest::prelude::*;

    static TABLE: Table = Table {
        name: "t",
        key: &[("id", Type::Int)],
        columns: &[("a", Type::Int), ("b", Type::Int), ("c", Type::Int)],
        indexes: &[],
    };

    #[derive(Clone, Debug)]
    enum Op {
        Upsert(i64, [i64; 3]),
        Patch(i64, usize, i64),
        Increment(i64, usize, i64),
        Delete(i64),
    }

    fn apply(changes: &mut Changes, op: &Op) {
        match *op {
            Op::Upsert(id, row) => {
                changes.upsert(&TABLE, id, [0, 1, 2].map(|column| (column, Value::Int(row[column]))));
            }
            Op::Patch(id, column, value) => changes.patch(&TABLE, id, [(column, Value::Int(value))]),
            Op::Increment(id, column, by) => changes.increment(&TABLE, id, column, by),
            Op::Delete(id) => changes.delete(&TABLE, id),
        }
    }

    /// The smallest database there is.
    fn write(database: &mut BTreeMap<Key, Vec<Value>>, changes: Changes) {
        for (key, change) in changes.into_tables().into_iter().flat_map(|(_, rows)| rows) {
            let Change::Write(cells) = change else {
                database.remove(&key);
                continue;
            };
            let row = database.entry(key).or_insert_with(|| vec![Value::Null; 3]);
            for (value, cell) in row.iter_mut().zip(cells) {
                match cell {
                    Cell::Keep => {}
                    Cell::Set(new) => *value = new,
                    Cell::Add(by) => *value = Value::Int(number(value) + by),
                }
            }
        }
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let (id, column, value) = (0..4_i64, 0..3_usize, -9..9_i64);
        let op = prop_oneof![
            (id.clone(), prop::array::uniform3(value.clone())).prop_map(|(id, row)| Op::Upsert(id, row)),
            (id.clone(), column.clone(), value.clone()).prop_map(|(id, c, v)| Op::Patch(id, c, v)),
            (id.clone(), column, value).prop_map(|(id, c, by)| Op::Increment(id, c, by)),
            id.prop_map(Op::Delete),
        ];
        prop::collection::vec(op, 0..40)
    }

    proptest! {
        #[test]
        fn coalesced_changes_are_the_changes_one_by_one(before in ops(), batch in ops()) {
            let mut singly = BTreeMap::new();
            for op in before.iter().chain(&batch) {
                let mut one = Changes::default();
                apply(&mut one, op);
                write(&mut singly, one);
            }
            let mut coalesced = BTreeMap::new();
            for ops in [before, batch] {
                let mut changes = Changes::default();
                for op in &ops {
                    apply(&mut changes, op);
                }
                write(&mut coalesced, changes);
            }
            prop_assert_eq!(singly, coalesced);
        }
    }
}
