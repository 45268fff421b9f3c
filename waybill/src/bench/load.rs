//! A bounded load: so many callers, each asking again as soon as it is answered.

use hdrhistogram::Histogram;
use std::{
    future::Future,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// What a load measured.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    /// Operations done.
    pub(super) operations: u64,
    /// Time they took together.
    pub(super) elapsed: Duration,
    /// Latency of each, in microseconds.
    pub(super) latency: Histogram<u64>,
}

impl Sample {
    /// Operations without a latency of their own.
    pub(super) fn of(operations: u64, elapsed: Duration) -> Self {
        Self { operations, elapsed, latency: new_histogram() }
    }

    /// Adds a latency.
    pub(super) fn note(&mut self, latency: Duration) {
        self.latency.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
    }

    /// Operations per second.
    pub(super) fn rate(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a count of operations is far below 2^52")]
        let operations = self.operations as f64;
        operations / self.elapsed.as_secs_f64()
    }

    /// A quantile of the latency, in milliseconds.
    pub(super) fn millis(&self, quantile: f64) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "latencies are far below 2^52 microseconds")]
        let micros = self.latency.value_at_quantile(quantile) as f64;
        micros / 1000.0
    }
}

/// Lets `callers` ask `total` times together. `ask` gets the number of the question.
pub(super) async fn run<F, Fut>(callers: usize, total: u64, ask: F) -> Sample
where
    F: Fn(u64) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send,
{
    let next = std::sync::Arc::new(AtomicU64::new(0));
    let start = Instant::now();
    let tasks: Vec<_> = (0..callers)
        .map(|_| {
            let (ask, next) = (ask.clone(), next.clone());
            tokio::spawn(async move {
                let mut latency = new_histogram();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= total {
                        return latency;
                    }
                    let asked = Instant::now();
                    ask(number).await;
                    latency.saturating_record(u64::try_from(asked.elapsed().as_micros()).unwrap_or(u64::MAX));
                }
            })
        })
        .collect();
    let mut latency = new_histogram();
    for task in tasks {
        if let Ok(of_task) = task.await {
            // Same bounds, so they add up.
            let _ = latency.add(of_task);
        }
    }
    Sample { operations: total, elapsed: start.elapsed(), latency }
}

/// One microsecond to ten minutes, three digits.
fn new_histogram() -> Histogram<u64> {
    #[expect(clippy::expect_used, reason = "the bounds are constants that the library accepts")]
    Histogram::new_with_bounds(1, 600_000_000, 3).expect("valid bounds")
}
