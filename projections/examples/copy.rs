//! Which way rows get into PostgreSQL fastest: arrays through `unnest`, `COPY` into a temporary table and a merge from
//! there, or `COPY` straight into the table. Rows of a history, all new, 1000 to a transaction; on a database that is
//! given. And what lanes would give: the same rows written by two and by four connections at a time, each its own.
//!
//! `cargo run --release -p projections --example copy postgres://... [rows] [batch]`

use sqlx::{AssertSqlSafe, Connection, PgConnection, query, raw_sql};
use std::{error::Error, time::Instant};
use uuid::Uuid;

const MAKE: &str = "
    DROP TABLE IF EXISTS history;
    CREATE TABLE history (order_id uuid, stream text COLLATE \"C\", sequence bigint, id uuid, kind text, time timestamptz,
        actor text, causation uuid, PRIMARY KEY (order_id, stream, sequence));
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

async fn copied(
    connection: &mut PgConnection,
    into: &'static str,
    numbers: std::ops::Range<u64>,
) -> Result<(), Box<dyn Error>> {
    let mut transaction = connection.begin().await?;
    let mut data = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec();
    for number in numbers {
        let (id, time) = (id(number), (number.cast_signed() * 1_000_000 - 946_684_800_000_000).to_be_bytes());
        let fields: [&[u8]; 8] = [
            id.as_bytes(),
            b"ORDERS",
            &number.to_be_bytes(),
            id.as_bytes(),
            b"order.created",
            &time,
            ACTOR.as_bytes(),
            id.as_bytes(),
        ];
        data.extend(8_i16.to_be_bytes());
        for field in fields {
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
