//! The fraud rules, and what they remember of the payments before: pure.

use events::{
    Money, OrderId, UserId,
    fraud::{FraudAssessed, Suspicion, Verdict},
};
use jiff::Timestamp;
use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::Duration,
};

/// Payments that are remembered, of all customers together.
const REMEMBERED: usize = 100_000;

/// What speaks against a payment. The default lets everything pass.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Most that may be paid at once, in minor units.
    pub amount_limit: Option<i64>,
    /// How often one customer may pay.
    pub velocity: Option<Velocity>,
    /// Who may not pay at all.
    pub blocked_users: HashSet<UserId>,
    /// How long a payment waits for the verdict.
    pub deadline: Duration,
    /// Most that may be paid without a verdict, in minor units.
    pub fail_closed_above: i64,
}

/// How often one customer may pay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Velocity {
    /// Payments that are let through.
    pub max: usize,
    /// The time in which they are counted, until now.
    pub window: Duration,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            amount_limit: None,
            velocity: None,
            blocked_users: HashSet::new(),
            deadline: Duration::from_millis(500),
            fail_closed_above: 10_000,
        }
    }
}

/// A payment to assess.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The order whose payment it is.
    pub order_id: OrderId,
    /// The customer.
    pub user_id: UserId,
    /// What is to be paid.
    pub amount: Money,
}

/// The approved payments of the last time: enough for the velocity rule, bounded, and lost with the process.
#[derive(Debug, Default)]
pub struct History {
    by_user: HashMap<UserId, VecDeque<(Timestamp, OrderId)>>,
    order: VecDeque<UserId>,
}

impl History {
    /// Remembers an assessment. One that comes twice is remembered once.
    pub fn observe(&mut self, assessed: &FraudAssessed, time: Timestamp) {
        if assessed.verdict == Verdict::Declined {
            return;
        }
        let payment = (time, assessed.order_id);
        let payments = self.by_user.entry(assessed.user_id).or_default();
        let Err(place) = payments.binary_search(&payment) else { return };
        payments.insert(place, payment);
        self.order.push_back(assessed.user_id);
        if self.order.len() > REMEMBERED {
            self.forget_one();
        }
    }

    fn forget_one(&mut self) {
        let Some(user) = self.order.pop_front() else { return };
        if let Some(payments) = self.by_user.get_mut(&user) {
            payments.pop_front();
            if payments.is_empty() {
                self.by_user.remove(&user);
            }
        }
    }

    /// Whether a customer has made `max` other payments since a time.
    fn reached(&self, request: &Request, max: usize, since: Timestamp) -> bool {
        let payments = self.by_user.get(&request.user_id).into_iter().flatten().rev();
        let recent = payments.take_while(|(time, _)| *time > since);
        recent.filter(|(_, order)| *order != request.order_id).take(max).count() == max
    }
}

/// What the rules say of a payment.
pub fn assess(rules: &Rules, history: &History, request: &Request, now: Timestamp) -> FraudAssessed {
    let Request { order_id, user_id, amount } = *request;
    let too_often = |Velocity { max, window }: Velocity| {
        // A window that begins before the first representable time covers everything.
        let since = now.checked_sub(window).unwrap_or(Timestamp::MIN);
        history.reached(request, max, since)
    };
    let rules = [
        (rules.amount_limit.is_some_and(|limit| amount.amount > limit), Suspicion::AmountLimit),
        (rules.velocity.is_some_and(too_often), Suspicion::Velocity),
        (rules.blocked_users.contains(&user_id), Suspicion::BlockedUser),
    ];
    let reasons: Vec<_> = rules.into_iter().filter(|(speaks, _)| *speaks).map(|(_, reason)| reason).collect();
    let verdict = if reasons.is_empty() { Verdict::Approved } else { Verdict::Declined };
    FraudAssessed { order_id, user_id, amount, verdict, reasons }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{eur, order, user};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn request(n: u128) -> Request {
        Request { order_id: order(n), user_id: user(1), amount: eur(900) }
    }

    fn approved(n: u128) -> FraudAssessed {
        assess(&Rules::default(), &History::default(), &request(n), at(0))
    }

    #[test]
    fn the_default_lets_everything_pass() {
        let verdict = Verdict::Approved;
        let Request { order_id, user_id, amount } = request(1);
        assert_eq!(approved(1), FraudAssessed { order_id, user_id, amount, verdict, reasons: vec![] });
    }

    #[test]
    fn every_rule_that_speaks_against_a_payment_is_named() {
        let rules = Rules {
            amount_limit: Some(899),
            velocity: Some(Velocity { max: 0, window: Duration::MAX }),
            blocked_users: HashSet::from([user(1)]),
            ..Rules::default()
        };
        let assessed = assess(&rules, &History::default(), &request(1), at(0));
        assert_eq!(assessed.verdict, Verdict::Declined);
        assert_eq!(assessed.reasons, [Suspicion::AmountLimit, Suspicion::Velocity, Suspicion::BlockedUser]);
        let rules = Rules { amount_limit: Some(900), ..Rules::default() };
        assert_eq!(assess(&rules, &History::default(), &request(1), at(0)).verdict, Verdict::Approved);
    }

    #[test]
    fn velocity_counts_other_approved_payments_inside_the_window() {
        let velocity = Some(Velocity { max: 2, window: Duration::from_mins(1) });
        let rules = Rules { velocity, ..Rules::default() };
        let verdict = |history: &History, n, second| assess(&rules, history, &request(n), at(second)).verdict;
        let mut history = History::default();
        history.observe(&approved(2), at(20));
        history.observe(&approved(1), at(10));
        assert_eq!(verdict(&history, 3, 30), Verdict::Declined);
        assert_eq!(verdict(&history, 2, 30), Verdict::Approved, "a payment does not count against itself");
        assert_eq!(verdict(&history, 3, 70), Verdict::Approved, "the first one is out of the window");
        let other = Request { user_id: user(2), ..request(3) };
        assert_eq!(assess(&rules, &history, &other, at(30)).verdict, Verdict::Approved);
    }

    #[test]
    fn what_comes_twice_or_was_declined_does_not_count() {
        let velocity = Some(Velocity { max: 2, window: Duration::from_mins(1) });
        let rules = Rules { velocity, ..Rules::default() };
        let mut history = History::default();
        for _ in 0..3 {
            history.observe(&approved(1), at(10));
        }
        history.observe(&FraudAssessed { verdict: Verdict::Declined, ..approved(2) }, at(11));
        assert_eq!(assess(&rules, &history, &request(3), at(30)).verdict, Verdict::Approved);
    }

    #[test]
    fn the_history_is_bounded() {
        let mut history = History::default();
        for n in 0..REMEMBERED as u128 + 10 {
            let user_id = user(n % 1000);
            history.observe(&FraudAssessed { user_id, ..approved(n) }, at(10));
        }
        assert_eq!(history.order.len(), REMEMBERED);
        assert_eq!(history.by_user.values().map(VecDeque::len).sum::<usize>(), REMEMBERED);
    }
}
