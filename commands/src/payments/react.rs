//! How payments answer the facts of others.

use events::{
    AccountId, Context, Fact, OrderId,
    fulfilment::{HoldEvent, ProcessEvent, Step},
    inventory::ReservationEvent,
    orders::{OrderEvent, Ordered, Reason, Workflow},
    shipping::ShipmentEvent,
};

/// The types of facts that payments answer, by the context that records them.
pub const INTERESTS: &[(Context, &[&str])] = &[
    (Context::Orders, &["order.cancelled"]),
    (Context::Inventory, &["inventory.reserved"]),
    (Context::Shipping, &["shipping.failed"]),
    (Context::Fulfilment, &["process.started", "step.requested", "compensation.requested", "hold.expired"]),
];

/// What a fact asks of payments.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Ask the fraud rules, then [`charge`](super::charge).
    Charge(Box<Ordered>),
    /// [`refund`](super::refund).
    Refund(Refund),
    /// [`expire`](super::expire).
    Expire(OrderId, AccountId),
}

/// A payment that is no longer wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refund {
    /// The order.
    pub order_id: OrderId,
    /// Why.
    pub reason: Reason,
    /// Where nothing was decided yet: whose payment shall never be taken. Without it the refund of nothing is refused.
    pub never_charge: Option<AccountId>,
    /// Who carries the order through.
    pub workflow: Workflow,
}

/// What payments do about a fact.
pub fn react(fact: &Fact) -> Option<Effect> {
    let (workflow, effect) = match fact {
        Fact::Reservation(ReservationEvent::Reserved(fact)) => {
            (fact.workflow, Effect::Charge(Box::new(fact.into())))
        }
        Fact::Order(OrderEvent::Cancelled(fact)) => {
            let refund = refund(fact.order_id, Reason::OrderCancelled, Some(fact.account_id), fact.workflow);
            (fact.workflow, refund)
        }
        Fact::Shipment(ShipmentEvent::Failed(fact)) => {
            (fact.workflow, refund(fact.order_id, fact.reason, None, fact.workflow))
        }
        Fact::Process(fact) => return of_saga(fact),
        Fact::Hold(HoldEvent::Expired(fact)) => return Some(Effect::Expire(fact.order_id, fact.account_id)),
        _ => return None,
    };
    (workflow == Workflow::Choreography).then_some(effect)
}

/// The saga asks for a step, or to have it undone.
fn of_saga(fact: &ProcessEvent) -> Option<Effect> {
    match (fact.asks(), fact) {
        (Some((order, asks)), _) if asks.step == Step::Payment => {
            Some(Effect::Charge(Box::new(order.clone())))
        }
        (_, ProcessEvent::CompensationRequested(fact)) if fact.step == Step::Payment => {
            Some(refund(fact.order_id, fact.reason, Some(fact.account_id), Workflow::Orchestration))
        }
        _ => None,
    }
}

fn refund(order_id: OrderId, reason: Reason, never_charge: Option<AccountId>, workflow: Workflow) -> Effect {
    Effect::Refund(Refund { order_id, reason, never_charge, workflow })
}
