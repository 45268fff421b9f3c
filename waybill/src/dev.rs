//! `waybill dev`: everything on this machine, started together and stopped together.

mod banner;
mod catalogue;
mod folder;
mod lock;
mod master_key;
mod state;

use crate::{
    api::{Api, Tokens},
    calls::{CallArgs, UsersCalls},
    channels::ChannelArgs,
    databases::{Databases, Secret},
    edge::{self, Edge, EdgeConfig, GATEWAY},
    failure::{Failure, because},
    flow::{Flow, FlowArgs},
    outside::{Outside, OutsideArgs},
    settings::{self, NATS, Ports},
    subscriptions::{SubscriptionArgs, Subscriptions},
    system::{Config, Service, System, reachable},
};
use commands::notifications::Channels;
pub(crate) use folder::Folder;
use lock::Lock;
pub(crate) use master_key::{find_master_key, master_key};
use nats::{
    Durability, Policies,
    server::{self, Binary, Server},
};
use projections::{Rebuilds, database::PostgresUrl};
pub(crate) use state::{DevFile, find_nats};
use std::{net::IpAddr, path::PathBuf, time::Duration};
use tokio::net::TcpListener;

pub(crate) const EXAMPLES: &str = "\
Examples:
  waybill                                        the same as waybill dev
  waybill dev --data /tmp/wb --ports orders=4002,payments=0
  waybill dev --durability interval              faster, may lose the last seconds in a power cut
  waybill dev --postgres postgres://postgres:secret@127.0.0.1/postgres
  waybill dev --carrier slow:2s --fraud-limit 5000
  waybill dev --log info,http=warn,reaction=warn";

/// How long the services may take until they are ready. A read model that is far behind catches up first.
const READY_WITHIN: Duration = Duration::from_mins(2);

/// Flags of `waybill dev`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Folder for everything that is kept
    #[arg(long, value_name = "DIR", env = "WAYBILL_DATA", default_value = ".waybill")]
    data: PathBuf,
    /// When events are on disk: always before they are acknowledged, or at an interval of two minutes
    #[arg(long, value_name = "PROFILE", env = "WAYBILL_DURABILITY", default_value = "always")]
    durability: String,
    /// The address to listen on
    #[arg(long, env = "WAYBILL_HOST", default_value = "127.0.0.1")]
    host: String,
    /// Routes and limits of the gateway, followed while it runs [default: those that come with Waybill]
    #[arg(long, value_name = "FILE", env = "WAYBILL_GATEWAY_CONFIG")]
    gateway_config: Option<PathBuf>,
    /// Keep read models on this PostgreSQL server: a database and a role per service are made there, as whom the URL names
    /// [default: on SQLite, in the data folder]
    #[arg(long, value_name = "URL", env = "WAYBILL_POSTGRES", hide_env_values = true)]
    postgres: Option<Secret>,
    /// Ports, 0 for a free one [default: gateway=8080,users=3001,orders=3002,payments=3003,inventory=3004,shipping=3005,notifications=3006,fulfilment=3007,operations=3008,nats=0]
    #[arg(long, value_name = "NAME=PORT,..", env = "WAYBILL_PORTS")]
    ports: Option<String>,
    /// What consumers do about a message that they cannot handle: retry, or park, pause or skip after so many attempts;
    /// for all, or for one by name [default: park:12]
    #[arg(long, value_name = "POLICY,CONSUMER=POLICY,..", env = "WAYBILL_ON_FAILURE")]
    on_failure: Option<String>,
    /// How many read models are built at the same time [default: 2]
    #[arg(long, value_name = "COUNT", env = "WAYBILL_REBUILDS")]
    rebuilds: Option<String>,
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

/// What a local system is made of.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) data: PathBuf,
    pub(crate) durability: Durability,
    pub(crate) host: IpAddr,
    pub(crate) postgres: Option<PostgresUrl>,
    pub(crate) ports: Ports,
    pub(crate) users_calls: UsersCalls,
    pub(crate) subscriptions: Subscriptions,
    pub(crate) outside: Outside,
    pub(crate) channels: Channels,
    pub(crate) policies: Policies,
    pub(crate) rebuilds: Rebuilds,
    pub(crate) flow: Flow,
    pub(crate) gateway_config: Option<PathBuf>,
}

/// Everything that `dev` has started.
pub(crate) struct Local {
    plan: Plan,
    // Stopped in this order.
    edge: Edge,
    system: System,
    nats: Server,
    tokens: Tokens,
    /// Held as long as this process uses the data folder.
    _lock: Lock,
}

/// Runs until it is asked to stop, then finishes what has begun.
pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let plan = read(&args)?;
    let mut signal = std::pin::pin!(service::signal());
    let mut local = tokio::select! {
        local = Local::start(plan) => local?,
        signal = &mut signal => {
            tracing::info!(signal = signal?, "stopped while starting");
            return Ok(());
        }
    };
    let result = match local.announce().await {
        Ok(()) => tokio::select! {
            signal = signal => signal.map_err(Failure::from),
            failure = local.system.failed() => Err(failure),
            failure = local.edge.failed() => Err(failure),
        },
        Err(failure) => Err(failure),
    };
    if let Ok(signal) = result {
        tracing::info!(signal, "stopping");
    }
    tokio::select! {
        () = local.stop() => {}
        _ = service::signal() => tracing::warn!("stopped at once; the log has what was not finished"),
    }
    result.map(|_| ())
}

/// Says everything that is wrong with the settings, those of the gateway included.
pub(crate) fn check(args: &Args) -> Result<(), Failure> {
    edge::and_routes(read(args).map(|_| ()), args.gateway_config.as_deref())
}

/// What is to run, as the settings want it.
pub(crate) fn read(args: &Args) -> Result<Plan, Failure> {
    let given = args.outside.flags().into_iter().chain(args.calls.flags());
    let given = given.chain(args.channels.flags()).chain(args.flow.flags());
    let given = given.chain(args.subscriptions.flags());
    let mut flags = settings::flags(given.chain([
        ("--durability", Some(args.durability.clone())),
        ("--host", Some(args.host.clone())),
        ("--postgres", args.postgres.as_ref().map(Secret::reveal)),
        ("--ports", args.ports.clone()),
        ("--on-failure", args.on_failure.clone()),
        ("--rebuilds", args.rebuilds.clone()),
    ]));
    let durability = flags.optional::<Durability>("--durability");
    let host = flags.optional::<IpAddr>("--host");
    let ports = flags.optional("--ports").unwrap_or_default();
    let postgres = flags.optional("--postgres");
    let policies = settings::policies(&mut flags);
    let rebuilds = settings::rebuilds(&mut flags);
    let (outside, users_calls) = (Outside::read(&mut flags), UsersCalls::read(&mut flags));
    let subscriptions = Subscriptions::read(&mut flags);
    let channels = args.channels.read(&mut flags, &args.data);
    let flow = Flow::read(&mut flags);
    let (data, gateway_config) = (args.data.clone(), args.gateway_config.clone());
    let plan = durability.zip(host);
    let plan = plan.map(|(durability, host)| Plan {
        data,
        durability,
        host,
        postgres,
        ports,
        users_calls,
        subscriptions,
        outside,
        channels,
        policies,
        rebuilds,
        flow,
        gateway_config,
    });
    Ok(flags.finish(plan)?)
}

impl Local {
    /// Starts nats-server and every service, and waits until all are ready.
    pub(crate) async fn start(plan: Plan) -> Result<Self, Failure> {
        let lock = Lock::take(&plan.data)?;
        let binary = Binary::locate(None).await?;
        let nats = Server::start(server::Config {
            port: plan.ports.of(NATS).filter(|port| *port != 0),
            durability: plan.durability,
            ..server::Config::new(binary, plan.data.join("nats"))
        });
        let nats = nats.await?;
        let databases = match &plan.postgres {
            Some(admin) => Databases::provision(admin, &Service::ALL).await?,
            None => Databases::default(),
        };
        let config = Config {
            databases,
            durability: plan.durability,
            users_calls: plan.users_calls,
            subscriptions: plan.subscriptions,
            outside: plan.outside.clone(),
            channels: plan.channels.clone(),
            policies: plan.policies.clone(),
            rebuilds: plan.rebuilds.clone(),
            flow: plan.flow,
            master_key: master_key::find_or_create(&plan.data)?,
            ..Config::new(nats.url(), settings::views(None, &plan.data))
        };
        let system = Box::pin(System::start(&config, listeners(&plan).await?)).await?;
        let tokens = Tokens::open(&config.nats_url, &config.master_key, &config.clock).await?;
        let edge = EdgeConfig {
            nats_url: nats.url().into(),
            access: nats::Access::default(),
            tls: service::tls::Tls::default(),
            replicas: config.replicas,
            file: plan.gateway_config.clone(),
            clock: config.clock.clone(),
        };
        let edge = Edge::start(&edge, listener(&plan, GATEWAY, edge::PORT).await?).await?;
        let local = Self { plan, edge, system, nats, tokens, _lock: lock };
        local.api().wait_ready(READY_WITHIN).await?;
        // Ready services are made known a moment later.
        local.edge.wait_for(Service::ALL.map(Service::name), READY_WITHIN).await?;
        Ok(local)
    }

    /// Loads the demo catalogue where that was not done before, and tells the world.
    async fn announce(&self) -> Result<(), Failure> {
        let account = catalogue::load(&self.api(), &self.plan.data).await?;
        let token = self.tokens.customer_for_a_day(account.user_id).await?;
        let file = DevFile::new(self.nats_url(), self.gateway_url(), self.api().urls(), self.plan.durability);
        file.write(&self.plan.data)?;
        println!("{}", banner::text(&file, &account, &token, &self.plan.channels.mail.post, &self.plan.data));
        Ok(())
    }

    /// Asks the services.
    pub(crate) fn api(&self) -> Api {
        Api::new(self.system.addresses()).with_tokens(self.tokens.clone())
    }

    /// Where clients come in.
    pub(crate) fn gateway_url(&self) -> String {
        format!("http://{}", reachable(self.edge.address()))
    }

    /// Where NATS is.
    pub(crate) fn nats_url(&self) -> String {
        self.nats.url()
    }

    /// Stops the gateway, the services, then nats-server.
    pub(crate) async fn stop(self) {
        DevFile::remove(&self.plan.data);
        self.edge.stop().await;
        self.system.stop().await;
        self.nats.stop().await;
    }
}

/// A listener for each service.
async fn listeners(plan: &Plan) -> Result<Vec<(Service, TcpListener)>, Failure> {
    let mut listeners = Vec::new();
    for service in Service::ALL {
        listeners.push((service, listener(plan, service.name(), service.port()).await?));
    }
    Ok(listeners)
}

/// A listener on the port asked for; else on the usual one, or a free one where that is taken.
async fn listener(plan: &Plan, name: &str, usual: u16) -> Result<TcpListener, Failure> {
    let asked = plan.ports.of(name);
    let port = asked.unwrap_or(usual);
    match TcpListener::bind((plan.host, port)).await {
        Err(error) if asked.is_none() && error.kind() == std::io::ErrorKind::AddrInUse => {
            let listener = TcpListener::bind((plan.host, 0)).await?;
            let free = listener.local_addr()?.port();
            println!("Port {port} is taken: {name} listens on {free}.");
            Ok(listener)
        }
        bound => bound.map_err(because(format!("{name} cannot listen on {}:{port}", plan.host))),
    }
}
