//! Where the feed could lose or repeat something: processes that die between commit and telling, rivals, rebuilds, a
//! nats-server that is restarted.

use crate::{
    client::Events,
    rig::{DEADLINE, OPERATOR, Rig, soon, until},
};
use nats::{FeedNews, Told};
use projections::{FeedMetrics, LiveOptions, Outlet};
use service::{Metrics, Shutdown};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::runtime::Runtime;

/// Everything that the feed has told, up to a position.
async fn told(rig: &Rig, position: &str) -> Vec<Told> {
    let mut tail = rig.changes("inventory").await.tail();
    let mut all = Vec::new();
    let reading = async {
        loop {
            let told = tail.next(1000).await.unwrap();
            let done =
                told.iter().any(|one| matches!(one.news, FeedNews::Mark { .. }) && one.position == position);
            all.extend(told);
            if done {
                return;
            }
        }
    };
    soon("the mark", reading).await;
    all
}

fn keys(told: &[Told]) -> BTreeMap<String, u64> {
    let row = |one: &Told| match &one.news {
        FeedNews::Row { key, .. } => Some((key[0].clone(), one.sequence)),
        FeedNews::Mark { .. } | FeedNews::Anew => None,
    };
    told.iter().filter_map(row).collect()
}

async fn outlet(rig: &Rig, metrics: &Metrics) -> Outlet {
    Outlet { feed: rig.changes("inventory").await, metrics: FeedMetrics::new(metrics) }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_committed_by_somebody_who_died_is_told_by_the_next() {
    somebody_dies(Rig::start().await).await;
}

pub(crate) async fn somebody_dies(rig: Rig) {
    let (metrics, first) = (Metrics::new(), Shutdown::new());
    let at = rig.product("A").await;
    let told_to = outlet(&rig, &metrics).await;
    let one = rig.projections("inventory", "x", Some(told_to), &metrics, &first).await;
    soon("it is told", told(&rig, &format!("INVENTORY:{at}"))).await;
    assert!(first.drain(DEADLINE).await);
    drop(one);
    // Commits, and never says so.
    let second = Shutdown::new();
    for name in ["B", "C", "B"] {
        rig.product(name).await;
    }
    let mute = rig.projections("inventory", "x", None, &metrics, &second).await;
    let caught_up = async {
        let position = "INVENTORY:4".parse().unwrap();
        mute.progress().wait_for(|progress| progress.has(position) == Some(true)).await.unwrap();
    };
    soon("it is committed", caught_up).await;
    assert!(second.drain(DEADLINE).await);
    let before = keys(&told(&rig, &format!("INVENTORY:{at}")).await);
    assert_eq!(before.into_keys().collect::<Vec<_>>(), ["A"], "nobody has told the others");
    let node = rig.node("inventory", "x", LiveOptions::default()).await;
    let found = keys(&told(&rig, "INVENTORY:4").await);
    assert_eq!(found.into_keys().collect::<Vec<_>>(), ["A", "B", "C"]);
    assert!(node.shutdown.drain(DEADLINE).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_on_the_same_tables_the_one_that_tells_tells_what_the_mute_one_commits() {
    one_of_two_is_mute(Rig::start().await).await;
}

pub(crate) async fn one_of_two_is_mute(rig: Rig) {
    let node = rig.node("inventory", "x", LiveOptions::default()).await;
    let (metrics, shutdown) = (Metrics::new(), Shutdown::new());
    let _mute = rig.projections("inventory", "x", None, &metrics, &shutdown).await;
    let mut list = node.follow("/products/stream", OPERATOR).await;
    list.expect("snapshot").await;
    let mut prices = BTreeMap::new();
    for number in 0..200 {
        rig.product(&format!("P{}", number % 5)).await;
    }
    let same = async {
        while prices != rig.prices() {
            let event = list.next().await.unwrap();
            if event.name == "change" {
                let sku = event.data["sku"].as_str().unwrap().to_owned();
                let price = event.data["price"]["amount"].as_u64().unwrap();
                assert!(prices.insert(sku, price).is_none_or(|before| before < price));
            }
        }
    };
    soon("all of it is told", same).await;
    assert!(shutdown.drain(DEADLINE).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_on_the_same_tables_the_other_tells_when_the_one_that_told_dies() {
    one_of_two_dies(Rig::start().await).await;
}

/// Whoever follows the second instance hears everything once, also what the first one committed when it died.
pub(crate) async fn one_of_two_dies(rig: Rig) {
    let rig = Arc::new(rig);
    // A runtime of its own, so that all of it ends at once, wherever it is.
    let doomed = Runtime::new().unwrap();
    let there = Arc::clone(&rig);
    let first = async move { there.node("inventory", "x", LiveOptions::default()).await };
    let first = doomed.spawn(first).await.unwrap();
    let second = rig.node("inventory", "x", LiveOptions::default()).await;
    let mut list = second.follow("/products/stream", OPERATOR).await;
    list.expect("snapshot").await;
    list.expect("live").await;
    let commits = "waybill_projection_commit_seconds_count{projection=\"inventory\"}";
    let over = Arc::new(AtomicBool::new(false));
    let writing = {
        let (rig, over) = (Arc::clone(&rig), Arc::clone(&over));
        let mut progress = second.projections.progress();
        tokio::spawn(async move {
            let mut number = 0;
            while !over.load(Ordering::SeqCst) {
                rig.product_behind(&mut progress, &format!("P{}", number % 5)).await;
                number += 1;
            }
        })
    };
    let (mut told, mut doomed) = (BTreeMap::<String, u64>::new(), Some(doomed));
    soon("the second one takes over", async {
        while doomed.is_some() || second.counted(commits) == 0.0 {
            hear(&mut list, &mut told).await;
            if told.values().sum::<u64>() > 100
                && first.counted(commits) > 0.0
                && let Some(doomed) = doomed.take()
            {
                let committed = second.counted(commits);
                assert!(!rig.is_on_postgres() || committed == 0.0, "{committed}");
                doomed.shutdown_background();
            }
        }
    })
    .await;
    over.store(true, Ordering::SeqCst);
    writing.await.unwrap();
    soon("all of it is told", async {
        while told != rig.prices() {
            hear(&mut list, &mut told).await;
        }
    })
    .await;
    // What was told ahead of the feed is told by now, and no id names it any more.
    rig.product("P9").await;
    let last = list.expect("change").await;
    assert_eq!((&last.data["sku"], last.id.contains('.')), (&"P9".into(), false), "{}", last.id);
    assert!(second.shutdown.drain(DEADLINE).await);
}

/// None comes twice, and none goes back.
async fn hear(list: &mut Events, told: &mut BTreeMap<String, u64>) {
    let event = list.expect("change").await;
    let sku = event.data["sku"].as_str().unwrap().to_owned();
    let price = event.data["price"]["amount"].as_u64().unwrap();
    let before = told.insert(sku.clone(), price).unwrap_or(0);
    assert!(before < price, "{sku}: {price} after {before}");
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_with_tables_of_their_own_tell_together_and_clients_may_change_over() {
    let rig = Rig::start().await;
    let one = rig.node("inventory", "one", LiveOptions::default()).await;
    let two = rig.node("inventory", "two", LiveOptions::default()).await;
    let (mut seen, mut cursor) = (BTreeMap::<String, u64>::new(), String::new());
    for number in 0..60 {
        rig.product(&format!("P{}", number % 5)).await;
        let node = [&one, &two][number % 2];
        let mut list = Events::open(
            node.address,
            "/products/stream?until=live",
            OPERATOR,
            Some(&cursor).filter(|cursor| !cursor.is_empty()).map(String::as_str),
        )
        .await
        .unwrap();
        while let Ok(event) = list.next().await {
            assert_ne!(event.name, "reset", "whoever changes over goes on where he was: {}", event.data);
            if event.name == "change" {
                let sku = event.data["sku"].as_str().unwrap().to_owned();
                let price = event.data["price"]["amount"].as_u64().unwrap();
                let before = seen.insert(sku, price).unwrap_or(0);
                // Both tell what both commit: a state may be told by each, and never an older one.
                assert!(before <= price, "{before} {price}");
            } else if event.name == "snapshot" {
                for item in event.data["items"].as_array().unwrap() {
                    let price = item["price"]["amount"].as_u64().unwrap();
                    seen.insert(item["sku"].as_str().unwrap().to_owned(), price);
                }
            }
        }
        cursor = list.last;
    }
    let mut list = Events::open(one.address, "/products/stream", OPERATOR, Some(&cursor)).await.unwrap();
    let same = async {
        while seen != rig.prices() {
            let event = list.next().await.unwrap();
            assert_ne!(event.name, "reset", "{}", event.data);
            if event.name == "change" {
                let sku = event.data["sku"].as_str().unwrap().to_owned();
                seen.insert(sku, event.data["price"]["amount"].as_u64().unwrap());
            }
        }
    };
    soon("all of it is told", same).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_are_built_again_say_nothing_of_what_was_told() {
    others_are_built(Rig::start().await).await;
}

pub(crate) async fn others_are_built(rig: Rig) {
    let node = rig.node("inventory", "old", LiveOptions::default()).await;
    for number in 0..50 {
        rig.product(&format!("P{}", number % 5)).await;
    }
    let before = keys(&told(&rig, "INVENTORY:50").await);
    assert!(node.shutdown.drain(DEADLINE).await);
    let fresh = rig.node("inventory", "new", LiveOptions::default()).await;
    let at = "INVENTORY:50".parse().unwrap();
    let built = async {
        fresh.projections.progress().wait_for(|progress| progress.has(at) == Some(true)).await.unwrap();
    };
    soon("it is built again", built).await;
    let next = rig.product("P9").await;
    let after = keys(&told(&rig, &format!("INVENTORY:{next}")).await);
    let mut expected = before.clone();
    expected.insert("P9".to_owned(), after["P9"]);
    assert_eq!(after, expected, "nothing was told again");
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_feed_is_lost_with_its_server_clients_begin_anew() {
    let rig = Rig::start().await;
    let node = rig.usual("inventory").await;
    rig.product("TEA").await;
    let mut list = node.follow("/products/stream?after=INVENTORY:1", OPERATOR).await;
    list.expect("snapshot").await;
    let id = list.expect("live").await.id;
    rig.server.kill().await;
    assert!(rig.server.ready(DEADLINE).await);
    until("the connection is repaired", async || rig.connection.is_connected()).await;
    until("events can be recorded", async || {
        nats::last_sequence(&rig.connection, events::Context::Inventory).await.is_ok()
    })
    .await;
    rig.product("TEA").await;
    let mut price = 1;
    let mut reset = false;
    let told = async {
        while price < 2 || !reset {
            let event = list.next().await.unwrap();
            reset |= event.name == "reset" && event.data["reason"] == "feed-lost";
            match event.name.as_str() {
                "snapshot" => price = event.data["items"][0]["price"]["amount"].as_u64().unwrap().max(price),
                "change" => price = event.data["price"]["amount"].as_u64().unwrap(),
                _ => {}
            }
        }
    };
    soon("it is told", told).await;
    rig.product("TEA").await;
    let told = async { while list.next().await.unwrap().data["price"]["amount"] != 3 {} };
    soon("it goes on", told).await;
    // Who was away meanwhile hears that his cursor is of another feed.
    let mut again = Events::open(node.address, "/products/stream", OPERATOR, Some(&id)).await.unwrap();
    assert_eq!(again.expect("reset").await.data["reason"], "another-feed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_far_behind_says_so_instead_of_telling_everything() {
    let rig = Rig::start().await;
    let node = rig.node("inventory", "x", LiveOptions { queue: 8, ..LiveOptions::default() }).await;
    let mut list = node.follow("/products/stream", OPERATOR).await;
    list.expect("snapshot").await;
    list.expect("live").await;
    // More than a client may let wait; the client reads, so that it is none of those that are dropped.
    for number in 0..40 {
        rig.product(&format!("P{number}")).await;
        list.expect("change").await;
    }
    let feed = rig.changes("inventory").await;
    until("everything is told", async || {
        feed.head().await.unwrap().position.as_deref() == Some("INVENTORY:40")
    })
    .await;
    // Somebody begins it anew: whoever follows has to look again.
    let head = feed.head().await.unwrap();
    feed.begin(&head, "INVENTORY:40").await.unwrap();
    assert_eq!(list.expect("reset").await.data["reason"], "feed-lost");
    list.expect("snapshot").await;
    list.expect("live").await;
    rig.product("P0").await;
    let next = tokio::time::timeout(Duration::from_secs(20), list.next()).await.unwrap().unwrap();
    assert_eq!(next.data["price"]["amount"], 2);
}

/// As long as nobody tells anything there is no place to go on from.
#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_is_told_who_wants_to_follow_hears_when_to_come_again() {
    let rig = Rig::start().await;
    let mute = rig.mute("inventory").await;
    rig.product("TEA").await;
    let refused = Events::open(mute.address, "/products/stream", OPERATOR, None).await.unwrap();
    assert_eq!(refused.status, 503, "{}", refused.head);
    assert!(refused.head.to_lowercase().contains("retry-after: 30"), "nothing moves: {}", refused.head);
    // With somebody who tells, another one comes in at once.
    let node = rig.node("inventory", "other", LiveOptions::default()).await;
    let mut list = node.follow("/products/stream?after=INVENTORY:1", OPERATOR).await;
    list.expect("snapshot").await;
    list.expect("live").await;
}
