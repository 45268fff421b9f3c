//! NATS away: 503 with Retry-After and nothing recorded; then on, without a restart.

use crate::shop::{Answer, DEADLINE, Nats, Shop, order, product};
use nats::server::Server;
use serde_json::json;
use std::time::Duration;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

#[tokio::test]
async fn commands_wait_for_no_log_and_go_on_without_a_restart() {
    let nats = Nats::start().await;
    let shop = Shop::open(&nats).await;
    let user = Uuid::from_u128(1);
    shop.product("TEA", 450).await;
    let account = shop.account(user, "EUR").await;
    let (body, credits) = (order(user, account, &[("TEA", 1)]), format!("/accounts/{account}/credits"));
    let credit = json!({ "amount": { "amount": 1, "currency": "EUR" } });
    // So that the copies know the product and the account.
    shop.post("/orders", &body).await.expect(202);
    let before = shop.ends().await;

    // It hangs, a moment after it is told to: nobody knows.
    nats.server.pause();
    let mut placed_before = 0;
    let hung = loop {
        let answer = shop.post("/orders", &body).await;
        if answer.status != 202 {
            break answer;
        }
        placed_before += 1;
    };
    hung.problem(503, "outcome-unknown");
    assert!(hung.header("retry-after").is_some());
    nats.server.resume();

    let Nats { server, config, .. } = nats;
    server.stop().await;
    for (path, body) in [
        ("/orders", &body),
        (&*credits, &credit),
        ("/products", &product("NEW", 1)),
        ("/inventory/TEA/receipts", &json!({ "quantity": 1 })),
        (&*format!("/shipments/{account}/dispatch"), &json!({})),
    ] {
        for answer in [shop.post(path, body).await, shop.post_once(path, "k", body).await] {
            answer.problem(503, "log-unavailable");
            assert_eq!(answer.header("retry-after"), Some("1"), "{path}");
        }
    }
    // What is wrong in itself needs no log to be told so.
    shop.post(&credits, &json!({ "amount": { "amount": 0, "currency": "EUR" } }))
        .await
        .problem(422, "amount-not-positive");

    let server = Server::start(config).await.unwrap();
    let placed = timeout(DEADLINE, accepted(&shop, "/orders", &body)).await.expect("it goes on");
    assert!(shop.post_once("/orders", "k", &body).await.is_replayed());
    let credited = timeout(DEADLINE, accepted(&shop, &credits, &credit)).await.expect("it goes on");
    assert_eq!(credited.position().sequence, before[2] + 1, "what was refused is not recorded");
    // The order that hung may have been recorded: that is what was answered.
    let orders = placed.position().sequence - before[0] - placed_before;
    assert!((1..=2).contains(&orders), "{orders}");
    server.stop().await;
}

/// Sends a request under one key until it is carried out.
async fn accepted(shop: &Shop, path: &str, body: &serde_json::Value) -> Answer {
    loop {
        let answer = shop.post_once(path, "k", body).await;
        if answer.status == 202 {
            return answer;
        }
        assert_eq!(answer.status, 503, "{answer:?}");
        sleep(Duration::from_millis(20)).await;
    }
}
