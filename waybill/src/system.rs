//! What a process consists of: services against one NATS, each with its write side, its read side and its probes.
//!
//! `dev`, `serve`, `demo` and the end-to-end tests all start services here.

mod assembly;
mod presence;

pub(crate) use assembly::verifier;

use crate::{
    access::NatsAccess,
    calls::UsersCalls,
    databases::Databases,
    failure::{Failure, because},
    flow::Flow,
    outside::Outside,
    rights,
    subscriptions::Subscriptions,
};
use commands::notifications::Channels;
use events::Context;
use nats::{Connection, Durability, KeyRing, MasterKey, NatsUrl, Policies, RegistryOptions, topology};
pub use presence::Advertise;
use presence::Presence;
use projections::Rebuilds;
use service::{
    Clock, Shutdown,
    origin::TrustedProxies,
    tls::{Listener, Tls},
};
use std::{
    collections::BTreeMap,
    fmt, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};
use tokio::{net::TcpListener, task::JoinSet};

/// A service: owns the data of a context, and answers for it over HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Service {
    /// Users, their logins and the keys of their tokens.
    Users,
    /// Orders and what becomes of them.
    Orders,
    /// Accounts, payments and the fraud rules.
    Payments,
    /// Products and stock.
    Inventory,
    /// Shipments.
    Shipping,
    /// What customers and other systems are told.
    Notifications,
    /// Sagas, and holds that expire.
    Fulfilment,
    /// What consumers could not handle, and what operators do about it.
    Operations,
}

impl Service {
    /// Every service.
    pub const ALL: [Self; 8] = [
        Self::Users,
        Self::Orders,
        Self::Payments,
        Self::Inventory,
        Self::Shipping,
        Self::Notifications,
        Self::Fulfilment,
        Self::Operations,
    ];

    /// Its name, which is that of its context; operations are spelled out.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Operations => "operations",
            other => other.context().token(),
        }
    }

    /// The context it owns.
    pub const fn context(self) -> Context {
        match self {
            Self::Users => Context::Users,
            Self::Orders => Context::Orders,
            Self::Payments => Context::Payments,
            Self::Inventory => Context::Inventory,
            Self::Shipping => Context::Shipping,
            Self::Notifications => Context::Notifications,
            Self::Fulfilment => Context::Fulfilment,
            Self::Operations => Context::Ops,
        }
    }

    /// Its port, unless another is asked for.
    pub const fn port(self) -> u16 {
        match self {
            Self::Users => 3001,
            Self::Orders => 3002,
            Self::Payments => 3003,
            Self::Inventory => 3004,
            Self::Shipping => 3005,
            Self::Notifications => 3006,
            Self::Fulfilment => 3007,
            Self::Operations => 3008,
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Service {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|service| service.name() == text).ok_or_else(|| {
            format!("there is no service {text}: expected {}", Self::ALL.map(Self::name).join(", "))
        })
    }
}

/// What services need to run.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where NATS is; addresses of several nodes with commas between them.
    pub nats_url: NatsUrl,
    /// Who each service is to NATS.
    pub access: NatsAccess,
    /// What services listen with, and call each other with.
    pub tls: Tls,
    /// Folder of the read models that are on SQLite.
    pub data: PathBuf,
    /// Databases of the others.
    pub databases: Databases,
    /// What the server does before it acknowledges.
    pub durability: Durability,
    /// Copies of each stream.
    pub replicas: usize,
    /// The world outside.
    pub outside: Outside,
    /// How notifications are sent.
    pub channels: Channels,
    /// How orders are carried through.
    pub flow: Flow,
    /// The time.
    pub clock: Clock,
    /// Wraps the keys of personal data. The same in every process.
    pub master_key: MasterKey,
    /// What each consumer does about a message that it cannot handle.
    pub policies: Policies,
    /// Where the keys of access tokens are published; those kept beside the log are taken, unless it is said.
    pub jwks_url: Option<String>,
    /// Who is believed on whose behalf a request comes: gateways. This machine, unless it is said.
    pub trusted_proxies: TrustedProxies,
    /// How orders call the users service.
    pub users_calls: UsersCalls,
    /// How many may follow read models, and how long they may be away.
    pub subscriptions: Subscriptions,
    /// How services stay known to others.
    pub registry: RegistryOptions,
    /// Where others reach the services; where they listen, unless it is said.
    pub advertise: Option<Advertise>,
    /// How many read models are built at the same time.
    pub rebuilds: Rebuilds,
    /// How long services go on to answer after they are no longer known, for those who have not heard of it.
    pub linger: Duration,
}

impl Config {
    /// One durable machine, the world outside well disposed, the time of the machine, a new master key; mail goes into
    /// a folder.
    pub fn new(nats_url: impl Into<NatsUrl>, data: impl Into<PathBuf>) -> Self {
        let data = data.into();
        Self {
            channels: Channels::outbox(data.join("outbox")),
            nats_url: nats_url.into(),
            access: NatsAccess::default(),
            tls: Tls::default(),
            data,
            databases: Databases::default(),
            durability: Durability::Always,
            replicas: 1,
            outside: Outside::default(),
            flow: Flow::default(),
            clock: Clock::system(),
            master_key: MasterKey::generate(),
            policies: Policies::default(),
            jwks_url: None,
            trusted_proxies: TrustedProxies::loopback(),
            users_calls: UsersCalls::default(),
            subscriptions: Subscriptions::default(),
            registry: RegistryOptions::default(),
            advertise: None,
            rebuilds: Rebuilds::default(),
            linger: Duration::from_millis(300),
        }
    }
}

/// Running services.
#[derive(Debug)]
pub struct System {
    shutdown: Shutdown,
    servers: JoinSet<(Service, io::Result<bool>)>,
    addresses: BTreeMap<Service, SocketAddr>,
    /// They end when the services are about to stop.
    presences: JoinSet<()>,
    linger: Duration,
}

/// What services of one process share, unless NATS knows each by a key of its own.
#[derive(Clone)]
struct Common {
    connection: Connection,
    keys: KeyRing,
}

impl Common {
    /// For all of them: everything that there has to be.
    async fn of(config: &Config) -> Result<Self, Failure> {
        let access = config.access.of("");
        let connection = Connection::connect_as(&config.nats_url, "waybill", access).await?;
        // Who asks in accounts of others finds only what is opened for it.
        let contexts = if connection.makes() { &Context::ALL[..] } else { &[] };
        Self::with(config, connection, contexts).await
    }

    /// For one: what it reads.
    async fn of_service(config: &Config, service: Service) -> Result<Self, Failure> {
        let access = config.access.of(service.name());
        let connection =
            Connection::connect_as(&config.nats_url, &format!("waybill {service}"), access).await?;
        topology::ensure_streams(&connection, &rights::read(service), config.replicas).await?;
        Self::with(config, connection, &rights::owned(service)).await
    }

    async fn with(config: &Config, connection: Connection, contexts: &[Context]) -> Result<Self, Failure> {
        topology::ensure(&connection, contexts, config.replicas).await?;
        let keys = KeyRing::open(&connection, &config.master_key, config.replicas).await?;
        Ok(Self { connection, keys })
    }
}

/// How long requests in flight may take after the stop has begun.
const DRAIN: Duration = Duration::from_secs(10);

impl System {
    /// Ensures the topology and starts services, each on its listener. Answers once all of them are running; whether
    /// they are ready is theirs to say.
    pub async fn start(config: &Config, listeners: Vec<(Service, TcpListener)>) -> Result<Self, Failure> {
        std::fs::create_dir_all(&config.data)
            .map_err(because(format!("cannot create the data folder {}", config.data.display())))?;
        // Who is somebody to NATS sees to what is his; who is nobody in particular shares.
        let common = if config.access.is_known() { None } else { Some(Common::of(config).await?) };
        let shutdown = Shutdown::new();
        let mut system = Self {
            shutdown,
            servers: JoinSet::new(),
            addresses: BTreeMap::new(),
            presences: JoinSet::new(),
            linger: config.linger,
        };
        for (service, listener) in listeners {
            let common = match &common {
                Some(common) => Ok(common.clone()),
                None => Common::of_service(config, service).await,
            };
            let started = match common {
                Ok(common) => Box::pin(system.start_one(config, &common, service, listener)).await,
                Err(failure) => Err(failure),
            };
            if let Err(failure) = started {
                system.stop().await;
                return Err(because(format!("cannot start {service}"))(failure));
            }
        }
        Ok(system)
    }

    async fn start_one(
        &mut self,
        config: &Config,
        Common { connection, keys }: &Common,
        service: Service,
        listener: TcpListener,
    ) -> Result<(), Failure> {
        let address = listener.local_addr()?;
        let (router, ready) = Box::pin(assembly::assemble(service, config, keys, &self.shutdown)).await?;
        let presence = Presence::of(service, config, connection, address, ready, &self.shutdown).await?;
        let listener = Listener::new(listener, config.tls.listen.clone());
        let server = service::http::serve(listener, router, self.shutdown.token(), DRAIN);
        self.servers.spawn(async move { (service, server.await) });
        self.presences.spawn(presence.keep());
        self.addresses.insert(service, address);
        tracing::info!(service = service.name(), %address, "listening");
        Ok(())
    }

    /// Where the services listen.
    pub fn addresses(&self) -> &BTreeMap<Service, SocketAddr> {
        &self.addresses
    }

    /// Waits until a server ends by itself, which is a failure.
    pub async fn failed(&mut self) -> Failure {
        match self.servers.join_next().await {
            Some(Ok((service, Err(error)))) => because(format!("{service} has failed"))(error),
            Some(Ok((service, Ok(_)))) => format!("{service} has ended").into(),
            Some(Err(error)) => error.into(),
            None => std::future::pending().await,
        }
    }

    /// Stops in three phases: says that it leaves and goes on to answer those who have not heard; takes nothing new;
    /// finishes what has begun. Says whether all was finished in time.
    pub async fn stop(mut self) -> bool {
        self.shutdown.leave();
        while self.presences.join_next().await.is_some() {}
        tokio::time::sleep(self.linger).await;
        let finished = self.shutdown.drain(DRAIN).await;
        let mut answered = true;
        while let Some(server) = self.servers.join_next().await {
            answered &= matches!(server, Ok((_, Ok(true))));
        }
        if !finished || !answered {
            tracing::warn!(
                finished,
                answered,
                "stopped before everything was finished; the log has the rest"
            );
        }
        finished && answered
    }
}

/// Where this machine reaches a listener: who listens everywhere is also here.
pub fn reachable(address: SocketAddr) -> SocketAddr {
    let here = if address.ip().is_unspecified() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { address.ip() };
    SocketAddr::new(here, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_known_by_name() {
        for service in Service::ALL {
            assert_eq!(service.name().parse(), Ok(service));
        }
        assert!("carts".parse::<Service>().unwrap_err().contains("users, orders, payments"));
    }
}
