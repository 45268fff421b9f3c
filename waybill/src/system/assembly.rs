//! One service: its write side, its read side, its probes and its documentation, as one router and some tasks.

use super::{Config, Service};
use crate::{calls::UsersCalls, contracts, failure::Failure};
use axum::{Json, Router, routing::get};
use commands::{Environment, WriteSide, orders::UsersService, users::tokens::Keys};
use nats::{
    ChangeFeed, Connection, EventStore, FeedOptions, Instance, InstanceId, KeyRing, Parking, Policy,
    ReadModels, Registry, RegistryOptions, StoreMetrics, StoreOptions,
};
use projections::{Feed, FeedMetrics, Outlet, ProjectionMetrics, Projections, Rebuilds, Streams, View};
use serde_json::{Map, Value};
use service::{
    Check, Metrics, Probes, Shutdown,
    auth::{self, Jwks, Role, Verifier},
    breaker::Breakers,
    client::Client,
    tls::ClientTls,
};
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};
use utoipa::openapi::{Info, OpenApi};

/// Starts the tasks of a service, which end with the shutdown, and gives its routes and whether it is ready.
pub(super) async fn assemble(
    service: Service,
    config: &Config,
    keys: &KeyRing,
    shutdown: &Shutdown,
) -> Result<(Router, Check), Failure> {
    let metrics = Metrics::new();
    service::telemetry::export_metrics(service.name(), &metrics);
    // A connection for each kind of traffic: a read model that catches up must not make commands wait.
    let writing = connect(config, service, "commands").await?;
    let reading = connect(config, service, "projections").await?;

    let breakers = Breakers::new(config.users_calls.breaker, &metrics);
    let environment = Environment {
        connection: writing.clone(),
        reactions: connect(config, service, "reactions").await?,
        store: store_options(config, &metrics),
        policies: config.policies.clone(),
        clock: config.clock.clone(),
        master_key: config.master_key.clone(),
        keys: keys.clone(),
        users: users(config, &writing, &breakers).await?,
        proxies: config.trusted_proxies.clone(),
        carrier: Arc::new(config.outside.carrier.clone()),
        fraud: Arc::clone(&config.outside.fraud),
        channels: config.channels.clone(),
        workflow: config.flow.workflow,
        times: config.flow.times,
    };
    let build = WriteSide::build(service.context(), &environment, &metrics);
    let mut write_side = Box::pin(build).await?;
    write_side.react(shutdown);
    // Operations answer from what consumers keep of their failures and from the streams, not from a read model.
    let mut read_side = None;
    let log = (service == Service::Operations).then(|| Streams::new(reading.clone()).router());
    if let Some(view) = View::of(service.name()) {
        let storage = config.databases.storage(service, &config.data);
        let (counters, clock) = (ProjectionMetrics::new(&metrics), config.clock.clone());
        let outlet = outlet(config, service, &reading, &metrics).await?;
        let policy = config.policies.of(&format!("{service}-projection"));
        let feed = feed(&environment, reading, policy, (config.rebuilds.clone(), outlet.clone())).await?;
        let started = Projections::start(view, &feed, &storage, clock, &metrics, counters, shutdown).await?;
        read_side = Some((started, outlet));
    }

    let live = |(read_side, outlet): &(Projections, Outlet)| {
        read_side.live(keys, outlet, config.subscriptions.live, shutdown)
    };
    let queries = read_side.as_ref().map(live).unwrap_or_default();
    let queries = queries.merge(log.unwrap_or_default());
    let (paths, api) = write_side.http.merge(queries).split_for_parts();
    let described = described(service, api);
    let leaving = shutdown.leaving();
    let stays = move || if leaving.is_cancelled() { Err("stopping".to_owned()) } else { Ok(()) };
    let mut probes = probes(service, config, &writing, metrics.clone()).check("process", Arc::new(stays));
    if let Some((read_side, _)) = &read_side {
        probes = probes.check("projections", read_side.check());
    }
    let ready = probes.ready();
    let operators = auth::restrict(breakers.routes(), Role::Operator);
    let router = paths.merge(probes.routes()).merge(operators).merge(described);
    let router = auth::layer(router, verifier(config, &writing).await?);
    Ok((service::http::layers(service.name(), router, config.clock.clone(), &metrics), ready))
}

/// What the service says of itself, and what others may rely on.
fn described(service: Service, mut api: OpenApi) -> Router {
    let (contracts, documented) = contracts::routes().split_for_parts();
    // Every service answers there; in the document of all services it stands once.
    if service == Service::Operations {
        api.merge(documented);
    }
    auth::document(&mut api);
    api.info = Info::new(format!("Waybill {service}").as_str(), env!("CARGO_PKG_VERSION"));
    contracts.route("/openapi.json", get(async move || Json(api)))
}

/// What read models are made of.
async fn feed(
    environment: &Environment,
    connection: Connection,
    policy: Policy,
    (rebuilds, outlet): (Rebuilds, Outlet),
) -> Result<Feed, Failure> {
    let store = EventStore::new(&connection, environment.store.clone());
    let (clock, replicas) = (environment.clock.clone(), environment.store.replicas);
    let parking = Parking::open(&connection, store.clone(), clock.clone(), replicas).await?;
    let read_models = ReadModels::open(&connection, store, clock, replicas).await?;
    let (parking, read_models, outlet) = (Some(parking), Some(read_models), Some(outlet));
    Ok(Feed { connection, parking, policy, read_models, rebuilds, outlet })
}

/// Where changed rows go, for whoever follows them.
async fn outlet(
    config: &Config,
    service: Service,
    connection: &Connection,
    metrics: &Metrics,
) -> Result<Outlet, Failure> {
    let options = FeedOptions { replicas: config.replicas, ..config.subscriptions.feed };
    let feed = ChangeFeed::open(connection, service.name(), options).await?;
    Ok(Outlet { feed, metrics: FeedMetrics::new(metrics) })
}

/// How orders ask for their customers: whichever instance of the users service is known, through a breaker.
async fn users(
    config: &Config,
    connection: &Connection,
    breakers: &Breakers,
) -> Result<UsersService, Failure> {
    let options = RegistryOptions { replicas: config.replicas, ..config.registry };
    let registry = Registry::watch(connection, options).await?;
    let (tls, ignored) = (config.tls.call.clone(), Mutex::default());
    let locate = move || {
        let mut instances = registry.instances(Service::Users.name());
        if let Some(tls) = &tls {
            leave_out(&mut instances, tls, &ignored);
        }
        fastrand::choice(instances).map(|instance| instance.url)
    };
    let breaker = breakers.of(Service::Users.name());
    let tls = config.tls.call.as_ref();
    let client = Client::new(Service::Users.name(), Arc::new(locate), breaker, tls)?;
    let UsersCalls { fresh_for, timeout, .. } = config.users_calls;
    Ok(UsersService { client: client.with_timeout(timeout), fresh_for })
}

/// Leaves those out that may not be called, and says of each once that it is.
fn leave_out(instances: &mut Vec<Instance>, tls: &ClientTls, ignored: &Mutex<BTreeSet<InstanceId>>) {
    let left_out: Vec<_> = instances.extract_if(.., |instance| !tls.may_call(&instance.url)).collect();
    let mut ignored = ignored.lock().unwrap_or_else(PoisonError::into_inner);
    for Instance { service, id, url, .. } in &left_out {
        if !ignored.contains(id) {
            let why = "it does not speak TLS, and without nobody is called: --tls-optional";
            tracing::warn!(service, url, why, "an instance is ignored");
        }
    }
    *ignored = left_out.into_iter().map(|instance| instance.id).collect();
}

/// Checks access tokens: with the keys published at a URL where one is given, else with those that are kept beside the
/// log, so that it takes no users service to check a token.
pub(crate) async fn verifier(config: &Config, connection: &Connection) -> Result<Verifier, Failure> {
    let jwks = match &config.jwks_url {
        Some(url) => published(url, config.tls.call.as_ref())?,
        None => kept(config, connection).await?,
    };
    Ok(Verifier::new(jwks, config.clock.clone()))
}

fn published(url: &str, tls: Option<&ClientTls>) -> Result<Jwks, Failure> {
    let (client, url) = (crate::tls::client(reqwest::Client::builder(), tls)?, url.to_owned());
    Ok(Jwks::start(move || {
        let request = client.get(&url);
        async move { Ok(request.send().await?.error_for_status()?.text().await?) }
    }))
}

async fn kept(config: &Config, connection: &Connection) -> Result<Jwks, Failure> {
    let keys = Keys::open_as(connection, &config.master_key, config.replicas, &config.clock).await?;
    let clock = config.clock.clone();
    Ok(Jwks::start(move || {
        let (keys, now) = (keys.clone(), clock.now());
        async move { Ok(keys.jwks(now).await?) }
    }))
}

async fn connect(config: &Config, service: Service, part: &str) -> Result<Connection, Failure> {
    let access = config.access.of(service.name());
    Ok(Connection::connect_as(&config.nats_url, &format!("waybill {service} {part}"), access).await?)
}

fn store_options(config: &Config, metrics: &Metrics) -> StoreOptions {
    let counters = StoreMetrics::default();
    counters.register(&mut metrics.registry());
    let (durability, replicas) = (config.durability, config.replicas);
    StoreOptions { durability, replicas, metrics: counters, ..StoreOptions::default() }
}

fn probes(service: Service, config: &Config, connection: &Connection, metrics: Metrics) -> Probes {
    let details = [
        ("service", service.name().to_owned()),
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("durability", config.durability.to_string()),
        ("natsServer", connection.server_version()),
    ];
    let details = details.map(|(name, value)| (name.to_owned(), Value::from(value)));
    let connection = connection.clone();
    let connected =
        move || if connection.is_connected() { Ok(()) } else { Err("no connection to NATS".to_owned()) };
    Probes::new(metrics, Map::from_iter(details)).check("nats", Arc::new(connected))
}
