//! One stream into the tables of orders, in each way that there is.

use super::Place;
use crate::{
    bench::{load::Sample, stage::Stage},
    failure::Failure,
};
use events::{Context, Position};
use nats::{Filter, From, Policy, Reader, Until};
use projections::{
    Changes, Feed, ProjectionMetrics, Projections, Rebuilds, View,
    database::{Database, Move, Storage},
};
use service::{Metrics, Shutdown};
use std::time::{Duration, Instant};

/// What they are folded into.
pub(super) fn orders() -> Result<&'static View, Failure> {
    Ok(View::of("orders").ok_or("orders have no read model")?)
}

/// A projector as a service runs it, on these tables.
pub(super) async fn start(
    stage: &Stage,
    storage: &Storage,
    shutdown: &Shutdown,
) -> Result<Projections, Failure> {
    let metrics = Metrics::new();
    let feed = Feed {
        connection: stage.connection.clone(),
        parking: None,
        policy: Policy::default(),
        read_models: None,
        rebuilds: Rebuilds::default(),
        outlet: None,
    };
    let (counters, clock) = (ProjectionMetrics::new(&metrics), stage.clock.clone());
    Ok(Projections::start(orders()?, &feed, storage, clock, &metrics, counters, shutdown).await?)
}

/// Tables that serve and have seen nothing yet.
pub(super) async fn live(stage: &Stage, place: &Place) -> Result<Storage, Failure> {
    let (storage, shutdown) = (place.storage().await?, Shutdown::new());
    let running = start(stage, &storage, &shutdown).await?;
    let here = Position { context: Context::Orders, sequence: 0 };
    running.progress().wait_for(|progress| progress.has(here) == Some(true)).await?;
    shutdown.drain(Duration::from_secs(5)).await;
    Ok(storage)
}

/// A service that finds so many events in the stream which its tables, that serve, do not have.
pub(super) async fn catch_up(stage: &Stage, storage: &Storage, events: u64) -> Result<Sample, Failure> {
    let shutdown = Shutdown::new();
    let started = Instant::now();
    let running = start(stage, storage, &shutdown).await?;
    let last = Position { context: Context::Orders, sequence: events };
    running.progress().wait_for(|progress| progress.has(last) == Some(true)).await?;
    let sample = Sample::of(events, started.elapsed());
    shutdown.drain(Duration::from_secs(5)).await;
    Ok(sample)
}

/// The tables built from nothing, indexes at the end.
pub(super) async fn rebuild(stage: &Stage, place: &Place, events: u64) -> Result<Sample, Failure> {
    let storage = place.storage().await?;
    let until = [Position { context: Context::Orders, sequence: events }]
        .into_iter()
        .chain(OTHERS.map(|context| Position { context, sequence: 0 }));
    let until: Vec<_> = until.collect();
    let rebuilt = projections::rebuild(orders()?, &stage.connection, &storage, &[], &until).await?;
    rebuilt.database.close().await;
    Ok(Sample::of(events, rebuilt.elapsed))
}

/// What orders read beside their own stream.
const OTHERS: [Context; 3] = [Context::Inventory, Context::Payments, Context::Shipping];

/// What a projection by the book does: each event, its rows and the checkpoint in a transaction of their own.
pub(super) async fn one_by_one(stage: &Stage, place: &Place, events: u64) -> Result<Sample, Failure> {
    let (view, storage) = (orders()?, place.storage().await?);
    let database = Database::open(&storage, view, 1).await?;
    let mut writer = database.writer().await?;
    let context = Context::Orders;
    let until = Until::Sequence(events);
    let mut reader = Reader::open(&stage.connection, context, From::Start, until, Filter::default()).await?;
    let started = Instant::now();
    let mut at = 0;
    loop {
        let batch = reader.next_batch(1000).await?;
        if batch.is_empty() {
            break;
        }
        for message in batch {
            let recorded = message.record()?;
            let (mut changes, to) = (Changes::default(), recorded.position.sequence);
            (view.project)(&recorded, &mut changes);
            writer.commit(changes, &[Move { context, from: at, to }]).await?;
            at = to;
        }
    }
    let sample = Sample::of(at, started.elapsed());
    drop(writer);
    database.close().await;
    Ok(sample)
}
