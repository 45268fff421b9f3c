//! Timers: what it takes to have very many of them armed, how fast they are armed, and how late whoever answers them is
//! called.

use super::{
    Scale,
    load::{self, Sample},
    report::{Case, Report},
    stage::{Stage, metadata, resident_mib},
};
use crate::failure::Failure;
use commands::{Decision, Executor, Key, fulfilment};
use events::{AccountId, Aggregate, Context, Fact, OrderId, fulfilment::TimerEvent};
use jiff::{SignedDuration, Timestamp};
use nats::{
    Consumer, ConsumerMetrics, Durability, EventStore, Handler, Manner, Parking, Policy, StoreOptions,
};
use service::Clock;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Timers that stand and do not fire.
const ARMED: u64 = 100_000;
/// Timers that fire in a second.
const RATE: u64 = 1000;
/// Timers that fire.
const FIRING: u64 = 20_000;
const CALLERS: usize = 256;
/// How long the last one may be late before it counts as lost.
const LOST: Duration = Duration::from_mins(1);

/// Each timer is armed as in operation: in one atomic batch with the fact it belongs to, that stock is held.
pub(super) async fn measure(
    durability: Durability,
    scale: Scale,
    report: &mut Report,
) -> Result<(), Failure> {
    let stage = Stage::open(durability).await?;
    let executor = stage.executor(Context::Fulfilment);
    let server = stage.server.pid().unwrap_or_default();
    let memory = || (resident_mib(server), resident_mib(std::process::id()));
    let case = Case { bench: "timers", durability, callers: CALLERS };
    let (before, count) = (memory(), scale.of(ARMED));
    let never = stage.clock.now() + SignedDuration::from_hours(24);
    let armed = arm(&executor, &stage.clock, count, move |_| never).await?;
    let per_second = report.add(case, "armed with their fact", &[armed], None);
    let after = memory();
    for (whose, before, after) in [("nats-server", before.0, after.0), ("this process", before.1, after.1)] {
        if let (Some(before), Some(after)) = (before, after) {
            let name = format!("resident memory of {whose} before {count} timers, {durability}");
            report.figure("timers", name, before, "MiB", "");
            report.figure("timers", format!("the same with {count} timers"), after, "MiB", "");
        }
    }

    let count = scale.of(FIRING);
    // Armed with time to spare, so that all stand before the first fires.
    #[expect(clippy::cast_precision_loss, reason = "a count of timers is far below 2^52")]
    let lead = Duration::from_secs_f64(2.0 * count as f64 / per_second) + Duration::from_secs(2);
    let first = stage.clock.now() + lead;
    let (consumer, stop) = (answering(&stage).await?, CancellationToken::new());
    let (told, heard) = mpsc::unbounded_channel();
    let answering = tokio::spawn(consumer.run(handler(&stage.clock, told), stop.clone()));
    let at = move |number: u64| first + Duration::from_nanos(number * 1_000_000_000 / RATE);
    arm(&executor, &stage.clock, count, at).await?;
    if stage.clock.now() > first {
        return Err("the first timers fired before the last ones were armed: the machine is busy".into());
    }
    let within = lead + at(count).duration_since(first).unsigned_abs() + LOST;
    let answered = tokio::time::timeout(within, answered(heard, count, first));
    let answered = answered.await.map_err(|_| "not every timer has fired")??;
    let case = Case { callers: 1, ..case };
    let late = answered.millis(0.99);
    report.add(case, format!("until the handler is called, late, {RATE}/s fire"), &[answered], None);
    report.figure(
        "timers",
        format!("p99 of lateness until the handler is called, {durability}"),
        late,
        "ms",
        "below 100",
    );
    stop.cancel();
    answering.await?;
    stage.close().await;
    Ok(())
}

/// A consumer like the one that answers the timers of sagas.
async fn answering(stage: &Stage) -> Result<Consumer, Failure> {
    let (connection, clock) = (stage.connection.clone(), stage.clock.clone());
    let store = EventStore::new(&connection, StoreOptions::default());
    let consumer = Consumer {
        parking: Parking::open(&connection, store, clock, 1).await?,
        connection,
        service: "bench",
        context: Context::Fulfilment,
        durable: "bench-timers".to_owned(),
        interests: &["timer.due"],
        only: Some(Aggregate::Timer),
        lag: Duration::ZERO,
        manner: Manner::React,
        policy: Policy::Retry,
        metrics: ConsumerMetrics::default(),
    };
    consumer.ensure().await?;
    Ok(consumer)
}

/// Tells what a timer was set to, and when whoever answers it is called.
fn handler(clock: &Clock, told: mpsc::UnboundedSender<(Timestamp, Timestamp)>) -> Handler {
    let clock = clock.clone();
    Arc::new(move |recorded| {
        let (now, told) = (clock.now(), told.clone());
        Box::pin(async move {
            if let Fact::Timer(TimerEvent::Due(due)) = recorded.fact {
                // Nobody listens any more once all were heard.
                let _ = told.send((due.at, now));
            }
            Ok("answered")
        })
    })
}

/// Arms timers of as many orders, each for the time that its number gives.
async fn arm(
    executor: &Executor,
    clock: &Clock,
    count: u64,
    at: impl Fn(u64) -> Timestamp + Clone + Send + Sync + 'static,
) -> Result<Sample, Failure> {
    let failures = Arc::new(AtomicU64::new(0));
    let (executor, clock, failed) = (executor.clone(), clock.clone(), Arc::clone(&failures));
    let sample = load::run(CALLERS, count, move |number| {
        let (executor, metadata, failed) = (executor.clone(), metadata(&clock), Arc::clone(&failed));
        let (order_id, until) = (OrderId::new(clock.uuid()), at(number));
        async move {
            let account_id = AccountId::new(Uuid::nil());
            let hold = fulfilment::HoldCommand::Start { order_id, account_id, until };
            let run = move |decision: &mut Decision| fulfilment::keep(decision, order_id, hold);
            let keys = vec![Key::<fulfilment::Hold>::new(order_id).likely_new()];
            if executor.execute(keys, metadata, run).await.is_err() {
                failed.fetch_add(1, Ordering::Relaxed);
            }
        }
    })
    .await;
    super::commands::none_failed(&failures)?;
    Ok(sample)
}

/// How late whoever answers timers is called.
async fn answered(
    mut heard: mpsc::UnboundedReceiver<(Timestamp, Timestamp)>,
    count: u64,
    first: Timestamp,
) -> Result<Sample, Failure> {
    let mut sample = Sample::of(count, Duration::ZERO);
    for _ in 0..count {
        let (at, now) = heard.recv().await.ok_or("nobody hears of timers any more")?;
        let late = now.duration_since(at);
        if late.is_negative() {
            return Err(format!("the handler of a timer was called {late:#} early").into());
        }
        sample.note(late.unsigned_abs());
        sample.elapsed = now.duration_since(first).unsigned_abs();
    }
    Ok(sample)
}
