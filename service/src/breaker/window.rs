//! Calls and failures of the last while, counted in buckets of a tenth of it.

use std::time::Duration;
use tokio::time::Instant;

const BUCKETS: u32 = 10;

/// A rolling window.
#[derive(Debug)]
pub(super) struct Window {
    start: Instant,
    width: Duration,
    buckets: [Bucket; BUCKETS as usize],
}

#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    /// Which tenth since the start it counts.
    number: u64,
    calls: u32,
    failures: u32,
}

impl Window {
    pub(super) fn new(length: Duration, start: Instant) -> Self {
        // A window of no length would divide by zero.
        let width = (length / BUCKETS).max(Duration::from_millis(1));
        Self { start, width, buckets: Default::default() }
    }

    /// Counts a call that ends now.
    pub(super) fn count(&mut self, failed: bool, now: Instant) {
        let number = self.number(now);
        // The one that is a window old, or this one already.
        let bucket = &mut self.buckets[usize::try_from(number).unwrap_or_default() % self.buckets.len()];
        if bucket.number != number {
            *bucket = Bucket { number, ..Bucket::default() };
        }
        bucket.calls += 1;
        bucket.failures += u32::from(failed);
    }

    /// Calls, and how many of them failed.
    pub(super) fn totals(&self, now: Instant) -> (u32, u32) {
        let present = self.number(now);
        let recent = self.buckets.iter().filter(|bucket| present - bucket.number < u64::from(BUCKETS));
        recent.fold((0, 0), |(calls, failures), bucket| (calls + bucket.calls, failures + bucket.failures))
    }

    fn number(&self, now: Instant) -> u64 {
        let passed = now.saturating_duration_since(self.start).as_nanos() / self.width.as_nanos();
        u64::try_from(passed).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_older_than_the_window_does_not_count() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut window = Window::new(Duration::from_secs(10), start);
        window.count(true, at(0));
        window.count(false, at(900));
        window.count(true, at(5_500));
        assert_eq!(window.totals(at(9_999)), (3, 2));
        assert_eq!(window.totals(at(10_000)), (1, 1), "the first second is over");
        window.count(true, at(10_100));
        assert_eq!(window.totals(at(10_100)), (2, 2), "its bucket was used again");
        assert_eq!(window.totals(at(60_000)), (0, 0));
    }
}
