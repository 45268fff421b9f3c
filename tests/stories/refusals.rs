//! What cannot be accepted is refused with a reason that names the field, and leaves nothing behind.

use crate::READ_MODELS;
use reqwest::{RequestBuilder, header::CONTENT_TYPE};
use serde_json::{Value, json};
use waybill::{
    api::{Api, Cart},
    system::Service,
};
use waybill_tests::World;

const ID: &str = "0199d3a8-0000-7000-8000-00000000dead";
const TOO_MANY: i64 = i64::MAX;

/// A JSON request: what is wrong with it, where it goes, what it says.
type Bad = (&'static str, Service, String, Value);

fn bad_orders(cart: &Value) -> Vec<Bad> {
    let with = |what, field: &str, value: Value| {
        let mut body = cart.clone();
        // A pointer such as /items/0/sku; the last part may be new.
        let (parent, name) = field.rsplit_once('/').unwrap();
        match body.pointer_mut(parent).unwrap() {
            Value::Array(items) => items[name.parse::<usize>().unwrap()] = value,
            parent => parent[name] = value,
        }
        (what, Service::Orders, "/orders".to_owned(), body)
    };
    let line = |quantity: Value| json!({ "sku": "TEA", "quantity": quantity });
    let lines: Vec<_> = (0..10_000).map(|n| json!({ "sku": format!("SKU-{n}"), "quantity": 1 })).collect();
    vec![
        with("an unknown SKU", "/items/0/sku", json!("NOPE")),
        with("a SKU with a dot", "/items/0/sku", json!("a.b")),
        with("an unknown account", "/accountId", json!(ID)),
        with("an unknown user", "/userId", json!(ID)),
        with("an account that is no UUID", "/accountId", json!("mine")),
        with("no items", "/items", json!([])),
        with("10 000 items", "/items", json!(lines)),
        with("the same SKU twice", "/items", json!([line(json!(1)), line(json!(2))])),
        with("quantity zero", "/items/0", line(json!(0))),
        with("a negative quantity", "/items/0", line(json!(-1))),
        with("half of one", "/items/0", line(json!(0.5))),
        with("more than there are numbers", "/items/0", line(json!(TOO_MANY))),
        with("an unknown field", "/price", json!(1)),
        with("a country that is none", "/shippingAddress/country", json!("Utopia")),
        with("no name", "/shippingAddress/name", json!("")),
    ]
}

fn bad_goods(account: &str) -> Vec<Bad> {
    let product = |what, price: Value| {
        let body = json!({ "sku": "NEW", "name": "New", "price": price });
        (what, Service::Inventory, "/products".to_owned(), body)
    };
    let receipt = |what, quantity: Value| {
        let body = json!({ "quantity": quantity });
        (what, Service::Inventory, "/inventory/TEA/receipts".to_owned(), body)
    };
    let credit = |what, amount: Value| {
        let body = json!({ "amount": amount });
        (what, Service::Payments, format!("/accounts/{account}/credits"), body)
    };
    let eur = |amount: Value| json!({ "amount": amount, "currency": "EUR" });
    vec![
        product("a price of zero", eur(json!(0))),
        product("a negative price", eur(json!(-1))),
        product("a price of cents and a half", eur(json!(1.5))),
        product("a currency that is none", json!({ "amount": 1, "currency": "XYZ" })),
        receipt("nothing received", json!(0)),
        receipt("less than nothing received", json!(-5)),
        receipt("a quantity in words", json!("five")),
        credit("a credit of zero", eur(json!(0))),
        credit("a negative credit", eur(json!(-100))),
        credit("a credit that overflows", eur(json!(i64::MAX))),
        credit("another currency than the account's", json!({ "amount": 1, "currency": "USD" })),
    ]
}

/// Requests that are no JSON, or not the JSON they say they are.
fn malformed(api: &Api, cart: &Value) -> Vec<(&'static str, RequestBuilder)> {
    let send = |kind: &'static str, body: Vec<u8>| {
        let request = api.http().post(api.url(Service::Orders, "/orders"));
        request.header(CONTENT_TYPE, kind).body(body)
    };
    let post = |body| send("application/json", body);
    let text = cart.to_string();
    let get = |path: &str| api.http().get(api.url(Service::Orders, path));
    vec![
        ("half of a document", post(text.as_bytes()[..text.len() / 2].to_vec())),
        ("nothing", post(Vec::new())),
        ("bytes that are no UTF-8", post(vec![b'{', b'"', 0xff, 0xfe, b'"', b':', b'1', b'}'])),
        ("two mebibytes", post(vec![b' '; 2 << 20])),
        ("JSON that says it is text", send("text/plain", text.clone().into_bytes())),
        ("an id that is no UUID", get("/orders/42")),
        ("a cursor from nowhere", get("/orders?cursor=zz")),
        ("a limit of a million", get("/orders?limit=1000000")),
        ("a position of no stream", get("/orders?after=NOPE:1")),
        ("no such route", get("/nowhere")),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_refused_by_name_and_leaves_nothing() {
    let mut world = World::start(READ_MODELS).await.unwrap();
    let api = &world.api;
    api.stock_product("p", ("TEA", "Tea", 450), 10).await.unwrap();
    let user_id = world.api.register("u").await.unwrap();
    let (account_id, opened) = api.open_account("a", user_id, 1000).await.unwrap();
    let cart = Cart { user_id, account_id, items: vec![("TEA".to_owned(), 1)], country: "DE".to_owned() };
    // So that the orders service knows the product and the account.
    let after = [opened.position().unwrap()];
    let good = api.place("good", &cart, &after).await.unwrap().expect(202, "a good order").unwrap();
    world.settled().await.unwrap();
    world.told(&["email"]).await;
    let before = world.lengths().await.unwrap();

    let mut requests: Vec<_> = malformed(api, &cart.body());
    for (what, service, path, body) in
        bad_orders(&cart.body()).into_iter().chain(bad_goods(&account_id.to_string()))
    {
        requests.push((what, api.http().post(api.url(service, &path)).json(&body)));
    }
    let mut wrong = Vec::new();
    for (what, request) in requests {
        let answer = api.send_as_operator(request).await.unwrap();
        let problem = answer.headers.get(CONTENT_TYPE).is_some_and(|kind| kind == "application/problem+json");
        let named = answer.body["field"].is_string() || !matches!(answer.status, 422);
        if !(400..500).contains(&answer.status) || !problem || !named {
            wrong.push(format!("{what}: {} {}", answer.status, answer.body));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(world.lengths().await.unwrap(), before, "nothing was written");
    assert_eq!(api.order(good.id().unwrap()).await.unwrap().body["status"], "completed");
    assert!(world.stop().await);
}
