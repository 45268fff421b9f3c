//! What following costs: memory for each who follows and hears nothing, how long a change takes to those who follow, and what
//! telling takes from projecting.

mod clients;

use super::{
    Scale,
    commands::{Ask, ask_all},
    load::Sample,
    report::{Case, Report, ratio},
    stage::{self, Stage},
};
use crate::{
    failure::{Failure, because},
    subscriptions::Subscriptions,
    system::{Service, System},
};
use clients::Followers;
use commands::orders::{OrderCommand, Placement};
use events::{Context, Position, UserId};
use nats::{ChangeFeed, Durability, FeedOptions};
use projections::{
    Feed, FeedMetrics, LiveOptions, Outlet, ProjectionMetrics, Projections, Rebuilds, View, database::Storage,
};
use service::{Metrics, Shutdown};
use std::{
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpListener,
    process::{Child, Command},
};
use uuid::Uuid;

pub(super) use clients::run as idle;

/// Who follow and hear nothing.
const IDLE: u64 = 10_000;
/// Who follow their own orders, each of which is placed in turn.
const BUSY: u64 = 1000;
/// Orders a second, all together.
const RATE: u64 = 500;
const SECONDS: u64 = 10;
/// Orders of two events each: few enough that all of them are told.
const ORDERS: u64 = 4500;
/// How often they are projected, with and without.
const TURNS: usize = 7;

pub(super) async fn measure(
    durability: Durability,
    scale: Scale,
    report: &mut Report,
) -> Result<(), Failure> {
    // Following does not depend on when the server syncs, so one profile is enough.
    if durability == Durability::Always {
        return Ok(());
    }
    let case = Case { bench: "subscriptions", durability, callers: 1 };
    let stage = Stage::open(durability).await?;
    Box::pin(follow(&stage, scale, case, report)).await?;
    stage.close().await;
    let stage = Stage::open(durability).await?;
    Box::pin(cost(&stage, scale, case, report)).await?;
    stage.close().await;
    Ok(())
}

/// One service, those who follow it, and orders.
async fn follow(stage: &Stage, scale: Scale, case: Case, report: &mut Report) -> Result<(), Failure> {
    let mut config = stage.config();
    let live = LiveOptions { most_per_user: usize::MAX, ..LiveOptions::default() };
    config.subscriptions = Subscriptions { live, ..config.subscriptions };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let system = System::start(&config, vec![(Service::Orders, listener)]).await?;
    let address = system.addresses()[&Service::Orders];
    let token = crate::api::Tokens::open(&config.nats_url, &config.master_key, &config.clock).await?;
    let token = token.operator().await?;

    let (count, before) = (scale.of(IDLE), resident_kib()?);
    // Each end of a connection takes a descriptor: those of the clients are another process's.
    let mut idle = Idle::start(&format!("{address} {count} {token}")).await?;
    #[expect(clippy::cast_precision_loss, reason = "memory in KiB is far below 2^52")]
    let each = (resident_kib()? - before) as f64 / count as f64;
    report.figure("subscriptions", format!("memory for each of {count} who hear nothing"), each, "KiB", "");

    let executor = stage.executor(Context::Orders);
    let users: Vec<_> = (0..scale.of(BUSY)).map(|_| stage.clock.uuid()).collect();
    let followers = Followers::start(address, &users, &token).await?;
    let orders = RATE * if scale.rounds == 1 { 2 } else { SECONDS };
    let mut pace = tokio::time::interval(Duration::from_secs(1) / u32::try_from(RATE).unwrap_or(1));
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let started = Instant::now();
    let mut asked = tokio::task::JoinSet::new();
    for (number, user) in (0..orders).zip(users.iter().cycle()) {
        pace.tick().await;
        let (executor, clock, user) = (executor.clone(), stage.clock.clone(), *user);
        let heard = followers.heard();
        asked.spawn(async move {
            let order = Uuid::from_u64_pair(number, user.as_u64_pair().1);
            let placement = Placement { user_id: UserId::new(user), ..stage::placement(order) };
            let placed =
                stage::ask(&executor, &clock, order, true, OrderCommand::Place(Box::new(placement))).await;
            if placed {
                heard.expect(order);
            }
            placed
        });
    }
    let mut placed = 0;
    while let Some(one) = asked.join_next().await {
        placed += u64::from(one?);
    }
    let sample = followers.finish(placed, started).await?;
    let name = format!("{} who follow, beside {count}", users.len());
    report.add(Case { callers: users.len(), ..case }, name, &[sample], None);
    idle.stop().await?;
    system.stop().await;
    Ok(())
}

/// Those who hear nothing, in a process of their own.
struct Idle(Child);

impl Idle {
    async fn start(what: &str) -> Result<Self, Failure> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["bench", "idle"])
            .env(clients::WHAT, what)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(because("cannot start the clients"))?;
        let said = child.stdout.take().ok_or("the clients have no output")?;
        let line = BufReader::new(said).lines().next_line().await?;
        if line.as_deref() != Some("all follow") {
            return Err(format!("the clients did not connect: {line:?}").into());
        }
        Ok(Self(child))
    }

    async fn stop(&mut self) -> Result<(), Failure> {
        drop(self.0.stdin.take());
        self.0.wait().await?;
        Ok(())
    }
}

/// The same orders into a read model of which nobody is told, and into one that is told.
async fn cost(stage: &Stage, scale: Scale, case: Case, report: &mut Report) -> Result<(), Failure> {
    let executor = stage.executor(Context::Orders);
    let ids = Arc::new((0..scale.of(ORDERS)).map(|_| stage.clock.uuid()).collect());
    ask_all(stage, &executor, 256, &ids, Ask::Create).await?;
    ask_all(stage, &executor, 256, &ids, Ask::Append).await?;
    let events = 2 * ids.len() as u64;
    let (mut mute, mut projected, mut told) = (vec![], vec![], vec![]);
    for turn in 0..if scale.rounds == 1 { 1 } else { TURNS } {
        mute.push(Box::pin(project(stage, events, &format!("mute-{turn}"), None)).await?.0);
        let options = FeedOptions::default();
        let feed = ChangeFeed::open(&stage.connection, "orders", options).await?;
        // As if everything before the orders were told.
        let nothing = "ORDERS:0, INVENTORY:0, PAYMENTS:0, SHIPPING:0";
        feed.begin(&feed.head().await?, nothing).await?;
        let (tables, all) = Box::pin(project(stage, events, &format!("told-{turn}"), Some(feed))).await?;
        projected.push(tables);
        told.push(all);
    }
    report.add(case, "projected, nobody is told", &mute, None);
    let cost = ratio(&projected, &mute, "untold", None);
    report.add(case, "projected while it is told", &projected, Some(cost));
    let cost = ratio(&told, &mute, "untold", None);
    report.add(case, "projected and told", &told, Some(cost));
    Ok(())
}

/// Builds the read model of orders: until all of it is in the tables, and until all of it is told.
async fn project(
    stage: &Stage,
    events: u64,
    folder: &str,
    feed: Option<ChangeFeed>,
) -> Result<(Sample, Sample), Failure> {
    let view = View::of("orders").ok_or("orders have no read model")?;
    let (metrics, shutdown) = (Metrics::new(), Shutdown::new());
    let storage = Storage::Sqlite(stage.folder.path().join(folder));
    let (counters, clock) = (ProjectionMetrics::new(&metrics), stage.clock.clone());
    let outlet = feed.clone().map(|feed| Outlet { feed, metrics: FeedMetrics::new(&metrics) });
    let (connection, rebuilds) = (stage.connection.clone(), Rebuilds::default());
    let source = Feed { connection, parking: None, read_models: None, rebuilds, outlet };
    let started = Instant::now();
    let running = Projections::start(view, &source, &storage, clock, &metrics, counters, &shutdown).await?;
    let last = Position { context: Context::Orders, sequence: events };
    running.progress().wait_for(|progress| progress.has(last) == Some(true)).await?;
    let tables = Sample::of(events, started.elapsed());
    if let Some(feed) = feed {
        let done = last.to_string();
        while !feed.head().await?.position.is_some_and(|mark| mark.starts_with(&done)) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    let told = Sample::of(events, started.elapsed());
    shutdown.drain(Duration::from_secs(5)).await;
    Ok((tables, told))
}

/// Resident memory of this process, in KiB.
fn resident_kib() -> Result<i64, Failure> {
    let status = std::fs::read_to_string("/proc/self/status")
        .map_err(because("memory can only be measured on Linux"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.trim().trim_end_matches(" kB").trim().parse().ok());
    Ok(number.ok_or("the kernel does not say how much memory is resident")?)
}
