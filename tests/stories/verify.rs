//! Log and read models agree while orders flow; and where somebody lays hands on a table, it is said where.

use crate::READ_MODELS;
use events::{Actor, Aggregate, CommandId, Envelope, FactType, Metadata, OrderId};
use futures::future::join_all;
use nats::{EventStore, StoreOptions, Write};
use projections::{Changes, View, database::Database, table::Key};
use serde_json::Value;
use service::Clock;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use uuid::Uuid;
use waybill::{api::Cart, system::Service};
use waybill_tests::{World, eventually, run};

const SOON: Duration = Duration::from_mins(1);

struct Shop {
    world: World,
    cart: Cart,
    after: String,
}

impl Shop {
    async fn open() -> Self {
        let world = World::start(READ_MODELS).await.unwrap();
        let user_id = world.api.register("u").await.unwrap();
        let stocked = world.api.stock_product("p", ("PEN", "Pen", 10), 100_000).await.unwrap();
        let (account_id, _) = world.api.open_account("a", user_id, 10_000_000).await.unwrap();
        let cart = Cart { user_id, account_id, items: vec![("PEN".to_owned(), 1)], country: "DE".to_owned() };
        let after = stocked.position().unwrap().to_owned();
        Self { world, cart, after }
    }

    async fn place(&self, key: &str) -> Uuid {
        let placed = self.world.api.place(key, &self.cart, &[&self.after]).await.unwrap();
        placed.expect(202, "an order").unwrap().id().unwrap()
    }

    async fn verify(&self, what: &[&str]) -> (Option<i32>, String) {
        let read_models = self.world.read_models();
        let place: Vec<_> = read_models.iter().map(String::as_str).collect();
        run(&[&["verify", "--nats-url", &self.world.config.nats_url], what, &place].concat()).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_found_while_orders_flow() {
    let shop = Arc::new(Shop::open().await);
    let stop = Arc::new(AtomicBool::new(false));
    let customers: Vec<_> = (0..4)
        .map(|customer| {
            let (shop, stop) = (Arc::clone(&shop), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut placed = 0;
                while !stop.load(Ordering::Relaxed) {
                    let order = shop.place(&format!("{customer}-{placed}")).await;
                    // Some of them have something to undo.
                    if placed % 3 == 0 {
                        let _ = shop.world.api.cancel(&format!("c-{customer}-{placed}"), order).await;
                    }
                    placed += 1;
                }
                placed
            })
        })
        .collect();
    for _ in 0..3 {
        let (code, said) = shop.verify(&[]).await;
        assert!(code == Some(0) && said.contains("everything agrees"), "{said}");
    }
    stop.store(true, Ordering::Relaxed);
    let placed: usize = join_all(customers).await.into_iter().map(Result::unwrap).sum();
    assert!(placed > 10, "they flowed");
    shop.world.settled().await.unwrap();
    let (code, said) = shop.verify(&["--output", "json"]).await;
    assert_eq!(code, Some(0), "{said}");
}

/// The findings of a report, each as where it is and what it says.
fn findings(said: &str) -> Vec<(String, String)> {
    let end = said.rfind("\n}").unwrap() + 2;
    let report: Value = serde_json::from_str(&said[said.find('{').unwrap()..end]).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let findings = report["findings"].as_array().unwrap();
    findings.iter().map(|one| (text(&one["at"]), text(&one["what"]))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_was_changed_removed_or_added_is_named() {
    let mut shop = Shop::open().await;
    laid_hands_on(&shop).await;

    // Tables that another version of the program built are no finding of single rows.
    assert!(shop.world.stop().await);
    let World { kept, config, .. } = &shop.world;
    let others = |generation: &mut Value| generation["model"] = "others".into();
    kept.change_generations("orders", &config.data, others).await.unwrap();
    let (code, said) = shop.verify(&["orders", "--output", "json"]).await;
    assert_eq!(code, Some(1), "{said}");
    let found = findings(&said);
    assert!(found.len() == 1 && found[0].0 == "orders", "{found:?}");
    let (code, said) = shop.verify(&["orders"]).await;
    assert!(code == Some(1) && said.contains("model        orders: "), "{said}");
}

/// The schema gate: what this program cannot read fails it, before anything of it is deployed.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_this_program_cannot_read_fails_the_schema_gate() {
    let shop = Shop::open().await;
    shop.place("1").await;
    shop.world.settled().await.unwrap();
    let (code, said) = shop.verify(&["--schema"]).await;
    assert_eq!(code, Some(0), "{said}");
    let connection = shop.world.connect().await.unwrap();
    let store = EventStore::new(&connection, StoreOptions::default());
    let subject = Aggregate::Order.subject(OrderId::new(Uuid::from_u128(7)));
    let command = CommandId::new(Uuid::from_u128(8));
    let (correlation, causation) = (command.uuid().into(), command.uuid());
    let from = Metadata { command, correlation, causation, actor: Actor::CLIENT, traceparent: None };
    let fact = FactType::all().find(|fact| fact.name == "order.completed").unwrap();
    let envelope = Envelope::new(fact, &subject, 1, 0, Clock::system().now(), &from);
    let body = br#"{"orderId":"secret"}"#.to_vec();
    let at = store.append(vec![Write::new(&subject, Some(0), &envelope, None, body)]).await.unwrap().first;
    let (code, said) = shop.verify(&["--schema"]).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&format!("body         ORDERS:{at}: ")), "{said}");
    assert!(!said.contains("secret"), "no value is shown: {said}");
    let (code, said) = shop.verify(&["--schema", "--output", "json"]).await;
    let found = findings(&said);
    assert!(code == Some(1) && found.len() == 1 && found[0].0 == format!("ORDERS:{at}"), "{said}");
}

async fn laid_hands_on(shop: &Shop) {
    let (code, said) = shop.verify(&["orders"]).await;
    assert!(code == Some(0) && said.contains("everything agrees"), "{said}");
    let mut orders = Vec::new();
    for number in 0..3 {
        orders.push(shop.place(&number.to_string()).await);
    }
    shop.world.settled().await.unwrap();
    let view = View::of("orders").unwrap();
    let table = view.tables.iter().find(|table| table.name == "orders").unwrap();
    let database: Database =
        projections::live(&shop.world.storage(Service::Orders), view).await.unwrap().unwrap();
    let key = |id: Uuid| Key::from(OrderId::new(id));
    let status = table.column("status");
    let stranger = Uuid::from_u128(7);
    let mut changes = Changes::default();
    changes.patch(table, key(orders[0]), [(status, "lost".into())]);
    changes.delete(table, key(orders[1]));
    changes.upsert(table, key(stranger), [(status, "pending".into())]);
    database.writer().await.unwrap().commit(changes, &[]).await.unwrap();

    let (code, said) = shop.verify(&["orders", "--output", "json"]).await;
    assert_eq!(code, Some(1), "{said}");
    let mut found = findings(&said);
    found.sort();
    let mut expected = [
        (orders[0], "differs in status; perhaps the table was changed by hand"),
        (orders[1], "is missing from the tables"),
        (stranger, "the log knows nothing of it"),
    ];
    expected.sort();
    assert_eq!(found.len(), 3, "{found:?}");
    for ((at, what), (order, says)) in found.iter().zip(expected) {
        assert_eq!(*at, format!("orders/orders/{order}"));
        assert!(what.contains(says), "{what}");
    }
    let (code, said) = shop.verify(&["payments", "--schema"]).await;
    assert_eq!(code, Some(0), "the others agree: {said}");
    let (code, said) = shop.verify(&["orders"]).await;
    assert!(code == Some(1) && said.contains(&format!("row          orders/orders/{stranger}: ")), "{said}");
    eventually("it still serves", SOON, async || shop.world.api.order(orders[2]).await.ok()).await;
}
