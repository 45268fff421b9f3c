//! The whole flow: orders from `POST /orders` to completed, every service and every read model in this process.

use super::{
    Scale,
    http::{self, Load},
    load::{self, Sample},
    report::{Case, Report, median, ratio},
    stage::{Stage, metadata, times},
};
use crate::{failure::Failure, system::Service};
use axum::body::Bytes;
use commands::{
    Decision, Key, inventory, inventory::StockChange, payments::Account, payments::AccountCommand,
};
use events::{Context, Money, Sku, orders::Workflow};
use futures::future::OptionFuture;
use nats::{Durability, Filter, From, Reader, Until};
use serde_json::Value;
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use uuid::Uuid;

/// Orders at once when the system is saturated.
const CALLERS: usize = 128;
/// Orders per second of the quiet run.
const QUIET_RATE: u64 = 50;
const CAUGHT_UP: Duration = Duration::from_mins(2);

pub(super) async fn measure(
    durability: Durability,
    scale: Scale,
    workflow: Option<Workflow>,
    report: &mut Report,
) -> Result<(), Failure> {
    let stage = Stage::open(durability).await?;
    let load = http::prepare(&stage).await?;
    provide(&stage, load.account).await?;
    // No order waits for what its customer is told.
    let services = Service::ALL.into_iter().filter(|service| *service != Service::Notifications);
    let (system, orders) = stage.start(services).await?;
    let url = format!("http://{orders}/orders");
    let other = workflow.filter(|workflow| *workflow == Workflow::Orchestration);
    let sagas = other.map(|workflow| Shop::open(&stage, url.clone(), &load, Some(workflow)));
    let sagas = OptionFuture::from(sagas).await.transpose()?;
    let shop = Shop::open(&stage, url, &load, None).await?;

    shop.place(scale.of(2000), CALLERS, None).await?;
    if let Some(sagas) = &sagas {
        sagas.place(scale.of(2000), CALLERS, None).await?;
    }
    let case = |callers| Case { bench: "flow", durability, callers };
    let quiet = shop.place(scale.of(500), 64, Some(QUIET_RATE)).await?;
    report.add(case(64), format!("end to end at {QUIET_RATE} orders/s"), &[quiet.orders], None);
    // On a server of its own: what is published raw must not set the services here to work.
    let apart = Stage::open(durability).await?;
    let mut raw = Vec::new();
    let (mut placed, mut events, mut carried) = (vec![], vec![], vec![]);
    let (mut cpu, mut cpu_of_sagas) = (vec![], vec![]);
    for _ in 0..scale.rounds {
        raw.push(super::commands::raw_creates(&apart, 64, scale.of(20_000)).await?.0);
        let (flow, cost) = shop.place_at_cost(&stage, scale.of(5000)).await?;
        cpu.extend(cost);
        placed.push(flow.orders);
        if let Some(sagas) = &sagas {
            let (flow, cost) = sagas.place_at_cost(&stage, scale.of(5000)).await?;
            cpu_of_sagas.extend(cost);
            carried.push(flow.orders);
        }
        events.push(flow.events);
    }
    report.add(case(64), "(a) raw publish, expecting", &raw, None);
    report.add(case(CALLERS), "orders, read models caught up", &placed, None);
    if sagas.is_some() {
        let ratio = ratio(&carried, &placed, "choreography", Some(0.6));
        report.add(case(CALLERS), "orders of a saga, the same", &carried, Some(ratio));
    }
    report.add(
        case(CALLERS),
        "events of these orders",
        &events,
        Some(ratio(&events, &raw, "(a)", Some(0.3))),
    );
    for (whose, cpu) in [("order", cpu), ("order of a saga", cpu_of_sagas)] {
        if !cpu.is_empty() {
            let name = format!("CPU per {whose} with nats-server and load, {durability}");
            report.figure("flow", name, median(cpu), "ms", "");
        }
    }
    system.stop().await;
    apart.close().await;
    stage.close().await;
    Ok(())
}

/// Stock and money for all of it.
pub(super) async fn provide(stage: &Stage, account: Uuid) -> Result<(), Failure> {
    let sku: Sku = "TEA-1".parse()?;
    let run = move |decision: &mut Decision| {
        inventory::change_stock(decision, &sku, StockChange::Receive { quantity: 1_000_000_000 })
    };
    stage.executor(Context::Inventory).execute(vec![], metadata(&stage.clock), run).await?;
    let amount = Money::new(1_000_000_000_000, "EUR".parse()?);
    let run = move |decision: &mut Decision| {
        decision.apply(&Key::<Account>::new(account), AccountCommand::Credit { amount })
    };
    stage.executor(Context::Payments).execute(vec![], metadata(&stage.clock), run).await?;
    Ok(())
}

/// Places orders and watches the log for their end.
pub(super) struct Shop {
    connection: nats::Connection,
    client: reqwest::Client,
    url: String,
    bearer: String,
    body: Bytes,
}

pub(super) struct Flow {
    /// Latency from the request to the fact that ends the order.
    pub(super) orders: Sample,
    events: Sample,
}

impl Shop {
    pub(super) async fn open(
        stage: &Stage,
        url: String,
        load: &Load,
        workflow: Option<Workflow>,
    ) -> Result<Self, Failure> {
        let bearer = format!("Bearer {}", stage.token(load.user).await?);
        let mut body: Value = serde_json::from_slice(&load.body)?;
        if let Some(workflow) = workflow {
            body["workflow"] = serde_json::to_value(workflow)?;
        }
        let body = serde_json::to_vec(&body)?.into();
        let client = reqwest::Client::builder().pool_max_idle_per_host(256).build()?;
        Ok(Self { connection: stage.connection.clone(), client, url, bearer, body })
    }

    /// Places `count` orders as fast as they are accepted, and says what CPU time each took, in milliseconds.
    async fn place_at_cost(&self, stage: &Stage, count: u64) -> Result<(Flow, Option<f64>), Failure> {
        let before = cpu_seconds(stage.server.pid());
        let flow = self.place(count, CALLERS, None).await?;
        let spent = before.zip(cpu_seconds(stage.server.pid())).map(|(before, after)| after - before);
        #[expect(clippy::cast_precision_loss, reason = "a count of orders is far below 2^52")]
        let cost = spent.map(|spent| spent * 1000.0 / count as f64);
        Ok((flow, cost))
    }

    /// Places `count` orders, as fast as they are accepted or at a fixed rate, and waits until all have ended and
    /// every read model has seen it.
    pub(super) async fn place(&self, count: u64, callers: usize, rate: Option<u64>) -> Result<Flow, Failure> {
        let asked: Arc<Mutex<HashMap<String, Instant>>> = Arc::default();
        let before = self.events().await?;
        let follower = tokio::spawn(self.follow(count).await?);
        let started = Instant::now();
        let failures = Arc::new(AtomicU64::new(0));
        let (client, url, body) = (self.client.clone(), self.url.clone(), self.body.clone());
        let bearer = self.bearer.clone();
        let (noting, failed) = (Arc::clone(&asked), Arc::clone(&failures));
        load::run(callers, count, move |number| {
            let request = client.post(&url).header("content-type", "application/json");
            let request = request.header("authorization", &bearer).body(body.clone());
            let (noting, failed) = (Arc::clone(&noting), Arc::clone(&failed));
            async move {
                if let Some(rate) = rate {
                    // Pacing is the point: the load of a quiet day.
                    let due = started + Duration::from_secs(number) / u32::try_from(rate).unwrap_or(1);
                    tokio::time::sleep_until(due.into()).await;
                }
                let asked = Instant::now();
                match accepted(request).await {
                    Some(id) => {
                        noting.lock().unwrap_or_else(PoisonError::into_inner).insert(id, asked);
                    }
                    None => {
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        })
        .await;
        super::commands::none_failed(&failures)?;
        let ended = tokio::time::timeout(CAUGHT_UP, follower).await???;
        self.caught_up().await?;
        let elapsed = started.elapsed();
        let events = Sample::of(self.events().await? - before, elapsed);
        let mut orders = Sample::of(count, elapsed);
        let asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
        for (id, at) in ended {
            if let Some(asked) = asked.get(&id) {
                orders.note(at.duration_since(*asked));
            }
        }
        Ok(Flow { orders, events })
    }

    /// What waits for the end of `count` orders from now on.
    async fn follow(
        &self,
        count: u64,
    ) -> Result<impl Future<Output = Result<Vec<(String, Instant)>, Failure>> + Send + 'static, Failure> {
        let kinds = ["order.completed", "order.failed", "order.cancelled"].map(ToOwned::to_owned).to_vec();
        let filter = Filter { kinds, ..Filter::default() };
        let mut reader =
            Reader::open(&self.connection, Context::Orders, From::Now, Until::Forever, filter).await?;
        Ok(async move {
            let mut ended = Vec::new();
            while (ended.len() as u64) < count {
                let batch = reader.next_batch(1000).await?;
                let now = Instant::now();
                ended.extend(batch.iter().map(|message| (message.subject.id().to_owned(), now)));
            }
            Ok(ended)
        })
    }

    /// Waits until the read model of orders, which reads every stream of the flow, has everything.
    async fn caught_up(&self) -> Result<(), Failure> {
        for context in [Context::Orders, Context::Inventory, Context::Payments, Context::Shipping] {
            let last = nats::last_sequence(&self.connection, context).await?;
            let url = format!("{}?after={}:{last}&wait=30&limit=1", self.url, context.stream());
            self.client.get(url).header("authorization", &self.bearer).send().await?.error_for_status()?;
        }
        Ok(())
    }

    /// Events recorded so far, in all streams.
    pub(super) async fn events(&self) -> Result<u64, Failure> {
        let mut sum = 0;
        for context in Context::ALL {
            sum += nats::last_sequence(&self.connection, context).await?;
        }
        Ok(sum)
    }
}

pub(super) async fn accepted(request: reqwest::RequestBuilder) -> Option<String> {
    let response = request.send().await.ok()?.error_for_status().ok()?;
    let body: Value = serde_json::from_slice(&response.bytes().await.ok()?).ok()?;
    body.get("id")?.as_str().map(ToOwned::to_owned)
}

/// CPU time of this process and of nats-server, in seconds; only Linux tells.
fn cpu_seconds(server: Option<u32>) -> Option<f64> {
    Some(times("self")?.own + times(&server?.to_string())?.own)
}
