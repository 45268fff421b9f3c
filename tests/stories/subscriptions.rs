//! Clients that follow what they see, through the gateway: every step of an order once and in order, and nothing of what is
//! somebody else's.

use crate::READ_MODELS;
use commands::{
    shipping::Behaviour,
    users::tokens::{Issuer, Keys},
};
use futures::{SinkExt, StreamExt};
use reqwest::Response;
use serde_json::{Value, json};
use service::{Clock, auth::Role};
use std::{collections::BTreeSet, time::Duration};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Error, Message, client::IntoClientRequest},
};
use uuid::Uuid;
use waybill::{api::Cart, system::Service};
use waybill_tests::{Front, World, eventually};

const SOON: Duration = Duration::from_secs(30);

/// Server-sent events as they come.
struct Events {
    answer: Response,
    text: String,
    last: String,
}

impl Events {
    async fn open(front: &Front, path: &str, token: &str, last: Option<&str>) -> Self {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let mut request = client.get(format!("{}/api{path}", front.url)).bearer_auth(token);
        if let Some(last) = last {
            request = request.header("Last-Event-ID", last);
        }
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        Self { answer, text: String::new(), last: String::new() }
    }

    /// The next event with data; None at the end.
    async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some(end) = self.text.find("\n\n") {
                let block: String = self.text.drain(..end + 2).collect();
                let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name));
                if let Some(id) = field("id: ") {
                    id.clone_into(&mut self.last);
                }
                if let Some(data) = field("data: ") {
                    let name = field("event: ").unwrap_or_default().to_owned();
                    return Some((name, serde_json::from_str(data).unwrap()));
                }
                continue;
            }
            let chunk = tokio::time::timeout(SOON, self.answer.chunk()).await.expect("something is told");
            self.text.push_str(std::str::from_utf8(&chunk.ok()??).unwrap());
        }
    }

    async fn expect(&mut self, name: &str) -> Value {
        let (found, data) = self.next().await.unwrap();
        assert_eq!(found, name, "{data}");
        data
    }
}

/// A customer with an account that can be seen, and his token.
async fn customer(world: &World, key: &str) -> (Cart, String) {
    let user_id = world.api.register(key).await.unwrap();
    let (account_id, filled) = world.api.open_account(key, user_id, 1_000_000).await.unwrap();
    let account = format!("/accounts/{account_id}?after={}", filled.position().unwrap());
    world.api.get(Service::Payments, &account).await.unwrap().expect(200, "an account").unwrap();
    let cart = Cart { user_id, account_id, items: vec![("TEA".to_owned(), 1)], country: "DE".to_owned() };
    let token = world.api.tokens().unwrap().customer(user_id).await.unwrap();
    (cart, token)
}

/// How far an order is; only ever more.
fn rank(order: &Value) -> usize {
    let stages = ["placed", "reserved", "charged", "scheduled", "dispatched", "delivered"];
    let stage = stages.iter().position(|stage| order["stage"] == *stage).unwrap();
    stage * 10 + usize::from(order["status"] == "completed")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_customer_sees_his_order_on_its_way_and_goes_on_at_another_gateway() {
    let world = World::start(READ_MODELS).await.unwrap();
    let front = Front::patient(&world, "").await.unwrap();
    front.knows(&Service::ALL).await.unwrap();
    let stocked = world.api.stock_product("tea", ("TEA", "Tea", 500), 100).await.unwrap();
    let after = stocked.position().unwrap().to_string();
    let ((cart, token), (other, others)) = (customer(&world, "ada").await, customer(&world, "bob").await);
    let mut own = Events::open(&front, "/orders/stream", &token, None).await;
    let mut foreign = Events::open(&front, "/orders/stream", &others, None).await;
    for events in [&mut own, &mut foreign] {
        assert_eq!(events.expect("snapshot").await["items"], json!([]));
        events.expect("live").await;
    }
    let order = world.api.place("first", &cart, &[&after]).await.unwrap().expect(202, "an order").unwrap();
    let id = order.id().unwrap();
    let mut seen = Vec::new();
    while seen.last().is_none_or(|order: &Value| rank(order) < 31) {
        seen.push(own.expect("change").await);
    }
    assert!(seen.windows(2).all(|two| rank(&two[0]) < rank(&two[1])), "{seen:?}");
    assert_eq!(seen.last().unwrap(), &world.api.order(id).await.unwrap().body);

    // What belongs to the order can be followed at its own service.
    let path = format!("/payments/{id}/stream?until=live");
    let mut payment = Events::open(&front, &path, &token, None).await;
    assert_eq!(payment.expect("snapshot").await["status"], "charged");
    let mut user =
        Events::open(&front, &format!("/users/{}/stream?until=live", cart.user_id), &token, None).await;
    assert_eq!(user.expect("snapshot").await["name"], "Ada Lovelace");

    // The gateway stops: it says so between two events, and another one goes on where it was.
    let second = Front::patient(&world, "").await.unwrap();
    second.knows(&Service::ALL).await.unwrap();
    assert!(front.stop().await);
    assert_eq!(own.next().await, None);
    world.api.place("others", &other, &[]).await.unwrap().expect(202, "an order").unwrap();
    let next = world.api.place("second", &cart, &[]).await.unwrap().expect(202, "an order").unwrap();
    let mut own = Events::open(&second, "/orders/stream", &token, Some(&own.last)).await;
    let next_id = next.id().unwrap().to_string();
    let mut furthest = 0;
    while furthest < 31 {
        let (name, order) = own.next().await.unwrap();
        if name == "change" {
            assert_eq!(order["id"], next_id, "and nothing that was told before");
            assert!(rank(&order) > furthest || furthest == 0);
            furthest = rank(&order);
        } else {
            assert_eq!(name, "live");
        }
    }
    assert!(second.stop().await);
}

async fn socket(front: &Front, path: &str, token: &str) -> WebSocketStream<TcpStream> {
    try_socket(front, path, token).await.unwrap()
}

/// The status where it is refused.
async fn try_socket(front: &Front, path: &str, token: &str) -> Result<WebSocketStream<TcpStream>, u16> {
    let address = front.url.strip_prefix("http://").unwrap();
    let mut request = format!("ws://{address}/api{path}").into_client_request().unwrap();
    request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    let stream = TcpStream::connect(address).await.unwrap();
    match client_async(request, stream).await {
        Ok((socket, _)) => Ok(socket),
        Err(Error::Http(refused)) => Err(refused.status().as_u16()),
        Err(error) => panic!("{error}"),
    }
}

async fn hear(socket: &mut WebSocketStream<TcpStream>) -> Value {
    loop {
        match tokio::time::timeout(SOON, socket.next()).await.expect("something is said").unwrap().unwrap() {
            Message::Text(text) => return serde_json::from_str(&text).unwrap(),
            Message::Close(frame) => return json!({ "closed": u16::from(frame.unwrap().code) }),
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_socket_through_the_gateway_carries_what_a_customer_follows() {
    let world = World::start(READ_MODELS).await.unwrap();
    let front = Front::patient(&world, "").await.unwrap();
    front.knows(&Service::ALL).await.unwrap();
    let stocked = world.api.stock_product("tea", ("TEA", "Tea", 500), 100).await.unwrap();
    let after = stocked.position().unwrap().to_string();
    let (cart, token) = customer(&world, "ada").await;
    let mut payments = socket(&front, "/payments/socket", &token).await;
    let account = json!({ "type": "subscribe", "id": "money", "model": "accounts", "key": cart.account_id });
    payments.send(Message::text(account.to_string())).await.unwrap();
    let snapshot = hear(&mut payments).await;
    assert_eq!(
        (&snapshot["type"], &snapshot["data"]["balance"]["amount"]),
        (&json!("snapshot"), &json!(1_000_000))
    );
    assert_eq!(hear(&mut payments).await["type"], "live");
    let foreign = json!({ "type": "subscribe", "id": "x", "model": "accounts", "key": Uuid::nil() });
    payments.send(Message::text(foreign.to_string())).await.unwrap();
    assert_eq!(hear(&mut payments).await["problem"]["status"], 404);
    world.api.place("first", &cart, &[&after]).await.unwrap().expect(202, "an order").unwrap();
    let paid = hear(&mut payments).await;
    assert_eq!((&paid["type"], &paid["data"]["balance"]["amount"]), (&json!("change"), &json!(999_500)));
    let stopped = tokio::spawn(front.stop());
    assert_eq!(hear(&mut payments).await, json!({ "closed": 1012 }), "it restarts: come again");
    drop(payments);
    assert!(stopped.await.unwrap());
}

/// What can be followed, as the documentation has it: model, one, list, socket.
fn documented() -> BTreeSet<[String; 4]> {
    let page = include_str!("../../docs/subscriptions.md");
    let chapter = page.split("\n## ").find(|chapter| chapter.starts_with("What can be followed")).unwrap();
    let rows = chapter.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<_> = row.split('|').map(|cell| cell.trim().replace('`', "")).collect();
        [1, 2, 3, 5].map(|cell| cells[cell].clone())
    })
    .collect()
}

/// Something that can be followed, and what becomes of it.
struct Model {
    name: &'static str,
    key: String,
    one: &'static str,
    list: &'static str,
    socket: &'static str,
    token: String,
    /// What a customer is answered whose it is not, of one and of the list; none where everybody may see it.
    stranger: Option<[u16; 2]>,
    /// What of the document becomes what.
    becomes: (&'static str, Value),
}

impl Model {
    fn path(&self) -> String {
        format!(
            "{}{}{}",
            &self.one[..self.one.find('{').unwrap()],
            self.key,
            &self.one[self.one.find('}').unwrap() + 1..]
        )
    }

    /// Its streams: of one, and of the list where there is one.
    fn streams(&self) -> Vec<String> {
        let list = Some(self.list).filter(|list| !list.is_empty()).map(ToOwned::to_owned);
        [self.path()].into_iter().chain(list).collect()
    }
}

/// Every model, one and list, over events and over the socket: there, changed, and nobody else's.
#[tokio::test(flavor = "multi_thread")]
async fn every_model_is_followed_by_whoever_may_and_by_nobody_else() {
    let world = World::start(READ_MODELS).await.unwrap();
    let front = Front::patient(&world, "").await.unwrap();
    front.knows(&Service::ALL).await.unwrap();
    let api = &world.api;
    let stocked = api.stock_product("tea", ("TEA", "Tea", 500), 100).await.unwrap();
    let after = stocked.position().unwrap().to_string();
    let ((cart, token), (_, stranger)) = (customer(&world, "ada").await, customer(&world, "bob").await);
    let operator = api.tokens().unwrap().operator().await.unwrap();
    let order = api.place("first", &cart, &[&after]).await.unwrap().expect(202, "an order").unwrap();
    let order = order.id().unwrap();
    world.settled().await.unwrap();
    world.told(&["email"]).await;
    let told = eventually("she is told", SOON, async || {
        let told = api.get(Service::Notifications, "/notifications").await.ok()?.body;
        told["items"][0]["id"].as_str().map(ToOwned::to_owned)
    })
    .await;
    // A saga that cannot go on for now.
    world.config.outside.carrier.set_behaviour(Behaviour::Down);
    let mut body = cart.body();
    body["workflow"] = json!("orchestration");
    let carried = api.http().post(api.url(Service::Orders, "/orders")).header("Idempotency-Key", "carried");
    let carried =
        api.send_as(cart.user_id, carried.json(&body)).await.unwrap().expect(202, "an order").unwrap();
    let carried = carried.id().unwrap();
    eventually("its saga waits for the carrier", SOON, async || {
        let saga = api.get(Service::Fulfilment, &format!("/ops/sagas/{carried}")).await.ok()?.body;
        (saga["step"] == "shipping").then_some(())
    })
    .await;

    let models = models(&cart, [order, carried], &told, [&token, &operator]);
    let all = models.iter().map(|model| [model.name, model.one, model.list, model.socket]);
    let paths = |[name, one, list, socket]: [&str; 4]| {
        let stream = |path: &str| if path.is_empty() { String::new() } else { format!("{path}/stream") };
        [name.to_owned(), stream(one), stream(list), socket.to_owned()]
    };
    assert_eq!(all.map(paths).collect::<BTreeSet<_>>(), documented());

    let (mut followed, mut sockets) = (Vec::new(), Vec::new());
    for model in &models {
        for path in model.streams() {
            let mut events = Events::open(&front, &format!("{path}/stream"), &model.token, None).await;
            let snapshot = events.expect("snapshot").await;
            assert!(snapshot.to_string().contains(&model.key), "{path} begins with {snapshot}");
            assert_ne!(snapshot.pointer(model.becomes.0), Some(&model.becomes.1), "{path}");
            events.expect("live").await;
            followed.push((model, events));
        }
        let mut socket = socket(&front, model.socket, &model.token).await;
        let subscribe = json!({ "type": "subscribe", "id": "it", "model": model.name, "key": model.key });
        socket.send(Message::text(subscribe.to_string())).await.unwrap();
        assert_eq!(hear(&mut socket).await["type"], "snapshot", "{}", model.name);
        assert_eq!(hear(&mut socket).await["type"], "live", "{}", model.name);
        sockets.push((model, socket));
        refused(&front, model, &stranger, cart.user_id).await;
    }
    something_happens_to_each(&world, &cart, order, &told).await;
    for (model, events) in &mut followed {
        let (pointer, value) = &model.becomes;
        loop {
            let change = events.expect("change").await;
            if change.pointer(pointer) == Some(value) && change.to_string().contains(&model.key) {
                break;
            }
        }
    }
    for (model, socket) in &mut sockets {
        let (pointer, value) = &model.becomes;
        while hear(socket).await["data"].pointer(pointer) != Some(value) {}
    }
    drop((followed, sockets));
    assert!(front.stop().await);
}

fn models(cart: &Cart, [order, carried]: [Uuid; 2], told: &str, [own, operator]: [&str; 2]) -> [Model; 9] {
    let model = |name, key: String, [one, list, socket]: [&'static str; 3], stranger, becomes| {
        let token = if name == "sagas" { operator } else { own }.to_owned();
        Model { name, key, one, list, socket, token, stranger, becomes }
    };
    let (order, account) = (order.to_string(), cart.account_id.to_string());
    let orders = ["/orders/{id}", "/orders", "/orders/socket"];
    let notifications = ["/notifications/{id}", "/notifications", "/notifications/socket"];
    let products = ["/products/{sku}", "/products", "/products/socket"];
    let sagas = ["/ops/sagas/{orderId}", "/ops/sagas", "/ops/sagas/socket"];
    let only = |one, socket| [one, "", socket];
    [
        model("orders", order.clone(), orders, Some([404, 403]), ("/stage", json!("dispatched"))),
        model(
            "accounts",
            account,
            only("/accounts/{id}", "/payments/socket"),
            Some([404, 404]),
            ("/balance/amount", json!(999_500)),
        ),
        model(
            "payments",
            order.clone(),
            only("/payments/{orderId}", "/payments/socket"),
            Some([404, 404]),
            ("/status", json!("refunded")),
        ),
        model("products", "TEA".to_owned(), products, None, ("/price/amount", json!(600))),
        model(
            "inventory",
            "TEA".to_owned(),
            only("/inventory/{sku}", "/products/socket"),
            None,
            ("/available", json!(1098)),
        ),
        model(
            "shipments",
            order,
            only("/shipments/{orderId}", "/shipments/socket"),
            Some([404, 404]),
            ("/status", json!("dispatched")),
        ),
        model("notifications", told.to_owned(), notifications, Some([404, 403]), ("/delivery", json!(2))),
        model(
            "users",
            cart.user_id.to_string(),
            only("/users/{id}", "/users/socket"),
            Some([403, 403]),
            ("/name", json!("Ada King")),
        ),
        model("sagas", carried.to_string(), sagas, Some([403, 403]), ("/state", json!("completed"))),
    ]
}

/// A stranger, and whoever does not say who he is.
async fn refused(front: &Front, model: &Model, stranger: &str, owner: Uuid) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    for (path, place) in model.streams().iter().zip(0..) {
        let whose =
            if place == 1 && model.name != "sagas" { format!("?userId={owner}") } else { String::new() };
        let url = format!("{}/api{path}/stream{whose}", front.url);
        assert_eq!(client.get(&url).send().await.unwrap().status(), 401, "{path}");
        if let Some(statuses) = model.stranger {
            let answer = client.get(&url).bearer_auth(stranger).send().await.unwrap();
            assert_eq!(answer.status(), statuses[place], "{path}");
        }
    }
    let Some(statuses) = model.stranger else { return };
    let mut socket = match try_socket(front, model.socket, stranger).await {
        Ok(socket) => socket,
        // Where nobody but operators follows anything.
        Err(status) => return assert_eq!((status, model.name), (statuses[0], "sagas")),
    };
    let subscribe = json!({ "type": "subscribe", "id": "it", "model": model.name, "key": model.key });
    socket.send(Message::text(subscribe.to_string())).await.unwrap();
    let answer = hear(&mut socket).await;
    assert_eq!(
        (&answer["type"], &answer["problem"]["status"]),
        (&json!("error"), &json!(statuses[0])),
        "{}: {answer}",
        model.name
    );
}

async fn something_happens_to_each(world: &World, cart: &Cart, order: Uuid, told: &str) {
    let api = &world.api;
    for (service, path, body, status) in [
        (Service::Shipping, format!("/shipments/{order}/dispatch"), json!({}), 202),
        (Service::Inventory, "/inventory/TEA/receipts".to_owned(), json!({ "quantity": 1000 }), 202),
        (Service::Notifications, format!("/notifications/{told}/redeliver"), json!({}), 202),
        (Service::Payments, format!("/payments/{order}/refunds"), json!({}), 202),
    ] {
        api.post(service, &path, "again", &body).await.unwrap().expect(status, &path).unwrap();
    }
    let price = json!({ "price": { "amount": 600, "currency": "EUR" } });
    let price = api.http().put(api.url(Service::Inventory, "/products/TEA/price")).json(&price);
    let price = api.send_as_operator(price.header("Idempotency-Key", "price")).await.unwrap();
    price.expect(202, "a price").unwrap();
    let user = api.url(Service::Users, &format!("/users/{}", cart.user_id));
    let renamed = api.http().patch(&user).json(&json!({ "name": "Ada King" }));
    api.send_as(cart.user_id, renamed).await.unwrap().expect(202, "a new name").unwrap();
    world.config.outside.carrier.set_behaviour(Behaviour::Accept);
}

/// Of two sockets with one token, that lives on which has said another one before it ended.
#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_says_a_new_token_outlives_the_one_that_it_was_opened_with() {
    let world = World::start(READ_MODELS).await.unwrap();
    let front = Front::patient(&world, "").await.unwrap();
    front.knows(&Service::ALL).await.unwrap();
    let (cart, token) = customer(&world, "ada").await;
    let (_, others) = customer(&world, "bob").await;
    let connection = world.connect().await.unwrap();
    let clock = Clock::system();
    let keys = Keys::open_as(&connection, &world.config.master_key, 1, &clock).await.unwrap();
    let issuer = Issuer::new(keys, clock.clone());
    let short = Duration::from_secs(5);
    let short = issuer.issue(cart.user_id, vec![Role::Customer], clock.uuid(), short).await.unwrap();
    let subscribe =
        json!({ "type": "subscribe", "id": "money", "model": "accounts", "key": cart.account_id });
    let mut both = Vec::new();
    for _ in 0..2 {
        let mut socket = socket(&front, "/payments/socket", &short.token).await;
        socket.send(Message::text(subscribe.to_string())).await.unwrap();
        assert_eq!(hear(&mut socket).await["type"], "snapshot");
        assert_eq!(hear(&mut socket).await["type"], "live");
        both.push(socket);
    }
    let [mut silent, mut renewed] = <[_; 2]>::try_from(both).unwrap();
    for (token, status) in [("nonsense", 401), (&*others, 403)] {
        let say = json!({ "type": "token", "token": token }).to_string();
        renewed.send(Message::text(say)).await.unwrap();
        let refused = hear(&mut renewed).await;
        assert_eq!((&refused["type"], &refused["problem"]["status"]), (&json!("error"), &json!(status)));
    }
    let say = json!({ "type": "token", "token": token }).to_string();
    renewed.send(Message::text(say)).await.unwrap();
    assert_eq!(hear(&mut renewed).await, json!({ "type": "renewed" }));
    let bye = hear(&mut silent).await;
    assert_eq!((&bye["type"], &bye["problem"]["type"]), (&json!("bye"), &json!("/problems/unauthenticated")));
    assert_eq!(hear(&mut silent).await, json!({ "closed": 1008 }));
    // The other one had the same token, which has ended.
    let credit = json!({ "amount": { "amount": 7, "currency": "EUR" } });
    let path = format!("/accounts/{}/credits", cart.account_id);
    world.api.post(Service::Payments, &path, "more", &credit).await.unwrap().expect(202, "a credit").unwrap();
    let change = hear(&mut renewed).await;
    assert_eq!(
        (&change["type"], &change["data"]["balance"]["amount"]),
        (&json!("change"), &json!(1_000_007))
    );
    drop((silent, renewed));
    assert!(front.stop().await);
}
