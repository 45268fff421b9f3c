//! Events that wait, beside the checkpoints and in their transactions.

use super::Writer;
use crate::{
    change::Changes,
    database::{Commit, DatabaseError, Parked, Row},
};
use events::{Position, Subject};
use sqlx::{Connection, PgConnection, query};
use std::collections::HashSet;

fn failed(error: sqlx::Error) -> DatabaseError {
    DatabaseError::new("keep what waits", error)
}

/// Everything that waits for a projection.
pub(in crate::database) async fn all(
    connection: &mut PgConnection,
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
        let mut transaction = self.connection.begin().await.map_err(failed)?;
        // Locked, so that no commit goes past what is brought back here.
        let sql = "SELECT 1 FROM waybill_checkpoint \
                   WHERE projection = $1 AND stream = $2 AND sequence = $3 AND closed = 0 FOR UPDATE";
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
        self.statements.merge_all(&mut transaction, &changes).await?;
        if let Some(after) = after {
            insert(&mut transaction, self.view.name, after).await?;
        }
        transaction.commit().await.map_err(failed)?;
        Ok(Commit::Done)
    }
}

/// Records that an aggregate waits.
pub(super) async fn insert(
    connection: &mut PgConnection,
    projection: &str,
    parked: &Parked,
) -> Result<(), DatabaseError> {
    let sql = "INSERT INTO waybill_parked (projection, subject, sequence, error, asked) VALUES ($1, $2, $3, $4, $5)";
    query(sql)
        .bind(projection)
        .bind(parked.subject.as_str())
        .bind(parked.sequence.cast_signed())
        // What cannot be read may be named in the error, and text here holds no zero byte.
        .bind(parked.error.replace('\0', "\u{fffd}"))
        .bind(parked.asked.cast_signed())
        .execute(connection)
        .await
        .map_err(failed)?;
    Ok(())
}

/// Whether all of these aggregates still wait as they are supposed to.
pub(super) async fn wait(
    connection: &mut PgConnection,
    projection: &str,
    held: &HashSet<Subject>,
) -> Result<bool, DatabaseError> {
    for subject in held {
        let sql = "SELECT 1 FROM waybill_parked WHERE projection = $1 AND subject = $2";
        let found = query(sql).bind(projection).bind(subject.as_str()).fetch_optional(&mut *connection);
        // Another projector has brought back what it waited for.
        if found.await.map_err(failed)?.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}
