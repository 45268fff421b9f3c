//! Where aggregates stand that are recorded, and decisions over them, as the executor makes them.

use super::{Bounds, Fault};
use crate::{
    Aggregate, Decision, Key, Refusal, Stop,
    aggregate::{AnyState, Codec, typed},
    choreography::world::Service,
    decision::{Decided, Slot},
    orders::{Order, OrderStatus},
    payments::Payment,
};
use events::{Aggregate as Kind, Fact, OrderId, Subject};
use nats::Tail;
use serde_json::Value;
use std::{collections::BTreeMap, sync::Arc};

/// One aggregate as it is recorded.
#[derive(Clone)]
pub(super) struct Standing {
    codec: Codec,
    state: AnyState,
    version: u64,
    /// Bytes that are the same for the same standing.
    written: Arc<[u8]>,
}

impl Standing {
    /// What is written is written without what no decision looks at: why a process goes back, and how many events an
    /// aggregate has that nobody tells old answers of from new ones by.
    fn new(codec: Codec, subject: &Subject, state: AnyState, version: u64) -> Self {
        let mut value: Value = serde_json::from_slice(&(codec.freeze)(&state).unwrap()).unwrap();
        let mut written = subject.as_str().as_bytes().to_vec();
        match subject.aggregate() {
            Kind::Process => {
                value.as_object_mut().map(|fields| fields.remove("cause"));
            }
            Kind::Payment | Kind::Reservation | Kind::Shipment => written.extend(version.to_be_bytes()),
            _ => {}
        }
        written.extend(value.to_string().into_bytes());
        Self { codec, state, version, written: written.into() }
    }
}

/// Aggregates by subject.
pub(super) type Standings = BTreeMap<String, Standing>;

/// What is read and decided at one place: the standings of an order with those that orders share.
pub(super) struct Desk<'a> {
    pub(super) all: Standings,
    pub(super) bounds: &'a Bounds,
    pub(super) recorded: Vec<(Fact, u64)>,
}

impl Desk<'_> {
    /// Runs a command until it has every key it needs, and records what it decides.
    pub(super) fn decide(
        &mut self,
        command: impl Fn(&mut Decision) -> Result<(), Stop>,
    ) -> Result<usize, Refusal> {
        let mut slots: Vec<Slot> = Vec::new();
        let (slots, decided) = loop {
            let mut decision = Decision::default();
            for slot in &slots {
                decision.seat(slot.clone());
            }
            match decision.attempt(&command) {
                Ok(()) => break decision.into_parts(),
                Err(Stop::Refused(refusal)) => return Err(refusal),
                Err(Stop::Needs(keys)) => {
                    for key in keys {
                        let fresh = || Standing::new(key.codec, &key.subject, (key.codec.fresh)(), 0);
                        let found = self.all.entry(key.subject.to_string()).or_insert_with(fresh);
                        let (state, version) = (found.state.clone(), found.version);
                        let (subject, tail) = (key.subject, Tail::default());
                        slots.push(Slot { subject, state, version, sequence: version, tail });
                    }
                }
            }
        };
        let count = decided.len();
        for decided in decided {
            let subject = slots[decided.slot].subject.clone();
            self.record(&subject, &decided);
        }
        Ok(count)
    }

    fn record(&mut self, subject: &Subject, Decided { fact, body, .. }: &Decided) {
        let mut body = body.clone();
        if fact.name == "process.started" {
            let mut started: serde_json::Value = serde_json::from_slice(&body).unwrap();
            started["definition"] = self.bounds.definition.version.into();
            body = started.to_string().into_bytes();
        }
        if self.bounds.fault == Some(Fault::KeepsStock) && fact.name == "stock.released" {
            return;
        }
        let Standing { codec, state, version, .. } = &self.all[subject.as_str()];
        let state = (codec.fold)(state, fact.name, fact.version, &body).unwrap();
        let next = Standing::new(*codec, subject, state, version + 1);
        let read = Fact::from_json(subject.aggregate(), fact.name, fact.version, &body).unwrap();
        self.recorded.push((read, next.version));
        self.all.insert(subject.to_string(), next);
    }
}

impl Desk<'_> {
    /// What a service with this fault does not remember.
    pub(super) fn forget(&mut self, service: Service, order: OrderId) {
        match (self.bounds.fault, service) {
            (Some(Fault::ForgetsPayments), Service::Payments) => {
                self.all.remove(Key::<Payment>::new(order).subject().as_str());
            }
            (Some(Fault::ForgetsEnds), Service::Orders) => {
                let key = Key::<Order>::new(order);
                let mut forgetful = state(&self.all, &key);
                if let Some(order) = &mut forgetful {
                    order.status = OrderStatus::Pending;
                }
                self.all.get_mut(key.subject().as_str()).unwrap().state = Arc::new(forgetful);
            }
            _ => {}
        }
    }
}

/// The state of an aggregate.
pub(super) fn state<A: Aggregate>(standings: &Standings, key: &Key<A>) -> A::State {
    standings.get(key.subject().as_str()).map(|found| typed::<A>(&found.state).clone()).unwrap_or_default()
}

/// Bytes that are the same for the same standings.
pub(super) fn written(standings: &Standings) -> Vec<u8> {
    standings.values().flat_map(|standing| standing.written.iter().copied()).collect()
}

/// What is asked of aggregates.
type Command<'a> = dyn Fn(&mut Decision) -> Result<(), Stop> + 'a;

/// What was recorded before the model begins.
pub(super) fn recorded(bounds: &Bounds, commands: &[&Command]) -> (Standings, Vec<Fact>) {
    let mut desk = Desk { all: Standings::new(), bounds, recorded: Vec::new() };
    for command in commands {
        desk.decide(command).unwrap();
    }
    (desk.all, desk.recorded.into_iter().map(|(fact, ..)| fact).collect())
}
