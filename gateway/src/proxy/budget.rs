//! How many second attempts there may be: in an outage they would only add to the load.

use std::sync::atomic::{AtomicU32, Ordering};

/// Earned by requests, spent by retries: in the long run a fifth as many of these as of those.
#[derive(Debug)]
pub(crate) struct Budget(AtomicU32);

/// What a request earns, and what a retry costs.
const EARNED: u32 = 1;
const COST: u32 = 5;
/// What can be saved: a burst of so many retries.
const MOST: u32 = 100 * COST;

impl Default for Budget {
    /// Enough for a few retries before there were requests to earn them.
    fn default() -> Self {
        Self(AtomicU32::new(10 * COST))
    }
}

impl Budget {
    /// A request was made.
    pub(crate) fn earn(&self) {
        self.change(|saved| Some((saved + EARNED).min(MOST)));
    }

    /// Whether there may be a retry.
    pub(crate) fn spend(&self) -> bool {
        self.change(|saved| saved.checked_sub(COST))
    }

    fn change(&self, to: impl Fn(u32) -> Option<u32>) -> bool {
        self.0.try_update(Ordering::Relaxed, Ordering::Relaxed, to).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifth_of_the_requests_may_be_repeated() {
        let budget = Budget::default();
        let spent = (0..10_000).filter(|_| {
            budget.earn();
            budget.spend()
        });
        assert_eq!(spent.count(), 2000 + 10);
        (0..100_000).for_each(|_| budget.earn());
        assert_eq!(
            (0..1000).filter(|_| budget.spend()).count(),
            100,
            "a long calm does not save for a storm"
        );
    }
}
