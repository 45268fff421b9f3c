//! A decision over one or several aggregates: states in, events out, all or nothing. Pure.
//!
//! The executor fills a [`Decision`] with the states of the keys it was given and runs the commands that wait for
//! these keys one after the other; each sees what the ones before it decided. A command says itself which keys it
//! needs ([`Decision::need`]): asked with none, it stops and names them; it is then run again, and may name more once
//! it has seen the first states. So it must be a function of the states alone.
//!
//! The append guards the keys that got events. A key that was only read is not guarded.

use crate::{
    Aggregate, Refusal,
    aggregate::{AnyState, Codec, typed},
};
use events::{
    DomainEvent, FactType, OrderId, Subject,
    fulfilment::{Timer, TimerDue, TimerEvent},
};
use jiff::Timestamp;
use nats::Tail;
use std::{fmt, marker::PhantomData, sync::Arc};

/// Names one aggregate of type `A`.
pub struct Key<A> {
    subject: Subject,
    kind: PhantomData<fn() -> A>,
}

impl<A> Clone for Key<A> {
    fn clone(&self) -> Self {
        Self { subject: self.subject.clone(), kind: PhantomData }
    }
}

impl<A: Aggregate> Key<A> {
    /// The aggregate with this id: a UUID or a SKU.
    pub fn new(id: impl fmt::Display) -> Self {
        Self { subject: A::KIND.subject(id), kind: PhantomData }
    }

    /// Its subject.
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// The key for the executor, which loads the aggregate first where it is not cached.
    pub fn load(&self) -> AnyKey {
        AnyKey { subject: self.subject.clone(), codec: Codec::of::<A>(), likely_new: false }
    }

    /// The key for the executor, which supposes that the aggregate does not exist where it is not cached: the append
    /// says whether that is true. Saves a round trip for what is nearly always new.
    pub fn likely_new(&self) -> AnyKey {
        AnyKey { likely_new: true, ..self.load() }
    }
}

/// Why a decision ends without an outcome.
#[derive(Debug)]
pub enum Stop {
    /// It is refused: the answer to who asked.
    Refused(Refusal),
    /// It cannot be made without these states: load them and run it again.
    Needs(Vec<AnyKey>),
}

impl<R: Into<Refusal>> From<R> for Stop {
    fn from(rejection: R) -> Self {
        Self::Refused(rejection.into())
    }
}

/// A key whose type only its codec knows.
#[derive(Clone)]
pub struct AnyKey {
    pub(crate) subject: Subject,
    pub(crate) codec: Codec,
    pub(crate) likely_new: bool,
}

impl fmt::Debug for AnyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.subject.fmt(f)
    }
}

/// One aggregate inside a decision.
#[derive(Clone)]
pub(crate) struct Slot {
    pub(crate) subject: Subject,
    pub(crate) state: AnyState,
    /// Version of the aggregate, counting what this decision adds.
    pub(crate) version: u64,
    /// Where its last event stood before this decision; 0 where there was none.
    pub(crate) sequence: u64,
    /// Where its earlier events stand.
    pub(crate) tail: Tail,
}

/// An event decided but not yet recorded.
pub(crate) struct Decided {
    /// Of which aggregate of the decision.
    pub(crate) slot: usize,
    pub(crate) fact: &'static FactType,
    pub(crate) version: u64,
    pub(crate) body: Vec<u8>,
    /// What becomes of a timer with it.
    pub(crate) timer: Option<TimerChange>,
}

/// What becomes of a timer together with an event.
#[derive(Clone, Debug)]
pub(crate) struct TimerChange {
    /// The subject that keeps it.
    pub(crate) name: String,
    /// What it is armed with, in place of what stands there; `None` cancels it.
    pub(crate) alarm: Option<Alarm>,
}

/// An event that is recorded when its time has come.
#[derive(Clone, Debug)]
pub(crate) struct Alarm {
    pub(crate) at: Timestamp,
    pub(crate) subject: Subject,
    pub(crate) fact: &'static FactType,
    pub(crate) body: Vec<u8>,
}

impl Decided {
    /// Why something failed, where this is the fact that says so: its reason, not its words, which may tell of a customer
    /// what no log and no trace may know, such as a balance.
    pub(crate) fn failure(&self) -> Option<String> {
        if !self.fact.name.ends_with(".failed") {
            return None;
        }
        let body: serde_json::Value = serde_json::from_slice(&self.body).ok()?;
        Some(body["reason"].as_str().unwrap_or(self.fact.name).to_owned())
    }
}

/// States in, events out. See the module's text.
#[derive(Default)]
pub struct Decision {
    slots: Vec<Slot>,
    pub(crate) decided: Vec<Decided>,
    /// States before each event.
    undo: Vec<(usize, AnyState)>,
}

impl Decision {
    /// Gives it the state of an aggregate.
    pub(crate) fn seat(&mut self, slot: Slot) {
        // Most decisions are over one aggregate and record one event: a vector would begin with room for four.
        reserve_one(&mut self.slots);
        self.slots.push(slot);
    }

    /// Whether it was given the state of this aggregate.
    pub(crate) fn has(&self, subject: &Subject) -> bool {
        self.slot(subject).is_some()
    }

    /// The aggregate of the event decided at this place.
    pub(crate) fn subject_of(&self, decided: usize) -> &Subject {
        &self.slots[self.decided[decided].slot].subject
    }

    /// Whether it has an event of this aggregate.
    pub(crate) fn has_written(&self, subject: &Subject) -> bool {
        (0..self.decided.len()).any(|decided| self.subject_of(decided) == subject)
    }

    /// The states after the decision, and its events.
    pub(crate) fn into_parts(self) -> (Vec<Slot>, Vec<Decided>) {
        (self.slots, self.decided)
    }

    /// Stops unless all these keys were given.
    pub fn need(&self, keys: impl IntoIterator<Item = AnyKey>) -> Result<(), Stop> {
        let missing: Vec<_> = keys.into_iter().filter(|key| self.slot(&key.subject).is_none()).collect();
        if missing.is_empty() { Ok(()) } else { Err(Stop::Needs(missing)) }
    }

    /// The state of an aggregate, with what this decision has added. Stops when its key was not given.
    pub fn state<A: Aggregate>(&self, key: &Key<A>) -> Result<&A::State, Stop> {
        let index = self.slot(&key.subject).ok_or_else(|| Stop::Needs(vec![key.load()]))?;
        Ok(typed::<A>(&self.slots[index].state))
    }

    /// Asks one aggregate; its events are part of this decision. Stops when its key was not given.
    pub fn apply<A: Aggregate>(&mut self, key: &Key<A>, command: A::Command) -> Result<(), Stop> {
        let index = self.slot(&key.subject).ok_or_else(|| Stop::Needs(vec![key.load()]))?;
        let events = A::decide(typed::<A>(&self.slots[index].state), command)?;
        for event in events {
            let slot = &mut self.slots[index];
            reserve_one(&mut self.undo);
            reserve_one(&mut self.decided);
            self.undo.push((index, slot.state.clone()));
            slot.state = Arc::new(A::evolve(typed::<A>(&slot.state).clone(), &event));
            slot.version += 1;
            self.decided.push(Decided {
                slot: index,
                fact: event.fact_type(),
                version: slot.version,
                body: event.to_json(),
                timer: None,
            });
        }
        Ok(())
    }

    /// Arms a timer of an order together with the last event of `key` in this decision; one that stands is replaced.
    /// Without a time the timer is cancelled. Nothing happens where this decision has no event of `key`.
    pub fn set_timer<A: Aggregate>(
        &mut self,
        key: &Key<A>,
        (order_id, timer): (OrderId, Timer),
        at: Option<Timestamp>,
    ) {
        let name = A::KIND.context().timer(order_id, timer.name());
        let alarm = at.map(|at| {
            let due = TimerEvent::from(TimerDue { order_id, timer, at });
            let (fact, body) = (due.fact_type(), due.to_json());
            Alarm { at, subject: events::Aggregate::Timer.subject(order_id), fact, body }
        });
        let of_key = |decided: &&mut Decided| self.slots[decided.slot].subject == key.subject;
        if let Some(last) = self.decided.iter_mut().rev().find(of_key) {
            last.timer = Some(TimerChange { name, alarm });
        }
    }

    /// Runs one command inside this decision: its events are kept if it succeeds, and only then.
    pub(crate) fn attempt<T>(
        &mut self,
        command: impl FnOnce(&mut Self) -> Result<T, Stop>,
    ) -> Result<T, Stop> {
        let mark = self.decided.len();
        let outcome = command(self);
        if outcome.is_err() {
            self.decided.truncate(mark);
            while self.undo.len() > mark {
                let Some((index, state)) = self.undo.pop() else { break };
                self.slots[index].state = state;
                self.slots[index].version -= 1;
            }
        }
        outcome
    }

    fn slot(&self, subject: &Subject) -> Option<usize> {
        self.slots.iter().position(|slot| slot.subject == *subject)
    }
}

/// Room for one where there is none yet.
fn reserve_one<T>(items: &mut Vec<T>) {
    if items.capacity() == 0 {
        items.reserve_exact(1);
    }
}

/// Given/when/then for decisions over several aggregates.
#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    impl Decision {
        /// A decision in which `key` has this history.
        pub(crate) fn given<A: Aggregate>(mut self, key: &Key<A>, history: &[A::Event]) -> Self {
            let state = history.iter().fold(A::State::default(), A::evolve);
            let version = history.len() as u64;
            let (subject, sequence, tail) = (key.subject.clone(), version, Tail::default());
            self.slots.push(Slot { subject, state: Arc::new(state), version, sequence, tail });
            self
        }

        /// The events of `key` decided so far.
        pub(crate) fn then<A: Aggregate>(&self, key: &Key<A>) -> Vec<A::Event> {
            let of_key =
                self.decided.iter().filter(|decided| self.slots[decided.slot].subject == key.subject);
            of_key.map(|d| A::Event::from_json(d.fact.name, d.fact.version, &d.body).unwrap()).collect()
        }
    }
}
