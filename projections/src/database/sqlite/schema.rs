//! Tables as SQLite has them, and which version of them a file holds.

use crate::{
    database::DatabaseError,
    table::{Table, Type},
    view::View,
};
use events::Position;
use sqlx::{AssertSqlSafe, Connection, Row as _, SqliteConnection, query, raw_sql};
use std::fmt::Write;

/// What every database has beside its read models.
const OWN: &str = "
    CREATE TABLE IF NOT EXISTS waybill_model (
        projection TEXT NOT NULL PRIMARY KEY,
        model TEXT NOT NULL,
        tables TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS waybill_checkpoint (
        projection TEXT NOT NULL,
        stream TEXT NOT NULL,
        sequence INTEGER NOT NULL,
        since INTEGER NOT NULL DEFAULT 0,
        closed INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (projection, stream)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS waybill_parked (
        projection TEXT NOT NULL,
        subject TEXT NOT NULL,
        sequence INTEGER NOT NULL,
        error TEXT NOT NULL,
        asked INTEGER NOT NULL,
        PRIMARY KEY (projection, subject)
    ) STRICT, WITHOUT ROWID;";

/// SQLite's type. Identifiers are 16 bytes: half the size of their text, in every index.
const fn native(kind: Type) -> &'static str {
    match kind {
        Type::Uuid => "BLOB",
        Type::Text | Type::Json => "TEXT",
        Type::Int | Type::Timestamp | Type::Bool => "INTEGER",
    }
}

/// Makes the tables, and nothing else.
pub(super) async fn bare(connection: &mut SqliteConnection, view: &View) -> Result<(), DatabaseError> {
    let sql: String = view.tables.iter().map(|table| ddl(table)).collect();
    let made = raw_sql(AssertSqlSafe(sql)).execute(connection).await;
    made.map(|_| ()).map_err(|error| DatabaseError::new("create tables", error))
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
    let _ = writeln!(sql, "    PRIMARY KEY ({})\n) STRICT, WITHOUT ROWID;", key.join(", "));
    sql
}

/// The statements that make the indexes of a table.
fn indexes(table: &Table, create: &str) -> String {
    let mut sql = String::new();
    for columns in table.indexes {
        let (name, on) = (columns.join("_"), columns.join(", "));
        let _ = writeln!(sql, "{create} {}_{name} ON {} ({on});", table.name, table.name);
    }
    sql
}

/// The whole model as text. Another text is another version: what tells versions apart is what makes the tables.
pub(in crate::database) fn model(view: &View) -> String {
    let tables = view.tables.iter().map(|table| ddl(table) + &indexes(table, "CREATE INDEX"));
    format!("-- version {}\n{}", view.version, tables.collect::<String>())
}

/// Makes the tables of `view` where the file has none: complete, or without indexes and to be read from these positions
/// on. Two processes may do it at once. An error where the file has those of another version.
pub(super) async fn ensure(
    connection: &mut SqliteConnection,
    view: &'static View,
    building: Option<&[Position]>,
) -> Result<(), DatabaseError> {
    let failed = |error| DatabaseError::new("prepare the tables", error);
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
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
        sql.extend(view.tables.iter().map(|table| indexes(table, "CREATE INDEX")));
    }
    raw_sql(AssertSqlSafe(sql)).execute(&mut *transaction).await.map_err(failed)?;
    let tables: Vec<_> = view.tables.iter().map(|table| table.name).collect();
    query("INSERT INTO waybill_model (projection, model, tables) VALUES ($1, $2, $3)")
        .bind(view.name)
        .bind(model)
        .bind(tables.join(","))
        .execute(&mut *transaction)
        .await
        .map_err(failed)?;
    for context in view.contexts() {
        let since = since(building.unwrap_or_default(), context).cast_signed();
        let sql =
            "INSERT INTO waybill_checkpoint (projection, stream, sequence, since) VALUES ($1, $2, $3, $4)";
        query(sql)
            .bind(view.name)
            .bind(context.stream())
            .bind((since - 1).max(0))
            .bind(since)
            .execute(&mut *transaction)
            .await
            .map_err(failed)?;
    }
    transaction.commit().await.map_err(failed)
}

/// The sequence with which a stream begins.
fn since(positions: &[Position], context: events::Context) -> u64 {
    positions.iter().find(|position| position.context == context).map_or(0, |position| position.sequence)
}

/// Makes the indexes that are missing.
pub(super) async fn finish(
    connection: &mut SqliteConnection,
    view: &'static View,
) -> Result<(), DatabaseError> {
    let failed = |error| DatabaseError::new("make the indexes", error);
    let sql = view.tables.iter().map(|table| indexes(table, "CREATE INDEX IF NOT EXISTS"));
    let sql = sql.collect::<String>();
    // What is sorted for them grows with the rows: it goes into temporary files.
    let in_files = format!("PRAGMA temp_store = FILE; {sql}");
    if let Err(error) = raw_sql(AssertSqlSafe(in_files)).execute(&mut *connection).await {
        tracing::warn!(projection = view.name, %error, "cannot sort in temporary files, so in memory");
    }
    // As it was before; and whatever is still missing.
    let in_memory = format!("PRAGMA temp_store = MEMORY; {sql}");
    raw_sql(AssertSqlSafe(in_memory)).execute(connection).await.map_err(failed)?;
    Ok(())
}

/// Where the tables begin, in the streams in which they do not begin at the first event.
pub(in crate::database) async fn begins(
    connection: &mut SqliteConnection,
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

/// Whether the file holds tables from before there were generations, and whether they are those of `view`.
pub(super) async fn adopt(
    connection: &mut SqliteConnection,
    view: &'static View,
) -> Result<Option<bool>, DatabaseError> {
    let failed = |error| DatabaseError::new("look at the tables", error);
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
    let table = "SELECT 1 FROM sqlite_schema WHERE name = 'waybill_model'";
    if query(table).fetch_optional(&mut *transaction).await.map_err(failed)?.is_none() {
        transaction.rollback().await.map_err(failed)?;
        return Ok(None);
    }
    for column in ["since", "closed"] {
        let sql = "SELECT 1 FROM pragma_table_info('waybill_checkpoint') WHERE name = $1";
        if query(sql).bind(column).fetch_optional(&mut *transaction).await.map_err(failed)?.is_none() {
            let sql =
                format!("ALTER TABLE waybill_checkpoint ADD COLUMN {column} INTEGER NOT NULL DEFAULT 0");
            query(AssertSqlSafe(sql)).execute(&mut *transaction).await.map_err(failed)?;
        }
    }
    let sql = "SELECT model FROM waybill_model WHERE projection = $1";
    let known = query(sql).bind(view.name).fetch_optional(&mut *transaction).await.map_err(failed)?;
    let known = known.map(|row| row.get::<&str, _>("model") == model(view));
    transaction.commit().await.map_err(failed)?;
    Ok(known)
}

/// The checkpoint of each stream of the view. An error when the tables are those of another version by now.
pub(super) async fn checkpoints(
    connection: &mut SqliteConnection,
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

/// What the tables are closed with.
pub(super) async fn closed(
    connection: &mut SqliteConnection,
    service: &str,
) -> Result<Option<u64>, DatabaseError> {
    let failed = |error| DatabaseError::new("read the checkpoints", error);
    let sql = "SELECT max(closed) AS closed FROM waybill_checkpoint WHERE projection = $1";
    let row = query(sql).bind(service).fetch_one(connection).await.map_err(failed)?;
    let closed = row.get::<Option<i64>, _>("closed").map_or(0, i64::cast_unsigned);
    Ok((closed > 0).then_some(closed))
}

/// Removes every table of a service from a file that holds other things as well.
pub(super) async fn clear(connection: &mut SqliteConnection, service: &str) -> Result<(), DatabaseError> {
    let failed = |error| DatabaseError::new("remove the tables", error);
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
    let sql = "SELECT tables FROM waybill_model WHERE projection = $1";
    let known = query(sql).bind(service).fetch_optional(&mut *transaction).await.map_err(failed)?;
    let mut sql = String::new();
    for table in known.iter().flat_map(|row| row.get::<&str, _>("tables").split(',')) {
        let _ = writeln!(sql, "DROP TABLE IF EXISTS {table};");
    }
    raw_sql(AssertSqlSafe(sql)).execute(&mut *transaction).await.map_err(failed)?;
    for own in ["waybill_model", "waybill_checkpoint", "waybill_parked"] {
        let sql = AssertSqlSafe(format!("DELETE FROM {own} WHERE projection = $1"));
        query(sql).bind(service).execute(&mut *transaction).await.map_err(failed)?;
    }
    transaction.commit().await.map_err(failed)
}
