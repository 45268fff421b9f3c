//! What operators do about a process: each says why.

use super::Step;
use crate::OrderId;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An operator wants to have it asked again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OperatorRetried {
    /// The order.
    pub order_id: OrderId,
    /// The step that is asked for, or undone, again.
    pub step: Step,
    /// What the operator says.
    pub reason: String,
}

/// An operator goes on without an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OperatorSkipped {
    /// The order.
    pub order_id: OrderId,
    /// The step that nobody waits for any more.
    pub step: Step,
    /// What the operator says.
    pub reason: String,
}

/// An operator has everything undone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OperatorCompensated {
    /// The order.
    pub order_id: OrderId,
    /// What the operator says.
    pub reason: String,
}

/// An operator takes the order back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OperatorCancelled {
    /// The order.
    pub order_id: OrderId,
    /// What the operator says.
    pub reason: String,
}

/// An operator lets a parked process go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OperatorResumed {
    /// The order.
    pub order_id: OrderId,
    /// What the operator says.
    pub reason: String,
}
