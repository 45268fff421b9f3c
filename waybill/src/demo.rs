//! `waybill demo`: orders of every kind on their way, and the proof that nothing was lost on it.

mod board;
mod story;

use crate::{
    api::{Api, Tokens},
    audit::Audit,
    calls::UsersCalls,
    dev::{DevFile, Local, Plan},
    failure::Failure,
    flow::Flow,
    outside::Outside,
    settings::Ports,
    subscriptions::Subscriptions,
};
use commands::notifications::Channels;
use nats::{Connection, Durability, From, Policies};
use service::Clock;
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    time::{Duration, Instant},
};
use story::Outcome;
use tokio::time::sleep;

pub(crate) const EXAMPLES: &str = "\
Examples:
  waybill demo                   against the running waybill dev, else against a system of its own
  waybill demo --orders 100      more of those that succeed
  waybill demo --alone           a system of its own in any case";

/// What follows from the last order, such as giving back stock, may take so long.
const SETTLED_WITHIN: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(100);

/// Flags of `waybill demo`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many orders, beside those that cannot succeed
    #[arg(long, value_name = "COUNT", default_value_t = 6, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    orders: u16,
    /// Start a system for the demo alone, in a temporary folder
    #[arg(long)]
    alone: bool,
    /// Data folder of the running dev
    #[arg(long, value_name = "DIR", env = "WAYBILL_DATA", default_value = ".waybill")]
    data: PathBuf,
}

/// Runs the demo to its end, or until it is stopped.
pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let running = if args.alone { None } else { DevFile::find(&args.data)? };
    if let Some(dev) = running {
        println!("Placing orders with the waybill dev of process {}.", dev.pid);
        let tokens = Tokens::of_dev(&args.data, &dev.nats_url).await?;
        let api = Api::at(dev.services).with_tokens(tokens);
        return Box::pin(until_stopped(play(&args, api, &dev.nats_url))).await;
    }
    println!("Starting a system of its own for the demo.");
    let dir = tempfile::tempdir()?;
    let plan = Plan {
        data: dir.path().to_owned(),
        durability: Durability::Always,
        postgres: None,
        host: IpAddr::V4(Ipv4Addr::LOCALHOST),
        ports: Ports::free(),
        users_calls: UsersCalls::default(),
        subscriptions: Subscriptions::default(),
        outside: Outside::default(),
        channels: Channels::outbox(dir.path().join("outbox")),
        policies: Policies::default(),
        flow: Flow::default(),
        gateway_config: None,
    };
    let local = Box::pin(until_stopped(Local::start(plan))).await?;
    let result = Box::pin(until_stopped(play(&args, local.api(), &local.nats_url()))).await;
    local.stop().await;
    result
}

async fn until_stopped<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::select! {
        result = work => result,
        signal = service::signal() => Err(format!("stopped by {}", signal?).into()),
    }
}

async fn play(args: &Args, api: Api, nats_url: &str) -> Result<(), Failure> {
    let clock = Clock::system();
    let connection = Connection::connect(nats_url, "waybill demo").await?;
    // A little earlier, should the clocks of the two processes differ.
    let since = From::Time(clock.now() - jiff::SignedDuration::from_secs(1));
    let started = Instant::now();
    let outcomes = story::play(&api, &clock, args.orders.into()).await?;
    summarise(&outcomes, started.elapsed());
    let ids: std::collections::HashSet<_> = outcomes.iter().map(|outcome| outcome.order).collect();
    let deadline = Instant::now() + SETTLED_WITHIN;
    loop {
        let mut audit = Audit::of_log(&connection, since).await?;
        audit.retain(|order| ids.contains(&order.uuid()));
        let mut wrong = audit.faults();
        if wrong.is_empty() {
            wrong = audit.differences(&api).await?;
        }
        if wrong.is_empty() && audit.orders() == ids.len() {
            println!("Checked against the log, and it holds:");
            println!("  every order has ended exactly once, and is done or undone as a whole");
            println!("  stock and balances are the sums of what happened to them, and never below zero");
            println!("  the read models say what the log says");
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!("the log does not hold what it must:\n  {}", wrong.join("\n  ")).into());
        }
        sleep(POLL).await;
    }
}

fn summarise(outcomes: &[Outcome], took: Duration) {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for outcome in outcomes {
        *counts.entry(outcome.to_string()).or_default() += 1;
    }
    println!("\n{} orders in {:.1} s:", outcomes.len(), took.as_secs_f64());
    for (outcome, count) in counts {
        println!("  {count:>5}  {outcome}");
    }
    println!();
}
