//! Cold loads: what an aggregate costs that no process has in memory, in a stream of very many others.

use super::{
    Scale,
    commands::none_failed,
    load,
    report::{Case, Report},
    stage::{Stage, metadata},
};
use crate::failure::Failure;
use commands::{
    Executor, Key,
    payments::{Account, AccountCommand},
};
use events::{AccountId, Aggregate, Context, Money, UserId};
use nats::{Durability, baseline::Template};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use uuid::Uuid;

/// Accounts with a few events each.
const SHORT: u64 = 1000;
/// Their events, which lie far apart.
const EVENTS: u64 = 10;
/// Events of the one account with a long history.
const LONG: u64 = 10_000;
/// Other aggregates in the stream.
const OTHERS: u64 = 1_000_000;

/// Only in the interval profile: loading does not depend on when the server syncs, filling the stream does.
pub(super) async fn measure(stage: &Stage, scale: Scale, report: &mut Report) -> Result<(), Failure> {
    if stage.durability == Durability::Always {
        return Ok(());
    }
    let executor = stage.executor(Context::Payments);
    let long = open(stage, &executor).await?;
    let mut short = Vec::new();
    for _ in 0..scale.of(SHORT) {
        short.push(open(stage, &executor).await?);
    }
    let template = Arc::new(Template::of(&stage.connection, &Aggregate::Account.subject(long)).await?);
    let rounds = EVENTS - 1;
    for _ in 0..rounds {
        let accounts = Arc::new(short.clone());
        credit_all(stage, &executor, accounts).await?;
        fill(stage, &template, scale.of(OTHERS) / rounds).await?;
    }
    credit_all(stage, &executor, Arc::new(vec![long; usize::try_from(scale.of(LONG)).unwrap_or(0)])).await?;
    let case = Case { bench: "commands", durability: stage.durability, callers: 1 };
    let others = scale.of(OTHERS);
    let loads = [load_all(stage, &short, scale.of(2000)).await?];
    report.add(case, format!("cold load, 10 events in {others} others"), &loads, None);
    let loads = [load_all(stage, &[long], scale.of(2000)).await?];
    report.add(case, format!("cold load, {} events", scale.of(LONG)), &loads, None);
    Ok(())
}

async fn open(stage: &Stage, executor: &Executor) -> Result<Uuid, Failure> {
    let id = stage.clock.uuid();
    let key = Key::<Account>::new(id);
    let currency = "EUR".parse()?;
    let open = AccountCommand::Open { account_id: AccountId::new(id), user_id: UserId::new(id), currency };
    let run = move |decision: &mut commands::Decision| decision.apply(&key, open.clone());
    executor.execute(vec![Key::<Account>::new(id).likely_new()], metadata(&stage.clock), run).await?;
    Ok(id)
}

async fn credit_all(stage: &Stage, executor: &Executor, accounts: Arc<Vec<Uuid>>) -> Result<(), Failure> {
    let failures = Arc::new(AtomicU64::new(0));
    let (executor, clock, failed) = (executor.clone(), stage.clock.clone(), Arc::clone(&failures));
    let amount = Money::new(1, "EUR".parse()?);
    load::run(256, accounts.len() as u64, move |number| {
        let (executor, clock, failed) = (executor.clone(), clock.clone(), Arc::clone(&failed));
        let id =
            usize::try_from(number).ok().and_then(|number| accounts.get(number)).copied().unwrap_or_default();
        async move {
            let key = Key::<Account>::new(id);
            let run = move |decision: &mut commands::Decision| {
                decision.apply(&key, AccountCommand::Credit { amount })
            };
            let keys = vec![Key::<Account>::new(id).load()];
            if executor.execute(keys, metadata(&clock), run).await.is_err() {
                failed.fetch_add(1, Ordering::Relaxed);
            }
        }
    })
    .await;
    none_failed(&failures)
}

/// Events of other aggregates, each on its own subject.
async fn fill(stage: &Stage, template: &Arc<Template>, count: u64) -> Result<(), Failure> {
    let failures = Arc::new(AtomicU64::new(0));
    let (connection, clock, template) = (stage.connection.clone(), stage.clock.clone(), Arc::clone(template));
    let failed = Arc::clone(&failures);
    load::run(1024, count, move |_| {
        let (template, connection, clock) = (Arc::clone(&template), connection.clone(), clock.clone());
        let failed = Arc::clone(&failed);
        async move {
            let id = clock.uuid().to_string();
            let subject = format!("evt.payments.account.{id}");
            if template.publish(&connection, &subject, &id, 0).await.is_err() {
                failed.fetch_add(1, Ordering::Relaxed);
            }
        }
    })
    .await;
    none_failed(&failures)
}

async fn load_all(stage: &Stage, accounts: &[Uuid], loads: u64) -> Result<load::Sample, Failure> {
    let failures = Arc::new(AtomicU64::new(0));
    let (executor, failed) = (stage.executor(Context::Payments), Arc::clone(&failures));
    let accounts = Arc::new(accounts.to_vec());
    let sample = load::run(1, loads, move |number| {
        let (executor, failed) = (executor.clone(), Arc::clone(&failed));
        let index = usize::try_from(number).unwrap_or(0) % accounts.len();
        let key = Key::<Account>::new(accounts[index]);
        async move {
            if !matches!(executor.state(&key).await, Ok(Some(_))) {
                failed.fetch_add(1, Ordering::Relaxed);
            }
        }
    })
    .await;
    none_failed(&failures)?;
    Ok(sample)
}
