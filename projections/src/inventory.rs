//! The inventory service's read model: the catalogue and the stock. Every fact carries the totals afterwards.

mod queries;

use crate::{
    Changes, Live, View,
    live::{LiveModel, SeenBy},
    past::Thing,
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
    things: THINGS,
    routes: queries::routes,
    live: Live {
        socket: "/products/socket",
        models: &[
            LiveModel {
                name: "products",
                one: "/products/{sku}",
                single: true,
                many: Some("/products"),
                tables: &[&PRODUCTS],
                seen_by: SeenBy::Everybody,
                filters: &[],
                only_in_one: &[],
                personal: false,
            },
            LiveModel {
                name: "inventory",
                one: "/inventory/{sku}",
                single: true,
                many: None,
                tables: &[&PRODUCTS, &STOCK],
                seen_by: SeenBy::Everybody,
                filters: &[],
                only_in_one: &[],
                personal: false,
            },
        ],
    },
};

/// What is shown one by one. Who ordered of it is nobody's business.
const THINGS: &[Thing] = &[
    Thing { with: &[Aggregate::Product], guarded: true, ..Thing::new("/inventory/{sku}", Aggregate::Item) },
    Thing { guarded: true, ..Thing::new("/products/{sku}", Aggregate::Product) },
];

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Log, Model};
    use events::inventory::{ProductAdded, ProductRepriced, Stock, StockAdjusted, StockReceived};

    #[tokio::test]
    async fn a_product_has_its_newest_price_and_stock() {
        let sku: Sku = "TEA-1".parse().unwrap();
        let price = |amount| Money::new(amount, "EUR".parse().unwrap());
        let stock = |on_hand| Stock { on_hand, reserved: 1 };
        let mut log = Log::default();
        let added = ProductAdded { sku: sku.clone(), name: "Tea".to_owned(), price: price(5) };
        log.add(Aggregate::Product, &sku, added, Fact::Product);
        let received = StockReceived { sku: sku.clone(), quantity: 9, stock: stock(9) };
        log.add(Aggregate::Item, &sku, received, Fact::Item);
        let repriced = ProductRepriced { sku: sku.clone(), name: "Tea".to_owned(), price: price(6) };
        log.add(Aggregate::Product, &sku, repriced, Fact::Product);
        let reason = "broken".to_owned();
        let adjusted = StockAdjusted { sku: sku.clone(), delta: -2, reason, stock: stock(7) };
        log.add(Aggregate::Item, &sku, adjusted, Fact::Item);
        let model = Model::new(&VIEW).await;
        model.apply(&log.all).await;
        let sql = "SELECT * FROM products JOIN stock USING (sku)";
        let row = model.database.row(sql, Vec::new()).await.unwrap().unwrap();
        let numbers = ["amount", "on_hand", "reserved"].map(|column| row.get::<i64>(column).unwrap());
        assert_eq!(numbers, [6, 7, 1]);
        assert_eq!(row.get::<String>("name").unwrap(), "Tea");
    }
}
