//! `waybill serve`: services against an existing NATS.

use crate::{
    access::AccessArgs,
    calls::{CallArgs, UsersCalls},
    channels::ChannelArgs,
    databases::DatabaseArgs,
    edge::{self, Edge, EdgeConfig, GATEWAY},
    failure::{Failure, because},
    flow::{Flow, FlowArgs},
    outside::{Outside, OutsideArgs},
    settings::{self, MasterKeyArgs},
    subscriptions::{SubscriptionArgs, Subscriptions},
    system::{Advertise, Config, Service, System},
    tls::{Renewal, TlsArgs},
};
use futures::future::OptionFuture;
use nats::{Durability, MasterKey, NatsUrl};
use service::{
    config::{Faults, Settings},
    tls::{ClientTls, Tls},
};
use std::path::PathBuf;
use tokio::net::TcpListener;

pub(crate) const EXAMPLES: &str = "\
Examples:
  waybill serve all --nats-url nats://127.0.0.1:4222
  waybill serve orders --nats-url nats://nats:4222 --host 0.0.0.0 --port 8080 --replicas 3
  WAYBILL_DATABASE_URL=postgres://orders:secret@db/orders waybill serve orders --nats-url nats://nats:4222
  waybill serve gateway --nats-url nats://nats:4222 --host 0.0.0.0 --gateway-config gateway.toml
  waybill serve orders --nats-url nats://nats:4222 --tls-ca ca.pem --tls-cert orders.pem --tls-key orders.key --tls-client-ca ca.pem
  waybill serve gateway --nats-url nats://nats:4222 --gateway-cert shop.pem --gateway-key shop.key --tls-ca ca.pem \\
      --tls-cert gateway.pem --tls-key gateway.key
  waybill serve orders --nats-url nats://nats:4222 --nats-nkey-file /run/secrets/nats --nats-ca /run/secrets/ca.pem
  WAYBILL_MASTER_KEY=$(openssl rand -base64 32) waybill serve all --nats-url nats://127.0.0.1:4222
  WAYBILL_NATS_URL=nats://nats:4222 waybill serve payments inventory --ports payments=4003";

/// Flags of `waybill serve`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// users, orders, payments, inventory, shipping, notifications, fulfilment, operations, gateway, or all
    #[arg(required = true, value_name = "SERVICE")]
    services: Vec<String>,
    /// Where NATS is; several nodes of a cluster with commas between them
    #[arg(long, value_name = "URL,..", env = "WAYBILL_NATS_URL")]
    nats_url: Option<NatsUrl>,
    /// Folder of the read models that are on SQLite
    #[arg(long, value_name = "DIR", env = "WAYBILL_DATA", default_value = ".waybill")]
    data: PathBuf,
    /// The address to listen on
    #[arg(long, env = "WAYBILL_HOST", default_value = "127.0.0.1")]
    host: String,
    /// Routes and limits of the gateway, followed while it runs [default: those that come with Waybill]
    #[arg(long, value_name = "FILE", env = "WAYBILL_GATEWAY_CONFIG")]
    gateway_config: Option<PathBuf>,
    /// The port of the one service [default: gateway 8080, users 3001, orders 3002, payments 3003, inventory 3004, shipping 3005,
    /// notifications 3006, fulfilment 3007, operations 3008]
    #[arg(long, env = "WAYBILL_PORT")]
    port: Option<String>,
    /// Ports of several services
    #[arg(long, value_name = "SERVICE=PORT,..", env = "WAYBILL_PORTS", conflicts_with = "port")]
    ports: Option<String>,
    /// Where others reach this process, with a port where it is not the one listened on [default: where it listens, or
    /// where this machine reaches NATS from]
    #[arg(long, value_name = "URL", env = "WAYBILL_ADVERTISE_URL")]
    advertise: Option<String>,
    /// Where the keys of access tokens are published; with --tls-ca only that authority is believed there too [default: the keys themselves, as NATS keeps them]
    #[arg(long, value_name = "URL", env = "WAYBILL_JWKS_URL")]
    jwks_url: Option<String>,
    /// Networks of gateways, who alone are believed from which address a client comes [default: this machine]
    #[arg(long, value_name = "NETWORK,..", env = "WAYBILL_TRUSTED_PROXIES")]
    trusted_proxies: Option<String>,
    /// What NATS is configured to do before it acknowledges: always writes to disk, interval does so every two minutes
    #[arg(long, value_name = "PROFILE", env = "WAYBILL_DURABILITY", default_value = "always")]
    durability: String,
    /// Copies of each stream: 1, or 3 on a cluster
    #[arg(long, value_name = "COUNT", env = "WAYBILL_REPLICAS", default_value = "1")]
    replicas: String,
    /// What consumers do about a message that they cannot handle: retry, or park, pause or skip after so many attempts;
    /// for all, or for one by name [default: park:12]
    #[arg(long, value_name = "POLICY,CONSUMER=POLICY,..", env = "WAYBILL_ON_FAILURE")]
    on_failure: Option<String>,
    /// How many read models are built at the same time [default: 2]
    #[arg(long, value_name = "COUNT", env = "WAYBILL_REBUILDS")]
    rebuilds: Option<String>,
    #[command(flatten)]
    master_key: MasterKeyArgs,
    #[command(flatten)]
    access: AccessArgs,
    #[command(flatten)]
    tls: TlsArgs,
    #[command(flatten)]
    databases: DatabaseArgs,
    #[command(flatten)]
    calls: CallArgs,
    #[command(flatten)]
    subscriptions: SubscriptionArgs,
    #[command(flatten)]
    outside: OutsideArgs,
    #[command(flatten)]
    channels: ChannelArgs,
    #[command(flatten)]
    flow: FlowArgs,
}

/// What is to run in this process.
#[derive(Debug)]
struct Plan {
    config: Config,
    services: Vec<(Service, u16)>,
    gateway: Option<(EdgeConfig, u16)>,
}

/// Runs until it is asked to stop, then finishes what has begun.
pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let Plan { config, services, gateway } = read(&args)?;
    if services.iter().any(|(service, _)| *service == Service::Notifications)
        && let Some(outbox) = args.channels.dead_end(&config.channels)
    {
        let outbox = outbox.display();
        tracing::warn!(%outbox, "no mail server: customers get no mail, it stays in a folder. --smtp sends it, --outbox says that this is meant");
    }
    let calls = gateway.as_ref().map_or(&config.tls, |(edge, _)| &edge.tls).call.as_ref();
    if calls.is_some_and(ClientTls::is_optional) {
        tracing::warn!(
            "TLS is optional: instances that do not speak it are called with plain HTTP; --tls-optional"
        );
    }
    let inside = (!services.is_empty()).then_some(&config.tls);
    let renewal = Renewal::new(&args.tls, inside, gateway.as_ref().map(|(edge, _)| &edge.tls))?;
    let mut listeners = Vec::new();
    for (service, port) in services {
        listeners.push((service, bind(service.name(), &args.host, port).await?));
    }
    let mut system = None;
    if !listeners.is_empty() {
        system = Some(Box::pin(System::start(&config, listeners)).await?);
    }
    let mut edge = None;
    if let Some((gateway, port)) = gateway {
        edge = Some(Edge::start(&gateway, bind(GATEWAY, &args.host, port).await?).await?);
    }
    tracing::info!(durability = %config.durability, replicas = config.replicas, "running");
    let result = tokio::select! {
        signal = service::signal() => signal.map_err(Failure::from),
        Some(never) = OptionFuture::from(renewal.map(Renewal::follow)) => match never {},
        Some(failure) = OptionFuture::from(system.as_mut().map(System::failed)) => Err(failure),
        Some(failure) = OptionFuture::from(edge.as_mut().map(Edge::failed)) => Err(failure),
    };
    if let Ok(signal) = result {
        tracing::info!(signal, "stopping");
    }
    let stop = async {
        // Clients first: what they have asked for still finds its service.
        if let Some(edge) = edge {
            edge.stop().await;
        }
        if let Some(system) = system {
            system.stop().await;
        }
    };
    tokio::select! {
        () = stop => {}
        _ = service::signal() => tracing::warn!("stopped at once; the log has what was not finished"),
    }
    result.map(|_| ())
}

/// Whether it is a gateway and nothing else.
pub(crate) fn is_gateway(args: &Args) -> bool {
    args.services.iter().all(|service| service == GATEWAY)
}

async fn bind(name: &str, host: &str, port: u16) -> Result<TcpListener, Failure> {
    let bound = TcpListener::bind((host, port)).await;
    bound.map_err(because(format!("{name} cannot listen on {host}:{port}")))
}

/// Says everything that is wrong with the settings, those of the gateway included.
pub(crate) fn check(args: &Args) -> Result<(), Failure> {
    edge::and_routes(read(args).map(|_| ()), args.gateway_config.as_deref())
}

fn read(args: &Args) -> Result<Plan, Failure> {
    let given = args.outside.flags().into_iter().chain(args.calls.flags());
    let given = given.chain(args.channels.flags()).chain(args.flow.flags()).chain(args.databases.flags());
    let given = given.chain(args.subscriptions.flags()).chain(args.access.flags());
    let mut flags = settings::flags(given.chain([
        ("--nats-url", args.nats_url.as_deref().map(str::to_owned)),
        ("--port", args.port.clone()),
        ("--ports", args.ports.clone()),
        ("--advertise", args.advertise.clone()),
        ("--jwks-url", args.jwks_url.clone()),
        ("--trusted-proxies", args.trusted_proxies.clone()),
        ("--on-failure", args.on_failure.clone()),
        ("--rebuilds", args.rebuilds.clone()),
        ("--durability", Some(args.durability.clone())),
        ("--replicas", Some(args.replicas.clone())),
    ]));
    let named = Named::read(&args.services, flags.faults());
    let (services, port) = places(&named, &mut flags);
    let (tls, edge) = args.tls.read(!named.services.is_empty(), named.gateway, flags.faults());
    let config = read_config(args, &named, tls, &mut flags);
    let plan = config.map(|config| {
        let gateway = port.map(|port| {
            let (file, clock) = (args.gateway_config.clone(), config.clock.clone());
            let (nats_url, replicas) = (config.nats_url.clone(), config.replicas);
            let access = config.access.of(GATEWAY).clone();
            (EdgeConfig { nats_url, access, tls: edge, replicas, file, clock }, port)
        });
        Plan { config, services, gateway }
    });
    Ok(flags.finish(plan)?)
}

fn read_config(args: &Args, named: &Named, tls: Tls, flags: &mut Settings) -> Option<Config> {
    let nats_url: Option<NatsUrl> = flags.required("--nats-url");
    let durability: Option<Durability> = flags.optional("--durability");
    let replicas: Option<usize> = flags.optional("--replicas");
    if replicas.is_some_and(|replicas| ![1, 3, 5].contains(&replicas)) {
        flags.faults().add("--replicas", "expected 1, 3 or 5");
    }
    let advertise: Option<Advertise> = flags.optional("--advertise");
    if named.services.len() > 1 && advertise.as_ref().is_some_and(Advertise::has_port) {
        flags.faults().add("--advertise", "several services have several ports: leave the port out");
    }
    if tls.listen.is_some() && advertise.as_ref().is_some_and(|place| !place.is_tls()) {
        flags.faults().add("--advertise", "the services listen with TLS: expected https://HOST");
    }
    let access = args.access.read(flags, &named.roles());
    let databases = DatabaseArgs::read(flags, &named.services);
    let outside = Outside::read(flags);
    let channels = args.channels.read(flags, &args.data);
    let flow = Flow::read(flags);
    let jwks_url = flags.optional::<reqwest::Url>("--jwks-url").map(String::from);
    let policies = settings::policies(flags);
    let rebuilds = settings::rebuilds(flags);
    let trusted_proxies = flags.optional("--trusted-proxies");
    let (users_calls, subscriptions) = (UsersCalls::read(flags), Subscriptions::read(flags));
    // A gateway alone opens nothing that is locked with the master key.
    let alone = named.services.is_empty();
    let master_key = if alone { Some(MasterKey::generate()) } else { args.master_key.read(flags.faults()) }?;
    let usual = Config::new(nats_url?, &args.data);
    let (durability, replicas) = durability.zip(replicas)?;
    let trusted_proxies = trusted_proxies.unwrap_or(usual.trusted_proxies);
    Some(Config {
        access,
        tls,
        databases,
        durability,
        replicas,
        outside,
        channels,
        flow,
        master_key,
        policies,
        jwks_url,
        trusted_proxies,
        users_calls,
        subscriptions,
        advertise,
        rebuilds,
        ..usual
    })
}

/// What was named on the command line.
#[derive(Debug, Default)]
struct Named {
    services: Vec<Service>,
    gateway: bool,
}

impl Named {
    /// Who this process is to NATS.
    fn roles(&self) -> Vec<&'static str> {
        let services = self.services.iter().map(|service| service.name());
        services.chain(self.gateway.then_some(GATEWAY)).collect()
    }

    /// The services named, each once.
    fn read(words: &[String], faults: &mut Faults) -> Self {
        let mut named = Self::default();
        for word in words {
            match word.as_str().parse() {
                _ if word == "all" => named = Self { services: Service::ALL.to_vec(), gateway: true },
                _ if word == GATEWAY => named.gateway = true,
                Ok(service) => named.services.push(service),
                Err(why) => faults.add("SERVICE", format!("{why}, {GATEWAY}, all")),
            }
        }
        named.services.sort_unstable();
        named.services.dedup();
        named
    }
}

/// The port of each service and of the gateway.
fn places(named: &Named, flags: &mut Settings) -> (Vec<(Service, u16)>, Option<u16>) {
    let only: Option<u16> = flags.optional("--port");
    if only.is_some() && named.services.len() + usize::from(named.gateway) > 1 {
        flags.faults().add("--port", "several services need several ports: use --ports");
    }
    let ports: settings::Ports = flags.optional("--ports").unwrap_or_default();
    let port = |name: &str, usual: u16| only.or_else(|| ports.of(name)).unwrap_or(usual);
    let services = named.services.iter().map(|service| (*service, port(service.name(), service.port())));
    (services.collect(), named.gateway.then(|| port(GATEWAY, edge::PORT)))
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

    fn read(line: &str) -> Result<Plan, String> {
        let key = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&key, &*nats::MasterKey::generate().to_base64()).unwrap();
        let key = ["--master-key-file", key.path().to_str().unwrap()];
        let line = Line::parse_from(["serve"].into_iter().chain(line.split_whitespace()).chain(key));
        super::read(&line.args).map_err(|error| error.to_string())
    }

    #[test]
    fn all_is_every_service_and_the_gateway_each_on_its_port() {
        let plan = read("all orders --nats-url nats://x --ports payments=4003,gateway=80").unwrap();
        let ports: Vec<_> = plan.services.iter().map(|(_, port)| *port).collect();
        assert_eq!(ports, [3001, 3002, 4003, 3004, 3005, 3006, 3007, 3008]);
        assert_eq!(plan.gateway.unwrap().1, 80);
        let plan = read("shipping --nats-url nats://x --port 80").unwrap();
        assert_eq!(plan.services, [(Service::Shipping, 80)]);
        assert!(plan.gateway.is_none());
        let plan = read("gateway --nats-url nats://x --gateway-config g.toml").unwrap();
        let (edge, port) = plan.gateway.unwrap();
        assert_eq!((edge.file, port), (Some("g.toml".into()), 8080));
        assert!(plan.services.is_empty());
        assert!(read("gateway orders --nats-url nats://x --port 80").unwrap_err().contains("--port"));
    }

    #[test]
    fn every_fault_is_named_at_once() {
        let faults = read(
            "orders carts --nats-url nats://x --ports orders=x --durability maybe --replicas 2 --carrier x \
             --breaker-errors 0 --trusted-proxies gateway --on-failure drop",
        );
        let faults = faults.unwrap_err();
        let flags = ["SERVICE", "--ports", "--durability", "--replicas", "--carrier", "--breaker-errors"];
        for flag in flags.into_iter().chain(["--trusted-proxies", "--on-failure"]) {
            assert!(faults.contains(flag), "{flag} is missing in {faults}");
        }
        assert!(read("all --nats-url nats://x --port 80").unwrap_err().contains("--port"));
        assert!(read("all --nats-url nats://x --advertise http://x:80").unwrap_err().contains("--advertise"));
        read("all --nats-url nats://x --advertise http://x").unwrap();
        let of = "payments-projection=skip,fulfilment-holds=retry,notifications-email-orders=park:3,notifications-webhook-erp-shipping=retry,shipping-payments=retry";
        read(&format!("all --nats-url nats://x --on-failure {of}")).unwrap();
        let typo = read("all --nats-url nats://x --on-failure shiping-payments=retry").unwrap_err();
        assert!(typo.contains("--on-failure") && typo.contains("shiping-payments"), "{typo}");
    }
}
