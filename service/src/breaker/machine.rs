//! When a breaker opens, tries and closes: pure, with the time as an argument.
//!
//! ```text
//! closed --- share of failures reached ---> open --- time is up, next call ---> half-open
//!    ^                                        ^                                  |  |
//!    |                                        +--------- the probe failed -------+  |
//!    +------------------------------------------- the probe succeeded --------------+
//! ```

use super::{Policy, State, window::Window};
use std::time::Duration;
use tokio::time::Instant;

/// What whoever comes while the probe is under way is told: it takes about as long as a call.
const PROBING: Duration = Duration::from_secs(1);

/// The state of a breaker.
#[derive(Debug)]
pub(super) struct Machine {
    policy: Policy,
    phase: Phase,
    /// Counts transitions. What began before the last one says nothing about the present.
    epoch: u64,
}

#[derive(Debug)]
enum Phase {
    Closed(Window),
    Open { until: Instant, calls: u32, failures: u32 },
    HalfOpen { probing: bool },
}

/// A call that was let through, to be handed back exactly once.
#[derive(Debug)]
pub(super) struct Ticket {
    epoch: u64,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Success,
    Failure,
    /// The caller lost interest: it says nothing about the upstream.
    Cancelled,
}

impl Machine {
    pub(super) fn new(policy: Policy, now: Instant) -> Self {
        Self { policy, phase: Phase::Closed(Window::new(policy.window, now)), epoch: 0 }
    }

    /// Lets a call through, or says when to ask again.
    pub(super) fn acquire(&mut self, now: Instant) -> Result<Ticket, Duration> {
        match self.phase {
            Phase::Closed(_) => {}
            Phase::Open { until, .. } if now < until => return Err(until - now),
            Phase::HalfOpen { probing: true } => return Err(PROBING),
            Phase::HalfOpen { ref mut probing } => *probing = true,
            Phase::Open { .. } => self.enter(Phase::HalfOpen { probing: true }),
        }
        Ok(Ticket { epoch: self.epoch })
    }

    /// Takes note of how a call ended.
    pub(super) fn complete(&mut self, Ticket { epoch }: Ticket, outcome: Outcome, now: Instant) {
        if epoch != self.epoch {
            return;
        }
        let next = match (&mut self.phase, outcome) {
            (Phase::Closed(window), Outcome::Success | Outcome::Failure) => {
                window.count(outcome == Outcome::Failure, now);
                let (calls, failures) = window.totals(now);
                if !self.policy.exceeded(calls, failures) {
                    return;
                }
                Phase::Open { until: now + self.policy.open_for, calls, failures }
            }
            (Phase::HalfOpen { .. }, Outcome::Success) => Phase::Closed(Window::new(self.policy.window, now)),
            (Phase::HalfOpen { .. }, Outcome::Failure) => {
                Phase::Open { until: now + self.policy.open_for, calls: 1, failures: 1 }
            }
            (Phase::HalfOpen { probing }, Outcome::Cancelled) => {
                *probing = false;
                return;
            }
            // Nothing is let through while it is open.
            (Phase::Closed(_), Outcome::Cancelled) | (Phase::Open { .. }, _) => return,
        };
        self.enter(next);
    }

    pub(super) const fn state(&self) -> State {
        match self.phase {
            Phase::Closed(_) => State::Closed,
            Phase::Open { .. } => State::Open,
            Phase::HalfOpen { .. } => State::HalfOpen,
        }
    }

    /// Calls and failures within the window; once it is open, those that opened it.
    pub(super) fn totals(&self, now: Instant) -> (u32, u32) {
        match &self.phase {
            Phase::Closed(window) => window.totals(now),
            Phase::Open { calls, failures, .. } => (*calls, *failures),
            Phase::HalfOpen { .. } => (0, 0),
        }
    }

    /// How long it stays open.
    pub(super) fn open_for(&self, now: Instant) -> Option<Duration> {
        match self.phase {
            Phase::Open { until, .. } => Some(until.saturating_duration_since(now)),
            Phase::Closed(_) | Phase::HalfOpen { .. } => None,
        }
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.epoch += 1;
    }
}

impl Policy {
    /// Whether so many failures open a breaker.
    fn exceeded(&self, calls: u32, failures: u32) -> bool {
        let share = u64::from(calls) * u64::from(self.error_percent);
        calls >= self.minimum && failures > 0 && u64::from(failures) * 100 >= share
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const POLICY: Policy = Policy {
        window: Duration::from_secs(10),
        minimum: 10,
        error_percent: 50,
        open_for: Duration::from_secs(30),
    };

    /// Runs calls that end at once, one per millisecond, and says when the first was refused.
    fn refused_after(outcomes: impl IntoIterator<Item = Outcome>) -> Option<usize> {
        let start = Instant::now();
        let mut machine = Machine::new(POLICY, start);
        let mut now = start;
        for (count, outcome) in outcomes.into_iter().enumerate() {
            let Ok(ticket) = machine.acquire(now) else { return Some(count) };
            now += Duration::from_millis(1);
            machine.complete(ticket, outcome, now);
        }
        machine.acquire(now).is_err().then_some(usize::MAX)
    }

    #[test]
    fn it_opens_at_half_and_at_the_minimum_and_not_before() {
        use Outcome::{Cancelled, Failure, Success};
        assert_eq!(refused_after([Failure; 9]), None);
        assert_eq!(refused_after([Failure; 20]), Some(10));
        assert_eq!(refused_after([Success, Failure, Success].repeat(100)), None);
        assert_eq!(refused_after([Success, Failure].repeat(100)), Some(10));
        assert_eq!(refused_after([Cancelled; 100]), None);
        // The success that completes the minimum shows that half have failed.
        let late = [[Failure; 5], [Success; 5]].concat();
        assert_eq!(refused_after(late), Some(usize::MAX));
    }

    #[test]
    fn a_call_from_before_the_last_transition_says_nothing() {
        let start = Instant::now();
        let mut machine = Machine::new(POLICY, start);
        let slow = machine.acquire(start).unwrap();
        for _ in 0..10 {
            let ticket = machine.acquire(start).unwrap();
            machine.complete(ticket, Outcome::Failure, start);
        }
        assert_eq!(machine.totals(start), (10, 10));
        let later = start + POLICY.open_for;
        let probe = machine.acquire(later).unwrap();
        machine.complete(slow, Outcome::Success, later);
        assert_eq!(machine.state(), State::HalfOpen, "only the probe decides");
        machine.complete(probe, Outcome::Success, later);
        assert_eq!(machine.state(), State::Closed);
    }

    /// What happens next in a random sequence of calls.
    #[derive(Clone, Debug)]
    enum Step {
        Wait(u64),
        Begin,
        End { which: prop::sample::Index, outcome: Outcome },
    }

    fn step() -> impl Strategy<Value = Step> {
        use Outcome::{Cancelled, Failure, Success};
        let outcome = prop_oneof![3 => Just(Success), 4 => Just(Failure), 1 => Just(Cancelled)];
        prop_oneof![
            1 => (0_u64..3_000).prop_map(Step::Wait),
            1 => (25_000_u64..35_000).prop_map(Step::Wait),
            12 => Just(Step::Begin),
            10 => (any::<prop::sample::Index>(), outcome)
                .prop_map(|(which, outcome)| Step::End { which, outcome }),
        ]
    }

    proptest! {
        #[test]
        fn it_never_probes_twice_nor_stays_closed_nor_open_too_long(
            steps in prop::collection::vec(step(), 1..600)
        ) {
            let start = Instant::now();
            let (mut machine, mut now) = (Machine::new(POLICY, start), start);
            let (mut running, mut probes): (Vec<Ticket>, usize) = (Vec::new(), 0);
            // What ended since it was closed, as a list instead of buckets.
            let mut ended: Vec<(Instant, bool)> = Vec::new();
            let (mut closed_since, mut opened) = (start, start);
            for step in steps {
                let before = machine.state();
                match step {
                    Step::Wait(millis) => now += Duration::from_millis(millis),
                    Step::Begin => match machine.acquire(now) {
                        Ok(ticket) => {
                            prop_assert!(before != State::Open || now >= opened + POLICY.open_for);
                            if before != State::Closed {
                                probes += 1;
                                prop_assert_eq!(machine.state(), State::HalfOpen);
                            }
                            running.push(ticket);
                        }
                        Err(_) => match before {
                            State::Closed => prop_assert!(false, "a closed breaker refused"),
                            State::HalfOpen => prop_assert_eq!(probes, 1),
                            State::Open => prop_assert!(now < opened + POLICY.open_for),
                        },
                    },
                    Step::End { which, outcome } if !running.is_empty() => {
                        let ticket = running.swap_remove(which.index(running.len()));
                        let counts = ticket.epoch == machine.epoch;
                        machine.complete(ticket, outcome, now);
                        if counts && before == State::HalfOpen {
                            probes -= 1;
                        }
                        if counts && before == State::Closed && outcome != Outcome::Cancelled {
                            ended.push((now, outcome == Outcome::Failure));
                        }
                    }
                    Step::End { .. } => {}
                }
                prop_assert!(probes <= 1, "two probes");
                let after = machine.state();
                // The buckets begin with the second in which it was closed.
                let number = |time: Instant| (time - closed_since).as_millis() / 1_000;
                let recent = ended.iter().filter(|(time, _)| number(now) - number(*time) < 10);
                let recent: Vec<_> = recent.map(|(_, failed)| *failed).collect();
                let failures = recent.iter().filter(|failed| **failed).count();
                let broken = recent.len() >= 10 && failures * 2 >= recent.len();
                if matches!(step, Step::End { .. }) && before == State::Closed {
                    let counted = ended.last().is_some_and(|(time, _)| *time == now);
                    prop_assert!(after == State::Open || !broken || !counted, "closed though {} of {} failed", failures, recent.len());
                    prop_assert!(after == State::Closed || broken, "open though {} of {} failed", failures, recent.len());
                }
                if before != after {
                    ended.clear();
                    match after {
                        State::Closed => closed_since = now,
                        State::Open => opened = now,
                        State::HalfOpen => {}
                    }
                }
            }
        }
    }
}
