//! What the executor counts.

use super::{ExecuteError, Receipt};
use nats::AppendError;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};
use std::time::Duration;

/// Counters of commands. Cheap to clone; clones count together.
#[derive(Clone, Debug)]
pub struct ExecutorMetrics {
    commands: Family<Outcome, Counter>,
    /// The one of them that nearly every command counts: found once, not every time.
    recorded: Counter,
    seconds: Histogram,
    conflicts: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

impl Default for ExecutorMetrics {
    fn default() -> Self {
        let commands = Family::<Outcome, Counter>::default();
        Self {
            recorded: commands.get_or_create_owned(&Outcome { outcome: "recorded" }),
            commands,
            seconds: Histogram::new(exponential_buckets(0.000_1, 2.0, 16)),
            conflicts: Counter::default(),
        }
    }
}

impl ExecutorMetrics {
    /// Makes the counters visible.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("waybill_commands", "Commands by outcome", self.commands.clone());
        registry.register("waybill_command_seconds", "From asking to the answer", self.seconds.clone());
        registry.register(
            "waybill_conflicts",
            "Appends that met a concurrent change",
            self.conflicts.clone(),
        );
    }

    pub(super) fn conflict(&self) {
        self.conflicts.inc();
    }

    pub(super) fn command(&self, result: &Result<Receipt, ExecuteError>, took: Duration) {
        self.seconds.observe(took.as_secs_f64());
        let outcome = match result {
            Ok(Receipt { replayed: true, .. }) => "replayed",
            Ok(Receipt { events: 0, .. }) => "unchanged",
            Ok(_) => {
                self.recorded.inc();
                return;
            }
            Err(ExecuteError::Refused(_)) => "refused",
            Err(ExecuteError::Append(AppendError::Unknown)) => "unknown",
            Err(ExecuteError::Contended) => "contended",
            Err(_) => "failed",
        };
        self.commands.get_or_create(&Outcome { outcome }).inc();
    }
}
