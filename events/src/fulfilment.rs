//! What happens to the process that carries an order through, to holds that expire, and to timers.
//!
//! Steps are asked for by recording it: `step.requested` and `compensation.requested` carry all that the service needs
//! that carries them out, so that nobody looks anything up.

mod operators;

use crate::{
    AccountId, OrderId, UserId,
    fact::facts,
    orders::{Ordered, Reason},
};
use jiff::Timestamp;
pub use operators::{
    OperatorCancelled, OperatorCompensated, OperatorResumed, OperatorRetried, OperatorSkipped,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

facts! {
    /// What happened to the process of one order.
    ProcessEvent {
        /// It begins.
        Started(ProcessStarted) = "process.started" 2,
        /// A step is asked for.
        StepRequested(StepRequested) = "step.requested" 2,
        /// A step was done.
        StepSucceeded(StepSucceeded) = "step.succeeded" 1,
        /// A step was refused, for good: nothing was done.
        StepFailed(StepFailed) = "step.failed" 1,
        /// There was no answer in time: the step may have been done.
        StepTimedOut(StepTimedOut) = "step.timed_out" 1,
        /// A step that may have been done is to be undone.
        CompensationRequested(CompensationRequested) = "compensation.requested" 1,
        /// A step is undone, or it is certain that it will never be done.
        CompensationSucceeded(CompensationSucceeded) = "compensation.succeeded" 1,
        /// There was no answer in time: it may not be undone yet.
        CompensationFailed(CompensationFailed) = "compensation.failed" 1,
        /// Its timer came for an answer that was there, and is set again.
        Waiting(ProcessWaiting) = "process.waiting" 1,
        /// Every step is done.
        Completed(ProcessCompleted) = "process.completed" 2,
        /// Every step that may have been done is undone.
        Failed(ProcessFailed) = "process.failed" 1,
        /// It cannot go on by itself: somebody has to look.
        Parked(ProcessParked) = "process.parked" 1,
        /// An operator wants to have it asked again.
        Retried(OperatorRetried) = "operator.retried" 1,
        /// An operator goes on without an answer.
        Skipped(OperatorSkipped) = "operator.skipped" 1,
        /// An operator has everything undone, whatever was done.
        Compensated(OperatorCompensated) = "operator.compensated" 1,
        /// An operator takes the order back, as its customer could.
        Cancelled(OperatorCancelled) = "operator.cancelled" 1,
        /// An operator lets a parked process go on.
        Resumed(OperatorResumed) = "operator.resumed" 1,
    }
}

facts! {
    /// What happened to the time that an order's stock is held unpaid.
    HoldEvent {
        /// The stock is held until then.
        Started(HoldStarted) = "hold.started" 1,
        /// It was decided in time whether the order is paid.
        Ended(HoldEnded) = "hold.ended" 1,
        /// The time is over.
        Expired(HoldExpired) = "hold.expired" 1,
    }
}

facts! {
    /// What a timer says. Recorded by nats-server itself, when the time has come.
    TimerEvent {
        /// The time has come.
        Due(TimerDue) = "timer.due" 1,
    }
}

impl ProcessEvent {
    /// What this asks a service to do, and for which order.
    pub fn asks(&self) -> Option<(&Ordered, &Asked)> {
        match self {
            Self::Started(it) => it.asks.as_ref().map(|asks| (&it.order, asks)),
            Self::StepRequested(it) => Some((&it.order, &it.asks)),
            _ => None,
        }
    }

    /// When the answer has to be there that this asks for.
    pub fn deadline(&self) -> Option<Timestamp> {
        match self {
            Self::CompensationRequested(it) => Some(it.deadline),
            other => other.asks().map(|(_, asks)| asks.deadline),
        }
    }

    /// The step that this says was done.
    pub fn done(&self) -> Option<Done> {
        match self {
            Self::StepSucceeded(it) => Some(Done { step: it.step, sequence: it.sequence }),
            Self::StepRequested(it) => it.after,
            Self::Completed(it) => it.after,
            _ => None,
        }
    }
}

/// A step of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// Charge the account; undone by a refund.
    Payment,
    /// Reserve the stock; undone by a release.
    Inventory,
    /// Schedule the shipment; undone by calling it off.
    Shipping,
}

impl Step {
    /// Every step.
    pub const ALL: [Self; 3] = [Self::Payment, Self::Inventory, Self::Shipping];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Payment => "payment",
            Self::Inventory => "inventory",
            Self::Shipping => "shipping",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which of an order's timers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Timer {
    /// Wakes the process: a deadline is over, or a pause.
    Process,
    /// The stock was held long enough.
    Hold,
}

impl Timer {
    /// The token in its subject: `timer.fulfilment.<orderId>.<name>`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Hold => "hold",
        }
    }
}

/// What is asked of the service that does a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Asked {
    /// The step.
    pub step: Step,
    /// How often it was asked for, from 1.
    pub attempt: u32,
    /// When the answer has to be there. Whoever sees the request later leaves it.
    pub deadline: Timestamp,
}

/// A step that was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Done {
    /// The step.
    pub step: Step,
    /// Where the answer stands in the stream of whoever did it.
    pub sequence: u64,
}

/// A process begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProcessStarted {
    /// What is to be fulfilled.
    #[serde(flatten)]
    pub order: Ordered,
    /// Version of the definition that it follows to its end.
    pub definition: u32,
    /// The step that is asked for at once; missing where that is a fact of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asks: Option<Asked>,
}

/// A step is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StepRequested {
    /// What is to be fulfilled.
    #[serde(flatten)]
    pub order: Ordered,
    /// The step, and by when.
    #[serde(flatten)]
    pub asks: Asked,
    /// The step that was done, whereupon this one is asked for; missing where that is a fact of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Done>,
}

/// A step was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StepSucceeded {
    /// The order.
    pub order_id: OrderId,
    /// The step.
    pub step: Step,
    /// Where the answer stands in the stream of whoever did it.
    pub sequence: u64,
}

/// A step was refused, for good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StepFailed {
    /// The order.
    pub order_id: OrderId,
    /// The step.
    pub step: Step,
    /// Why.
    pub reason: Reason,
    /// In words.
    pub detail: String,
    /// Where the answer stands in the stream of whoever refused it.
    pub sequence: u64,
}

/// There was no answer in time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StepTimedOut {
    /// The order.
    pub order_id: OrderId,
    /// The step.
    pub step: Step,
    /// How often it was asked for.
    pub attempt: u32,
    /// When it is asked for again; missing where that was often enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Timestamp>,
}

/// A step that may have been done is to be undone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CompensationRequested {
    /// The order.
    pub order_id: OrderId,
    /// The customer.
    pub user_id: UserId,
    /// The account that pays.
    pub account_id: AccountId,
    /// The step.
    pub step: Step,
    /// How often it was asked for, from 1.
    pub attempt: u32,
    /// When the answer has to be there. Whoever sees the request later leaves it.
    pub deadline: Timestamp,
    /// Why.
    pub reason: Reason,
    /// In words.
    pub detail: String,
}

/// A step is undone, or it is certain that it will never be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CompensationSucceeded {
    /// The order.
    pub order_id: OrderId,
    /// The step.
    pub step: Step,
    /// Where the answer stands in the stream of whoever undid it.
    pub sequence: u64,
}

/// There was no answer in time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CompensationFailed {
    /// The order.
    pub order_id: OrderId,
    /// The step.
    pub step: Step,
    /// How often it was asked for.
    pub attempt: u32,
    /// When it is asked for again; missing where that was often enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Timestamp>,
}

/// Every step is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProcessCompleted {
    /// The order.
    pub order_id: OrderId,
    /// The customer.
    pub user_id: UserId,
    /// The step that was done last; missing where that is a fact of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Done>,
}

/// The timer of a process came for an answer that was there, and is set again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProcessWaiting {
    /// The order.
    pub order_id: OrderId,
    /// The step whose answer it waits for.
    pub step: Step,
    /// When it looks again.
    pub until: Timestamp,
}

/// Every step that may have been done is undone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProcessFailed {
    /// The order.
    pub order_id: OrderId,
    /// The customer.
    pub user_id: UserId,
    /// Why.
    pub reason: Reason,
    /// In words.
    pub detail: String,
}

/// A process cannot go on by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProcessParked {
    /// The order.
    pub order_id: OrderId,
    /// The step that is not done or not undone.
    pub step: Step,
    /// How often it was asked for.
    pub attempts: u32,
    /// Whether it is to be undone.
    pub compensating: bool,
}

/// Stock is held for an order that is not paid yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HoldStarted {
    /// The order.
    pub order_id: OrderId,
    /// The account that pays.
    pub account_id: AccountId,
    /// When it ends.
    pub until: Timestamp,
}

/// It was decided in time whether the order is paid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HoldEnded {
    /// The order.
    pub order_id: OrderId,
}

/// Stock was held long enough.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HoldExpired {
    /// The order.
    pub order_id: OrderId,
    /// The account that should have paid.
    pub account_id: AccountId,
}

/// The time has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TimerDue {
    /// The order.
    pub order_id: OrderId,
    /// Which of its timers.
    pub timer: Timer,
    /// What it was set to. It is recorded up to 350 ms before that, or later; whoever answers it waits for the time.
    pub at: Timestamp,
}
