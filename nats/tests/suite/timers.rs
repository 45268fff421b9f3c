//! Timers: what is relied on of the server, and that arming and cancelling are part of an append.

use crate::rig::{DEADLINE, Rig, command, rest, soon, until};
use async_nats::jetstream::consumer::pull;
use events::{
    Actor, Aggregate, CommandId, Context, DeadLetterId, DomainEvent, Envelope, Fact, Metadata, OrderId,
    Position, Subject,
    fulfilment::{HoldEnded, HoldEvent, Timer, TimerDue, TimerEvent},
};
use futures::{TryStreamExt, future::join_all};
use jiff::{SignedDuration, Timestamp};
use nats::{
    AppendError, Connection, Consumer, ConsumerMetrics, EventStore, Filter, From, Handler, Manner, Message,
    Parking, Policy, Reader, Retry, StoreOptions, TIMER_LEAD, Until, Write,
};
use service::Clock;
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

const DURABLE: &str = "test-fulfilment";

fn order() -> OrderId {
    OrderId::new(Clock::system().uuid())
}

fn metadata(command: CommandId) -> Metadata {
    let (correlation, causation) = (command.uuid().into(), command.uuid());
    Metadata { command, correlation, causation, actor: Actor::CLIENT, traceparent: None }
}

fn hold(order: OrderId) -> Subject {
    Aggregate::Hold.subject(order)
}

/// A fact of the hold of an order.
fn fact(order: OrderId, expect: u64, command: CommandId) -> Write {
    let (subject, fact) = (hold(order), HoldEvent::from(HoldEnded { order_id: order }));
    let version = expect.min(1) + 1;
    let now = Clock::system().now();
    let envelope = Envelope::new(fact.fact_type(), &subject, version, 0, now, &metadata(command));
    Write::new(&subject, Some(expect), &envelope, None, fact.to_json())
}

fn name(order: OrderId) -> String {
    Context::Fulfilment.timer(order, "hold")
}

/// A timer of an order.
fn timer(order: OrderId, at: Timestamp) -> Write {
    let (subject, timer) = (Aggregate::Timer.subject(order), Timer::Hold);
    let fact = TimerEvent::from(TimerDue { order_id: order, timer, at });
    let envelope = Envelope::new(fact.fact_type(), &subject, 1, 9, at, &metadata(command()));
    Write::timer(&subject, &name(order), at, &envelope, fact.to_json())
}

fn soonish(millis: i64) -> Timestamp {
    Clock::system().now() + SignedDuration::from_millis(millis)
}

async fn facts(rig: &Rig) -> Vec<Message> {
    let (from, end, filter) = (From::Start, Until::End, Filter::default());
    let mut reader = Reader::open(&rig.connection, Context::Fulfilment, from, end, filter).await.unwrap();
    soon("the facts", rest(&mut reader)).await
}

async fn due(rig: &Rig) -> Vec<Message> {
    facts(rig).await.into_iter().filter(|message| message.kind() == "timer.due").collect()
}

/// Two timers that stand, of orders with these ids: one for long, one that will be due when the copy of the stream is whole.
pub(crate) async fn armed(rig: &Rig) -> (String, String) {
    let (late, next) = (order(), order());
    rig.store.append(vec![fact(late, 0, command()), timer(late, soonish(600_000))]).await.unwrap();
    rig.store.append(vec![fact(next, 0, command()), timer(next, soonish(6_000))]).await.unwrap();
    (late.to_string(), next.to_string())
}

/// How many messages stand on the subjects of timers.
async fn standing(rig: &Rig) -> u64 {
    let stream = async_nats::jetstream::new(rig.client().await).get_stream("FULFILMENT").await.unwrap();
    let subjects = stream.info_with_subjects("timer.>").await.unwrap();
    subjects.try_fold(0, async |sum, (_, count)| Ok(sum + count as u64)).await.unwrap()
}

/// The earliest that a timer may be recorded.
fn earliest(at: Timestamp) -> Timestamp {
    at - TIMER_LEAD
}

/// What was answered: when, and which timer.
type Answers = Arc<Mutex<Vec<(Timestamp, TimerDue)>>>;

/// A consumer like the one of sagas, with a connection of its own.
async fn consumer(url: &str) -> Consumer {
    let connection = Connection::connect(url, "worker").await.unwrap();
    let store = EventStore::new(&connection, StoreOptions::default());
    Consumer {
        parking: Parking::open(&connection, store, Clock::system(), 1).await.unwrap(),
        connection,
        service: "test",
        context: Context::Fulfilment,
        durable: DURABLE.to_owned(),
        interests: &["timer.due"],
        only: Some(Aggregate::Timer),
        lag: Duration::ZERO,
        manner: Manner::React,
        policy: Policy::default(),
        metrics: ConsumerMetrics::default(),
    }
}

/// Notes what it answers.
fn answer(answers: Answers) -> Handler {
    Arc::new(move |recorded| {
        let answers = Arc::clone(&answers);
        Box::pin(async move {
            if let Fact::Timer(TimerEvent::Due(due)) = recorded.fact {
                answers.lock().unwrap().push((Clock::system().now(), due));
            }
            Ok("answered")
        })
    })
}

async fn answering(url: String, answers: Answers, stop: CancellationToken) {
    consumer(&url).await.run(answer(answers), stop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn however_many_timers_there_are_each_is_answered_once_and_none_early() {
    let rig = Rig::start().await;
    let (answers, stop) = (Answers::default(), CancellationToken::new());
    let running = tokio::spawn(answering(rig.server.url(), Arc::clone(&answers), stop.clone()));
    // Some are due when they are armed, some within the time by which they are recorded early, the others later.
    let armed: Vec<_> = (0..400).map(|_| (order(), soonish(fastrand::i64(-100..2500)))).collect();
    let arm =
        |(of, at): &(OrderId, Timestamp)| rig.store.append(vec![fact(*of, 0, command()), timer(*of, *at)]);
    for appended in join_all(armed.iter().map(arm)).await {
        appended.unwrap();
    }
    until("all are answered", async || answers.lock().unwrap().len() >= armed.len()).await;
    let mut expected: BTreeMap<_, _> = armed.into_iter().collect();
    for (now, due) in answers.lock().unwrap().iter() {
        assert_eq!(expected.remove(&due.order_id), Some(due.at), "answered once, for what it was set to");
        assert!(*now >= due.at, "{} is answered at {now}", due.at);
    }
    stop.cancel();
    soon("stop", running).await.unwrap();
    let early = due(&rig).await.into_iter().filter(|message| {
        let Ok(Fact::Timer(TimerEvent::Due(due))) = message.fact() else { panic!("{message:?}") };
        message.stored < due.at
    });
    assert!(early.count() > 0, "the server looks too seldom to be asked for the very moment");
}

/// Whoever holds a timer that is not due yet may die: it comes again, still not early, and is answered once.
#[test]
fn a_timer_that_is_held_outlives_who_holds_it() {
    let runtime = Runtime::new().unwrap();
    // On a busy machine the time until it is due may be over before its holder is dead.
    let outlived = (0..10).any(|_| {
        let rig = runtime.block_on(Rig::start());
        let (answers, stop, killed) = (Answers::default(), CancellationToken::new(), Runtime::new().unwrap());
        let work = || {
            let (url, answers, stop) = (rig.server.url(), Arc::clone(&answers), stop.clone());
            answering(url, answers, stop)
        };
        killed.spawn(work());
        let (one, at) = (order(), soonish(1500));
        runtime.block_on(async {
            rig.store.append(vec![fact(one, 0, command()), timer(one, at)]).await.unwrap();
            until("it is held", async || held(&rig).await > 0).await;
        });
        killed.shutdown_timeout(DEADLINE);
        if !answers.lock().unwrap().is_empty() {
            return false;
        }
        let running = runtime.spawn(work());
        runtime.block_on(async {
            until("it is acknowledged", async || held(&rig).await == 0).await;
            stop.cancel();
            soon("stop", running).await.unwrap();
        });
        let answers = answers.lock().unwrap();
        let [(now, due)] = &answers[..] else { panic!("answered once, not {answers:?}") };
        assert_eq!((due.order_id, due.at), (one, at));
        assert!(*now >= at, "{at} is answered at {now}");
        true
    });
    assert!(outlived, "it was never held when its holder died");
}

/// Whoever holds it may also stop, as in every update: then it comes at once to whoever is next, not early either.
#[tokio::test(flavor = "multi_thread")]
async fn a_timer_that_is_held_when_its_holder_stops_is_not_late() {
    let rig = Rig::start().await;
    let answers = Answers::default();
    // On a busy machine the time until it is due may be over before its holder stops, or the holder stops while it is on its
    // way to him.
    for _ in 0..10 {
        answers.lock().unwrap().clear();
        let stop = CancellationToken::new();
        let running = tokio::spawn(answering(rig.server.url(), Arc::clone(&answers), stop.clone()));
        let (one, at) = (order(), soonish(1500));
        rig.store.append(vec![fact(one, 0, command()), timer(one, at)]).await.unwrap();
        until("it is held", async || held(&rig).await > 0).await;
        stop.cancel();
        soon("stop", running).await.unwrap();
        let stop = CancellationToken::new();
        let left = answers.lock().unwrap().is_empty();
        let running = tokio::spawn(answering(rig.server.url(), Arc::clone(&answers), stop.clone()));
        until("it is acknowledged", async || held(&rig).await == 0).await;
        stop.cancel();
        soon("stop", running).await.unwrap();
        if left {
            let answers = answers.lock().unwrap();
            let [(now, _)] = &answers[..] else { panic!("answered once, not {answers:?}") };
            let late = now.duration_since(at);
            assert!(!late.is_negative(), "{at} is answered at {now}");
            // As long as the server waits for an acknowledgement it is more than three and a half.
            if late < SignedDuration::from_secs(3) {
                return;
            }
        }
    }
    panic!("it was late whenever its holder had stopped");
}

/// What is brought back is held as well: what waits behind a timer that failed need not be due.
#[tokio::test(flavor = "multi_thread")]
async fn a_timer_that_is_brought_back_is_held_for_as_long_as_it_was_recorded_early() {
    let rig = Rig::start().await;
    let (answers, stop) = (Answers::default(), CancellationToken::new());
    let broken = Arc::new(AtomicBool::new(true));
    let (answer, breaks) = (answer(Arc::clone(&answers)), Arc::clone(&broken));
    let handler: Handler = Arc::new(move |recorded| {
        if breaks.load(Ordering::SeqCst) {
            return Box::pin(async { Err(Retry::message("broken")) });
        }
        answer(recorded)
    });
    let consumer = consumer(&rig.server.url()).await;
    let parking = consumer.parking.clone();
    let running =
        tokio::spawn(Consumer { policy: "park:1".parse().unwrap(), ..consumer }.run(handler, stop.clone()));
    // Recorded early, unless the server is held up: then the next one is.
    for _ in 0..10 {
        broken.store(true, Ordering::SeqCst);
        answers.lock().unwrap().clear();
        let (one, at) = (order(), soonish(1000));
        rig.store.append(vec![fact(one, 0, command()), timer(one, at)]).await.unwrap();
        let subject = Aggregate::Timer.subject(one);
        let id = DeadLetterId::of(DURABLE, subject.as_str());
        until("it is parked", async || parking.get(DURABLE, id).await.unwrap().is_some()).await;
        let letter = parking.get(DURABLE, id).await.unwrap().unwrap().value;
        let stored = rig.store.last(&subject).await.unwrap().unwrap().stored;
        broken.store(false, Ordering::SeqCst);
        let asked = Clock::system().now();
        crate::parking::retry(&rig, &letter).await;
        until("it is answered", async || !answers.lock().unwrap().is_empty()).await;
        let early = at.duration_since(stored);
        let took = answers.lock().unwrap()[0].0.duration_since(asked);
        if early.is_positive() {
            assert!(took >= early, "recorded {early:#} early and answered after {took:#}");
            stop.cancel();
            soon("stop", running).await.unwrap();
            return;
        }
    }
    panic!("no timer was recorded early");
}

/// How many messages whoever works has and has not acknowledged.
async fn held(rig: &Rig) -> usize {
    let stream = async_nats::jetstream::new(rig.client().await).get_stream("FULFILMENT").await.unwrap();
    let consumer = stream.get_consumer::<pull::Config>(DURABLE).await;
    let Ok(mut consumer) = consumer else { return 0 };
    consumer.info().await.unwrap().num_ack_pending
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timer_becomes_a_fact_shortly_before_it_is_due() {
    let rig = Rig::start().await;
    let (mut armed, mut before) = (Vec::new(), 0);
    for millis in [-5000, 5, 200, 400, 700, 900, 1100, 1300, 1500] {
        let (order, at) = (order(), soonish(millis));
        rig.store.append(vec![fact(order, 0, command()), timer(order, at)]).await.unwrap();
        armed.push((order, at));
    }
    until("all of them are due", async || due(&rig).await.len() == armed.len()).await;
    for message in due(&rig).await {
        let recorded = message.record().unwrap();
        let Fact::Timer(TimerEvent::Due(fact)) = recorded.fact else { panic!("{message:?}") };
        let (_, at) = armed.iter().find(|(order, _)| *order == fact.order_id).unwrap();
        assert_eq!(fact.at, *at);
        assert!(recorded.stored >= earliest(*at), "{} is before {at}", recorded.stored);
        assert_eq!(recorded.subject, Aggregate::Timer.subject(fact.order_id));
        before += usize::from(recorded.stored < *at);
    }
    // All that were armed in time, unless the server is held up.
    assert!(before > 0, "none of them stands there before it is due");
    assert_eq!(standing(&rig).await, 0, "what has fired is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timer_that_is_armed_again_replaces_the_one_before() {
    let rig = Rig::start().await;
    let (one, at) = (order(), soonish(4000));
    let first = rig.store.append(vec![fact(one, 0, command()), timer(one, soonish(3000))]).await.unwrap();
    rig.store.append(vec![fact(one, first.first, command()), timer(one, at)]).await.unwrap();
    assert_eq!(standing(&rig).await, 1);
    until("it is due", async || !due(&rig).await.is_empty()).await;
    let all = due(&rig).await;
    assert_eq!(all.len(), 1);
    assert!(all[0].stored >= earliest(at));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timer_is_cancelled_with_the_fact_that_makes_it_needless() {
    let rig = Rig::start().await;
    let (one, other, late) = (order(), order(), soonish(3000));
    let mut firsts = Vec::new();
    for order in [one, other] {
        let appended = rig.store.append(vec![fact(order, 0, command()), timer(order, late)]).await.unwrap();
        firsts.push(appended.first);
    }
    // Alone, which is a plain publish.
    rig.store.append(vec![fact(one, firsts[0], command()).cancelling(&name(one))]).await.unwrap();
    assert_eq!(standing(&rig).await, 1);
    until("the other one is due", async || due(&rig).await.len() == 1).await;
    // What has fired, and what never was, does not matter.
    let last = rig.store.last(&hold(other)).await.unwrap().unwrap().position.sequence;
    rig.store.append(vec![fact(other, last, command()).cancelling(&name(other))]).await.unwrap();
    let never = order();
    rig.store.append(vec![fact(never, 0, command()).cancelling(&name(never))]).await.unwrap();
    assert_eq!((due(&rig).await.len(), facts(&rig).await.len()), (1, 6));
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_guard_fails_nothing_is_armed_and_nothing_cancelled() {
    let rig = Rig::start().await;
    let (one, other) = (order(), order());
    let refused = rig.store.append(vec![fact(one, 7, command()), timer(one, soonish(10))]).await;
    assert!(matches!(refused, Err(AppendError::Conflict)), "{refused:?}");
    rig.store.append(vec![fact(other, 0, command()), timer(other, soonish(400))]).await.unwrap();
    let stale = fact(other, 0, command()).cancelling(&name(other));
    assert!(matches!(rig.store.append(vec![stale]).await, Err(AppendError::Conflict)));
    let stale = vec![fact(other, 0, command()).cancelling(&name(other)), fact(one, 0, command())];
    assert!(matches!(rig.store.append(stale).await, Err(AppendError::Conflict)));
    until("the timer that stands is due", async || !due(&rig).await.is_empty()).await;
    let recorded = due(&rig).await;
    assert_eq!(recorded.len(), 1);
    assert_eq!(recorded[0].subject, Aggregate::Timer.subject(other));
}

/// Many at once share batches; each is found again after its answer was lost, though its timer may be gone by then.
#[tokio::test(flavor = "multi_thread")]
async fn appends_with_timers_are_told_apart_like_all_others() {
    let rig = Rig::start().await;
    let orders: Vec<_> = (0..200).map(|_| (order(), command())).collect();
    let append =
        |(of, id): &(OrderId, CommandId)| rig.store.append(vec![fact(*of, 0, *id), timer(*of, soonish(20))]);
    let first = join_all(orders.iter().map(append)).await;
    let positions: Vec<u64> = first.into_iter().map(|appended| appended.unwrap().first).collect();
    for ((of, _), sequence) in orders.iter().zip(&positions) {
        let last = rig.store.last(&hold(*of)).await.unwrap().unwrap();
        assert_eq!(last.position, Position { context: Context::Fulfilment, sequence: *sequence });
    }
    until("all of them are due", async || due(&rig).await.len() == orders.len()).await;
    for ((of, id), sequence) in orders.iter().zip(&positions) {
        let again = rig.store.append(vec![fact(*of, 0, *id), timer(*of, soonish(60_000))]).await.unwrap();
        assert_eq!((again.first, again.duplicate), (*sequence, true));
    }
    assert_eq!(standing(&rig).await, 0, "what was repeated has armed nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn timers_survive_the_server_and_fire_when_it_is_back() {
    let rig = Rig::start().await;
    let (one, other) = (order(), order());
    let soon = soonish(100);
    let later = soonish(3000);
    rig.store.append(vec![fact(one, 0, command()), timer(one, soon)]).await.unwrap();
    rig.store.append(vec![fact(other, 0, command()), timer(other, later)]).await.unwrap();
    rig.server.kill().await;
    rig.connected().await;
    let all = async || match tokio::time::timeout(DEADLINE, due(&rig)).await {
        Ok(due) => due.len() == 2,
        Err(_) => false,
    };
    until("both are due", all).await;
    for message in due(&rig).await {
        let at = if message.subject == Aggregate::Timer.subject(one) { soon } else { later };
        assert!(message.stored >= earliest(at), "{} is before {at}", message.stored);
    }
}
