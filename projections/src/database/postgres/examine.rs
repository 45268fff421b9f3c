//! How the database of a service stands. No schema is made.

use super::{ANSWER, PostgresUrl, connect, name, options};
use crate::database::{
    DatabaseError,
    examine::{DatabaseLook, Found},
};
use events::{Context, Position};
use jiff::Timestamp;
use sqlx::{AssertSqlSafe, PgConnection, Row as _, postgres::PgRow, query};
use tokio::time::timeout;

/// What the server says, and the catalogue.
pub(in crate::database) async fn examine(url: &PostgresUrl, service: &str) -> Result<Found, DatabaseError> {
    let mut connection = connect(&options(url, service, "waybill")).await?;
    super::schema::check(&mut connection).await?;
    let sql = "SELECT current_setting('server_version') AS version, \
               (extract(epoch FROM clock_timestamp()) * 1000000)::int8 AS now, \
               (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') AS used, \
               current_setting('max_connections')::int8 AS most, \
               to_regclass('waybill.catalogue') IS NOT NULL AS known";
    let row = one(&mut connection, sql, None).await?;
    let row = row.ok_or_else(|| DatabaseError::new("ask the server", "it says nothing"))?;
    let look = DatabaseLook {
        server: format!("PostgreSQL {}", row.get::<&str, _>("version")),
        now: Timestamp::from_microsecond(row.get("now")).ok(),
        connections: Some((
            row.get::<i64, _>("used").cast_unsigned(),
            row.get::<i64, _>("most").cast_unsigned(),
        )),
        tables: None,
    };
    let mut catalogue = None;
    if row.get("known") {
        let sql = "SELECT document FROM waybill.catalogue WHERE projection = $1";
        catalogue = one(&mut connection, sql, Some(service)).await?.map(|row| row.get("document"));
    }
    Ok(Found { look, catalogue })
}

/// Up to where the tables of a generation are, and how many aggregates wait.
pub(in crate::database) async fn standing(
    url: &PostgresUrl,
    service: &str,
    generation: u32,
) -> Result<(Vec<Position>, u64), DatabaseError> {
    let failed = |error| DatabaseError::new("read the checkpoints", error);
    let schema = name(service, generation);
    let mut connection = connect(&options(url, service, &schema)).await?;
    let sql = "SELECT stream, sequence FROM waybill_checkpoint WHERE projection = $1 ORDER BY stream";
    let rows = query(sql).bind(service).fetch_all(&mut connection).await.map_err(failed)?;
    let positions = rows.iter().filter_map(|row| {
        let context = Context::of_stream(row.get("stream"))?;
        Some(Position { context, sequence: row.get::<i64, _>("sequence").cast_unsigned() })
    });
    let sql = "SELECT count(*) AS parked FROM waybill_parked WHERE projection = $1";
    let parked = one(&mut connection, sql, Some(service)).await?;
    let parked = parked.map_or(0, |row| row.get::<i64, _>("parked").cast_unsigned());
    Ok((positions.collect(), parked))
}

async fn one(
    connection: &mut PgConnection,
    sql: &'static str,
    bound: Option<&str>,
) -> Result<Option<PgRow>, DatabaseError> {
    let mut asked = query(AssertSqlSafe(sql));
    if let Some(bound) = bound {
        asked = asked.bind(bound.to_owned());
    }
    let late = |error| DatabaseError::new("wait for the database", error);
    let row = timeout(ANSWER, asked.fetch_optional(connection)).await.map_err(late)?;
    row.map_err(|error| DatabaseError::new("ask the database", error))
}
