//! What following costs: memory for each who follows and hears nothing, how long a change takes to those who follow, and what
//! telling takes from projecting.

mod clients;

use super::{
    Scale,
    commands::{Ask, ask_all},
    load::Sample,
    projection::Place,
    report::{Case, Report, ratio},
    stage::{self, Stage},
};
use crate::{
    databases::Databases,
    failure::{Failure, because},
    subscriptions::Subscriptions,
    system::{Config, Service, System},
};
use clients::Followers;
use commands::orders::{OrderCommand, Placement};
use events::{Context, Position, UserId};
use nats::{ChangeFeed, Durability, FeedOptions, Policy};
use projections::{
    Feed, FeedMetrics, LiveOptions, Outlet, ProjectionMetrics, Projections, Rebuilds, View, database::Storage,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
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
/// Orders a second.
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
    let load = Load {
        idle: scale.of(IDLE),
        busy: scale.of(BUSY),
        rate: RATE,
        seconds: if scale.rounds == 1 { 2 } else { SECONDS },
    };
    let stage = Stage::open(durability).await?;
    let config = stage.config();
    Box::pin(follow(&stage, config, load, case, report)).await?;
    stage.close().await;
    let stage = Stage::open(durability).await?;
    Box::pin(cost(&stage, scale, case, report)).await?;
    stage.close().await;
    Ok(())
}

/// How long a change takes to those who follow, with the read model in one database.
pub(super) async fn latency(place: &Place, scale: Scale, report: &mut Report) -> Result<(), Failure> {
    let stage = Stage::open(Durability::Interval).await?;
    let mut config = stage.config();
    match place.storage().await? {
        Storage::Sqlite(folder) => config.data = folder,
        Storage::Postgres(url) => config.databases = Databases::of(Service::Orders, url),
    }
    let seconds = if scale.rounds == 1 { 2 } else { SECONDS };
    let load = Load { idle: 0, busy: 100, rate: 100, seconds };
    let case = Case { bench: "projection", durability: Durability::Interval, callers: 100 };
    eprintln!("change to client, {}:", place.name());
    Box::pin(follow(&stage, config, load, case, report)).await?;
    stage.close().await;
    Ok(())
}

/// Who follow, and what they hear.
#[derive(Clone, Copy)]
struct Load {
    /// Clients that hear nothing.
    idle: u64,
    /// Clients that hear of their own orders, each of which is placed in turn.
    busy: u64,
    /// Orders a second, all together.
    rate: u64,
    seconds: u64,
}

/// One service, those who follow it, and orders.
async fn follow(
    stage: &Stage,
    mut config: Config,
    load: Load,
    case: Case,
    report: &mut Report,
) -> Result<(), Failure> {
    // An end of each connection that is another process's, both of those who are heard here.
    descriptors(load.idle + 2 * load.busy)?;
    let on = if config.databases.is_empty() { "SQLite" } else { "PostgreSQL" };
    let live = LiveOptions { most_per_user: usize::MAX, ..LiveOptions::default() };
    config.subscriptions = Subscriptions { live, ..config.subscriptions };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let system = System::start(&config, vec![(Service::Orders, listener)]).await?;
    let address = system.addresses()[&Service::Orders];
    let token = crate::api::Tokens::open(&config.nats_url, &config.master_key, &config.clock).await?;
    let token = token.operator().await?;

    let (count, before) = (load.idle, resident_kib()?);
    // Each end of a connection takes a descriptor: those of the clients are another process's.
    let mut idle = Idle::start(&format!("{address} {count} {token}")).await?;
    if count > 0 {
        let now = resident_kib()?;
        #[expect(clippy::cast_precision_loss, reason = "memory in KiB is far below 2^52")]
        let (each, whole) = ((now - before) as f64 / count as f64, now as f64 / 1024.0);
        let name = format!("memory for each of {count} who hear nothing");
        report.figure("subscriptions", name, each, "KiB", "");
        report.figure("subscriptions", "memory of the process with all of them", whole, "MiB", "");
    }

    let executor = stage.executor(Context::Orders);
    let users: Vec<_> = (0..load.busy).map(|_| stage.clock.uuid()).collect();
    let followers = Followers::start(address, &users, &token).await?;
    let orders = load.rate * load.seconds;
    let mut pace = tokio::time::interval(Duration::from_secs(1) / u32::try_from(load.rate).unwrap_or(1));
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
    if count > 0 {
        #[expect(clippy::cast_precision_loss, reason = "memory in KiB is far below 2^52")]
        let whole = resident_kib()? as f64 / 1024.0;
        let name = format!("memory of the process with {} more, who hear of orders", users.len());
        report.figure("subscriptions", name, whole, "MiB", "");
    }
    let sample = followers.finish(placed, started).await?;
    let (p50, p99) = (sample.millis(0.5), sample.millis(0.99));
    let name = format!("{on}: {} who follow, beside {count}", users.len());
    report.add(Case { callers: users.len(), ..case }, name, &[sample], None);
    report.figure(case.bench, format!("{on}: from a change to its client, p50"), p50, "ms", "under 20");
    report.figure(case.bench, format!("{on}: from a change to its client, p99"), p99, "ms", "");
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
    let source =
        Feed { connection, parking: None, policy: Policy::default(), read_models: None, rebuilds, outlet };
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

/// As many files as this process may open: at least so many connections, and some more.
fn descriptors(connections: u64) -> Result<(), Failure> {
    let needed = connections + 500;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    if maximum.is_none_or(|maximum| maximum >= needed) {
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
        return Ok(());
    }
    let most = maximum.unwrap_or_default();
    Err(format!(
        "{needed} open files are needed and {most} are allowed: `ulimit -Hn {needed}` as root, or --quick"
    )
    .into())
}

/// Resident memory of this process, in KiB.
fn resident_kib() -> Result<i64, Failure> {
    let status = std::fs::read_to_string("/proc/self/status")
        .map_err(because("memory can only be measured on Linux"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.trim().trim_end_matches(" kB").trim().parse().ok());
    Ok(number.ok_or("the kernel does not say how much memory is resident")?)
}
