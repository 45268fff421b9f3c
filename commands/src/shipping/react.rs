//! How shipping answers the facts of others.

use events::{
    Context, Fact, OrderId,
    orders::{OrderEvent, Reason, Workflow},
    payments::{PaymentCharged, PaymentEvent},
};

/// The types of facts that shipping answers, by the context that records them.
pub const INTERESTS: &[(Context, &[&str])] =
    &[(Context::Orders, &["order.cancelled"]), (Context::Payments, &["payment.charged"])];

/// What a fact asks of shipping. Both ask the carrier too, and both may be carried out any number of times.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Where [`parcel`](super::ShipmentState::parcel) says that nothing was decided: book with the carrier, then
    /// [`schedule`](super::schedule). Where it says, then or now, that the parcel is not wanted: call it off with the
    /// carrier.
    Schedule(Box<PaymentCharged>),
    /// [`cancel`](super::cancel), then call the parcel off with the carrier, whatever was decided before.
    Cancel {
        /// The order.
        order_id: OrderId,
        /// Why.
        reason: Reason,
    },
}

/// What shipping does about a fact.
pub fn react(fact: &Fact) -> Option<Effect> {
    let (workflow, effect) = match fact {
        Fact::Payment(PaymentEvent::Charged(fact)) => {
            (fact.workflow, Effect::Schedule(Box::new(fact.clone())))
        }
        Fact::Order(OrderEvent::Cancelled(fact)) => {
            (fact.workflow, Effect::Cancel { order_id: fact.order_id, reason: Reason::OrderCancelled })
        }
        _ => return None,
    };
    (workflow == Workflow::Choreography).then_some(effect)
}
