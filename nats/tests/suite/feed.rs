//! The change feed: told in order by one at a time, followed without a gap, and new when it was lost.

use crate::rig::{DEADLINE, Rig, soon, until};
use nats::{ChangeFeed, FeedError, FeedNews, FeedOptions, FeedRow, FeedTail, Told};
use std::{collections::BTreeMap, time::Duration};

const SERVICE: &str = "orders";

async fn open(rig: &Rig, options: FeedOptions) -> ChangeFeed {
    ChangeFeed::open(&rig.connection, SERVICE, options).await.unwrap()
}

fn row(key: u64, body: impl std::fmt::Display) -> FeedRow {
    let subject = events::feed::subject(SERVICE, "things", [key.to_string()]);
    FeedRow { subject, body: Some(format!("{body}").into()) }
}

/// Follows until the mark says this, and gives what was told.
async fn follow(tail: &mut FeedTail, position: &str) -> Vec<Told> {
    let mut all = Vec::new();
    let told = async {
        loop {
            let told = tail.next(1000).await.unwrap_or_default();
            let done =
                told.iter().any(|one| matches!(one.news, FeedNews::Mark { .. }) && one.position == position);
            all.extend(told);
            if done {
                return;
            }
        }
    };
    soon("the mark", told).await;
    all
}

fn keys(told: &[Told]) -> Vec<String> {
    let row = |one: &Told| match &one.news {
        FeedNews::Row { key, .. } => Some(key.join(".")),
        FeedNews::Mark { .. } | FeedNews::Anew => None,
    };
    told.iter().filter_map(row).collect()
}

#[tokio::test]
async fn of_two_who_tell_one_is_overtaken_and_has_told_nothing() {
    let rig = Rig::start().await;
    let (one, two) = (open(&rig, FeedOptions::default()).await, open(&rig, FeedOptions::default()).await);
    let head = one.head().await.unwrap();
    assert_eq!(head.position, None);
    let begun = one.begin(&head, "ORDERS:0").await.unwrap();
    assert_eq!(begun.begins, 1);
    assert_eq!(two.head().await.unwrap(), begun);
    // More than one batch, whose last row comes with the mark.
    let told = two.tell(&begun, (0..1200).map(|key| row(key, key)).collect(), "ORDERS:9").await.unwrap();
    let late = one.tell(&begun, vec![row(1, "old")], "ORDERS:4").await;
    assert!(matches!(late, Err(FeedError::Overtaken)), "{late:?}");
    let again = one.head().await.unwrap();
    assert_eq!(again, told);
    one.tell(&again, vec![], "ORDERS:10").await.unwrap();

    let mut tail = two.tail();
    let all = follow(&mut tail, "ORDERS:10").await;
    assert_eq!(all[0].news, FeedNews::Anew);
    assert_eq!(keys(&all).len(), 1200);
    let sequences: Vec<_> = all.iter().map(|one| one.sequence).collect();
    assert!(sequences.is_sorted());
}

#[tokio::test]
async fn who_follows_late_gets_the_last_value_of_each_row_once() {
    let rig = Rig::start().await;
    let feed = open(&rig, FeedOptions::default()).await;
    let mut head = feed.begin(&feed.head().await.unwrap(), "ORDERS:0").await.unwrap();
    let (mut early, mut last) = (feed.tail(), BTreeMap::new());
    for number in 1..=60_u64 {
        let key = number % 7;
        head = feed.tell(&head, vec![row(key, number)], &format!("ORDERS:{number}")).await.unwrap();
        last.insert(key.to_string(), number);
    }
    let mut late = feed.tail();
    let mut found = keys(&follow(&mut late, "ORDERS:60").await);
    found.sort();
    assert_eq!(found, last.into_keys().collect::<Vec<_>>());
    assert!(!keys(&follow(&mut early, "ORDERS:60").await).is_empty());
}

#[tokio::test]
async fn a_full_feed_says_so_and_begins_anew() {
    let rig = Rig::start().await;
    let feed = open(&rig, FeedOptions { most_bytes: 100_000, ..FeedOptions::default() }).await;
    let mut head = feed.begin(&feed.head().await.unwrap(), "ORDERS:0").await.unwrap();
    let mut tail = feed.tail();
    let text = "x".repeat(1000);
    let mut full = false;
    for number in 0..200_u64 {
        match feed.tell(&head, vec![row(number, &text)], &format!("ORDERS:{number}")).await {
            Ok(next) => head = next,
            Err(error) => {
                assert!(matches!(error, FeedError::Full), "{error:?}");
                full = true;
                break;
            }
        }
    }
    assert!(full);
    // What is changed again needs no more room.
    head = feed.head().await.unwrap();
    let begun = feed.begin(&head, "ORDERS:500").await.unwrap();
    assert!(begun.begins > 1);
    let all = follow(&mut tail, "ORDERS:500").await;
    assert_eq!(all.last().unwrap().news, FeedNews::Mark { begins: begun.begins });
    let next = feed.tell(&begun, vec![row(1, &text)], "ORDERS:501").await.unwrap();
    assert_eq!(feed.head().await.unwrap(), next);
    let all = follow(&mut tail, "ORDERS:501").await;
    assert_eq!(all.last().unwrap().news, FeedNews::Mark { begins: begun.begins }, "every mark says it");
}

#[tokio::test]
async fn the_mark_outlives_the_rows() {
    let rig = Rig::start().await;
    let options = FeedOptions { retention: Duration::from_secs(1), ..FeedOptions::default() };
    let feed = open(&rig, options).await;
    let head = feed.begin(&feed.head().await.unwrap(), "ORDERS:0").await.unwrap();
    let told = feed.tell(&head, vec![row(1, 1), row(2, 2)], "ORDERS:2").await.unwrap();
    until("the rows are gone", async || {
        let mut tail = feed.tail();
        keys(&follow(&mut tail, "ORDERS:2").await).is_empty()
    })
    .await;
    assert_eq!(feed.head().await.unwrap(), told);
}

#[tokio::test]
async fn a_feed_that_is_lost_with_its_server_is_another_one() {
    let rig = Rig::start().await;
    let feed = open(&rig, FeedOptions::default()).await;
    let head = feed.begin(&feed.head().await.unwrap(), "ORDERS:0").await.unwrap();
    feed.tell(&head, vec![row(1, 1)], "ORDERS:1").await.unwrap();
    let mut tail = feed.tail();
    follow(&mut tail, "ORDERS:1").await;
    let epoch = tail.epoch();
    rig.server.kill().await;
    assert!(rig.server.ready(DEADLINE).await);
    rig.connected().await;
    until("it can be reached", async || feed.head().await.is_ok()).await;
    let head = feed.head().await.unwrap();
    assert_eq!(head.position, None, "nobody knows what was told");
    feed.begin(&head, "ORDERS:7").await.unwrap();
    let all = follow(&mut tail, "ORDERS:7").await;
    assert!(all.iter().any(|one| one.news == FeedNews::Anew), "{all:?}");
    assert_ne!(tail.epoch(), epoch);
}

#[tokio::test]
async fn other_settings_change_the_stream() {
    let rig = Rig::start().await;
    let usual = FeedOptions::default();
    let feed = open(&rig, usual).await;
    let head = feed.begin(&feed.head().await.unwrap(), "ORDERS:0").await.unwrap();
    let longer = open(&rig, FeedOptions { retention: usual.retention * 2, ..usual }).await;
    assert_eq!(longer.head().await.unwrap(), head);
}
