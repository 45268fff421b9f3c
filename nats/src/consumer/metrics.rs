//! What consumers count.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};
use std::time::Duration;

/// Counters of consumers, by durable name. Cheap to clone; clones count together.
#[derive(Clone, Debug)]
pub struct ConsumerMetrics {
    lag: Family<Durable, Gauge>,
    in_flight: Family<Durable, Gauge>,
    failures: Family<Failure, Counter>,
    seconds: Family<Durable, Histogram>,
    parked: Family<Durable, Gauge>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Durable {
    durable: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Failure {
    durable: String,
    cause: &'static str,
}

impl Default for ConsumerMetrics {
    fn default() -> Self {
        Self {
            lag: Family::default(),
            in_flight: Family::default(),
            failures: Family::default(),
            seconds: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.000_5, 2.0, 16))),
            parked: Family::default(),
        }
    }
}

impl ConsumerMetrics {
    /// Makes the counters visible.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "waybill_consumer_lag",
            "Messages that no instance has taken yet",
            self.lag.clone(),
        );
        let in_flight = self.in_flight.clone();
        registry.register(
            "waybill_consumer_in_flight",
            "Messages taken by some instance and not done",
            in_flight,
        );
        let failures = self.failures.clone();
        registry.register("waybill_reaction_failures", "Reactions that had to be tried again", failures);
        let seconds = self.seconds.clone();
        registry.register("waybill_reaction_seconds", "From delivery to acknowledgement", seconds);
        let parked = self.parked.clone();
        registry.register("waybill_parked_keys", "Aggregates whose messages wait for an operator", parked);
    }

    pub(super) fn lag(&self, durable: &str, pending: u64) {
        let label = Durable { durable: durable.to_owned() };
        self.lag.get_or_create(&label).set(i64::try_from(pending).unwrap_or(i64::MAX));
    }

    pub(super) fn in_flight(&self, durable: &str, taken: usize) {
        let label = Durable { durable: durable.to_owned() };
        self.in_flight.get_or_create(&label).set(i64::try_from(taken).unwrap_or(i64::MAX));
    }

    pub(super) fn parked(&self, durable: &str, keys: usize) {
        let label = Durable { durable: durable.to_owned() };
        self.parked.get_or_create(&label).set(i64::try_from(keys).unwrap_or(i64::MAX));
    }

    /// `cause` is who is to blame: the world, or the message.
    pub(super) fn failed(&self, durable: &str, cause: &'static str) {
        self.failures.get_or_create(&Failure { durable: durable.to_owned(), cause }).inc();
    }

    pub(super) fn handled(&self, durable: &str, took: Duration) {
        let label = Durable { durable: durable.to_owned() };
        self.seconds.get_or_create(&label).observe(took.as_secs_f64());
    }
}
