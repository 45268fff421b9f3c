//! Parking: what cannot be handled waits with everything behind it, nothing else does, and it comes back in order.

use crate::rig::{Rig, command, event, item, soon, until};
use async_nats::jetstream;
use events::{
    Actor, Aggregate, CommandId, Context, DeadLetterId, DomainEvent, Envelope, Fact, Metadata, Subject,
    ops::{DeadLetterDiscarded, DeadLetterEvent, DeadLetterRetried, Holds},
};
use jiff::Timestamp;
use nats::{
    Consumer, ConsumerMetrics, DeadLetter, Filter, From, Handler, Message, Parking, Policy, Reader, Retry, Until,
    Write,
};
use prometheus_client::{encoding::text::encode, registry::Registry};
use service::Clock;
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const DURABLE: &str = "test-inventory";

/// What the handler refuses, and what it did: shared by every worker of a test.
#[derive(Clone, Default)]
pub(crate) struct World {
    poisoned: Arc<Mutex<BTreeSet<(String, u64)>>>,
    handled: Arc<Mutex<Vec<(String, u64)>>>,
}

impl World {
    pub(crate) fn poison(&self, of: &Subject, version: u64) {
        self.poisoned.lock().unwrap().insert((of.to_string(), version));
    }

    pub(crate) fn heal(&self, of: &Subject, version: u64) {
        self.poisoned.lock().unwrap().remove(&(of.to_string(), version));
    }

    /// The versions of an aggregate that were handled, in order, with repetitions.
    pub(crate) fn handled(&self, of: &Subject) -> Vec<u64> {
        let handled = self.handled.lock().unwrap_or_else(PoisonError::into_inner);
        handled.iter().filter(|(subject, _)| subject == of.as_str()).map(|(_, version)| *version).collect()
    }

    fn handler(&self) -> Handler {
        let world = self.clone();
        Arc::new(move |recorded| {
            let world = world.clone();
            Box::pin(async move {
                let what = (recorded.subject.to_string(), recorded.envelope.version);
                if world.poisoned.lock().unwrap().contains(&what) {
                    return Err(Retry(format!("version {} is poisoned", what.1)));
                }
                world.handled.lock().unwrap().push(what);
                Ok("done")
            })
        })
    }
}

pub(crate) struct Running {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        soon("stop", self.task).await.unwrap();
    }
}

pub(crate) async fn parking(rig: &Rig) -> Parking {
    Parking::open(&rig.connection, rig.store.clone(), Clock::system(), 1).await.unwrap()
}

pub(crate) async fn worker(rig: &Rig, policy: &str) -> Consumer {
    Consumer {
        connection: rig.connection.clone(),
        service: "test",
        context: Context::Inventory,
        durable: DURABLE.to_owned(),
        interests: &["stock.received"],
        policy: policy.parse().unwrap(),
        parking: parking(rig).await,
        metrics: ConsumerMetrics::default(),
    }
}

pub(crate) async fn start(rig: &Rig, world: &World, policy: &str) -> Running {
    let stop = CancellationToken::new();
    let task = tokio::spawn(worker(rig, policy).await.run(world.handler(), stop.clone()));
    Running { stop, task }
}

/// More events of an aggregate.
pub(crate) async fn add(rig: &Rig, of: &Subject, versions: impl IntoIterator<Item = u64>) {
    for version in versions {
        let last = rig.store.last(of).await.unwrap().map_or(0, |message| message.position.sequence);
        rig.store.append(vec![event(of, Some(last), command(), 0, version, None)]).await.unwrap();
    }
}

pub(crate) async fn letter(rig: &Rig, of: &Subject) -> Option<DeadLetter> {
    let id = DeadLetterId::of(DURABLE, of.as_str());
    parking(rig).await.get(DURABLE, id).await.unwrap().map(|kept| kept.value)
}

/// What an operator asks for, as the service of operations records it.
async fn ask(rig: &Rig, id: DeadLetterId, event: DeadLetterEvent) {
    let subject = Aggregate::DeadLetter.subject(id);
    let last = rig.store.last(&subject).await.unwrap();
    let version = last.as_ref().map_or(0, |last| last.envelope().unwrap().version) + 1;
    let command = CommandId::new(Clock::system().uuid());
    let (correlation, causation, actor) = (command.uuid().into(), command.uuid(), Actor::CLIENT);
    let metadata = Metadata { command, correlation, causation, actor, traceparent: None };
    let envelope =
        Envelope::new(event.fact_type(), &subject, version, 0, Timestamp::UNIX_EPOCH, &metadata);
    let guard = last.map_or(0, |last| last.position.sequence);
    let write = Write::new(&subject, Some(guard), &envelope, Some("?".to_owned()), event.to_json());
    rig.store.append(vec![write]).await.unwrap();
}

pub(crate) async fn retry(rig: &Rig, letter: &DeadLetter) {
    let (consumer, sequence) = (letter.failure.consumer.clone(), letter.failure.sequence);
    let event = DeadLetterRetried { dead_letter_id: letter.id, consumer, sequence };
    ask(rig, letter.id, event.into()).await;
}

pub(crate) async fn discard(rig: &Rig, letter: &DeadLetter) {
    let (consumer, sequence) = (letter.failure.consumer.clone(), letter.failure.sequence);
    let reason = "a test".to_owned();
    let event = DeadLetterDiscarded { dead_letter_id: letter.id, consumer, sequence, reason };
    ask(rig, letter.id, event.into()).await;
}

/// The types of what is recorded of operations, in order.
async fn audit(rig: &Rig) -> Vec<String> {
    let (from, until) = (From::Start, Until::End);
    let mut reader =
        Reader::open(&rig.connection, Context::Ops, from, until, Filter::default()).await.unwrap();
    let all: Vec<Message> = soon("the log", crate::rig::rest(&mut reader)).await;
    all.iter().map(|message| message.kind().to_owned()).collect()
}

pub(crate) async fn unacknowledged(rig: &Rig) -> (usize, u64) {
    let jetstream = jetstream::new(rig.client().await);
    let consumer: jetstream::consumer::PullConsumer =
        jetstream.get_consumer_from_stream(DURABLE, "INVENTORY").await.unwrap();
    let info = consumer.cached_info();
    (info.num_ack_pending, info.num_pending)
}

async fn parked(rig: &Rig, of: &Subject) -> DeadLetter {
    until("it is parked", async || letter(rig, of).await.is_some()).await;
    letter(rig, of).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poisoned_message_parks_its_key_and_comes_back_with_what_waits_behind_it() {
    let rig = Rig::start().await;
    let (bad, good, world) = (item(), item(), World::default());
    world.poison(&bad, 2);
    let running = start(&rig, &world, "park:3").await;
    add(&rig, &bad, 1..=3).await;
    let parked = parked(&rig, &bad).await;
    assert_eq!((parked.failure.attempts, parked.holds), (3, Holds::Aggregate));
    assert_eq!(parked.failure.event_type.as_deref(), Some("stock.received"));
    assert_eq!(parked.failure.error, "version 2 is poisoned");
    add(&rig, &bad, 4..=6).await;
    add(&rig, &good, 1..=6).await;
    until("the other flows", async || world.handled(&good).len() == 6).await;
    until("nothing is unacknowledged", async || unacknowledged(&rig).await == (0, 0)).await;
    assert_eq!(world.handled(&bad), [1]);

    // In vain: it is as it was.
    retry(&rig, &parked).await;
    until("it failed again", async || letter(&rig, &bad).await.unwrap().failure.attempts > 3).await;
    assert_eq!(world.handled(&bad), [1]);

    world.heal(&bad, 2);
    retry(&rig, &parked).await;
    until("it is resolved", async || letter(&rig, &bad).await.is_none()).await;
    assert_eq!(world.handled(&bad), [1, 2, 3, 4, 5, 6]);
    add(&rig, &bad, 7..=7).await;
    until("it flows again", async || world.handled(&bad).len() == 7).await;
    let facts =
        ["message.parked", "deadletter.retried", "message.parked", "deadletter.retried", "deadletter.resolved"];
    until("all is said", async || audit(&rig).await == facts).await;
    running.stop().await;
}
