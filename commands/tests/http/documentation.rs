//! The documentation names every command, and nothing in it points nowhere.

use crate::shop::{Nats, Shop};
use serde_json::Value;

#[tokio::test]
async fn every_command_is_documented() {
    let nats = Nats::start().await;
    let shop = Shop::open(&nats).await;
    let document = serde_json::to_value(&shop.documentation).unwrap();
    let mut commands: Vec<_> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, methods)| methods.as_object().unwrap().keys().map(move |m| format!("{m} {path}")))
        .collect();
    commands.sort();
    assert_eq!(
        commands,
        [
            "delete /sessions",
            "delete /users/{id}",
            "delete /users/{id}/subscriptions/{topic}",
            "get /.well-known/jwks.json",
            "get /ops/dead-letters",
            "get /ops/dead-letters/{id}",
            "get /ops/projections",
            "get /ops/projections/{service}",
            "patch /users/{id}",
            "post /accounts",
            "post /accounts/{id}/credits",
            "post /inventory/{sku}/adjustments",
            "post /inventory/{sku}/receipts",
            "post /notifications/{id}/redeliver",
            "post /ops/dead-letters/groups/{fingerprint}/discard",
            "post /ops/dead-letters/groups/{fingerprint}/retry",
            "post /ops/dead-letters/{id}/discard",
            "post /ops/dead-letters/{id}/retry",
            "post /ops/projections/{service}/cancel",
            "post /ops/projections/{service}/drop",
            "post /ops/projections/{service}/rebuild",
            "post /ops/projections/{service}/rollback",
            "post /ops/sagas/{orderId}/{verb}",
            "post /orders",
            "post /orders/{id}/cancel",
            "post /payments/{orderId}/refunds",
            "post /products",
            "post /sessions",
            "post /sessions/refresh",
            "post /shipments/{orderId}/deliver",
            "post /shipments/{orderId}/dispatch",
            "post /users",
            "put /products/{sku}/price",
            "put /users/{id}/password",
            "put /users/{id}/preferences",
            "put /users/{id}/roles",
            "put /users/{id}/subscriptions/{topic}",
        ]
    );
    check(&document, &document);
    let place = &document["paths"]["/orders"]["post"];
    let headers: Vec<_> =
        place["parameters"].as_array().unwrap().iter().map(|p| (&p["name"], &p["in"])).collect();
    let header = Value::from("header");
    assert_eq!(headers, [(&"Idempotency-Key".into(), &header), (&"Waybill-Position".into(), &header)]);
    for status in ["202", "400", "409", "413", "415", "422", "503"] {
        assert!(place["responses"][status].is_object(), "{status}");
    }
    for (path, status) in [("/orders", "202"), ("/accounts", "201"), ("/orders/{id}/cancel", "202")] {
        let answer = &document["paths"][path]["post"]["responses"][status];
        for header in ["Location", "Waybill-Position"] {
            assert!(answer["headers"][header].is_object(), "{path} {answer}");
        }
        assert!(answer["content"]["application/json"]["schema"].is_object(), "{path} {answer}");
    }
    nats.server.stop().await;
}

/// Every reference leads somewhere.
fn check(document: &Value, part: &Value) {
    match part {
        Value::Object(fields) => {
            if let Some(Value::String(target)) = fields.get("$ref") {
                let found = document.pointer(target.trim_start_matches('#'));
                assert!(found.is_some(), "{target}");
            }
            fields.values().for_each(|value| check(document, value));
        }
        Value::Array(items) => items.iter().for_each(|item| check(document, item)),
        _ => {}
    }
}
