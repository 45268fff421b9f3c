//! On three nodes, one may die; and what one node held goes on on three.

use crate::READ_MODELS;
use futures::future::join_all;
use serde_json::Value;
use std::{collections::BTreeMap, time::Duration};
use tokio::sync::watch;
use uuid::Uuid;
use waybill::{
    api::{Api, Cart},
    system::Service,
};
use waybill_tests::{World, eventually, request, run};

/// How long an order may take to be accepted: the other two agree on new leaders meanwhile.
const ACCEPTED: Duration = Duration::from_mins(1);

/// Places an order as a client does that knows of bad days: again under the same key, until it is accepted.
async fn place_one(api: &Api, key: &str, cart: &Cart) -> Uuid {
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
    let mut world = World::cluster(READ_MODELS).await.unwrap();
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
                orders.push(place_one(api, &format!("{customer}-{number}"), ada).await);
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

/// Whoever outgrows one machine moves: a backup of one node is restored onto a cluster.
#[tokio::test(flavor = "multi_thread")]
async fn what_one_node_held_goes_on_on_three() {
    let mut one = World::start(READ_MODELS).await.unwrap();
    let stocked = one.api.stock_product("p", ("TEA", "Tea", 450), 500).await.unwrap();
    let user_id = one.api.register("ada").await.unwrap();
    let (account_id, opened) = one.api.open_account("a", user_id, 1_000_000).await.unwrap();
    let ada = Cart { user_id, account_id, items: vec![("TEA".to_owned(), 1)], country: "DE".to_owned() };
    let after = [&stocked, &opened].map(|answer| answer.position().unwrap());
    let before = one.api.place("before", &ada, &after).await.unwrap().expect(202, "an order").unwrap();
    let mut carried = ada.body();
    carried["workflow"] = "orchestration".into();
    let carried = one.api.post(Service::Orders, "/orders", "carried", &carried).await.unwrap();
    carried.expect(202, "an order").unwrap();
    one.settled().await.unwrap();
    let lengths = one.lengths().await.unwrap();
    assert!(one.stop().await);
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (backup, keys) = (at("backup"), at("keys"));
    let (code, said) =
        run(&["backup", &backup, "--keys-to", &keys, "--nats-url", &one.nats.url()]).await.unwrap();
    assert_eq!(code, Some(0), "{said}");

    let mut three = World::empty_cluster(READ_MODELS).await.unwrap();
    three.config.master_key = one.config.master_key.clone();
    let place = ["--nats-url", &three.config.nats_url, "--replicas", "3"];
    let restore = [&["restore", &backup, "--keys-from", &keys][..], &place].concat();
    // Nodes of a new cluster may still be looking for each other: the same command goes on where it was.
    eventually("all of it is put back", ACCEPTED, async || {
        let (code, said) = run(&restore).await.unwrap();
        assert!(code == Some(0) || said.contains("cannot create"), "{said}");
        (code == Some(0)).then_some(())
    })
    .await;
    assert_eq!(three.lengths().await.unwrap(), lengths);

    // It goes on, with what was there, on three nodes that have all of it.
    three.resume().await.unwrap();
    let order = three.api.order(before.id().unwrap()).await.unwrap().body;
    assert_eq!(order["status"], "completed", "{order}");
    let again = three.api.place("before", &ada, &after).await.unwrap();
    assert_eq!((again.status, again.id().unwrap()), (202, before.id().unwrap()), "nothing happens twice");
    place_one(&three.api, "after", &ada).await;
    let audit = three.settled().await.unwrap();
    assert_eq!(audit.ends(), BTreeMap::from([("completed", 3)]));
    eventually("every stream has three copies, all of them current", ACCEPTED, async || {
        let all = request(&three.nats.url(), "$JS.API.STREAM.LIST", "").await.unwrap();
        let streams = all["streams"].as_array().unwrap();
        assert_eq!(all["total"], streams.len(), "all on one page");
        let copied = |stream: &Value| {
            let others = stream["cluster"]["replicas"].as_array().into_iter().flatten();
            stream["config"]["num_replicas"] == 3
                && others.filter(|other| other["current"] == true).count() == 2
        };
        let fewer: Vec<_> = streams.iter().filter(|one| !copied(one)).map(|one| &one["config"]).collect();
        fewer.is_empty().then_some(())
    })
    .await;
    let read_models = three.read_models();
    let place: Vec<_> = read_models.iter().map(String::as_str).collect();
    let verify = ["verify", "--nats-url", &three.config.nats_url];
    let (code, said) = run(&[&verify, &place[..]].concat()).await.unwrap();
    assert!(code == Some(0) && said.contains("everything agrees"), "{said}");
    assert!(three.stop().await);
}
