//! `waybill serve`: services against an existing NATS.

use crate::{
    failure::{Failure, because},
    outside::{Outside, OutsideArgs, Span},
    settings::{self, MasterKeyArgs},
    system::{Advertise, Config, Service, System},
};
use nats::Durability;
use service::config::{Faults, Settings};
use std::path::PathBuf;
use tokio::net::TcpListener;

pub(crate) const EXAMPLES: &str = "\
Examples:
  waybill serve all --nats-url nats://127.0.0.1:4222
  waybill serve orders --nats-url nats://nats:4222 --host 0.0.0.0 --port 8080 --replicas 3
  WAYBILL_MASTER_KEY=$(openssl rand -base64 32) waybill serve all --nats-url nats://127.0.0.1:4222
  WAYBILL_NATS_URL=nats://nats:4222 waybill serve payments inventory --ports payments=4003";

/// Flags of `waybill serve`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// users, orders, payments, inventory, shipping, or all
    #[arg(required = true, value_name = "SERVICE")]
    services: Vec<String>,
    /// Where NATS is
    #[arg(long, value_name = "URL", env = "WAYBILL_NATS_URL")]
    nats_url: Option<String>,
    /// Folder of the read models
    #[arg(long, value_name = "DIR", env = "WAYBILL_DATA", default_value = ".waybill")]
    data: PathBuf,
    /// The address to listen on
    #[arg(long, env = "WAYBILL_HOST", default_value = "127.0.0.1")]
    host: String,
    /// The port of the one service [default: users 3001, orders 3002, payments 3003, inventory 3004, shipping 3005]
    #[arg(long, env = "WAYBILL_PORT")]
    port: Option<String>,
    /// Ports of several services
    #[arg(long, value_name = "SERVICE=PORT,..", env = "WAYBILL_PORTS", conflicts_with = "port")]
    ports: Option<String>,
    /// Where others reach this process, with a port where it is not the one listened on [default: where it listens, or
    /// where this machine reaches NATS from]
    #[arg(long, value_name = "URL", env = "WAYBILL_ADVERTISE_URL")]
    advertise: Option<String>,
    /// Where the keys of access tokens are published [default: the keys themselves, as NATS keeps them]
    #[arg(long, value_name = "URL", env = "WAYBILL_JWKS_URL")]
    jwks_url: Option<String>,
    /// How long orders rely on what the users service said of a customer [default: 30s]
    #[arg(long, value_name = "TIME", env = "WAYBILL_USERS_FRESH_FOR")]
    users_fresh_for: Option<String>,
    /// What NATS is configured to do before it acknowledges: always writes to disk, interval does so every two minutes
    #[arg(long, value_name = "PROFILE", env = "WAYBILL_DURABILITY", default_value = "always")]
    durability: String,
    /// Copies of each stream: 1, or 3 on a cluster
    #[arg(long, value_name = "COUNT", env = "WAYBILL_REPLICAS", default_value = "1")]
    replicas: String,
    #[command(flatten)]
    master_key: MasterKeyArgs,
    #[command(flatten)]
    outside: OutsideArgs,
}

/// Runs until it is asked to stop, then finishes what has begun.
pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let (config, places) = read(&args)?;
    let mut listeners = Vec::new();
    for (service, port) in places {
        let bound = TcpListener::bind((args.host.as_str(), port)).await;
        let listener = bound.map_err(because(format!("{service} cannot listen on {}:{port}", args.host)))?;
        listeners.push((service, listener));
    }
    let mut system = System::start(&config, listeners).await?;
    tracing::info!(durability = %config.durability, replicas = config.replicas, "running");
    let result = tokio::select! {
        signal = service::signal() => signal.map_err(Failure::from),
        failure = system.failed() => Err(failure),
    };
    if let Ok(signal) = result {
        tracing::info!(signal, "stopping");
    }
    tokio::select! {
        _ = system.stop() => {}
        _ = service::signal() => tracing::warn!("stopped at once; the log has what was not finished"),
    }
    result.map(|_| ())
}

fn read(args: &Args) -> Result<(Config, Vec<(Service, u16)>), Failure> {
    let mut flags = settings::flags(args.outside.flags().into_iter().chain([
        ("--nats-url", args.nats_url.clone()),
        ("--port", args.port.clone()),
        ("--ports", args.ports.clone()),
        ("--advertise", args.advertise.clone()),
        ("--jwks-url", args.jwks_url.clone()),
        ("--users-fresh-for", args.users_fresh_for.clone()),
        ("--durability", Some(args.durability.clone())),
        ("--replicas", Some(args.replicas.clone())),
    ]));
    let services = services(&args.services, flags.faults());
    let nats_url: Option<String> = flags.required("--nats-url");
    let durability: Option<Durability> = flags.optional("--durability");
    let replicas: Option<usize> = flags.optional("--replicas");
    if replicas.is_some_and(|replicas| ![1, 3, 5].contains(&replicas)) {
        flags.faults().add("--replicas", "expected 1, 3 or 5");
    }
    let places = places(&services, &mut flags);
    let advertise: Option<Advertise> = flags.optional("--advertise");
    if services.len() > 1 && advertise.as_ref().is_some_and(Advertise::has_port) {
        flags.faults().add("--advertise", "several services have several ports: leave the port out");
    }
    let outside = Outside::read(&mut flags);
    let master_key = args.master_key.read(flags.faults());
    let jwks_url = flags.optional::<reqwest::Url>("--jwks-url").map(String::from);
    let users_fresh_for = flags.optional("--users-fresh-for").map(|Span(time)| time);
    let given = nats_url.zip(durability).zip(replicas).zip(master_key);
    let config = given.map(|(((nats_url, durability), replicas), master_key)| {
        let usual = Config::new(nats_url, &args.data);
        let users_fresh_for = users_fresh_for.unwrap_or(usual.users_fresh_for);
        Config { durability, replicas, outside, master_key, jwks_url, users_fresh_for, advertise, ..usual }
    });
    Ok(flags.finish(config.map(|config| (config, places)))?)
}

/// The services named, each once.
fn services(names: &[String], faults: &mut Faults) -> Vec<Service> {
    let mut services = Vec::new();
    for name in names {
        match name.as_str().parse() {
            _ if name == "all" => services.extend(Service::ALL),
            Ok(service) => services.push(service),
            Err(why) => faults.add("SERVICE", why),
        }
    }
    services.sort_unstable();
    services.dedup();
    services
}

/// The port of each service.
fn places(services: &[Service], flags: &mut Settings) -> Vec<(Service, u16)> {
    let only: Option<u16> = flags.optional("--port");
    if only.is_some() && services.len() > 1 {
        flags.faults().add("--port", "several services need several ports: use --ports");
    }
    let ports: settings::Ports = flags.optional("--ports").unwrap_or_default();
    let port = |service: Service| only.or_else(|| ports.of(service.name())).unwrap_or_else(|| service.port());
    services.iter().map(|service| (*service, port(*service))).collect()
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

    fn read(line: &str) -> Result<(Config, Vec<(Service, u16)>), String> {
        let key = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&key, &*nats::MasterKey::generate().to_base64()).unwrap();
        let key = ["--master-key-file", key.path().to_str().unwrap()];
        let line = Line::parse_from(["serve"].into_iter().chain(line.split_whitespace()).chain(key));
        super::read(&line.args).map_err(|error| error.to_string())
    }

    #[test]
    fn all_is_every_service_on_its_port() {
        let (_, places) = read("all orders --nats-url nats://x --ports payments=4003").unwrap();
        let ports: Vec<_> = places.iter().map(|(_, port)| *port).collect();
        assert_eq!(ports, [3001, 3002, 4003, 3004, 3005]);
        let (_, places) = read("shipping --nats-url nats://x --port 80").unwrap();
        assert_eq!(places, [(Service::Shipping, 80)]);
    }

    #[test]
    fn every_fault_is_named_at_once() {
        let faults = read(
            "orders carts --nats-url nats://x --ports orders=x --durability maybe --replicas 2 --carrier x",
        );
        let faults = faults.unwrap_err();
        for flag in ["SERVICE", "--ports", "--durability", "--replicas", "--carrier"] {
            assert!(faults.contains(flag), "{flag} is missing in {faults}");
        }
        assert!(read("all --nats-url nats://x --port 80").unwrap_err().contains("--port"));
        assert!(read("all --nats-url nats://x --advertise http://x:80").unwrap_err().contains("--advertise"));
        read("all --nats-url nats://x --advertise http://x").unwrap();
    }
}
