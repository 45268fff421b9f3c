//! Commands: (a) raw publishes, (b) the executor creating, appending to cached and to cold aggregates.

use super::{
    Scale, http,
    load::{self, Sample},
    report::{Case, Report, ratio},
    stage::{Stage, ask, placement},
};
use crate::failure::Failure;
use commands::orders::OrderCommand;
use events::{Aggregate, Context};
use nats::{Durability, baseline::Template};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use uuid::Uuid;

/// Callers at the same time.
const CALLERS: [usize; 3] = [16, 64, 256];

/// What group commit has to reach, and for how many callers.
fn aim(durability: Durability, callers: usize) -> Option<f64> {
    match (durability, callers) {
        (Durability::Interval, _) => Some(0.85),
        (Durability::Always, 256) => Some(1.5),
        (Durability::Always, _) => None,
    }
}

pub(super) async fn measure(
    durability: Durability,
    scale: Scale,
    report: &mut Report,
) -> Result<(), Failure> {
    let stage = Stage::open(durability).await?;
    let operations = scale.of(if durability == Durability::Always { 8_000 } else { 60_000 });
    for callers in CALLERS {
        let case = Case { bench: "commands", durability, callers };
        let (mut raw, mut create, mut append, mut cold) = (vec![], vec![], vec![], vec![]);
        for _ in 0..scale.rounds {
            raw.push(raw_publishes(&stage, callers, operations).await?);
            let ids: Arc<Vec<Uuid>> = Arc::new((0..operations).map(|_| stage.clock.uuid()).collect());
            let executor = stage.executor(Context::Orders);
            create.push(ask_all(&stage, &executor, callers, &ids, Ask::Create).await?);
            append.push(ask_all(&stage, &executor, callers, &ids, Ask::Append).await?);
            let ids: Arc<Vec<Uuid>> = Arc::new((0..operations).map(|_| stage.clock.uuid()).collect());
            ask_all(&stage, &executor, callers, &ids, Ask::Create).await?;
            executor.forget();
            cold.push(ask_all(&stage, &executor, callers, &ids, Ask::Append).await?);
        }
        let to = "(a)";
        report.add(case, "(a) raw publish, expecting", &raw, None);
        report.add(case, "(b) create", &create, Some(ratio(&create, &raw, to, aim(durability, callers))));
        report.add(
            case,
            "(b) append, cached",
            &append,
            Some(ratio(&append, &raw, to, aim(durability, callers))),
        );
        report.add(case, "(b) append, cold", &cold, Some(ratio(&cold, &raw, to, None)));
    }
    super::cold::measure(&stage, scale, report).await?;
    stage.close().await;
    http::measure(durability, scale, report).await
}

/// Plain async-nats: the bytes of an order, an expectation, a message id; awaited one by one.
pub(super) async fn raw_publishes(stage: &Stage, callers: usize, operations: u64) -> Result<Sample, Failure> {
    let executor = stage.executor(Context::Orders);
    let id = stage.clock.uuid();
    ask(&executor, &stage.clock, id, true, OrderCommand::Place(Box::new(placement(id)))).await;
    let template = Arc::new(Template::of(&stage.connection, &Aggregate::Order.subject(id)).await?);
    let (connection, clock) = (stage.connection.clone(), stage.clock.clone());
    let failures = Arc::new(AtomicU64::new(0));
    let failed = Arc::clone(&failures);
    let sample = load::run(callers, operations, move |_| {
        let (template, connection, clock) = (Arc::clone(&template), connection.clone(), clock.clone());
        let failed = Arc::clone(&failed);
        async move {
            let id = clock.uuid();
            let (subject, id) = (format!("evt.orders.order.{id}"), id.to_string());
            if template.publish(&connection, &subject, &id, 0).await.is_err() {
                failed.fetch_add(1, Ordering::Relaxed);
            }
        }
    })
    .await;
    none_failed(&failures)?;
    Ok(sample)
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Ask {
    Create,
    Append,
}

pub(super) async fn ask_all(
    stage: &Stage,
    executor: &commands::Executor,
    callers: usize,
    ids: &Arc<Vec<Uuid>>,
    what: Ask,
) -> Result<Sample, Failure> {
    let (executor, clock) = (executor.clone(), stage.clock.clone());
    let (failures, ids) = (Arc::new(AtomicU64::new(0)), Arc::clone(ids));
    let (failed, count) = (Arc::clone(&failures), ids.len() as u64);
    let sample = load::run(callers, count, move |number| {
        let (executor, clock, failed) = (executor.clone(), clock.clone(), Arc::clone(&failed));
        let id = usize::try_from(number).ok().and_then(|number| ids.get(number)).copied().unwrap_or_default();
        async move {
            let command = match what {
                Ask::Create => OrderCommand::Place(Box::new(placement(id))),
                Ask::Append => OrderCommand::Complete,
            };
            if !ask(&executor, &clock, id, matches!(what, Ask::Create), command).await {
                failed.fetch_add(1, Ordering::Relaxed);
            }
        }
    })
    .await;
    none_failed(&failures)?;
    Ok(sample)
}

/// A rate that counts failures would be a lie.
pub(super) fn none_failed(failures: &AtomicU64) -> Result<(), Failure> {
    match failures.load(Ordering::Relaxed) {
        0 => Ok(()),
        failed => Err(format!("{failed} operations failed while measuring").into()),
    }
}
