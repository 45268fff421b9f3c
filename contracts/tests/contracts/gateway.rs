//! The gateway reads the keys of access tokens from the users service, as every service does; of each service it asks whether it
//! is well, and for the document that describes it.

use contracts::agree;
use gateway::{Config, Dialer, Gateway, LimitMetrics, LimitSettings, Limiter, Parts, Reload, Upstreams};
use nats::{
    Connection, Instance, InstanceId, Registry,
    server::{self, Binary, Server},
};
use pact_consumer::prelude::*;
use regex::Regex;
use serde_json::{Map, Value};
use service::{
    Clock, Metrics,
    auth::{AuthError, Jwks, Verifier},
};
use std::{net::SocketAddr, time::Duration};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

const ENDED_WITHIN: Duration = Duration::from_mins(1);

/// Each service, and one of its paths that a route of the gateway leads to.
pub(crate) const SERVICES: [(&str, &str); 8] = [
    ("users", "/users/{id}"),
    ("orders", "/orders"),
    ("payments", "/payments/{orderId}"),
    ("inventory", "/products"),
    ("shipping", "/shipments/{orderId}"),
    ("notifications", "/notifications"),
    ("fulfilment", "/ops/sagas"),
    ("operations", "/ops/dead-letters"),
];

fn pact(service: &str, path: &str) -> PactBuilder {
    let mut pact = PactBuilder::new_v4("gateway", service);
    pact.with_output_dir(std::env::temp_dir().join("contracts"));
    if service == "users" {
        pact.interaction("a request for the keys of access tokens", "", |mut interaction| {
            interaction.given("the system has started");
            interaction.request.get().path("/.well-known/jwks.json");
            let key = json_pattern!({
                "kty": "OKP",
                "crv": "Ed25519",
                "kid": like!("key-1"),
                // The example of RFC 8037.
                "x": Term::new(Regex::new("^[A-Za-z0-9_-]{43}$").unwrap(), "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"),
            });
            interaction.response.status(200).json_body(json_pattern!({ "keys": each_like!(key) }));
            interaction
        });
    }
    pact.interaction("a question whether an instance is well", "", |mut interaction| {
        interaction.given("the system has started");
        interaction.request.get().path("/health");
        interaction.response.status(200);
        interaction
    });
    pact.interaction("a request for the document of a service", "", |mut interaction| {
        interaction.given("the system has started");
        interaction.request.get().path("/openapi.json");
        let paths = object(path, json_pattern!({ "get": { "operationId": like!("show") } }));
        interaction.response.status(200).json_body(json_pattern!({ "paths": paths }));
        interaction
    });
    pact
}

/// An object with one member, whatever that is called.
fn object(name: &str, value: JsonPattern) -> JsonPattern {
    JsonPattern::Object([(name.to_owned(), value)].into())
}

#[test]
fn the_pacts_are_what_the_gateway_asks_for() {
    for (service, path) in SERVICES {
        agree(pact(service, path).build().as_ref());
    }
}

#[tokio::test]
async fn the_gateway_understands_the_keys() {
    let (_, path) = SERVICES[0];
    let mut keys = PactBuilder::new_v4("gateway", "users");
    keys.with_output_dir(std::env::temp_dir().join("contracts"));
    let all = pact("users", path).build().interactions();
    keys.push_interaction(all.into_iter().find(|one| one.description().contains("keys")).unwrap().as_ref());
    let server = keys.start_mock_server(None, None);
    let (client, url) = (reqwest::Client::new(), server.url().join(".well-known/jwks.json").unwrap());
    let keys = Jwks::start(move || {
        let request = client.get(url.clone());
        async move { Ok(request.send().await?.text().await?) }
    });
    // {"alg":"EdDSA","typ":"JWT","kid":"key-1"} over {}: the key is found, and the signature is none of it.
    let forged = format!("eyJhbGciOiJFZERTQSIsInR5cCI6IkpXVCIsImtpZCI6ImtleS0xIn0.e30.{}", "A".repeat(86));
    let refused = Verifier::new(keys, Clock::system()).verify(&forged).await.unwrap_err();
    assert!(!matches!(refused, AuthError::UnknownKey | AuthError::KeysUnavailable), "{refused:?}");
}

/// A gateway with its usual routes, in front of instances that are what the pacts say.
struct Running {
    address: SocketAddr,
    shutdown: CancellationToken,
    running: JoinHandle<std::io::Result<bool>>,
    _nats: (Server, tempfile::TempDir),
}

impl Running {
    async fn start(instances: Vec<Instance>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let binary = Binary::locate(None).await.unwrap();
        let nats = Server::start(server::Config::new(binary, folder.path().join("nats"))).await.unwrap();
        let connection = Connection::connect(&nats.url(), "contracts").await.unwrap();
        let (clock, metrics, config) = (Clock::system(), Metrics::new(), Config::standard());
        let (settings, counters) = (LimitSettings::default(), LimitMetrics::default());
        let limiter = Limiter::start(&connection, clock.clone(), settings, counters).await.unwrap();
        let (_, known) = watch::channel(instances.into());
        let registry = Registry::named_by(known);
        let dialer = Dialer::new(&config, None).unwrap();
        let gateway = Gateway::new(Parts {
            upstreams: Upstreams::start(registry, config.upstreams, dialer, clock.clone(), &metrics),
            config,
            reload: Reload::new(None).unwrap(),
            limiter,
            clock,
            metrics,
            details: Map::new(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, shutdown) = (listener.local_addr().unwrap(), CancellationToken::new());
        let running = tokio::spawn(gateway::run(listener, gateway, shutdown.clone()));
        Self { address, shutdown, running, _nats: (nats, folder) }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_understands_every_service() {
    let servers =
        SERVICES.map(|(service, path)| (service, pact(service, path).start_mock_server(None, None)));
    let clock = Clock::system();
    let instances = servers.iter().map(|(service, server)| Instance {
        service: (*service).to_owned(),
        id: InstanceId(clock.uuid()),
        url: server.url().as_str().trim_end_matches('/').to_owned(),
        version: "1".to_owned(),
        started: clock.now(),
    });
    let gateway = Running::start(instances.collect()).await;
    let document = reqwest::get(format!("http://{}/openapi.json", gateway.address)).await.unwrap();
    let document: Value = document.json().await.unwrap();
    for (service, path) in SERVICES {
        let found = &document["paths"][format!("/api{path}")]["get"]["operationId"];
        assert_eq!(found, "show", "{service}: {document}");
    }
    // Each was asked whether it is well, and for the keys, which the mock servers see to when they are dropped: instances
    // are checked as soon as they are known.
    let asked = async {
        while servers.iter().any(|(_, server)| !server.status().is_empty()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(ENDED_WITHIN, asked).await.expect("every service is asked for everything");
    gateway.shutdown.cancel();
    gateway.running.await.unwrap().unwrap();
}
