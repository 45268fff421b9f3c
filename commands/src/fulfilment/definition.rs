//! What a process consists of, as data. A process follows the version it began with to its end.

use events::{CommandId, OrderId, fulfilment::Step};
use jiff::Timestamp;
use std::time::Duration;

/// The steps of a process, in order.
#[derive(Debug)]
pub struct Definition {
    /// Its version. A released version is never changed: processes follow it.
    pub version: u32,
    /// The steps, in the order in which they are done. Undone in the reverse order.
    pub steps: &'static [Policy],
    /// Whether a step that was done, and what follows from it, are one fact, and the timer is left where it stands then
    /// (ADR 28). In version 1 they were two, and each step set the timer anew.
    pub together: bool,
}

/// How one step is done and undone. What a service refuses it refuses for good, so only silence is asked again.
#[derive(Debug)]
pub struct Policy {
    /// The step: which service does it, and how it is undone.
    pub step: Step,
    /// How long an answer may take.
    pub deadline: Duration,
    /// How it is asked again.
    pub retry: Retry,
    /// How its undoing is asked again: with more patience, for there is nothing else to do.
    pub undo: Retry,
    /// Whether there is no way back once it is done: what comes after it is only tried again.
    pub pivot: bool,
}

/// How something is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// The first pause; each one after is twice as long.
    pub initial: Duration,
    /// The longest pause.
    pub cap: Duration,
    /// How often it is asked for at most.
    pub attempts: u32,
}

/// Times that are set for all steps, in place of those of the definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// How long an answer may take.
    pub deadline: Option<Duration>,
    /// The first pause before something is asked again.
    pub pause: Option<Duration>,
    /// How long stock is held for an order that is not paid.
    pub hold: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self { deadline: None, pause: None, hold: Duration::from_mins(15) }
    }
}

const RETRY: Retry = Retry { initial: Duration::from_secs(1), cap: Duration::from_mins(1), attempts: 4 };
const UNDO: Retry = Retry { initial: Duration::from_secs(1), cap: Duration::from_mins(5), attempts: 10 };

const fn policy(step: Step, deadline: u64, pivot: bool) -> Policy {
    Policy { step, deadline: Duration::from_secs(deadline), retry: RETRY, undo: UNDO, pivot }
}

/// Money first, for it is what fails most often; the carrier last, for it is the world outside.
static STEPS: [Policy; 3] =
    [policy(Step::Payment, 15, false), policy(Step::Inventory, 15, false), policy(Step::Shipping, 30, true)];
static FIRST: Definition = Definition { version: 1, steps: &STEPS, together: false };
static SECOND: Definition = Definition { version: 2, steps: &STEPS, together: true };

/// For tests that walk through everything that can happen: gives up after one attempt, so that there is less of it.
#[cfg(test)]
pub(super) static IMPATIENT: Definition = {
    const ONCE: Retry = Retry { attempts: 1, ..RETRY };
    const fn impatient(step: Step, deadline: u64, pivot: bool) -> Policy {
        Policy { retry: ONCE, undo: ONCE, ..policy(step, deadline, pivot) }
    }
    Definition {
        version: 1_000_000,
        steps: &[
            impatient(Step::Payment, 15, false),
            impatient(Step::Inventory, 16, false),
            impatient(Step::Shipping, 17, true),
        ],
        together: true,
    }
};

impl Definition {
    /// Every version that was ever released, oldest first.
    pub const ALL: [&'static Self; 2] = [&FIRST, &SECOND];

    /// The version that new processes follow.
    pub const CURRENT: &'static Self = &SECOND;

    /// A version. A process names one that was released before it began, so the newest stands for all that is unknown.
    pub fn of(version: u32) -> &'static Self {
        #[cfg(test)]
        if version == IMPATIENT.version {
            return &IMPATIENT;
        }
        Self::ALL.into_iter().find(|known| known.version == version).unwrap_or(Self::CURRENT)
    }

    /// How a step is done.
    pub fn policy(&self, step: Step) -> Option<&'static Policy> {
        self.steps.iter().find(|policy| policy.step == step)
    }
}

impl Policy {
    /// When an answer has to be there that is asked for now.
    pub(super) fn due(&self, now: Timestamp, times: &Times) -> Timestamp {
        later(now, times.deadline.unwrap_or(self.deadline))
    }
}

impl Retry {
    /// When something is asked for again that was asked for so often; `None` where that was often enough.
    pub(super) fn next(
        &self,
        now: Timestamp,
        times: &Times,
        (order, step): (OrderId, Step),
        asked: u32,
    ) -> Option<Timestamp> {
        if asked >= self.attempts {
            return None;
        }
        let initial = times.pause.unwrap_or(self.initial);
        let pause = initial.saturating_mul(1 << asked.saturating_sub(1).min(20)).min(self.cap.max(initial));
        Some(later(now, pause.mul_f64(jitter(order, step, asked))))
    }
}

/// Between a half and one, another for every attempt of every step of every order: always the same one.
fn jitter(order: OrderId, step: Step, attempt: u32) -> f64 {
    let drawn = CommandId::from_key(&order.to_string(), &format!("{step} {attempt}")).uuid();
    let [a, b, ..] = *drawn.as_bytes();
    0.5 + f64::from(u16::from_be_bytes([a, b])) / f64::from(u16::MAX) / 2.0
}

/// Times end after centuries; what does not fit is never.
pub(super) fn later(now: Timestamp, by: Duration) -> Timestamp {
    now.checked_add(by).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::order;

    #[test]
    fn pauses_double_up_to_the_cap_and_end() {
        let (now, times, of) = (Timestamp::UNIX_EPOCH, Times::default(), (order(1), Step::Payment));
        let retry = Retry { initial: Duration::from_secs(1), cap: Duration::from_secs(5), attempts: 6 };
        let pauses = (1..=6).map(|asked| retry.next(now, &times, of, asked));
        let pauses: Vec<_> = pauses.map(|at| at.map(Timestamp::as_millisecond)).collect();
        for (pause, longest) in pauses.iter().zip([1000, 2000, 4000, 5000, 5000]) {
            let pause = pause.unwrap();
            assert!((longest / 2..=longest).contains(&pause), "{pause} of {longest}");
        }
        assert_eq!(pauses[5], None);
        assert_eq!(
            pauses[0],
            retry.next(now, &times, of, 1).map(Timestamp::as_millisecond),
            "the same every time"
        );
        assert_ne!(retry.next(now, &times, of, 1), retry.next(now, &times, (order(2), Step::Payment), 1));
    }

    #[test]
    fn every_version_can_be_followed() {
        for (index, definition) in Definition::ALL.into_iter().enumerate() {
            assert_eq!(definition.version as usize, index + 1);
            assert!(std::ptr::eq(Definition::of(definition.version), definition));
            let pivots = definition.steps.iter().filter(|policy| policy.pivot).count();
            assert_eq!(pivots, 1, "there is one point of no return");
        }
    }
}
