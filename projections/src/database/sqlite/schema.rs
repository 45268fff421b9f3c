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

/// The statements that make a table and its indexes.
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
    for columns in table.indexes {
        let (name, on) = (columns.join("_"), columns.join(", "));
        let _ = writeln!(sql, "CREATE INDEX {}_{name} ON {} ({on});", table.name, table.name);
    }
    sql
}

/// The whole model as text. Another text is another version: what tells versions apart is what makes the tables.
fn model(view: &View) -> String {
    let tables: String = view.tables.iter().map(|table| ddl(table)).collect();
    format!("-- version {}\n{tables}", view.version)
}

/// Makes the tables of `view` where the file has none or those of another version. Two processes may do it at once.
pub(super) async fn ensure(
    connection: &mut SqliteConnection,
    view: &'static View,
) -> Result<(), DatabaseError> {
    let failed = |error| DatabaseError::new("prepare the tables", error);
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
    raw_sql(OWN).execute(&mut *transaction).await.map_err(failed)?;
    let sql = "SELECT model, tables FROM waybill_model WHERE projection = $1";
    let known = query(sql).bind(view.name).fetch_optional(&mut *transaction).await.map_err(failed)?;
    let model = model(view);
    if known.as_ref().is_some_and(|row| row.get::<&str, _>("model") == model) {
        return transaction.rollback().await.map_err(failed);
    }
    let mut sql = String::new();
    if let Some(old) = known {
        tracing::info!(projection = view.name, "the read model changed: it is built again from the stream");
        for table in old.get::<&str, _>("tables").split(',') {
            let _ = writeln!(sql, "DROP TABLE IF EXISTS {table};");
        }
    }
    sql.push_str(&model);
    raw_sql(AssertSqlSafe(sql)).execute(&mut *transaction).await.map_err(failed)?;
    let tables: Vec<_> = view.tables.iter().map(|table| table.name).collect();
    query("INSERT OR REPLACE INTO waybill_model (projection, model, tables) VALUES ($1, $2, $3)")
        .bind(view.name)
        .bind(model)
        .bind(tables.join(","))
        .execute(&mut *transaction)
        .await
        .map_err(failed)?;
    query("DELETE FROM waybill_parked WHERE projection = $1")
        .bind(view.name)
        .execute(&mut *transaction)
        .await
        .map_err(failed)?;
    for context in view.contexts() {
        query("INSERT OR REPLACE INTO waybill_checkpoint (projection, stream, sequence) VALUES ($1, $2, 0)")
            .bind(view.name)
            .bind(context.stream())
            .execute(&mut *transaction)
            .await
            .map_err(failed)?;
    }
    transaction.commit().await.map_err(failed)
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
