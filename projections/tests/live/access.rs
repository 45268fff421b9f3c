//! Who may follow what, for how long, and how much of it.

use crate::{
    client::Events,
    flows::{order_id, user_id},
    rig::{OPERATOR, Rig, soon},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use events::UserId;
use projections::LiveOptions;
use serde_json::json;
use service::Clock;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn somebody_elses_is_as_if_it_were_not_there() {
    let rig = Rig::start().await;
    let node = rig.usual("orders").await;
    rig.order(1, &node).await;
    let path = format!("/orders/{}/stream", order_id(1));
    assert_eq!(node.get(&path, user_id(2).uuid()).await.0, 404);
    let list = format!("/orders/stream?userId={}", user_id(1));
    assert_eq!(node.get(&list, user_id(2).uuid()).await.0, 403);
    let mut own = node.follow("/orders/stream", user_id(2).uuid()).await;
    assert_eq!(own.expect("snapshot").await.data["items"], json!([]));
    own.expect("live").await;
    // Neither with a cursor of before.
    let cursor = own.last.clone();
    rig.order(3, &node).await;
    rig.order(2, &node).await;
    assert_eq!(own.expect("change").await.data["id"], order_id(2).to_string());
    let user = user_id(2).uuid();
    let mut again =
        Events::open(node.address, "/orders/stream?until=live", user, Some(&cursor)).await.unwrap();
    assert_eq!(again.expect("change").await.data["id"], order_id(2).to_string());
    again.expect("live").await;
    let sagas = rig.usual("fulfilment").await;
    assert_eq!(sagas.get("/ops/sagas/stream", user).await.0, 403);
    sagas.follow("/ops/sagas/stream?state=running", OPERATOR).await.expect("snapshot").await;
    assert_eq!(sagas.get("/ops/sagas/stream?stuck=true", OPERATOR).await.0, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_with_the_token() {
    let rig = Rig::start().await;
    let node = rig.usual("inventory").await;
    let now = Clock::system().now().as_second();
    let claims = json!({
        "iss": "waybill", "aud": "waybill", "sub": OPERATOR, "roles": ["operator"], "jti": OPERATOR,
        "iat": now, "nbf": now, "exp": now + 2,
    });
    let part = URL_SAFE_NO_PAD.encode(claims.to_string());
    let header = format!("authorization: Bearer e30.{part}.e30\r\n");
    let mut list = Events::with(node.address, "/products/stream", OPERATOR, &header).await.unwrap();
    list.expect("snapshot").await;
    list.expect("live").await;
    let bye = list.expect("bye").await;
    assert_eq!((&bye.data["type"], &bye.data["status"]), (&json!("/problems/unauthenticated"), &json!(401)));
    soon("it ends", list.next()).await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_with_the_user_and_operators_forget_him() {
    let rig = Rig::start().await;
    let node = rig.usual("orders").await;
    rig.order(1, &node).await;
    let user: UserId = user_id(1);
    let mut own = node.follow("/orders/stream", user.uuid()).await;
    let mut all = node.follow("/orders/stream", OPERATOR).await;
    let products = rig.usual("inventory").await;
    let mut harmless = products.follow("/products/stream", OPERATOR).await;
    for events in [&mut own, &mut all, &mut harmless] {
        events.expect("snapshot").await;
        events.expect("live").await;
    }
    rig.keys.destroy(user).await.unwrap();
    assert_eq!(own.expect("bye").await.data["type"], "/problems/unauthenticated");
    assert_eq!(all.expect("reset").await.data["reason"], "user-erased");
    all.expect("snapshot").await;
    assert_eq!(node.get("/orders/stream", user.uuid()).await.0, 401);
    rig.product("TEA").await;
    harmless.expect("change").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn so_many_may_follow_and_no_more() {
    let rig = Rig::start().await;
    let options = LiveOptions { most: 3, most_per_user: 2, ..LiveOptions::default() };
    let node = rig.node("inventory", "inventory", options).await;
    let path = "/products/stream";
    let (one, two) = (user_id(1).uuid(), user_id(2).uuid());
    let first = node.follow(path, one).await;
    let _second = node.follow(path, one).await;
    assert_eq!(node.get(path, one).await.0, 429);
    let _third = node.follow(path, two).await;
    let (status, problem) = node.get(path, OPERATOR).await;
    assert_eq!((status, &problem["type"]), (503, &json!("/problems/too-many-subscribers")));
    drop(first);
    crate::rig::until("its place is free", async || {
        tokio::time::sleep(Duration::from_millis(10)).await;
        rig.product("TEA").await;
        node.follow(&format!("{path}?until=live"), two).await.status == 200
    })
    .await;
}
