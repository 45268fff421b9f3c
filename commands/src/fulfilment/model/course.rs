//! The course of one order: where everything stands that is recorded of it, what is under way for it, and what can
//! happen next. What happens is decided by the code of the services.

use super::{
    Bounds, Fault,
    desk::{Desk, Standings, state, written},
    fault,
};
use crate::{
    Key, Refusal,
    choreography::world::{Effect, Service},
    fraud::Clearance,
    fulfilment::{self, Ask, Process, ProcessCommand, ProcessState, Times, Verb},
    orders::{Order, OrderCommand, OrderStatus},
    payments,
    shipping::{self, Answer, Booking, Parcel, Shipment, ShipmentState},
};
use events::{
    Aggregate as Kind, Fact, OrderId, Subject,
    fulfilment::Step,
    inventory::ReservationEvent,
    orders::{OrderEvent, Ordered},
    payments::PaymentEvent,
    shipping::ShipmentEvent,
};
use jiff::Timestamp;
use std::collections::BTreeMap;

/// A message that a service has not acknowledged: one for all of its kind, for what a step is asked for again is the
/// same command.
pub(super) type Address = (Service, &'static str);

#[derive(Clone)]
struct Message {
    fact: Fact,
    sequence: u64,
}

/// Something that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Move {
    /// A service handles a message and acknowledges it.
    Handle(Address),
    /// It handles it and dies before it has acknowledged it, or gets it twice.
    HandleAgain(Address),
    /// It gets a request when its deadline is over.
    Leave(Address),
    /// The timer of the process fires.
    Fire,
    /// Shipping has looked at the shipment, and asks the carrier, which takes the parcel where it was not called off.
    Book,
    /// Shipping asks the carrier, which refuses.
    BookInVain,
    /// Shipping records what the carrier has answered.
    Record,
    /// Shipping dies between what it has asked and what it would record.
    Die,
    /// Shipping calls the parcel off with the carrier, and dies before it has recorded it.
    CallOffAndDie,
    /// The customer takes the order back.
    Cancel,
    /// An operator interferes.
    Interfere(Verb),
}

impl Move {
    /// Whether what comes of it depends on what orders share, and changes it.
    pub(super) fn shares(self) -> bool {
        let (Self::Handle((service, _)) | Self::HandleAgain((service, _))) = self else { return false };
        matches!(service, Service::Payments | Service::Inventory)
    }
}

/// How far shipping is with the booking of a parcel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flight {
    None,
    Looked,
    Answered { booked: bool },
}

/// See the file's text.
#[derive(Clone)]
pub(super) struct Course {
    pub(super) standings: Standings,
    inbox: BTreeMap<Address, Message>,
    flight: Flight,
    /// What the carrier has: a parcel, and that it is called off.
    pub(super) carrier: (bool, bool),
    /// Whether an operator has brought back a parked process. From then on every request comes in time.
    mended: bool,
    /// What was undone, in the order in which services recorded it.
    pub(super) undone: Vec<Step>,
    /// How often the order has ended.
    pub(super) ends: u8,
    /// Whether the process was ever parked.
    pub(super) parked: bool,
}

fn is_shared(subject: &str) -> bool {
    let kind = Subject::parse(subject).map(|subject| subject.aggregate());
    matches!(kind, Some(Kind::Account | Kind::Item))
}

/// Whether a step is asked for with this, which is left by whoever gets it too late.
fn is_request((_, kind): Address) -> bool {
    matches!(kind, "process.started" | "step.requested" | "compensation.requested")
}

/// All orders are the same one: which of them is which makes no difference.
pub(super) fn order_id() -> OrderId {
    crate::fixtures::order(1)
}

impl Course {
    /// An order that was just placed.
    pub(super) fn placed(bounds: &Bounds, standings: Standings, created: &Fact) -> Self {
        let mut course = Self {
            standings,
            inbox: BTreeMap::new(),
            flight: Flight::None,
            carrier: (false, false),
            mended: false,
            undone: Vec::new(),
            ends: 0,
            parked: false,
        };
        course.deliver(created, 1, bounds);
        course
    }

    /// The bytes that are the same for the same course.
    pub(super) fn written(&self) -> Vec<u8> {
        let mut out = written(&self.standings);
        for (address, message) in &self.inbox {
            out.extend(format!("{address:?}").as_bytes());
            if address.0 == Service::Fulfilment {
                out.extend(message.sequence.to_be_bytes());
            }
        }
        let Self { flight, carrier, mended, undone, ends, parked, .. } = self;
        let rest = (flight, carrier, mended, undone, ends, parked);
        out.extend(format!("{rest:?}").as_bytes());
        out
    }

    pub(super) fn process(&self) -> Option<ProcessState> {
        state(&self.standings, &Key::<Process>::new(order_id()))
    }

    pub(super) fn shipment(&self) -> ShipmentState {
        state(&self.standings, &Key::<Shipment>::new(order_id()))
    }

    pub(super) fn status(&self) -> OrderStatus {
        state(&self.standings, &Key::<Order>::new(order_id())).unwrap().status
    }

    /// Everything that can happen next.
    pub(super) fn moves(&self, bounds: &Bounds) -> Vec<Move> {
        let mut moves = Vec::new();
        for address in self.inbox.keys().copied() {
            // Another process may have the same message: it asks the carrier the same, or finds it decided.
            let booking = address == (Service::Shipping, "step.requested") && self.flight != Flight::None;
            if booking && self.shipment().parcel().is_none() {
                continue;
            }
            moves.push(Move::Handle(address));
            moves.push(Move::HandleAgain(address));
            if address == (Service::Shipping, "compensation.requested") {
                moves.push(Move::CallOffAndDie);
            }
            if is_request(address) && !self.mended {
                moves.push(Move::Leave(address));
            }
        }
        match self.flight {
            Flight::None => {}
            Flight::Looked => {
                moves.extend([Move::Book, Move::Die]);
                // Asked again, a carrier answers the same.
                let (booked, _) = self.carrier;
                moves.extend((!booked).then_some(Move::BookInVain));
            }
            Flight::Answered { .. } => moves.extend([Move::Record, Move::Die]),
        }
        let process = self.process();
        let wakes = process.as_ref().is_some_and(|process| process.timer().is_some());
        if wakes && bounds.fault != Some(Fault::NoTimer) {
            moves.push(Move::Fire);
        }
        if process.is_some_and(|process| process.parked) && !self.mended {
            moves.push(Move::Interfere(Verb::Resume));
        }
        if self.status() == OrderStatus::Pending {
            moves.push(Move::Cancel);
        }
        if bounds.verbs {
            moves.extend([Verb::Retry, Verb::Cancel, Verb::Compensate].map(Move::Interfere));
        }
        moves
    }

    /// Whether a move is one of those that happen so often at most. A timer that fires when there is nothing else left
    /// to happen is none.
    pub(super) fn is_mishap(&self, what: Move) -> bool {
        match what {
            Move::Fire => {
                let waiting = self.process().and_then(|it| it.waiting);
                let silent = waiting.is_some_and(|it| !it.pause && it.timer == it.until);
                silent && !(self.inbox.is_empty() && self.flight == Flight::None)
            }
            Move::Handle(_) | Move::Book | Move::BookInVain | Move::Record => false,
            Move::Interfere(verb) => verb != Verb::Resume,
            Move::HandleAgain(_) | Move::Leave(_) | Move::Die | Move::CallOffAndDie | Move::Cancel => true,
        }
    }

    /// What comes of something that happens; nothing where it changes nothing.
    pub(super) fn after(&self, shared: &Standings, what: Move, bounds: &Bounds) -> Option<(Self, Standings)> {
        let mut next = self.clone();
        let mut all = self.standings.clone();
        all.extend(shared.clone());
        let mut desk = Desk { all, bounds, recorded: Vec::new() };
        next.happen(&mut desk, what)?;
        let (shared, own): (Standings, Standings) =
            desk.all.into_iter().partition(|(subject, _)| is_shared(subject));
        next.standings = own;
        for (fact, sequence) in desk.recorded {
            next.note(&fact);
            next.deliver(&fact, sequence, bounds);
        }
        next.parked |= next.process().is_some_and(|process| process.parked);
        Some((next, shared))
    }

    fn happen(&mut self, desk: &mut Desk<'_>, what: Move) -> Option<()> {
        let id = order_id();
        match what {
            Move::Handle(address) => {
                let message = self.inbox[&address].clone();
                if self.handle(desk, address, &message) {
                    self.inbox.remove(&address);
                }
            }
            Move::HandleAgain(address) => {
                let message = self.inbox[&address].clone();
                self.handle(desk, address, &message);
            }
            Move::Leave(address) => {
                self.inbox.remove(&address);
            }
            Move::Fire => self.fire(desk),
            Move::Book => {
                let (_, called_off) = self.carrier;
                self.carrier.0 |= !called_off;
                self.flight = Flight::Answered { booked: !called_off };
            }
            Move::BookInVain => self.flight = Flight::Answered { booked: false },
            Move::Record => self.book(desk),
            Move::Die => self.flight = Flight::None,
            Move::CallOffAndDie => self.call_off(desk.bounds),
            Move::Cancel => {
                let cancel = OrderCommand::Cancel { reason: None };
                desk.decide(|d| d.apply(&Key::<Order>::new(id), cancel.clone())).unwrap();
            }
            Move::Interfere(verb) => {
                self.mended |= verb == Verb::Resume;
                // What an operator is refused changes nothing.
                advance(desk, id, &Ask::Interfere(verb, "because".to_owned())).ok()?;
            }
        }
        Some(())
    }

    /// A service handles a message; whether it is done with it.
    fn handle(&mut self, desk: &mut Desk<'_>, address: Address, message: &Message) -> bool {
        let (service, _) = address;
        if let Some((said, sequence)) = fault::handled(desk.bounds.fault, address, &message.fact) {
            self.deliver(&said, sequence, desk.bounds);
            return true;
        }
        desk.forget(service, order_id());
        let place = usize::try_from(message.sequence).unwrap() - 1;
        let effect = service.react(&message.fact, place).unwrap();
        match &effect {
            Effect::Orders(effect) => desk.decide(|d| effect.decide(d)),
            Effect::Inventory(effect) => desk.decide(|d| effect.decide(d)),
            Effect::Payments(payments::Effect::Charge(order)) => {
                desk.decide(|d| payments::charge(d, order, &Clearance::Cleared))
            }
            Effect::Payments(payments::Effect::Refund(refund)) => {
                desk.decide(|d| payments::refund(d, refund))
            }
            Effect::Fulfilment(fulfilment::Effect::Advance(order, ask)) => advance(desk, *order, ask),
            Effect::Shipping(shipping::Effect::Schedule(_)) => return self.look(desk.bounds),
            &Effect::Shipping(shipping::Effect::Cancel { order_id, reason, workflow }) => {
                self.call_off(desk.bounds);
                desk.decide(|d| shipping::cancel(d, order_id, reason, workflow))
            }
            other => panic!("no saga asks for {other:?}"),
        }
        .expect("a reaction is never refused for good");
        true
    }

    /// Shipping looks whether the parcel is still to be booked; whether it is done with the request.
    fn look(&mut self, bounds: &Bounds) -> bool {
        let parcel = self.shipment().parcel();
        match parcel {
            None => self.flight = Flight::Looked,
            Some(Parcel::Wanted) => {}
            Some(Parcel::Unwanted) => self.call_off(bounds),
        }
        parcel.is_some()
    }

    fn book(&mut self, desk: &mut Desk<'_>) {
        let Flight::Answered { booked } = self.flight else { return };
        let (carrier, tracking_number) = (String::new(), String::new());
        let answer = if booked {
            Answer::Booked(Booking { carrier, tracking_number })
        } else {
            Answer::Refused(String::new())
        };
        let order = self.ordered();
        let recorded = desk.decide(|d| shipping::schedule(d, &order, &answer)).unwrap();
        let parcel = state(&desk.all, &Key::<Shipment>::new(order_id())).parcel();
        if recorded == 0 && parcel == Some(Parcel::Unwanted) {
            self.call_off(desk.bounds);
        }
        self.flight = Flight::None;
        self.inbox.remove(&(Service::Shipping, "step.requested"));
    }

    fn ordered(&self) -> Ordered {
        let process = self.process().unwrap();
        Ordered::clone(process.order.as_ref().unwrap())
    }

    fn call_off(&mut self, bounds: &Bounds) {
        self.carrier = (false, bounds.fault != Some(Fault::CarrierForgets));
    }

    fn fire(&mut self, desk: &mut Desk<'_>) {
        let process = self.process().unwrap();
        let ask = Ask::Due(process.timer().unwrap());
        let ask = fault::fired(desk.bounds.fault, &process, ask);
        advance(desk, order_id(), &ask).unwrap();
    }

    /// Services get what was recorded, where it concerns them.
    fn deliver(&mut self, fact: &Fact, sequence: u64, bounds: &Bounds) {
        let place = usize::try_from(sequence).unwrap() - 1;
        let concerned = Service::ALL.into_iter().filter(|service| service.react(fact, place).is_some());
        let mut told: Vec<_> = concerned.map(|service| (service, fact.clone())).collect();
        told.extend(fault::besides(bounds.fault, fact));
        for (service, fact) in told {
            let kind = super::kind(&fact);
            self.inbox.insert((service, kind), Message { fact, sequence });
        }
    }

    fn note(&mut self, fact: &Fact) {
        match fact {
            Fact::Order(OrderEvent::Completed(_) | OrderEvent::Failed(_) | OrderEvent::Cancelled(_)) => {
                self.ends += 1;
            }
            Fact::Payment(PaymentEvent::Refunded(_)) => self.undone.push(Step::Payment),
            Fact::Reservation(ReservationEvent::Released(_)) => self.undone.push(Step::Inventory),
            Fact::Shipment(ShipmentEvent::Cancelled(_)) => self.undone.push(Step::Shipping),
            _ => {}
        }
    }
}

fn advance(desk: &mut Desk<'_>, order: OrderId, ask: &Ask) -> Result<usize, Refusal> {
    let (now, times) = (Timestamp::UNIX_EPOCH, Times::default());
    let command = ProcessCommand { now, times, ask: ask.clone() };
    desk.decide(|d| fulfilment::advance(d, order, command.clone()))
}
