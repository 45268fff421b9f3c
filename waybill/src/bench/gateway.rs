//! The gateway, beside the same service called directly and nginx as a plain reverse proxy in front of it: each a process
//! of its own, with authentication, limits and logs of the gateway on.

mod fronts;

use super::{
    Scale,
    commands::none_failed,
    http::{self, Load},
    load::{self, Sample},
    report::{Case, Report, median, ratio},
    stage::Stage,
};
use crate::{
    failure::Failure,
    system::{Service, System},
};
use axum::body::Bytes;
use fronts::{Base, gateway, nginx};
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde_json::Value;
use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// Callers at the same time.
const CALLERS: usize = 64;
/// Requests per second of the quiet run.
const QUIET_RATE: u32 = 50;
/// Clients that come once each.
const ADDRESSES: u64 = 1_000_000;

pub(super) async fn measure(
    durability: nats::Durability,
    scale: Scale,
    report: &mut Report,
) -> Result<(), Failure> {
    let (stage, load, system, orders) = open(durability).await?;
    let measured = measure_all(&stage, load, orders, scale, report).await;
    system.stop().await;
    stage.close().await;
    measured
}

/// Only the memory.
pub(super) async fn measure_memory(
    durability: nats::Durability,
    scale: Scale,
    report: &mut Report,
) -> Result<(), Failure> {
    let (stage, _, system, _) = open(durability).await?;
    let measured = memory(&stage, scale, report).await;
    system.stop().await;
    stage.close().await;
    measured
}

/// A service to stand before, and what to ask of it.
async fn open(durability: nats::Durability) -> Result<(Stage, Load, System, SocketAddr), Failure> {
    let stage = Stage::open(durability).await?;
    let load = http::prepare(&stage).await?;
    // Orders are taken, and nobody carries them out: the proxies are measured, not the flow.
    let (system, orders) = stage.start([Service::Users, Service::Orders]).await?;
    Ok((stage, load, system, orders))
}

async fn measure_all(
    stage: &Stage,
    load: Load,
    orders: SocketAddr,
    scale: Scale,
    report: &mut Report,
) -> Result<(), Failure> {
    let direct = Base::of_service(orders);
    let gateway = gateway(&stage.server.url(), stage.folder.path()).await?;
    let nginx = nginx(orders, stage.folder.path()).await?;
    let caller = Caller::new(format!("Bearer {}", stage.token(load.user).await?), load.body)?;
    let order = caller.first_order(&direct).await?;
    let get = Ask::Get(format!("/orders/{order}"));
    for front in
        [Some(&direct), Some(&gateway.base), nginx.as_ref().map(|nginx| &nginx.base)].into_iter().flatten()
    {
        caller.wait_for(front, &get).await?;
    }
    let case = |callers| Case { bench: "gateway", durability: stage.durability, callers };
    for (what, request, operations) in
        [("GET", &get, scale.of(40_000)), ("POST", &Ask::Post("/orders".to_owned()), scale.of(20_000))]
    {
        let (mut by_direct, mut by_gateway, mut by_nginx) = (vec![], vec![], vec![]);
        for _ in 0..scale.rounds {
            by_direct.push(caller.saturate(&direct, request, operations).await?);
            by_gateway.push(caller.saturate(&gateway.base, request, operations).await?);
            if let Some(nginx) = &nginx {
                by_nginx.push(caller.saturate(&nginx.base, request, operations).await?);
            }
        }
        report.add(case(CALLERS), format!("{what} direct"), &by_direct, None);
        let to_direct = ratio(&by_gateway, &by_direct, "direct", Some(0.5));
        report.add(case(CALLERS), format!("{what} through the gateway"), &by_gateway, Some(to_direct));
        if !by_nginx.is_empty() {
            let to_direct = ratio(&by_nginx, &by_direct, "direct", None);
            report.add(case(CALLERS), format!("{what} through nginx"), &by_nginx, Some(to_direct));
            let to_nginx = ratio(&by_gateway, &by_nginx, "nginx", None).value;
            report.figure("gateway", format!("{what}: gateway over nginx"), to_nginx, "", "at least 0.8");
        }
    }
    let mut by_direct = vec![];
    let mut fronts = vec![("gateway", &gateway.base, "below 0.3", vec![])];
    fronts.extend(nginx.as_ref().map(|nginx| ("nginx", &nginx.base, "", vec![])));
    for _ in 0..scale.rounds {
        by_direct.push(caller.pace(&direct, &get, scale.of(500)).await?);
        for (_, base, _, samples) in &mut fronts {
            samples.push(caller.pace(base, &get, scale.of(500)).await?);
        }
    }
    report.add(case(1), "GET direct, quiet", &by_direct, None);
    for (name, _, aim, samples) in &fronts {
        report.add(case(1), format!("GET through {name}, quiet"), samples, None);
        let added =
            samples.iter().zip(&by_direct).map(|(through, direct)| through.millis(0.5) - direct.millis(0.5));
        let what = format!("p50 added by {name} at {QUIET_RATE} requests/s");
        report.figure("gateway", what, median(added.collect()), "ms", aim);
    }
    drop(fronts);
    drop((gateway, nginx));
    memory(stage, scale, report).await
}

/// What a gateway takes that has seen very many clients.
async fn memory(stage: &Stage, scale: Scale, report: &mut Report) -> Result<(), Failure> {
    let gateway = gateway(&stage.server.url(), stage.folder.path()).await?;
    let caller = Caller::new(String::new(), Bytes::new())?;
    caller.wait_for(&gateway.base, &Ask::Nobody).await?;
    let (client, url) = (caller.client, gateway.base.url(NOBODY));
    let clients = ADDRESSES / scale.divisor;
    let apart = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&apart);
    let before = gateway.resident_mib();
    load::run(CALLERS, clients, move |number| {
        let address = Ipv4Addr::from_bits((11 << 24) + u32::try_from(number).unwrap_or(u32::MAX));
        let request = client.get(&url).header("x-forwarded-for", address.to_string());
        let counted = Arc::clone(&counted);
        async move {
            let Ok(response) = request.send().await else { return };
            let fresh = response
                .headers()
                .get("ratelimit")
                .is_some_and(|left| left.to_str().is_ok_and(|left| left.contains(";r=99;")));
            if fresh && response.bytes().await.is_ok() {
                counted.fetch_add(1, Ordering::Relaxed);
            }
        }
    })
    .await;
    let seen = apart.load(Ordering::Relaxed);
    if seen != clients {
        return Err(format!("only {seen} of {clients} addresses were counted by themselves").into());
    }
    let named = |what: &str| format!("resident memory {what} {clients} addresses");
    for (when, mib, aim) in [("before", before, ""), ("after", gateway.resident_mib(), "below 64")] {
        if let Some(mib) = mib {
            report.figure("gateway", named(when), mib, "MiB", aim);
        }
    }
    Ok(())
}

/// What is asked for, as the service knows it.
#[derive(Clone, Debug)]
enum Ask {
    Get(String),
    Post(String),
    /// What is not there, for anybody.
    Nobody,
}

const NOBODY: &str = "/nobody";

impl Ask {
    fn path(&self) -> &str {
        match self {
            Self::Get(path) | Self::Post(path) => path,
            Self::Nobody => NOBODY,
        }
    }

    fn method(&self) -> Method {
        if matches!(self, Self::Post(_)) { Method::POST } else { Method::GET }
    }

    fn expected(&self) -> StatusCode {
        match self {
            Self::Get(_) => StatusCode::OK,
            Self::Post(_) => StatusCode::ACCEPTED,
            Self::Nobody => StatusCode::NOT_FOUND,
        }
    }
}

/// Sends the same request again and again.
#[derive(Clone)]
struct Caller {
    client: Client,
    bearer: String,
    body: Bytes,
}

impl Caller {
    fn new(bearer: String, body: Bytes) -> Result<Self, Failure> {
        let client = Client::builder().no_proxy().pool_max_idle_per_host(CALLERS).build()?;
        Ok(Self { client, bearer, body })
    }

    fn request(&self, front: &Base, ask: &Ask) -> RequestBuilder {
        let request = self.client.request(ask.method(), front.url(ask.path()));
        match ask {
            Ask::Nobody => request,
            Ask::Get(_) => request.header("authorization", &self.bearer),
            Ask::Post(_) => {
                let request = request.header("authorization", &self.bearer).body(self.body.clone());
                request.header("content-type", "application/json")
            }
        }
    }

    /// An order to read.
    async fn first_order(&self, front: &Base) -> Result<String, Failure> {
        let request = self.request(front, &Ask::Post("/orders".to_owned()));
        let answer: Value = request.send().await?.error_for_status()?.json().await?;
        Ok(answer["id"].as_str().ok_or("an order has no id")?.to_owned())
    }

    async fn wait_for(&self, front: &Base, ask: &Ask) -> Result<(), Failure> {
        let wait = async {
            while !answered(self.request(front, ask), ask.expected()).await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let waited = tokio::time::timeout(fronts::READY_WITHIN, wait).await;
        waited.map_err(|_| format!("{} is not answered as it should be", front.url(ask.path())).into())
    }

    /// As many as it takes.
    async fn saturate(&self, front: &Base, ask: &Ask, operations: u64) -> Result<Sample, Failure> {
        let failures = Arc::new(AtomicU64::new(0));
        let failed = Arc::clone(&failures);
        let (caller, front, ask) = (self.clone(), front.clone(), ask.clone());
        let sample = load::run(CALLERS, operations, move |_| {
            let (request, expected) = (caller.request(&front, &ask), ask.expected());
            let failed = Arc::clone(&failed);
            async move {
                if !answered(request, expected).await {
                    failed.fetch_add(1, Ordering::Relaxed);
                }
            }
        })
        .await;
        none_failed(&failures)?;
        Ok(sample)
    }

    /// One after the other, at a fixed rate.
    async fn pace(&self, front: &Base, ask: &Ask, operations: u64) -> Result<Sample, Failure> {
        let started = Instant::now();
        let mut sample = Sample::of(operations, Duration::ZERO);
        // Pacing is the point: the load of a quiet day.
        let mut beat = tokio::time::interval(Duration::from_secs(1) / QUIET_RATE);
        for _ in 0..operations {
            beat.tick().await;
            let asked = Instant::now();
            if !answered(self.request(front, ask), ask.expected()).await {
                return Err(format!("{} is not answered as it should be", front.url(ask.path())).into());
            }
            sample.note(asked.elapsed());
        }
        sample.elapsed = started.elapsed();
        Ok(sample)
    }
}

/// Whether it was answered as it should be, all of it.
async fn answered(request: RequestBuilder, expected: StatusCode) -> bool {
    match request.send().await {
        Ok(response) => response.status() == expected && response.bytes().await.is_ok(),
        Err(_) => false,
    }
}
