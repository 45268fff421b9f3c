//! Values as the protocol of PostgreSQL has them, in binary.

use crate::{
    database::DatabaseError,
    table::{Type, Value},
};
use sqlx::{
    Arguments, Encode, Postgres,
    encode::IsNull,
    error::BoxDynError,
    postgres::{PgArgumentBuffer, PgArguments, PgTypeInfo, types::Oid},
};

/// Microseconds from 1970, where the program's time begins, to 2000, where the database's does.
pub(super) const EPOCH: i64 = 946_684_800_000_000;

/// The first byte of a binary `jsonb`: its version.
pub(super) const JSONB: u8 = 1;

/// The database's types, of one value and of an array of them. They are the same in every installation.
const fn oids(kind: Type) -> (u32, u32) {
    match kind {
        Type::Uuid => (2950, 2951),
        Type::Text => (25, 1009),
        Type::Int => (20, 1016),
        Type::Timestamp => (1184, 1185),
        Type::Json => (3802, 3807),
        Type::Bool => (16, 1000),
    }
}

/// The database's type.
pub(super) const fn oid(kind: Type) -> u32 {
    oids(kind).0
}

/// What a value is; nothing is of any type.
const fn kind(value: &Value) -> Option<Type> {
    Some(match value {
        Value::Null => return None,
        Value::Bool(_) => Type::Bool,
        Value::Int(_) => Type::Int,
        Value::Timestamp(_) => Type::Timestamp,
        Value::Uuid(_) => Type::Uuid,
        Value::Text(_) => Type::Text,
        Value::Json(_) => Type::Json,
    })
}

fn write(value: &Value, to: &mut Vec<u8>) {
    match value {
        Value::Null => {}
        Value::Bool(it) => to.push(u8::from(*it)),
        Value::Int(it) => to.extend(it.to_be_bytes()),
        Value::Timestamp(it) => to.extend((it.as_microsecond() - EPOCH).to_be_bytes()),
        Value::Uuid(it) => to.extend(it.as_bytes()),
        Value::Text(it) => to.extend(it.as_bytes()),
        Value::Json(it) => {
            to.push(JSONB);
            to.extend(it.as_bytes());
        }
    }
}

/// The parameters of a query.
pub(super) fn arguments(values: &[Value]) -> Result<PgArguments, DatabaseError> {
    let mut arguments = PgArguments::default();
    for value in values {
        let added = arguments.add(Parameter(value));
        added.map_err(|error| DatabaseError::new("write a value", error))?;
    }
    Ok(arguments)
}

/// One value. The database finds out what type nothing is of.
struct Parameter<'a>(&'a Value);

impl sqlx::Type<Postgres> for Parameter<'_> {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(0))
    }
}

impl Encode<'_, Postgres> for Parameter<'_> {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        write(self.0, buffer);
        Ok(if *self.0 == Value::Null { IsNull::Yes } else { IsNull::No })
    }

    fn produces(&self) -> Option<PgTypeInfo> {
        kind(self.0).map(|kind| PgTypeInfo::with_oid(Oid(oids(kind).0)))
    }
}

/// The values of one column, as an array.
#[derive(Debug)]
pub(super) struct Column {
    kind: Type,
    count: i32,
    bytes: Vec<u8>,
}

impl Column {
    pub(super) const fn new(kind: Type) -> Self {
        Self { kind, count: 0, bytes: Vec::new() }
    }

    /// Adds a value. An error where it is not of the column's type.
    pub(super) fn push(&mut self, value: &Value) -> Result<(), DatabaseError> {
        self.count += 1;
        field(value, self.kind, &mut self.bytes)
    }
}

/// Begins an array: one dimension, which may hold nothing in places, of this type, so long, counted from 1.
pub(super) fn array(kind: u32, count: i32, to: &mut Vec<u8>) {
    to.extend(1_i32.to_be_bytes());
    to.extend(1_i32.to_be_bytes());
    to.extend(kind.to_be_bytes());
    to.extend(count.to_be_bytes());
    to.extend(1_i32.to_be_bytes());
}

/// Writes a value with its length before it, as arrays have it. An error where it is not of the column's type.
pub(super) fn field(value: &Value, of: Type, to: &mut Vec<u8>) -> Result<(), DatabaseError> {
    let place = to.len();
    to.extend((-1_i32).to_be_bytes());
    let Some(kind) = kind(value) else { return Ok(()) };
    if kind != of {
        let why = format!("a column of type {of:?} is given a value of type {kind:?}");
        return Err(DatabaseError::new("write a value", why));
    }
    write(value, to);
    let length = i32::try_from(to.len() - place - 4);
    let length = length.map_err(|error| DatabaseError::new("write a value", error))?;
    to[place..place + 4].copy_from_slice(&length.to_be_bytes());
    Ok(())
}

impl sqlx::Type<Postgres> for Column {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(0))
    }
}

impl Encode<'_, Postgres> for Column {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        array(oid(self.kind), self.count, buffer);
        buffer.extend_from_slice(&self.bytes);
        Ok(IsNull::No)
    }

    fn produces(&self) -> Option<PgTypeInfo> {
        Some(PgTypeInfo::with_oid(Oid(oids(self.kind).1)))
    }
}
