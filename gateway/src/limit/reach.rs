//! Whether the shared records can be reached, as far as their answers tell: after a failure one request in a while finds
//! out, and the others do not wait.

use super::LimitMetrics;
use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// How long nobody tries after a failure.
const PAUSE: Duration = Duration::from_secs(1);

/// What the last answers were.
#[derive(Debug)]
pub(super) struct Reach {
    /// When somebody may try again; none while they answer.
    next: Mutex<Option<Instant>>,
    metrics: LimitMetrics,
}

/// Whether a request may try to reach them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Try {
    /// They answer.
    Yes,
    /// They did not; this one finds out.
    Again,
    /// They did not, a moment ago.
    No,
}

impl Reach {
    pub(super) fn new(metrics: LimitMetrics) -> Self {
        Self { next: Mutex::default(), metrics }
    }

    pub(super) fn may_try(&self) -> Try {
        let mut next = self.next();
        match *next {
            None => Try::Yes,
            Some(at) if Instant::now() < at => Try::No,
            Some(_) => {
                *next = Some(Instant::now() + PAUSE);
                Try::Again
            }
        }
    }

    /// They did not answer.
    pub(super) fn away(&self, why: &dyn fmt::Display) {
        if self.next().replace(Instant::now() + PAUSE).is_none() {
            self.metrics.is_alone.set(1);
            tracing::warn!(%why, "requests are counted by this gateway alone: the shared records cannot be reached");
        }
    }

    /// They answer.
    pub(super) fn back(&self) {
        if self.next().take().is_some() {
            self.metrics.is_alone.set(0);
            tracing::info!("requests are counted across all gateways again");
        }
    }

    fn next(&self) -> MutexGuard<'_, Option<Instant>> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn after_a_failure_one_in_a_while_finds_out() {
        let reach = Reach::new(LimitMetrics::default());
        assert_eq!((reach.may_try(), reach.may_try()), (Try::Yes, Try::Yes));
        reach.away(&"gone");
        assert_eq!(reach.may_try(), Try::No);
        tokio::time::advance(PAUSE).await;
        assert_eq!((reach.may_try(), reach.may_try()), (Try::Again, Try::No));
        assert_eq!(reach.metrics.is_alone.get(), 1);
        reach.back();
        assert_eq!((reach.may_try(), reach.metrics.is_alone.get()), (Try::Yes, 0));
    }
}
