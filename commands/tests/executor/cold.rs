//! Cold loads: with snapshots, without, and with ones that lie.

use crate::rig::{Change, Rig, command, shelf, until};
use events::EventId;
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
