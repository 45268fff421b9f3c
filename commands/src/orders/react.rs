//! How orders answer the facts of others: what ends an order.

use super::{Order, OrderCommand};
use crate::{Decision, Key, Stop};
use events::{
    Context, Fact, OrderId,
    fulfilment::ProcessEvent,
    inventory::ReservationEvent,
    orders::{Reason, Workflow},
    payments::PaymentEvent,
    shipping::ShipmentEvent,
};

/// The types of facts that orders answer, by the context that records them.
pub const INTERESTS: &[(Context, &[&str])] = &[
    (Context::Inventory, &["inventory.reservation.failed"]),
    (Context::Payments, &["payment.failed"]),
    (Context::Shipping, &["shipping.scheduled", "shipping.failed"]),
    (Context::Fulfilment, &["process.completed", "process.failed"]),
];

/// What a fact asks of an order.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Complete it.
    Complete(OrderId),
    /// Fail it.
    Fail {
        /// Which.
        order_id: OrderId,
        /// Why.
        reason: Reason,
        /// In words.
        detail: String,
    },
}

/// What orders do about a fact.
pub fn react(fact: &Fact) -> Option<Effect> {
    let (effect, workflow) = match fact {
        Fact::Shipment(ShipmentEvent::Scheduled(fact)) => (Effect::Complete(fact.order_id), fact.workflow),
        Fact::Reservation(ReservationEvent::Failed(fact)) => {
            (fail(fact.order_id, fact.reason, fact.missing()), fact.workflow)
        }
        Fact::Payment(PaymentEvent::Failed(fact)) => {
            (fail(fact.order_id, fact.reason, fact.detail.clone()), fact.workflow)
        }
        Fact::Shipment(ShipmentEvent::Failed(fact)) => {
            (fail(fact.order_id, fact.reason, fact.detail.clone()), fact.workflow)
        }
        // The saga is done.
        Fact::Process(ProcessEvent::Completed(fact)) => return Some(Effect::Complete(fact.order_id)),
        Fact::Process(ProcessEvent::Failed(fact)) => {
            return Some(fail(fact.order_id, fact.reason, fact.detail.clone()));
        }
        _ => return None,
    };
    (workflow == Workflow::Choreography).then_some(effect)
}

fn fail(order_id: OrderId, reason: Reason, detail: String) -> Effect {
    Effect::Fail { order_id, reason, detail }
}

impl Effect {
    /// The decision that carries it out; nothing where the order has ended.
    pub fn decide(&self, decision: &mut Decision) -> Result<(), Stop> {
        match self {
            Self::Complete(order_id) => decision.apply(&Key::<Order>::new(order_id), OrderCommand::Complete),
            Self::Fail { order_id, reason, detail } => {
                let command = OrderCommand::Fail { reason: *reason, detail: detail.clone() };
                decision.apply(&Key::<Order>::new(order_id), command)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{order, sku};
    use events::inventory::{ReservationFailed, Shortage};

    #[test]
    fn an_order_that_fails_for_stock_names_every_shortage() {
        let short = |of, requested, available| Shortage { sku: sku(of), requested, available };
        let failed = ReservationFailed {
            order_id: order(1),
            reason: Reason::OutOfStock,
            shortages: vec![short("TEA", 4, 3), short("POT", 1, 0)],
            workflow: Workflow::Choreography,
        };
        let detail = "TEA: 4 ordered, 3 available; POT: 1 ordered, 0 available".to_owned();
        let effect = Effect::Fail { order_id: order(1), reason: Reason::OutOfStock, detail };
        assert_eq!(react(&Fact::Reservation(failed.into())), Some(effect));
    }
}
