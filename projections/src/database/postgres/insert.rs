//! Rows that are new go in without looking for each first, as one array of rows of the table's own type. That takes the server half
//! of what arrays for each column and `ON CONFLICT` take. Where one was not new after all the whole transaction is void, and is
//! written again: a savepoint would cost two round trips each time, for what happens to a table once.
//!
//! `COPY` would take it a little less still. But it ends with a message of its own, which TCP holds back until the server has
//! acknowledged what came before, and the server takes 40 ms to (Nagle and delayed acknowledgements); the client library
//! offers no way to switch that off.

use super::value::{self, field};
use crate::{
    change::{Cell, Change},
    database::DatabaseError,
    table::{Key, Table, Type, Value},
};
use sqlx::{
    Arguments, AssertSqlSafe, Encode, PgConnection, Postgres,
    encode::IsNull,
    error::BoxDynError,
    postgres::{PgArgumentBuffer, PgArguments, PgTypeInfo, types::Oid},
    query_scalar, query_with,
};
use std::collections::{HashMap, HashSet};

/// Rows from which on it pays, for what it may cost.
const PAYS: usize = 100;

/// PostgreSQL's code for a row that is there already.
const UNIQUE_VIOLATION: &str = "23505";

/// What is known of tables whose rows were inserted so far.
#[derive(Debug, Default)]
pub(super) struct Inserts {
    /// The type of their rows, which is another one in every schema.
    types: HashMap<&'static str, u32>,
    /// Those where a whole row was not a new one.
    replaced: HashSet<&'static str>,
}

impl Inserts {
    /// Whether so many whole rows of a table are to be inserted: they are many and, as far as is known, new.
    pub(super) fn pays(&self, table: &Table, rows: usize) -> bool {
        rows >= PAYS && !self.replaced.contains(table.name)
    }

    /// Inserts whole rows. False where one is there already: the transaction is void, and from now on rows of this table are not
    /// taken for new ones.
    pub(super) async fn insert(
        &mut self,
        connection: &mut PgConnection,
        table: &'static Table,
        rows: &[(&Key, &Change)],
    ) -> Result<bool, DatabaseError> {
        let array = Array::of(self.kind(connection, table).await?, table, rows)?;
        let mut arguments = PgArguments::default();
        let added = arguments.add(array);
        added.map_err(|error| DatabaseError::new("write a value", error))?;
        let name = table.name;
        let sql = format!("INSERT INTO {name} SELECT * FROM unnest($1::{name}[])");
        match query_with(AssertSqlSafe(sql), arguments).execute(connection).await {
            Ok(_) => Ok(true),
            Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some(UNIQUE_VIOLATION) => {
                self.replaced.insert(name);
                Ok(false)
            }
            Err(error) => Err(DatabaseError::new("write to the read model", error)),
        }
    }

    /// The type of a table's rows.
    async fn kind(
        &mut self,
        connection: &mut PgConnection,
        table: &'static Table,
    ) -> Result<u32, DatabaseError> {
        if let Some(kind) = self.types.get(table.name) {
            return Ok(*kind);
        }
        let asked = query_scalar("SELECT to_regtype($1)::oid").bind(table.name).fetch_one(connection).await;
        let Oid(kind) = asked.map_err(|error| DatabaseError::new("ask for the type of a table", error))?;
        self.types.insert(table.name, kind);
        Ok(kind)
    }
}

/// An array of rows, in binary.
struct Array(Vec<u8>);

impl Array {
    fn of(kind: u32, table: &'static Table, rows: &[(&Key, &Change)]) -> Result<Self, DatabaseError> {
        let number =
            |count: usize| i32::try_from(count).map_err(|error| DatabaseError::new("write a value", error));
        let (count, fields) = (number(rows.len())?, number(table.all().count())?);
        // Most are about so long.
        let mut data = Vec::with_capacity(rows.len() * 32 * table.all().count());
        value::array(kind, count, &mut data);
        for (Key(key), change) in rows {
            let place = data.len();
            data.extend(0_i32.to_be_bytes());
            data.extend(fields.to_be_bytes());
            for (value, (_, kind)) in key.iter().zip(table.key) {
                typed(value, *kind, &mut data)?;
            }
            let Change::Write(cells) = change else { continue };
            for (cell, (_, kind)) in cells.iter().zip(table.columns) {
                if let Cell::Set(value) = cell {
                    typed(value, *kind, &mut data)?;
                }
            }
            let length = number(data.len() - place - 4)?;
            data[place..place + 4].copy_from_slice(&length.to_be_bytes());
        }
        Ok(Self(data))
    }
}

/// A field of a row: its type, and the value with its length.
fn typed(value: &Value, kind: Type, to: &mut Vec<u8>) -> Result<(), DatabaseError> {
    to.extend(value::oid(kind).to_be_bytes());
    field(value, kind, to)
}

impl sqlx::Type<Postgres> for Array {
    /// The statement says what it is.
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(0))
    }
}

impl Encode<'_, Postgres> for Array {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buffer.extend_from_slice(&self.0);
        Ok(IsNull::No)
    }
}
