//! What operators see of the instances: a list, gauges and counters.

use super::{Shared, member::Verdict};
use axum::{Json, Router, routing::get};
use jiff::Timestamp;
use nats::InstanceId;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{MetricType, counter::Counter, family::Family, gauge::ConstGauge},
};
use serde::Serialize;
use service::Metrics;
use std::{
    fmt,
    sync::{Arc, Weak},
};
use tokio::time::Instant;

/// What happens to instances.
#[derive(Clone, Debug, Default)]
pub(super) struct Counters {
    checks: Family<Checked, Counter>,
    ejections: Family<Service, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Checked {
    service: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Service {
    service: String,
}

impl Counters {
    pub(super) fn register(metrics: &Metrics) -> Self {
        let Self { checks, ejections } = Self::default();
        Self {
            checks: metrics.register(
                "waybill_upstream_checks",
                "Health checks of instances by outcome",
                checks,
            ),
            ejections: metrics.register(
                "waybill_upstream_ejections",
                "Instances ejected after failures in a row",
                ejections,
            ),
        }
    }

    pub(super) fn checked(&self, service: &str, well: bool) {
        let labels = Checked { service: service.to_owned(), outcome: if well { "ok" } else { "failed" } };
        self.checks.get_or_create(&labels).inc();
    }

    pub(super) fn ejected(&self, service: &str) {
        self.ejections.get_or_create(&Service { service: service.to_owned() }).inc();
    }
}

/// Counts instances by condition whenever metrics are asked for.
pub(super) fn show_instances(metrics: &Metrics, shared: &Arc<Shared>) {
    metrics.registry().register_collector(Box::new(Instances(Arc::downgrade(shared))));
}

#[derive(Debug)]
struct Instances(Weak<Shared>);

impl Collector for Instances {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let Some(shared) = self.0.upgrade() else { return Ok(()) };
        let help = "Instances by condition: fit, ejected, unhealthy";
        let mut encoder =
            encoder.encode_descriptor("waybill_upstream_instances", help, None, MetricType::Gauge)?;
        let now = Instant::now();
        for (name, service) in shared.services.load().iter() {
            for (condition, verdict) in
                [("fit", Verdict::Fit), ("ejected", Verdict::Ejected), ("unhealthy", Verdict::Unhealthy)]
            {
                let count = service.members.iter().filter(|member| member.verdict(now) == verdict).count();
                let labels = [("service", name.as_str()), ("condition", condition)];
                let count = ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX));
                count.encode(encoder.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

/// An instance as operators see it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    service: String,
    instance: InstanceId,
    url: String,
    version: String,
    started: Timestamp,
    healthy: bool,
    ejected: bool,
    in_flight: usize,
    last_check: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<String>,
}

pub(super) fn routes(shared: &Arc<Shared>) -> Router {
    let shared = Arc::clone(shared);
    Router::new().route("/ops/instances", get(async move || Json(list(&shared))))
}

fn list(shared: &Shared) -> Vec<Listed> {
    let (services, now) = (shared.services.load(), Instant::now());
    let members = services.values().flat_map(|service| &service.members);
    let listed = members.map(|member| {
        let condition = member.condition().clone();
        let instance = &member.instance;
        Listed {
            service: instance.service.clone(),
            instance: instance.id,
            url: instance.url.clone(),
            version: instance.version.clone(),
            started: instance.started,
            healthy: condition.healthy,
            ejected: condition.is_ejected(now),
            in_flight: member.in_flight(),
            last_check: condition.last_check,
            fault: condition.fault,
        }
    });
    listed.collect()
}
