//! How payments answer the facts of others.

use events::{
    AccountId, Context, Fact, OrderId,
    inventory::{InventoryReserved, ReservationEvent},
    orders::{OrderEvent, Reason, Workflow},
    shipping::ShipmentEvent,
};

/// The types of facts that payments answer, by the context that records them.
pub const INTERESTS: &[(Context, &[&str])] = &[
    (Context::Orders, &["order.cancelled"]),
    (Context::Inventory, &["inventory.reserved"]),
    (Context::Shipping, &["shipping.failed"]),
];

/// What a fact asks of payments.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Ask the fraud rules, then [`charge`](super::charge).
    Charge(Box<InventoryReserved>),
    /// [`refund`](super::refund).
    Refund(Refund),
}

/// A payment that is no longer wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refund {
    /// The order.
    pub order_id: OrderId,
    /// Why.
    pub reason: Reason,
    /// Where nothing was decided yet: whose payment shall never be taken. Without it the refund of nothing is refused.
    pub never_charge: Option<(AccountId, Workflow)>,
}

/// What payments do about a fact.
pub fn react(fact: &Fact) -> Option<Effect> {
    let (workflow, effect) = match fact {
        Fact::Reservation(ReservationEvent::Reserved(fact)) => {
            (fact.workflow, Effect::Charge(Box::new(fact.clone())))
        }
        Fact::Order(OrderEvent::Cancelled(fact)) => {
            let never_charge = Some((fact.account_id, fact.workflow));
            let reason = Reason::OrderCancelled;
            (fact.workflow, Effect::Refund(Refund { order_id: fact.order_id, reason, never_charge }))
        }
        Fact::Shipment(ShipmentEvent::Failed(fact)) => {
            let (order_id, reason) = (fact.order_id, fact.reason);
            (fact.workflow, Effect::Refund(Refund { order_id, reason, never_charge: None }))
        }
        _ => return None,
    };
    (workflow == Workflow::Choreography).then_some(effect)
}
