//! How shipping answers the facts of others.

use events::{
    Context, Fact, OrderId,
    fulfilment::{ProcessEvent, Step},
    orders::{OrderEvent, Ordered, Reason, Workflow},
    payments::PaymentEvent,
};

/// The types of facts that shipping answers, by the context that records them.
pub const INTERESTS: &[(Context, &[&str])] = &[
    (Context::Orders, &["order.cancelled"]),
    (Context::Payments, &["payment.charged"]),
    (Context::Fulfilment, &["process.started", "step.requested", "compensation.requested"]),
];

/// What a fact asks of shipping. Both ask the carrier too, and both may be carried out any number of times.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Where [`parcel`](super::ShipmentState::parcel) says that nothing was decided: book with the carrier, then
    /// [`schedule`](super::schedule). Where it says, then or now, that the parcel is not wanted: call it off with the
    /// carrier.
    Schedule(Box<Ordered>),
    /// [`cancel`](super::cancel), then call the parcel off with the carrier, whatever was decided before.
    Cancel {
        /// The order.
        order_id: OrderId,
        /// Why.
        reason: Reason,
        /// Who carries the order through.
        workflow: Workflow,
    },
}

/// What shipping does about a fact.
pub fn react(fact: &Fact) -> Option<Effect> {
    let (workflow, effect) = match fact {
        Fact::Payment(PaymentEvent::Charged(fact)) => {
            (fact.workflow, Effect::Schedule(Box::new(fact.into())))
        }
        Fact::Order(OrderEvent::Cancelled(fact)) => {
            let (order_id, reason, workflow) = (fact.order_id, Reason::OrderCancelled, fact.workflow);
            (workflow, Effect::Cancel { order_id, reason, workflow })
        }
        Fact::Process(fact) => return of_saga(fact),
        _ => return None,
    };
    (workflow == Workflow::Choreography).then_some(effect)
}

/// The saga asks for a step, or to have it undone.
fn of_saga(fact: &ProcessEvent) -> Option<Effect> {
    match (fact.asks(), fact) {
        (Some((order, asks)), _) if asks.step == Step::Shipping => {
            Some(Effect::Schedule(Box::new(order.clone())))
        }
        (_, ProcessEvent::CompensationRequested(fact)) if fact.step == Step::Shipping => {
            let (order_id, reason, workflow) = (fact.order_id, fact.reason, Workflow::Orchestration);
            Some(Effect::Cancel { order_id, reason, workflow })
        }
        _ => None,
    }
}
