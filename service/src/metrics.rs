//! Counters, gauges and histograms, in the text that Prometheus reads.

use prometheus_client::{
    encoding::text,
    registry::{Metric, Registry},
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The metrics of this process. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Metrics(Arc<Mutex<Registry>>);

impl Metrics {
    /// No metrics yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers a metric and hands it back, to be kept by what counts: metrics are cheap to clone and lock nothing.
    pub fn register<M: Metric + Clone>(&self, name: &str, help: &str, metric: M) -> M {
        self.registry().register(name, help, metric.clone());
        metric
    }

    /// The registry, for units, prefixes and collectors. Locked: let go of it soon.
    pub fn registry(&self) -> MutexGuard<'_, Registry> {
        // Registering is all that happens under the lock: after a panic there the registry is still whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All metrics in the `OpenMetrics` text format.
    pub fn render(&self) -> String {
        let mut page = String::new();
        if text::encode(&mut page, &self.registry()).is_err() {
            // Writing to a string fails only when a metric refuses to be written: say so instead of half a page.
            tracing::error!("a metric cannot be encoded");
            page.clear();
        }
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::metrics::counter::Counter;

    #[test]
    fn what_is_registered_is_rendered() {
        let metrics = Metrics::new();
        let conflicts: Counter = metrics.register("conflicts", "Appends that lost", Counter::default());
        conflicts.inc_by(3);
        let page = metrics.clone().render();
        assert!(page.contains("# TYPE conflicts counter\nconflicts_total 3\n"), "{page}");
    }
}
