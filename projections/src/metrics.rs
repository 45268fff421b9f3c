//! What a projection counts.

use crate::Progress;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::{ConstGauge, Gauge},
        histogram::{Histogram, exponential_buckets},
    },
};
use service::{Clock, Metrics};
use std::fmt;
use tokio::sync::watch;

/// Counters of every projection of a process. Cheap to clone; clones count together.
#[derive(Clone, Debug)]
pub struct ProjectionMetrics {
    pub(crate) batch_events: Family<Projection, Histogram>,
    pub(crate) commit_seconds: Family<Projection, Histogram>,
    pub(crate) failures: Family<Failure, Counter>,
    parked: Family<Projection, Gauge>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Projection {
    pub(crate) projection: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Failure {
    pub(crate) projection: &'static str,
    pub(crate) kind: &'static str,
}

impl ProjectionMetrics {
    /// Counters that `metrics` shows.
    pub fn new(metrics: &Metrics) -> Self {
        let sizes = || Histogram::new(exponential_buckets(1.0, 2.0, 13));
        let seconds = || Histogram::new(exponential_buckets(0.000_1, 2.0, 16));
        let batches = Family::new_with_constructor(sizes as fn() -> Histogram);
        let commits = Family::new_with_constructor(seconds as fn() -> Histogram);
        let failures = Family::<Failure, Counter>::default();
        let mut registry = metrics.registry();
        registry.register("waybill_projection_batch_events", "Events per commit", batches.clone());
        registry.register("waybill_projection_commit_seconds", "Time to write a batch", commits.clone());
        let help = "Failures by kind: decode, read, commit, lost (another projector was faster)";
        registry.register("waybill_projection_failures", help, failures.clone());
        let parked = Family::<Projection, Gauge>::default();
        let help = "Aggregates whose events wait for an operator";
        registry.register("waybill_projection_parked_keys", help, parked.clone());
        Self { batch_events: batches, commit_seconds: commits, failures, parked }
    }

    pub(crate) fn parked(&self, projection: &'static str, keys: usize) {
        let gauge = self.parked.get_or_create(&Projection { projection });
        gauge.set(i64::try_from(keys).unwrap_or(i64::MAX));
    }

    pub(crate) fn failed(&self, projection: &'static str, kind: &'static str) {
        self.failures.get_or_create(&Failure { projection, kind }).inc();
    }
}

/// Lag, told when it is asked for: a projection that stands still would not tell it.
pub(crate) struct Lag {
    pub(crate) projection: &'static str,
    pub(crate) progress: watch::Receiver<Progress>,
    pub(crate) clock: Clock,
}

impl fmt::Debug for Lag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lag({})", self.projection)
    }
}

impl Collector for Lag {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (progress, now) = (self.progress.borrow().clone(), self.clock.now());
        let mut gauge = |name: &str,
                         help: &str,
                         value: fn(&crate::StreamProgress, jiff::Timestamp) -> f64| {
            let gauge = ConstGauge::new(0.0);
            let mut family = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            for stream in &progress.streams {
                let labels = [("projection", self.projection), ("stream", stream.position.context.stream())];
                ConstGauge::new(value(stream, now)).encode(family.encode_family(&labels)?)?;
            }
            fmt::Result::Ok(())
        };
        #[expect(clippy::cast_precision_loss, reason = "a gauge is a float; lags are far below 2^52")]
        gauge("waybill_projection_lag_events", "Events not in the tables yet", |stream, _| {
            stream.lag() as f64
        })?;
        gauge("waybill_projection_lag_seconds", "How far behind the tables are", |stream, now| {
            stream.behind_since.map_or(0.0, |since| now.duration_since(since).as_secs_f64().max(0.0))
        })
    }
}
