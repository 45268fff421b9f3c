//! The same thing again: commands that are sent twice, events that are delivered twice.

use crate::READ_MODELS;
use events::{Context, orders::Workflow};
use futures::future::try_join_all;
use std::time::Duration;
use waybill::api::Cart;
use waybill_tests::{World, eventually, request};

const SOON: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn a_command_sent_again_has_one_effect_and_one_answer() {
    let mut world = World::start(READ_MODELS).await.unwrap();
    let stocked = world.api.stock_product("p", ("TEA", "Tea", 450), 10).await.unwrap();
    let user_id = world.api.register("u").await.unwrap();
    let (account_id, _) = world.api.open_account("a", user_id, 1000).await.unwrap();
    let cart = Cart { user_id, account_id, items: vec![("TEA".to_owned(), 1)], country: "DE".to_owned() };
    let after = [stocked.position().unwrap()];

    let answers = try_join_all((0..10).map(|_| world.api.place("o", &cart, &after))).await.unwrap();
    let (accepted, others): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 202);
    let first = accepted.first().unwrap().clone();
    assert!(accepted.iter().all(|answer| answer.body == first.body), "{accepted:?}");
    assert!(others.iter().all(|answer| answer.status == 409), "in flight: {others:?}");

    // In another process, which has none of it in memory.
    assert!(world.stop().await);
    world.resume().await.unwrap();
    let again = world.api.place("o", &cart, &after).await.unwrap();
    assert_eq!((again.status, &again.body), (202, &first.body));
    assert_eq!(again.headers["idempotent-replayed"], "true");
    let other = Cart { country: "FR".to_owned(), ..cart };
    assert_eq!(
        world.api.place("o", &other, &after).await.unwrap().status,
        422,
        "the key is of another request"
    );
    assert_eq!(world.settled().await.unwrap().ends(), [("completed", 1)].into());
    assert!(world.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_are_delivered_again_change_nothing() {
    delivered_again(World::start(READ_MODELS).await.unwrap(), 10).await;
}

/// What sagas have asked for is not asked for once more.
#[tokio::test(flavor = "multi_thread")]
async fn events_that_are_delivered_again_change_nothing_of_a_saga() {
    let world = World::with(READ_MODELS, |config| config.flow.workflow = Workflow::Orchestration);
    delivered_again(world.await.unwrap(), 3).await;
}

async fn delivered_again(mut world: World, rounds: u32) {
    let stocked = world.api.stock_product("p", ("TEA", "Tea", 450), 3).await.unwrap();
    let user_id = world.api.register("u").await.unwrap();
    let (account_id, _) = world.api.open_account("a", user_id, 10_000).await.unwrap();
    let cart = Cart { user_id, account_id, items: vec![("TEA".to_owned(), 1)], country: "DE".to_owned() };
    for number in 0..5 {
        let key = format!("o-{number}");
        let placed = world.api.place(&key, &cart, &[stocked.position().unwrap()]).await.unwrap();
        if number == 0 {
            world.api.cancel("c", placed.id().unwrap()).await.unwrap();
        }
    }
    let audit = world.settled().await.unwrap();
    world.told(&["email"]).await;
    let before = (audit.ends(), world.lengths().await.unwrap());

    let url = world.nats.url();
    for round in 0..rounds {
        // A consumer that is gone is made anew, and gets everything again from the first event on.
        for (stream, durable) in reactions() {
            let gone =
                request(&url, &format!("$JS.API.CONSUMER.DELETE.{stream}.{durable}"), "").await.unwrap();
            assert_eq!(gone["success"], true, "{gone}");
        }
        for (stream, durable) in reactions() {
            let info = format!("$JS.API.CONSUMER.INFO.{stream}.{durable}");
            eventually("every reaction is done again", SOON, async || {
                let info = request(&url, &info, "").await.ok()?;
                (info["num_pending"] == 0 && info["num_ack_pending"] == 0).then_some(())
            })
            .await;
        }
        assert_eq!(
            (world.settled().await.unwrap().ends(), world.lengths().await.unwrap()),
            before,
            "round {round}"
        );
    }
    assert!(world.stop().await);
}

/// Stream and name of every durable consumer.
fn reactions() -> Vec<(&'static str, String)> {
    let services = [
        (Context::Orders, commands::orders::INTERESTS),
        (Context::Inventory, commands::inventory::INTERESTS),
        (Context::Payments, commands::payments::INTERESTS),
        (Context::Shipping, commands::shipping::INTERESTS),
        (Context::Users, commands::users::INTERESTS),
        (Context::Fulfilment, commands::fulfilment::INTERESTS),
    ];
    let durable = |service, stream: &Context| (stream.stream(), format!("{service}-{stream}"));
    let of = |(service, interests): (Context, &'static [(Context, &[&str])])| {
        interests.iter().map(move |(stream, _)| durable(service, stream))
    };
    services.into_iter().flat_map(of).collect()
}
