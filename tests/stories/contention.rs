//! Many who want the same thing, in one process and in two.

use crate::READ_MODELS;
use futures::future::{join_all, try_join_all};
use waybill::{
    api::{Answer, Api, Cart},
    failure::Failure,
    system::Service,
};
use waybill_tests::World;

/// Places as many orders of one `sku` at once, spread over these systems.
async fn rush(apis: &[&Api], cart: &Cart, orders: usize, after: &str) -> Result<Vec<Answer>, Failure> {
    let after = [after];
    let place = |number: usize| {
        let (api, after) = (apis[number % apis.len()], &after);
        async move { api.place(&format!("rush-{number}"), cart, after).await }
    };
    try_join_all((0..orders).map(place)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_unit_goes_to_exactly_one_of_fifty() {
    let mut world = World::start(READ_MODELS).await.unwrap();
    let (other, api_of_other) = world.another("views-2", &Service::ALL).await.unwrap();
    let stocked = world.api.stock_product("p", ("LAMP", "Lamp", 4900), 1).await.unwrap();
    let user_id = world.api.register("u").await.unwrap();
    let (account_id, _) = world.api.open_account("a", user_id, 1_000_000).await.unwrap();
    let cart = Cart { user_id, account_id, items: vec![("LAMP".to_owned(), 1)], country: "DE".to_owned() };
    let placed = rush(&[&world.api, &api_of_other], &cart, 50, stocked.position().unwrap()).await.unwrap();
    assert!(placed.iter().all(|answer| answer.status == 202), "{placed:?}");

    let audit = world.settled().await.unwrap();
    assert_eq!(audit.ends(), [("completed", 1), ("failed", 49)].into());
    let failed = world.api.get(Service::Orders, "/orders?status=failed&limit=100").await.unwrap();
    let failed = failed.body["items"].as_array().unwrap().clone();
    assert_eq!(failed.len(), 49);
    assert!(failed.iter().all(|order| order["reason"] == "out_of_stock"), "{failed:?}");
    let item = world.api.get(Service::Inventory, "/inventory/LAMP").await.unwrap().body;
    assert_eq!((&item["onHand"], &item["available"]), (&1.into(), &0.into()), "held until it is dispatched");
    let account = world.api.get(Service::Payments, &format!("/accounts/{account_id}")).await.unwrap().body;
    assert_eq!(account["balance"]["amount"], 1_000_000 - 4900);
    assert!(other.stop().await && world.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_balance_for_ten_pays_for_exactly_ten_of_a_hundred() {
    let mut world = World::start(READ_MODELS).await.unwrap();
    let (other, api_of_other) = world.another("views-2", &Service::ALL).await.unwrap();
    let stocked = world.api.stock_product("p", ("PEN", "Pen", 10), 1000).await.unwrap();
    let user_id = world.api.register("u").await.unwrap();
    let (account_id, _) = world.api.open_account("a", user_id, 100).await.unwrap();
    let cart = Cart { user_id, account_id, items: vec![("PEN".to_owned(), 1)], country: "DE".to_owned() };
    rush(&[&world.api, &api_of_other], &cart, 100, stocked.position().unwrap()).await.unwrap();

    let audit = world.settled().await.unwrap();
    assert_eq!(audit.ends(), [("completed", 10), ("failed", 90)].into());
    let account = world.api.get(Service::Payments, &format!("/accounts/{account_id}")).await.unwrap().body;
    assert_eq!(account["balance"]["amount"], 0);
    let item = world.api.get(Service::Inventory, "/inventory/PEN").await.unwrap().body;
    assert_eq!((&item["onHand"], &item["reserved"]), (&1000.into(), &10.into()), "the rest was given back");
    join_all([other.stop(), world.system.take().unwrap().stop()]).await;
}
