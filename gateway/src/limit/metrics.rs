//! What the limiter counts.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};
use service::Metrics;

/// Counters of leases. Requests are counted where they are answered. Cheap to clone; clones count together.
#[derive(Clone, Debug, Default)]
pub struct LimitMetrics {
    leases: Family<Outcome, Counter>,
    recalls: Family<Outcome, Counter>,
    pub(super) alone: Counter,
    pub(super) is_alone: Gauge,
    pub(super) lost: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

impl LimitMetrics {
    pub(super) fn lease(&self, outcome: &'static str) {
        self.leases.get_or_create(&Outcome { outcome }).inc();
    }

    pub(super) fn recall(&self, outcome: &'static str) {
        self.recalls.get_or_create(&Outcome { outcome }).inc();
    }

    /// Makes the counters visible.
    pub fn register(&self, metrics: &Metrics) {
        let (leases, recalls) = (self.leases.clone(), self.recalls.clone());
        metrics.register("waybill_limit_leases", "Leases asked of the shared records by outcome", leases);
        metrics.register(
            "waybill_limit_recalls",
            "Leases called back from other gateways by outcome",
            recalls,
        );
        let alone = self.alone.clone();
        metrics.register("waybill_limit_alone", "Decisions made without the shared records", alone);
        let is_alone = self.is_alone.clone();
        metrics.register("waybill_limit_is_alone", "1 while the shared records cannot be reached", is_alone);
        let lost = self.lost.clone();
        metrics.register("waybill_limit_lost", "Requests leased and neither admitted nor given back", lost);
    }
}
