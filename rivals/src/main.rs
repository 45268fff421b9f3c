//! # rivals: Waybill beside other event stores
//!
//! Measures "create and two appends per aggregate" with fsync before every acknowledgement: UmaDB, cqrs-es on PostgreSQL and
//! Waybill in its durable profile, all on this machine and in one run, round by round in turn. `fold` measures the other half:
//! order events folded into a table of PostgreSQL.

mod cqrs;
mod event;
mod fold;
mod measure;
mod report;
mod server;
mod umadb;
mod waybill;

use clap::{Parser, Subcommand, ValueEnum};
use cqrs::Cqrs;
use event::{Event, Move};
use measure::{Setting, measure};
use report::{Report, Row};
use std::{path::PathBuf, sync::Arc, time::Duration};
use umadb::Umadb;
use uuid::Uuid;
use waybill::Waybill;

/// Any failure ends the run.
pub(crate) type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

/// Measures event stores beside each other: create and two appends per aggregate, about 300 bytes per event, fsync before
/// every acknowledgement. Everything runs on the loopback interface, in folders that are removed.
#[derive(Parser)]
#[command(
    version,
    after_help = "To build: protoc (Debian: protobuf-compiler). To run: initdb and postgres on the path or in \
                  /usr/lib/postgresql (Debian: postgresql).\n\nExample: cargo run --release -- --rounds 5 --json"
)]
struct Arguments {
    #[command(subcommand)]
    role: Option<Role>,
    /// Contenders, by default all.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Name::value_variants().to_vec())]
    only: Vec<Name>,
    /// Workers at the same time.
    #[arg(long, value_delimiter = ',', default_values_t = [64, 256])]
    workers: Vec<usize>,
    /// Rounds, of which the median is taken; contenders take turns within each.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of one measurement.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Seconds before each measurement that do not count.
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
    /// One round of one second: whether it works, not how fast it is.
    #[arg(long, conflicts_with_all = ["rounds", "seconds"])]
    quick: bool,
    /// gRPC connections to UmaDB.
    #[arg(long, default_value_t = 1)]
    umadb_connections: usize,
    /// Connections of the PostgreSQL pool: 10 is what postgres-es takes.
    #[arg(long, default_value_t = 10)]
    postgres_connections: u32,
    /// Folder for the data of the servers; its disk is what is measured.
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    data: PathBuf,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// What this process does, other than to measure.
#[derive(Subcommand)]
enum Role {
    /// Be the UmaDB server (started by the measurement itself).
    #[command(hide = true)]
    UmadbServer {
        /// Where to listen.
        address: String,
        /// Where to keep the data.
        folder: PathBuf,
    },
    /// Measure projecting instead: order events folded into an orders table of PostgreSQL, beside cqrs-es, disintegrate and
    /// eventsourcing (Python, installed into target/ when it is first needed).
    Fold(fold::Arguments),
}

/// A contender's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Name {
    Umadb,
    CqrsEs,
    Waybill,
}

/// A contender, ready to record.
enum Contender {
    Umadb(Umadb),
    Cqrs(Box<Cqrs>),
    Waybill(Waybill),
}

impl Contender {
    async fn start(name: Name, folder: PathBuf, arguments: &Arguments) -> Result<Self> {
        std::fs::create_dir(&folder)?;
        Ok(match name {
            Name::Umadb => Self::Umadb(Umadb::start(&folder, arguments.umadb_connections).await?),
            Name::CqrsEs => Self::Cqrs(Box::new(Cqrs::start(&folder, arguments.postgres_connections).await?)),
            Name::Waybill => Self::Waybill(Waybill::start(&folder).await?),
        })
    }

    const fn name(&self) -> &'static str {
        match self {
            Self::Umadb(_) => "umadb 0.7.8",
            Self::Cqrs(_) => "cqrs-es 0.5 + PostgreSQL",
            Self::Waybill(_) => "waybill, durable",
        }
    }

    /// Records one event. `last` is what the append before gave: the position that `UmaDB` appends after.
    async fn append(&self, command: Move, last: Option<u64>, loading: bool) -> Result<Option<u64>> {
        match self {
            Self::Umadb(umadb) => return Ok(Some(umadb.append(command, last, loading).await?)),
            Self::Cqrs(cqrs) => cqrs.append(command, loading).await?,
            Self::Waybill(waybill) => waybill.append(command, loading).await?,
        }
        Ok(None)
    }

    /// Ends what a measurement left behind before another contender's begins.
    async fn settle(&self) -> Result<()> {
        match self {
            Self::Cqrs(cqrs) => cqrs.settle().await,
            Self::Umadb(_) | Self::Waybill(_) => Ok(()),
        }
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = Arguments::parse();
    if arguments.quick {
        (arguments.rounds, arguments.seconds) = (1, 1.0);
    }
    match &arguments.role {
        Some(Role::UmadbServer { address, folder }) => return umadb::serve(address, folder).await,
        Some(Role::Fold(fold)) => {
            return tokio::select! {
                done = fold::run(fold) => done,
                _ = tokio::signal::ctrl_c() => Err("interrupted".into()),
            };
        }
        None => {}
    }
    let report = tokio::select! {
        report = compare(&arguments) => report?,
        _ = tokio::signal::ctrl_c() => return Err("interrupted".into()),
    };
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{report}");
    }
    Ok(())
}

/// Starts the contenders and lets them take turns.
async fn compare(arguments: &Arguments) -> Result<Report> {
    let data = tempfile::Builder::new().prefix("rivals-").tempdir_in(&arguments.data)?;
    // PostgreSQL runs as another user where we are root, and has to reach its folder.
    std::fs::set_permissions(data.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let mut contenders = Vec::new();
    for name in &arguments.only {
        let folder = data.path().join(format!("{name:?}"));
        contenders.push(Arc::new(Contender::start(*name, folder, arguments).await?));
    }
    let workers = arguments.workers.iter();
    let settings: Vec<_> =
        workers.flat_map(|&workers| [false, true].map(|loading| Setting { workers, loading })).collect();
    let seconds = Duration::try_from_secs_f64(arguments.seconds)?;
    let warm_up = Duration::try_from_secs_f64(arguments.warm_up)?;
    let mut samples = vec![Vec::new(); settings.len() * contenders.len()];
    for round in 1..=arguments.rounds {
        eprintln!("round {round} of {}", arguments.rounds);
        for (s, setting) in settings.iter().enumerate() {
            for (c, contender) in contenders.iter().enumerate() {
                let sample = measure(contender, *setting, warm_up, seconds).await;
                let sample = sample.map_err(|error| format!("{}: {error}", contender.name()))?;
                samples[s * contenders.len() + c].push(sample);
                contender.settle().await?;
            }
        }
    }
    let runs = settings.iter().flat_map(|setting| contenders.iter().map(move |c| (c.name(), *setting)));
    Ok(Report {
        cpus: std::thread::available_parallelism()?.get(),
        payload_bytes: Event::new(Move { id: Uuid::now_v7(), version: 1 }).body()?.len(),
        rounds: arguments.rounds,
        seconds: arguments.seconds,
        durability: "fsync before every acknowledgement",
        rows: runs.zip(&samples).map(|((name, setting), rounds)| Row::new(name, setting, rounds)).collect(),
    })
}
