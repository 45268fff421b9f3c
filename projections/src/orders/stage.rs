//! How far an order has come, told from its status and from what was done for it.

use crate::database::{DatabaseError, Row};
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

/// How far an order has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Stage {
    /// Nothing is done yet.
    Placed,
    /// Its stock is held.
    Reserved,
    /// It is paid.
    Charged,
    /// The carrier takes it.
    Scheduled,
    /// It left the house.
    Dispatched,
    /// It arrived.
    Delivered,
    /// It failed or was cancelled, and not everything done for it is undone yet.
    Undoing,
    /// It failed or was cancelled, and nothing is held or charged for it.
    Undone,
}

impl Stage {
    /// Of an order joined with its progress.
    pub(super) fn of(row: &Row, status: &str) -> Result<Self, DatabaseError> {
        let done = |column| Ok(row.find::<Timestamp>(column)?.is_some());
        let stands = |done_at, undone_at| Ok(done(done_at)? && !done(undone_at)?);
        let reserved = stands("reserved_at", "released_at")?;
        let charged = stands("charged_at", "refunded_at")?;
        let scheduled = stands("scheduled_at", "called_off_at")?;
        if matches!(status, "failed" | "cancelled") {
            return Ok(if reserved || charged || scheduled { Self::Undoing } else { Self::Undone });
        }
        Ok(match () {
            () if done("delivered_at")? => Self::Delivered,
            () if done("dispatched_at")? => Self::Dispatched,
            () if scheduled => Self::Scheduled,
            () if charged => Self::Charged,
            () if reserved => Self::Reserved,
            () => Self::Placed,
        })
    }
}
