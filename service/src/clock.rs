//! The only source of time and of new identifiers: system time in production, set by hand in tests.

use jiff::Timestamp;
use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};
use uuid::Uuid;

/// Time and identifiers. Clones share the same time and the same order of identifiers.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System,
    Manual(Arc<Manual>),
}

#[derive(Debug)]
struct Manual {
    microseconds: AtomicI64,
    last_tick: AtomicU64,
}

/// The newest tick given to an identifier by any system clock of this process.
static LAST_SYSTEM_TICK: AtomicU64 = AtomicU64::new(0);

impl Clock {
    /// The time of the machine.
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that stands still at `start` until [`advance`](Self::advance) moves it: for tests.
    pub fn manual(start: Timestamp) -> Self {
        let microseconds = AtomicI64::new(start.as_microsecond());
        Self(Source::Manual(Arc::new(Manual { microseconds, last_tick: AtomicU64::new(0) })))
    }

    /// The present time.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the machine's time")]
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Source::System => Timestamp::now(),
            Source::Manual(manual) => {
                let microseconds = manual.microseconds.load(Ordering::Acquire);
                Timestamp::from_microsecond(microseconds).unwrap_or(Timestamp::MAX)
            }
        }
    }

    /// Moves a manual clock, and all its clones, forward by whole microseconds.
    ///
    /// # Panics
    /// On a system clock, whose time nobody can set.
    pub fn advance(&self, by: Duration) {
        let Source::Manual(manual) = &self.0 else { panic!("only a manual clock can be advanced") };
        let by = i64::try_from(by.as_micros()).unwrap_or(i64::MAX);
        manual.microseconds.fetch_add(by, Ordering::AcqRel);
    }

    /// A new `UUIDv7`, greater than every earlier one of this process (of this clock, when manual).
    ///
    /// The 12 bits after the milliseconds hold the fraction of the millisecond (RFC 9562, method 3) and count on when
    /// the time stands still or goes back; the other 62 bits are random, so that processes do not collide.
    pub fn uuid(&self) -> Uuid {
        let last_tick = match &self.0 {
            Source::System => &LAST_SYSTEM_TICK,
            Source::Manual(manual) => &manual.last_tick,
        };
        let present = tick(self.now());
        let mut last = last_tick.load(Ordering::Relaxed);
        let tick = loop {
            let next = present.max(last + 1);
            match last_tick.compare_exchange_weak(last, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => break next,
                Err(newer) => last = newer,
            }
        };
        let high = ((tick >> 12) << 16) | 0x7000 | (tick & 0xfff);
        let low = (0b10 << 62) | (fastrand::u64(..) >> 2);
        Uuid::from_u64_pair(high, low)
    }
}

/// Milliseconds since 1970 in the upper 48 of 60 bits, 4096ths of a millisecond in the lower 12.
fn tick(time: Timestamp) -> u64 {
    let microseconds = u64::try_from(time.as_microsecond()).unwrap_or_default();
    ((microseconds / 1000) << 12) | ((microseconds % 1000) * 4096 / 1000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::HashSet, thread};

    #[test]
    fn identifiers_are_version_7_carry_the_time_and_only_grow() {
        let start: Timestamp = "2026-03-01T10:00:00.123Z".parse().unwrap();
        let clock = Clock::manual(start);
        let mut last = Uuid::nil();
        for _ in 0..10_000 {
            let next = clock.uuid();
            assert!(next > last);
            last = next;
        }
        clock.advance(Duration::from_mins(1));
        let later = clock.uuid();
        assert!(later > last);
        assert_eq!(later.get_version_num(), 7);
        assert_eq!(later.get_variant(), uuid::Variant::RFC4122);
        let (seconds, nanoseconds) = later.get_timestamp().unwrap().to_unix();
        assert_eq!(
            Timestamp::new(seconds.try_into().unwrap(), nanoseconds.try_into().unwrap()).unwrap(),
            start + Duration::from_mins(1)
        );
    }

    #[test]
    fn threads_never_share_an_identifier_and_each_sees_them_grow() {
        let threads: Vec<_> = (0..4)
            .map(|_| thread::spawn(|| (0..20_000).map(|_| Clock::system().uuid()).collect::<Vec<_>>()))
            .collect();
        let mut all = HashSet::new();
        for thread in threads {
            let ids = thread.join().unwrap();
            assert!(ids.is_sorted());
            all.extend(ids);
        }
        assert_eq!(all.len(), 80_000);
    }

    #[test]
    fn clones_of_a_manual_clock_move_together() {
        let clock = Clock::manual(Timestamp::UNIX_EPOCH);
        clock.clone().advance(Duration::from_millis(1500));
        assert_eq!(clock.now().to_string(), "1970-01-01T00:00:01.5Z");
    }

    #[test]
    #[should_panic(expected = "only a manual clock")]
    fn a_system_clock_cannot_be_advanced() {
        Clock::system().advance(Duration::from_secs(1));
    }
}
