//! What happens to shipments.

use crate::{
    Address, OrderId, Personal, UserId,
    fact::facts,
    orders::{Line, Reason, Workflow},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

facts! {
    /// What happened to the shipment of one order.
    ShipmentEvent {
        /// The carrier takes the parcel.
        Scheduled(ShippingScheduled) = "shipping.scheduled" 2,
        /// The carrier does not take it.
        Failed(ShippingFailed) = "shipping.failed" 2,
        /// It is called off, or will never be scheduled.
        Cancelled(ShippingCancelled) = "shipping.cancelled" 2,
        /// It left the house.
        Dispatched(ShipmentDispatched) = "shipment.dispatched" 1,
        /// It arrived.
        Delivered(ShipmentDelivered) = "shipment.delivered" 1,
    }
}

/// The carrier takes the parcel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ShippingScheduled {
    /// The order.
    pub order_id: OrderId,
    /// The customer.
    pub user_id: UserId,
    /// What is shipped.
    pub items: Vec<Line>,
    /// Who carries it.
    pub carrier: String,
    /// The carrier's number for it.
    pub tracking_number: String,
    /// Where it goes.
    pub shipping_address: Personal<Address>,
    /// Who carries the order through.
    pub workflow: Workflow,
}

/// The carrier does not take the parcel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ShippingFailed {
    /// The order.
    pub order_id: OrderId,
    /// The customer. Version 1 did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<UserId>,
    /// Why.
    pub reason: Reason,
    /// In the carrier's words.
    pub detail: String,
    /// Who carries the order through.
    pub workflow: Workflow,
}

/// The shipment is called off, or will never be scheduled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ShippingCancelled {
    /// The order.
    pub order_id: OrderId,
    /// Why.
    pub reason: Reason,
    /// Who carries the order through.
    pub workflow: Workflow,
}

/// The parcel left the house.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ShipmentDispatched {
    /// The order.
    pub order_id: OrderId,
}

/// The parcel arrived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ShipmentDelivered {
    /// The order.
    pub order_id: OrderId,
}
