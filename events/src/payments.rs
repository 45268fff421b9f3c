//! What happens to accounts and payments.

use crate::{
    AccountId, Address, Currency, Money, OrderId, Personal, UserId,
    fact::facts,
    orders::{Line, Ordered, Reason, Workflow},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

facts! {
    /// What happened to an account. Each fact holds the balance as it is afterwards.
    AccountEvent {
        /// It was opened.
        Opened(AccountOpened) = "account.opened" 1,
        /// Money came in.
        Credited(AccountCredited) = "account.credited" 1,
        /// Money went out for an order.
        Debited(AccountDebited) = "account.debited" 1,
    }
}

facts! {
    /// What happened to the payment of one order.
    PaymentEvent {
        /// It was taken from the account.
        Charged(PaymentCharged) = "payment.charged" 2,
        /// Nothing was taken, and nothing will be.
        Failed(PaymentFailed) = "payment.failed" 1,
        /// What was taken is back in the account.
        Refunded(PaymentRefunded) = "payment.refunded" 2,
    }
}

/// An account was opened, empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccountOpened {
    /// The account.
    pub account_id: AccountId,
    /// Whose.
    pub user_id: UserId,
    /// Its currency, for ever.
    pub currency: Currency,
}

/// Money came in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccountCredited {
    /// The account.
    pub account_id: AccountId,
    /// How much, positive.
    pub amount: Money,
    /// Balance afterwards.
    pub balance: Money,
    /// The order whose payment is refunded, where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order_id: Option<OrderId>,
}

/// Money went out for an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccountDebited {
    /// The account.
    pub account_id: AccountId,
    /// For which order.
    pub order_id: OrderId,
    /// How much, positive.
    pub amount: Money,
    /// Balance afterwards, never below zero.
    pub balance: Money,
}

/// The order is paid. Carries what shipping needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PaymentCharged {
    /// The order.
    pub order_id: OrderId,
    /// The customer.
    pub user_id: UserId,
    /// The account that paid.
    pub account_id: AccountId,
    /// What was paid.
    pub amount: Money,
    /// What is to be shipped.
    pub items: Vec<Line>,
    /// Where it goes.
    pub shipping_address: Personal<Address>,
    /// Who carries the order through.
    pub workflow: Workflow,
}

/// Nothing was taken for the order, and nothing will be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PaymentFailed {
    /// The order.
    pub order_id: OrderId,
    /// The account that should have paid.
    pub account_id: AccountId,
    /// Why.
    pub reason: Reason,
    /// In words.
    pub detail: String,
    /// Who carries the order through.
    pub workflow: Workflow,
}

/// What was taken for the order is back in the account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PaymentRefunded {
    /// The order.
    pub order_id: OrderId,
    /// The account.
    pub account_id: AccountId,
    /// How much.
    pub amount: Money,
    /// Why.
    pub reason: Reason,
    /// Who carries the order through.
    pub workflow: Workflow,
}

impl From<&PaymentCharged> for Ordered {
    fn from(fact: &PaymentCharged) -> Self {
        let PaymentCharged { order_id, user_id, account_id, amount, items, shipping_address, workflow } =
            fact.clone();
        Self { order_id, user_id, account_id, items, total_amount: amount, shipping_address, workflow }
    }
}

impl From<Ordered> for PaymentCharged {
    fn from(order: Ordered) -> Self {
        let Ordered { order_id, user_id, account_id, items, total_amount, shipping_address, workflow } =
            order;
        Self { order_id, user_id, account_id, amount: total_amount, items, shipping_address, workflow }
    }
}
