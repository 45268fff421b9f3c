//! Shipping: what the carrier was asked to do for an order, and how far it got.

mod carrier;
mod http;
mod react;
mod reactor;
mod shipment;

pub use carrier::{Answer, Behaviour, Booking, CarrierError, CarrierGateway, SimulatedCarrier};
pub use react::{Effect, INTERESTS, react};
pub use shipment::{Parcel, Shipment, ShipmentCommand, ShipmentRejection, ShipmentState};

use crate::{
    Decision, Key, Stop,
    environment::{Build, WriteSide},
    orders::{Order, OrderStatus},
};
use events::{
    OrderId,
    orders::{Ordered, Reason, Workflow},
    shipping::{ShippingFailed, ShippingScheduled},
};
use std::sync::Arc;

/// Whose facts shipping reads beside those that it answers: a parcel leaves for a completed order only.
pub const READS: [events::Aggregate; 1] = [events::Aggregate::Order];

/// The write side of shipping.
pub(crate) fn write_side(build: Build, carrier: &Arc<dyn CarrierGateway>) -> WriteSide {
    let http = http::routes(build.api());
    let shipping = reactor::Shipping {
        executor: build.executor.clone(),
        carrier: Arc::clone(carrier),
        keys: build.keys.clone(),
        clock: build.clock.clone(),
    };
    let handler = reactor::handler(shipping);
    build.finish(http, INTERESTS, &handler)
}

/// Records the carrier's answer for a paid order. Nothing happens where that was decided before.
pub fn schedule(decision: &mut Decision, order: &Ordered, answer: &Answer) -> Result<(), Stop> {
    let shipment = Key::<Shipment>::new(order.order_id);
    decision.need([shipment.likely_new()])?;
    let Ordered { order_id, user_id, items, shipping_address, workflow, .. } = order.clone();
    let command = match answer.clone() {
        Answer::Booked(Booking { carrier, tracking_number }) => {
            let scheduled = ShippingScheduled {
                order_id,
                user_id,
                items,
                carrier,
                tracking_number,
                shipping_address,
                workflow,
            };
            ShipmentCommand::Schedule(Box::new(scheduled))
        }
        Answer::Refused(detail) => ShipmentCommand::Fail(ShippingFailed {
            order_id,
            user_id: Some(user_id),
            reason: Reason::CarrierRefused,
            detail,
            workflow,
        }),
    };
    decision.apply(&shipment, command)
}

/// Records that an order cannot be shipped, because its customer was erased and with him the address. Nothing happens
/// where the shipment was decided before.
pub fn give_up(decision: &mut Decision, order_id: OrderId, workflow: Workflow) -> Result<(), Stop> {
    let (reason, detail) = (Reason::UserErased, "the customer was erased".to_owned());
    let failed = ShippingFailed { order_id, user_id: None, reason, detail, workflow };
    decision.apply(&Key::<Shipment>::new(order_id), ShipmentCommand::Fail(failed))
}

/// Calls a shipment off. Where nothing was decided yet it is decided now that nothing will be shipped, so that a
/// `payment.charged` that comes after `order.cancelled` schedules nothing.
pub fn cancel(
    decision: &mut Decision,
    order_id: OrderId,
    reason: Reason,
    workflow: Workflow,
) -> Result<(), Stop> {
    decision.apply(&Key::<Shipment>::new(order_id), ShipmentCommand::Cancel { order_id, reason, workflow })
}

/// The parcel leaves the house. Not before its order is completed: until then the customer can take it back, and
/// goods that left the house cannot be taken back.
pub fn dispatch(decision: &mut Decision, order_id: OrderId) -> Result<(), Stop> {
    let (shipment, order) = (Key::<Shipment>::new(order_id), Key::<Order>::new(order_id));
    decision.need([shipment.load(), order.load()])?;
    // Read without a guard: a completed order stays completed.
    let completed = decision.state(&order)?.as_ref().is_some_and(|o| o.status == OrderStatus::Completed);
    if !completed && *decision.state(&shipment)? == ShipmentState::Scheduled {
        return Err(ShipmentRejection::OrderNotCompleted.into());
    }
    decision.apply(&shipment, ShipmentCommand::Dispatch { order_id })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{created, line, order, scheduled, user};
    use events::{
        orders::{OrderCompleted, OrderEvent},
        shipping::{ShipmentDispatched, ShipmentEvent, ShippingCancelled},
    };

    fn paid() -> Ordered {
        (&created(&[line("TEA", 2, 450)])).into()
    }

    fn booked() -> Answer {
        let ShippingScheduled { carrier, tracking_number, .. } = scheduled();
        Answer::Booked(Booking { carrier, tracking_number })
    }

    fn shipment() -> Key<Shipment> {
        Key::new(order(1))
    }

    fn called_off() -> ShipmentEvent {
        let (reason, workflow) = (Reason::OrderCancelled, Workflow::Choreography);
        ShippingCancelled { order_id: order(1), reason, workflow }.into()
    }

    #[test]
    fn the_answer_of_the_carrier_is_recorded_once() {
        let mut decision = Decision::default().given(&shipment(), &[]);
        schedule(&mut decision, &paid(), &booked()).unwrap();
        schedule(&mut decision, &paid(), &Answer::Refused("no".to_owned())).unwrap();
        assert_eq!(decision.then(&shipment()), [scheduled().into()]);
    }

    #[test]
    fn a_refusal_of_the_carrier_is_final() {
        let mut decision = Decision::default().given(&shipment(), &[]);
        schedule(&mut decision, &paid(), &Answer::Refused("no".to_owned())).unwrap();
        schedule(&mut decision, &paid(), &booked()).unwrap();
        let (reason, workflow) = (Reason::CarrierRefused, Workflow::Choreography);
        let (order_id, user_id) = (order(1), Some(paid().user_id));
        let failed = ShippingFailed { order_id, user_id, reason, detail: "no".to_owned(), workflow };
        assert_eq!(decision.then(&shipment()), [failed.into()]);
    }

    #[test]
    fn what_cannot_be_shipped_any_more_fails_unless_it_was_decided() {
        let workflow = Workflow::Choreography;
        let mut decision = Decision::default().given(&shipment(), &[]);
        give_up(&mut decision, order(1), workflow).unwrap();
        let (reason, detail) = (Reason::UserErased, "the customer was erased".to_owned());
        let failed = ShippingFailed { order_id: order(1), user_id: None, reason, detail, workflow };
        assert_eq!(decision.then(&shipment()), [failed.into()]);
        let mut decision = Decision::default().given(&shipment(), &[scheduled().into()]);
        give_up(&mut decision, order(1), workflow).unwrap();
        assert_eq!(decision.then(&shipment()), []);
    }

    #[test]
    fn what_is_cancelled_first_is_never_scheduled() {
        let mut decision = Decision::default().given(&shipment(), &[]);
        cancel(&mut decision, order(1), Reason::OrderCancelled, Workflow::Choreography).unwrap();
        schedule(&mut decision, &paid(), &booked()).unwrap();
        assert_eq!(decision.then(&shipment()), [called_off()]);
    }

    #[test]
    fn a_parcel_leaves_the_house_when_its_order_is_completed() {
        let (of, key) = (created(&[line("TEA", 2, 450)]), Key::<Order>::new(order(1)));
        let completed: OrderEvent = OrderCompleted { order_id: order(1), user_id: user(1) }.into();
        let given = |order: &[OrderEvent], shipment_history: &[ShipmentEvent]| {
            Decision::default().given(&shipment(), shipment_history).given(&key, order)
        };
        let slug = |mut decision: Decision| match dispatch(&mut decision, order(1)) {
            Err(Stop::Refused(refusal)) => refusal.slug,
            other => panic!("{other:?}"),
        };
        let scheduled = || scheduled().into();
        let mut decision = given(&[of.clone().into(), completed.clone()], &[scheduled()]);
        dispatch(&mut decision, order(1)).unwrap();
        assert_eq!(decision.then(&shipment()), [ShipmentDispatched { order_id: order(1) }.into()]);
        assert_eq!(slug(given(&[of.clone().into()], &[scheduled()])), "order-not-completed");
        assert_eq!(slug(given(&[of.into()], &[called_off()])), "shipment-not-scheduled");
        assert_eq!(slug(given(&[], &[])), "shipment-not-found");
    }
}
