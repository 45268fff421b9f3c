//! The inventory service's read model: the catalogue and the stock. Every fact carries the totals afterwards.

mod queries;

use crate::{
    Changes, View,
    table::{Table, Type, row},
};
use events::{
    Aggregate, Fact, Money, Sku,
    inventory::{ItemEvent, ProductEvent},
};
use nats::Recorded;

/// The read model of the inventory service.
pub(crate) static VIEW: View = View {
    name: "inventory",
    version: 1,
    tables: &[&PRODUCTS, &STOCK],
    aggregates: &[Aggregate::Product, Aggregate::Item],
    project,
    routes: queries::routes,
};

/// What can be ordered.
const PRODUCTS: Table = Table {
    name: "products",
    key: &[("sku", Type::Text)],
    columns: &[("name", Type::Text), ("amount", Type::Int), ("currency", Type::Text)],
    indexes: &[],
};

/// What is in the house.
const STOCK: Table = Table {
    name: "stock",
    key: &[("sku", Type::Text)],
    columns: &[("on_hand", Type::Int), ("reserved", Type::Int)],
    indexes: &[],
};

/// What a fact changes.
fn project(recorded: &Recorded, changes: &mut Changes) {
    match &recorded.fact {
        Fact::Product(ProductEvent::Added(it)) => product(&it.sku, &it.name, it.price, changes),
        Fact::Product(ProductEvent::Repriced(it)) => product(&it.sku, &it.name, it.price, changes),
        Fact::Item(event) => {
            let (sku, stock) = match event {
                ItemEvent::Received(it) => (&it.sku, it.stock),
                ItemEvent::Adjusted(it) => (&it.sku, it.stock),
                ItemEvent::Reserved(it) => (&it.sku, it.stock),
                ItemEvent::Released(it) => (&it.sku, it.stock),
                ItemEvent::Shipped(it) => (&it.sku, it.stock),
            };
            changes.upsert(&STOCK, sku, row!(STOCK { on_hand: stock.on_hand, reserved: stock.reserved }));
        }
        _ => {}
    }
}

fn product(sku: &Sku, name: &str, price: Money, changes: &mut Changes) {
    let row = row!(PRODUCTS { name: name.to_owned(), amount: price.amount, currency: price.currency.code() });
    changes.upsert(&PRODUCTS, sku, row);
}
