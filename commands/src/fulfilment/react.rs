//! What fulfilment does about facts: the answers of other services to the saga, and holds that begin and end.

use super::{Answer, Ask};
use events::{
    AccountId, Context, Fact, OrderId,
    fulfilment::{Step, Timer, TimerEvent},
    inventory::{InventoryReserved, ReservationEvent},
    orders::{OrderEvent, Workflow},
    payments::PaymentEvent,
    shipping::ShipmentEvent,
};
use jiff::Timestamp;

/// The types of facts that fulfilment answers, by the context that records them.
pub const INTERESTS: &[(Context, &[&str])] = &[
    (Context::Orders, &["order.created", "order.cancelled"]),
    (Context::Inventory, &["inventory.reserved", "inventory.reservation.failed", "inventory.released"]),
    (Context::Payments, &["payment.charged", "payment.failed", "payment.refunded"]),
    (Context::Shipping, &["shipping.scheduled", "shipping.failed", "shipping.cancelled"]),
    (Context::Fulfilment, &["timer.due"]),
];

/// What a fact asks of fulfilment.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Something happens to the process of an order.
    Advance(OrderId, Ask),
    /// Stock is held: unless the order is paid soon, see to it that it is not held for ever.
    Hold {
        /// The order.
        order_id: OrderId,
        /// The account that pays.
        account_id: AccountId,
    },
    /// It is decided whether the order is paid.
    Settled(OrderId),
    /// The timer of a hold has fired, which was set to this time.
    Expire(OrderId, Timestamp),
}

/// What fulfilment does about the fact at `sequence` of its stream.
pub fn react(fact: &Fact, sequence: u64) -> Option<Effect> {
    let order_id = order_of(fact)?;
    if let Fact::Timer(TimerEvent::Due(due)) = fact {
        return Some(match due.timer {
            Timer::Process => Effect::Advance(order_id, Ask::Due(due.at)),
            Timer::Hold => Effect::Expire(order_id, due.at),
        });
    }
    if workflow(fact)? == Workflow::Choreography {
        return match fact {
            Fact::Reservation(ReservationEvent::Reserved(InventoryReserved { account_id, .. })) => {
                Some(Effect::Hold { order_id, account_id: *account_id })
            }
            Fact::Payment(PaymentEvent::Charged(_) | PaymentEvent::Failed(_)) => {
                Some(Effect::Settled(order_id))
            }
            _ => None,
        };
    }
    let ask = match fact {
        Fact::Order(OrderEvent::Created(it)) => Ask::Start(Box::new(it.into())),
        Fact::Order(OrderEvent::Cancelled(it)) => Ask::Cancel { order_id, user_id: it.user_id },
        fact => {
            let (step, answer) = answer(fact)?;
            Ask::Answer { step, answer, sequence }
        }
    };
    Some(Effect::Advance(order_id, ask))
}

/// What a service says of the step that it does.
fn answer(fact: &Fact) -> Option<(Step, Answer)> {
    let refused = |reason, detail: &str| Answer::Refused { reason, detail: detail.to_owned() };
    Some(match fact {
        Fact::Payment(PaymentEvent::Charged(_)) => (Step::Payment, Answer::Done),
        Fact::Payment(PaymentEvent::Failed(it)) => (Step::Payment, refused(it.reason, &it.detail)),
        Fact::Payment(PaymentEvent::Refunded(_)) => (Step::Payment, Answer::Undone),
        Fact::Reservation(ReservationEvent::Reserved(_)) => (Step::Inventory, Answer::Done),
        Fact::Reservation(ReservationEvent::Failed(it)) => {
            (Step::Inventory, refused(it.reason, &it.missing()))
        }
        Fact::Reservation(ReservationEvent::Released(_)) => (Step::Inventory, Answer::Undone),
        Fact::Shipment(ShipmentEvent::Scheduled(_)) => (Step::Shipping, Answer::Done),
        Fact::Shipment(ShipmentEvent::Failed(it)) => (Step::Shipping, refused(it.reason, &it.detail)),
        Fact::Shipment(ShipmentEvent::Cancelled(_)) => (Step::Shipping, Answer::Undone),
        _ => return None,
    })
}

fn order_of(fact: &Fact) -> Option<OrderId> {
    Some(match fact {
        Fact::Order(OrderEvent::Created(it)) => it.order_id,
        Fact::Order(OrderEvent::Cancelled(it)) => it.order_id,
        Fact::Reservation(ReservationEvent::Reserved(it)) => it.order_id,
        Fact::Reservation(ReservationEvent::Failed(it)) => it.order_id,
        Fact::Reservation(ReservationEvent::Released(it)) => it.order_id,
        Fact::Payment(PaymentEvent::Charged(it)) => it.order_id,
        Fact::Payment(PaymentEvent::Failed(it)) => it.order_id,
        Fact::Payment(PaymentEvent::Refunded(it)) => it.order_id,
        Fact::Shipment(ShipmentEvent::Scheduled(it)) => it.order_id,
        Fact::Shipment(ShipmentEvent::Failed(it)) => it.order_id,
        Fact::Shipment(ShipmentEvent::Cancelled(it)) => it.order_id,
        Fact::Timer(TimerEvent::Due(it)) => it.order_id,
        _ => return None,
    })
}

/// Who carries the order of a fact.
fn workflow(fact: &Fact) -> Option<Workflow> {
    Some(match fact {
        Fact::Order(OrderEvent::Created(it)) => it.workflow,
        Fact::Order(OrderEvent::Cancelled(it)) => it.workflow,
        Fact::Reservation(ReservationEvent::Reserved(it)) => it.workflow,
        Fact::Reservation(ReservationEvent::Failed(it)) => it.workflow,
        Fact::Reservation(ReservationEvent::Released(it)) => it.workflow,
        Fact::Payment(PaymentEvent::Charged(it)) => it.workflow,
        Fact::Payment(PaymentEvent::Failed(it)) => it.workflow,
        Fact::Payment(PaymentEvent::Refunded(it)) => it.workflow,
        Fact::Shipment(ShipmentEvent::Scheduled(it)) => it.workflow,
        Fact::Shipment(ShipmentEvent::Failed(it)) => it.workflow,
        Fact::Shipment(ShipmentEvent::Cancelled(it)) => it.workflow,
        _ => return None,
    })
}
