//! Events that wait, beside the checkpoints and in their transactions.

use super::Writer;
use crate::{
    change::Changes,
    database::{Commit, DatabaseError, Parked, Row},
};
use events::{Position, Subject};
use sqlx::{Connection, SqliteConnection, query};

fn failed(error: sqlx::Error) -> DatabaseError {
    DatabaseError::new("keep what waits", error)
}

/// Everything that waits for a projection.
pub(in crate::database) async fn all(
    connection: &mut SqliteConnection,
    projection: &str,
) -> Result<Vec<Parked>, DatabaseError> {
    let sql = "SELECT subject, sequence, error, asked FROM waybill_parked WHERE projection = $1";
    let rows = query(sql).bind(projection).fetch_all(connection).await.map_err(failed)?;
    Parked::all(rows.into_iter().map(Row::from))
}

impl Writer {
    /// Everything that waits.
    pub(in crate::database) async fn parked(&mut self) -> Result<Vec<Parked>, DatabaseError> {
        all(&mut self.connection, self.view.name).await
    }

    /// Applies what waited and ends its record, or moves it to `after`, all or nothing. Lost where the record or the
    /// checkpoint is no longer the one that was read.
    pub(in crate::database) async fn bring_back(
        &mut self,
        changes: Changes,
        checkpoint: Position,
        parked: &Parked,
        after: Option<&Parked>,
    ) -> Result<Commit, DatabaseError> {
        let mut transaction = self.connection.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        let sql = "SELECT 1 FROM waybill_checkpoint \
                   WHERE projection = $1 AND stream = $2 AND sequence = $3 AND closed = 0";
        let stands = query(sql)
            .bind(self.view.name)
            .bind(checkpoint.context.stream())
            .bind(checkpoint.sequence.cast_signed())
            .fetch_optional(&mut *transaction);
        let stands = stands.await.map_err(failed)?.is_some();
        let sql = "DELETE FROM waybill_parked WHERE projection = $1 AND subject = $2 AND sequence = $3";
        let ended = query(sql)
            .bind(self.view.name)
            .bind(parked.subject.as_str())
            .bind(parked.sequence.cast_signed())
            .execute(&mut *transaction);
        let ended = ended.await.map_err(failed)?.rows_affected() > 0;
        if !stands || !ended {
            transaction.rollback().await.map_err(failed)?;
            return Ok(Commit::Lost);
        }
        for (table, rows) in changes.into_tables() {
            self.statements.write(&mut transaction, table, rows).await?;
        }
        if let Some(after) = after {
            insert(&mut transaction, self.view.name, after).await?;
        }
        transaction.commit().await.map_err(failed)?;
        Ok(Commit::Done)
    }
}

/// Records that an aggregate waits.
pub(super) async fn insert(
    connection: &mut SqliteConnection,
    projection: &str,
    parked: &Parked,
) -> Result<(), DatabaseError> {
    let sql = "INSERT INTO waybill_parked (projection, subject, sequence, error, asked) VALUES ($1, $2, $3, $4, $5)";
    query(sql)
        .bind(projection)
        .bind(parked.subject.as_str())
        .bind(parked.sequence.cast_signed())
        .bind(&parked.error)
        .bind(parked.asked.cast_signed())
        .execute(connection)
        .await
        .map_err(failed)?;
    Ok(())
}

/// Whether an aggregate still waits as it is supposed to.
pub(super) async fn waits(
    connection: &mut SqliteConnection,
    projection: &str,
    subject: &Subject,
) -> Result<bool, DatabaseError> {
    let sql = "SELECT 1 FROM waybill_parked WHERE projection = $1 AND subject = $2";
    let found = query(sql).bind(projection).bind(subject.as_str()).fetch_optional(connection).await;
    Ok(found.map_err(failed)?.is_some())
}
