//! The gateway of a process: what it needs of NATS, and how it starts and stops.

use crate::failure::{Failure, because, report};
use gateway::{Config, Dialer, Gateway, LimitMetrics, LimitSettings, Limiter, Parts, Reload, Upstreams};
use nats::{Access, Connection, NatsUrl, Registry, RegistryOptions};
use serde_json::Map;
use service::{
    Clock, Metrics,
    config::Faults,
    tls::{Listener, Tls},
};
use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{
    net::TcpListener,
    task::JoinHandle,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

/// The gateway's name, among the names of services.
pub const GATEWAY: &str = "gateway";
/// Its port, unless another is asked for.
pub const PORT: u16 = 8080;

const POLL: Duration = Duration::from_millis(10);

/// What a gateway needs to run.
#[derive(Clone, Debug)]
pub struct EdgeConfig {
    /// Where NATS is; addresses of several nodes with commas between them.
    pub nats_url: NatsUrl,
    /// Who the gateway is to NATS.
    pub access: Access,
    /// What it listens with, and calls services with.
    pub tls: Tls,
    /// Copies of what gateways share.
    pub replicas: usize,
    /// Routes and limits; those that come with Waybill where there is none. The file is followed.
    pub file: Option<PathBuf>,
    /// The time.
    pub clock: Clock,
}

/// A running gateway.
#[derive(Debug)]
pub struct Edge {
    address: SocketAddr,
    upstreams: Upstreams,
    shutdown: CancellationToken,
    server: JoinHandle<io::Result<bool>>,
}

impl Edge {
    /// Starts it on a listener.
    pub async fn start(edge: &EdgeConfig, listener: TcpListener) -> Result<Self, Failure> {
        // Before all that takes time: a hangup must not end a gateway that is still starting.
        let reload = Reload::new(edge.file.clone())?;
        let config = read(edge)?;
        let (metrics, clock) = (Metrics::new(), edge.clock.clone());
        service::telemetry::export_metrics(GATEWAY, &metrics);
        let connection = Connection::connect_as(&edge.nats_url, "waybill gateway", &edge.access).await?;
        let options = RegistryOptions { replicas: edge.replicas, ..RegistryOptions::default() };
        let registry = Registry::watch(&connection, options).await?;
        let limits = LimitMetrics::default();
        limits.register(&metrics);
        let settings = LimitSettings { replicas: edge.replicas, ..LimitSettings::default() };
        let limiter = Limiter::start(&connection, clock.clone(), settings, limits).await?;
        let dialer = Dialer::new(&config, edge.tls.call.as_ref())?;
        let upstreams = Upstreams::start(registry, config.upstreams, dialer, clock.clone(), &metrics);
        let details = [("service", GATEWAY), ("version", env!("CARGO_PKG_VERSION"))];
        let details = details.map(|(name, value)| (name.to_owned(), value.into()));
        let gateway = Gateway::new(Parts {
            config,
            reload,
            upstreams: upstreams.clone(),
            limiter,
            clock,
            metrics,
            details: Map::from_iter(details),
        });
        let (address, shutdown) = (listener.local_addr()?, CancellationToken::new());
        let listener = Listener::new(listener, edge.tls.listen.clone());
        let server = tokio::spawn(gateway::run(listener, gateway, shutdown.clone()));
        tracing::info!(service = GATEWAY, %address, "listening");
        Ok(Self { address, upstreams, shutdown, server })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until it knows an instance of each of these services: before that, it answers 503 for them.
    pub async fn wait_for(
        &self,
        services: impl IntoIterator<Item = &str>,
        within: Duration,
    ) -> Result<(), Failure> {
        let deadline = Instant::now() + within;
        for service in services {
            // Nobody is asked: a pick that is dropped counts as not made.
            while self.upstreams.pick(service).is_err() {
                if Instant::now() > deadline {
                    return Err(format!("the gateway knows no {service} after {within:?}").into());
                }
                sleep(POLL).await;
            }
        }
        Ok(())
    }

    /// Waits until it ends by itself, which is a failure.
    pub async fn failed(&mut self) -> Failure {
        match (&mut self.server).await {
            Ok(Ok(_)) => "the gateway has ended".into(),
            Ok(Err(error)) => because("the gateway has failed")(error),
            Err(error) => error.into(),
        }
    }

    /// Stops it: nothing new, then what has begun. Says whether all was finished in time.
    pub async fn stop(self) -> bool {
        self.shutdown.cancel();
        let finished = matches!(self.server.await, Ok(Ok(true)));
        if !finished {
            tracing::warn!("the gateway stopped before every request was answered");
        }
        finished
    }
}

/// What is wrong with settings, and what is wrong with routes and limits in the same breath.
pub(crate) fn and_routes(settings: Result<(), Failure>, file: Option<&Path>) -> Result<(), Failure> {
    let mut faults = Faults::default();
    if let Err(failure) = settings {
        faults.extend(*failure.downcast::<Faults>()?);
    }
    if let Err(failure) = routes(file) {
        let said = report(&*failure);
        faults.add("--gateway-config", said.strip_prefix("error: ").unwrap_or(&said));
    }
    Ok(faults.none()?)
}

fn read(edge: &EdgeConfig) -> Result<Config, Failure> {
    routes(edge.file.as_deref())
}

/// Routes and limits as the file has them; those that come with Waybill where there is none.
pub(crate) fn routes(file: Option<&Path>) -> Result<Config, Failure> {
    let Some(file) = file else { return Ok(Config::standard()) };
    let text = fs::read_to_string(file).map_err(because(format!("cannot read {}", file.display())))?;
    Ok(Config::parse(&text)?)
}
