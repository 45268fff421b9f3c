//! NATS is away for a while.

use crate::READ_MODELS;
use reqwest::header::RETRY_AFTER;
use std::time::Duration;
use waybill::{api::Cart, system::Service};
use waybill_tests::{World, eventually};

const SOON: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn without_nats_it_says_so_and_recovers_by_itself() {
    let mut world = World::start(READ_MODELS).await.unwrap();
    let stocked = world.api.stock_product("p", ("TEA", "Tea", 450), 10).await.unwrap();
    let user_id = world.api.register("u").await.unwrap();
    let (account_id, _) = world.api.open_account("a", user_id, 1000).await.unwrap();
    let cart = Cart { user_id, account_id, items: vec![("TEA".to_owned(), 1)], country: "DE".to_owned() };
    let placed = world.api.place("before", &cart, &[stocked.position().unwrap()]).await.unwrap();
    let order = placed.expect(202, "an order").unwrap().id().unwrap();
    world.settled().await.unwrap();

    // Paused, not killed: the supervisor would start it again before anybody asks.
    world.nats.pause();
    let refused = world.api.place("during", &cart, &[]).await.unwrap();
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(refused.headers.contains_key(RETRY_AFTER), "{refused:?}");
    assert_eq!(world.api.order(order).await.unwrap().body["status"], "completed", "queries go on");

    world.nats.resume();
    let placed = eventually("the same request is accepted", SOON, async || {
        let placed = world.api.place("during", &cart, &[]).await.ok()?;
        (placed.status == 202).then_some(placed)
    });
    let placed = placed.await;
    assert_eq!(world.settled().await.unwrap().ends(), [("completed", 2)].into());
    assert_eq!(world.api.order(placed.id().unwrap()).await.unwrap().body["status"], "completed");

    world.nats.kill().await;
    assert!(world.nats.ready(SOON).await, "it is started again");
    eventually("every service is ready again", SOON, async || world.api.wait_ready(SOON).await.ok()).await;
    let item = world.api.get(Service::Inventory, "/inventory/TEA").await.unwrap();
    assert_eq!(item.body["reserved"], 2);
    assert!(world.stop().await);
}
