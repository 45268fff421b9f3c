//! What happens beside the flow: messages that a consumer could not handle, read models that are built again, and what
//! operators do about both.

use crate::{DeadLetterId, Position, fact::facts};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

facts! {
    /// What happened to the messages of one aggregate that one consumer could not handle.
    DeadLetterEvent {
        /// A message could not be handled: it waits, and so does what it holds up.
        Parked(MessageParked) = "message.parked" 1,
        /// A message could not be handled and was passed over, as the consumer's policy says.
        Skipped(MessageSkipped) = "message.skipped" 1,
        /// An operator wants it to be handled again.
        Retried(DeadLetterRetried) = "deadletter.retried" 1,
        /// An operator gave it up.
        Discarded(DeadLetterDiscarded) = "deadletter.discarded" 1,
        /// Everything that waited was handled.
        Resolved(DeadLetterResolved) = "deadletter.resolved" 1,
    }
}

/// What a message that cannot be handled holds up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Holds {
    /// Later messages of the same aggregate.
    Aggregate,
    /// Everything that the consumer would handle.
    Consumer,
}

/// A message that a consumer could not handle. A pointer: the message itself stays in its stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// Who could not handle it.
    pub consumer: String,
    /// The stream that holds it.
    pub stream: String,
    /// Its sequence in the stream.
    pub sequence: u64,
    /// Its subject: the aggregate.
    pub subject: String,
    /// Its type, where that can be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_type: Option<String>,
    /// What went wrong the last time. Holds no personal data.
    pub error: String,
    /// The same for failures that look alike.
    pub fingerprint: String,
    /// How often it was tried.
    pub attempts: u32,
    /// Version of the program that tried.
    pub handler_version: String,
}

/// A message could not be handled: it waits, and so does what it holds up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MessageParked {
    /// What operators call it.
    pub dead_letter_id: DeadLetterId,
    /// Which message, and what went wrong.
    pub failure: Failure,
    /// What it holds up.
    pub holds: Holds,
}

/// A message could not be handled and was passed over, as the consumer's policy says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MessageSkipped {
    /// What operators call it.
    pub dead_letter_id: DeadLetterId,
    /// Which message, and what went wrong.
    pub failure: Failure,
}

/// An operator wants a parked message to be handled again, and then what waits behind it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetterRetried {
    /// What operators call it.
    pub dead_letter_id: DeadLetterId,
    /// Who could not handle it.
    pub consumer: String,
    /// Sequence of the parked message in its stream.
    pub sequence: u64,
}

/// An operator gave a parked message up. What waits behind it is handled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetterDiscarded {
    /// What operators call it.
    pub dead_letter_id: DeadLetterId,
    /// Who could not handle it.
    pub consumer: String,
    /// Sequence of the parked message in its stream.
    pub sequence: u64,
    /// Why, in the operator's words.
    pub reason: String,
}

/// Everything that waited was handled or given up: the messages of the aggregate flow again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetterResolved {
    /// What operators call it.
    pub dead_letter_id: DeadLetterId,
    /// Who handled it.
    pub consumer: String,
    /// Sequence of the last message that had waited.
    pub through: u64,
}

facts! {
    /// What operators asked of the read model of a service, and what became of it.
    ProjectionEvent {
        /// An operator wants it to be built again, beside the one that serves.
        RebuildRequested(ProjectionRebuildRequested) = "projection.rebuild.requested" 1,
        /// An operator wants no more of what is being built.
        RebuildCancelled(ProjectionRebuildCancelled) = "projection.rebuild.cancelled" 1,
        /// An operator wants the one back that served before.
        RollbackRequested(ProjectionRollbackRequested) = "projection.rollback.requested" 1,
        /// An operator wants the one that served before to be kept no longer.
        DropRequested(ProjectionDropRequested) = "projection.drop.requested" 1,
        /// Another generation serves.
        Switched(ProjectionSwitched) = "projection.switched" 1,
    }
}

/// An operator wants a read model to be built again, beside the one that serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProjectionRebuildRequested {
    /// Whose read model.
    pub service: String,
    /// The one table that is to be built again; all of them where it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Where it begins in these streams; at the first event in all others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<Position>,
    /// It begins with what was recorded at this time or later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_time: Option<Timestamp>,
}

/// An operator wants no more of what is being built.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProjectionRebuildCancelled {
    /// Whose read model.
    pub service: String,
}

/// An operator wants the generation back that served before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProjectionRollbackRequested {
    /// Whose read model.
    pub service: String,
}

/// An operator wants the generation that served before to be kept no longer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProjectionDropRequested {
    /// Whose read model.
    pub service: String,
}

/// Another generation of a read model serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProjectionSwitched {
    /// Whose read model.
    pub service: String,
    /// The generation that serves.
    pub generation: u32,
    /// The one that served before, which is kept.
    pub previous: u32,
    /// Up to where the one before was built: the mark. Nothing up to there is told to anybody again.
    pub mark: Vec<Position>,
}
