//! `waybill verify`: whether the log is whole, whether it can be read, and whether the read models say what it says.

mod aggregates;
mod chains;
mod faults;
mod finding;
mod gate;
mod headers;
mod log;
mod report;
mod tables;

use crate::{
    access::{AccessArgs, OPERATOR, as_role},
    audit::Audit,
    databases::{DatabaseArgs, Databases},
    dev::find_nats,
    failure::{Failure, Unable},
    progress::Progress,
    settings,
    system::Service,
};
use events::{Context, OrderId};
use finding::{Findings, Kind};
use log::{Log, LogCheck, Parts};
use nats::{Access, Connection, NatsUrl};
use report::{Format, Report};
use service::config::{Faults, Span};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};
use tables::Tables;
use tokio::time::{Instant, sleep};

pub(crate) const EXAMPLES: &str = "\
Examples:
  waybill verify                               the log, its schemas and every read model of the running dev
  waybill verify orders payments               two read models only
  waybill verify --streams                     sequences, headers, aggregates, chains, money and stock
  waybill verify --schema --output json        every type, version and shape that is recorded
  waybill verify --nats-url nats://nats:4222 --data /var/lib/waybill

Exit codes: 0 all agrees, 1 something differs, 2 it cannot be told, 64 wrong usage.";

/// Between two looks at orders that have ended and are not through yet.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// Flags of `waybill verify`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Services whose read models are compared with the log [default: all, and the log is verified too]
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
    /// Verify the streams: sequences, headers, aggregates, chains of causes, money and stock
    #[arg(long)]
    streams: bool,
    /// Verify that everything recorded can be read by this program, and list what is recorded
    #[arg(long)]
    schema: bool,
    /// How long what follows from the end of an order may take, before its absence is a finding
    #[arg(long, value_name = "TIME", default_value = "10s")]
    patience: String,
    /// How findings are printed: table or json
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    output: String,
    /// Where NATS is [default: that of the running dev]
    #[arg(long, value_name = "URL", env = "WAYBILL_NATS_URL")]
    nats_url: Option<NatsUrl>,
    #[command(flatten)]
    access: AccessArgs,
    /// Data folder of the running dev; with --nats-url that of waybill serve
    #[arg(long, value_name = "DIR", env = "WAYBILL_DATA", default_value = ".waybill")]
    data: PathBuf,
    #[command(flatten)]
    databases: DatabaseArgs,
}

/// What is to be verified.
#[derive(Debug)]
struct Plan {
    parts: Parts,
    services: Vec<Service>,
    databases: Databases,
    access: Access,
    patience: Duration,
    output: Format,
}

impl Plan {
    fn read(args: &Args) -> Result<Self, Faults> {
        let mut flags =
            settings::flags(args.databases.flags().into_iter().chain([
                ("--patience", Some(args.patience.clone())),
                ("--output", Some(args.output.clone())),
            ]));
        let patience = flags.optional("--patience").map(|Span(time)| time);
        let output = flags.optional::<Format>("--output");
        let mut services = BTreeSet::new();
        for name in &args.services {
            match name.parse::<Service>() {
                Ok(service) => _ = services.insert(service),
                Err(why) => flags.faults().add("SERVICE", why),
            }
        }
        let all = services.is_empty() && !args.streams && !args.schema;
        let parts = Parts { log: args.streams || all, schema: args.schema || all };
        let services = if all { Service::ALL.to_vec() } else { services.into_iter().collect() };
        let databases = DatabaseArgs::read(&mut flags, &services);
        let access = args.access.only(OPERATOR, flags.faults());
        let plan = patience.zip(output);
        flags.finish(plan.map(|(patience, output)| Self {
            parts,
            services,
            databases,
            access,
            patience,
            output,
        }))
    }
}

/// Says everything that is wrong with the settings.
pub(crate) fn check(args: &Args) -> Result<(), Failure> {
    Ok(Plan::read(args).map(|_| ())?)
}

/// Verifies, prints what was found, and fails where there is anything.
pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let plan = Plan::read(&args)?;
    let verified = tokio::select! {
        report = verify(&args, &plan) => as_role(OPERATOR, &plan.access, report).map_err(Unable::tell),
        signal = service::signal() => return Err(Unable::tell(format!("stopped by {}", signal?).into())),
    };
    let report = verified?;
    report.print(plan.output).map_err(|error| Unable::tell(error.into()))?;
    match report.findings() {
        0 => Ok(()),
        count => Err(format!("{count} findings: docs/verify.md says what each means").into()),
    }
}

async fn verify(args: &Args, plan: &Plan) -> Result<Report, Failure> {
    let url = find_nats(args.nats_url.clone(), &args.data)?;
    let connection = Connection::connect_as(&url, "waybill verify", &plan.access).await?;
    let mut report = Report::default();
    if plan.parts.log || plan.parts.schema {
        verify_log(&connection, plan, &mut report).await?;
    }
    // Who compares no read model needs no folder to fold one in: in a container there may be none that can be written to.
    if plan.services.is_empty() {
        return Ok(report);
    }
    let folder = settings::views(args.nats_url.as_deref(), &args.data);
    let scratch = tempfile::tempdir()?;
    let tables = Tables {
        connection: &connection,
        databases: &plan.databases,
        folder,
        scratch: scratch.path().to_owned(),
    };
    let mut findings = Findings::default();
    for service in &plan.services {
        let checked = Box::pin(tables.check(*service, &mut findings)).await?;
        report.tables(service.name(), checked);
    }
    report.add(findings);
    Ok(report)
}

async fn verify_log(connection: &Connection, plan: &Plan, report: &mut Report) -> Result<(), Failure> {
    let mut log = Log::open(connection, &Context::ALL).await?;
    let mut check = LogCheck::new(plan.parts);
    let progress = Progress::new("log", log.messages());
    log.read(&mut check, || progress.advance(1)).await?;
    progress.finish();
    let at = log.cut.at;
    let under_way = check.audit.under_way();
    if plan.parts.log {
        for (order, faults) in not_through(&mut log, &mut check, plan.patience).await? {
            for fault in faults {
                check.findings.add(Kind::Order, format!("order/{order}"), fault);
            }
        }
    }
    check.finish();
    report.log(check, at, under_way, plan.parts);
    Ok(())
}

/// Orders that have ended, but not with everything done or undone. What follows from an end takes a moment: those that were
/// there at the first look are looked at again until they are through, or the time is up.
async fn not_through(
    log: &mut Log,
    check: &mut LogCheck,
    patience: Duration,
) -> Result<BTreeMap<OrderId, Vec<String>>, Failure> {
    let deadline = Instant::now() + patience;
    let mut open = check.audit.of_ended_orders();
    while !open.is_empty() && Instant::now() < deadline {
        sleep(LOOK_AGAIN).await;
        log.go_on(check).await?;
        let now = Audit::of_ended_orders(&check.audit);
        open.retain(|order, _| now.contains_key(order));
    }
    let now = check.audit.of_ended_orders();
    Ok(now.into_iter().filter(|(order, _)| open.contains_key(order)).collect())
}
