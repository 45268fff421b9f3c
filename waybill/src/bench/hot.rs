//! One single SKU that everybody wants: reservations through the executor, beside the loop that everybody writes
//! first (load, decide, append, retry on conflict).

use super::{
    Scale,
    commands::none_failed,
    load::{self, Sample},
    report::{Case, Report, ratio},
    stage::{Stage, metadata, placement},
};
use crate::failure::Failure;
use commands::{
    Decision, Executor, Key,
    inventory::{self, Product, ProductCommand, StockChange},
};
use events::{Context, Money, OrderId, Sku, orders::OrderCreated};
use nats::Durability;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

const CALLERS: usize = 64;

pub(super) async fn measure(
    durability: Durability,
    scale: Scale,
    report: &mut Report,
) -> Result<(), Failure> {
    let stage = Stage::open(durability).await?;
    let executor = stage.executor(Context::Inventory);
    stock_up(&stage, &executor).await?;
    let (mut lanes, mut naive) = (vec![], vec![]);
    for _ in 0..scale.rounds {
        lanes.push(reserve_all(&stage, executor.clone(), scale.of(20_000), false).await?);
        naive.push(reserve_all(&stage, executor.clone(), scale.of(256), true).await?);
    }
    let case = Case { bench: "hot", durability, callers: CALLERS };
    report.add(case, "load, decide, append, retry", &naive, None);
    report.add(case, "reservations in a lane", &lanes, Some(ratio(&lanes, &naive, "the loop", Some(10.0))));
    stage.close().await;
    Ok(())
}

async fn stock_up(stage: &Stage, executor: &Executor) -> Result<(), Failure> {
    let sku: Sku = "TEA-1".parse()?;
    let (key, price) = (Key::<Product>::new(&sku), Money::new(1999, "EUR".parse()?));
    let add = ProductCommand::Add { sku: sku.clone(), name: "Green tea".to_owned(), price };
    let run = move |decision: &mut Decision| decision.apply(&key, add.clone());
    executor.execute(vec![Key::<Product>::new(&sku).load()], metadata(&stage.clock), run).await?;
    let run = move |decision: &mut Decision| {
        inventory::change_stock(decision, &sku, StockChange::Receive { quantity: 1_000_000 })
    };
    executor.execute(vec![], metadata(&stage.clock), run).await?;
    Ok(())
}

fn order(stage_clock: &service::Clock) -> OrderCreated {
    let placed = placement(stage_clock.uuid());
    OrderCreated {
        order_id: OrderId::new(placed.order_id.uuid()),
        user_id: placed.user_id,
        account_id: placed.account_id,
        total_amount: placed.items.first().map_or_else(|| Money::zero(currency()), |line| line.unit_price),
        items: placed.items,
        shipping_address: placed.shipping_address,
        workflow: placed.workflow,
        user_snapshot: placed.user_snapshot,
    }
}

#[expect(clippy::expect_used, reason = "EUR is a currency")]
fn currency() -> events::Currency {
    "EUR".parse().expect("valid")
}

/// `naive`: every caller is a process of its own, with its own executor that forgets between commands, so that each
/// command loads, and every conflict with the others is met by loading again.
async fn reserve_all(stage: &Stage, executor: Executor, count: u64, naive: bool) -> Result<Sample, Failure> {
    let failures = Arc::new(AtomicU64::new(0));
    let failed = Arc::clone(&failures);
    let clock = stage.clock.clone();
    let alone: Vec<Executor> = (0..CALLERS).map(|_| stage.executor(Context::Inventory)).collect();
    let (alone, turn) = (Arc::new(alone), Arc::new(AtomicU64::new(0)));
    let sample = load::run(CALLERS, count, move |_| {
        let (clock, failed) = (clock.clone(), Arc::clone(&failed));
        let slot = usize::try_from(turn.fetch_add(1, Ordering::Relaxed)).unwrap_or(0) % CALLERS;
        let executor = if naive { alone[slot].clone() } else { executor.clone() };
        async move {
            let order = events::orders::Ordered::from(&order(&clock));
            let metadata = metadata(&clock);
            loop {
                if naive {
                    executor.forget();
                }
                let order = order.clone();
                let run = move |decision: &mut Decision| inventory::reserve(decision, &order);
                match executor.execute(vec![], metadata.clone(), run).await {
                    Ok(_) => return,
                    Err(commands::ExecuteError::Contended) => {}
                    Err(_) => {
                        failed.fetch_add(1, Ordering::Relaxed);
                        return;
                    }
                }
            }
        }
    })
    .await;
    none_failed(&failures)?;
    Ok(sample)
}
