//! What the gateway counts.

use axum::http::{Method, StatusCode};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
};
use service::Metrics;
use std::{sync::Arc, time::Duration};

/// Counters of one gateway. Cheap to clone; clones count together.
#[derive(Clone, Debug)]
pub(crate) struct Counters {
    requests: Family<Answered, Counter>,
    seconds: Family<Taken, Histogram>,
    upstream_errors: Family<Failed, Counter>,
    retries: Family<Retried, Counter>,
    reloads: Family<Reloaded, Counter>,
    pub(crate) connections: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    route: Arc<str>,
    method: String,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Taken {
    route: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Failed {
    service: Arc<str>,
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Retried {
    service: Arc<str>,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reloaded {
    outcome: &'static str,
}

impl Counters {
    /// Counters that `metrics` shows.
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let seconds = || Histogram::new(exponential_buckets(0.000_5, 2.0, 16));
        let counters = Self {
            requests: Family::default(),
            seconds: Family::new_with_constructor(seconds as fn() -> Histogram),
            upstream_errors: Family::default(),
            retries: Family::default(),
            reloads: Family::default(),
            connections: Gauge::default(),
        };
        let mut registry = metrics.registry();
        let help = "Requests by route, method and status; 499 where the client went away before the answer";
        registry.register("waybill_gateway_requests", help, counters.requests.clone());
        let help = "From a request to the end of its answer";
        registry.register("waybill_gateway_request_seconds", help, counters.seconds.clone());
        let help = "Calls of a service that found no answer, by kind: connect, timeout, reset, none, open";
        registry.register("waybill_gateway_upstream_errors", help, counters.upstream_errors.clone());
        let help = "Second attempts on another instance, by outcome: sent, or refused by the budget";
        registry.register("waybill_gateway_retries", help, counters.retries.clone());
        let help = "Attempts to read the configuration again, by outcome: taken, or refused as faulty";
        registry.register("waybill_gateway_reloads", help, counters.reloads.clone());
        registry.register(
            "waybill_gateway_connections",
            "Open connections of clients",
            counters.connections.clone(),
        );
        drop(registry);
        counters
    }

    pub(crate) fn request(&self, route: &Arc<str>, method: &Method, status: StatusCode, taken: Duration) {
        // Anybody can invent methods: only those that routes can have become a label.
        let known = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"].contains(&method.as_str());
        let method = if known { method.as_str() } else { "other" }.to_owned();
        let labels = Answered { route: Arc::clone(route), method, status: status.as_u16() };
        self.requests.get_or_create(&labels).inc();
        self.seconds.get_or_create(&Taken { route: Arc::clone(route) }).observe(taken.as_secs_f64());
    }

    pub(crate) fn upstream_error(&self, service: &Arc<str>, kind: &'static str) {
        self.upstream_errors.get_or_create(&Failed { service: Arc::clone(service), kind }).inc();
    }

    pub(crate) fn retry(&self, service: &Arc<str>, outcome: &'static str) {
        self.retries.get_or_create(&Retried { service: Arc::clone(service), outcome }).inc();
    }

    pub(crate) fn reload(&self, outcome: &'static str) {
        self.reloads.get_or_create(&Reloaded { outcome }).inc();
    }
}
