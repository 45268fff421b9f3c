//! What one order holds of the stock: decided once, then freed or shipped once.

use crate::{Aggregate, Refusal};
use events::{
    OrderId, Sku,
    inventory::{
        InventoryReleased, InventoryReserved, InventoryShipped, ReservationEvent, ReservationFailed,
    },
    orders::{Reason, Workflow},
};
use serde::{Deserialize, Serialize};

/// The aggregate.
#[derive(Debug)]
pub struct Reservation;

/// Units of one SKU that an order holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// What.
    pub sku: Sku,
    /// How many.
    pub quantity: u32,
}

/// Where a reservation stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReservationState {
    /// Nothing was asked yet.
    #[default]
    Undecided,
    /// This is held.
    Reserved(Vec<Held>),
    /// Nothing is held, and nothing will be.
    Failed,
    /// What was held is free again.
    Released,
    /// What was held has left the house.
    Shipped,
}

/// What can be asked of a reservation.
#[derive(Clone, Debug)]
pub enum ReservationCommand {
    /// Hold everything the order asks for.
    Reserve(Box<InventoryReserved>),
    /// Hold nothing, now and later.
    Fail(ReservationFailed),
    /// Free what is held.
    Release {
        /// The order.
        order_id: OrderId,
        /// Why.
        reason: Reason,
        /// Who carries the order through.
        workflow: Workflow,
    },
    /// What is held leaves the house.
    Ship {
        /// The order.
        order_id: OrderId,
    },
}

/// Why a reservation can refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReservationRejection {
    /// Nothing was ever asked for this order.
    #[error("nothing was reserved for this order yet")]
    Unknown,
}

impl From<ReservationRejection> for Refusal {
    fn from(rejection: ReservationRejection) -> Self {
        match rejection {
            ReservationRejection::Unknown => Self::not_found("reservation-not-found", rejection.to_string()),
        }
    }
}

impl Aggregate for Reservation {
    const KIND: events::Aggregate = events::Aggregate::Reservation;
    const SCHEMA: &'static str = "reservation/1";
    type State = ReservationState;
    type Command = ReservationCommand;
    type Event = ReservationEvent;
    type Rejection = ReservationRejection;

    fn decide(
        state: &ReservationState,
        command: ReservationCommand,
    ) -> Result<Vec<ReservationEvent>, ReservationRejection> {
        use ReservationCommand as Command;
        use ReservationState as State;
        Ok(match (state, command) {
            (State::Undecided, Command::Reserve(reserved)) => vec![(*reserved).into()],
            (State::Undecided, Command::Fail(failed)) => vec![failed.into()],
            (State::Undecided, Command::Release { .. } | Command::Ship { .. }) => {
                return Err(ReservationRejection::Unknown);
            }
            (State::Reserved(_), Command::Release { order_id, reason, workflow }) => {
                vec![InventoryReleased { order_id, reason, workflow }.into()]
            }
            (State::Reserved(_), Command::Ship { order_id }) => vec![InventoryShipped { order_id }.into()],
            // Decided before: a fact came twice, or came late.
            _ => vec![],
        })
    }

    fn evolve(_: ReservationState, event: &ReservationEvent) -> ReservationState {
        match event {
            ReservationEvent::Reserved(fact) => {
                let held = fact.items.iter();
                let held = held.map(|line| Held { sku: line.sku.clone(), quantity: line.quantity });
                ReservationState::Reserved(held.collect())
            }
            ReservationEvent::Failed(_) => ReservationState::Failed,
            ReservationEvent::Released(_) => ReservationState::Released,
            ReservationEvent::Shipped(_) => ReservationState::Shipped,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        aggregate::testing::given,
        fixtures::{created, line, order, reserved},
    };

    fn fact() -> InventoryReserved {
        reserved(&created(&[line("TEA", 2, 450)]))
    }

    fn failed() -> ReservationFailed {
        ReservationFailed {
            order_id: order(1),
            reason: Reason::OrderCancelled,
            shortages: vec![],
            workflow: Workflow::Choreography,
        }
    }

    fn commands() -> [ReservationCommand; 4] {
        [
            ReservationCommand::Reserve(Box::new(fact())),
            ReservationCommand::Fail(failed()),
            ReservationCommand::Release {
                order_id: order(1),
                reason: Reason::OrderCancelled,
                workflow: Workflow::Choreography,
            },
            ReservationCommand::Ship { order_id: order(1) },
        ]
    }

    #[test]
    fn it_is_decided_once() {
        let [reserve, fail, release, ship] = commands();
        given::<Reservation>([]).when(reserve.clone()).then([fact().into()]);
        given::<Reservation>([]).when(fail.clone()).then([failed().into()]);
        given::<Reservation>([]).when(release).then_refused("reservation-not-found");
        given::<Reservation>([]).when(ship).then_refused("reservation-not-found");
        given::<Reservation>([fact().into()]).when(reserve).then_nothing();
        given::<Reservation>([fact().into()]).when(fail).then_nothing();
    }

    #[test]
    fn it_ends_once() {
        let released = InventoryReleased {
            order_id: order(1),
            reason: Reason::OrderCancelled,
            workflow: Workflow::Choreography,
        };
        let shipped = InventoryShipped { order_id: order(1) };
        let [_, _, release, ship] = commands();
        given::<Reservation>([fact().into()]).when(release).then([released.clone().into()]);
        given::<Reservation>([fact().into()]).when(ship).then([shipped.clone().into()]);
        let ends: [Vec<ReservationEvent>; 3] = [
            vec![failed().into()],
            vec![fact().into(), released.into()],
            vec![fact().into(), shipped.into()],
        ];
        for end in ends {
            for command in commands() {
                given::<Reservation>(end.clone()).when(command).then_nothing();
            }
        }
    }
}
