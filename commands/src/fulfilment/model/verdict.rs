//! What the properties ask of the course of an order: how it stands, and whether it is over.

use super::{
    course::{Course, Move, order_id},
    desk::state,
};
use crate::{
    Key,
    fulfilment::{self, Verb},
    inventory::{Reservation, ReservationState},
    orders::OrderStatus,
    payments::{Payment, PaymentState},
    shipping::ShipmentState,
};
use events::fulfilment::Step;

/// What the properties ask of a course.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a question of its own")]
pub(super) struct Verdict {
    pub(super) status: OrderStatus,
    pub(super) charged: bool,
    pub(super) refunded: bool,
    pub(super) reserved: bool,
    pub(super) scheduled: bool,
    pub(super) parcel: bool,
    pub(super) ends: u8,
    pub(super) undone: Vec<Step>,
    pub(super) parked: bool,
    /// Whether nothing has to happen any more.
    pub(super) rests: bool,
    /// Whether the process is where its order is, and waits for nothing.
    pub(super) settled: bool,
}

/// Whether nothing has to happen: what only may happen is not waited for.
fn rests(moves: &[Move]) -> bool {
    let free = |it: &Move| {
        matches!(it, Move::Cancel | Move::Interfere(Verb::Retry | Verb::Cancel | Verb::Compensate))
    };
    moves.iter().all(free)
}

impl Course {
    /// What the properties ask.
    pub(super) fn verdict(&self, moves: &[Move]) -> Verdict {
        let id = order_id();
        let payment = state(&self.standings, &Key::<Payment>::new(id));
        let process = self.process();
        let status = self.status();
        let phase = if status == OrderStatus::Completed {
            fulfilment::Phase::Completed
        } else {
            fulfilment::Phase::Failed
        };
        Verdict {
            status,
            charged: matches!(payment, PaymentState::Charged { .. }),
            refunded: payment == PaymentState::Refunded,
            reserved: matches!(
                state(&self.standings, &Key::<Reservation>::new(id)),
                ReservationState::Reserved(_)
            ),
            scheduled: self.shipment() == ShipmentState::Scheduled,
            parcel: self.carrier.0,
            ends: self.ends,
            undone: self.undone.clone(),
            parked: self.parked,
            rests: rests(moves),
            settled: process.is_some_and(|it| it.phase == phase && !it.parked && it.timer().is_none()),
        }
    }
}
