//! Cold loads: with snapshots, without, and with ones that lie.

use crate::rig::{Change, Rig, Shelf, again, command, refused, shelf, until};
use commands::Key;
use events::{EventId, Fact, inventory::ItemEvent};
use futures::future::join_all;
use nats::{Snapshot, Tail, Write};
use serde_json::value::RawValue;

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_are_written_and_shorten_the_load() {
    let rig = Rig::start().await;
    let (process, key) = (rig.process().await, shelf());
    for _ in 0..120 {
        process.change(&key, Change::Put(1)).await.unwrap();
    }
    let store = process.executor.store();
    until("snapshots are kept", async || {
        process.change(&key, Change::Put(1)).await.unwrap();
        let history = store.load(key.subject(), "shelf/1").await.unwrap();
        history.snapshot.is_some_and(|snapshot| snapshot.sequence > 90) && history.messages.len() < 64
    })
    .await;
    let cold = rig.process().await;
    assert_eq!(cold.on(&key).await, rig.versions(&key).await);
    assert_eq!(cold.count(r#"waybill_loads_total{path="repair"}"#), 0);
    cold.change(&key, Change::Put(1)).await.unwrap();
    assert_eq!(process.on(&key).await, rig.versions(&key).await);
}

/// Somebody changed the state's shape and forgot to change its name.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_cannot_be_read_is_ignored() {
    let rig = Rig::start().await;
    let (process, key) = (rig.process().await, shelf());
    for _ in 0..5 {
        process.change(&key, Change::Put(2)).await.unwrap();
    }
    // An event whose tail relies on a snapshot.
    let last = rig.log().await.pop().unwrap();
    let mut envelope = last.envelope().unwrap();
    (envelope.id, envelope.version) = (EventId::new(command().uuid()), 6);
    let tail = Tail { snapshot: 4, since: vec![5], broken: false }.header(&[]);
    let write = Write::new(key.subject(), Some(5), &envelope, tail, last.body().to_vec());
    process.executor.store().append(vec![write]).await.unwrap();
    let state = RawValue::from_string(r#"{"shape":"unknown"}"#.to_owned()).unwrap();
    let snapshot =
        Snapshot { schema: "shelf/1".to_owned(), sequence: 6, version: 6, commands: vec![], state };
    assert!(process.executor.store().save_snapshot(key.subject(), &snapshot).await);
    let cold = rig.process().await;
    assert_eq!(cold.on(&key).await, 10);
    cold.change(&key, Change::Take(10)).await.unwrap();
    assert_eq!((cold.on(&key).await, rig.versions(&key).await), (0, 7));
}

/// Whatever two processes do: a load finds what reading the whole stream finds.
#[tokio::test(flavor = "multi_thread")]
async fn a_load_is_the_fold_of_the_whole_history() {
    let rig = Rig::start().await;
    let processes = [rig.process().await, rig.process().await];
    let shelves: Vec<Key<Shelf>> = (0..4).map(|_| shelf()).collect();
    for round in 0..12_u64 {
        let changes = (0..40_u64).map(|job| {
            let mut random = fastrand::Rng::with_seed(round * 1000 + job);
            let (process, key) = (processes[random.usize(..2)].clone(), again(&shelves[random.usize(..4)]));
            let change = match random.u8(..4) {
                0 => Change::Put(random.u32(1..9)),
                1 => Change::Take(random.u32(1..9)),
                2 => Change::Shuffle(random.u32(1..6)),
                _ => Change::Clear,
            };
            tokio::spawn(async move {
                let result = process.change(&key, change).await;
                assert!(result.is_ok() || refused(&result), "{result:?}");
            })
        });
        for change in join_all(changes).await {
            change.unwrap();
        }
        let (log, cold) = (rig.log().await, rig.process().await);
        for key in &shelves {
            let of_key: Vec<_> = log.iter().filter(|message| message.subject == *key.subject()).collect();
            let history = cold.executor.store().load(key.subject(), "shelf/1").await.unwrap();
            let covered = history.snapshot.as_ref().map_or(0, |snapshot| snapshot.sequence);
            let behind: Vec<u64> =
                of_key.iter().map(|message| message.position.sequence).filter(|at| *at > covered).collect();
            let loaded: Vec<u64> = history.messages.iter().map(|message| message.position.sequence).collect();
            assert_eq!(loaded, behind);
            let Some(last) = of_key.last() else { continue };
            assert_eq!(history.last, last.position.sequence);
            let Fact::Item(ItemEvent::Adjusted(fact)) = last.fact().unwrap() else { panic!("{last:?}") };
            assert_eq!(cold.on(key).await, fact.stock.on_hand);
            assert_eq!(rig.versions(key).await, of_key.len() as u64);
        }
    }
}
