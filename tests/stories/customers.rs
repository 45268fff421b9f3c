//! Orders ask the users service for their customers, and go on without it.

use crate::READ_MODELS;
use nats::{Registry, RegistryOptions};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};
use uuid::Uuid;
use waybill::{
    api::{Answer, Api, Cart, Tokens},
    system::Service,
};
use waybill_tests::{Process, World, eventually};

const SOON: Duration = Duration::from_secs(30);
/// A breaker that has opened stays open for half a minute: it does where the dead process was asked often enough.
const AFTER_THE_BREAKER: Duration = Duration::from_secs(90);
/// Every service but the one that will be killed.
const OTHERS: [Service; 4] = [Service::Orders, Service::Payments, Service::Inventory, Service::Shipping];

/// A client of the users service that others know, once it is ready.
async fn users(world: &World, registry: &Registry, not: Option<&str>) -> (String, Api) {
    let url = eventually("the users service is known", SOON, async || {
        registry.instances("users").into_iter().map(|instance| instance.url).find(|url| Some(&**url) != not)
    });
    let url = url.await;
    let tokens = Tokens::open(&world.config.nats_url, &world.config.master_key, &world.config.clock);
    let api = Api::at(BTreeMap::from([("users".to_owned(), url.clone())])).with_tokens(tokens.await.unwrap());
    api.wait_ready(SOON).await.unwrap();
    (url, api)
}

fn is_stale(answer: &Answer) -> bool {
    answer.body["userSnapshot"]["stale"].as_bool().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_are_accepted_with_a_stale_snapshot_while_the_users_service_is_dead() {
    // Nothing is remembered: every order asks.
    let mut world = World::of(READ_MODELS, &OTHERS, |config| config.users_calls.fresh_for = Duration::ZERO)
        .await
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut process = Process::serve(Service::Users, &world.config, &folder.path().join("1")).unwrap();
    let registry =
        Registry::watch(&world.connect().await.unwrap(), RegistryOptions::default()).await.unwrap();
    let (url, users_api) = users(&world, &registry, None).await;
    let user_id = users_api.register("ada").await.unwrap();
    let stocked = world.api.stock_product("p", ("TEA", "Tea", 450), 100).await.unwrap();
    let (account_id, _) = world.api.open_account("a", user_id, 100_000).await.unwrap();
    let ada = Cart { user_id, account_id, items: vec![("TEA".to_owned(), 1)], country: "DE".to_owned() };
    let after = [stocked.position().unwrap()];

    let fresh = world.api.place("fresh", &ada, &after).await.unwrap().expect(202, "an order").unwrap();
    assert!(!is_stale(&fresh), "{fresh:?}");
    let nobody = Cart { user_id: Uuid::from_u128(7), ..ada.clone() };
    let unknown = world.api.place("nobody", &nobody, &after).await.unwrap();
    assert_eq!((unknown.status, &unknown.body["type"]), (422, &"/problems/unknown-user".into()));
    assert_eq!(unknown.body["field"], "userId");

    process.kill().await.unwrap();
    let asked = Instant::now();
    let stale = world.api.place("stale", &ada, &after).await.unwrap().expect(202, "an order").unwrap();
    assert!(is_stale(&stale), "{stale:?}");
    assert!(asked.elapsed() < Duration::from_secs(4), "it waits for nobody for long");
    let unknown = world.api.place("nobody-again", &nobody, &after).await.unwrap();
    assert_eq!(unknown.status, 422, "the own copy is read from the log: {unknown:?}");
    assert_eq!(world.settled().await.unwrap().ends(), [("completed", 2)].into());
    for (order, expected) in [(fresh, false), (stale, true)] {
        let order = world.api.order(order.id().unwrap()).await.unwrap();
        assert_eq!(is_stale(&order), expected, "{order:?}");
    }

    let process = Process::serve(Service::Users, &world.config, &folder.path().join("2")).unwrap();
    users(&world, &registry, Some(&url)).await;
    let mut attempt = 0;
    eventually("the users service is asked again", AFTER_THE_BREAKER, async || {
        attempt += 1;
        let placed = world.api.place(&format!("again-{attempt}"), &ada, &after).await.ok()?;
        (placed.status == 202 && !is_stale(&placed)).then_some(())
    })
    .await;
    drop(process);
    assert!(world.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_remembered_until_a_fact_says_otherwise() {
    let mut world = World::with(READ_MODELS, |config| config.users_calls.fresh_for = Duration::from_hours(1))
        .await
        .unwrap();
    let api = &world.api;
    let user_id = api.register("ada").await.unwrap();
    let stocked = api.stock_product("p", ("TEA", "Tea", 450), 100).await.unwrap();
    let (account_id, _) = api.open_account("a", user_id, 100_000).await.unwrap();
    let ada = Cart { user_id, account_id, items: vec![("TEA".to_owned(), 1)], country: "DE".to_owned() };
    let after = [stocked.position().unwrap()];
    let placed = api.place("1", &ada, &after).await.unwrap().expect(202, "an order").unwrap();
    assert!(!is_stale(&placed), "{placed:?}");

    let erase = api.http().delete(api.url(Service::Users, &format!("/users/{user_id}")));
    assert_eq!(api.send_as(user_id, erase).await.unwrap().status, 202);
    let mut attempt = 1;
    let refused = eventually("the erasure has arrived", SOON, async || {
        attempt += 1;
        let placed = api.place(&attempt.to_string(), &ada, &after).await.ok()?;
        (placed.status != 202).then_some(placed)
    });
    let refused = refused.await;
    assert_eq!(
        (refused.status, &refused.body["type"]),
        (409, &"/problems/user-erased".into()),
        "{refused:?}"
    );
    let again = api.place("1", &ada, &after).await.unwrap().expect(202, "the same answer").unwrap();
    assert_eq!(again.body, placed.body, "what was answered stays answered");
    assert!(world.stop().await);
}
