//! A database and a role per service, with no more rights than it needs.

use super::PostgresUrl;
use crate::database::DatabaseError;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection, query_scalar, raw_sql};

fn failed(error: sqlx::Error) -> DatabaseError {
    DatabaseError::new("prepare a database and a role", error)
}

impl PostgresUrl {
    /// Sees to it that a service has a database and a role of its own on this server, both called `waybill_` and its name:
    /// nobody else may connect to the database, and the role may do nothing but make schemas in it. Answers with the
    /// URL, under a new password each time. Asked as somebody who may create both.
    pub async fn provision(&self, service: &str) -> Result<Self, DatabaseError> {
        let name = format!("waybill_{service}");
        let mut admin = self.options().clone().disable_statement_logging().connect().await.map_err(failed)?;
        // One after the other; the lock ends with the connection.
        execute(&mut admin, "SELECT pg_advisory_lock(hashtext('waybill databases'))").await?;
        // Two random identifiers: 244 bits that only this server and its client have seen.
        let sql =
            "SELECT encode(sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())), 'hex')";
        let password: String = query_scalar(sql).fetch_one(&mut admin).await.map_err(failed)?;
        let make_role = "SELECT format(CASE WHEN EXISTS (SELECT FROM pg_roles WHERE rolname = $1) \
                         THEN 'ALTER ROLE %I LOGIN PASSWORD %L' ELSE 'CREATE ROLE %I LOGIN PASSWORD %L' END, $1, $2)";
        let make_role = query_scalar(make_role).bind(&name).bind(&password).fetch_one(&mut admin);
        let make_role: String = make_role.await.map_err(failed)?;
        execute(&mut admin, &make_role).await?;
        let there = query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)");
        let there: bool = there.bind(&name).fetch_one(&mut admin).await.map_err(failed)?;
        if !there {
            let sql = format!("CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'");
            execute(&mut admin, &sql).await?;
        }
        execute(&mut admin, &format!("REVOKE ALL ON DATABASE {name} FROM PUBLIC")).await?;
        execute(&mut admin, &format!("GRANT CONNECT, CREATE ON DATABASE {name} TO {name}")).await?;
        admin.close().await.map_err(failed)?;
        let inside = self.options().clone().database(&name).disable_statement_logging();
        let mut inside = inside.connect().await.map_err(failed)?;
        execute(&mut inside, "REVOKE ALL ON SCHEMA public FROM PUBLIC").await?;
        inside.close().await.map_err(failed)?;
        Ok(self.with(&name, &name, &password))
    }

    /// Takes back what [`provision`](Self::provision) has made, with everything in it.
    pub async fn withdraw(&self, service: &str) -> Result<(), DatabaseError> {
        let name = format!("waybill_{service}");
        let mut admin = self.options().clone().disable_statement_logging().connect().await.map_err(failed)?;
        execute(&mut admin, &format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await?;
        execute(&mut admin, &format!("DROP ROLE IF EXISTS {name}")).await?;
        admin.close().await.map_err(failed)
    }
}

async fn execute(connection: &mut PgConnection, sql: &str) -> Result<(), DatabaseError> {
    raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection).await.map(|_| ()).map_err(failed)
}
