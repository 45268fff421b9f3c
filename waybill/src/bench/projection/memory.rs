//! What a read model takes from memory when the stream is long: tables that serve and have all of it to read, and tables that
//! are built from nothing.

use super::{Place, fold};
use crate::{
    bench::{
        commands::{Ask, ask_all},
        load::Sample,
        report::Report,
        stage::{Stage, resident_mib},
    },
    failure::Failure,
};
use events::Context;
use nats::Durability;
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio_util::task::AbortOnDropHandle;

/// Orders recorded at a time, of two events each.
const CHUNK: u64 = 50_000;
const EVERY: Duration = Duration::from_millis(100);

/// Records so many events, lets tables of orders that serve catch up with them, builds others from them, and says what this
/// process held meanwhile.
pub(super) async fn measure(places: &[Place], events: u64, report: &mut Report) -> Result<(), Failure> {
    let stage = Stage::open(Durability::Interval).await?;
    let mut live = Vec::new();
    for place in places {
        live.push(fold::live(&stage, place).await?);
    }
    let (mut left, executor) = (events.div_ceil(2), stage.executor(Context::Orders));
    while left > 0 {
        let ids = (0..left.min(CHUNK)).map(|_| stage.clock.uuid()).collect::<Vec<_>>();
        left -= ids.len() as u64;
        let ids = Arc::new(ids);
        ask_all(&stage, &executor, 256, &ids, Ask::Create).await?;
        ask_all(&stage, &executor, 256, &ids, Ask::Append).await?;
        eprintln!("{left} orders to record");
    }
    drop(executor);
    let events = 2 * events.div_ceil(2);
    for (place, storage) in places.iter().zip(&live) {
        watched(&format!("{}, live", place.name()), fold::catch_up(&stage, storage, events), report).await?;
        watched(&format!("{}, built anew", place.name()), fold::rebuild(&stage, place, events), report)
            .await?;
    }
    stage.close().await;
    Ok(())
}

/// What this process holds while something runs.
async fn watched(
    name: &str,
    running: impl Future<Output = Result<Sample, Failure>>,
    report: &mut Report,
) -> Result<(), Failure> {
    let held = Arc::new(Mutex::new(Vec::new()));
    let watching = AbortOnDropHandle::new(tokio::spawn(watch(Arc::clone(&held))));
    let sample = Box::pin(running).await?;
    drop(watching);
    let held = std::mem::take(&mut *held.lock().unwrap_or_else(PoisonError::into_inner));
    report.figure(
        "projection",
        format!("{name}: {} events at", sample.operations),
        sample.rate(),
        "events/s",
        "",
    );
    let highest = |part: &[f64]| part.iter().copied().fold(0.0, f64::max);
    let (tenth, whole) = (held.len() / 10, highest(&held));
    // The first tenth fills what is filled once.
    let before = highest(&held[..tenth.max(1).min(held.len())]);
    report.figure("projection", format!("{name}: memory at the most, first tenth"), before, "MiB", "");
    report.figure("projection", format!("{name}: memory at the most, all of it"), whole, "MiB", "flat");
    Ok(())
}

/// Notes what is resident.
async fn watch(held: Arc<Mutex<Vec<f64>>>) {
    let mut pace = tokio::time::interval(EVERY);
    loop {
        pace.tick().await;
        let Some(mib) = resident_mib(std::process::id()) else { return };
        held.lock().unwrap_or_else(PoisonError::into_inner).push(mib);
    }
}
