//! Which way rows get into PostgreSQL fastest: an array for each column through `unnest`, one array of rows, `COPY` into a
//! temporary table and a merge from there, or `COPY` straight into the table. Rows of a history, all new, 1000 to a transaction; on a database that is
//! given. And what lanes would give: the same rows written by two and by four connections at a time, each its own.
//!
//! `cargo run --release -p projections --example copy postgres://... [rows] [batch]`

use sqlx::{
    AssertSqlSafe, Connection, Encode, PgConnection, Postgres,
    encode::IsNull,
    error::BoxDynError,
    postgres::{PgArgumentBuffer, PgTypeInfo, types::Oid},
    query, query_scalar, raw_sql,
};
use std::{error::Error, time::Instant};
use uuid::Uuid;

const MAKE: &str = "
    CREATE TABLE IF NOT EXISTS history (order_id uuid, stream text COLLATE \"C\", sequence bigint, id uuid, kind text, time timestamptz,
        actor text, causation uuid, PRIMARY KEY (order_id, stream, sequence));
    TRUNCATE history;
    CREATE TEMPORARY TABLE IF NOT EXISTS incoming (order_id uuid, stream text, sequence bigint, id uuid, kind text,
        time timestamptz, actor text, causation uuid) ON COMMIT DELETE ROWS;";
const MERGE: &str = "ON CONFLICT (order_id, stream, sequence) DO UPDATE SET id = excluded.id, kind = excluded.kind, \
                     time = excluded.time, actor = excluded.actor, causation = excluded.causation";
const ACTOR: &str = "user:018f3f5e-0000-7000-8000-000000000001";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().ok_or("where is PostgreSQL?")?;
    let mut number = |default| arguments.next().map_or(Ok(default), |text| text.parse::<u64>());
    let (rows, batch) = (number(200_000)?, number(1000)?);
    let mut connection = PgConnection::connect(&url).await?;
    for round in 0..3 {
        raw_sql(MAKE).execute(&mut connection).await?;
        let started = Instant::now();
        for first in (0..rows).step_by(usize::try_from(batch)?) {
            arrays(&mut connection, first..first + batch).await?;
        }
        let (took, rate) = (started.elapsed(), u128::from(rows) * 1_000_000 / started.elapsed().as_micros());
        println!("{round}: unnest {took:.2?}, {rate} rows/s");
        raw_sql(MAKE).execute(&mut connection).await?;
        let started = Instant::now();
        for first in (0..rows).step_by(usize::try_from(batch)?) {
            copied(&mut connection, "incoming", first..first + batch).await?;
        }
        let (took, rate) = (started.elapsed(), u128::from(rows) * 1_000_000 / started.elapsed().as_micros());
        println!("{round}: COPY and merge {took:.2?}, {rate} rows/s");
        raw_sql(MAKE).execute(&mut connection).await?;
        let kind = query_scalar("SELECT to_regtype('history')::oid").fetch_one(&mut connection).await?;
        let started = Instant::now();
        for first in (0..rows).step_by(usize::try_from(batch)?) {
            as_rows(&mut connection, kind, first..first + batch).await?;
        }
        let (took, rate) = (started.elapsed(), u128::from(rows) * 1_000_000 / started.elapsed().as_micros());
        println!("{round}: array of rows {took:.2?}, {rate} rows/s");
        raw_sql(MAKE).execute(&mut connection).await?;
        let started = Instant::now();
        for first in (0..rows).step_by(usize::try_from(batch)?) {
            copied(&mut connection, "history", first..first + batch).await?;
        }
        let (took, rate) = (started.elapsed(), u128::from(rows) * 1_000_000 / started.elapsed().as_micros());
        println!("{round}: COPY {took:.2?}, {rate} rows/s");
        for lanes in [2, 4] {
            raw_sql(MAKE).execute(&mut connection).await?;
            let started = Instant::now();
            let writing = (0..lanes).map(|lane| one_lane(&url, rows, batch, (lane, lanes)));
            futures::future::try_join_all(writing).await?;
            let (took, rate) =
                (started.elapsed(), u128::from(rows) * 1_000_000 / started.elapsed().as_micros());
            println!("{round}: unnest in {lanes} lanes {took:.2?}, {rate} rows/s");
        }
    }
    Ok(())
}

/// Every so many batches are one lane's.
async fn one_lane(url: &str, rows: u64, batch: u64, (lane, lanes): (u64, u64)) -> Result<(), Box<dyn Error>> {
    let mut connection = PgConnection::connect(url).await?;
    for first in (0..rows).step_by(usize::try_from(batch)?).filter(|first| first / batch % lanes == lane) {
        arrays(&mut connection, first..first + batch).await?;
    }
    Ok(connection.close().await?)
}

fn id(number: u64) -> Uuid {
    Uuid::from_u64_pair(number << 16 | 0x7000, number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

async fn arrays(connection: &mut PgConnection, numbers: std::ops::Range<u64>) -> Result<(), Box<dyn Error>> {
    let ids: Vec<_> = numbers.clone().map(id).collect();
    let same = |text: &str| vec![text.to_owned(); ids.len()];
    let sequences: Vec<_> = numbers.map(u64::cast_signed).collect();
    let sql = format!(
        "INSERT INTO history SELECT order_id, stream, sequence, id, kind, to_timestamp(sequence), actor, causation \
         FROM unnest($1::uuid[], $2::text[], $3::int8[], $4::uuid[], $5::text[], $6::text[], $7::uuid[]) \
         AS r (order_id, stream, sequence, id, kind, actor, causation) {MERGE}"
    );
    let mut transaction = connection.begin().await?;
    query(AssertSqlSafe(sql))
        .bind(&ids)
        .bind(same("ORDERS"))
        .bind(sequences)
        .bind(&ids)
        .bind(same("order.created"))
        .bind(same(ACTOR))
        .bind(&ids)
        .execute(&mut *transaction)
        .await?;
    Ok(transaction.commit().await?)
}

/// The fields of a row in binary, each with its type.
fn fields(number: u64) -> [(u32, Vec<u8>); 8] {
    const UUID: u32 = 2950;
    const TEXT: u32 = 25;
    let id = id(number).as_bytes().to_vec();
    let time = number.cast_signed() * 1_000_000 - 946_684_800_000_000;
    [
        (UUID, id.clone()),
        (TEXT, b"ORDERS".to_vec()),
        (20, number.to_be_bytes().to_vec()),
        (UUID, id.clone()),
        (TEXT, b"order.created".to_vec()),
        (1184, time.to_be_bytes().to_vec()),
        (TEXT, ACTOR.as_bytes().to_vec()),
        (UUID, id),
    ]
}

/// A parameter in binary, whose type the statement says.
struct Binary(Vec<u8>);

impl sqlx::Type<Postgres> for Binary {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(0))
    }
}

impl Encode<'_, Postgres> for Binary {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buffer.extend_from_slice(&self.0);
        Ok(IsNull::No)
    }
}

async fn as_rows(
    connection: &mut PgConnection,
    Oid(kind): Oid,
    numbers: std::ops::Range<u64>,
) -> Result<(), Box<dyn Error>> {
    let count = u32::try_from(numbers.end - numbers.start)?;
    let mut data: Vec<u8> = [1, 1, kind, count, 1].into_iter().flat_map(u32::to_be_bytes).collect();
    for number in numbers {
        let fields = fields(number);
        let length = 4 + fields.iter().map(|(_, field)| 8 + field.len()).sum::<usize>();
        data.extend(u32::try_from(length)?.to_be_bytes());
        data.extend(8_u32.to_be_bytes());
        for (kind, field) in fields {
            data.extend(kind.to_be_bytes());
            data.extend(u32::try_from(field.len())?.to_be_bytes());
            data.extend(field);
        }
    }
    let mut transaction = connection.begin().await?;
    let sql = "INSERT INTO history SELECT * FROM unnest($1::history[])";
    query(sql).bind(Binary(data)).execute(&mut *transaction).await?;
    Ok(transaction.commit().await?)
}

async fn copied(
    connection: &mut PgConnection,
    into: &'static str,
    numbers: std::ops::Range<u64>,
) -> Result<(), Box<dyn Error>> {
    let mut transaction = connection.begin().await?;
    let mut data = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec();
    for number in numbers {
        data.extend(8_i16.to_be_bytes());
        for (_, field) in fields(number) {
            data.extend(i32::try_from(field.len())?.to_be_bytes());
            data.extend(field);
        }
    }
    data.extend((-1_i16).to_be_bytes());
    let mut copy = transaction.copy_in_raw(&format!("COPY {into} FROM STDIN WITH (FORMAT binary)")).await?;
    copy.send(data).await?;
    copy.finish().await?;
    if into == "incoming" {
        let sql = format!("INSERT INTO history SELECT * FROM incoming {MERGE}");
        query(AssertSqlSafe(sql)).execute(&mut *transaction).await?;
    }
    Ok(transaction.commit().await?)
}
