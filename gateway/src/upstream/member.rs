//! What is known of an instance, and when it is left out.

use crate::connect::Address;
use jiff::Timestamp;
use nats::Instance;
use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;

/// When an instance is left out because of its answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EjectionPolicy {
    /// So many failures in a row eject it.
    pub(crate) failures: u32,
    /// For how long, at first; each time that follows soon adds as much, up to ten times.
    pub(crate) base: Duration,
    /// At most so many of a service's instances are ejected like this, in percent. The only one never is.
    pub(crate) percent: u32,
    /// How long an instance is left alone that refused a connection, however many do.
    pub(crate) refused: Duration,
}

impl Default for EjectionPolicy {
    fn default() -> Self {
        Self { failures: 5, base: Duration::from_secs(30), percent: 50, refused: Duration::from_secs(5) }
    }
}

/// An instance of a service.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) instance: Arc<Instance>,
    pub(super) address: Address,
    in_flight: AtomicUsize,
    condition: Mutex<Condition>,
}

/// Whether an instance can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Fit,
    Ejected,
    Unhealthy,
}

/// How it is.
#[derive(Clone, Debug)]
pub(super) struct Condition {
    pub(super) healthy: bool,
    /// Checks in a row that say otherwise.
    doubts: u32,
    pub(super) last_check: Option<Timestamp>,
    /// What the last check found wrong.
    pub(super) fault: Option<String>,
    /// Calls in a row that failed.
    failures: u32,
    /// Ejections in a row.
    ejections: u32,
    pub(super) ejected_until: Option<Instant>,
}

impl Member {
    /// An instance counts as healthy until a check says otherwise: it has just said that it lives.
    pub(super) fn new(instance: &Instance, address: Address) -> Self {
        let condition = Condition {
            healthy: true,
            doubts: 0,
            last_check: None,
            fault: None,
            failures: 0,
            ejections: 0,
            ejected_until: None,
        };
        Self {
            address,
            instance: Arc::new(instance.clone()),
            in_flight: AtomicUsize::new(0),
            condition: Mutex::new(condition),
        }
    }

    pub(super) fn condition(&self) -> MutexGuard<'_, Condition> {
        // Each step leaves it whole.
        self.condition.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn verdict(&self, now: Instant) -> Verdict {
        let condition = self.condition();
        if !condition.healthy {
            Verdict::Unhealthy
        } else if condition.is_ejected(now) {
            Verdict::Ejected
        } else {
            Verdict::Fit
        }
    }

    pub(super) fn is_ejected(&self, now: Instant) -> bool {
        self.condition().is_ejected(now)
    }

    /// Calls that have not ended.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// It answered a call.
    pub(super) fn answered(&self) {
        self.condition().failures = 0;
    }

    /// It refused a connection: for a moment nobody tries again.
    pub(super) fn refused(&self, policy: EjectionPolicy, now: Instant) {
        let mut condition = self.condition();
        let until = now + policy.refused;
        condition.ejected_until = Some(condition.ejected_until.map_or(until, |before| before.max(until)));
    }

    /// It failed a call. Says whether that ejected it.
    pub(super) fn failed(
        &self,
        policy: EjectionPolicy,
        now: Instant,
        may_eject: impl FnOnce() -> bool,
    ) -> bool {
        let enough = {
            let mut condition = self.condition();
            condition.failures += 1;
            condition.failures >= policy.failures
        };
        // Asks the others, and so must not hold on to this one.
        if !enough || !may_eject() {
            return false;
        }
        let mut condition = self.condition();
        let soon = condition.ejected_until.is_some_and(|before| now < before + policy.base);
        condition.ejections = if soon { (condition.ejections + 1).min(10) } else { 1 };
        condition.failures = 0;
        let time = policy.base * condition.ejections;
        condition.ejected_until = Some(now + time);
        let (service, instance) = (&*self.instance.service, self.instance.id);
        tracing::warn!(service, %instance, seconds = time.as_secs_f64(), "instance ejected after failures in a row");
        true
    }

    /// Takes note of a check. It takes `rise` good ones in a row to become healthy and `fall` bad ones not to be.
    pub(super) fn checked(&self, result: Result<(), String>, rise: u32, fall: u32, now: Timestamp) {
        let mut condition = self.condition();
        let well = result.is_ok();
        condition.last_check = Some(now);
        condition.fault = result.err();
        condition.doubts = if well == condition.healthy { 0 } else { condition.doubts + 1 };
        if condition.doubts < if well { rise.max(1) } else { fall.max(1) } {
            return;
        }
        condition.healthy = well;
        condition.doubts = 0;
        let (service, instance) = (&*self.instance.service, self.instance.id);
        if let Some(why) = &condition.fault {
            tracing::warn!(service, %instance, why, "instance is unhealthy");
        } else {
            tracing::info!(service, %instance, "instance is healthy again");
        }
    }
}

impl Condition {
    pub(super) fn is_ejected(&self, now: Instant) -> bool {
        self.ejected_until.is_some_and(|until| now < until)
    }
}

/// A call under way. Counted until it is dropped.
#[derive(Debug)]
pub(crate) struct InFlight(Arc<Member>);

impl InFlight {
    pub(super) fn enter(member: &Arc<Member>) -> Self {
        member.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(member))
    }

    pub(super) fn member(&self) -> &Member {
        &self.0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::{super::CheckPolicy, *};
    use crate::{Config, Dialer};
    use nats::InstanceId;
    use uuid::Uuid;

    fn member() -> Member {
        let instance = Instance {
            service: "orders".to_owned(),
            id: InstanceId(Uuid::from_u128(1)),
            url: "http://127.0.0.1:9".to_owned(),
            version: "1".to_owned(),
            started: Timestamp::UNIX_EPOCH,
        };
        let dialer = Dialer::new(&Config::standard(), None).unwrap();
        Member::new(&instance, dialer.address(&instance.url).unwrap())
    }

    #[test]
    fn so_many_checks_in_a_row_change_its_health_and_one_that_differs_begins_anew() {
        let member = member();
        let after = |checks: &str| {
            for check in checks.chars() {
                let result = if check == '+' { Ok(()) } else { Err("away".to_owned()) };
                member.checked(result, 3, 2, Timestamp::UNIX_EPOCH);
            }
            member.condition().healthy
        };
        for (checks, healthy) in [
            ("-", true),
            ("+-", true),
            // Two bad ones in a row.
            ("-", false),
            ("+", false),
            ("+", false),
            ("-++", false),
            // Three good ones in a row.
            ("+", true),
            ("-+-+-", true),
            ("-", false),
            ("+++", true),
        ] {
            assert_eq!(after(checks), healthy, "{checks}");
        }
    }

    #[test]
    fn the_usual_policy_has_the_numbers_of_the_design() {
        let EjectionPolicy { failures, base, percent, refused } = EjectionPolicy::default();
        assert_eq!((failures, base.as_millis(), percent, refused.as_millis()), (5, 30_000, 50, 5_000));
        let CheckPolicy { every, timeout, rise, fall } = CheckPolicy::default();
        assert_eq!((every.as_secs(), timeout.as_millis(), rise, fall), (30, 2_000, 1, 2));
    }
}
