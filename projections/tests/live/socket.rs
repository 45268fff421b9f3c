//! What a `WebSocket` tells.

use crate::{
    flows::{order_id, user_id},
    rig::{Node, OPERATOR, Rig, soon},
};
use futures::{SinkExt, StreamExt};
use projections::LiveOptions;
use serde_json::{Value, json};
use std::{io, time::Duration};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, client::IntoClientRequest},
};
use uuid::Uuid;

pub(crate) struct Socket(WebSocketStream<TcpStream>);

impl Socket {
    async fn open(node: &Node, path: &str, user: Uuid) -> Self {
        Self::over(node.connect().await, path, user).await.unwrap()
    }

    /// Over a connection that may break.
    pub(crate) async fn over(stream: TcpStream, path: &str, user: Uuid) -> io::Result<Self> {
        let mut request = format!("ws://x{path}").into_client_request().unwrap();
        request.headers_mut().insert("x-user", user.to_string().parse().unwrap());
        Ok(Self(client_async(request, stream).await.map_err(io::Error::other)?.0))
    }

    async fn say(&mut self, message: Value) {
        self.ask(message).await.unwrap();
    }

    pub(crate) async fn ask(&mut self, message: Value) -> io::Result<()> {
        self.0.send(Message::text(message.to_string())).await.map_err(io::Error::other)
    }

    /// The next message in words; an error where the connection breaks or ends.
    pub(crate) async fn next(&mut self) -> io::Result<Value> {
        loop {
            let message = self.0.next().await.ok_or(io::ErrorKind::UnexpectedEof)?;
            if let Message::Text(text) = message.map_err(io::Error::other)? {
                return Ok(serde_json::from_str(&text)?);
            }
        }
    }

    /// The next message that is no ping.
    async fn hear(&mut self) -> Value {
        loop {
            match soon("a message", self.0.next()).await.unwrap().unwrap() {
                Message::Text(text) => return serde_json::from_str(&text).unwrap(),
                Message::Close(frame) => return json!({ "closed": u16::from(frame.unwrap().code) }),
                _ => {}
            }
        }
    }

    async fn expect(&mut self, kind: &str, id: &str) -> Value {
        let message = self.hear().await;
        assert_eq!((&message["type"], &message["id"]), (&json!(kind), &json!(id)), "{message}");
        message
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_socket_carries_several_subscriptions_and_each_goes_on_where_it_was() {
    let rig = Rig::start().await;
    let node = rig.usual("inventory").await;
    rig.product("TEA").await;
    let at = rig.product("MUG").await;
    let mut socket = Socket::open(&node, "/products/socket", OPERATOR).await;
    let after = json!({ "after": format!("INVENTORY:{at}") });
    socket.say(json!({ "type": "subscribe", "id": "all", "model": "products", "where": after })).await;
    assert_eq!(socket.expect("snapshot", "all").await["data"]["items"][1]["sku"], "TEA");
    let live = socket.expect("live", "all").await;
    let subscribe = json!({ "type": "subscribe", "id": "tea", "model": "inventory", "key": "TEA" });
    socket.say(subscribe.clone()).await;
    assert_eq!(socket.expect("snapshot", "tea").await["data"]["available"], 0);
    let cursor = socket.expect("live", "tea").await["cursor"].clone();

    rig.product("TEA").await;
    let both = [socket.hear().await, socket.hear().await];
    for id in ["all", "tea"] {
        let told = both.iter().find(|one| one["id"] == id).unwrap();
        assert_eq!((&told["type"], &told["data"]["price"]["amount"]), (&json!("change"), &json!(2)));
        assert_ne!(told["cursor"], live["cursor"]);
    }
    socket.say(json!({ "type": "unsubscribe", "id": "all" })).await;
    socket.expect("unsubscribed", "all").await;
    rig.product("TEA").await;
    assert_eq!(socket.expect("change", "tea").await["data"]["price"]["amount"], 3);
    socket.say(json!({ "type": "ping" })).await;
    assert_eq!(socket.hear().await, json!({ "type": "pong" }));

    let mut other = Socket::open(&node, "/products/socket", OPERATOR).await;
    let mut again = subscribe;
    again["cursor"] = cursor;
    other.say(again).await;
    assert_eq!(other.expect("change", "tea").await["data"]["price"]["amount"], 3);
    other.expect("live", "tea").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_followed_is_refused_and_the_socket_goes_on() {
    let rig = Rig::start().await;
    let node = rig.usual("orders").await;
    rig.order(1, &node).await;
    let mut socket = Socket::open(&node, "/orders/socket", user_id(2).uuid()).await;
    let key = order_id(1).to_string();
    for (said, status, kind) in [
        (json!({ "type": "subscribe", "id": "a", "model": "orders", "key": key }), 404, "order-not-found"),
        (json!({ "type": "subscribe", "id": "a", "model": "carts" }), 422, "invalid-message"),
        (json!({ "type": "subscribe", "id": "a", "model": "orders", "cursor": "x" }), 422, "invalid-cursor"),
        (
            json!({ "type": "subscribe", "id": "a", "model": "orders", "where": { "color": "red" } }),
            400,
            "invalid-query",
        ),
        (
            json!({ "type": "subscribe", "id": "a", "model": "orders", "where": { "userId": user_id(1) } }),
            403,
            "forbidden",
        ),
        (json!({ "type": "unsubscribe", "id": "a" }), 404, "subscription-not-found"),
        (json!({ "type": "sing" }), 400, "invalid-message"),
    ] {
        socket.say(said.clone()).await;
        let answer = socket.hear().await;
        assert_eq!(answer["type"], "error", "{said}");
        let problem = &answer["problem"];
        assert_eq!(
            (&problem["status"], &problem["type"]),
            (&json!(status), &json!(format!("/problems/{kind}")))
        );
    }
    for number in 0..51 {
        socket.say(json!({ "type": "subscribe", "id": format!("{number}"), "model": "orders" })).await;
        let answer = socket.hear().await;
        if number < 50 {
            assert_eq!(answer["type"], "snapshot", "{answer}");
            socket.expect("live", &number.to_string()).await;
        } else {
            assert_eq!(answer["problem"]["type"], "/problems/too-many-subscriptions");
        }
    }
    socket.say(json!({ "type": "subscribe", "id": "7", "model": "orders" })).await;
    assert_eq!(socket.hear().await["problem"]["status"], 429);
    socket.say(json!({ "type": "unsubscribe", "id": "8" })).await;
    socket.expect("unsubscribed", "8").await;
    socket.say(json!({ "type": "subscribe", "id": "7", "model": "orders" })).await;
    assert_eq!(socket.hear().await["problem"]["type"], "/problems/subscription-in-use");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_is_not_read_is_dropped_with_the_reason() {
    let rig = Rig::start().await;
    let options = LiveOptions { queue: 16, ..LiveOptions::default() };
    let node = rig.node("inventory", "inventory", options).await;
    rig.product("TEA").await;
    rig.width.store(30_000, std::sync::atomic::Ordering::SeqCst);
    let mut lazy = Socket::open(&node, "/products/socket", OPERATOR).await;
    let after = json!({ "after": "INVENTORY:1" });
    lazy.say(json!({ "type": "subscribe", "id": "all", "model": "products", "where": after })).await;
    lazy.expect("snapshot", "all").await;
    lazy.expect("live", "all").await;
    let mut eager = node.follow("/products/stream?after=INVENTORY:1", OPERATOR).await;
    eager.expect("snapshot").await;
    eager.expect("live").await;
    let slow = "waybill_feed_dropped_total{projection=\"inventory\",reason=\"slow\"} ";
    let mut prices = 1;
    let dropped = async {
        while node.counted(slow) < 1.0 {
            rig.product("TEA").await;
            prices += 1;
            while eager.expect("change").await.data["price"]["amount"] != prices {}
        }
    };
    tokio::time::timeout(Duration::from_mins(3), dropped).await.expect("it is dropped");
    let told = loop {
        let message = lazy.hear().await;
        if message["type"] != "change" {
            break message;
        }
    };
    assert_eq!(
        (&told["type"], &told["problem"]["type"]),
        (&json!("bye"), &json!("/problems/subscriber-too-slow"))
    );
    assert_eq!(lazy.hear().await, json!({ "closed": 1013 }));
    assert_eq!(node.counted(slow).to_string(), "1", "it is counted once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_says_why_it_ends() {
    let rig = Rig::start().await;
    let options = LiveOptions { heartbeat: Duration::from_millis(50), ..LiveOptions::default() };
    let node = rig.node("orders", "orders", options).await;
    let mut own = Socket::open(&node, "/orders/socket", user_id(1).uuid()).await;
    own.say(json!({ "type": "subscribe", "id": "a", "model": "orders" })).await;
    own.expect("snapshot", "a").await;
    own.expect("live", "a").await;
    let mut other = Socket::open(&node, "/orders/socket", user_id(2).uuid()).await;
    let ping = async { while !matches!(other.0.next().await, Some(Ok(Message::Ping(_)))) {} };
    soon("it is asked whether it is there", ping).await;
    rig.keys.destroy(user_id(1)).await.unwrap();
    assert_eq!(own.hear().await["problem"]["type"], "/problems/unauthenticated");
    assert_eq!(own.hear().await, json!({ "closed": 1008 }));
    let stopping = tokio::spawn({
        let shutdown = node.shutdown.clone();
        async move { shutdown.drain(Duration::from_secs(10)).await }
    });
    assert_eq!(other.hear().await["problem"]["type"], "/problems/stopping");
    assert_eq!(other.hear().await, json!({ "closed": 1012 }));
    drop(other);
    assert!(stopping.await.unwrap(), "the process waits for it");
}
