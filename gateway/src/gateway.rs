//! What a gateway consists of, and what it answers itself.

use crate::{
    Config, Reload, limit::Limiter, metrics::Counters, openapi::Descriptions, proxy::Proxy,
    upstream::Upstreams,
};
use arc_swap::ArcSwap;
use axum::{
    Router,
    body::Body,
    http::{Request, Response, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::get,
};
use hyper::body::Incoming;
use serde_json::{Map, Value};
use service::{
    Clock, Metrics, Probes, Problem,
    auth::{Jwks, Verifier},
};
use std::sync::Arc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;

/// Who publishes the keys of access tokens, and where.
const KEYS: (&str, &str) = ("users", "/.well-known/jwks.json");

/// What a gateway is made of.
pub struct Parts {
    /// Routes and limits.
    pub config: Config,
    /// When and from where `config` is read again.
    pub reload: Reload,
    /// Who answers for the services.
    pub upstreams: Upstreams,
    /// Who may ask how often.
    pub limiter: Limiter,
    /// Time and identifiers.
    pub clock: Clock,
    /// Where to count.
    pub metrics: Metrics,
    /// What `/health` tells.
    pub details: Map<String, Value>,
}

/// A gateway, ready to [`run`](crate::run).
pub struct Gateway {
    config: Arc<ArcSwap<Config>>,
    reload: Option<Reload>,
    own: Router,
    pub(crate) proxy: Proxy,
    pub(crate) limiter: Limiter,
    pub(crate) verifier: Verifier,
    pub(crate) clock: Clock,
    pub(crate) counters: Counters,
    pub(crate) ending: Ending,
}

/// How a gateway stops.
#[derive(Clone, Default)]
pub(crate) struct Ending {
    /// Cancelled first: `/ready` says no.
    pub(crate) leaving: CancellationToken,
    /// Cancelled then: streams end, connections close after the request they are at.
    pub(crate) stop: CancellationToken,
    /// Connections and tunnels.
    pub(crate) tasks: TaskTracker,
}

/// The service of routes that the gateway answers itself: what it shows to operators.
pub(crate) const ITSELF: &str = "gateway";

/// What the gateway answers itself whoever asks.
const OWN: [&str; 5] = ["/health", "/ready", "/metrics", "/openapi.json", "/api/openapi.json"];

impl Gateway {
    /// Puts the parts together, and begins to read the keys of access tokens.
    pub fn new(parts: Parts) -> Self {
        let Parts { config, reload, upstreams, limiter, clock, metrics, details } = parts;
        let (counters, ending) = (Counters::new(&metrics), Ending::default());
        let config = Arc::new(ArcSwap::from_pointee(config));
        let operators = upstreams.routes();
        let proxy = Proxy::new(upstreams, counters.clone(), ending.stop.clone());
        let source = proxy.clone();
        let keys = Jwks::start(move || {
            let source = source.clone();
            async move { Ok(String::from_utf8(source.fetch(KEYS.0, KEYS.1).await?.to_vec())?) }
        });
        let leaving = ending.leaving.clone();
        let stays = move || if leaving.is_cancelled() { Err("stopping".to_owned()) } else { Ok(()) };
        let source = proxy.clone();
        let descriptions = Descriptions::new(move |service| {
            let source = source.clone();
            Box::pin(async move { source.fetch(&service, "/openapi.json").await })
        });
        let described = Arc::clone(&config);
        let documents = get(async move || match descriptions.document(&described.load_full()).await {
            Some(text) => ([(CONTENT_TYPE, "application/json")], text).into_response(),
            None => Problem::internal().into_response(),
        });
        let own = Probes::new(metrics, details)
            .check("gateway", Arc::new(stays))
            .routes()
            .route("/openapi.json", documents.clone())
            .route("/api/openapi.json", documents)
            .merge(operators);
        let verifier = Verifier::new(keys, clock.clone());
        Self { config, reload: Some(reload), own, proxy, limiter, verifier, clock, counters, ending }
    }

    /// The configuration at this moment.
    pub(crate) fn config(&self) -> Arc<Config> {
        self.config.load_full()
    }

    /// The path, if the gateway answers it itself.
    pub(crate) fn own(path: &str) -> Option<Arc<str>> {
        OWN.contains(&path).then(|| path.into())
    }

    /// Answers a request for one of its own paths.
    pub(crate) async fn answer_itself(&self, path: &str, mut request: Request<Incoming>) -> Response<Body> {
        // A path that was read from a request can be written into one.
        *request.uri_mut() = path.parse().unwrap_or_default();
        match self.own.clone().oneshot(request.map(Body::new)).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }

    /// Follows the configuration until the gateway stops.
    pub(crate) fn follow(&mut self) {
        if let Some(reload) = self.reload.take() {
            let (config, stop) = (Arc::clone(&self.config), self.ending.stop.clone());
            self.ending.tasks.spawn(reload.follow(config, self.counters.clone(), stop));
        }
    }
}
