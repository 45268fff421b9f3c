//! The payments service's read model: accounts, their entries, and payments.

mod queries;

use crate::{
    Changes, Live, View,
    live::{LiveModel, SeenBy},
    past::Thing,
    table::{Table, Type, Value, row},
};
use events::{
    AccountId, Aggregate, Fact, Money, OrderId, Subject,
    payments::{AccountEvent, PaymentEvent},
};
use nats::Recorded;

/// The read model of the payments service.
pub(crate) static VIEW: View = View {
    name: "payments",
    version: 1,
    tables: &[&ACCOUNTS, &ENTRIES, &PAYMENTS],
    aggregates: &[Aggregate::Account, Aggregate::Payment],
    project,
    things: THINGS,
    routes: queries::routes,
    live: Live {
        socket: "/payments/socket",
        models: &[
            LiveModel {
                name: "accounts",
                one: "/accounts/{id}",
                single: true,
                many: None,
                tables: &[&ACCOUNTS],
                seen_by: SeenBy::Owner("userId"),
                filters: &[],
                only_in_one: &[],
                personal: false,
            },
            LiveModel {
                name: "payments",
                one: "/payments/{orderId}",
                single: true,
                many: None,
                tables: &[&PAYMENTS],
                seen_by: SeenBy::Owner("userId"),
                filters: &[],
                only_in_one: &[],
                personal: false,
            },
        ],
    },
};

/// What is shown one by one. Whose a payment is is said by the account that it is made from.
const THINGS: &[Thing] = &[
    Thing::new("/accounts/{id}", Aggregate::Account),
    Thing { owner: Some(account_of), ..Thing::new("/payments/{orderId}", Aggregate::Payment) },
];

/// The account that a payment is made from.
fn account_of(fact: &Fact) -> Option<Subject> {
    let Fact::Payment(event) = fact else { return None };
    let account = match event {
        PaymentEvent::Charged(it) => it.account_id,
        PaymentEvent::Failed(it) => it.account_id,
        PaymentEvent::Refunded(it) => it.account_id,
    };
    Some(Aggregate::Account.subject(account))
}

/// Accounts with their balance.
const ACCOUNTS: Table = Table {
    name: "accounts",
    key: &[("id", Type::Uuid)],
    columns: &[("user_id", Type::Uuid), ("balance", Type::Int), ("currency", Type::Text)],
    indexes: &[],
};

/// What came into an account and went out of it: the sum of amounts is the balance.
const ENTRIES: Table = Table {
    name: "entries",
    key: &[("account_id", Type::Uuid), ("sequence", Type::Int)],
    columns: &[
        ("kind", Type::Text),
        ("amount", Type::Int),
        ("balance", Type::Int),
        ("currency", Type::Text),
        ("order_id", Type::Uuid),
        ("time", Type::Timestamp),
    ],
    indexes: &[],
};

/// Payments of orders.
const PAYMENTS: Table = Table {
    name: "payments",
    key: &[("order_id", Type::Uuid)],
    columns: &[
        ("account_id", Type::Uuid),
        ("status", Type::Text),
        ("amount", Type::Int),
        ("currency", Type::Text),
        ("reason", Type::Text),
        ("detail", Type::Text),
        ("updated_at", Type::Timestamp),
    ],
    indexes: &[],
};

/// What a fact changes.
fn project(recorded: &Recorded, changes: &mut Changes) {
    match &recorded.fact {
        Fact::Account(event) => account(recorded, event, changes),
        Fact::Payment(event) => payment(recorded, event, changes),
        _ => {}
    }
}

fn account(recorded: &Recorded, event: &AccountEvent, changes: &mut Changes) {
    match event {
        AccountEvent::Opened(it) => {
            let row = row!(ACCOUNTS { user_id: it.user_id, balance: 0_i64, currency: it.currency.code() });
            changes.upsert(&ACCOUNTS, it.account_id, row);
        }
        AccountEvent::Credited(it) => {
            let kind = if it.order_id.is_some() { "refund" } else { "credit" };
            let entry = Entry { kind, amount: it.amount.amount, balance: it.balance, order: it.order_id };
            enter(recorded, it.account_id, &entry, changes);
        }
        AccountEvent::Debited(it) => {
            // Debits are positive in the fact and negative in the book.
            let amount = it.amount.amount.saturating_neg();
            let entry = Entry { kind: "debit", amount, balance: it.balance, order: Some(it.order_id) };
            enter(recorded, it.account_id, &entry, changes);
        }
    }
}

struct Entry {
    kind: &'static str,
    amount: i64,
    balance: Money,
    order: Option<OrderId>,
}

fn enter(recorded: &Recorded, account: AccountId, entry: &Entry, changes: &mut Changes) {
    changes.patch(&ACCOUNTS, account, row!(ACCOUNTS { balance: entry.balance.amount }));
    let row = row!(ENTRIES {
        kind: entry.kind,
        amount: entry.amount,
        balance: entry.balance.amount,
        currency: entry.balance.currency.code(),
        order_id: entry.order,
        time: recorded.envelope.time,
    });
    changes.upsert(&ENTRIES, [account.into(), recorded.position.sequence.into()], row);
}

fn payment(recorded: &Recorded, event: &PaymentEvent, changes: &mut Changes) {
    let updated_at = recorded.envelope.time;
    match event {
        PaymentEvent::Charged(it) => {
            let row = row!(PAYMENTS {
                account_id: it.account_id,
                status: "charged",
                amount: it.amount.amount,
                currency: it.amount.currency.code(),
                updated_at: updated_at,
            });
            changes.upsert(&PAYMENTS, it.order_id, row);
        }
        PaymentEvent::Failed(it) => {
            let row = row!(PAYMENTS {
                account_id: it.account_id,
                status: "failed",
                reason: Value::name(it.reason),
                detail: it.detail.clone(),
                updated_at: updated_at,
            });
            changes.upsert(&PAYMENTS, it.order_id, row);
        }
        PaymentEvent::Refunded(it) => {
            let row = row!(PAYMENTS {
                account_id: it.account_id,
                status: "refunded",
                amount: it.amount.amount,
                currency: it.amount.currency.code(),
                reason: Value::name(it.reason),
                updated_at: updated_at,
            });
            changes.upsert(&PAYMENTS, it.order_id, row);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Log, Model};
    use events::{
        UserId,
        orders::{Reason, Workflow},
        payments::{AccountCredited, AccountDebited, AccountOpened, PaymentFailed, PaymentRefunded},
    };
    use uuid::Uuid;

    fn euros(amount: i64) -> Money {
        Money::new(amount, "EUR".parse().unwrap())
    }

    #[tokio::test]
    async fn the_sum_of_the_entries_is_the_balance() {
        let (account_id, order_id) = (AccountId::new(Uuid::from_u128(1)), OrderId::new(Uuid::from_u128(2)));
        let mut log = Log::default();
        let mut add = |event: AccountEvent| log.add(Aggregate::Account, account_id, event, Fact::Account);
        let user_id = UserId::new(Uuid::nil());
        add(AccountOpened { account_id, user_id, currency: euros(0).currency }.into());
        add(AccountCredited { account_id, amount: euros(100), balance: euros(100), order_id: None }.into());
        add(AccountDebited { account_id, order_id, amount: euros(70), balance: euros(30) }.into());
        let refund =
            AccountCredited { account_id, amount: euros(70), balance: euros(100), order_id: Some(order_id) };
        add(refund.into());
        let model = Model::new(&VIEW).await;
        model.apply(&log.all).await;
        let row = model.database.row("SELECT * FROM accounts", Vec::new()).await.unwrap().unwrap();
        assert_eq!(row.get::<Uuid>("user_id").unwrap(), Uuid::nil());
        assert_eq!(row.get::<i64>("balance").unwrap(), 100);
        let rows = model.database.rows("SELECT * FROM entries ORDER BY sequence", Vec::new()).await.unwrap();
        let entries: Vec<(String, i64)> =
            rows.iter().map(|row| (row.get("kind").unwrap(), row.get("amount").unwrap())).collect();
        let expected = [("credit", 100), ("debit", -70), ("refund", 70)];
        assert_eq!(entries, expected.map(|(kind, amount)| (kind.to_owned(), amount)));
    }

    #[tokio::test]
    async fn a_payment_says_what_became_of_it() {
        let (account_id, order_id) = (AccountId::new(Uuid::from_u128(1)), OrderId::new(Uuid::from_u128(2)));
        let status = async |event: PaymentEvent| {
            let mut log = Log::default();
            log.add(Aggregate::Payment, order_id, event, Fact::Payment);
            let model = Model::new(&VIEW).await;
            model.apply(&log.all).await;
            let row = model.database.row("SELECT * FROM payments", Vec::new()).await.unwrap().unwrap();
            let texts = ["status", "reason"].map(|column| row.find::<String>(column).unwrap());
            (texts, row.find::<i64>("amount").unwrap())
        };
        let failed = PaymentFailed {
            order_id,
            account_id,
            reason: Reason::InsufficientFunds,
            detail: "5 EUR short".to_owned(),
            workflow: Workflow::Choreography,
        };
        let expected = ["failed", "insufficient_funds"].map(|text| Some(text.to_owned()));
        assert_eq!(status(failed.into()).await, (expected, None));
        let refunded = PaymentRefunded {
            order_id,
            account_id,
            amount: euros(5),
            reason: Reason::Requested,
            workflow: Workflow::Choreography,
        };
        let expected = ["refunded", "requested"].map(|text| Some(text.to_owned()));
        assert_eq!(status(refunded.into()).await, (expected, Some(5)));
    }
}
