//! Buckets: compare-and-set, lifetimes, watching.

use crate::rig::{Rig, soon};
use futures::StreamExt;
use nats::{Bucket, BucketConfig, Change};
use std::time::Duration;

async fn bucket(rig: &Rig) -> Bucket {
    let config = BucketConfig { name: "THINGS", description: "Things", max_age: Duration::ZERO, replicas: 1 };
    Bucket::ensure(&rig.connection, &config).await.unwrap()
}

#[tokio::test]
async fn of_two_writers_one_wins() {
    let rig = Rig::bare().await;
    let bucket = bucket(&rig).await;
    let (a, b) = tokio::join!(bucket.create("k", &1, None), bucket.create("k", &2, None));
    let (a, b) = (a.unwrap(), b.unwrap());
    assert_eq!([a, b].iter().flatten().count(), 1, "{a:?} {b:?}");
    let kept = bucket.get::<u32>("k").await.unwrap().unwrap();

    let (a, b) = tokio::join!(
        bucket.update("k", &3, kept.revision, None),
        bucket.update("k", &4, kept.revision, None)
    );
    assert_eq!([a.unwrap(), b.unwrap()].iter().flatten().count(), 1);
}

#[tokio::test]
async fn what_was_removed_can_be_created_again() {
    let rig = Rig::bare().await;
    let bucket = bucket(&rig).await;
    bucket.put("k", &1, None).await.unwrap();
    bucket.remove("k").await.unwrap();
    assert_eq!(bucket.get::<u32>("k").await.unwrap(), None);
    assert!(bucket.create("k", &2, None).await.unwrap().is_some());
    assert_eq!(bucket.get::<u32>("k").await.unwrap().unwrap().value, 2);
}

#[tokio::test]
async fn a_watcher_sees_what_is_there_and_what_changes_and_the_end_of_a_lifetime() {
    let rig = Rig::bare().await;
    let bucket = bucket(&rig).await;
    bucket.put("old", &1, None).await.unwrap();
    let mut changes = Box::pin(bucket.watch::<u32>().await.unwrap());
    let mut next = async || soon("a change", changes.next()).await.unwrap().unwrap();
    assert_eq!(next().await, Change::Put { key: "old".into(), value: 1 });

    bucket.put("short", &2, Some(Duration::from_secs(1))).await.unwrap();
    assert_eq!(next().await, Change::Put { key: "short".into(), value: 2 });
    assert_eq!(next().await, Change::Gone { key: "short".into() });
    assert_eq!(bucket.get::<u32>("short").await.unwrap(), None);
    bucket.remove("old").await.unwrap();
    assert_eq!(next().await, Change::Gone { key: "old".into() });
}

/// A lifetime that is renewed does not end.
#[tokio::test]
async fn a_heartbeat_keeps_a_key() {
    let rig = Rig::bare().await;
    let bucket = bucket(&rig).await;
    let life = Some(Duration::from_secs(1));
    let mut changes = Box::pin(bucket.watch::<u32>().await.unwrap());
    for beat in 0..3 {
        bucket.put("beating", &beat, life).await.unwrap();
        bucket.put("other", &beat, life).await.unwrap();
        let put = soon("the beat", changes.next()).await.unwrap().unwrap();
        assert_eq!(put, Change::Put { key: "beating".into(), value: beat });
        soon("the other", changes.next()).await.unwrap().unwrap();
    }
    let gone = soon("the end", changes.next()).await.unwrap().unwrap();
    assert!(matches!(gone, Change::Gone { .. }), "{gone:?}");
}
