//! Instances come, leave and are killed, and whoever asks does not notice.

use crate::READ_MODELS;
use futures::future::join_all;
use nats::{Registry, RegistryOptions};
use serde_json::json;
use std::time::Duration;
use tokio::time::Instant;
use waybill::system::Service;
use waybill_tests::{Front, Serve, World, eventually};

const SOON: Duration = Duration::from_mins(1);

/// Waits until the gateway knows so many instances of the inventory.
async fn known(front: &Front, count: usize) {
    eventually("that many instances are known", SOON, async || {
        (front.instances(Service::Inventory).await.unwrap().len() == count).then_some(())
    })
    .await;
}

/// Requests that can be repeated, some at once.
async fn ask(front: &Front) {
    let asked = join_all((0..8).map(|_| front.api.get(Service::Inventory, "/products"))).await;
    for answer in asked {
        let answer = answer.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}

#[tokio::test]
async fn an_instance_that_is_killed_fails_no_request_that_can_be_repeated() {
    let world = World::start(READ_MODELS).await.unwrap();
    let front = Front::patient(&world, "").await.unwrap();
    known(&front, 1).await;
    let mut second = Serve::start(&world, "inventory", "second").unwrap();
    known(&front, 2).await;
    let registry =
        Registry::watch(&world.connect().await.unwrap(), RegistryOptions::default()).await.unwrap();
    eventually("both are known here too", SOON, async || {
        (registry.instances("inventory").len() == 2).then_some(())
    })
    .await;

    // Requests earn the right to repeat some.
    for _ in 0..20 {
        ask(&front).await;
    }
    let mut killing = std::pin::pin!(second.kill());
    loop {
        tokio::select! {
            biased;
            () = ask(&front) => {}
            killed = &mut killing => break killed.unwrap(),
        }
    }
    let killed = Instant::now();
    let mut asked = 0;
    while registry.instances("inventory").len() == 2 {
        ask(&front).await;
        asked += 1;
        let lifetime = RegistryOptions::default().lifetime;
        assert!(killed.elapsed() < lifetime + Duration::from_secs(3), "it is still known");
    }
    assert!(asked > 20, "only {asked} times");
    let repeated = r#"waybill_gateway_retries_total{service="inventory",outcome="sent"}"#;
    assert!(front.counted(repeated).await.unwrap() > 0, "nobody asked the one that was killed");
    known(&front, 1).await;
    ask(&front).await;
    assert!(front.stop().await);
}

#[tokio::test]
async fn an_instance_that_leaves_fails_no_request_at_all() {
    // So long may it take on a busy machine until everybody has heard that it leaves.
    let linger = Duration::from_secs(3);
    let world = World::with(READ_MODELS, |config| config.linger = linger).await.unwrap();
    let front = Front::patient(&world, "").await.unwrap();
    known(&front, 1).await;
    let (second, _) = world.another("second", &[Service::Inventory]).await.unwrap();
    known(&front, 2).await;
    let mut leaving = std::pin::pin!(second.stop());
    // The gateway repeats none of these.
    let change = front.api.url(Service::Inventory, "/inventory/NONE/adjustments");
    let change = || front.api.http().post(&change).json(&json!({ "delta": 1, "reason": "found" }));
    loop {
        tokio::select! {
            biased;
            finished = &mut leaving => break assert!(finished),
            answer = front.as_operator(change()) => assert_eq!(answer.unwrap().status, 404),
        }
    }
    known(&front, 1).await;
    let repeated = r#"waybill_gateway_retries_total{service="inventory",outcome="sent"}"#;
    assert_eq!(front.counted(repeated).await.unwrap(), 0);
    assert!(front.stop().await);
}

/// A path of every service that it answers to an operator, whatever there is.
const ASKED: [(Service, &str); 8] = [
    (Service::Users, "/users/00000000-0000-0000-0000-000000000007"),
    (Service::Orders, "/orders/00000000-0000-0000-0000-000000000007"),
    (Service::Payments, "/payments/00000000-0000-0000-0000-000000000007"),
    (Service::Inventory, "/products/NONE"),
    (Service::Shipping, "/shipments/00000000-0000-0000-0000-000000000007"),
    (Service::Notifications, "/notifications/00000000-0000-0000-0000-000000000007_email"),
    (Service::Operations, "/ops/dead-letters/00000000-0000-0000-0000-000000000007"),
    (Service::Fulfilment, "/ops/sagas/00000000-0000-0000-0000-000000000007"),
];

#[tokio::test]
async fn whichever_service_is_killed_the_gateway_says_so_in_time_and_recovers() {
    let mut world = World::start(READ_MODELS).await.unwrap();
    assert!(world.stop().await);
    let mut processes: Vec<_> = ASKED
        .iter()
        .map(|(service, _)| Serve::start(&world, service.name(), service.name()).unwrap())
        .collect();
    // Half a minute for every service would be minutes.
    let front = Front::patient(&world, "[breaker]\nopen = \"2s\"\n").await.unwrap();
    let api = &front.api;
    let answers = async |(service, path): (Service, &str)| {
        eventually("the service answers through the gateway", SOON, async || {
            (api.get(service, path).await.unwrap().status == 404).then_some(())
        })
        .await;
    };
    for asked in ASKED {
        answers(asked).await;
    }

    for (index, (service, path)) in ASKED.into_iter().enumerate() {
        processes[index].kill().await.unwrap();
        // Until its breaker opens.
        for _ in 0..15 {
            let asked = Instant::now();
            let answer = api.get(service, path).await.unwrap();
            assert!([502, 503, 504].contains(&answer.status), "{service}: {} {}", answer.status, answer.body);
            assert!(answer.body["type"].is_string(), "{service}: {}", answer.body);
            assert_eq!(answer.headers.contains_key("retry-after"), answer.status == 503);
            assert!(asked.elapsed() < Duration::from_secs(4), "{service}: {:?}", asked.elapsed());
        }
        for (other, path) in ASKED.into_iter().filter(|(other, _)| *other != service) {
            assert_eq!(api.get(other, path).await.unwrap().status, 404, "{other} while {service} is away");
        }
        let again = format!("{service}-again");
        processes[index] = Serve::start(&world, service.name(), &again).unwrap();
        answers((service, path)).await;
    }
    assert!(front.stop().await);
}
