//! Fraud: payments ask it before they take money, and wait for the answer no longer than a deadline.

mod assessment;
mod rules;

pub use assessment::Assessment;
pub use rules::{History, Request, Rules, Velocity, assess};

use crate::behaviour;
use events::{
    Context, Fact, Money,
    fraud::{AssessmentEvent, FraudAssessed, Suspicion, Verdict},
};
use jiff::{SignedDuration, Timestamp};
use nats::{Connection, Filter, Reader, ReplayError, Until};
use std::{
    str::FromStr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// What a charge knows of fraud.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Clearance {
    /// Nothing speaks against it; or nobody answered, and the amount is small enough to go on.
    Cleared,
    /// These rules speak against it.
    Declined(Vec<Suspicion>),
    /// Nobody answered, and the amount is too high to go on.
    Unavailable,
}

impl From<FraudAssessed> for Clearance {
    fn from(assessed: FraudAssessed) -> Self {
        match assessed.verdict {
            Verdict::Approved => Self::Cleared,
            Verdict::Declined => Self::Declined(assessed.reasons),
        }
    }
}

/// How the service of the fraud rules behaves: simulated, and settable while it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Behaviour {
    /// It answers at once.
    #[default]
    Up,
    /// It takes its time.
    Slow(Duration),
    /// It does not answer.
    Down,
}

impl FromStr for Behaviour {
    type Err = behaviour::ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "up" => Ok(Self::Up),
            "down" => Ok(Self::Down),
            _ => behaviour::slow(text).map(Self::Slow).ok_or(behaviour::ParseError("up, slow:200ms or down")),
        }
    }
}

/// The fraud service as payments see it. Its rules and its behaviour can be set while it runs.
#[derive(Debug, Default)]
pub struct Fraud {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    rules: Rules,
    behaviour: Behaviour,
    history: History,
}

impl Fraud {
    /// With these rules.
    pub fn new(rules: Rules) -> Self {
        Self { inner: Mutex::new(Inner { rules, ..Inner::default() }) }
    }

    /// Changes the rules.
    pub fn set_rules(&self, rules: Rules) {
        self.lock().rules = rules;
    }

    /// Changes how the service behaves.
    pub fn set_behaviour(&self, behaviour: Behaviour) {
        self.lock().behaviour = behaviour;
    }

    /// Remembers a recorded assessment for the velocity rule.
    pub fn observe(&self, assessed: &FraudAssessed, time: Timestamp) {
        self.lock().history.observe(assessed, time);
    }

    /// What the rules say of a payment; `None` when they do not answer within the deadline.
    pub async fn assess(&self, request: &Request, now: Timestamp) -> Option<FraudAssessed> {
        let (behaviour, deadline) = {
            let inner = self.lock();
            (inner.behaviour, inner.rules.deadline)
        };
        match behaviour {
            Behaviour::Up => {}
            Behaviour::Slow(delay) => {
                tokio::time::timeout(deadline, tokio::time::sleep(delay)).await.ok()?;
            }
            Behaviour::Down => return None,
        }
        let inner = self.lock();
        Some(assess(&inner.rules, &inner.history, request, now))
    }

    /// Whether an amount may be paid without a verdict.
    pub fn without_verdict(&self, amount: Money) -> Clearance {
        let closed = amount.amount > self.lock().rules.fail_closed_above;
        if closed { Clearance::Unavailable } else { Clearance::Cleared }
    }

    /// What rebuilds the velocity rule's memory from the log, from where its window begins, and keeps it up to date
    /// with what other processes record. `None` where there is no such rule.
    pub(crate) async fn follow(
        self: Arc<Self>,
        connection: &Connection,
        now: Timestamp,
    ) -> Result<Option<impl Future<Output = ()> + Send + 'static>, ReplayError> {
        let Some(velocity) = self.lock().rules.velocity else { return Ok(None) };
        let window = SignedDuration::try_from(velocity.window).unwrap_or(SignedDuration::MAX);
        let since = nats::From::Time(now.saturating_sub(window).unwrap_or(Timestamp::MIN));
        let mut reader =
            Reader::open(connection, Context::Fraud, since, Until::Forever, Filter::default()).await?;
        Ok(Some(async move {
            loop {
                let batch = match reader.next_batch(1000).await {
                    Ok(batch) => batch,
                    Err(error) => {
                        tracing::error!(%error, "the velocity rule can no longer follow the log");
                        return;
                    }
                };
                for message in batch {
                    if let Ok(Fact::Assessment(AssessmentEvent::Assessed(assessed))) = message.fact() {
                        self.observe(&assessed, message.stored);
                    }
                }
            }
        }))
    }

    /// No holder of the lock can leave the state half changed, so a panic of one does not spoil it for the others.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{eur, order, user};

    fn request() -> Request {
        Request { order_id: order(1), user_id: user(1), amount: eur(900) }
    }

    #[tokio::test]
    async fn it_answers_within_the_deadline_or_not_at_all() {
        let fraud = Fraud::new(Rules { deadline: Duration::from_mins(1), ..Rules::default() });
        let assessed = async |behaviour: &str| {
            fraud.set_behaviour(behaviour.parse().unwrap());
            fraud.assess(&request(), Timestamp::UNIX_EPOCH).await.map(|assessed| assessed.verdict)
        };
        assert_eq!(assessed("up").await, Some(Verdict::Approved));
        assert_eq!(assessed("slow:1ms").await, Some(Verdict::Approved));
        assert_eq!(assessed("down").await, None);
        fraud.set_rules(Rules { deadline: Duration::from_millis(1), ..Rules::default() });
        assert_eq!(assessed("slow:1h").await, None);
    }

    #[tokio::test]
    async fn what_is_observed_counts() {
        let velocity = Some(Velocity { max: 1, window: Duration::from_mins(1) });
        let fraud = Fraud::new(Rules { velocity, ..Rules::default() });
        let first = fraud.assess(&request(), Timestamp::UNIX_EPOCH).await.unwrap();
        fraud.observe(&first, Timestamp::UNIX_EPOCH);
        let second = Request { order_id: order(2), ..request() };
        let second = fraud.assess(&second, Timestamp::UNIX_EPOCH).await.unwrap();
        assert_eq!(Clearance::from(first), Clearance::Cleared);
        assert_eq!(Clearance::from(second), Clearance::Declined(vec![Suspicion::Velocity]));
    }

    #[test]
    fn only_small_amounts_pass_without_a_verdict() {
        let fraud = Fraud::new(Rules { fail_closed_above: 900, ..Rules::default() });
        assert_eq!(fraud.without_verdict(eur(900)), Clearance::Cleared);
        assert_eq!(fraud.without_verdict(eur(901)), Clearance::Unavailable);
    }

    #[test]
    fn its_behaviour_can_be_written() {
        assert_eq!("slow:200ms".parse(), Ok(Behaviour::Slow(Duration::from_millis(200))));
        for bad in ["", "Up", "slow", "slow:", "slow:-1s", "slow:fast"] {
            assert!(bad.parse::<Behaviour>().is_err(), "{bad}");
        }
    }
}
