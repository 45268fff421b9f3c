//! `waybill bench`: what the system does per second and how long it takes, beside what the parts beneath it do.
//!
//! Machines are noisy, so every figure stands beside a baseline measured in the same run on the same nats-server, in
//! alternating rounds; the ratio of the medians is the figure to quote.

mod cold;
mod commands;
mod flow;
mod gateway;
mod hot;
mod http;
mod load;
mod projection;
mod recovery;
mod report;
mod rivals;
mod sizing;
mod stage;
mod subscriptions;
mod timers;

use crate::{databases::Secret, failure::Failure, settings::fault};
use events::orders::Workflow;
use nats::Durability;
use projections::database::PostgresUrl;
use report::Report;

pub(crate) const EXAMPLES: &str = "\
Examples:
  waybill bench commands                       append and load, beside raw publishes
  waybill bench flow --durability always       orders from accepted to completed
  waybill bench flow --workflow orchestration  the same, beside orders that a saga carries
  waybill bench gateway                        requests through the gateway and through nginx
  waybill bench memory                         the gateway after a million client addresses
  waybill bench projection --postgres postgres://postgres:secret@db/postgres
                                               events into read models, on SQLite and on this server
  waybill bench projection --events 5000000    what reading and building from a long stream take from memory
  waybill bench subscriptions                  10 000 clients that wait and 1000 that hear of changes
  waybill bench timers                         100 000 of them: memory, and how late they fire
  waybill bench sizing                         CPU, memory and disk at 25 to 200 orders/s
  waybill bench recovery                       10 000 sagas under way, kill -9 of everything, started again
  waybill bench all --json > figures.json
  waybill bench commands --quick               a tenth of the load, to see that it works

Run it from a release build on a quiet machine: cargo run --release -- bench all";

/// Arguments of `bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to measure
    #[arg(value_enum, default_value = "all")]
    what: What,
    /// Measure only this durability profile [default: both]
    #[arg(long, value_name = "PROFILE")]
    durability: Option<Durability>,
    /// Beside the flow as it is, measure orders that this carries: orchestration
    #[arg(long, value_name = "WORKFLOW")]
    workflow: Option<Workflow>,
    /// With 'projection': a PostgreSQL server, as somebody who may make databases and roles; it makes and removes
    /// databases called `waybill_bench_<NUMBER>` [default: one that is started where PostgreSQL is installed]
    #[arg(long, value_name = "URL", env = "WAYBILL_BENCH_POSTGRES", hide_env_values = true)]
    postgres: Option<Secret>,
    /// With 'projection': only measure what reading and building take from memory, from a stream of so many events
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1000..))]
    events: Option<u64>,
    /// A tenth of the load
    #[arg(long)]
    quick: bool,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum What {
    /// Appends and loads through the executor and over HTTP, beside raw publishes
    Commands,
    /// Orders from accepted to completed with every read model caught up
    Flow,
    /// Reservations of one single SKU, beside a loop of load, decide, append, retry
    Hot,
    /// The gateway and nginx in front of the same service, and that service called directly
    Gateway,
    /// What a gateway takes that has seen a million addresses
    Memory,
    /// Events into a read model, beside consuming and parsing them
    Projection,
    /// Very many armed timers: memory, and how late they fire
    Timers,
    /// Sagas under way when everything is killed and started again
    Recovery,
    /// Clients that follow read models: memory, latency, and what telling takes from projecting
    Subscriptions,
    /// CPU, memory and disk at some rates, with every service in one process
    Sizing,
    /// Follows for 'subscriptions', in a process of its own
    #[value(hide = true)]
    Idle,
    /// The same work on other event stores (builds the crate in rivals/)
    Rivals,
    /// Everything but the rivals
    All,
}

/// How much is measured.
#[derive(Clone, Copy, Debug)]
struct Scale {
    /// Rounds of each case, alternating with its baseline.
    rounds: usize,
    /// Divides every count of operations.
    divisor: u64,
}

impl Scale {
    fn of(self, operations: u64) -> u64 {
        (operations / self.divisor).max(64)
    }
}

/// Measures and prints.
pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    if args.what == What::Rivals {
        return rivals::run(args.json, args.quick).await;
    }
    if args.what == What::Idle {
        return subscriptions::idle().await;
    }
    let scale = if args.quick { Scale { rounds: 1, divisor: 10 } } else { Scale { rounds: 3, divisor: 1 } };
    let profiles =
        args.durability.map_or_else(|| vec![Durability::Interval, Durability::Always], |one| vec![one]);
    let postgres = args.postgres.as_ref().map(|url| url.reveal().parse::<PostgresUrl>()).transpose();
    let postgres = postgres.map_err(fault("--postgres"))?;
    let options = projection::Options { postgres, events: args.events };
    let mut report = Report::new();
    for durability in profiles {
        let wants = |what| args.what == What::All || args.what == what;
        if wants(What::Commands) {
            Box::pin(commands::measure(durability, scale, &mut report)).await?;
        }
        if wants(What::Hot) {
            Box::pin(hot::measure(durability, scale, &mut report)).await?;
        }
        if wants(What::Flow) {
            Box::pin(flow::measure(durability, scale, args.workflow, &mut report)).await?;
        }
        // What a proxy adds does not depend on when the server syncs.
        if wants(What::Gateway) && (durability == Durability::Interval || args.durability.is_some()) {
            Box::pin(gateway::measure(durability, scale, &mut report)).await?;
        }
        if wants(What::Timers) {
            Box::pin(timers::measure(durability, scale, &mut report)).await?;
        }
        if wants(What::Recovery) {
            Box::pin(recovery::measure(durability, scale, &mut report)).await?;
        }
        // Measured with the gateway, and by itself.
        if args.what == What::Memory && (durability == Durability::Interval || args.durability.is_some()) {
            Box::pin(gateway::measure_memory(durability, scale, &mut report)).await?;
        }
        if wants(What::Projection) {
            Box::pin(projection::measure(durability, scale, &options, &mut report)).await?;
        }
        if wants(What::Sizing) {
            Box::pin(sizing::measure(durability, scale, &mut report)).await?;
        }
        if wants(What::Subscriptions) {
            Box::pin(subscriptions::measure(durability, scale, &mut report)).await?;
        }
    }
    report.print(args.json)
}
