//! Tables as PostgreSQL has them, and which version of them a schema holds.

use crate::{
    database::{DatabaseError, Move},
    table::{Table, Type},
    view::View,
};
use events::Position;
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row as _, query, query_scalar, raw_sql};
use std::fmt::Write;

/// The oldest server that will do, as it tells its version.
const OLDEST: i32 = 150_000;

/// What every schema has beside its read models.
const OWN: &str = "
    CREATE TABLE IF NOT EXISTS waybill_model (
        projection text NOT NULL PRIMARY KEY,
        model text NOT NULL,
        tables text NOT NULL
    );
    CREATE TABLE IF NOT EXISTS waybill_checkpoint (
        projection text NOT NULL,
        stream text NOT NULL,
        sequence bigint NOT NULL,
        since bigint NOT NULL DEFAULT 0,
        closed bigint NOT NULL DEFAULT 0,
        PRIMARY KEY (projection, stream)
    ) WITH (fillfactor = 50);
    CREATE TABLE IF NOT EXISTS waybill_parked (
        projection text NOT NULL,
        subject text NOT NULL,
        sequence bigint NOT NULL,
        error text NOT NULL,
        asked bigint NOT NULL,
        PRIMARY KEY (projection, subject)
    );";

/// PostgreSQL's type. Text is sorted by its bytes, as everywhere else: a cursor means the same on every server.
const fn native(kind: Type) -> &'static str {
    match kind {
        Type::Uuid => "uuid",
        Type::Text => "text COLLATE \"C\"",
        Type::Json => "jsonb",
        Type::Int => "bigint",
        Type::Timestamp => "timestamptz",
        Type::Bool => "boolean",
    }
}

/// The statement that makes a table.
fn ddl(table: &Table) -> String {
    let mut sql = format!("CREATE TABLE {} (\n", table.name);
    for (name, kind) in table.key {
        // Writing to a string cannot fail.
        let _ = writeln!(sql, "    {name} {} NOT NULL,", native(*kind));
    }
    for (name, kind) in table.columns {
        let _ = writeln!(sql, "    {name} {},", native(*kind));
    }
    let key: Vec<_> = table.key.iter().map(|(name, _)| *name).collect();
    let _ = writeln!(sql, "    PRIMARY KEY ({})\n);", key.join(", "));
    sql
}

/// How indexes are kept. Their keys end in that of the row, so that there are no equal ones to put together but versions of one
/// row, and looking for those takes a tenth of an update (ADR 21).
const KEPT: &str = " WITH (deduplicate_items = off)";

/// The statements that make the indexes of a table, kept like this.
fn indexes(table: &Table, create: &str, kept: &str) -> String {
    let mut sql = String::new();
    for columns in table.indexes {
        let (name, on) = (columns.join("_"), columns.join(", "));
        let _ = writeln!(sql, "{create} {}_{name} ON {} ({on}){kept};", table.name, table.name);
    }
    sql
}

/// The whole model as text. Another text is another version: what tells versions apart is what makes the tables, and not how
/// they are kept. Versions that run beside each other agree on it as long as the declaration is the same.
pub(in crate::database) fn model(view: &View) -> String {
    let tables = view.tables.iter().map(|table| ddl(table) + &indexes(table, "CREATE INDEX", ""));
    format!("-- version {}\n{}", view.version, tables.collect::<String>())
}

/// An error where the server is too old.
pub(super) async fn check(connection: &mut PgConnection) -> Result<(), DatabaseError> {
    let failed = |error| DatabaseError::new("ask the server for its version", error);
    let version = query_scalar("SELECT current_setting('server_version_num')::int4");
    let version: i32 = version.fetch_one(connection).await.map_err(failed)?;
    if version >= OLDEST {
        return Ok(());
    }
    let why = format!("PostgreSQL {} is too old: 15 or newer is needed", version / 10_000);
    Err(DatabaseError::new("use the server", why))
}

/// Makes the schema and the tables of `view` where there are none: complete, or without indexes and to be read from these
/// positions on. Processes that do it at once wait for each other. An error where there are those of another version.
pub(super) async fn ensure(
    connection: &mut PgConnection,
    view: &'static View,
    schema: &str,
    building: Option<&[Position]>,
) -> Result<(), DatabaseError> {
    let failed = |error| DatabaseError::new("prepare the tables", error);
    check(connection).await?;
    let mut transaction = connection.begin().await.map_err(failed)?;
    query("SELECT pg_advisory_xact_lock(hashtext('waybill schema'), hashtext($1))")
        .bind(schema)
        .execute(&mut *transaction)
        .await
        .map_err(failed)?;
    let there = query_scalar("SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)");
    let there: bool = there.bind(schema).fetch_one(&mut *transaction).await.map_err(failed)?;
    if !there {
        let sql = format!("CREATE SCHEMA {schema}");
        raw_sql(AssertSqlSafe(sql)).execute(&mut *transaction).await.map_err(failed)?;
    }
    raw_sql(OWN).execute(&mut *transaction).await.map_err(failed)?;
    let sql = "SELECT model FROM waybill_model WHERE projection = $1";
    let known = query(sql).bind(view.name).fetch_optional(&mut *transaction).await.map_err(failed)?;
    let model = model(view);
    if let Some(known) = known {
        transaction.rollback().await.map_err(failed)?;
        let gone = "the tables belong to another version of the program";
        let same = known.get::<&str, _>("model") == model;
        return if same { Ok(()) } else { Err(DatabaseError::new("prepare the tables", gone)) };
    }
    let mut sql: String = view.tables.iter().map(|table| ddl(table)).collect();
    if building.is_none() {
        sql.extend(view.tables.iter().map(|table| indexes(table, "CREATE INDEX", KEPT)));
    }
    raw_sql(AssertSqlSafe(sql)).execute(&mut *transaction).await.map_err(failed)?;
    begin(&mut transaction, view, model, building.unwrap_or_default()).await.map_err(failed)?;
    transaction.commit().await.map_err(failed)
}

/// The tables are those of `model`, nothing is in them, and they begin with these positions.
async fn begin(
    connection: &mut PgConnection,
    view: &View,
    model: String,
    since: &[Position],
) -> Result<(), sqlx::Error> {
    let tables: Vec<_> = view.tables.iter().map(|table| table.name).collect();
    query("INSERT INTO waybill_model (projection, model, tables) VALUES ($1, $2, $3)")
        .bind(view.name)
        .bind(model)
        .bind(tables.join(","))
        .execute(&mut *connection)
        .await?;
    for context in view.contexts() {
        let since = since.iter().find(|position| position.context == context);
        let since = since.map_or(0, |position| position.sequence.cast_signed());
        let sql =
            "INSERT INTO waybill_checkpoint (projection, stream, sequence, since) VALUES ($1, $2, $3, $4)";
        query(sql)
            .bind(view.name)
            .bind(context.stream())
            .bind((since - 1).max(0))
            .bind(since)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

/// Makes the indexes that are missing.
pub(super) async fn finish(connection: &mut PgConnection, view: &'static View) -> Result<(), DatabaseError> {
    let failed = |error| DatabaseError::new("make the indexes", error);
    let sql = view.tables.iter().map(|table| indexes(table, "CREATE INDEX IF NOT EXISTS", KEPT));
    raw_sql(AssertSqlSafe(sql.collect::<String>())).execute(connection).await.map_err(failed)?;
    Ok(())
}

/// Where the tables begin, in the streams in which they do not begin at the first event.
pub(in crate::database) async fn begins(
    connection: &mut PgConnection,
    view: &'static View,
) -> Result<Vec<Position>, DatabaseError> {
    let failed = |error| DatabaseError::new("read the checkpoints", error);
    let sql = "SELECT stream, since FROM waybill_checkpoint WHERE projection = $1 AND since > 0";
    let rows = query(sql).bind(view.name).fetch_all(connection).await.map_err(failed)?;
    let begins = rows.iter().filter_map(|row| {
        let context = events::Context::of_stream(row.get("stream"))?;
        Some(Position { context, sequence: row.get::<i64, _>("since").cast_unsigned() })
    });
    Ok(begins.collect())
}

/// What the tables are closed with.
pub(super) async fn closed(
    connection: &mut PgConnection,
    service: &str,
) -> Result<Option<u64>, DatabaseError> {
    let failed = |error| DatabaseError::new("read the checkpoints", error);
    let sql = "SELECT max(closed) AS closed FROM waybill_checkpoint WHERE projection = $1";
    let row = query(sql).bind(service).fetch_one(connection).await.map_err(failed)?;
    let closed = row.get::<Option<i64>, _>("closed").map_or(0, i64::cast_unsigned);
    Ok((closed > 0).then_some(closed))
}

/// The checkpoint of each stream of the view. An error when the tables are those of another version by now.
pub(super) async fn checkpoints(
    connection: &mut PgConnection,
    view: &'static View,
) -> Result<Vec<Position>, DatabaseError> {
    let failed = |error| DatabaseError::new("read the checkpoints", error);
    let sql = "SELECT stream, sequence FROM waybill_checkpoint \
               WHERE projection = $1 AND (SELECT model FROM waybill_model WHERE projection = $1) = $2";
    let rows = query(sql).bind(view.name).bind(model(view)).fetch_all(connection).await.map_err(failed)?;
    let sequence = |context: events::Context| {
        let row = rows.iter().find(|row| row.get::<&str, _>("stream") == context.stream());
        let gone = "the tables belong to another version of the program";
        let row = row.ok_or_else(|| DatabaseError::new("read the checkpoints", gone))?;
        Ok(Position { context, sequence: row.get::<i64, _>("sequence").cast_unsigned() })
    };
    view.contexts().map(sequence).collect()
}

/// Moves checkpoints, if all of them are where they have to be. Rows are locked in the order of streams, so that two
/// writers never wait for each other in a ring: the second one finds the checkpoint moved.
pub(super) async fn advance(
    connection: &mut PgConnection,
    projection: &str,
    moves: &[Move],
) -> Result<bool, DatabaseError> {
    let sql = "WITH standing AS ( \
                   SELECT c.stream, m.next FROM waybill_checkpoint c \
                   JOIN unnest($2::text[], $3::int8[], $4::int8[]) AS m (stream, was, next) \
                   ON c.stream = m.stream AND c.sequence = m.was \
                   WHERE c.projection = $1 AND c.closed = 0 ORDER BY c.stream FOR UPDATE OF c) \
               UPDATE waybill_checkpoint c SET sequence = s.next FROM standing s \
               WHERE c.projection = $1 AND c.stream = s.stream";
    let of = |number: fn(&Move) -> u64| moves.iter().map(|step| number(step).cast_signed()).collect();
    let (from, to): (Vec<i64>, Vec<i64>) = (of(|step| step.from), of(|step| step.to));
    let streams: Vec<_> = moves.iter().map(|step| step.context.stream()).collect();
    let done = query(sql).bind(projection).bind(streams).bind(from).bind(to).execute(connection).await;
    let done = done.map_err(|error| DatabaseError::new("move the checkpoints", error))?;
    Ok(done.rows_affected() == moves.len() as u64)
}
