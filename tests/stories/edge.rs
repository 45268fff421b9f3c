//! Through the gateway to the real services, and its table against what they say of themselves.

use crate::READ_MODELS;
use gateway::{Auth, Config, Match, Route};
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use service::auth::Role;
use std::time::Duration;
use uuid::Uuid;
use waybill::system::Service;
use waybill_tests::{Front, World, eventually};

const SOON: Duration = Duration::from_secs(30);

/// What takes an operator.
const OPERATORS: [(&str, &str); 24] = [
    ("get", "/ops/dead-letters"),
    ("get", "/ops/dead-letters/{id}"),
    ("get", "/ops/projections"),
    ("get", "/ops/projections/{service}"),
    ("get", "/ops/sagas"),
    ("get", "/ops/sagas/{orderId}"),
    ("post", "/ops/sagas/{orderId}/{verb}"),
    ("post", "/accounts/{id}/credits"),
    ("post", "/inventory/{sku}/adjustments"),
    ("post", "/inventory/{sku}/receipts"),
    ("post", "/ops/dead-letters/groups/{fingerprint}/discard"),
    ("post", "/ops/dead-letters/groups/{fingerprint}/retry"),
    ("post", "/ops/dead-letters/{id}/discard"),
    ("post", "/ops/dead-letters/{id}/retry"),
    ("post", "/ops/projections/{service}/cancel"),
    ("post", "/ops/projections/{service}/drop"),
    ("post", "/ops/projections/{service}/rebuild"),
    ("post", "/ops/projections/{service}/rollback"),
    ("post", "/payments/{orderId}/refunds"),
    ("post", "/products"),
    ("post", "/shipments/{orderId}/deliver"),
    ("post", "/notifications/{id}/redeliver"),
    ("post", "/shipments/{orderId}/dispatch"),
    ("put", "/products/{sku}/price"),
];

/// What is reached without the prefix, and as often as anybody likes.
const OPEN: [&str; 4] = ["/.well-known/jwks.json", "/asyncapi.json", "/schemas", "/schemas/{type}/{version}"];

async fn ask(request: RequestBuilder) -> (StatusCode, Value) {
    let response = request.send().await.unwrap();
    let status = response.status();
    (status, response.json().await.unwrap_or_default())
}

fn route(config: &Config, method: &str, path: &str) -> std::sync::Arc<Route> {
    let method: Method = method.to_uppercase().parse().unwrap();
    let public = if OPEN.contains(&path) { path.to_owned() } else { format!("/api{path}") };
    match config.routes.find(&method, &public) {
        Match::Route(route) => route,
        other => panic!("no route declares {method} {public}: {other:?}"),
    }
}

#[tokio::test]
async fn every_operation_has_a_route_that_says_who_may_and_how_often() {
    let world = World::start(READ_MODELS).await.unwrap();
    let config = Config::standard();
    let mut operations = 0;
    for service in Service::ALL {
        let document = world.api.get(service, "/openapi.json").await.unwrap().body;
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, said) in item.as_object().unwrap().iter().filter(|(key, _)| *key != "parameters") {
                let route = route(&config, method, path);
                let operation = (method.as_str(), path.as_str());
                assert_eq!(&*route.service, service.name(), "{operation:?}");
                // What the service itself asks for, the gateway asks for too, and nothing else.
                let public = said["security"].as_array().is_none_or(Vec::is_empty);
                assert_eq!(route.auth, if public { Auth::Public } else { Auth::Required }, "{operation:?}");
                let role = match () {
                    () if public => None,
                    () if OPERATORS.contains(&operation) || path.starts_with("/ops/") => Some(Role::Operator),
                    () => Some(Role::Customer),
                };
                assert_eq!(route.role, role, "{operation:?}");
                assert_eq!(route.limit.is_none(), OPEN.contains(&path.as_str()), "{operation:?}");
                operations += 1;
            }
        }
    }
    assert!(operations > 20, "the documents are where they are looked for: {operations}");
}

#[tokio::test]
async fn an_order_through_the_gateway() {
    let world = World::start(READ_MODELS).await.unwrap();
    let front = Front::start(&world).await.unwrap();
    front.knows(&Service::ALL).await.unwrap();
    let url = &front.url;
    let tokens = world.api.tokens().unwrap().clone();
    let (client, operator) = (Client::new(), tokens.operator().await.unwrap());

    let user = world.api.register("edge").await.unwrap();
    let customer = tokens.customer(user).await.unwrap();
    let (account, _) = world.api.open_account("edge", user, 10_000).await.unwrap();
    let product = json!({ "sku": "TEA", "name": "Tea", "price": { "amount": 450, "currency": "EUR" } });
    let add = || client.post(format!("{url}/api/products")).json(&product).header("Idempotency-Key", "tea");
    assert_eq!(ask(add()).await.0, 401);
    assert_eq!(ask(add().bearer_auth(&customer)).await.0, 403);
    let added = add().bearer_auth(&operator).send().await.unwrap();
    assert_eq!(added.status(), 201);
    let position = added.headers()["waybill-position"].to_str().unwrap().to_owned();
    let receipt = client.post(format!("{url}/api/inventory/TEA/receipts")).json(&json!({ "quantity": 5 }));
    assert_eq!(ask(receipt.bearer_auth(&operator)).await.0, 202);

    let order = json!({
        "userId": user, "accountId": account, "items": [{ "sku": "TEA", "quantity": 2 }],
        "shippingAddress": {
            "name": "Ada Lovelace", "line1": "Gartenweg 1", "city": "Berlin", "postalCode": "10115", "country": "DE",
        },
    });
    let place = client.post(format!("{url}/api/orders")).json(&order).bearer_auth(&customer);
    let placed =
        place.header("Waybill-Position", position).header("X-Correlation-Id", "edge-1").send().await.unwrap();
    assert_eq!(placed.headers()["x-correlation-id"], "edge-1");
    assert_eq!(placed.headers()["ratelimit-policy"], "\"default\";q=100;w=900");
    assert_eq!(placed.status(), 202);
    let id: Uuid = placed.json::<Value>().await.unwrap()["id"].as_str().unwrap().parse().unwrap();
    // Asked behind the gateway's back, which answers nobody so often.
    eventually("the order is complete", SOON, async || {
        (world.api.order(id).await.ok()?.body["status"] == "completed").then_some(())
    })
    .await;
    let (status, order) = ask(client.get(format!("{url}/api/orders/{id}")).bearer_auth(&customer)).await;
    assert_eq!((status, &order["status"]), (StatusCode::OK, &json!("completed")));

    // The description of what can be done here leads to no path that is not here.
    let (status, document) = ask(client.get(format!("{url}/openapi.json"))).await;
    assert_eq!(status, 200);
    let place = &document["paths"]["/api/orders"]["post"];
    assert_eq!(place["security"], json!([{ "bearer": [] }]));
    for status in ["202", "401", "403", "429", "502", "503", "504"] {
        assert!(place["responses"][status].is_object(), "{status}");
    }
    assert_eq!(document["paths"]["/api/products"]["get"]["security"], Value::Null);
    assert!(document["paths"]["/.well-known/jwks.json"]["get"].is_object());
    assert!(
        document["paths"]
            .as_object()
            .unwrap()
            .keys()
            .all(|path| path.starts_with("/api/") || OPEN.contains(&path.as_str()))
    );
    assert!(front.stop().await);
}
