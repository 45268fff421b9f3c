//! Faults that the code does not have, to see that the properties would tell of them.

use super::course::Address;
use crate::{
    choreography::world::Service,
    fulfilment::{Answer, Ask, Phase, ProcessState, state::Waiting},
};
use events::{
    Fact,
    fulfilment::{ProcessEvent, Step},
    inventory::InventoryReserved,
    orders::{Reason, Workflow},
    payments::PaymentRefunded,
};

/// A fault, and what tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Payments say that they have paid back, and have not.
    RefundsNothing,
    /// The saga takes silence for a refusal, and undoes only what it knows of.
    SilenceIsRefusal,
    /// Payments do not remember that they have charged an order.
    ForgetsPayments,
    /// A reservation is released, and its stock stays held.
    KeepsStock,
    /// Nothing wakes a process whose request was lost.
    NoTimer,
    /// The carrier books what was called off.
    CarrierForgets,
    /// Everything is undone as soon as anything is.
    UndoesAtOnce,
    /// Inventory says that it holds what it does not hold.
    HoldsNothing,
    /// An order does not remember that it has ended.
    ForgetsEnds,
}

/// What a service says instead of doing what it is asked.
pub(super) fn handled(fault: Option<Fault>, address: Address, fact: &Fact) -> Option<(Fact, u64)> {
    match (fault?, address.0, fact) {
        (
            Fault::RefundsNothing,
            Service::Payments,
            Fact::Process(ProcessEvent::CompensationRequested(asked)),
        ) => {
            let refunded = PaymentRefunded {
                order_id: asked.order_id,
                account_id: asked.account_id,
                amount: crate::fixtures::eur(super::PRICE),
                reason: asked.reason,
                workflow: Workflow::Orchestration,
            };
            Some((Fact::Payment(refunded.into()), 2))
        }
        (Fault::HoldsNothing, Service::Inventory, Fact::Process(ProcessEvent::StepRequested(asked))) => {
            Some((Fact::Reservation(InventoryReserved::from(asked.order.clone()).into()), 1))
        }
        _ => None,
    }
}

/// What the process is told when its timer fires.
pub(super) fn fired(fault: Option<Fault>, process: &ProcessState, ask: Ask) -> Ask {
    let silent = |it: &Waiting| !it.pause && it.timer == it.until && process.phase == Phase::Running;
    match process.waiting.filter(silent) {
        Some(waiting) if fault == Some(Fault::SilenceIsRefusal) => {
            let answer = Answer::Refused { reason: Reason::StepTimedOut, detail: String::new() };
            Ask::Answer { step: waiting.step, answer, sequence: 1 }
        }
        _ => ask,
    }
}

/// Who gets a fact besides those who should.
pub(super) fn besides(fault: Option<Fault>, fact: &Fact) -> Option<(Service, Fact)> {
    match fact {
        Fact::Process(ProcessEvent::CompensationRequested(asked))
            if fault == Some(Fault::UndoesAtOnce) && asked.step != Step::Payment =>
        {
            let mut asked = asked.clone();
            asked.step = Step::Payment;
            Some((Service::Payments, Fact::Process(asked.into())))
        }
        _ => None,
    }
}
