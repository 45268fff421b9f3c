//! Tables as data: what a read model consists of. No SQL here, so that one declaration serves every database.

use events::{AccountId, EventId, OrderId, Sku, UserId};
use jiff::Timestamp;
use std::borrow::Cow;
use uuid::Uuid;

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// An identifier.
    Uuid,
    /// Text.
    Text,
    /// A whole number of 64 bits.
    Int,
    /// A moment, to the microsecond.
    Timestamp,
    /// A JSON document.
    Json,
    /// Yes or no.
    Bool,
}

/// One table. Columns beside the key may be empty: a row can come into being piece by piece, from several streams.
#[derive(Debug)]
pub struct Table {
    /// Its name.
    pub name: &'static str,
    /// Name and type of the columns that tell rows apart.
    pub key: &'static [(&'static str, Type)],
    /// Name and type of every other column, at most 32.
    pub columns: &'static [(&'static str, Type)],
    /// Columns of each index.
    pub indexes: &'static [&'static [&'static str]],
}

impl Table {
    /// Place of a column outside the key. For `row!`, which asks at compile time.
    ///
    /// # Panics
    /// Where there is no such column, which fails the build.
    pub const fn column(&self, name: &str) -> usize {
        let mut place = 0;
        while place < self.columns.len() {
            if same(self.columns[place].0, name) {
                return place;
            }
            place += 1;
        }
        panic!("no such column")
    }

    /// Every column in order: the key, then the others.
    pub fn all(&self) -> impl Iterator<Item = &'static (&'static str, Type)> {
        self.key.iter().chain(self.columns)
    }
}

/// What a column is called in JSON: `user_id` is `userId`.
pub fn member(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |text, word| {
        let (head, rest) = word.split_at_checked(1).unwrap_or_default();
        text + &head.to_ascii_uppercase() + rest
    })
}

/// Whether two texts are the same, for `const` code.
const fn same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut place = 0;
    while place < a.len() && place < b.len() && a[place] == b[place] {
        place += 1;
    }
    place == a.len() && place == b.len()
}

/// Columns of a table with their values, by name: `row!(ORDERS { status: "pending", version: 1 })`. A name the table does
/// not have fails the build.
macro_rules! row {
    ($table:ident { $($column:ident: $value:expr),+ $(,)? }) => {
        [$((const { $table.column(stringify!($column)) }, $crate::table::Value::from($value))),+]
    };
}
pub(crate) use row;

/// What one column of one row holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    /// Nothing.
    #[default]
    Null,
    /// Yes or no.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A moment.
    Timestamp(Timestamp),
    /// An identifier.
    Uuid(Uuid),
    /// Text.
    Text(Cow<'static, str>),
    /// A JSON document, as text.
    Json(String),
}

impl Value {
    /// A JSON document; empty where JSON cannot hold the value, which facts rule out by their types.
    pub fn json(value: &impl serde::Serialize) -> Self {
        let Ok(text) = serde_json::to_string(value) else { return Self::Null };
        if !text.contains("\\u0000") {
            return Self::Json(text);
        }
        serde_json::from_str(&text).map_or(Self::Null, |document| Self::Json(replaced(document).to_string()))
    }

    /// The name that JSON has for the variant of an enum.
    pub fn name(variant: impl serde::Serialize) -> Self {
        match serde_json::to_value(variant) {
            Ok(serde_json::Value::String(name)) => name.into(),
            _ => Self::Null,
        }
    }
}

/// Text without the zero character, which PostgreSQL has none of; the mark for what cannot be shown stands there.
fn readable(text: String) -> String {
    if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text }
}

/// The same, in a document.
fn replaced(document: serde_json::Value) -> serde_json::Value {
    use serde_json::Value::{Array, Object, String};
    match document {
        String(text) => String(readable(text)),
        Array(items) => Array(items.into_iter().map(replaced).collect()),
        Object(fields) => {
            Object(fields.into_iter().map(|(name, field)| (readable(name), replaced(field))).collect())
        }
        other => other,
    }
}

macro_rules! values {
    ($($from:ty: $value:ident => $into:expr),+ $(,)?) => {$(
        impl From<$from> for Value {
            fn from($value: $from) -> Self {
                $into
            }
        }
    )+};
}

values! {
    bool: it => Self::Bool(it),
    i64: it => Self::Int(it),
    // Sequences, versions and totals stay far below 2^63.
    u64: it => i64::try_from(it).map_or(Self::Null, Self::Int),
    Timestamp: it => Self::Timestamp(it),
    Uuid: it => Self::Uuid(it),
    OrderId: it => Self::Uuid(it.uuid()),
    UserId: it => Self::Uuid(it.uuid()),
    AccountId: it => Self::Uuid(it.uuid()),
    EventId: it => Self::Uuid(it.uuid()),
    &Sku: it => Self::Text(it.as_str().to_owned().into()),
    &'static str: it => Self::Text(it.into()),
    String: it => Self::Text(readable(it).into()),
    Cow<'static, str>: it => Self::Text(it),
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// What tells a row from the others of its table: one value per key column.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(pub(crate) Vec<Value>);

impl<T: Into<Value>> From<T> for Key {
    fn from(value: T) -> Self {
        Self(vec![value.into()])
    }
}

impl<const N: usize> From<[Value; N]> for Key {
    fn from(values: [Value; N]) -> Self {
        Self(values.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARCELS: Table = Table {
        name: "parcels",
        key: &[("id", Type::Int)],
        columns: &[("city", Type::Text), ("weight", Type::Int)],
        indexes: &[],
    };

    #[test]
    fn columns_are_named_at_compile_time() {
        let row = row!(PARCELS { weight: 5_i64, city: "Bern" });
        assert_eq!(row, [(1, Value::Int(5)), (0, Value::Text("Bern".into()))]);
        assert!(!same("a", "ab") && !same("ab", "a") && same("ab", "ab"));
    }
}
