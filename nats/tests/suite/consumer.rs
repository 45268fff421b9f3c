//! Consumers: everything is handled at least once, in order per aggregate, whatever dies meanwhile.

use crate::rig::{DEADLINE, Rig, becomes, command, event, item, soon, until};
use async_nats::jetstream;
use events::{Aggregate, Context, Subject};
use nats::{Consumer, ConsumerMetrics, Handler, Manner, Parking, Policy, Recorded, Retry};
use prometheus_client::{encoding::text::encode, registry::Registry};
use service::Clock;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

const DURABLE: &str = "test-inventory";

async fn consumer(rig: &Rig, metrics: &ConsumerMetrics) -> Consumer {
    let (store, clock) = (rig.store.clone(), Clock::system());
    Consumer {
        policy: Policy::Retry,
        parking: Parking::open(&rig.connection, store, clock, 1).await.unwrap(),
        connection: rig.connection.clone(),
        service: "test",
        context: Context::Inventory,
        durable: DURABLE.to_owned(),
        interests: &["stock.received"],
        only: None,
        lag: std::time::Duration::ZERO,
        manner: Manner::React,
        metrics: metrics.clone(),
    }
}

/// What was handled, in the order in which it was done.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<(Subject, u64)>>>);

impl Seen {
    fn note(&self, recorded: &Recorded) {
        self.0.lock().unwrap().push((recorded.subject.clone(), recorded.envelope.version));
    }

    fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    /// The versions of an aggregate, each where it was first seen.
    fn versions(&self, of: &Subject) -> Vec<u64> {
        let mut versions = Vec::new();
        for (_, version) in self.0.lock().unwrap().iter().filter(|(subject, _)| subject == of) {
            if !versions.contains(version) {
                versions.push(*version);
            }
        }
        versions
    }
}

fn handler<F: Future<Output = Result<&'static str, Retry>> + Send + 'static>(
    handle: impl Fn(Recorded) -> F + Send + Sync + 'static,
) -> Handler {
    Arc::new(move |recorded| Box::pin(handle(recorded)))
}

/// So many events of each item, taking turns.
async fn fill(rig: &Rig, items: &[Subject], from: u64, to: u64) {
    for version in from..=to {
        for of in items {
            let last = rig.store.last(of).await.unwrap().map_or(0, |message| message.position.sequence);
            rig.store.append(vec![event(of, Some(last), command(), 0, version, None)]).await.unwrap();
        }
    }
}

async fn unacknowledged(rig: &Rig) -> (usize, u64) {
    let jetstream = jetstream::new(rig.client().await);
    let consumer: jetstream::consumer::PullConsumer =
        jetstream.get_consumer_from_stream(DURABLE, "INVENTORY").await.unwrap();
    let info = consumer.cached_info();
    (info.num_ack_pending, info.num_pending)
}

#[tokio::test(flavor = "multi_thread")]
async fn order_holds_per_aggregate_and_aggregates_run_side_by_side() {
    let rig = Rig::start().await;
    let items: Vec<Subject> = (0..10).map(|_| item()).collect();
    fill(&rig, &items, 1, 10).await;
    let (seen, together) = (Seen::default(), Arc::new(tokio::sync::Barrier::new(10)));
    let handle = {
        let seen = seen.clone();
        handler(move |recorded| {
            let (seen, together) = (seen.clone(), Arc::clone(&together));
            async move {
                // Ten aggregates at once get here, or nobody does.
                together.wait().await;
                seen.note(&recorded);
                Ok("done")
            }
        })
    };
    let stop = CancellationToken::new();
    let running = tokio::spawn(consumer(&rig, &ConsumerMetrics::default()).await.run(handle, stop.clone()));
    until("all are handled", async || seen.count() == 100).await;
    for of in &items {
        assert_eq!(seen.versions(of), (1..=10).collect::<Vec<_>>());
    }
    until("all are acknowledged", async || unacknowledged(&rig).await == (0, 0)).await;
    stop.cancel();
    soon("stop", running).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_finished_comes_again() {
    let rig = Rig::start().await;
    let of = item();
    fill(&rig, std::slice::from_ref(&of), 1, 1).await;
    let entered = Arc::new(Notify::new());
    let endless = {
        let entered = Arc::clone(&entered);
        handler(move |_| {
            let entered = Arc::clone(&entered);
            async move {
                entered.notify_one();
                std::future::pending().await
            }
        })
    };
    // A runtime of its own dies as a process does: with everything that runs in it.
    let dying = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let stop = CancellationToken::new();
    dying.spawn(consumer(&rig, &ConsumerMetrics::default()).await.run(endless, stop.clone()));
    soon("the handler has it", entered.notified()).await;
    dying.shutdown_background();
    assert_eq!(unacknowledged(&rig).await.0, 1, "not acknowledged before it is done");
    let seen = Seen::default();
    let handle = {
        let seen = seen.clone();
        handler(move |recorded| {
            let seen = seen.clone();
            async move {
                seen.note(&recorded);
                Ok("done")
            }
        })
    };
    let running = tokio::spawn(consumer(&rig, &ConsumerMetrics::default()).await.run(handle, stop.clone()));
    until("it came again", async || seen.count() == 1).await;
    stop.cancel();
    soon("stop", running).await.unwrap();
}

/// One aggregate's reaction fails, or panics: it waits, counted, and no other does.
#[tokio::test(flavor = "multi_thread")]
async fn a_poisoned_aggregate_waits_alone() {
    let rig = Rig::start().await;
    let items: Vec<Subject> = (0..4).map(|_| item()).collect();
    fill(&rig, &items, 1, 5).await;
    let (seen, healed) = (Seen::default(), Arc::new(Mutex::new(false)));
    let handle = {
        let (seen, healed, failing, panicking) =
            (seen.clone(), Arc::clone(&healed), items[0].clone(), items[1].clone());
        handler(move |recorded| {
            let poisoned = !*healed.lock().unwrap() && recorded.envelope.version == 2;
            let (fails, panics) = (recorded.subject == failing, recorded.subject == panicking);
            let seen = seen.clone();
            async move {
                if poisoned && fails {
                    return Err(Retry::message("poisoned"));
                }
                if poisoned && panics {
                    // As a panic, without its message in the output.
                    std::panic::resume_unwind(Box::new("poisoned"));
                }
                seen.note(&recorded);
                Ok("done")
            }
        })
    };
    let (stop, metrics) = (CancellationToken::new(), ConsumerMetrics::default());
    let running = tokio::spawn(consumer(&rig, &metrics).await.run(handle, stop.clone()));
    until("the others are through", async || {
        seen.versions(&items[2]).len() == 5 && seen.versions(&items[3]).len() == 5
    })
    .await;
    let mut registry = Registry::default();
    metrics.register(&mut registry);
    let failures = || {
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        let line = text.lines().find(|line| line.starts_with("waybill_reaction_failures_total{"));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).unwrap_or(0)
    };
    until("failures are counted", async || failures() >= 4).await;
    for poisoned in &items[..2] {
        assert_eq!(seen.versions(poisoned), [1]);
    }
    *healed.lock().unwrap() = true;
    until("the poisoned ones go on", async || seen.count() >= 20).await;
    for of in &items {
        assert_eq!(seen.versions(of), [1, 2, 3, 4, 5]);
    }
    stop.cancel();
    soon("stop", running).await.unwrap();
}

/// It cannot be known to be of no interest, so it is not acknowledged unread: its aggregate waits and is counted.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_without_a_type_is_poisoned_and_not_skipped() {
    let rig = Rig::start().await;
    let (bare, other) = (item(), item());
    let context = jetstream::new(rig.client().await);
    context.publish(bare.to_string(), "{}".into()).await.unwrap().await.unwrap();
    fill(&rig, std::slice::from_ref(&other), 1, 3).await;
    let seen = Seen::default();
    let handle = {
        let seen = seen.clone();
        handler(move |recorded| {
            let seen = seen.clone();
            async move {
                seen.note(&recorded);
                Ok("done")
            }
        })
    };
    let (stop, metrics) = (CancellationToken::new(), ConsumerMetrics::default());
    let running = tokio::spawn(consumer(&rig, &metrics).await.run(handle, stop.clone()));
    let mut registry = Registry::default();
    metrics.register(&mut registry);
    let counted = || {
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        text.lines().any(|line| line.starts_with("waybill_reaction_failures_total{"))
    };
    until("it is counted", async || counted()).await;
    until("the other is through", async || seen.versions(&other).len() == 3).await;
    stop.cancel();
    soon("stop", running).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_consumer_and_a_killed_server_are_survived() {
    let rig = Rig::start().await;
    let items: Vec<Subject> = (0..3).map(|_| item()).collect();
    fill(&rig, &items, 1, 2).await;
    let seen = Seen::default();
    let handle = {
        let seen = seen.clone();
        handler(move |recorded| {
            let seen = seen.clone();
            async move {
                seen.note(&recorded);
                Ok("done")
            }
        })
    };
    let stop = CancellationToken::new();
    let running = tokio::spawn(consumer(&rig, &ConsumerMetrics::default()).await.run(handle, stop.clone()));
    let through = async |version: u64| {
        until("through", async || items.iter().all(|of| seen.versions(of).last() == Some(&version))).await;
    };
    through(2).await;
    jetstream::new(rig.client().await).delete_consumer_from_stream(DURABLE, "INVENTORY").await.unwrap();
    fill(&rig, &items, 3, 4).await;
    through(4).await;
    rig.server.kill().await;
    assert!(rig.server.ready(DEADLINE).await);
    rig.connected().await;
    fill(&rig, &items, 5, 6).await;
    through(6).await;
    for of in &items {
        assert_eq!(seen.versions(of), [1, 2, 3, 4, 5, 6]);
    }
    stop.cancel();
    soon("stop", running).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_share_the_work_and_stopping_finishes_what_runs() {
    let rig = Rig::start().await;
    let items: Vec<Subject> = (0..60).map(|_| item()).collect();
    let counts: Arc<Mutex<HashMap<(usize, Subject), usize>>> = Arc::default();
    let (gate, stop) = (Arc::new(Semaphore::new(0)), CancellationToken::new());
    let both = [
        consumer(&rig, &ConsumerMetrics::default()).await,
        consumer(&rig, &ConsumerMetrics::default()).await,
    ];
    let workers: Vec<_> = both
        .into_iter()
        .enumerate()
        .map(|(worker, consumer)| {
            let (counts, gate) = (Arc::clone(&counts), Arc::clone(&gate));
            let handle = handler(move |recorded| {
                *counts.lock().unwrap().entry((worker, recorded.subject)).or_default() += 1;
                let gate = Arc::clone(&gate);
                async move {
                    gate.acquire().await.unwrap().forget();
                    Ok("done")
                }
            });
            tokio::spawn(consumer.run(handle, stop.clone()))
        })
        .collect();
    let of = |worker: usize| counts.lock().unwrap().keys().filter(|(by, _)| *by == worker).count();
    until("both wait for work", async || {
        let jetstream = jetstream::new(rig.client().await);
        let found: Result<jetstream::consumer::PullConsumer, _> =
            jetstream.get_consumer_from_stream(DURABLE, "INVENTORY").await;
        found.is_ok_and(|consumer| consumer.cached_info().num_waiting >= 2)
    })
    .await;
    fill(&rig, &items, 1, 1).await;
    until("all are under way", async || of(0) + of(1) == 60).await;
    assert!(of(0) > 0 && of(1) > 0, "{} and {}", of(0), of(1));
    stop.cancel();
    assert!(!workers.iter().any(tokio::task::JoinHandle::is_finished), "what runs is finished first");
    gate.add_permits(60);
    for worker in workers {
        soon("stop", worker).await.unwrap();
    }
    until("all are acknowledged", async || unacknowledged(&rig).await == (0, 0)).await;
    assert!(counts.lock().unwrap().values().all(|count| *count == 1), "each was handled once");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_tells_begins_now_and_what_fails_comes_again_later_without_holding_up_the_next() {
    let rig = Rig::start().await;
    let of = item();
    fill(&rig, std::slice::from_ref(&of), 1, 2).await;
    let metrics = ConsumerMetrics::default();
    let manner = Manner::Tell {
        first: std::time::Duration::from_millis(200),
        last: std::time::Duration::from_secs(1),
    };
    let telling = Consumer { manner, ..consumer(&rig, &metrics).await };
    telling.ensure().await.unwrap();
    fill(&rig, std::slice::from_ref(&of), 3, 4).await;
    let (seen, refused) = (Seen::default(), Arc::new(Mutex::new(0)));
    let handle = {
        let (seen, refused) = (seen.clone(), Arc::clone(&refused));
        handler(move |recorded| {
            let mut refused = refused.lock().unwrap();
            let refuse = recorded.envelope.version == 3 && *refused < 3;
            *refused += i32::from(refuse);
            if !refuse {
                seen.note(&recorded);
            }
            async move { if refuse { Err(Retry::world("not now")) } else { Ok("done") } }
        })
    };
    let stop = CancellationToken::new();
    let running = tokio::spawn(telling.run(handle, stop.clone()));
    until("both are told", async || seen.count() == 2).await;
    assert_eq!(seen.versions(&of), [4, 3], "not what was before, and the second did not wait for the first");
    assert_eq!(*refused.lock().unwrap(), 3);
    until("all are acknowledged", async || unacknowledged(&rig).await == (0, 0)).await;
    stop.cancel();
    soon("stop", running).await.unwrap();
}

/// The consumer of holds: whatever it takes it takes late, and there may be more than may be in flight.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_young_waits_and_nothing_behind_it_is_missed() {
    const MANY: usize = 1500;
    let rig = Rig::start().await;
    let (seen, early) = (Seen::default(), Arc::new(Mutex::new(Vec::new())));
    let lag = std::time::Duration::from_secs(2);
    let handle = {
        let (seen, early) = (seen.clone(), Arc::clone(&early));
        handler(move |recorded| {
            let age = Clock::system().now().duration_since(recorded.stored);
            if age < lag.try_into().unwrap() {
                early.lock().unwrap().push(age);
            }
            seen.note(&recorded);
            async { Ok("done") }
        })
    };
    let stop = CancellationToken::new();
    let late = Consumer { lag, ..consumer(&rig, &ConsumerMetrics::default()).await };
    let running = tokio::spawn(late.run(handle, stop.clone()));
    let items: Vec<Subject> = (0..MANY).map(|_| item()).collect();
    let filling = items.iter().map(|of| fill(&rig, std::slice::from_ref(of), 1, 1));
    futures::future::join_all(filling).await;
    until("all are handled", async || seen.count() >= MANY).await;
    assert!(items.iter().all(|of| seen.versions(of) == [1]));
    assert!(early.lock().unwrap().is_empty(), "too early: {early:?}");
    stop.cancel();
    soon("stop", running).await.unwrap();
}

/// Who wants one kind of aggregate is sent no other.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_asked_for_is_not_delivered() {
    let rig = Rig::start().await;
    let of = item();
    fill(&rig, std::slice::from_ref(&of), 1, 3).await;
    let seen = Seen::default();
    let handle = || {
        let seen = seen.clone();
        handler(move |recorded| {
            seen.note(&recorded);
            async { Ok("done") }
        })
    };
    let of_products =
        Consumer { only: Some(Aggregate::Product), ..consumer(&rig, &ConsumerMetrics::default()).await };
    let of_items =
        Consumer { only: Some(Aggregate::Item), durable: "test-items".to_owned(), ..of_products.clone() };
    let stop = CancellationToken::new();
    let running = [of_products, of_items].map(|consumer| tokio::spawn(consumer.run(handle(), stop.clone())));
    until("all are handled", async || seen.count() == 3).await;
    assert_eq!(unacknowledged(&rig).await, (0, 0), "nothing was delivered to who wants products");
    stop.cancel();
    for running in running {
        soon("stop", running).await.unwrap();
    }
}

/// What is held up is seen although nothing is delivered, and also by who was never sent anything.
#[tokio::test(flavor = "multi_thread")]
async fn how_many_wait_is_known_while_nothing_is_delivered() {
    /// As many as may be in hand.
    const TAKEN: usize = 1024;
    const BEHIND: usize = 150;
    let rig = Rig::start().await;
    let (gate, entered) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let handle = {
        let (gate, entered) = (Arc::clone(&gate), Arc::clone(&entered));
        handler(move |_| {
            let (gate, entered) = (Arc::clone(&gate), Arc::clone(&entered));
            async move {
                entered.add_permits(1);
                gate.acquire().await.unwrap().forget();
                Ok("done")
            }
        })
    };
    let (stop, metrics) = (CancellationToken::new(), ConsumerMetrics::default());
    let running = tokio::spawn(consumer(&rig, &metrics).await.run(handle, stop.clone()));
    let mut registry = Registry::default();
    metrics.register(&mut registry);
    let shown = |metric: &str| {
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        let line = format!("{metric}{{durable=\"{DURABLE}\"}} ");
        text.lines().find_map(|found| found.strip_prefix(&line)?.parse::<usize>().ok())
    };
    let gauges = async || (shown("waybill_consumer_lag"), shown("waybill_consumer_in_flight"));
    becomes("before the first message", &(Some(0), Some(0)), gauges).await;
    let more = async |count: usize| {
        let items: Vec<Subject> = (0..count).map(|_| item()).collect();
        let filling = items.iter().map(|of| fill(&rig, std::slice::from_ref(of), 1, 1));
        futures::future::join_all(filling).await;
    };
    more(TAKEN).await;
    soon("all are taken", entered.acquire_many(u32::try_from(TAKEN).unwrap())).await.unwrap().forget();
    more(BEHIND).await;
    becomes("while all are held up", &(Some(BEHIND), Some(TAKEN)), gauges).await;
    gate.add_permits(TAKEN + BEHIND);
    becomes("when all are done", &(Some(0), Some(0)), gauges).await;
    stop.cancel();
    soon("stop", running).await.unwrap();
}
