//! Values that the tests of the domain share.

use events::{
    AccountId, Address, Currency, DataKey, Money, OrderId, Personal, Sku, UserId,
    inventory::InventoryReserved,
    orders::{Line, OrderCreated, UserSnapshot, Workflow},
    payments::PaymentCharged,
    shipping::ShippingScheduled,
    users::{EmailHash, Preferences, Role, UserCreated},
};
use uuid::Uuid;

pub(crate) fn eur(amount: i64) -> Money {
    Money::new(amount, currency("EUR"))
}

pub(crate) fn currency(code: &str) -> Currency {
    code.parse().unwrap()
}

pub(crate) fn sku(text: &str) -> Sku {
    text.parse().unwrap()
}

pub(crate) fn order(n: u128) -> OrderId {
    OrderId::new(Uuid::from_u128(0x0d_0000 + n))
}

pub(crate) fn user(n: u128) -> UserId {
    UserId::new(Uuid::from_u128(0x05_0000 + n))
}

pub(crate) fn account(n: u128) -> AccountId {
    AccountId::new(Uuid::from_u128(0x0a_0000 + n))
}

pub(crate) fn address() -> Address {
    Address {
        name: "Ada Lovelace".to_owned(),
        line1: "12 St James's Square".to_owned(),
        line2: None,
        city: "London".to_owned(),
        postal_code: "SW1Y 4JH".to_owned(),
        country: "GB".to_owned(),
    }
}

pub(crate) fn line(of: &str, quantity: u32, unit_price: i64) -> Line {
    Line { sku: sku(of), quantity, unit_price: eur(unit_price) }
}

/// Personal data of user 1.
pub(crate) fn sealed<T: serde::Serialize>(value: &T) -> Personal<T> {
    Personal::seal(value, user(1), &DataKey::new([1; 32]), [2; 24])
}

/// Order 1 of user 1, paid from account 1.
pub(crate) fn created(items: &[Line]) -> OrderCreated {
    let cost = |line: &Line| line.unit_price.amount * i64::from(line.quantity);
    OrderCreated {
        order_id: order(1),
        user_id: user(1),
        account_id: account(1),
        items: items.to_vec(),
        total_amount: eur(items.iter().map(cost).sum()),
        shipping_address: sealed(&address()),
        workflow: Workflow::Choreography,
        user_snapshot: UserSnapshot::default(),
    }
}

pub(crate) fn reserved(created: &OrderCreated) -> InventoryReserved {
    let OrderCreated {
        order_id, user_id, account_id, items, total_amount, shipping_address, workflow, ..
    } = created.clone();
    InventoryReserved { order_id, user_id, account_id, items, total_amount, shipping_address, workflow }
}

pub(crate) fn charged(created: &OrderCreated) -> PaymentCharged {
    let OrderCreated {
        order_id, user_id, account_id, items, total_amount, shipping_address, workflow, ..
    } = created.clone();
    PaymentCharged { order_id, user_id, account_id, amount: total_amount, items, shipping_address, workflow }
}

pub(crate) fn scheduled() -> ShippingScheduled {
    let OrderCreated { order_id, user_id, items, shipping_address, workflow, .. } =
        created(&[line("TEA", 2, 450)]);
    let (carrier, tracking_number) = ("simulated".to_owned(), "SIM-1".to_owned());
    ShippingScheduled { order_id, user_id, items, carrier, tracking_number, shipping_address, workflow }
}

pub(crate) fn email_hash(n: u128) -> EmailHash {
    format!("{n:064x}").parse().unwrap()
}

/// User `n` with address `n`.
pub(crate) fn registered(n: u128) -> UserCreated {
    UserCreated {
        user_id: user(n),
        name: sealed(&"Ada Lovelace".to_owned()),
        email: sealed(&"ada@example.com".to_owned()),
        email_hash: email_hash(n),
        preferences: Preferences::default(),
        roles: vec![Role::Customer],
    }
}
