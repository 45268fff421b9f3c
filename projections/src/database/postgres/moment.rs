//! All tables of a schema as they are at one moment.

use super::{Database, connect, row, schema};
use crate::{
    database::{
        DatabaseError, Moment,
        moment::{Connection, Rows},
    },
    table::{Table, Type, Value},
};
use futures::StreamExt;
use sqlx::{AssertSqlSafe, Error, PgConnection, postgres::PgRow, query};

impl Database {
    /// The tables as they are now.
    pub(in crate::database) async fn moment(&self) -> Result<Moment, DatabaseError> {
        let failed = |error| DatabaseError::new("read the tables", error);
        // It waits while another read model is built for the comparison.
        let patient = self.options.clone().options([("idle_in_transaction_session_timeout", "0")]);
        let mut connection = connect(&patient).await?;
        // The transaction ends with the connection. It sees what was there at its first query.
        query("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            .execute(&mut connection)
            .await
            .map_err(failed)?;
        let checkpoints = schema::checkpoints(&mut connection, self.view).await?;
        Ok(Moment::new(Connection::Postgres(connection), checkpoints, self.view))
    }
}

/// The rows of a table in the order of its key.
pub(in crate::database) fn rows<'a>(connection: &'a mut PgConnection, table: &'static Table) -> Rows<'a> {
    let names: Vec<_> = table.all().map(|(name, _)| *name).collect();
    let key = &names[..table.key.len()];
    let sql = format!("SELECT {} FROM {} ORDER BY {}", names.join(", "), table.name, key.join(", "));
    let rows = query(AssertSqlSafe(sql)).fetch(connection);
    rows.map(move |row| values(&row?, table)).boxed()
}

fn values(row: &PgRow, table: &'static Table) -> Result<Vec<Value>, Error> {
    let value = |(column, (_, kind)): (usize, &(&str, Type))| {
        let value = match kind {
            Type::Uuid => row::uuid(row, column)?.map(Value::Uuid),
            Type::Text => row::text(row, column)?.map(Value::from),
            Type::Int => row::int(row, column)?.map(Value::Int),
            Type::Timestamp => row::timestamp(row, column)?.map(Value::Timestamp),
            Type::Json => row::json(row, column)?.map(|text| Value::Json(text.to_owned())),
            Type::Bool => row::bool(row, column)?.map(Value::Bool),
        };
        Ok(value.unwrap_or_default())
    };
    table.all().enumerate().map(value).collect()
}
