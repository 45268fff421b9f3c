//! How fast events go: as fast as they can, so many a second, or as they came, faster or slower.

use jiff::Timestamp;
use std::{str::FromStr, time::Duration};
use tokio::time::Instant;

/// What was not used of a rate is made up for at most so long: a pause is no reason for a flood.
const CATCH_UP: Duration = Duration::from_millis(100);

/// Events per second: more than none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rate(pub(super) f64);

/// How much faster than they came: `10x`, `0.5x`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Speed(pub(super) f64);

fn positive(text: &str) -> Option<f64> {
    text.parse().ok().filter(|number: &f64| number.is_finite() && *number >= 0.001)
}

impl FromStr for Rate {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        positive(text).map(Self).ok_or("expected a number of events per second, such as 500")
    }
}

impl FromStr for Speed {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let factor = positive(text.strip_suffix('x').unwrap_or(text));
        factor.map(Self).ok_or("expected how much faster than events came, such as 10x or 0.5x")
    }
}

/// Holds events back until it is their time.
#[derive(Debug)]
pub(super) enum Pace {
    Free,
    Even { gap: Duration, next: Instant },
    AsTheyCame { speed: f64, first: Option<(Instant, Timestamp)> },
}

impl Pace {
    pub(super) fn new(rate: Option<Rate>, speed: Option<Speed>) -> Self {
        match (rate, speed) {
            (Some(Rate(rate)), _) => {
                Self::Even { gap: Duration::from_secs_f64(1.0 / rate), next: Instant::now() }
            }
            (None, Some(Speed(speed))) => Self::AsTheyCame { speed, first: None },
            (None, None) => Self::Free,
        }
    }

    /// Waits until it is time for an event that was stored then.
    pub(super) async fn wait(&mut self, stored: Timestamp) {
        if let Some(due) = self.due(stored, Instant::now()) {
            tokio::time::sleep_until(due).await;
        }
    }

    /// When its time is, where it is still to come.
    fn due(&mut self, stored: Timestamp, now: Instant) -> Option<Instant> {
        let due = match self {
            Self::Free => return None,
            Self::Even { gap, next } => {
                let due = (*next).max(now.checked_sub(CATCH_UP).unwrap_or(now));
                *next = due + *gap;
                due
            }
            Self::AsTheyCame { speed, first } => {
                let (began, first) = *first.get_or_insert((now, stored));
                let passed = stored.duration_since(first).as_secs_f64().max(0.0) / *speed;
                // What is further away than that is never.
                began + Duration::try_from_secs_f64(passed).unwrap_or(FAR).min(FAR)
            }
        };
        // Timers are no finer than a millisecond.
        (due > now + Duration::from_millis(1)).then_some(due)
    }
}

/// A hundred years.
const FAR: Duration = Duration::from_hours(24 * 365 * 100);

#[cfg(test)]
mod tests {
    use super::*;

    fn second(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_is_kept_and_a_pause_is_no_reason_for_a_flood() {
        let began = Instant::now();
        let mut pace = Pace::new(Some(Rate(100.0)), None);
        for _ in 0..=200 {
            pace.wait(second(0)).await;
        }
        let took = began.elapsed();
        assert!((1990..=2010).contains(&took.as_millis()), "200 gaps of 10 ms, not {took:?}");
        tokio::time::advance(Duration::from_mins(1)).await;
        let began = Instant::now();
        for _ in 0..=200 {
            pace.wait(second(0)).await;
        }
        assert!(began.elapsed() >= Duration::from_millis(1890), "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn events_go_as_they_came_only_faster() {
        let began = Instant::now();
        let mut pace = Pace::new(None, Some(Speed(10.0)));
        for at in [1000, 1000, 1030, 1020, 1100] {
            pace.wait(second(at)).await;
        }
        let took = began.elapsed();
        assert!((10_000..=10_002).contains(&took.as_millis()), "100 s, ten times as fast: {took:?}");
        Pace::new(None, None).wait(Timestamp::MAX).await;
    }

    #[test]
    fn nonsense_is_no_pace() {
        assert_eq!("2.5".parse(), Ok(Rate(2.5)));
        assert_eq!(("10x".parse(), "0.5".parse()), (Ok(Speed(10.0)), Ok(Speed(0.5))));
        for bad in ["", "0", "-1", "x", "inf", "NaN", "1e-9", "10 x"] {
            assert!(bad.parse::<Rate>().is_err() && bad.parse::<Speed>().is_err(), "{bad}");
        }
    }
}
