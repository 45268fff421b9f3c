//! What the fraud rules said of a payment.

use crate::{Money, OrderId, UserId, fact::facts};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

facts! {
    /// What happened to the assessment of one payment.
    AssessmentEvent {
        /// The rules gave their verdict.
        Assessed(FraudAssessed) = "fraud.assessed" 1,
    }
}

/// What the rules say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The payment may go on.
    Approved,
    /// It may not.
    Declined,
}

/// A rule that speaks against a payment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Suspicion {
    /// More than the rules allow at once.
    AmountLimit,
    /// Too many payments of one customer in too short a time.
    Velocity,
    /// The customer is blocked.
    BlockedUser,
}

/// The rules gave their verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FraudAssessed {
    /// The order whose payment it is.
    pub order_id: OrderId,
    /// The customer.
    pub user_id: UserId,
    /// What is to be paid.
    pub amount: Money,
    /// The verdict.
    pub verdict: Verdict,
    /// Which rules spoke against it.
    pub reasons: Vec<Suspicion>,
}
