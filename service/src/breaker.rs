//! Circuit breakers: whoever calls what keeps failing stops calling it for a while.
//!
//! [`Breakers`] holds one [`Breaker`] per upstream. A call asks for a [`Permit`] first and says with it how it ended; a
//! permit that is dropped without a word counts as nothing. When it opens and closes is decided in `machine`, which is
//! pure.

mod machine;
mod window;

use crate::Metrics;
use axum::{Json, Router, routing::get};
use machine::{Machine, Outcome, Ticket};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// When a breaker opens and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How long the end of a call counts, to a tenth of it.
    pub window: Duration,
    /// Fewer calls than this within the window never open it.
    pub minimum: u32,
    /// It opens when this share of the calls within the window failed, in percent.
    pub error_percent: u32,
    /// How long it stays open before a probe is let through.
    pub open_for: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            window: Duration::from_secs(10),
            minimum: 10,
            error_percent: 50,
            open_for: Duration::from_secs(30),
        }
    }
}

/// What a breaker does at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Lets calls through.
    Closed,
    /// Lets one call through and waits for how it ends.
    HalfOpen,
    /// Refuses calls.
    Open,
}

impl State {
    const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half-open",
            Self::Open => "open",
        }
    }
}

/// A call was refused, because those before it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the circuit breaker is open")]
pub struct Open {
    /// When a call may be let through again.
    pub retry_after: Duration,
}

/// A breaker as operators see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// What is called.
    pub upstream: String,
    /// What it does.
    pub state: State,
    /// Calls within the window; once it is open, those that opened it.
    pub calls: u32,
    /// Those that failed.
    pub failures: u32,
    /// How long it stays open, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open_for_ms: Option<u64>,
}

/// The breakers of this process, one per upstream. Cheap to clone; clones share them.
#[derive(Clone, Debug)]
pub struct Breakers {
    policy: Policy,
    counters: Counters,
    upstreams: Arc<Mutex<BTreeMap<String, Breaker>>>,
}

impl Breakers {
    /// No breakers yet; those to come follow `policy` and are counted in `metrics`.
    pub fn new(policy: Policy, metrics: &Metrics) -> Self {
        Self { policy, counters: Counters::register(metrics), upstreams: Arc::default() }
    }

    /// The breaker of an upstream, closed where there was none.
    pub fn of(&self, upstream: &str) -> Breaker {
        let mut upstreams = locked(&self.upstreams);
        if let Some(breaker) = upstreams.get(upstream) {
            return breaker.clone();
        }
        let breaker = Breaker::new(upstream, self.policy, &self.counters);
        upstreams.insert(upstream.to_owned(), breaker.clone());
        breaker
    }

    /// Every breaker, by name.
    pub fn list(&self) -> Vec<Status> {
        locked(&self.upstreams).values().map(Breaker::status).collect()
    }

    /// `GET /ops/breakers`, for operators: whoever mounts it sees to that.
    pub fn routes(&self) -> Router {
        let this = self.clone();
        Router::new().route("/ops/breakers", get(async move || Json(this.list())))
    }
}

/// A breaker. Cheap to clone; clones are one.
#[derive(Clone, Debug)]
pub struct Breaker(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    upstream: String,
    machine: Mutex<Machine>,
    succeeded: Counter,
    failed: Counter,
    refused: Counter,
    state: Gauge,
    transitions: Family<Transition, Counter>,
}

impl Breaker {
    fn new(upstream: &str, policy: Policy, counters: &Counters) -> Self {
        let calls = |outcome| {
            let labels = Ended { upstream: upstream.to_owned(), outcome };
            counters.calls.get_or_create_owned(&labels)
        };
        let labels = Upstream { upstream: upstream.to_owned() };
        Self(Arc::new(Shared {
            upstream: upstream.to_owned(),
            machine: Mutex::new(Machine::new(policy, Instant::now())),
            succeeded: calls("success"),
            failed: calls("failure"),
            refused: calls("refused"),
            state: counters.state.get_or_create_owned(&labels),
            transitions: counters.transitions.clone(),
        }))
    }

    /// Asks to make a call.
    pub fn acquire(&self) -> Result<Permit, Open> {
        match self.step(Machine::acquire) {
            Ok(ticket) => Ok(Permit { breaker: self.clone(), ticket: Some(ticket) }),
            Err(retry_after) => {
                self.0.refused.inc();
                Err(Open { retry_after })
            }
        }
    }

    /// How it is.
    pub fn status(&self) -> Status {
        let now = Instant::now();
        let machine = locked(&self.0.machine);
        let (calls, failures) = machine.totals(now);
        let open_for = machine.open_for(now);
        Status {
            upstream: self.0.upstream.clone(),
            state: machine.state(),
            calls,
            failures,
            open_for_ms: open_for.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
        }
    }

    /// Moves the machine, and tells when that changed what it does.
    fn step<T>(&self, step: impl FnOnce(&mut Machine, Instant) -> T) -> T {
        // Told under the lock: in the order in which it happened. Transitions are rare.
        let mut machine = locked(&self.0.machine);
        let (before, now) = (machine.state(), Instant::now());
        let result = step(&mut machine, now);
        if machine.state() != before {
            self.0.tell(&machine, now);
        }
        result
    }

    fn complete(&self, ticket: Ticket, outcome: Outcome) {
        match outcome {
            Outcome::Success => _ = self.0.succeeded.inc(),
            Outcome::Failure => _ = self.0.failed.inc(),
            Outcome::Cancelled => {}
        }
        self.step(|machine, now| machine.complete(ticket, outcome, now));
    }
}

impl Shared {
    fn tell(&self, machine: &Machine, now: Instant) {
        let (state, upstream) = (machine.state(), &*self.upstream);
        let level = match state {
            State::Closed => 0,
            State::HalfOpen => 1,
            State::Open => 2,
        };
        self.state.set(level);
        let labels = Transition { upstream: self.upstream.clone(), to: state.name() };
        self.transitions.get_or_create(&labels).inc();
        match state {
            State::Open => {
                let (calls, failures) = machine.totals(now);
                tracing::warn!(upstream, calls, failures, "circuit breaker opened");
            }
            State::HalfOpen => tracing::info!(upstream, "circuit breaker half-open, trying one call"),
            State::Closed => tracing::info!(upstream, "circuit breaker closed"),
        }
    }
}

/// The right to make one call. Dropped without a word, the call counts as cancelled: as if it had not been made.
#[derive(Debug)]
#[must_use = "say how the call ended"]
pub struct Permit {
    breaker: Breaker,
    ticket: Option<Ticket>,
}

impl Permit {
    /// The upstream answered. A refusal, such as 404, is an answer.
    pub fn succeeded(self) {
        self.end(Outcome::Success);
    }

    /// It did not answer, not in time, or with an error of its own.
    pub fn failed(self) {
        self.end(Outcome::Failure);
    }

    fn end(mut self, outcome: Outcome) {
        if let Some(ticket) = self.ticket.take() {
            self.breaker.complete(ticket, outcome);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.breaker.complete(ticket, Outcome::Cancelled);
        }
    }
}

/// What breakers count.
#[derive(Clone, Debug, Default)]
struct Counters {
    state: Family<Upstream, Gauge>,
    calls: Family<Ended, Counter>,
    transitions: Family<Transition, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Upstream {
    upstream: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    upstream: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Transition {
    upstream: String,
    to: &'static str,
}

impl Counters {
    fn register(metrics: &Metrics) -> Self {
        let Self { state, calls, transitions } = Self::default();
        let help = "What a circuit breaker does: 0 closed, 1 half-open, 2 open";
        Self {
            state: metrics.register("waybill_breaker_state", help, state),
            calls: metrics.register("waybill_breaker_calls", "Calls by how they ended", calls),
            transitions: metrics.register("waybill_breaker_transitions", "Changes of state", transitions),
        }
    }
}

/// What is behind these locks is whole between any two steps: after a panic elsewhere it still is.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::{advance, sleep};

    fn breakers() -> (Breakers, Metrics) {
        let metrics = Metrics::new();
        (Breakers::new(Policy::default(), &metrics), metrics)
    }

    #[tokio::test(start_paused = true)]
    async fn ten_of_twenty_open_it_for_thirty_seconds_and_one_probe_decides() {
        let (breakers, metrics) = breakers();
        let breaker = breakers.of("users");
        for call in 0..20 {
            let permit = breaker.acquire().unwrap();
            if call < 10 { permit.succeeded() } else { permit.failed() }
        }
        assert_eq!(breaker.acquire().unwrap_err(), Open { retry_after: Duration::from_secs(30) });
        let open = Status {
            upstream: "users".to_owned(),
            state: State::Open,
            calls: 20,
            failures: 10,
            open_for_ms: Some(30_000),
        };
        assert_eq!(breakers.list(), [open]);
        advance(Duration::from_millis(29_999)).await;
        assert_eq!(breaker.acquire().unwrap_err().retry_after, Duration::from_millis(1));
        advance(Duration::from_millis(1)).await;

        let probe = breaker.acquire().unwrap();
        assert!(breaker.acquire().is_err(), "a second probe");
        probe.failed();
        assert_eq!(breaker.acquire().unwrap_err().retry_after, Duration::from_secs(30));
        sleep(Duration::from_secs(30)).await;
        drop(breaker.acquire().unwrap());
        let probe = breaker.acquire().expect("a probe that was cancelled leaves room for the next");
        probe.succeeded();
        assert_eq!(breaker.status().state, State::Closed);

        let page = metrics.render();
        for line in [
            r#"waybill_breaker_state{upstream="users"} 0"#,
            r#"waybill_breaker_transitions_total{upstream="users",to="open"} 2"#,
            r#"waybill_breaker_transitions_total{upstream="users",to="closed"} 1"#,
            r#"waybill_breaker_calls_total{upstream="users",outcome="refused"} 4"#,
        ] {
            assert!(page.contains(line), "{line} is missing in {page}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn upstreams_do_not_share_a_breaker() {
        let (breakers, _) = breakers();
        for _ in 0..10 {
            breakers.of("users").acquire().unwrap().failed();
        }
        assert!(breakers.of("users").acquire().is_err());
        breakers.of("fraud").acquire().unwrap().succeeded();
    }

    /// What is written to the log of this thread.
    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            locked(&self.0).extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn transitions_are_logged_each_at_its_level() {
        let written = Written::default();
        let sink = written.clone();
        let log = tracing_subscriber::fmt().with_ansi(false).without_time().with_writer(move || sink.clone());
        let _log = tracing::subscriber::set_default(log.finish());
        let breaker = breakers().0.of("users");
        for _ in 0..10 {
            breaker.acquire().unwrap().failed();
        }
        advance(Duration::from_secs(30)).await;
        let probe = breaker.acquire().unwrap();
        probe.succeeded();
        let text = String::from_utf8(locked(&written.0).clone()).unwrap();
        let lines: Vec<_> = text.lines().map(|line| line.trim().replace("service::breaker: ", "")).collect();
        assert_eq!(
            lines,
            [
                "WARN circuit breaker opened upstream=\"users\" calls=10 failures=10",
                "INFO circuit breaker half-open, trying one call upstream=\"users\"",
                "INFO circuit breaker closed upstream=\"users\"",
            ]
        );
    }

    #[test]
    fn the_usual_policy_has_the_numbers_of_the_design() {
        let Policy { window, minimum, error_percent, open_for } = Policy::default();
        assert_eq!(
            (window.as_millis(), minimum, error_percent, open_for.as_millis()),
            (10_000, 10, 50, 30_000)
        );
    }
}
