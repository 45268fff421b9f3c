//! Payments: accounts, and what orders take from them.
//!
//! A charge is one decision over the account and the order's own payment, and so is a refund: money moves together
//! with the fact that says why, or not at all.

mod account;
mod http;
mod payment;
mod react;
mod reactor;

pub use account::{Account, AccountCommand, AccountRejection, AccountState, MAX_BALANCE};
pub use payment::{Payment, PaymentCommand, PaymentRejection, PaymentState};
pub use react::{Effect, INTERESTS, Refund, react};

use crate::{
    Decision, Key, Stop,
    environment::{Build, BuildError, WriteSide},
    fraud::{Clearance, Fraud},
};
use events::{
    AccountId, OrderId,
    fraud::Suspicion,
    orders::{Ordered, Reason, Workflow},
    payments::PaymentFailed,
};
use std::sync::Arc;

/// Whose facts payments read beside those that they answer: orders that are refunded by hand, assessments of their own.
pub const READS: [events::Aggregate; 2] = [events::Aggregate::Order, events::Aggregate::Assessment];

/// The write side of payments, which also records what the fraud rules say.
pub(crate) async fn write_side(build: Build, fraud: &Arc<Fraud>) -> Result<WriteSide, BuildError> {
    let http = http::routes(build.api());
    let remembering = Arc::clone(fraud).follow(&build.reactions, build.clock.now()).await?;
    let handler = reactor::handler(reactor::Payments {
        executor: build.executor.clone(),
        assessments: build.assessments.clone(),
        fraud: Arc::clone(fraud),
        clock: build.clock.clone(),
    });
    let side = build.finish(http, INTERESTS, &handler);
    Ok(match remembering {
        Some(following) => side.beside(following),
        None => side,
    })
}

/// Takes the payment of an order, or says why it cannot be taken. Nothing happens where that was decided before.
pub fn charge(decision: &mut Decision, order: &Ordered, clearance: &Clearance) -> Result<(), Stop> {
    let payment = Key::<Payment>::new(order.order_id);
    let account = Key::<Account>::new(order.account_id);
    decision.need([account.load(), payment.likely_new()])?;
    if *decision.state(&payment)? != PaymentState::Undecided {
        return Ok(());
    }
    let obstacle = obstacle(decision.state(&account)?.as_ref(), order, clearance);
    let Ordered { order_id, account_id, total_amount, workflow, .. } = *order;
    if let Some((reason, detail)) = obstacle {
        let failed = PaymentFailed { order_id, account_id, reason, detail, workflow };
        return decision.apply(&payment, PaymentCommand::Fail(failed));
    }
    decision.apply(&account, AccountCommand::Debit { order_id, amount: total_amount })?;
    decision.apply(&payment, PaymentCommand::Charge(Box::new(order.clone().into())))
}

/// What stands against a charge.
fn obstacle(
    account: Option<&AccountState>,
    order: &Ordered,
    clearance: &Clearance,
) -> Option<(Reason, String)> {
    let total = order.total_amount;
    let Some(account) = account.filter(|account| account.user_id == order.user_id) else {
        return Some((Reason::AccountUnknown, format!("the customer has no account {}", order.account_id)));
    };
    let balance = account.balance;
    if balance.currency != total.currency {
        let detail = format!("the account is in {}, the order in {}", balance.currency, total.currency);
        return Some((Reason::CurrencyMismatch, detail));
    }
    match clearance {
        Clearance::Cleared => {}
        Clearance::Declined(reasons) => {
            let reasons: Vec<_> = reasons.iter().copied().map(in_words).collect();
            return Some((Reason::FraudDeclined, reasons.join(", ")));
        }
        Clearance::Unavailable => {
            let detail = format!("the fraud rules did not answer, and {total} is too much without them");
            return Some((Reason::FraudUnavailable, detail));
        }
    }
    (balance.amount < total.amount)
        .then(|| (Reason::InsufficientFunds, format!("the balance is {balance}, the order costs {total}")))
}

fn in_words(suspicion: Suspicion) -> &'static str {
    match suspicion {
        Suspicion::AmountLimit => "the amount is above the limit",
        Suspicion::Velocity => "too many payments in too short a time",
        Suspicion::BlockedUser => "the customer is blocked",
    }
}

/// Gives back what was taken for an order. Where nothing was decided yet it is decided now that nothing will be taken,
/// so that an `inventory.reserved` that comes after `order.cancelled` charges nothing.
pub fn refund(decision: &mut Decision, refund: &Refund) -> Result<(), Stop> {
    let Refund { order_id, reason, never_charge, workflow } = *refund;
    let payment = Key::<Payment>::new(order_id);
    match (decision.state(&payment)?.clone(), never_charge) {
        (PaymentState::Undecided, Some(account_id)) => {
            let detail = match reason {
                Reason::OrderCancelled => "the order was cancelled before it was paid",
                _ => "the order was given up before it was paid",
            };
            let detail = detail.to_owned();
            let failed = PaymentFailed { order_id, account_id, reason, detail, workflow };
            decision.apply(&payment, PaymentCommand::Fail(failed))
        }
        (PaymentState::Charged { account_id, amount }, _) => {
            decision.apply(&Key::<Account>::new(account_id), AccountCommand::Refund { order_id, amount })?;
            decision.apply(&payment, PaymentCommand::Refund { order_id, reason, workflow })
        }
        (PaymentState::Failed, Some(_)) => Ok(()),
        _ => decision.apply(&payment, PaymentCommand::Refund { order_id, reason, workflow }),
    }
}

/// Decides that an order is not paid any more, unless it was decided before: whoever comes first wins.
pub fn expire(decision: &mut Decision, order_id: OrderId, account_id: AccountId) -> Result<(), Stop> {
    let (reason, workflow) = (Reason::HoldExpired, Workflow::Choreography);
    let detail = "nobody had paid when the time was over for which stock is held".to_owned();
    let failed = PaymentFailed { order_id, account_id, reason, detail, workflow };
    decision.apply(&Key::<Payment>::new(order_id), PaymentCommand::Fail(failed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{account, charged, created, currency, eur, line, order, user};
    use events::payments::{
        AccountCredited, AccountDebited, AccountEvent, AccountOpened, PaymentEvent, PaymentRefunded,
    };

    /// Costs 9.00 EUR.
    fn request() -> Ordered {
        (&created(&[line("TEA", 2, 450)])).into()
    }

    fn taken() -> PaymentEvent {
        charged(&created(&[line("TEA", 2, 450)])).into()
    }

    fn back() -> PaymentEvent {
        let (order_id, account_id, amount) = (order(1), account(1), eur(900));
        let (reason, workflow) = (Reason::OrderCancelled, Workflow::Choreography);
        PaymentRefunded { order_id, account_id, amount, reason, workflow }.into()
    }

    fn failed(reason: Reason, detail: &str) -> PaymentEvent {
        let (order_id, account_id, workflow) = (order(1), account(1), Workflow::Choreography);
        PaymentFailed { order_id, account_id, reason, detail: detail.to_owned(), workflow }.into()
    }

    fn payment() -> Key<Payment> {
        Key::new(order(1))
    }

    fn wallet() -> Key<Account> {
        Key::new(account(1))
    }

    fn opened(by: u128, code: &str) -> AccountEvent {
        AccountOpened { account_id: account(1), user_id: user(by), currency: currency(code) }.into()
    }

    fn holding(balance: i64) -> [AccountEvent; 2] {
        let credited = AccountCredited {
            account_id: account(1),
            amount: eur(balance),
            balance: eur(balance),
            order_id: None,
        };
        [opened(1, "EUR"), credited.into()]
    }

    fn cancelled() -> Refund {
        let (never_charge, workflow) = (Some(account(1)), Workflow::Choreography);
        Refund { order_id: order(1), reason: Reason::OrderCancelled, never_charge, workflow }
    }

    fn requested() -> Refund {
        let workflow = Workflow::Choreography;
        Refund { order_id: order(1), reason: Reason::Requested, never_charge: None, workflow }
    }

    #[test]
    fn a_charge_moves_money_and_says_why() {
        let mut decision = Decision::default().given(&payment(), &[]).given(&wallet(), &holding(900));
        charge(&mut decision, &request(), &Clearance::Cleared).unwrap();
        let (account_id, order_id) = (account(1), order(1));
        let debited = AccountDebited { account_id, order_id, amount: eur(900), balance: eur(0) };
        assert_eq!(decision.then(&wallet()), [debited.into()]);
        assert_eq!(decision.then(&payment()), [taken()]);
    }

    #[test]
    fn a_charge_that_fails_moves_nothing_and_says_why() {
        let declined = Clearance::Declined(vec![Suspicion::AmountLimit, Suspicion::BlockedUser]);
        let unknown = format!("the customer has no account {}", account(1));
        let too_little = "the balance is 8.99 EUR, the order costs 9.00 EUR";
        let silent = "the fraud rules did not answer, and 9.00 EUR is too much without them";
        let cases = [
            (vec![], Clearance::Cleared, Reason::AccountUnknown, unknown.as_str()),
            (vec![opened(2, "EUR")], Clearance::Cleared, Reason::AccountUnknown, &unknown),
            (
                vec![opened(1, "JPY")],
                Clearance::Cleared,
                Reason::CurrencyMismatch,
                "the account is in JPY, the order in EUR",
            ),
            (
                holding(900).to_vec(),
                declined,
                Reason::FraudDeclined,
                "the amount is above the limit, the customer is blocked",
            ),
            (holding(900).to_vec(), Clearance::Unavailable, Reason::FraudUnavailable, silent),
            (holding(899).to_vec(), Clearance::Cleared, Reason::InsufficientFunds, too_little),
        ];
        for (history, clearance, reason, detail) in cases {
            let mut decision = Decision::default().given(&payment(), &[]).given(&wallet(), &history);
            charge(&mut decision, &request(), &clearance).unwrap();
            assert_eq!(decision.then(&payment()), [failed(reason, detail)]);
            assert_eq!(decision.decided.len(), 1);
        }
    }

    #[test]
    fn a_payment_is_decided_once() {
        let failed = failed(Reason::InsufficientFunds, "");
        for history in [vec![taken()], vec![taken(), back()], vec![failed]] {
            let mut decision =
                Decision::default().given(&payment(), &history).given(&wallet(), &holding(2000));
            charge(&mut decision, &request(), &Clearance::Unavailable).unwrap();
            charge(&mut decision, &request(), &Clearance::Cleared).unwrap();
            assert_eq!(decision.decided.len(), 0);
        }
    }

    #[test]
    fn what_was_taken_goes_back_once() {
        let mut decision = Decision::default().given(&payment(), &[taken()]).given(&wallet(), &holding(100));
        refund(&mut decision, &cancelled()).unwrap();
        refund(&mut decision, &cancelled()).unwrap();
        refund(&mut decision, &requested()).unwrap();
        let credited = AccountCredited {
            account_id: account(1),
            amount: eur(900),
            balance: eur(1000),
            order_id: Some(order(1)),
        };
        assert_eq!(decision.then(&wallet()), [credited.into()]);
        assert_eq!(decision.then(&payment()), [back()]);
    }

    #[test]
    fn a_refund_names_the_account_it_needs() {
        let mut decision = Decision::default().given(&payment(), &[taken()]);
        let stop = refund(&mut decision, &cancelled()).unwrap_err();
        assert!(matches!(&stop, Stop::Needs(keys) if keys[0].subject == *wallet().subject()), "{stop:?}");
    }

    #[test]
    fn what_is_cancelled_first_is_never_charged() {
        let mut decision = Decision::default().given(&payment(), &[]).given(&wallet(), &holding(2000));
        refund(&mut decision, &cancelled()).unwrap();
        charge(&mut decision, &request(), &Clearance::Cleared).unwrap();
        refund(&mut decision, &cancelled()).unwrap();
        let detail = "the order was cancelled before it was paid";
        assert_eq!(decision.then(&payment()), [failed(Reason::OrderCancelled, detail)]);
        assert_eq!(decision.decided.len(), 1);
    }

    #[test]
    fn of_a_payment_and_the_end_of_its_hold_whichever_comes_first_wins() {
        let mut decision = Decision::default().given(&payment(), &[]).given(&wallet(), &holding(2000));
        expire(&mut decision, order(1), account(1)).unwrap();
        charge(&mut decision, &request(), &Clearance::Cleared).unwrap();
        let detail = "nobody had paid when the time was over for which stock is held";
        assert_eq!(decision.then(&payment()), [failed(Reason::HoldExpired, detail)]);
        let mut decision = Decision::default().given(&payment(), &[taken()]);
        expire(&mut decision, order(1), account(1)).unwrap();
        assert_eq!(decision.then(&payment()), []);
    }

    #[test]
    fn nobody_can_ask_back_what_was_not_taken() {
        for history in [vec![], vec![failed(Reason::InsufficientFunds, "")]] {
            let mut decision = Decision::default().given(&payment(), &history);
            let stop = refund(&mut decision, &requested()).unwrap_err();
            assert!(matches!(&stop, Stop::Refused(refusal) if refusal.slug == "payment-not-charged"));
        }
    }
}
