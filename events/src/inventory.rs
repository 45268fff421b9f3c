//! What happens to products, stock and reservations.

use crate::{
    AccountId, Address, Money, OrderId, Personal, Sku, UserId,
    fact::facts,
    orders::{Line, Ordered, Reason, Workflow},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

facts! {
    /// What happened to a product of the catalogue. Each fact holds the whole product as it is afterwards.
    ProductEvent {
        /// It came into the catalogue.
        Added(ProductAdded) = "product.added" 2,
        /// Its price changed.
        Repriced(ProductRepriced) = "product.repriced" 1,
    }
}

facts! {
    /// What happened to the stock of one SKU. Each fact holds the totals as they are afterwards.
    ItemEvent {
        /// Goods arrived.
        Received(StockReceived) = "stock.received" 1,
        /// A count was put right.
        Adjusted(StockAdjusted) = "stock.adjusted" 1,
        /// Some is held for an order.
        Reserved(StockReserved) = "stock.reserved" 1,
        /// What was held is free again.
        Released(StockReleased) = "stock.released" 1,
        /// What was held has left the house.
        Shipped(StockShipped) = "stock.shipped" 1,
    }
}

facts! {
    /// What happened to the reservation of one order.
    ReservationEvent {
        /// Everything the order asks for is held.
        Reserved(InventoryReserved) = "inventory.reserved" 2,
        /// Nothing is held for the order, and nothing will be.
        Failed(ReservationFailed) = "inventory.reservation.failed" 1,
        /// What was held is free again.
        Released(InventoryReleased) = "inventory.released" 2,
        /// What was held has left the house.
        Shipped(InventoryShipped) = "inventory.shipped" 1,
    }
}

/// A product came into the catalogue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProductAdded {
    /// The product.
    pub sku: Sku,
    /// What it is called.
    pub name: String,
    /// Price of one. Version 1 had `amount` and `currency` side by side with the name.
    pub price: Money,
}

/// A product's price changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProductRepriced {
    /// The product.
    pub sku: Sku,
    /// What it is called.
    pub name: String,
    /// Price of one from now on.
    pub price: Money,
}

/// The stock of a SKU after a fact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Stock {
    /// Units in the house.
    pub on_hand: u64,
    /// Units of these that orders hold. Never more than `on_hand`.
    pub reserved: u64,
}

impl Stock {
    /// Units that can still be ordered.
    pub const fn available(self) -> u64 {
        self.on_hand.saturating_sub(self.reserved)
    }
}

/// Goods arrived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StockReceived {
    /// The product.
    pub sku: Sku,
    /// How many, at least 1.
    pub quantity: u32,
    /// Totals afterwards.
    pub stock: Stock,
}

/// A count was put right.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StockAdjusted {
    /// The product.
    pub sku: Sku,
    /// Units more or less.
    pub delta: i64,
    /// Why.
    pub reason: String,
    /// Totals afterwards.
    pub stock: Stock,
}

/// Some is held for an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StockReserved {
    /// The product.
    pub sku: Sku,
    /// For which order.
    pub order_id: OrderId,
    /// How many.
    pub quantity: u32,
    /// Totals afterwards.
    pub stock: Stock,
}

/// What was held for an order is free again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StockReleased {
    /// The product.
    pub sku: Sku,
    /// For which order.
    pub order_id: OrderId,
    /// How many.
    pub quantity: u32,
    /// Totals afterwards.
    pub stock: Stock,
}

/// What was held for an order has left the house.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StockShipped {
    /// The product.
    pub sku: Sku,
    /// For which order.
    pub order_id: OrderId,
    /// How many.
    pub quantity: u32,
    /// Totals afterwards.
    pub stock: Stock,
}

/// Everything the order asks for is held. Carries what payment and shipping need.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InventoryReserved {
    /// The order.
    pub order_id: OrderId,
    /// The customer.
    pub user_id: UserId,
    /// The account that pays.
    pub account_id: AccountId,
    /// What is held.
    pub items: Vec<Line>,
    /// What is to be paid.
    pub total_amount: Money,
    /// Where it goes.
    pub shipping_address: Personal<Address>,
    /// Who carries the order through.
    pub workflow: Workflow,
}

/// A SKU of which less is available than was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Shortage {
    /// The product.
    pub sku: Sku,
    /// Units asked for.
    pub requested: u32,
    /// Units that could be ordered.
    pub available: u64,
}

/// Nothing is held for the order, and nothing will be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReservationFailed {
    /// The order.
    pub order_id: OrderId,
    /// Why.
    pub reason: Reason,
    /// What was missing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shortages: Vec<Shortage>,
    /// Who carries the order through.
    pub workflow: Workflow,
}

/// What was held is free again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InventoryReleased {
    /// The order.
    pub order_id: OrderId,
    /// Why.
    pub reason: Reason,
    /// Who carries the order through.
    pub workflow: Workflow,
}

/// What was held has left the house.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InventoryShipped {
    /// The order.
    pub order_id: OrderId,
}

impl ReservationFailed {
    /// What was missing, in words.
    pub fn missing(&self) -> String {
        let each = self.shortages.iter().map(|Shortage { sku, requested, available }| {
            format!("{sku}: {requested} ordered, {available} available")
        });
        each.collect::<Vec<_>>().join("; ")
    }
}

impl From<&InventoryReserved> for Ordered {
    fn from(fact: &InventoryReserved) -> Self {
        let InventoryReserved {
            order_id,
            user_id,
            account_id,
            items,
            total_amount,
            shipping_address,
            workflow,
        } = fact.clone();
        Self { order_id, user_id, account_id, items, total_amount, shipping_address, workflow }
    }
}

impl From<Ordered> for InventoryReserved {
    fn from(order: Ordered) -> Self {
        let Ordered { order_id, user_id, account_id, items, total_amount, shipping_address, workflow } =
            order;
        Self { order_id, user_id, account_id, items, total_amount, shipping_address, workflow }
    }
}
