//! What the store counts.

use crate::{AppendError, Appended};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

/// Counters of appends and loads. Cheap to clone; clones count together.
#[derive(Clone, Debug)]
pub struct StoreMetrics {
    pub(crate) append_seconds: Histogram,
    appends: Family<Outcome, Counter>,
    /// The one of them that nearly every append counts: found once, not every time.
    stored: Counter,
    pub(crate) batch_events: Histogram,
    pub(crate) loads: Family<Path, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Path {
    pub(crate) path: &'static str,
}

impl Default for StoreMetrics {
    fn default() -> Self {
        let appends = Family::<Outcome, Counter>::default();
        let stored = appends.get_or_create_owned(&Outcome { outcome: "stored" });
        Self {
            stored,
            append_seconds: Histogram::new(exponential_buckets(0.000_1, 2.0, 16)),
            appends,
            batch_events: Histogram::new(exponential_buckets(1.0, 2.0, 10)),
            loads: Family::default(),
        }
    }
}

impl StoreMetrics {
    /// Counts an append by what became of it.
    pub(crate) fn appended(&self, result: &Result<Appended, AppendError>) {
        let outcome = match result {
            Ok(Appended { duplicate: false, .. }) => {
                self.stored.inc();
                return;
            }
            Ok(Appended { duplicate: true, .. }) => "duplicate",
            Err(AppendError::Conflict) => "conflict",
            Err(AppendError::Unavailable(_)) => "unavailable",
            Err(AppendError::Unknown) => "unknown",
            Err(AppendError::TooLarge { .. } | AppendError::Refused { .. }) => "refused",
        };
        self.appends.get_or_create(&Outcome { outcome }).inc();
    }

    /// Makes the counters visible.
    pub fn register(&self, registry: &mut Registry) {
        let append = self.append_seconds.clone();
        registry.register(
            "waybill_append_seconds",
            "From asking for an append to its acknowledgement",
            append,
        );
        registry.register("waybill_appends", "Appends by outcome", self.appends.clone());
        let batch = self.batch_events.clone();
        registry.register("waybill_append_batch_events", "Events in an atomic batch", batch);
        registry.register("waybill_loads", "Loads of an aggregate by path taken", self.loads.clone());
    }
}
