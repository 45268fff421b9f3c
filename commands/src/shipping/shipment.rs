//! The shipment of one order: scheduled or not, decided once; then on its way, or called off.

use crate::{Aggregate, Refusal};
use events::{
    OrderId,
    orders::{Reason, Workflow},
    shipping::{
        ShipmentDelivered, ShipmentDispatched, ShipmentEvent, ShippingCancelled, ShippingFailed,
        ShippingScheduled,
    },
};
use serde::{Deserialize, Serialize};

/// The aggregate.
#[derive(Debug)]
pub struct Shipment;

/// Where a shipment stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ShipmentState {
    /// Nothing was asked yet.
    #[default]
    Undecided,
    /// The carrier takes it.
    Scheduled,
    /// The carrier does not take it.
    Failed,
    /// It is called off, or will never be scheduled.
    Cancelled,
    /// It left the house.
    Dispatched,
    /// It arrived.
    Delivered,
}

/// Whether a parcel that may have been booked with the carrier is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parcel {
    /// It is.
    Wanted,
    /// It is not: call it off with the carrier.
    Unwanted,
}

impl ShipmentState {
    /// What was decided about the parcel; `None` where the carrier is still to be asked. Look before every booking: a
    /// parcel booked again after its shipment was called off would belong to nobody. Look after it too: the shipment
    /// may have been called off meanwhile.
    pub fn parcel(self) -> Option<Parcel> {
        match self {
            Self::Undecided => None,
            Self::Scheduled | Self::Dispatched | Self::Delivered => Some(Parcel::Wanted),
            Self::Failed | Self::Cancelled => Some(Parcel::Unwanted),
        }
    }
}

/// What can be asked of a shipment.
#[derive(Clone, Debug)]
pub enum ShipmentCommand {
    /// The carrier takes it.
    Schedule(Box<ShippingScheduled>),
    /// The carrier does not take it.
    Fail(ShippingFailed),
    /// Call it off, now and later.
    Cancel {
        /// The order.
        order_id: OrderId,
        /// Why.
        reason: Reason,
        /// Who carries the order through.
        workflow: Workflow,
    },
    /// It leaves the house.
    Dispatch {
        /// The order.
        order_id: OrderId,
    },
    /// It arrived.
    Deliver {
        /// The order.
        order_id: OrderId,
    },
}

/// Why a shipment can refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShipmentRejection {
    /// There is no such shipment.
    #[error("there is no shipment for this order")]
    Unknown,
    /// It was called off, or the carrier never took it.
    #[error("the shipment is not scheduled")]
    NotScheduled,
    /// It is still in the house.
    #[error("the shipment was not dispatched")]
    NotDispatched,
    /// It is on its way.
    #[error("the shipment has left the house and cannot be called off")]
    Dispatched,
    /// Its order can still be cancelled.
    #[error("the order is not completed")]
    OrderNotCompleted,
}

impl From<ShipmentRejection> for Refusal {
    fn from(rejection: ShipmentRejection) -> Self {
        use ShipmentRejection as R;
        let detail = rejection.to_string();
        match rejection {
            R::Unknown => Self::not_found("shipment-not-found", detail),
            R::NotScheduled => Self::conflict("shipment-not-scheduled", detail),
            R::NotDispatched => Self::conflict("shipment-not-dispatched", detail),
            R::Dispatched => Self::conflict("shipment-dispatched", detail),
            R::OrderNotCompleted => Self::conflict("order-not-completed", detail),
        }
    }
}

impl Aggregate for Shipment {
    const KIND: events::Aggregate = events::Aggregate::Shipment;
    const SCHEMA: &'static str = "shipment/1";
    type State = ShipmentState;
    type Command = ShipmentCommand;
    type Event = ShipmentEvent;
    type Rejection = ShipmentRejection;

    fn decide(
        state: &ShipmentState,
        command: ShipmentCommand,
    ) -> Result<Vec<ShipmentEvent>, ShipmentRejection> {
        use ShipmentCommand as Command;
        use ShipmentState as State;
        Ok(match (state, command) {
            (State::Undecided, Command::Schedule(scheduled)) => vec![(*scheduled).into()],
            (State::Undecided, Command::Fail(failed)) => vec![failed.into()],
            (State::Undecided | State::Scheduled, Command::Cancel { order_id, reason, workflow }) => {
                vec![ShippingCancelled { order_id, reason, workflow }.into()]
            }
            (State::Dispatched | State::Delivered, Command::Cancel { .. }) => {
                return Err(ShipmentRejection::Dispatched);
            }
            (State::Undecided, Command::Dispatch { .. } | Command::Deliver { .. }) => {
                return Err(ShipmentRejection::Unknown);
            }
            (State::Scheduled, Command::Dispatch { order_id }) => {
                vec![ShipmentDispatched { order_id }.into()]
            }
            (State::Failed | State::Cancelled, Command::Dispatch { .. }) => {
                return Err(ShipmentRejection::NotScheduled);
            }
            (State::Dispatched, Command::Deliver { order_id }) => vec![ShipmentDelivered { order_id }.into()],
            (State::Scheduled | State::Failed | State::Cancelled, Command::Deliver { .. }) => {
                return Err(ShipmentRejection::NotDispatched);
            }
            // It is so already: a command or a fact came twice, or came late.
            _ => vec![],
        })
    }

    fn evolve(_: ShipmentState, event: &ShipmentEvent) -> ShipmentState {
        match event {
            ShipmentEvent::Scheduled(_) => ShipmentState::Scheduled,
            ShipmentEvent::Failed(_) => ShipmentState::Failed,
            ShipmentEvent::Cancelled(_) => ShipmentState::Cancelled,
            ShipmentEvent::Dispatched(_) => ShipmentState::Dispatched,
            ShipmentEvent::Delivered(_) => ShipmentState::Delivered,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        aggregate::testing::given,
        fixtures::{order, scheduled},
    };

    fn booked() -> ShipmentEvent {
        scheduled().into()
    }

    fn failure() -> ShippingFailed {
        let (order_id, workflow) = (order(1), Workflow::Choreography);
        let (reason, detail) = (Reason::CarrierRefused, String::new());
        ShippingFailed { order_id, user_id: None, reason, detail, workflow }
    }

    fn called_off() -> ShipmentEvent {
        let (reason, workflow) = (Reason::OrderCancelled, Workflow::Choreography);
        ShippingCancelled { order_id: order(1), reason, workflow }.into()
    }

    fn dispatched() -> ShipmentEvent {
        ShipmentDispatched { order_id: order(1) }.into()
    }

    fn delivered() -> ShipmentEvent {
        ShipmentDelivered { order_id: order(1) }.into()
    }

    fn schedule() -> ShipmentCommand {
        ShipmentCommand::Schedule(Box::new(scheduled()))
    }

    fn fail() -> ShipmentCommand {
        ShipmentCommand::Fail(failure())
    }

    fn cancel() -> ShipmentCommand {
        let (reason, workflow) = (Reason::OrderCancelled, Workflow::Choreography);
        ShipmentCommand::Cancel { order_id: order(1), reason, workflow }
    }

    fn dispatch() -> ShipmentCommand {
        ShipmentCommand::Dispatch { order_id: order(1) }
    }

    fn deliver() -> ShipmentCommand {
        ShipmentCommand::Deliver { order_id: order(1) }
    }

    /// Every history there can be.
    fn histories() -> [Vec<ShipmentEvent>; 7] {
        [
            vec![],
            vec![booked()],
            vec![failure().into()],
            vec![called_off()],
            vec![booked(), called_off()],
            vec![booked(), dispatched()],
            vec![booked(), dispatched(), delivered()],
        ]
    }

    #[test]
    fn it_is_decided_once() {
        let [none, decided @ ..] = histories();
        given::<Shipment>(none.clone()).when(schedule()).then([booked()]);
        given::<Shipment>(none).when(fail()).then([failure().into()]);
        for history in decided {
            given::<Shipment>(history.clone()).when(schedule()).then_nothing();
            given::<Shipment>(history).when(fail()).then_nothing();
        }
    }

    #[test]
    fn it_is_called_off_until_it_leaves_the_house() {
        let [none, booked, failed, cancelled, cancelled_later, dispatched, delivered] = histories();
        for history in [none, booked] {
            given::<Shipment>(history).when(cancel()).then([called_off()]);
        }
        for history in [failed, cancelled, cancelled_later] {
            given::<Shipment>(history).when(cancel()).then_nothing();
        }
        for history in [dispatched, delivered] {
            given::<Shipment>(history).when(cancel()).then_refused("shipment-dispatched");
        }
    }

    #[test]
    fn it_leaves_the_house_and_arrives() {
        let [none, booked, failed, cancelled, cancelled_later, on_its_way, arrived] = histories();
        given::<Shipment>(booked.clone()).when(dispatch()).then([dispatched()]);
        given::<Shipment>(on_its_way.clone()).when(dispatch()).then_nothing();
        given::<Shipment>(on_its_way).when(deliver()).then([delivered()]);
        given::<Shipment>(arrived.clone()).when(dispatch()).then_nothing();
        given::<Shipment>(arrived).when(deliver()).then_nothing();
        given::<Shipment>(booked).when(deliver()).then_refused("shipment-not-dispatched");
        for history in [failed, cancelled, cancelled_later] {
            given::<Shipment>(history.clone()).when(dispatch()).then_refused("shipment-not-scheduled");
            given::<Shipment>(history).when(deliver()).then_refused("shipment-not-dispatched");
        }
        given::<Shipment>(none.clone()).when(dispatch()).then_refused("shipment-not-found");
        given::<Shipment>(none).when(deliver()).then_refused("shipment-not-found");
    }
}
