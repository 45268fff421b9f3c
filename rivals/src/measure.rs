//! The load: workers that create aggregates and append to them, one command after the other, for a fixed time.

use crate::{
    Contender, Result,
    event::{Move, PER_AGGREGATE},
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::task::JoinSet;
use uuid::Uuid;

/// One way to run the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    /// Workers at the same time.
    pub(crate) workers: usize,
    /// Whether each append loads its aggregate first.
    pub(crate) loading: bool,
}

/// What one run of the load gave.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// Acknowledged commands per second.
    pub(crate) rate: f64,
    /// Latency that half of the commands stayed under.
    pub(crate) p50: Duration,
    /// Latency that 99 of 100 commands stayed under.
    pub(crate) p99: Duration,
}

/// Runs the load for `warm_up`, which is not counted, and then for `time`.
pub(crate) async fn measure(
    contender: &Arc<Contender>,
    setting: Setting,
    warm_up: Duration,
    time: Duration,
) -> Result<Sample> {
    let from = Instant::now() + warm_up;
    let to = from + time;
    let mut workers = JoinSet::new();
    for _ in 0..setting.workers {
        workers.spawn(worker(contender.clone(), setting.loading, from, to));
    }
    let mut latencies = Vec::new();
    while let Some(worker) = workers.join_next().await {
        latencies.extend(worker??);
    }
    sample(latencies, time)
}

/// Commands until `to`; the latencies of those that began and ended inside the measurement.
async fn worker(
    contender: Arc<Contender>,
    loading: bool,
    from: Instant,
    to: Instant,
) -> Result<Vec<Duration>> {
    let mut latencies = Vec::new();
    loop {
        let id = Uuid::now_v7();
        let mut last = None;
        for version in 1..=PER_AGGREGATE {
            let start = Instant::now();
            last = contender.append(Move { id, version }, last, loading).await?;
            let end = Instant::now();
            if end >= to {
                return Ok(latencies);
            }
            if start >= from {
                latencies.push(end - start);
            }
        }
    }
}

fn sample(mut latencies: Vec<Duration>, time: Duration) -> Result<Sample> {
    latencies.sort_unstable();
    let at = |percent: usize| latencies.get(latencies.len() * percent / 100).copied();
    let (p50, p99) = at(50).zip(at(99)).ok_or("nothing was acknowledged in time")?;
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52 commands")]
    let rate = latencies.len() as f64 / time.as_secs_f64();
    Ok(Sample { rate, p50, p99 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_sorted_latencies() {
        let latencies = (1..=200).rev().map(Duration::from_millis).collect();
        let sample = sample(latencies, Duration::from_secs(2)).unwrap();
        assert_eq!((sample.p50.as_millis(), sample.p99.as_millis()), (101, 199));
        assert!((sample.rate - 100.0).abs() < f64::EPSILON);
        assert!(super::sample(Vec::new(), Duration::from_secs(1)).is_err());
    }
}
