//! `waybill doctor`: looks at everything that an installation rests on, changes nothing, and says for each thing that is
//! wrong what it is and what to do.

mod certificates;
mod databases;
mod finding;
mod log;
mod machine;
mod monitor;

use crate::{
    access::{AccessArgs, OPERATOR},
    databases::{DatabaseArgs, Databases},
    dev::{DevFile, find_nats},
    failure::Failure,
    settings::{self, MasterKeyArgs},
    system::Service,
};
use finding::{Area, Report};
use jiff::SignedDuration;
use nats::{Access, Connection, Durability, NatsUrl, examine};
use service::{
    Clock,
    config::{Faults, Span},
};
use std::{collections::BTreeSet, path::PathBuf};

pub(crate) const EXAMPLES: &str = "\
Examples:
  waybill doctor                                 the running dev
  waybill doctor --nats-url nats://nats-1:4222,nats://nats-2:4222,nats://nats-3:4222 --replicas 3 \\
      --monitor http://nats-1:8222,http://nats-2:8222,http://nats-3:8222
  waybill doctor orders --nats-url nats://nats:4222 --data /var/lib/waybill --json

Nothing is changed. Exit codes: 0 nothing is wrong, 1 something is, 64 wrong usage.
What could not be known is listed, and is no finding.";

/// Flags of `waybill doctor`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Services whose databases are looked at [default: all]
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    /// Where NATS is [default: that of the running dev]
    #[arg(long, value_name = "URL,..", env = "WAYBILL_NATS_URL")]
    nats_url: Option<NatsUrl>,
    #[command(flatten)]
    access: AccessArgs,
    /// Where nodes of NATS say how they are (`http_port` of nats-server): what no client can see, such as whether they write to
    /// disk before they acknowledge
    #[arg(long, value_name = "URL,..", env = "WAYBILL_NATS_MONITOR", value_delimiter = ',')]
    monitor: Vec<String>,
    /// What NATS shall do before it acknowledges: always or interval [default: that of the running dev, or always]
    #[arg(long, value_name = "PROFILE", env = "WAYBILL_DURABILITY")]
    durability: Option<String>,
    /// Copies that each stream has to have: 1, or 3 on a cluster
    #[arg(long, value_name = "COUNT", env = "WAYBILL_REPLICAS", default_value = "1")]
    replicas: String,
    /// More messages than these, waiting for a consumer or a read model, are a finding
    #[arg(long, value_name = "COUNT", default_value = "1000")]
    lag: String,
    /// A clock that differs more is a finding
    #[arg(long, value_name = "TIME", default_value = "1s")]
    skew: String,
    /// Disks and limits that are fuller, in percent, are a finding
    #[arg(long, value_name = "PERCENT", default_value = "80")]
    full: String,
    /// Data folder of the running dev; with --nats-url that of waybill serve
    #[arg(long, value_name = "DIR", env = "WAYBILL_DATA", default_value = ".waybill")]
    data: PathBuf,
    #[command(flatten)]
    master_key: MasterKeyArgs,
    #[command(flatten)]
    databases: DatabaseArgs,
}

/// What is looked at, and what is too much.
struct Plan {
    services: Vec<Service>,
    databases: Databases,
    access: Access,
    monitors: Vec<reqwest::Url>,
    durability: Option<Durability>,
    replicas: usize,
    lag: u64,
    skew: SignedDuration,
    full: u64,
    clock: Clock,
}

impl Plan {
    fn read(args: &Args) -> Result<Self, Faults> {
        let given = [
            ("--durability", args.durability.clone()),
            ("--replicas", Some(args.replicas.clone())),
            ("--lag", Some(args.lag.clone())),
            ("--skew", Some(args.skew.clone())),
            ("--full", Some(args.full.clone())),
        ];
        let mut flags = settings::flags(args.databases.flags().into_iter().chain(given));
        let (durability, replicas) = (flags.optional("--durability"), flags.optional("--replicas"));
        let (lag, full) = (flags.optional("--lag"), flags.optional("--full"));
        let skew = flags.optional("--skew").and_then(|Span(time)| SignedDuration::try_from(time).ok());
        if full.is_some_and(|percent: u64| !(1..=100).contains(&percent)) {
            flags.faults().add("--full", "expected 1 to 100");
        }
        let mut monitors = Vec::new();
        for text in args.monitor.iter().filter(|text| !text.is_empty()) {
            match text.trim().parse::<reqwest::Url>() {
                Ok(url) if url.has_host() => monitors.push(url),
                _ => flags.faults().add("--monitor", format!("{text} is no URL: expected http://HOST:8222")),
            }
        }
        let mut services = BTreeSet::new();
        for name in &args.services {
            match name.parse::<Service>() {
                Ok(service) => _ = services.insert(service),
                Err(why) => flags.faults().add("SERVICE", why),
            }
        }
        let services =
            if services.is_empty() { Service::ALL.to_vec() } else { services.into_iter().collect() };
        let databases = DatabaseArgs::read(&mut flags, &services);
        let access = args.access.only(OPERATOR, flags.faults());
        let plan = replicas.zip(lag).zip(skew.zip(full));
        flags.finish(plan.map(|((replicas, lag), (skew, full))| Self {
            services,
            databases,
            access,
            monitors,
            durability,
            replicas,
            lag,
            skew,
            full,
            clock: Clock::system(),
        }))
    }
}

/// Says everything that is wrong with the settings.
pub(crate) fn check(args: &Args) -> Result<(), Failure> {
    Ok(Plan::read(args).map(|_| ())?)
}

/// Looks at everything, prints what was found, and fails where anything is wrong.
pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let mut plan = Plan::read(&args)?;
    let mut report = Report::default();
    let url = find_nats(args.nats_url.clone(), &args.data);
    let dev = if args.nats_url.is_none() { DevFile::find(&args.data).ok().flatten() } else { None };
    if let Some(dev) = &dev {
        // It has written the configuration of its server itself.
        monitor::of_dev(&mut plan, &args.data, &dev.durability, &mut report);
    }
    let connection = match &url {
        Ok(url) => {
            Connection::connect_any_as(url, "waybill doctor", &plan.access).await.map_err(Failure::from)
        }
        Err(error) => Err(error.to_string().into()),
    };
    let connection = match connection {
        Ok(connection) => Some(connection),
        Err(error) => {
            let todo = "start it, or say where it is with --nats-url; nothing that it keeps was looked at";
            report.find(Area::Nats, "nats-server", crate::failure::report(&*error), todo);
            None
        }
    };
    let connection = answered(connection, &plan, &mut report).await;
    let mut usable = None;
    if let Some(connection) = &connection
        && log::check(connection, &plan, &mut report).await
    {
        machine::master_key(&args, dev.is_some(), connection, &mut report).await;
        usable = Some(connection);
    }
    let folder = settings::views(args.nats_url.as_deref(), &args.data);
    Box::pin(databases::check(usable, &plan, &folder, &mut report)).await;
    monitor::check(&plan, dev.is_some(), &mut report).await;
    machine::secret_files(&args, &mut report);
    certificates::check(&args, &plan, &mut report);
    machine::disk(&args.data, &plan, &mut report);
    report.print(args.json)?;
    match report.findings() {
        0 => Ok(()),
        count => Err(format!("{count} findings: docs/operations.md says more of each").into()),
    }
}

/// The connection, unless NATS answers nothing to who came with it.
async fn answered(connection: Option<Connection>, plan: &Plan, report: &mut Report) -> Option<Connection> {
    let connection = connection?;
    if !examine::is_answered(&connection).await
        && let Some(what) = plan.access.refusals.first()
    {
        let what = format!("NATS refuses what doctor asks ({what})");
        let todo = "come as operator, with --nats-nkey-file seeds/operator.nk; nothing that NATS keeps was looked at";
        report.find(Area::Credentials, "NATS", what, todo);
        return None;
    }
    Some(connection)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    /// What is too much where nothing else is said.
    pub(super) fn plan() -> Plan {
        Plan::read(&Line::parse_from(["doctor"]).args).unwrap()
    }

    #[test]
    fn every_fault_is_named_at_once() {
        let line = "doctor carts --durability maybe --replicas x --lag x --skew soon --full 0 --monitor x --nats-ca /no/ca";
        let args = Line::parse_from(line.split_whitespace()).args;
        let faults = Plan::read(&args).err().unwrap().to_string();
        for flag in
            ["SERVICE", "--durability", "--replicas", "--lag", "--skew", "--full", "--monitor", "--nats-ca"]
        {
            assert!(faults.contains(flag), "{flag} is missing in {faults}");
        }
    }
}
