//! Whatever is wrong with a request: a 4xx problem that names the field, and nothing written.

use crate::shop::{Answer, Nats, Shop, order, product};
use axum::{
    body::Body,
    http::{Method, Request},
};
use serde_json::{Value, json};
use uuid::Uuid;

/// What is sent, and what is to come of it: status, slug, field.
type Fault = (Value, u16, &'static str, &'static str);

#[tokio::test]
async fn every_fault_is_named_and_nothing_is_written() {
    let nats = Nats::start().await;
    let shop = Shop::open(&nats).await;
    let (user, stranger) = (Uuid::from_u128(1), Uuid::from_u128(2));
    for (sku, amount) in [("TEA", 450), ("CUP", 1200), ("GOLD", i64::MAX / 2)] {
        shop.product(sku, amount).await;
    }
    let yen = json!({ "sku": "YEN", "name": "x", "price": { "amount": 5, "currency": "JPY" } });
    shop.post("/products", &yen).await.expect(201);
    let (account, dollars) = (shop.account(user, "EUR").await, shop.account(user, "USD").await);
    let foreign = shop.account(stranger, "EUR").await;
    shop.post("/inventory/TEA/receipts", &json!({ "quantity": 5 })).await.expect(202);

    let before = shop.ends().await;
    for (path, faults) in [
        ("POST /products", products()),
        ("PUT /products/TEA/price", prices()),
        ("POST /inventory/TEA/receipts", receipts()),
        ("POST /inventory/TEA/adjustments", adjustments()),
        ("POST /accounts", accounts()),
        (&*format!("POST /accounts/{account}/credits"), credits()),
        ("POST /orders", orders(user, account)),
        ("POST /orders", customers(user, stranger, account, dollars, foreign)),
        ("POST /orders", addresses(&order(user, account, &[("TEA", 1)]))),
        (&*format!("POST /orders/{}/cancel", Uuid::nil()), cancellations()),
    ] {
        let (method, path) = path.split_once(' ').unwrap();
        let method: Method = method.parse().unwrap();
        for (body, status, slug, field) in faults {
            let answer = shop.ask(method.clone(), path, &[], &body).await;
            assert_eq!(answer.problem(status, slug).unwrap_or_default(), field, "{path} {body} {answer:?}");
        }
    }
    strangers_in_the_path(&shop).await;
    bad_headers(&shop, &order(user, account, &[("TEA", 1)])).await;
    bad_bodies(&shop).await;
    several_at_once(&shop, user, account).await;
    assert_eq!(shop.ends().await, before, "nothing is written");
    nats.server.stop().await;
}

/// `body` with one more or another field; null takes it away.
fn with(body: &Value, field: &str, value: Value) -> Value {
    let mut body = body.clone();
    let (parents, last) = field.rsplit_once('.').unwrap_or(("", field));
    let pointer = parents.split('.').filter(|part| !part.is_empty()).map(|part| format!("/{part}"));
    let object = body.pointer_mut(&pointer.collect::<String>()).unwrap().as_object_mut().unwrap();
    if value.is_null() {
        object.remove(last)
    } else {
        object.insert(last.to_owned(), value)
    };
    body
}

/// The amounts that no price and no credit can have.
fn amounts(body: &Value, parent: &str, not_positive: &'static str, field: &'static str) -> Vec<Fault> {
    let amount = |value: Value| with(body, &format!("{parent}.amount"), value);
    vec![
        (amount(json!(0)), 422, not_positive, field),
        (amount(json!(-5)), 422, not_positive, field),
        (amount(json!(4.5)), 422, "invalid-body", field),
        (amount(json!(u64::MAX)), 422, "invalid-body", field),
        (amount(json!("450")), 422, "invalid-body", field),
    ]
}

fn products() -> Vec<Fault> {
    let new = product("NEW", 450);
    let mut faults = amounts(&new, "price", "price-not-positive", "price.amount");
    faults.extend([
        (with(&new, "price.amount", Value::Null), 422, "invalid-body", "price.amount"),
        (with(&new, "sku", json!("a.b")), 422, "invalid-body", "sku"),
        (with(&new, "sku", json!("x".repeat(65))), 422, "invalid-body", "sku"),
        (with(&new, "name", json!(" ")), 422, "name-invalid", "name"),
        (with(&new, "name", json!("x".repeat(201))), 422, "name-invalid", "name"),
        (with(&new, "price.currency", json!("XYZ")), 422, "invalid-body", "price.currency"),
        (with(&new, "price.cents", json!(1)), 422, "invalid-body", "price.cents"),
        (with(&new, "color", json!("green")), 422, "invalid-body", "color"),
        (product("TEA", 450), 409, "product-exists", ""),
    ]);
    faults
}

fn prices() -> Vec<Fault> {
    let price = json!({ "price": { "amount": 500, "currency": "EUR" } });
    let mut faults = amounts(&price, "price", "price-not-positive", "price.amount");
    faults.push((with(&price, "price.currency", json!("USD")), 422, "currency-mismatch", "price.currency"));
    faults.push((with(&price, "sku", json!("TEA")), 422, "invalid-body", "sku"));
    faults
}

fn receipts() -> Vec<Fault> {
    vec![
        (json!({ "quantity": 0 }), 422, "quantity-out-of-range", "quantity"),
        (json!({ "quantity": -1 }), 422, "invalid-body", "quantity"),
        (json!({ "quantity": 1.5 }), 422, "invalid-body", "quantity"),
        (json!({ "quantity": 1_u64 << 32 }), 422, "invalid-body", "quantity"),
        (json!({}), 422, "invalid-body", "quantity"),
        (json!({ "quantity": 1, "x": 1 }), 422, "invalid-body", "x"),
    ]
}

fn adjustments() -> Vec<Fault> {
    let adjustment = |delta: Value| json!({ "delta": delta, "reason": "count" });
    vec![
        (adjustment(json!(0)), 422, "delta-zero", "delta"),
        (adjustment(json!(0.5)), 422, "invalid-body", "delta"),
        (adjustment(json!(i64::MAX)), 422, "stock-too-large", "delta"),
        (adjustment(json!(u64::MAX)), 422, "invalid-body", "delta"),
        (adjustment(json!(-6)), 409, "stock-reserved", ""),
        (json!({ "delta": 1, "reason": "" }), 422, "reason-invalid", "reason"),
        (json!({ "delta": 1 }), 422, "invalid-body", "reason"),
    ]
}

fn accounts() -> Vec<Fault> {
    let account = json!({ "userId": Uuid::nil(), "currency": "EUR" });
    vec![
        (with(&account, "userId", json!("nobody")), 422, "invalid-body", "userId"),
        (with(&account, "currency", json!("eur")), 422, "invalid-body", "currency"),
        (with(&account, "balance", json!(5)), 422, "invalid-body", "balance"),
    ]
}

fn credits() -> Vec<Fault> {
    let credit = json!({ "amount": { "amount": 100, "currency": "EUR" } });
    let mut faults = amounts(&credit, "amount", "amount-not-positive", "amount.amount");
    faults.push((with(&credit, "amount.amount", Value::Null), 422, "invalid-body", "amount.amount"));
    let too_much = with(&credit, "amount.amount", json!(i64::MAX));
    faults.push((too_much, 422, "balance-too-large", "amount.amount"));
    faults.push((
        with(&credit, "amount.currency", json!("USD")),
        422,
        "currency-mismatch",
        "amount.currency",
    ));
    faults
}

fn orders(user: Uuid, account: Uuid) -> Vec<Fault> {
    let of = |items: &[(&str, u32)]| order(user, account, items);
    let first = |item: Value| with(&of(&[]), "items", json!([item]));
    let many: Vec<_> = (0..10_000).map(|n| json!({ "sku": format!("S{n}"), "quantity": 1 })).collect();
    vec![
        (of(&[]), 422, "order-empty", "items"),
        (with(&of(&[]), "items", json!(many)), 422, "too-many-lines", "items"),
        (of(&[("TEA", 1), ("CUP", 1), ("TEA", 2)]), 422, "duplicate-sku", "items[2].sku"),
        (of(&[("TEA", 1), ("NONE", 1)]), 422, "unknown-product", "items[1].sku"),
        (of(&[("TEA", 1), ("CUP", 0)]), 422, "quantity-out-of-range", "items[1].quantity"),
        (of(&[("TEA", 1_000_001)]), 422, "quantity-out-of-range", "items[0].quantity"),
        (first(json!({ "sku": "TEA", "quantity": -1 })), 422, "invalid-body", "items[0].quantity"),
        (first(json!({ "sku": "TEA", "quantity": 0.5 })), 422, "invalid-body", "items[0].quantity"),
        (first(json!({ "sku": "TEA", "quantity": 1_u64 << 32 })), 422, "invalid-body", "items[0].quantity"),
        (first(json!({ "sku": "T E A", "quantity": 1 })), 422, "invalid-body", "items[0].sku"),
        (first(json!({ "sku": "TEA", "quantity": 1, "price": 1 })), 422, "invalid-body", "items[0].price"),
        (of(&[("TEA", 1), ("YEN", 1)]), 422, "currency-mismatch", "items[1].sku"),
        (of(&[("GOLD", 3)]), 422, "total-too-large", "items[0].quantity"),
        (with(&of(&[("TEA", 1)]), "coupon", json!("X")), 422, "invalid-body", "coupon"),
        (with(&of(&[("TEA", 1)]), "items", Value::Null), 422, "invalid-body", "items"),
    ]
}

fn customers(user: Uuid, stranger: Uuid, account: Uuid, dollars: Uuid, foreign: Uuid) -> Vec<Fault> {
    let of = |user, account| order(user, account, &[("TEA", 1)]);
    vec![
        (of(user, Uuid::nil()), 422, "unknown-account", "accountId"),
        (of(user, foreign), 422, "unknown-account", "accountId"),
        (of(stranger, account), 422, "unknown-account", "accountId"),
        (of(user, dollars), 422, "currency-mismatch", "accountId"),
        (with(&of(user, account), "userId", json!("7")), 422, "invalid-body", "userId"),
        (with(&of(user, account), "accountId", json!(7)), 422, "invalid-body", "accountId"),
    ]
}

fn addresses(order: &Value) -> Vec<Fault> {
    let of = |field: &str, value| with(order, &format!("shippingAddress.{field}"), value);
    vec![
        (of("name", json!("")), 422, "address-invalid", "shippingAddress.name"),
        (of("line1", json!(" ")), 422, "address-invalid", "shippingAddress.line1"),
        (of("line2", json!("x".repeat(201))), 422, "address-invalid", "shippingAddress.line2"),
        (of("city", json!("")), 422, "address-invalid", "shippingAddress.city"),
        (of("postalCode", json!("")), 422, "address-invalid", "shippingAddress.postalCode"),
        (of("country", json!("gb")), 422, "country-invalid", "shippingAddress.country"),
        (of("postalCode", Value::Null), 422, "invalid-body", "shippingAddress.postalCode"),
        (of("planet", json!("Mars")), 422, "invalid-body", "shippingAddress.planet"),
        (with(order, "shippingAddress", Value::Null), 422, "invalid-body", "shippingAddress"),
    ]
}

fn cancellations() -> Vec<Fault> {
    vec![
        (json!({ "reason": 7 }), 422, "invalid-body", "reason"),
        (json!({ "because": "x" }), 422, "invalid-body", "because"),
        (json!({}), 404, "order-not-found", ""),
    ]
}

/// What is not there, and ids that are none.
async fn strangers_in_the_path(shop: &Shop) {
    let nobody = Uuid::nil();
    let price = json!({ "price": { "amount": 500, "currency": "EUR" } });
    let credit = json!({ "amount": { "amount": 100, "currency": "EUR" } });
    for (method, path, body, status, slug, field) in [
        ("PUT", "/products/NONE/price", &price, 404, "product-not-found", None),
        ("PUT", "/products/a.b/price", &price, 400, "invalid-path", Some("sku")),
        ("POST", "/inventory/NONE/receipts", &json!({ "quantity": 1 }), 404, "product-not-found", None),
        ("POST", &format!("/accounts/{nobody}/credits"), &credit, 404, "account-not-found", None),
        ("POST", "/accounts/7/credits", &credit, 400, "invalid-path", Some("id")),
        ("POST", "/orders/7/cancel", &json!({}), 400, "invalid-path", Some("id")),
        ("POST", &format!("/shipments/{nobody}/dispatch"), &json!({}), 404, "shipment-not-found", None),
        ("POST", &format!("/shipments/{nobody}/deliver"), &json!({}), 404, "shipment-not-found", None),
        ("POST", "/shipments/7/dispatch", &json!({}), 400, "invalid-path", Some("orderId")),
        (
            "POST",
            &format!("/notifications/{nobody}_email/redeliver"),
            &json!({}),
            404,
            "notification-not-found",
            None,
        ),
        ("POST", "/notifications/7/redeliver", &json!({}), 400, "invalid-path", Some("id")),
        ("POST", &format!("/payments/{nobody}/refunds"), &json!({}), 409, "payment-not-charged", None),
        ("POST", "/payments/7/refunds", &json!({}), 400, "invalid-path", Some("orderId")),
        (
            "POST",
            &format!("/payments/{nobody}/refunds"),
            &json!({ "amount": 5 }),
            422,
            "invalid-body",
            Some("amount"),
        ),
    ] {
        let answer = shop.ask(method.parse().unwrap(), path, &[], body).await;
        assert_eq!(answer.problem(status, slug), field, "{path}");
    }
}

async fn bad_headers(shop: &Shop, order: &Value) {
    let long = "k".repeat(256);
    for (name, value, slug) in [
        ("Idempotency-Key", "", "invalid-idempotency-key"),
        ("Idempotency-Key", "two words", "invalid-idempotency-key"),
        ("Idempotency-Key", &*long, "invalid-idempotency-key"),
        ("Waybill-Position", "42", "invalid-position"),
        ("Waybill-Position", "ORDERS:x", "invalid-position"),
        ("Waybill-Position", "ORDERS:1, NOWHERE:2", "invalid-position"),
    ] {
        let answer = shop.ask(Method::POST, "/orders", &[(name, value)], order).await;
        assert_eq!(answer.problem(400, slug), Some(name), "{value}");
    }
    let twice = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")];
    let answer = shop.ask(Method::POST, "/orders", &twice, order).await;
    assert_eq!(answer.problem(400, "invalid-idempotency-key"), Some("Idempotency-Key"));
}

async fn bad_bodies(shop: &Shop) {
    let send = async |kind: &str, body: Vec<u8>| -> Answer {
        shop.send(Request::post("/orders").header("content-type", kind).body(Body::from(body)).unwrap()).await
    };
    send("application/json", b"{".to_vec()).await.problem(400, "malformed-json");
    send("application/json", b"{\"items\":\"\xff\"}".to_vec()).await.problem(400, "not-utf-8");
    send("application/json", vec![b' '; 2 * 1024 * 1024]).await.problem(413, "body-too-large");
    send("text/plain", b"{}".to_vec()).await.problem(415, "unsupported-media-type");
}

async fn several_at_once(shop: &Shop, user: Uuid, account: Uuid) {
    let items = [("NONE", 1), ("TEA", 1), ("NEITHER", 1)];
    let answer = shop.post("/orders", &order(user, account, &items)).await;
    assert_eq!(answer.problem(422, "unknown-product"), Some("items[0].sku"));
    let fields: Vec<_> =
        answer.body["errors"].as_array().unwrap().iter().map(|error| &error["field"]).collect();
    assert_eq!(fields, ["items[0].sku", "items[2].sku"]);
}
