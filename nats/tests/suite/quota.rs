//! Quotas: members that share one, and what is left of it.

use crate::rig::{Rig, until};
use nats::{Ask, Known, Quota, QuotaKey, QuotaTerms, Recalls};
use std::time::Duration;

const KEY: &[u8] = b"somebody";

async fn join(rig: &Rig) -> (Quota, Recalls) {
    Quota::join(&rig.connection, 1).await.unwrap()
}

fn ask(quota: u32, known: Option<Known>, now: i64) -> Ask<'static> {
    let terms = QuotaTerms { quota, window: Duration::from_secs(1) };
    Ask { key: QuotaKey::new(&[KEY]), terms, known, gone: &[], now }
}

#[tokio::test]
async fn who_finds_nothing_left_calls_back_what_others_have_not_spent() {
    let rig = Rig::bare().await;
    let (a, mut recalls) = join(&rig).await;
    let (b, _) = join(&rig).await;
    let first = a.lease(&ask(2, None, 0)).await.unwrap();
    assert_eq!((first.granted, first.left, first.ends), (1, 1, 1000));
    assert!(first.sole.is_some());
    let second = b.lease(&ask(2, None, 10)).await.unwrap();
    assert_eq!((second.granted, second.left, second.ends, second.sole), (1, 0, 1000, None));
    let third = b.lease(&ask(2, None, 20)).await.unwrap();
    assert_eq!((third.granted, third.others.len()), (0, 1));

    let giving = async {
        let recall = recalls.next().await.unwrap();
        assert_eq!((recall.key, recall.ends), (QuotaKey::new(&[KEY]), 1000));
        assert!(a.give_back(recall.key, recall.ends, 1, 30).await.unwrap());
        recall.done().await;
    };
    let (answered, ()) = tokio::join!(b.recall(&third.others[0], QuotaKey::new(&[KEY]), 1000), giving);
    assert!(answered);
    let fourth = b.lease(&ask(2, None, 40)).await.unwrap();
    assert_eq!((fourth.granted, fourth.others), (1, vec![]));
    assert!(!a.give_back(QuotaKey::new(&[KEY]), 1000, 1, 50).await.unwrap(), "it holds nothing any more");
    // Nobody listens for one that is gone, and that is known at once.
    drop(recalls);
    until("the end of listening", async || !b.recall(&third.others[0], QuotaKey::new(&[KEY]), 1000).await)
        .await;
}

#[tokio::test]
async fn a_record_that_was_changed_meanwhile_is_read_again() {
    let rig = Rig::bare().await;
    let (a, _recalls) = join(&rig).await;
    let (b, _recalls) = join(&rig).await;
    let first = a.lease(&ask(100, None, 0)).await.unwrap();
    b.lease(&ask(100, None, 0)).await.unwrap();
    let known = Known { ends: first.ends, taken: 1, alone: 0, sole: first.sole };
    let third = a.lease(&ask(100, Some(known), 0)).await.unwrap();
    assert_eq!((third.granted, third.left), (2, 96), "the one of the other is counted");
    assert_eq!((third.sole, third.others.len()), (None, 1));
}

/// What is kept of a client ends with its window, and leaves nothing behind.
#[tokio::test]
async fn nothing_is_left_behind() {
    let rig = Rig::bare().await;
    let (a, _recalls) = join(&rig).await;
    for window in 0..5 {
        let lease = a.lease(&ask(5, None, window * 1000)).await.unwrap();
        assert_eq!((lease.granted, lease.left), (1, 4), "a new window");
    }
    let jetstream = async_nats::jetstream::new(rig.client().await);
    let messages = async || {
        let mut stream = jetstream.get_stream("KV_QUOTAS").await.unwrap();
        stream.info().await.unwrap().state.messages
    };
    assert_eq!(messages().await, 1);
    until("the end of the record", async || messages().await == 0).await;
    assert_eq!(a.lease(&ask(5, None, 9000)).await.unwrap().granted, 1);
}
