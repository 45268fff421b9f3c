//! What happens to orders.

use crate::{AccountId, Address, Money, OrderId, Personal, Sku, UserId, fact::facts};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

facts! {
    /// What happened to an order.
    OrderEvent {
        /// It was placed and is pending.
        Created(OrderCreated) = "order.created" 2,
        /// Everything it needs is done.
        Completed(OrderCompleted) = "order.completed" 1,
        /// It could not be fulfilled; what had been done for it is undone.
        Failed(OrderFailed) = "order.failed" 1,
        /// The customer took it back; what had been done for it is undone.
        Cancelled(OrderCancelled) = "order.cancelled" 2,
    }
}

/// Who carries an order through stock, payment and shipping. One owner per order, named by `order.created`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Workflow {
    /// Each service reacts to the facts of the others.
    #[default]
    Choreography,
    /// A saga asks each service in turn.
    Orchestration,
}

/// Why a text is no workflow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected choreography or orchestration")]
pub struct WorkflowError;

impl std::str::FromStr for Workflow {
    type Err = WorkflowError;

    fn from_str(text: &str) -> Result<Self, WorkflowError> {
        match text {
            "choreography" => Ok(Self::Choreography),
            "orchestration" => Ok(Self::Orchestration),
            _ => Err(WorkflowError),
        }
    }
}

/// Why an order, or a step of it, failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Less is available than the order asks for.
    OutOfStock,
    /// The account does not hold enough.
    InsufficientFunds,
    /// No such account, or not the customer's.
    AccountUnknown,
    /// The account is in another currency than the order.
    CurrencyMismatch,
    /// The fraud rules refuse the payment.
    FraudDeclined,
    /// The fraud rules did not answer in time and the amount is too high to go on without them.
    FraudUnavailable,
    /// The carrier does not take the parcel.
    CarrierRefused,
    /// The customer took the order back.
    OrderCancelled,
    /// The customer was erased: nobody knows any more where the parcel goes.
    UserErased,
    /// An operator asked for it.
    Requested,
    /// A step gave no answer in time, however often it was asked for.
    StepTimedOut,
    /// Its stock was held for as long as it may be, and nobody had paid.
    HoldExpired,
}

/// One line of an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Line {
    /// What.
    pub sku: Sku,
    /// How many, at least 1.
    pub quantity: u32,
    /// Price of one when the order was placed.
    pub unit_price: Money,
}

/// What every step of fulfilling an order needs to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Ordered {
    /// The order.
    pub order_id: OrderId,
    /// The customer.
    pub user_id: UserId,
    /// The account that pays.
    pub account_id: AccountId,
    /// What was ordered; no SKU twice.
    pub items: Vec<Line>,
    /// Sum over the lines.
    pub total_amount: Money,
    /// Where it goes.
    pub shipping_address: Personal<Address>,
    /// Who carries the order through.
    pub workflow: Workflow,
}

/// An order was placed. It carries what every later step needs, so that none has to look anything up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OrderCreated {
    /// The order.
    pub order_id: OrderId,
    /// The customer.
    pub user_id: UserId,
    /// The account that pays.
    pub account_id: AccountId,
    /// What was ordered; no SKU twice.
    pub items: Vec<Line>,
    /// Sum over the lines.
    pub total_amount: Money,
    /// Where it goes.
    pub shipping_address: Personal<Address>,
    /// Who carries it through.
    pub workflow: Workflow,
    /// How the customer was known.
    pub user_snapshot: UserSnapshot,
}

/// What was known of the customer when an order was placed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UserSnapshot {
    /// Whether the users service could not be asked and an own copy was relied on, which may be old.
    pub stale: bool,
}

/// Everything the order needs is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OrderCompleted {
    /// The order.
    pub order_id: OrderId,
    /// The customer.
    pub user_id: UserId,
}

/// The order could not be fulfilled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OrderFailed {
    /// The order.
    pub order_id: OrderId,
    /// The customer.
    pub user_id: UserId,
    /// Why.
    pub reason: Reason,
    /// In words.
    pub detail: String,
}

/// The customer took the order back before it was completed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OrderCancelled {
    /// The order.
    pub order_id: OrderId,
    /// The customer.
    pub user_id: UserId,
    /// The account that pays, for a refund.
    pub account_id: AccountId,
    /// What the customer said, who may have said anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Personal<String>>,
    /// Who carried it through.
    pub workflow: Workflow,
}

impl From<&OrderCreated> for Ordered {
    fn from(fact: &OrderCreated) -> Self {
        let OrderCreated {
            order_id,
            user_id,
            account_id,
            items,
            total_amount,
            shipping_address,
            workflow,
            ..
        } = fact.clone();
        Self { order_id, user_id, account_id, items, total_amount, shipping_address, workflow }
    }
}
