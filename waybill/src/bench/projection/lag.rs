//! How far behind a live read model is while events come in: at half of what the whole takes at most.

use super::{Place, fold};
use crate::{
    bench::{
        Scale,
        commands::{Ask, ask_all},
        load::Sample,
        report::Report,
        stage::{Stage, metadata, placement},
    },
    failure::Failure,
};
use commands::{
    Executor, Key,
    orders::{Order, OrderCommand},
};
use events::{Context, Position};
use nats::Durability;
use projections::Progress;
use service::Shutdown;
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{sync::watch, task::JoinSet};
use tokio_util::task::AbortOnDropHandle;

/// Orders that show what the whole takes at most, and seconds at half of that.
const ORDERS: u64 = 50_000;
const SECONDS: u64 = 10;
/// How often a second those are asked whose time has come.
const TICKS: u32 = 500;

/// Saturates one log and one read model, then measures at half of that rate.
pub(super) async fn measure(place: &Place, scale: Scale, report: &mut Report) -> Result<(), Failure> {
    let stage = Stage::open(Durability::Interval).await?;
    let (storage, shutdown) = (place.storage().await?, Shutdown::new());
    let running = fold::start(&stage, &storage, &shutdown).await?;
    let executor = stage.executor(Context::Orders);
    let ids = Arc::new((0..scale.of(ORDERS)).map(|_| stage.clock.uuid()).collect::<Vec<_>>());
    let started = Instant::now();
    ask_all(&stage, &executor, 256, &ids, Ask::Create).await?;
    let last = Position { context: Context::Orders, sequence: ids.len() as u64 };
    running.progress().wait_for(|progress| progress.has(last) == Some(true)).await?;
    let full = Sample::of(last.sequence, started.elapsed()).rate();
    let seconds = if scale.rounds == 1 { 2 } else { SECONDS };
    let sample = at(&stage, &executor, running.progress(), full / 2.0, seconds).await?;
    let name = place.name();
    report.figure("projection", format!("{name}: recorded and projected at most"), full, "events/s", "");
    let half = format!("{name}: lag at {:.0} events/s", sample.rate());
    report.figure("projection", format!("{half}, p50"), sample.millis(0.5), "ms", "");
    report.figure("projection", format!("{half}, p99"), sample.millis(0.99), "ms", "under 100");
    shutdown.drain(Duration::from_secs(5)).await;
    stage.close().await;
    Ok(())
}

/// Records orders at a steady rate: how long each took from the acknowledgement of the log into the tables.
async fn at(
    stage: &Stage,
    executor: &Executor,
    progress: watch::Receiver<Progress>,
    rate: f64,
    seconds: u64,
) -> Result<Sample, Failure> {
    let steps = Arc::new(Mutex::new(Vec::new()));
    let watching = AbortOnDropHandle::new(tokio::spawn(watch(progress.clone(), Arc::clone(&steps))));
    let mut pace = tokio::time::interval(Duration::from_secs(1) / TICKS);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    let (started, asked) = (Instant::now(), Arc::new(AtomicU64::new(0)));
    let mut asking = JoinSet::new();
    while started.elapsed() < Duration::from_secs(seconds) {
        pace.tick().await;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small count")]
        let due = (started.elapsed().as_secs_f64() * rate) as u64;
        while asked.load(Ordering::Relaxed) < due {
            asked.fetch_add(1, Ordering::Relaxed);
            let (executor, clock) = (executor.clone(), stage.clock.clone());
            asking.spawn(async move {
                let id = clock.uuid();
                let key = Key::<Order>::new(id);
                let run = move |decision: &mut commands::Decision| {
                    decision.apply(&key, OrderCommand::Place(Box::new(placement(id))))
                };
                let keys = vec![Key::<Order>::new(id).likely_new()];
                let receipt = executor.execute(keys, metadata(&clock), run).await?;
                Ok::<_, commands::ExecuteError>((receipt.position, Instant::now()))
            });
        }
    }
    let took = started.elapsed();
    let mut recorded = Vec::new();
    while let Some(one) = asking.join_next().await {
        recorded.push(one??);
    }
    let last = recorded.iter().map(|(position, _)| *position).max().ok_or("nothing was recorded")?;
    progress.clone().wait_for(|progress| progress.has(last) == Some(true)).await?;
    drop(watching);
    let mut steps = std::mem::take(&mut *steps.lock().unwrap_or_else(PoisonError::into_inner));
    // The last step may be seen by us first.
    steps.push((last.sequence, Instant::now()));
    let mut sample = Sample::of(recorded.len() as u64, took);
    for (position, acknowledged) in recorded {
        let step = steps.partition_point(|(sequence, _)| *sequence < position.sequence);
        if let Some((_, seen)) = steps.get(step) {
            sample.note(seen.saturating_duration_since(acknowledged));
        }
    }
    Ok(sample)
}

/// Notes how far the tables are, and since when.
async fn watch(mut progress: watch::Receiver<Progress>, steps: Arc<Mutex<Vec<(u64, Instant)>>>) {
    while progress.changed().await.is_ok() {
        let at = progress.borrow_and_update().stream(Context::Orders).map(|stream| stream.position.sequence);
        let mut steps = steps.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = at.filter(|at| steps.last().is_none_or(|(before, _)| before < at)) {
            steps.push((at, Instant::now()));
        }
    }
}
