//! Events into a read model, beside consuming and parsing the same stream without doing anything with it.

use super::{
    Scale,
    commands::{Ask, ask_all},
    load::Sample,
    report::{Case, Report, ratio},
    stage::Stage,
};
use crate::failure::Failure;
use events::{Context, Position};
use nats::{Durability, baseline};
use projections::{ProjectionMetrics, Projections, Rebuilds, View, database::Storage};
use service::{Metrics, Shutdown};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// Two events each.
const ORDERS: u64 = 50_000;

/// Reading does not depend on when the server syncs, so one profile is enough.
pub(super) async fn measure(
    durability: Durability,
    scale: Scale,
    report: &mut Report,
) -> Result<(), Failure> {
    if durability == Durability::Always {
        return Ok(());
    }
    let stage = Stage::open(durability).await?;
    let executor = stage.executor(Context::Orders);
    let ids = Arc::new((0..scale.of(ORDERS)).map(|_| stage.clock.uuid()).collect());
    ask_all(&stage, &executor, 256, &ids, Ask::Create).await?;
    ask_all(&stage, &executor, 256, &ids, Ask::Append).await?;
    let (mut raw, mut projected) = (vec![], vec![]);
    for round in 0..scale.rounds {
        let started = Instant::now();
        let events = baseline::consume_json(&stage.connection, Context::Orders).await?;
        raw.push(Sample::of(events, started.elapsed()));
        projected.push(project(&stage, events, round).await?);
    }
    let case = Case { bench: "projection", durability, callers: 1 };
    report.add(case, "raw consume and JSON", &raw, None);
    report.add(case, "into SQLite (orders)", &projected, Some(ratio(&projected, &raw, "raw", Some(0.6))));
    stage.close().await;
    Ok(())
}

/// Builds the read model of orders from nothing.
async fn project(stage: &Stage, events: u64, round: usize) -> Result<Sample, Failure> {
    let view = View::of("orders").ok_or("orders have no read model")?;
    let (metrics, shutdown) = (Metrics::new(), Shutdown::new());
    let storage = Storage::Sqlite(stage.folder.path().join(format!("views-{round}")));
    let started = Instant::now();
    let counters = ProjectionMetrics::new(&metrics);
    let clock = stage.clock.clone();
    let feed = projections::Feed {
        connection: stage.connection.clone(),
        parking: None,
        read_models: None,
        rebuilds: Rebuilds::default(),
        outlet: None,
    };
    let running = Projections::start(view, &feed, &storage, clock, &metrics, counters, &shutdown).await?;
    let last = Position { context: Context::Orders, sequence: events };
    let mut progress = running.progress();
    progress.wait_for(|progress| progress.has(last) == Some(true)).await?;
    let sample = Sample::of(events, started.elapsed());
    shutdown.drain(Duration::from_secs(5)).await;
    Ok(sample)
}
