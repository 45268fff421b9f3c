//! Recovery: every process and nats-server are killed while very many sagas are under way, and started again.

use super::{
    Scale, flow, http,
    load::{self, Sample},
    report::{Case, Report},
    stage::{Stage, listeners},
};
use crate::{
    failure::{Failure, because},
    system::Service,
};
use events::{Context, Fact, OrderId};
use nats::{Durability, Filter, From, Reader, Until};
use reqwest::Client;
use std::{
    collections::HashSet,
    fs::{self, File},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::process::{Child, Command};

/// Sagas that are under way.
const PROCESSES: u64 = 10_000;
const CALLERS: usize = 128;
/// How long anything may take.
const PATIENCE: Duration = Duration::from_mins(5);

/// Who carries an order. Nobody waits for what customers are told.
const SERVICES: [Service; 6] = [
    Service::Users,
    Service::Orders,
    Service::Payments,
    Service::Inventory,
    Service::Shipping,
    Service::Fulfilment,
];

pub(super) async fn measure(
    durability: Durability,
    scale: Scale,
    report: &mut Report,
) -> Result<(), Failure> {
    let stage = Stage::open(durability).await?;
    let load = http::prepare(&stage).await?;
    flow::provide(&stage, load.account).await?;
    let host = Host::new(&stage).await?;
    // The carrier is away, so every saga comes as far as its last step.
    let mut services = host.start("down").await?;
    let count = scale.of(PROCESSES);
    let filter = Filter { subject: Some(events::Aggregate::Process.filter()), ..Filter::default() };
    let follow =
        |from| Reader::open(&stage.connection, Context::Fulfilment, from, Until::Forever, filter.clone());
    let reader = follow(From::Now).await?;
    let placed = tokio::spawn(host.place(&stage, &load, count).await?);
    let under_way = within("every saga asks the carrier", asked(reader, count)).await??;
    placed.await??;

    let last = nats::last_sequence(&stage.connection, Context::Fulfilment).await?;
    services.kill().await?;
    stage.server.kill().await;
    let started = Instant::now();
    if !stage.server.ready(PATIENCE).await {
        return Err("nats-server does not come back".into());
    }
    let server = started.elapsed();
    let _services = host.start("accept").await?;
    let ready = started.elapsed();
    let moved = moved(follow(From::Sequence(last + 1)).await?, under_way, started);
    let moved = within("every saga moves again", moved).await??;
    let case = Case { bench: "recovery", durability, callers: CALLERS };
    let (last, median) = (moved.millis(1.0) / 1000.0, moved.millis(0.5) / 1000.0);
    report.add(case, "sagas that moved again", &[moved], None);
    let figures = [
        ("nats-server ready again", server.as_secs_f64(), ""),
        ("services ready again after kill -9 of all", ready.as_secs_f64(), ""),
        ("half of the sagas moving", median, ""),
        ("all of them moving", last, "below 10"),
    ];
    for (name, value, aim) in figures {
        report.figure("recovery", format!("{name}, {count} under way, {durability}"), value, "s", aim);
    }
    stage.close().await;
    Ok(())
}

async fn within<T>(what: &str, wait: impl Future<Output = T>) -> Result<T, Failure> {
    tokio::time::timeout(PATIENCE, wait).await.map_err(|_| format!("it takes too long until {what}").into())
}

/// Where the services run: a process of its own, which can be killed.
struct Host {
    nats_url: String,
    folder: std::path::PathBuf,
    durability: Durability,
    ports: Vec<(Service, u16)>,
}

impl Host {
    async fn new(stage: &Stage) -> Result<Self, Failure> {
        let folder = stage.folder.path().join("services");
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("master.key"), &*stage.master_key.to_base64())?;
        let listeners = listeners(SERVICES).await?;
        let ports = listeners.iter().map(|(service, listener)| Ok((*service, listener.local_addr()?.port())));
        let ports = ports.collect::<Result<_, Failure>>()?;
        Ok(Self { nats_url: stage.server.url(), folder, durability: stage.durability, ports })
    }

    fn url(&self, of: Service) -> String {
        let port = self.ports.iter().find(|(service, _)| *service == of).map_or(0, |(_, port)| *port);
        format!("http://127.0.0.1:{port}")
    }

    /// Starts the services, with the carrier as it is said, and waits until all are ready.
    async fn start(&self, carrier: &str) -> Result<Child, Failure> {
        let log = File::options().create(true).append(true).open(self.folder.join("services.log"))?;
        let ports: Vec<_> = self.ports.iter().map(|(service, port)| format!("{service}={port}")).collect();
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("serve").args(SERVICES.map(Service::name)).arg("--data").arg(&self.folder);
        command.arg("--master-key-file").arg(self.folder.join("master.key"));
        command.args(["--nats-url", &self.nats_url, "--durability", &self.durability.to_string()]);
        command.args(["--ports", &ports.join(","), "--workflow", "orchestration", "--carrier", carrier]);
        // Nothing is given up or asked again meanwhile: what moves moves because it is taken up again.
        command.args(["--on-failure", "retry", "--step-deadline", "1h"]);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
        let mut child = command.spawn().map_err(because("cannot start the services"))?;
        let client = Client::builder().no_proxy().build()?;
        let ready = async {
            for service in SERVICES {
                let url = format!("{}/ready", self.url(service));
                while !client.get(&url).send().await.is_ok_and(|answer| answer.status().is_success()) {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        };
        tokio::select! {
            ready = within("the services are ready", ready) => ready?,
            ended = child.wait() => return Err(format!("the services ended with {}", ended?).into()),
        }
        Ok(child)
    }

    /// What places so many orders.
    async fn place(
        &self,
        stage: &Stage,
        load: &http::Load,
        count: u64,
    ) -> Result<impl Future<Output = Result<Sample, Failure>> + Send + 'static, Failure> {
        let (url, body) = (format!("{}/orders", self.url(Service::Orders)), load.body.clone());
        let bearer = format!("Bearer {}", stage.token(load.user).await?);
        let client = Client::builder().no_proxy().pool_max_idle_per_host(CALLERS).build()?;
        let failures = Arc::new(AtomicU64::new(0));
        let failed = Arc::clone(&failures);
        let placing = load::run(CALLERS, count, move |_| {
            let request = client.post(&url).header("content-type", "application/json");
            let request = request.header("authorization", &bearer).body(body.clone());
            let failed = Arc::clone(&failed);
            async move {
                if flow::accepted(request).await.is_none() {
                    failed.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Ok(async move {
            let placed = placing.await;
            super::commands::none_failed(&failures)?;
            Ok(placed)
        })
    }
}

/// Waits until so many sagas have asked for their last step; which they are.
async fn asked(mut reader: Reader, count: u64) -> Result<HashSet<OrderId>, Failure> {
    let mut under_way = HashSet::new();
    while (under_way.len() as u64) < count {
        for message in reader.next_batch(1000).await? {
            let Fact::Process(fact) = message.fact()? else { continue };
            let last = fact.asks().filter(|(_, asks)| asks.step == events::fulfilment::Step::Shipping);
            under_way.extend(last.map(|(order, _)| order.order_id));
        }
    }
    Ok(under_way)
}

/// Waits until each of these sagas has recorded something more; when each has, since `started`.
async fn moved(mut reader: Reader, mut still: HashSet<OrderId>, started: Instant) -> Result<Sample, Failure> {
    let mut moved = Sample::of(still.len() as u64, Duration::ZERO);
    while !still.is_empty() {
        for message in reader.next_batch(1000).await? {
            let moving = message.subject.id().parse().is_ok_and(|order| still.remove(&order));
            if moving {
                moved.note(started.elapsed());
            }
        }
    }
    moved.elapsed = started.elapsed();
    Ok(moved)
}
