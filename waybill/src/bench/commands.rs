//! Commands: (a) raw publishes of the same bytes with the same expectations, (b) the executor creating, appending to cached and to cold aggregates.

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
        let (mut raw, mut second) = (vec![], vec![]);
        let (mut create, mut append, mut cold) = (vec![], vec![], vec![]);
        for _ in 0..scale.rounds {
            let (sample, written) = raw_creates(&stage, callers, operations).await?;
            raw.push(sample);
            let ids: Arc<Vec<Uuid>> = Arc::new((0..operations).map(|_| stage.clock.uuid()).collect());
            let executor = stage.executor(Context::Orders);
            create.push(ask_all(&stage, &executor, callers, &ids, Ask::Create).await?);
            second.push(raw_appends(&stage, callers, written).await?);
            append.push(ask_all(&stage, &executor, callers, &ids, Ask::Append).await?);
            let ids: Arc<Vec<Uuid>> = Arc::new((0..operations).map(|_| stage.clock.uuid()).collect());
            ask_all(&stage, &executor, callers, &ids, Ask::Create).await?;
            executor.forget();
            cold.push(ask_all(&stage, &executor, callers, &ids, Ask::Append).await?);
        }
        let aim = aim(durability, callers);
        report.add(case, "(a) raw publish, creating", &raw, None);
        report.add(case, "(b) create", &create, Some(ratio(&create, &raw, "(a)", aim)));
        report.add(case, "(a) raw publish, appending", &second, None);
        report.add(case, "(b) append, cached", &append, Some(ratio(&append, &second, "(a)", aim)));
        report.add(case, "(b) append, cold", &cold, Some(ratio(&cold, &second, "(a)", None)));
    }
    super::cold::measure(&stage, scale, report).await?;
    stage.close().await;
    http::measure(durability, scale, report).await
}

/// Orders that raw publishes wrote: where the last message of each stands.
type Written = Arc<Vec<(Uuid, AtomicU64)>>;

/// Plain async-nats: the bytes of new orders, each expected to be the first of its subject; a message id; awaited one
/// by one.
pub(super) async fn raw_creates(
    stage: &Stage,
    callers: usize,
    operations: u64,
) -> Result<(Sample, Written), Failure> {
    let written = (0..operations).map(|_| (stage.clock.uuid(), AtomicU64::new(0))).collect();
    let template = template(stage, false).await?;
    raw(stage, callers, template, Arc::new(written)).await
}

/// The same with the bytes of an order's second event, each expected to follow the first.
async fn raw_appends(stage: &Stage, callers: usize, written: Written) -> Result<Sample, Failure> {
    let template = template(stage, true).await?;
    Ok(raw(stage, callers, template, written).await?.0)
}

/// The last event of an order that is complete, or only placed.
async fn template(stage: &Stage, complete: bool) -> Result<Arc<Template>, Failure> {
    let (executor, id) = (stage.executor(Context::Orders), stage.clock.uuid());
    ask(&executor, &stage.clock, id, true, OrderCommand::Place(Box::new(placement(id)))).await;
    if complete {
        ask(&executor, &stage.clock, id, false, OrderCommand::Complete).await;
    }
    Ok(Arc::new(Template::of(&stage.connection, &Aggregate::Order.subject(id)).await?))
}

async fn raw(
    stage: &Stage,
    callers: usize,
    template: Arc<Template>,
    written: Written,
) -> Result<(Sample, Written), Failure> {
    let (connection, clock, orders) = (stage.connection.clone(), stage.clock.clone(), Arc::clone(&written));
    let failures = Arc::new(AtomicU64::new(0));
    let failed = Arc::clone(&failures);
    let sample = load::run(callers, written.len() as u64, move |number| {
        let (template, connection, clock) = (Arc::clone(&template), connection.clone(), clock.clone());
        let (failed, orders) = (Arc::clone(&failed), Arc::clone(&orders));
        async move {
            let Some((id, last)) = usize::try_from(number).ok().and_then(|number| orders.get(number)) else {
                return;
            };
            let (subject, event) = (format!("evt.orders.order.{id}"), clock.uuid().to_string());
            let expect = last.load(Ordering::Relaxed);
            match template.publish(&connection, &subject, &event, expect).await {
                Ok(sequence) => last.store(sequence, Ordering::Relaxed),
                Err(_) => _ = failed.fetch_add(1, Ordering::Relaxed),
            }
        }
    })
    .await;
    none_failed(&failures)?;
    Ok((sample, written))
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
