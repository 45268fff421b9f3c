//! How inventory answers the facts of others.

use crate::{Decision, Stop};
use events::{
    Context, Fact, OrderId,
    fulfilment::{ProcessEvent, Step},
    orders::{OrderEvent, Ordered, Reason, Workflow},
    payments::PaymentEvent,
    shipping::ShipmentEvent,
};

/// The types of facts that inventory answers, by the context that records them.
pub const INTERESTS: &[(Context, &[&str])] = &[
    (Context::Orders, &["order.created", "order.cancelled"]),
    (Context::Payments, &["payment.failed"]),
    (Context::Shipping, &["shipping.failed", "shipment.dispatched"]),
    (Context::Fulfilment, &["process.started", "step.requested", "compensation.requested"]),
];

/// What a fact asks of inventory.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Hold everything the order asks for.
    Reserve(Box<Ordered>),
    /// Free what is held for the order, or see to it that nothing will be.
    Release(Release),
    /// What is held for the order leaves the house.
    Ship(OrderId),
}

/// A reservation that is no longer wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Release {
    /// The order.
    pub order_id: OrderId,
    /// Why.
    pub reason: Reason,
    /// Who carries the order through.
    pub workflow: Workflow,
}

/// What inventory does about a fact.
pub fn react(fact: &Fact) -> Option<Effect> {
    let (workflow, effect) = match fact {
        Fact::Order(OrderEvent::Created(fact)) => (fact.workflow, Effect::Reserve(Box::new(fact.into()))),
        Fact::Order(OrderEvent::Cancelled(fact)) => {
            released(fact.order_id, Reason::OrderCancelled, fact.workflow)
        }
        Fact::Payment(PaymentEvent::Failed(fact)) => released(fact.order_id, fact.reason, fact.workflow),
        Fact::Shipment(ShipmentEvent::Failed(fact)) => released(fact.order_id, fact.reason, fact.workflow),
        Fact::Process(fact) => return of_saga(fact),
        // Whoever carried the order through: goods that left the house are no longer in stock.
        Fact::Shipment(ShipmentEvent::Dispatched(fact)) => return Some(Effect::Ship(fact.order_id)),
        _ => return None,
    };
    (workflow == Workflow::Choreography).then_some(effect)
}

/// The saga asks for a step, or to have it undone.
fn of_saga(fact: &ProcessEvent) -> Option<Effect> {
    match (fact.asks(), fact) {
        (Some((order, asks)), _) if asks.step == Step::Inventory => {
            Some(Effect::Reserve(Box::new(order.clone())))
        }
        (_, ProcessEvent::CompensationRequested(fact)) if fact.step == Step::Inventory => {
            Some(released(fact.order_id, fact.reason, Workflow::Orchestration).1)
        }
        _ => None,
    }
}

fn released(order_id: OrderId, reason: Reason, workflow: Workflow) -> (Workflow, Effect) {
    (workflow, Effect::Release(Release { order_id, reason, workflow }))
}

impl Effect {
    /// The decision that carries it out; nothing where it was carried out before.
    pub fn decide(&self, decision: &mut Decision) -> Result<(), Stop> {
        match self {
            Self::Reserve(order) => super::reserve(decision, order),
            Self::Release(release) => super::release(decision, release),
            Self::Ship(order_id) => super::ship(decision, *order_id),
        }
    }
}
