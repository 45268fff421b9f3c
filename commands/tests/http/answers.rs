//! What a command answers when it is carried out, and what the events say of the request.

use crate::shop::{Nats, OPERATOR, Shop, order, product};
use axum::http::Method;
use commands::{
    Decision, Key,
    fraud::Clearance,
    orders::{Order, OrderCommand},
    payments, shipping,
};
use events::{
    Context, Fact, Money, OrderId,
    inventory::InventoryReserved,
    orders::{OrderCreated, OrderEvent},
    payments::PaymentCharged,
};
use serde_json::{Value, json};
use uuid::Uuid;

#[tokio::test]
async fn commands_answer_where_and_when() {
    let nats = Nats::start().await;
    let shop = Shop::open(&nats).await;
    catalogue(&shop).await;
    accounts(&shop).await;
    an_order_is_placed_and_cancelled(&shop).await;
    prices_are_those_that_the_client_has_seen(&shop).await;
    a_completed_order_is_shipped_and_refunded(&shop).await;
    nats.server.stop().await;
}

async fn catalogue(shop: &Shop) {
    let added = shop.post("/products", &product("A-1", 450)).await.expect(201);
    assert_eq!((added.header("location"), &added.body["id"]), (Some("/inventory/A-1"), &json!("A-1")));
    assert_eq!(added.position().context, Context::Inventory);
    let price = json!({ "price": { "amount": 500, "currency": "EUR" } });
    let repriced = shop.ask(Method::PUT, "/products/A-1/price", &[], &price).await.expect(202);
    assert!(repriced.position() > added.position());
    let same = shop.ask(Method::PUT, "/products/A-1/price", &[], &price).await.expect(202);
    assert_eq!(same.position(), repriced.position(), "nothing needed to change");
    let received = shop.post("/inventory/A-1/receipts", &json!({ "quantity": 3 })).await.expect(202);
    assert_eq!(received.header("location"), Some("/inventory/A-1"));
    let adjustment = json!({ "delta": -1, "reason": "broken" });
    let adjusted = shop.post("/inventory/A-1/adjustments", &adjustment).await.expect(202);
    assert_eq!(adjusted.position().sequence, received.position().sequence + 1);
}

async fn accounts(shop: &Shop) {
    let opened =
        shop.post("/accounts", &json!({ "userId": Uuid::nil(), "currency": "EUR" })).await.expect(201);
    let location = format!("/accounts/{}", opened.id());
    assert_eq!(opened.header("location"), Some(&*location));
    assert_eq!(opened.id().get_version_num(), 7);
    let credit = json!({ "amount": { "amount": 100, "currency": "EUR" } });
    let credited = shop.post(&format!("{location}/credits"), &credit).await.expect(202);
    assert_eq!((credited.id(), credited.header("location")), (opened.id(), Some(&*location)));
    assert_eq!(credited.position().context, Context::Payments);
}

/// The `order.created` of an order, with its envelope.
async fn created(shop: &Shop, order: Uuid) -> (events::Envelope, OrderCreated) {
    let subject = Key::<Order>::new(order).subject().clone();
    let history = shop.executors[&Context::Orders].store().load(&subject, "").await.unwrap();
    let recorded = history.messages[0].record().unwrap();
    let Fact::Order(OrderEvent::Created(created)) = recorded.fact else { panic!("{recorded:?}") };
    (recorded.envelope, created)
}

async fn an_order_is_placed_and_cancelled(shop: &Shop) {
    let user = Uuid::from_u128(3);
    shop.product("B-1", 450).await;
    shop.product("B-2", 1200).await;
    let account = shop.account(user, "EUR").await;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let headers = [("X-Correlation-Id", "cart-7"), ("traceparent", trace)];
    let body = order(user, account, &[("B-1", 2), ("B-2", 1)]);
    let placed = shop.ask(Method::POST, "/orders", &headers, &body).await.expect(202);
    let (id, position) = (placed.id(), placed.position());
    assert_eq!(placed.header("x-correlation-id"), Some("cart-7"));
    assert_eq!(placed.header("location"), Some(&*format!("/orders/{id}")));
    assert_eq!(placed.header("content-type"), Some("application/json"));
    assert!(!placed.is_replayed());
    let expected = json!({
        "id": id,
        "status": "pending",
        "totalAmount": { "amount": 2100, "currency": "EUR" },
        "userSnapshot": { "stale": true },
        "position": { "stream": "ORDERS", "sequence": position.sequence },
    });
    assert_eq!(placed.body, expected);

    let (envelope, fact) = created(shop, id).await;
    assert_eq!(envelope.correlation.as_str(), "cart-7");
    let actor = format!("operator:{OPERATOR}");
    assert_eq!((envelope.actor.as_str(), envelope.traceparent.as_deref()), (&*actor, Some(trace)));
    assert_eq!(envelope.causation, envelope.command.uuid());
    assert_eq!(fact.items[1].unit_price.amount, 1200);
    assert_eq!(fact.shipping_address.owner().unwrap().uuid(), user);
    let address = shop.keys.reveal(&fact.shipping_address).await.unwrap().unwrap();
    assert_eq!(address.postal_code, "SW1Y 4JH");

    let cancel = format!("/orders/{id}/cancel");
    shop.post(&cancel, &json!({ "reason": "x".repeat(201) })).await.problem(422, "reason-too-long");
    let cancelled = shop.post(&cancel, &json!({ "reason": "found it cheaper" })).await.expect(202);
    assert_eq!(cancelled.id(), id);
    let again = shop.post_nothing(&cancel).await.expect(202);
    assert_eq!(again.position(), cancelled.position());
}

async fn prices_are_those_that_the_client_has_seen(shop: &Shop) {
    let user = Uuid::from_u128(4);
    shop.product("C-1", 450).await;
    let body = order(user, shop.account(user, "EUR").await, &[("C-1", 1)]);
    let total = |answer: crate::shop::Answer| answer.expect(202).body["totalAmount"]["amount"].clone();
    assert_eq!(total(shop.post("/orders", &body).await), 450);
    let price = json!({ "price": { "amount": 500, "currency": "EUR" } });
    let repriced = shop.ask(Method::PUT, "/products/C-1/price", &[], &price).await.expect(202);
    let seen = format!("ORDERS:1, {}", repriced.position());
    assert_eq!(total(shop.ask(Method::POST, "/orders", &[("Waybill-Position", &*seen)], &body).await), 500);
}

/// What the other services would have done for an order.
async fn fulfil(shop: &Shop, order: Uuid) {
    let (_, created) = created(shop, order).await;
    let OrderCreated {
        order_id, user_id, account_id, items, total_amount, shipping_address, workflow, ..
    } = created;
    let (line_items, address) = (items.clone(), shipping_address.clone());
    let reserved =
        InventoryReserved { order_id, user_id, account_id, items, total_amount, shipping_address, workflow };
    let charge =
        move |decision: &mut Decision| payments::charge(decision, &(&reserved).into(), &Clearance::Cleared);
    shop.execute(Context::Payments, shop.new_command(), charge).await;
    let (amount, items, shipping_address) = (total_amount, line_items, address);
    let charged = PaymentCharged { order_id, user_id, account_id, amount, items, shipping_address, workflow };
    let answer =
        shipping::Answer::Booked(shipping::Booking { carrier: "c".into(), tracking_number: "t".into() });
    let schedule = move |decision: &mut Decision| shipping::schedule(decision, &(&charged).into(), &answer);
    shop.execute(Context::Shipping, shop.new_command(), schedule).await;
}

async fn a_completed_order_is_shipped_and_refunded(shop: &Shop) {
    let user = Uuid::from_u128(5);
    shop.product("D-1", 450).await;
    let account = shop.account(user, "EUR").await;
    let credit = json!({ "amount": { "amount": 1000, "currency": "EUR" } });
    shop.post(&format!("/accounts/{account}/credits"), &credit).await.expect(202);
    let id = shop.post("/orders", &order(user, account, &[("D-1", 2)])).await.expect(202).id();
    let path = |collection: &str, action: &str| format!("/{collection}/{id}/{action}");
    let (refund, dispatch) = (path("payments", "refunds"), path("shipments", "dispatch"));
    fulfil(shop, id).await;

    let refused = shop.post_nothing(&refund).await;
    refused.problem(409, "order-not-completed");
    assert!(refused.body["detail"].as_str().unwrap().contains("cancel it"), "{refused:?}");
    shop.post_nothing(&dispatch).await.problem(409, "order-not-completed");

    let order = Key::<Order>::new(OrderId::new(id));
    let complete = move |decision: &mut Decision| decision.apply(&order, OrderCommand::Complete);
    shop.execute(Context::Orders, shop.new_command(), complete).await;

    let dispatched = shop.post_nothing(&dispatch).await.expect(202);
    assert_eq!(dispatched.header("location"), Some(&*format!("/shipments/{id}")));
    let delivered = shop.post(&path("shipments", "deliver"), &json!({})).await.expect(202);
    assert_eq!(delivered.position().sequence, dispatched.position().sequence + 1);

    let refunded = shop.post_nothing(&refund).await.expect(202);
    assert_eq!((refunded.id(), refunded.header("location")), (id, Some(&*format!("/payments/{id}"))));
    assert_eq!(balance(shop, account).await, Value::from(1000));
    let again = shop.post_nothing(&refund).await.expect(202);
    assert_eq!(again.position(), refunded.position(), "nothing needed to change");
    let again = shop.post_nothing(&dispatch).await.expect(202);
    assert_eq!(again.position(), delivered.position(), "nothing needed to change");
    assert_eq!(balance(shop, account).await, Value::from(1000), "once");
}

async fn balance(shop: &Shop, account: Uuid) -> Value {
    let key = Key::<payments::Account>::new(account);
    let state = shop.executors[&Context::Payments].state(&key).await.unwrap();
    let Money { amount, .. } = state.unwrap().balance;
    amount.into()
}
