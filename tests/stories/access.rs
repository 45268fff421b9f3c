//! Who may do what: nobody without a token, customers what is theirs, operators the rest.

use crate::READ_MODELS;
use reqwest::Method;
use serde_json::{Value, json};
use std::{collections::BTreeSet, time::Duration};
use uuid::Uuid;
use waybill::{
    api::{Answer, Api, Cart},
    system::Service,
};
use waybill_tests::World;

/// What everybody may ask for. Who logs out proves it by a token of either kind.
const PUBLIC: &[&str] = &[
    "DELETE /sessions",
    "GET /.well-known/jwks.json",
    "GET /asyncapi.json",
    "GET /products",
    "GET /products/stream",
    "GET /products/{sku}",
    "GET /products/{sku}/stream",
    "GET /schemas",
    "GET /schemas/{type}/{version}",
    "POST /sessions",
    "POST /sessions/refresh",
    "POST /users",
];

/// Far shorter than a query may wait.
const SOON: Duration = Duration::from_secs(15);

/// What only operators may do.
const OPERATORS_ONLY: &[(Service, &str, &str)] = &[
    (Service::Inventory, "POST", "/products"),
    (Service::Inventory, "PUT", "/products/TEA/price"),
    (Service::Inventory, "POST", "/inventory/TEA/receipts"),
    (Service::Inventory, "POST", "/inventory/TEA/adjustments"),
    (Service::Payments, "POST", "/accounts/{id}/credits"),
    (Service::Payments, "POST", "/payments/{id}/refunds"),
    (Service::Shipping, "POST", "/shipments/{id}/dispatch"),
    (Service::Shipping, "POST", "/shipments/{id}/deliver"),
    (Service::Notifications, "POST", "/notifications/00000000-0000-0000-0000-000000000007_email/redeliver"),
    (Service::Operations, "GET", "/ops/dead-letters"),
    (Service::Operations, "GET", "/ops/dead-letters/{id}"),
    (Service::Operations, "POST", "/ops/dead-letters/{id}/retry"),
    (Service::Operations, "POST", "/ops/dead-letters/{id}/discard"),
    (Service::Operations, "POST", "/ops/dead-letters/groups/{id}/retry"),
    (Service::Operations, "POST", "/ops/dead-letters/groups/{id}/discard"),
    (Service::Operations, "GET", "/ops/projections"),
    (Service::Operations, "GET", "/ops/projections/orders"),
    (Service::Operations, "POST", "/ops/projections/orders/rebuild"),
    (Service::Operations, "POST", "/ops/projections/orders/cancel"),
    (Service::Operations, "POST", "/ops/projections/orders/rollback"),
    (Service::Operations, "POST", "/ops/projections/orders/drop"),
    (Service::Fulfilment, "GET", "/ops/sagas"),
    (Service::Fulfilment, "GET", "/ops/sagas/{id}"),
    (Service::Fulfilment, "POST", "/ops/sagas/{id}/compensate"),
];

/// The operations of a service: method, path, and what the documentation says of them.
async fn operations(api: &Api, service: Service) -> Vec<(Method, String, Value)> {
    let document = api.send(api.http().get(api.url(service, "/openapi.json"))).await.unwrap().body;
    let scheme = &document["components"]["securitySchemes"]["bearer"];
    assert_eq!((&scheme["type"], &scheme["scheme"]), (&"http".into(), &"bearer".into()), "{service}");
    let mut operations = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let method = method.to_uppercase().parse().unwrap();
            operations.push((method, path.clone(), operation.clone()));
        }
    }
    operations
}

/// A path with something in the place of its parameters.
fn filled(path: &str) -> String {
    let id = Uuid::from_u128(7).to_string();
    let segment = |segment: &str| match segment {
        "{sku}" => "TEA".to_owned(),
        "{topic}" => "orders".to_owned(),
        "{verb}" => "retry".to_owned(),
        parameter if parameter.starts_with('{') => id.clone(),
        literal => literal.to_owned(),
    };
    path.split('/').map(segment).collect::<Vec<_>>().join("/")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_endpoint_wants_a_token_unless_it_is_public_and_says_so() {
    let mut world = World::start(READ_MODELS).await.unwrap();
    let api = &world.api;
    let mut public = BTreeSet::new();
    for service in Service::ALL {
        for (method, path, operation) in operations(api, service).await {
            let name = format!("{method} {path}");
            if operation["security"].as_array().is_none_or(Vec::is_empty) {
                public.insert(name);
                continue;
            }
            for status in ["401", "403", "503"] {
                assert!(operation["responses"][status].is_object(), "{name} does not document {status}");
            }
            // A query must not wait for somebody whom nobody knows: this position never comes.
            let far = format!("{}?after={}:4000000000&wait=30", filled(&path), service.context().stream());
            let path = if method == Method::GET { far } else { filled(&path) };
            for token in [None, Some("forged.by.hand")] {
                let request = api.http().request(method.clone(), api.url(service, &path)).timeout(SOON);
                let request = token.into_iter().fold(request, reqwest::RequestBuilder::bearer_auth);
                let answer = api.send(request).await.unwrap();
                assert_eq!(
                    (answer.status, &answer.body["type"]),
                    (401, &"/problems/unauthenticated".into()),
                    "{name}"
                );
                assert!(answer.headers["www-authenticate"].to_str().unwrap().starts_with("Bearer"), "{name}");
            }
        }
    }
    assert_eq!(public.iter().map(String::as_str).collect::<Vec<_>>(), PUBLIC);
    for service in Service::ALL {
        for path in ["/health", "/ready", "/metrics", "/openapi.json", "/asyncapi.json", "/schemas"] {
            let answer = api.send(api.http().get(api.url(service, path))).await.unwrap();
            assert_eq!(answer.status, 200, "{service} {path}");
        }
    }
    assert!(world.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn operator_verbs_need_the_role() {
    let mut world = World::start(READ_MODELS).await.unwrap();
    let (api, user) = (&world.api, world.config.clock.uuid());
    for (service, method, path) in OPERATORS_ONLY {
        let request = api.http().request(method.parse().unwrap(), api.url(*service, &filled(path)));
        let bodies = [
            (
                "/products",
                json!({ "sku": "TEA", "name": "Tea", "price": { "amount": 1, "currency": "EUR" } }),
            ),
            ("/price", json!({ "price": { "amount": 1, "currency": "EUR" } })),
            ("/receipts", json!({ "quantity": 1 })),
            ("/adjustments", json!({ "delta": 1, "reason": "count" })),
            ("/discard", json!({ "reason": "a test" })),
            ("/compensate", json!({ "reason": "why not" })),
            ("/credits", json!({ "amount": { "amount": 1, "currency": "EUR" } })),
        ];
        let body = bodies.into_iter().find(|(end, _)| path.ends_with(end));
        let request = request.json(&body.map_or_else(|| json!({}), |(_, body)| body));
        let answer = api.send_as(user, request).await.unwrap();
        assert_eq!(
            (answer.status, &answer.body["type"]),
            (403, &"/problems/forbidden".into()),
            "{method} {path}"
        );
        assert!(answer.headers["www-authenticate"].to_str().unwrap().contains("insufficient_scope"));
    }
    let account = json!({ "userId": world.config.clock.uuid(), "currency": "EUR" });
    let of_another = api.http().post(api.url(Service::Payments, "/accounts")).json(&account);
    assert_eq!(api.send_as(user, of_another).await.unwrap().status, 403);
    let account = json!({ "userId": user, "currency": "EUR" });
    let own = api.http().post(api.url(Service::Payments, "/accounts")).json(&account);
    assert_eq!(api.send_as(user, own).await.unwrap().status, 201);
    assert!(world.stop().await);
}

/// Two customers with an account each, and a product.
struct Shop {
    world: World,
    ada: Cart,
    bob: Cart,
    position: String,
}

async fn open() -> Shop {
    let world = World::start(READ_MODELS).await.unwrap();
    let stocked = world.api.stock_product("p", ("TEA", "Tea", 450), 100).await.unwrap();
    let mut carts = Vec::new();
    for name in ["ada", "bob"] {
        let user_id = world.api.register(name).await.unwrap();
        let (account_id, _) = world.api.open_account(name, user_id, 10_000).await.unwrap();
        let items = vec![("TEA".to_owned(), 1)];
        carts.push(Cart { user_id, account_id, items, country: "DE".to_owned() });
    }
    let (bob, ada) = (carts.pop().unwrap(), carts.pop().unwrap());
    Shop { world, ada, bob, position: stocked.position().unwrap().to_owned() }
}

impl Shop {
    async fn get(&self, who: &Cart, service: Service, path: &str) -> Answer {
        let api = &self.world.api;
        api.send_as(who.user_id, api.http().get(api.url(service, path))).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_customer_sees_and_orders_for_himself_only() {
    let mut shop = open().await;
    let (ada, bob) = (shop.ada.clone(), shop.bob.clone());
    let placed = shop.world.api.place("o", &ada, &[&shop.position]).await.unwrap();
    let order = placed.expect(202, "an order").unwrap().id().unwrap();
    shop.world.settled().await.unwrap();

    let account = ada.account_id;
    for (service, path) in [
        (Service::Orders, format!("/orders/{order}")),
        (Service::Orders, format!("/orders/{order}/history")),
        (Service::Payments, format!("/payments/{order}")),
        (Service::Payments, format!("/accounts/{account}")),
        (Service::Payments, format!("/accounts/{account}/entries")),
        (Service::Shipping, format!("/shipments/{order}")),
    ] {
        assert_eq!(shop.get(&ada, service, &path).await.status, 200, "{path}");
        assert_eq!(shop.world.api.get(service, &path).await.unwrap().status, 200, "{path}, an operator");
        let hidden = shop.get(&bob, service, &path).await;
        let nothing = path.replace(&order.to_string(), &Uuid::nil().to_string());
        let nothing = nothing.replace(&account.to_string(), &Uuid::nil().to_string());
        let missing = shop.get(&bob, service, &nothing).await;
        assert_eq!((hidden.status, missing.status), (404, 404), "{path}");
        assert_eq!(hidden.body["type"], missing.body["type"], "nobody can tell that it exists");
    }
    let count = |answer: Answer| answer.body["items"].as_array().map(Vec::len);
    assert_eq!(count(shop.get(&ada, Service::Orders, "/orders").await), Some(1));
    assert_eq!(count(shop.get(&bob, Service::Orders, "/orders").await), Some(0));
    let of_ada = format!("/orders?userId={}", ada.user_id);
    assert_eq!(count(shop.get(&ada, Service::Orders, &of_ada).await), Some(1));
    assert_eq!(shop.get(&bob, Service::Orders, &of_ada).await.status, 403);
    assert_eq!(count(shop.world.api.get(Service::Orders, &of_ada).await.unwrap()), Some(1));

    shop.world.told(&["email"]).await;
    let before = shop.world.lengths().await.unwrap();
    let api = &shop.world.api;
    let orders = api.url(Service::Orders, "/orders");
    let for_ada = api.send_as(bob.user_id, api.http().post(&orders).json(&ada.body())).await.unwrap();
    assert_eq!(for_ada.status, 403, "{for_ada:?}");
    let with_her_money = Cart { account_id: ada.account_id, ..bob.clone() };
    assert_eq!(api.place("stolen", &with_her_money, &[]).await.unwrap().status, 422);
    let cancel = api.http().post(format!("{orders}/{order}/cancel"));
    let cancelled = api.send_as(bob.user_id, cancel).await.unwrap();
    assert_eq!((cancelled.status, &cancelled.body["type"]), (404, &"/problems/order-not-found".into()));
    assert_eq!(shop.world.lengths().await.unwrap(), before, "nothing was written");
    assert!(shop.world.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_of_whoever_sends_it_and_events_name_him_by_id() {
    let mut shop = open().await;
    let (api, after) = (&shop.world.api, [&*shop.position]);
    let ids = |answer: Answer| answer.expect(202, "an order").unwrap().id().unwrap();
    let first = ids(api.place("same", &shop.ada, &after).await.unwrap());
    let second = ids(api.place("same", &shop.bob, &after).await.unwrap());
    assert_ne!(first, second);
    assert_eq!(ids(api.place("same", &shop.ada, &after).await.unwrap()), first);
    api.cancel("c", second).await.unwrap();
    shop.world.settled().await.unwrap();

    let actors = async |order| {
        let history = api.get(Service::Orders, &format!("/orders/{order}/history")).await.unwrap().body;
        let events = history["events"].as_array().unwrap().clone();
        events.iter().map(|event| event["actor"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(actors(first).await[0], format!("user:{}", shop.ada.user_id));
    let actors = actors(second).await;
    assert_eq!(actors[0], format!("user:{}", shop.bob.user_id));
    assert!(actors.iter().all(|actor| !actor.contains("client")), "{actors:?}");
    assert!(shop.world.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_can_be_read_from_where_they_are_published() {
    let mut world = World::start(READ_MODELS).await.unwrap();
    let published = world.api.url(Service::Users, "/.well-known/jwks.json");
    let nowhere = "http://127.0.0.1:1/jwks.json".to_owned();
    for (views, url, status) in [("views-2", published, 404), ("views-3", nowhere, 503)] {
        world.config.jwks_url = Some(url);
        let (other, api) = world.another(views, &[Service::Inventory]).await.unwrap();
        let answer = api.get(Service::Inventory, "/inventory/NOTHING").await.unwrap();
        assert_eq!(answer.status, status, "{answer:?}");
        if status == 503 {
            assert_eq!(answer.body["type"], "/problems/keys-unavailable");
            assert!(answer.headers.contains_key("retry-after"));
        }
        assert!(other.stop().await);
    }
    assert!(world.stop().await);
}
