//! On three nodes, one may die.

use futures::future::join_all;
use serde_json::Value;
use std::{collections::BTreeMap, time::Duration};
use tokio::sync::watch;
use uuid::Uuid;
use waybill::api::{Api, Cart};
use waybill_tests::{World, eventually, request};

/// How long an order may take to be accepted: the other two agree on new leaders meanwhile.
const ACCEPTED: Duration = Duration::from_mins(1);

/// Places an order as a client does that knows of bad days: again under the same key, until it is accepted.
async fn place(api: &Api, key: &str, cart: &Cart) -> Uuid {
    eventually("the order is accepted", ACCEPTED, async || {
        let answer = api.place(key, cart, &[]).await.unwrap();
        match answer.status {
            202 => Some(answer.id().unwrap()),
            // The key is held by an attempt before this one, or the log is away.
            409 | 503 => None,
            _ => panic!("{answer:?}"),
        }
    })
    .await
}

/// The node that leads a stream, as the others see it.
async fn leader(url: &str, stream: &str) -> Option<String> {
    let info: Value = request(url, &format!("$JS.API.STREAM.INFO.{stream}"), "").await.unwrap();
    info["cluster"]["leader"].as_str().map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_go_on_when_a_node_dies_and_nothing_acknowledged_is_lost() {
    let mut world = World::cluster().await.unwrap();
    let api = world.api.clone();
    let stocked = api.stock_product("p", ("TEA", "Tea", 450), 500).await.unwrap();
    let user_id = api.register("ada").await.unwrap();
    let (account_id, opened) = api.open_account("a", user_id, 1_000_000).await.unwrap();
    let ada = Cart { user_id, account_id, items: vec![("TEA".to_owned(), 1)], country: "DE".to_owned() };
    let after = [&stocked, &opened].map(|answer| answer.position().unwrap());
    api.place("first", &ada, &after).await.unwrap().expect(202, "the first order").unwrap();

    // Some customers at once, before, while and after the node dies that leads the orders.
    let (accepted, mut seen) = watch::channel(1);
    let customers = join_all((0..4).map(|customer| {
        let (api, ada, accepted) = (&api, &ada, &accepted);
        async move {
            let mut orders = Vec::new();
            for number in 0..15 {
                orders.push(place(api, &format!("{customer}-{number}"), ada).await);
                accepted.send_modify(|count| *count += 1);
            }
            orders
        }
    }));
    let kill = async {
        seen.wait_for(|count| *count > 10).await.unwrap();
        let name = eventually("the orders have a leader", ACCEPTED, async || {
            leader(&world.nats.url(), "ORDERS").await
        });
        let name = name.await;
        world.node(&name).kill().await;
        assert!(*seen.borrow() < 60, "it died too late to matter");
        name
    };
    let (orders, killed) = tokio::join!(customers, kill);
    assert_eq!(world.node(&killed).pid(), None, "it stays dead");

    let audit = world.settled().await.unwrap();
    assert_eq!(audit.ends(), BTreeMap::from([("completed", 61)]), "each once, and all of them");
    for order in orders.into_iter().flatten() {
        assert_eq!(api.order(order).await.unwrap().body["status"], "completed");
    }
    assert!(world.stop().await);
}
