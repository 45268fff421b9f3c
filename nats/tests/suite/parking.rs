//! Parking: what cannot be handled waits with everything behind it, nothing else does, and it comes back in order.

use crate::rig::{Rig, becomes, command, event, item, soon, until};
use async_nats::jetstream;
use events::{
    Actor, Aggregate, CommandId, Context, DeadLetterId, DomainEvent, Envelope, Fact, Metadata, Subject,
    ops::{DeadLetterDiscarded, DeadLetterEvent, DeadLetterRetried, Holds},
};
use futures::StreamExt;
use jiff::Timestamp;
use nats::{
    AppendError, Connection, Consumer, ConsumerMetrics, DeadLetter, EventStore, Filter, From, Handler,
    Manner, Message, Parking, Reader, Retry, StoreOptions, Until, Write,
};
use prometheus_client::{encoding::text::encode, registry::Registry};
use service::Clock;
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::{sync::Semaphore, task::JoinHandle};
use tokio_util::sync::CancellationToken;

const DURABLE: &str = "test-inventory";

/// What the handler refuses, and what it did: shared by every worker of a test.
#[derive(Clone, Default)]
pub(crate) struct World {
    poisoned: Arc<Mutex<BTreeSet<(String, u64)>>>,
    handled: Arc<Mutex<Vec<(String, u64)>>>,
    refused: Arc<Mutex<Vec<(String, u64)>>>,
}

impl World {
    pub(crate) fn poison(&self, of: &Subject, version: u64) {
        self.poisoned.lock().unwrap().insert((of.to_string(), version));
    }

    pub(crate) fn heal(&self, of: &Subject, version: u64) {
        self.poisoned.lock().unwrap().remove(&(of.to_string(), version));
    }

    /// Only these versions of an aggregate are poisoned from now on.
    pub(crate) fn heal_all_but(&self, of: &Subject, still: &BTreeSet<u64>) {
        let healed = |(subject, version): &(String, u64)| subject == of.as_str() && !still.contains(version);
        self.poisoned.lock().unwrap().retain(|poisoned| !healed(poisoned));
    }

    /// The versions of an aggregate that were handled, in order, with repetitions.
    pub(crate) fn handled(&self, of: &Subject) -> Vec<u64> {
        versions(&self.handled, of)
    }

    /// The same of those that were refused.
    fn refused(&self, of: &Subject) -> Vec<u64> {
        versions(&self.refused, of)
    }

    fn handler(&self) -> Handler {
        let world = self.clone();
        Arc::new(move |recorded| {
            let world = world.clone();
            Box::pin(async move {
                let what = (recorded.subject.to_string(), recorded.envelope.version);
                if world.poisoned.lock().unwrap().contains(&what) {
                    let error = format!("version {} is poisoned", what.1);
                    world.refused.lock().unwrap().push(what);
                    return Err(Retry::Message(error));
                }
                world.handled.lock().unwrap().push(what);
                Ok("done")
            })
        })
    }
}

fn versions(seen: &Mutex<Vec<(String, u64)>>, of: &Subject) -> Vec<u64> {
    let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    seen.iter().filter(|(subject, _)| subject == of.as_str()).map(|(_, version)| *version).collect()
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
        only: None,
        lag: Duration::ZERO,
        manner: Manner::React,
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

/// A worker with a connection of its own, in this runtime.
pub(crate) async fn start_at(url: &str, world: &World, policy: &str) -> Running {
    let connection = Connection::connect(url, "worker").await.unwrap();
    let store = EventStore::new(&connection, StoreOptions::default());
    let consumer = Consumer {
        parking: Parking::open(&connection, store, Clock::system(), 1).await.unwrap(),
        connection,
        service: "test",
        context: Context::Inventory,
        durable: DURABLE.to_owned(),
        interests: &["stock.received"],
        only: None,
        lag: Duration::ZERO,
        manner: Manner::React,
        policy: policy.parse().unwrap(),
        metrics: ConsumerMetrics::default(),
    };
    let stop = CancellationToken::new();
    Running { task: tokio::spawn(consumer.run(world.handler(), stop.clone())), stop }
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

/// What an operator asks for, as the service of operations records it: again, where the worker recorded something of the
/// same letter meanwhile.
async fn ask(rig: &Rig, id: DeadLetterId, event: DeadLetterEvent) {
    let subject = Aggregate::DeadLetter.subject(id);
    let command = CommandId::new(Clock::system().uuid());
    let (correlation, causation, actor) = (command.uuid().into(), command.uuid(), Actor::CLIENT);
    let metadata = Metadata { command, correlation, causation, actor, traceparent: None };
    let recording = async {
        loop {
            let last = rig.store.last(&subject).await.unwrap();
            let version = last.as_ref().map_or(0, |last| last.envelope().unwrap().version) + 1;
            let fact = event.fact_type();
            let envelope = Envelope::new(fact, &subject, version, 0, Timestamp::UNIX_EPOCH, &metadata);
            let guard = last.map_or(0, |last| last.position.sequence);
            let write = Write::new(&subject, Some(guard), &envelope, Some("?".to_owned()), event.to_json());
            match rig.store.append(vec![write]).await {
                Err(AppendError::Conflict) => {}
                recorded => return recorded,
            }
        }
    };
    soon("it is recorded", recording).await.unwrap();
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

/// How many messages of a durable consumer are unacknowledged, and how many were not delivered yet. `None` where there is
/// no such consumer.
async fn open_at(rig: &Rig, durable: &str, context: Context) -> Option<(usize, u64)> {
    let jetstream = jetstream::new(rig.client().await);
    let consumer: Result<jetstream::consumer::PullConsumer, _> =
        jetstream.get_consumer_from_stream(durable, context.stream()).await;
    let info = consumer.ok()?;
    let info = info.cached_info();
    Some((info.num_ack_pending, info.num_pending))
}

pub(crate) async fn unacknowledged(rig: &Rig) -> (usize, u64) {
    open_at(rig, DURABLE, Context::Inventory).await.unwrap()
}

/// Whether the workers have done all that they will do: nothing is open of what arrived, nor of what was asked for.
pub(crate) async fn at_rest(rig: &Rig) -> bool {
    let asked = format!("{DURABLE}-ops");
    open_at(rig, DURABLE, Context::Inventory).await == Some((0, 0))
        && open_at(rig, &asked, Context::Ops).await == Some((0, 0))
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
    // The record comes first.
    until("and that is said", async || audit(&rig).await.len() == 3).await;
    assert_eq!(world.handled(&bad), [1]);

    world.heal(&bad, 2);
    retry(&rig, &parked).await;
    until("it is resolved", async || letter(&rig, &bad).await.is_none()).await;
    assert_eq!(world.handled(&bad), [1, 2, 3, 4, 5, 6]);
    add(&rig, &bad, 7..=7).await;
    until("it flows again", async || world.handled(&bad).len() == 7).await;
    let facts = [
        "message.parked",
        "deadletter.retried",
        "message.parked",
        "deadletter.retried",
        "deadletter.resolved",
    ];
    becomes("what is said", &facts.map(str::to_owned).to_vec(), async || audit(&rig).await).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_discarded_message_is_never_handled_and_what_waits_behind_it_is() {
    let rig = Rig::start().await;
    let (bad, world) = (item(), World::default());
    world.poison(&bad, 2);
    world.poison(&bad, 4);
    let running = start(&rig, &world, "park:1").await;
    add(&rig, &bad, 1..=5).await;
    let first = parked(&rig, &bad).await;
    discard(&rig, &first).await;
    let next = || async { letter(&rig, &bad).await.map(|letter| letter.failure.error) };
    until("the next one is parked", async || next().await.as_deref() == Some("version 4 is poisoned")).await;
    assert_eq!(world.handled(&bad), [1, 3]);
    // What was asked of the one before it is nothing to the next one.
    retry(&rig, &first).await;
    discard(&rig, &letter(&rig, &bad).await.unwrap()).await;
    until("it is resolved", async || letter(&rig, &bad).await.is_none()).await;
    assert_eq!(world.handled(&bad), [1, 3, 5]);
    running.stop().await;
}

/// What no event is, has no type, or is of an unknown version cannot be handled, now or later.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_parked_at_once() {
    let rig = Rig::start().await;
    let (bare, good, world) = (item(), item(), World::default());
    let context = jetstream::new(rig.client().await);
    context.publish(bare.to_string(), "{}".into()).await.unwrap().await.unwrap();
    context.publish("evt.inventory.nonsense", "{}".into()).await.unwrap().await.unwrap();
    let running = start(&rig, &world, "park:9").await;
    add(&rig, &good, 1..=2).await;
    until("both are parked", async || parking(&rig).await.all().await.unwrap().len() == 2).await;
    until("the other flows", async || world.handled(&good).len() == 2).await;
    until("nothing is unacknowledged", async || unacknowledged(&rig).await == (0, 0)).await;
    for letter in parking(&rig).await.all().await.unwrap() {
        assert_eq!((letter.failure.attempts, letter.failure.event_type.as_deref()), (1, None));
        discard(&rig, &letter).await;
    }
    until("both are gone", async || parking(&rig).await.all().await.unwrap().is_empty()).await;
    running.stop().await;
}

/// More than the server lets be unacknowledged wait behind one that fails, long before its attempts are used up.
#[tokio::test(flavor = "multi_thread")]
async fn however_many_wait_behind_a_poisoned_message_the_others_flow() {
    let rig = Rig::start().await;
    let (bad, good, world) = (item(), item(), World::default());
    world.poison(&bad, 1);
    let mut last = 0;
    for first in (1..=1500).step_by(300) {
        let guard = |version| (version == first).then_some(last);
        let writes = (first..first + 300).map(|n| event(&bad, guard(n), command(), 0, n, None));
        last = rig.store.append(writes.collect()).await.unwrap().first + 299;
    }
    add(&rig, &good, 1..=1).await;
    let running = start(&rig, &world, "park:1000").await;
    until("the other flows", async || world.handled(&good).len() == 1).await;
    until("nothing is unacknowledged", async || unacknowledged(&rig).await == (0, 0)).await;
    let letter = parked(&rig, &bad).await;
    assert_eq!(letter.through, last);
    world.heal(&bad, 1);
    retry(&rig, &letter).await;
    until("all are handled", async || world.handled(&bad).len() == 1500).await;
    assert_eq!(world.handled(&bad), (1..=1500).collect::<Vec<_>>());
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_consumer_handles_nothing_until_an_operator_has_seen_to_it() {
    let rig = Rig::start().await;
    let (bad, good, world) = (item(), item(), World::default());
    world.poison(&bad, 1);
    let running = start(&rig, &world, "pause:1").await;
    add(&rig, &bad, 1..=1).await;
    let letter = parked(&rig, &bad).await;
    assert_eq!(letter.holds, Holds::Consumer);
    // Another process learns of it when it starts.
    let other = start(&rig, &world, "pause:1").await;
    add(&rig, &good, 1..=20).await;
    until("they are delivered", async || unacknowledged(&rig).await.0 == 20).await;
    assert!(world.handled(&good).is_empty());
    world.heal(&bad, 1);
    retry(&rig, &letter).await;
    until("it goes on", async || world.handled(&good).len() == 20).await;
    assert_eq!(world.handled(&bad), [1]);
    running.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_skipped_message_is_passed_over_and_audited() {
    let rig = Rig::start().await;
    let (bad, world) = (item(), World::default());
    world.poison(&bad, 2);
    let running = start(&rig, &world, "skip:2").await;
    add(&rig, &bad, 1..=3).await;
    until("it goes on", async || world.handled(&bad) == [1, 3]).await;
    assert_eq!(audit(&rig).await, ["message.skipped"]);
    assert!(letter(&rig, &bad).await.is_none());
    running.stop().await;
}

/// What cannot even be parked is told neither again and again, nor in the way of what comes behind it.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_told_and_cannot_be_parked_goes_back_to_the_server() {
    let rig = Rig::start().await;
    let (bad, good, world) = (item(), item(), World::default());
    let (first, last) = (Duration::from_millis(10), Duration::from_hours(1));
    let consumer = Consumer { manner: Manner::Tell { first, last }, ..worker(&rig, "park:1").await };
    consumer.ensure().await.unwrap();
    let stop = CancellationToken::new();
    let task = tokio::spawn(consumer.run(world.handler(), stop.clone()));
    add(&rig, &good, 1..=1).await;
    until("it works", async || world.handled(&good) == [1]).await;
    let record = format!("$KV.PARKED.{DURABLE}.{}", DeadLetterId::of(DURABLE, bad.as_str()));
    let context = jetstream::new(rig.client().await);
    context.publish(record, "no record".into()).await.unwrap().await.unwrap();
    world.poison(&bad, 1);
    add(&rig, &bad, 1..=2).await;
    until("what comes behind it is told", async || world.handled(&bad) == [2]).await;
    until("it waits at the server", async || unacknowledged(&rig).await == (1, 0)).await;
    assert_eq!(world.refused(&bad), [1], "it was told once");
    Running { stop, task }.stop().await;
}

/// A process that stops hands back what it has not begun: others need not wait until the server misses acknowledgements.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_begun_when_a_process_stops_comes_at_once_and_in_order() {
    let rig = Rig::start().await;
    let (of, world, gate) = (item(), World::default(), Arc::new(Semaphore::new(0)));
    let (handler, held) = (world.handler(), Arc::clone(&gate));
    let slow: Handler = Arc::new(move |recorded| {
        let (handled, held) = (handler(recorded), Arc::clone(&held));
        Box::pin(async move {
            let _passed = held.acquire().await;
            handled.await
        })
    });
    let stop = CancellationToken::new();
    let stopping = tokio::spawn(worker(&rig, "park:3").await.run(slow, stop.clone()));
    add(&rig, &of, 1..=20).await;
    until("all are delivered", async || unacknowledged(&rig).await == (20, 0)).await;
    stop.cancel();
    let begun = Instant::now();
    gate.add_permits(1);
    soon("stop", stopping).await.unwrap();
    assert_eq!(world.handled(&of), [1], "what had begun was finished");
    let next = start(&rig, &world, "park:3").await;
    until("all are handled", async || world.handled(&of).len() == 20).await;
    assert!(begun.elapsed() < Duration::from_millis(3500), "after {:?}", begun.elapsed());
    assert_eq!(world.handled(&of), (1..=20).collect::<Vec<_>>());
    next.stop().await;
}

/// One process was killed while it tried the first one, another has passed what came behind it.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_skipped_out_of_order_is_said_of_each_message_once() {
    let rig = Rig::start().await;
    let bad = item();
    add(&rig, &bad, 1..=3).await;
    let mut reader =
        Reader::open(&rig.connection, Context::Inventory, From::Start, Until::End, Filter::default())
            .await
            .unwrap();
    let messages: Vec<Message> = soon("the events", crate::rig::rest(&mut reader)).await;
    let parking = parking(&rig).await;
    for index in [2, 0, 2, 0, 1, 0] {
        parking.skip("test", DURABLE, &messages[index], "poisoned".to_owned()).await.unwrap();
    }
    let id = DeadLetterId::of(DURABLE, bad.as_str());
    let mut reader = Reader::open(&rig.connection, Context::Ops, From::Start, Until::End, Filter::default())
        .await
        .unwrap();
    let said: Vec<Message> = soon("the log", crate::rig::rest(&mut reader)).await;
    let said = said.iter().map(|said| match said.fact().unwrap() {
        Fact::DeadLetter(DeadLetterEvent::Skipped(skipped)) => {
            assert_eq!(skipped.dead_letter_id, id);
            skipped.failure.sequence
        }
        other => panic!("{other:?}"),
    });
    let sequences = [2, 0, 1].map(|index: usize| messages[index].position.sequence);
    assert_eq!(said.collect::<Vec<_>>(), sequences);
}

/// However many of one aggregate are passed over, and by however many processes: what was said before is read once by each.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_skipped_one_by_one_reads_what_was_said_once() {
    const MESSAGES: usize = 60;
    let rig = Rig::start().await;
    let bad = item();
    add(&rig, &bad, 1..=MESSAGES as u64).await;
    let mut reader =
        Reader::open(&rig.connection, Context::Inventory, From::Start, Until::End, Filter::default())
            .await
            .unwrap();
    let messages: Vec<Message> = soon("the events", crate::rig::rest(&mut reader)).await;
    assert_eq!(messages.len(), MESSAGES);
    let processes = [parking(&rig).await, parking(&rig).await];
    // Every answer that anybody gets.
    let observer = rig.client().await;
    let mut answers = observer.subscribe("_INBOX.>").await.unwrap();
    observer.flush().await.unwrap();
    for (message, number) in messages.iter().zip(0..) {
        processes[number % 2].skip("test", DURABLE, message, "poisoned".to_owned()).await.unwrap();
    }
    // A third one, which knows nothing, says nothing again.
    let third = parking(&rig).await;
    for message in &messages {
        third.skip("test", DURABLE, message, "poisoned".to_owned()).await.unwrap();
    }
    observer.publish("_INBOX.end", "".into()).await.unwrap();
    let mut read = 0;
    while let Some(answer) = soon("an answer", answers.next()).await {
        if answer.subject.as_str() == "_INBOX.end" {
            break;
        }
        let of_log = answer.headers.as_ref().and_then(|headers| headers.get("Nats-Subject"));
        read += usize::from(of_log.is_some_and(|subject| subject.as_str().contains(".deadletter.")));
    }
    // For each of them the last one, by whoever says so and by the third; what the other one said; and all of it, once.
    assert!((2 * MESSAGES..=5 * MESSAGES).contains(&read), "{read} facts were read");
    assert_eq!(nats::last_sequence(&rig.connection, Context::Ops).await.unwrap(), MESSAGES as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn parked_keys_are_counted_and_the_count_ends_with_them() {
    let rig = Rig::start().await;
    let (bad, world) = (item(), World::default());
    world.poison(&bad, 1);
    add(&rig, &bad, 1..=3).await;
    let consumer = worker(&rig, "park:1").await;
    let mut registry = Registry::default();
    consumer.metrics.register(&mut registry);
    let stop = CancellationToken::new();
    let task = tokio::spawn(consumer.run(world.handler(), stop.clone()));
    let gauge = || {
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        let line = format!("waybill_parked_keys{{durable=\"{DURABLE}\"}} ");
        text.lines().find_map(|found| found.strip_prefix(&line)?.parse::<u64>().ok())
    };
    until("it is counted", async || gauge() == Some(1)).await;
    world.heal(&bad, 1);
    retry(&rig, &parked(&rig, &bad).await).await;
    until("it is no longer counted", async || gauge() == Some(0)).await;
    Running { stop, task }.stop().await;
}
