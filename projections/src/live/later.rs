//! When whoever cannot follow yet should come again.

use crate::Progress;
use events::Position;
use service::Problem;
use std::time::Duration;

/// Where nothing moves, nobody knows.
const STANDS_STILL: u64 = 30;
const LATEST: u64 = 300;

/// Events that the feed has not told, in the tables or not.
pub(super) fn left(progress: &Progress, told: &[Position]) -> u64 {
    let untold = progress.streams.iter().map(|stream| {
        let told = told.iter().find(|told| told.context == stream.position.context);
        let end = stream.end.unwrap_or(0).max(stream.position.sequence);
        end.saturating_sub(told.map_or(0, |told| told.sequence))
    });
    untold.sum()
}

/// Nobody can follow at the moment. So many events were to be seen to, and a while later so many.
pub(super) fn refusal(before: u64, left: u64, waited: Duration) -> Problem {
    let detail = "The change feed has not told everything that is in the tables yet, or cannot be followed.";
    Problem::unavailable("feed-unavailable", detail, seconds(before, left, waited))
}

/// In how many seconds everything is seen to at that pace.
fn seconds(before: u64, left: u64, waited: Duration) -> u32 {
    let pace = before.saturating_sub(left);
    let seconds = left.saturating_mul(waited.as_secs()).checked_div(pace).unwrap_or(STANDS_STILL);
    u32::try_from(seconds.clamp(1, LATEST)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Position {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_left_is_what_is_not_told_written_or_not() {
        let mut progress = Progress::new(&[at("ORDERS:40"), at("PAYMENTS:7")]);
        assert_eq!(left(&progress, &[]), 47, "the feed has not begun");
        assert_eq!(left(&progress, &[at("ORDERS:38"), at("PAYMENTS:9")]), 2);
        progress.streams[0].end = Some(100);
        assert_eq!(left(&progress, &[at("ORDERS:38"), at("PAYMENTS:7")]), 62);
    }

    #[test]
    fn who_is_refused_comes_again_when_it_will_be_time() {
        let after = |before, left| seconds(before, left, Duration::from_secs(5));
        assert_eq!(after(60_000, 50_000), 25);
        assert_eq!(after(60_000, 0), 1);
        assert_eq!(after(60_000, 59_999), 300);
        assert_eq!(after(60_000, 60_000), 30, "nothing moves");
        assert_eq!(after(0, 10), 30);
    }
}
