//! Counts what a service has answered.

use crate::Metrics;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
};

/// Requests by the status of their answers. Cheap to clone; clones count together.
#[derive(Clone, Debug)]
pub(super) struct Answered(Family<Labels, Counter>);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    status: u16,
}

impl Answered {
    /// A counter that `metrics` shows.
    pub(super) fn new(metrics: &Metrics) -> Self {
        let help = "Requests by the status of their answers, without probes";
        Self(metrics.register("waybill_http_requests", help, Family::default()))
    }

    pub(super) fn count(&self, status: u16) {
        self.0.get_or_create(&Labels { status }).inc();
    }
}
