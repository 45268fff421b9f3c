//! Stock and balances: the sums of what happened, against the totals that each fact claims.

use events::{
    AccountId, Sku,
    inventory::{ItemEvent, ProductEvent, Stock},
    payments::AccountEvent,
};
use std::collections::BTreeMap;

/// The stock of one SKU, from the moment it came into the catalogue.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    pub(super) on_hand: i128,
    pub(super) reserved: i128,
}

/// The balance of one account, from the moment it was opened.
#[derive(Debug, Default)]
pub(super) struct Balance(pub(super) i128);

pub(super) fn product(shelves: &mut BTreeMap<Sku, Shelf>, event: &ProductEvent) {
    if let ProductEvent::Added(it) = event {
        shelves.entry(it.sku.clone()).or_default();
    }
}

pub(super) fn item(shelves: &mut BTreeMap<Sku, Shelf>, event: &ItemEvent, faults: &mut Vec<String>) {
    let (sku, on_hand, reserved, claimed) = match event {
        ItemEvent::Received(it) => (&it.sku, i128::from(it.quantity), 0, it.stock),
        ItemEvent::Adjusted(it) => (&it.sku, i128::from(it.delta), 0, it.stock),
        ItemEvent::Reserved(it) => (&it.sku, 0, i128::from(it.quantity), it.stock),
        ItemEvent::Released(it) => (&it.sku, 0, -i128::from(it.quantity), it.stock),
        ItemEvent::Shipped(it) => (&it.sku, -i128::from(it.quantity), -i128::from(it.quantity), it.stock),
    };
    let Some(shelf) = shelves.get_mut(sku) else { return };
    shelf.on_hand += on_hand;
    shelf.reserved += reserved;
    let Stock { on_hand, reserved } = claimed;
    if (shelf.on_hand, shelf.reserved) != (on_hand.into(), reserved.into()) {
        let Shelf { on_hand: sum, reserved: held } = shelf;
        faults.push(format!("stock of {sku} is {sum} with {held} reserved, not {on_hand} with {reserved}"));
    }
    if reserved > on_hand {
        faults.push(format!("more of {sku} is reserved than there is: {reserved} of {on_hand}"));
    }
}

pub(super) fn account(
    balances: &mut BTreeMap<AccountId, Balance>,
    event: &AccountEvent,
    faults: &mut Vec<String>,
) {
    let (id, change, claimed) = match event {
        AccountEvent::Opened(it) => {
            balances.entry(it.account_id).or_default();
            return;
        }
        AccountEvent::Credited(it) => (it.account_id, i128::from(it.amount.amount), it.balance),
        AccountEvent::Debited(it) => (it.account_id, -i128::from(it.amount.amount), it.balance),
    };
    let Some(balance) = balances.get_mut(&id) else { return };
    balance.0 += change;
    if balance.0 != claimed.amount.into() {
        faults.push(format!("balance of account {id} is {}, not {}", balance.0, claimed.amount));
    }
    if balance.0 < 0 {
        faults.push(format!("balance of account {id} is below zero: {}", balance.0));
    }
}
