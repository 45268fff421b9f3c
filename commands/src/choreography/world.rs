//! A world in memory: a log, services that answer its facts, a carrier, and everything that goes wrong around them.
//!
//! What is modelled is worse than what can happen: a service meets facts in any order whatsoever; it decides on
//! states that may be old (another process has moved on), and what it decides is recorded later, guarded by the
//! versions it saw, and decided again where the guard fails; it can die before or after it has recorded anything; and
//! there is no duplicate window.

use crate::{
    Aggregate, AnyKey, Decision, Key, Refusal, Stop,
    aggregate::{AnyState, Codec, typed},
    decision::{Alarm, Decided, Slot, TimerChange},
    fraud::Clearance,
    fulfilment::{self, HoldCommand, ProcessCommand, Times},
    inventory, orders, payments,
    shipping::{self, Answer, Booking, Parcel, Shipment, ShipmentState},
};
use events::{Context, Fact, OrderId, Subject, fraud::Suspicion};
use jiff::{SignedDuration, Timestamp};
use nats::Tail;
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// A service that answers facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Service {
    Orders,
    Inventory,
    Payments,
    Shipping,
    Fulfilment,
}

/// What a service does about a fact.
#[derive(Clone, Debug)]
pub(crate) enum Effect {
    Orders(orders::Effect),
    Inventory(inventory::Effect),
    Payments(payments::Effect),
    Shipping(shipping::Effect),
    Fulfilment(fulfilment::Effect),
}

impl Service {
    /// Those that carry an order by themselves.
    pub(super) const CHOREOGRAPHY: [Self; 4] =
        [Self::Orders, Self::Inventory, Self::Payments, Self::Shipping];
    pub(crate) const ALL: [Self; 5] =
        [Self::Orders, Self::Inventory, Self::Payments, Self::Shipping, Self::Fulfilment];

    /// What it does about the fact at a place of the log.
    pub(crate) fn react(self, fact: &Fact, place: usize) -> Option<Effect> {
        match self {
            Self::Orders => orders::react(fact).map(Effect::Orders),
            Self::Inventory => inventory::react(fact).map(Effect::Inventory),
            Self::Payments => payments::react(fact).map(Effect::Payments),
            Self::Shipping => shipping::react(fact).map(Effect::Shipping),
            Self::Fulfilment => fulfilment::react(fact, place as u64 + 1).map(Effect::Fulfilment),
        }
    }

    pub(super) fn interests(self) -> &'static [(Context, &'static [&'static str])] {
        match self {
            Self::Orders => orders::INTERESTS,
            Self::Inventory => inventory::INTERESTS,
            Self::Payments => payments::INTERESTS,
            Self::Shipping => shipping::INTERESTS,
            Self::Fulfilment => fulfilment::INTERESTS,
        }
    }
}

/// What the world outside says when it is asked: another thing every time.
#[derive(Clone, Debug)]
pub(super) struct Outside {
    clearance: Clearance,
    answer: Answer,
}

impl Outside {
    /// One in eight is declined, one unanswered; the carrier refuses one in four.
    pub(super) fn new(dice: u8) -> Self {
        let clearance = match dice % 8 {
            6 => Clearance::Declined(vec![Suspicion::Velocity]),
            7 => Clearance::Unavailable,
            _ => Clearance::Cleared,
        };
        let (carrier, tracking_number) = (String::new(), String::new());
        let answer = match dice / 8 % 8 {
            6 | 7 => Answer::Refused(String::new()),
            _ => Answer::Booked(Booking { carrier, tracking_number }),
        };
        Self { clearance, answer }
    }
}

/// One aggregate: its state at every version.
struct History {
    codec: Codec,
    states: Vec<AnyState>,
}

/// What a decision gave: events to record, and the parcel to call off afterwards.
type Outcome = Result<(Option<OrderId>, Vec<(Subject, Decided)>), Refusal>;

/// A reaction between its decision and its record.
struct Flight {
    service: Service,
    fact: usize,
    effect: Effect,
    outside: Outside,
    outcome: Outcome,
}

/// See the file's text.
#[derive(Default)]
pub(super) struct World {
    aggregates: BTreeMap<String, History>,
    /// Every fact, in the order of its record.
    pub(super) log: Vec<Fact>,
    /// What the carrier has booked.
    pub(super) bookings: BTreeSet<OrderId>,
    /// What was called off with it, which it books no more.
    called_off: BTreeSet<OrderId>,
    /// Facts that a service has not acknowledged.
    todo: BTreeSet<(Service, usize)>,
    flights: Vec<Flight>,
    /// What the timers that stand will say, and when.
    timers: BTreeMap<String, (Timestamp, Fact)>,
    now: Timestamp,
}

impl World {
    /// Asks something as a client does. `lag`: how many versions old the states may be that it is decided on.
    pub(super) fn ask(
        &mut self,
        lag: usize,
        command: impl Fn(&mut Decision) -> Result<(), Stop>,
    ) -> Result<(), Refusal> {
        let ((), decided) = self.decide(lag, &command)?;
        if self.record(decided) { Ok(()) } else { self.ask(0, command) }
    }

    /// The newest state of an aggregate.
    pub(super) fn state<A: Aggregate>(&mut self, key: &Key<A>) -> A::State {
        let slot = self.load(&key.load(), 0);
        typed::<A>(&slot.state).clone()
    }

    /// A service begins to answer a fact that it has not acknowledged.
    pub(super) fn begin(&mut self, pick: usize, lag: usize, outside: Outside) {
        let Some(&(service, fact)) = self.todo.iter().nth(pick % self.todo.len().max(1)) else { return };
        let effect = service.react(&self.log[fact], fact).unwrap();
        if self.is_over(fact) && !matches!(service, Service::Orders | Service::Fulfilment) {
            self.todo.remove(&(service, fact));
            return;
        }
        let outcome = self.carry_out(&effect, lag, &outside);
        self.flights.push(Flight { service, fact, effect, outside, outcome });
    }

    /// Nobody waits any more for what this fact asks for.
    fn is_over(&self, fact: usize) -> bool {
        let Fact::Process(fact) = &self.log[fact] else { return false };
        fact.deadline().is_some_and(|deadline| self.now > deadline)
    }

    /// The time of a timer comes, and with it that of all that stand before it.
    pub(super) fn fire(&mut self, pick: usize) {
        let count = self.timers.len().max(1);
        let Some(name) = self.timers.keys().nth(pick % count).cloned() else { return };
        let Some((at, due)) = self.timers.remove(&name) else { return };
        self.now = self.now.max(at) + SignedDuration::from_millis(1);
        self.log.push(due);
        self.deliver(self.log.len() - 1);
    }

    /// A service records what it decided; where the guard fails it decides again.
    pub(super) fn finish(&mut self, pick: usize, dies_afterwards: bool) {
        if self.flights.is_empty() {
            return;
        }
        let flight = self.flights.swap_remove(pick % self.flights.len());
        let recorded = match flight.outcome {
            // The executor relies on what it only read no longer than it has to: nothing is decided on old states.
            Ok((_, decided)) if decided.is_empty() => None,
            Ok((call_off, decided)) => self.record(decided).then_some(call_off),
            // Refused on old states: a reaction that is refused is tried again.
            Err(_) => None,
        };
        let call_off = recorded.unwrap_or_else(|| {
            let outcome = self.carry_out(&flight.effect, 0, &flight.outside);
            let (call_off, decided) = outcome.expect("a reaction is never refused for good");
            assert!(self.record(decided), "nobody else is at work");
            call_off
        });
        if dies_afterwards {
            return;
        }
        if let Some(order) = call_off {
            self.bookings.remove(&order);
            self.called_off.insert(order);
        }
        self.todo.remove(&(flight.service, flight.fact));
    }

    /// A service dies before it records what it decided.
    pub(super) fn die(&mut self, pick: usize) {
        if !self.flights.is_empty() {
            self.flights.swap_remove(pick % self.flights.len());
        }
    }

    /// A service gets a fact of the log, whether or not it has had it before.
    pub(super) fn redeliver(&mut self, pick: usize) {
        if !self.log.is_empty() {
            self.deliver(pick % self.log.len());
        }
    }

    /// Lets everything come to rest, in an order that the seed gives; somebody watches and may interfere.
    pub(super) fn rest(&mut self, seed: u64, mut watch: impl FnMut(&mut Self)) {
        let mut dice = fastrand::Rng::with_seed(seed);
        for _ in 0..10_000 {
            if self.todo.is_empty() && self.flights.is_empty() {
                if self.timers.is_empty() {
                    return;
                }
                self.fire(dice.usize(..));
            } else if dice.bool() {
                self.begin(dice.usize(..), dice.usize(..2), Outside::new(dice.u8(..)));
            } else {
                self.finish(dice.usize(..), false);
            }
            watch(self);
        }
        panic!("it never comes to rest");
    }

    fn deliver(&mut self, fact: usize) {
        let interested =
            Service::ALL.into_iter().filter(|service| service.react(&self.log[fact], fact).is_some());
        self.todo.extend(interested.map(|service| (service, fact)));
    }

    /// The decision behind an effect, as the services make it: with the carrier asked before it is made.
    fn carry_out(&mut self, effect: &Effect, lag: usize, outside: &Outside) -> Outcome {
        let nothing = |(): ()| None;
        match effect {
            Effect::Orders(effect) => self.decide(lag, |d| effect.decide(d).map(nothing)),
            Effect::Inventory(effect) => self.decide(lag, |d| effect.decide(d).map(nothing)),
            Effect::Payments(payments::Effect::Charge(order)) => {
                self.decide(lag, |d| payments::charge(d, order, &outside.clearance).map(nothing))
            }
            &Effect::Payments(payments::Effect::Expire(order, account)) => {
                self.decide(lag, |d| payments::expire(d, order, account).map(nothing))
            }
            Effect::Payments(payments::Effect::Refund(refund)) => {
                self.decide(lag, |d| payments::refund(d, refund).map(nothing))
            }
            Effect::Fulfilment(fulfilment::Effect::Advance(order, ask)) => {
                let (now, times, ask) = (self.now, Times::default(), ask.clone());
                let command = ProcessCommand { now, times, ask };
                self.decide(lag, |d| fulfilment::advance(d, *order, command.clone()).map(nothing))
            }
            &Effect::Fulfilment(fulfilment::Effect::Hold { order_id, account_id }) => {
                let (paid, _) =
                    self.decide(0, |d| d.state(&Key::<payments::Payment>::new(order_id)).cloned())?;
                if paid != payments::PaymentState::Undecided {
                    return Ok((None, vec![]));
                }
                let until = self.now + SignedDuration::from_mins(15);
                let start = HoldCommand::Start { order_id, account_id, until };
                self.decide(lag, |d| fulfilment::keep(d, order_id, start).map(nothing))
            }
            &Effect::Fulfilment(fulfilment::Effect::Settled(order_id)) => {
                let end = HoldCommand::End { order_id };
                self.decide(lag, |d| fulfilment::keep(d, order_id, end).map(nothing))
            }
            &Effect::Fulfilment(fulfilment::Effect::Expire(order_id, at)) => {
                let due = HoldCommand::Due { order_id, at };
                self.decide(lag, |d| fulfilment::keep(d, order_id, due).map(nothing))
            }
            Effect::Shipping(shipping::Effect::Schedule(paid)) => {
                let key = Key::<Shipment>::new(paid.order_id);
                let unwanted = |state: &ShipmentState| {
                    (state.parcel() == Some(Parcel::Unwanted)).then_some(paid.order_id)
                };
                let (before, _) = self.decide(lag, |d| d.state(&key).copied())?;
                if before.parcel().is_some() {
                    return Ok((unwanted(&before), vec![]));
                }
                let answer = match &outside.answer {
                    Answer::Booked(_) if self.called_off.contains(&paid.order_id) => {
                        Answer::Refused(String::new())
                    }
                    answer => answer.clone(),
                };
                if matches!(answer, Answer::Booked(_)) {
                    self.bookings.insert(paid.order_id);
                }
                self.decide(lag, |d| {
                    shipping::schedule(d, paid, &answer)?;
                    d.state(&key).map(unwanted)
                })
            }
            &Effect::Shipping(shipping::Effect::Cancel { order_id, reason, workflow }) => {
                self.decide(lag, |d| shipping::cancel(d, order_id, reason, workflow).map(|()| Some(order_id)))
            }
        }
    }

    /// What the executor does: runs a command until it has every key it needs.
    fn decide<T>(
        &mut self,
        lag: usize,
        command: impl Fn(&mut Decision) -> Result<T, Stop>,
    ) -> Result<(T, Vec<(Subject, Decided)>), Refusal> {
        let mut slots = Vec::new();
        loop {
            let mut decision = Decision::default();
            for slot in &slots {
                decision.seat(Slot::clone(slot));
            }
            match decision.attempt(&command) {
                Ok(outcome) => {
                    let (slots, decided) = decision.into_parts();
                    let with_subject = |event: Decided| (slots[event.slot].subject.clone(), event);
                    return Ok((outcome, decided.into_iter().map(with_subject).collect()));
                }
                Err(Stop::Refused(refusal)) => return Err(refusal),
                Err(Stop::Needs(keys)) => slots.extend(keys.iter().map(|key| self.load(key, lag))),
            }
        }
    }

    fn set(&mut self, timer: Option<TimerChange>) {
        let Some(TimerChange { name, alarm }) = timer else { return };
        match alarm {
            Some(Alarm { at, subject, fact, body }) => {
                let due = Fact::from_json(subject.aggregate(), fact.name, fact.version, &body).unwrap();
                self.timers.insert(name, (at, due));
            }
            None => {
                self.timers.remove(&name);
            }
        }
    }

    fn load(&mut self, key: &AnyKey, lag: usize) -> Slot {
        let fresh = || History { codec: key.codec, states: vec![(key.codec.fresh)()] };
        let history = self.aggregates.entry(key.subject.to_string()).or_insert_with(fresh);
        let version = (history.states.len() - 1).saturating_sub(lag);
        let (subject, state, version) =
            (key.subject.clone(), history.states[version].clone(), version as u64);
        Slot { subject, state, version, sequence: version, tail: Tail::default() }
    }

    /// Records all or nothing: nothing where an aggregate is not at the version that the decision saw.
    fn record(&mut self, decided: Vec<(Subject, Decided)>) -> bool {
        let mut guarded = HashSet::new();
        let newest = |subject: &Subject| self.aggregates[subject.as_str()].states.len() as u64;
        let mut first = decided.iter().filter(|(subject, _)| guarded.insert(subject));
        if first.any(|(subject, event)| event.version != newest(subject)) {
            return false;
        }
        for (subject, Decided { fact, body, timer, .. }) in decided {
            self.set(timer);
            let History { codec, states } = self.aggregates.get_mut(subject.as_str()).unwrap();
            let state = (codec.fold)(states.last().unwrap(), fact.name, fact.version, &body).unwrap();
            states.push(state);
            self.log.push(Fact::from_json(subject.aggregate(), fact.name, fact.version, &body).unwrap());
            self.deliver(self.log.len() - 1);
        }
        true
    }
}
