//! Clients that follow what they see, through the gateway: every step of an order once and in order, and nothing of what is
//! somebody else's.

use futures::{SinkExt, StreamExt};
use reqwest::Response;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, client::IntoClientRequest},
};
use uuid::Uuid;
use waybill::{api::Cart, system::Service};
use waybill_tests::{Front, World};

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
    let world = World::start().await.unwrap();
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
    let address = front.url.strip_prefix("http://").unwrap();
    let mut request = format!("ws://{address}/api{path}").into_client_request().unwrap();
    request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    let stream = TcpStream::connect(address).await.unwrap();
    client_async(request, stream).await.unwrap().0
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
    let world = World::start().await.unwrap();
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
