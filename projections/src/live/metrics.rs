//! What the change feed and those who follow it count.

use crate::metrics::Projection;
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

/// Counters of the change feeds of a process. Cheap to clone; clones count together.
#[derive(Clone, Debug)]
pub struct FeedMetrics {
    pub(crate) tell_seconds: Family<Projection, Histogram>,
    follow_seconds: Family<Projection, Histogram>,
    pending: Family<Projection, Gauge>,
    subscriptions: Family<Subscription, Gauge>,
    ended: Family<Ended, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Subscription {
    projection: &'static str,
    carrier: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    projection: &'static str,
    reason: &'static str,
}

impl FeedMetrics {
    /// Counters that `metrics` shows.
    pub fn new(metrics: &Metrics) -> Self {
        let seconds = || Histogram::new(exponential_buckets(0.000_5, 2.0, 16));
        let told = Family::new_with_constructor(seconds as fn() -> Histogram);
        let followed = Family::new_with_constructor(seconds as fn() -> Histogram);
        let (pending, subscriptions) = (Family::default(), Family::default());
        let ended = Family::<Ended, Counter>::default();
        let mut registry = metrics.registry();
        let help = "Time from a commit until its rows are in the change feed";
        registry.register("waybill_feed_tell_seconds", help, told.clone());
        let help = "Time from the change feed into the queues of those who follow";
        registry.register("waybill_feed_follow_seconds", help, followed.clone());
        let help = "Changed rows that are not in the change feed yet";
        registry.register("waybill_feed_pending_rows", help, pending.clone());
        let help = "Subscriptions by carrier: events, socket";
        registry.register("waybill_feed_subscriptions", help, subscriptions.clone());
        let help = "Subscriptions ended from here, by reason: slow, expired, erased, stopping, failed";
        registry.register("waybill_feed_dropped", help, ended.clone());
        Self { tell_seconds: told, follow_seconds: followed, pending, subscriptions, ended }
    }

    pub(crate) fn follow_seconds(&self, projection: &'static str, seconds: f64) {
        self.follow_seconds.get_or_create(&Projection { projection }).observe(seconds);
    }

    pub(crate) fn pending(&self, projection: &'static str, rows: usize) {
        let gauge = self.pending.get_or_create(&Projection { projection });
        gauge.set(i64::try_from(rows).unwrap_or(i64::MAX));
    }

    pub(crate) fn subscribed(&self, projection: &'static str, carrier: &'static str, by: i64) {
        self.subscriptions.get_or_create(&Subscription { projection, carrier }).inc_by(by);
    }

    pub(crate) fn dropped(&self, projection: &'static str, reason: &'static str) {
        self.ended.get_or_create(&Ended { projection, reason }).inc();
    }
}
