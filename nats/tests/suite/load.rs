//! Loading: whatever the tail and the snapshots say, the history is that of the subject.

use crate::rig::{Rig, command, event, first, item, sized};
use events::{Subject, envelope::header};
use nats::{History, Snapshot, Tail, Write};
use serde_json::value::RawValue;

const SCHEMA: &str = "item/test";

fn sequences(history: &History) -> Vec<u64> {
    history.messages.iter().map(|message| message.position.sequence).collect()
}

/// Appends so many events in one append, with tails as the executor writes them.
async fn grow(rig: &Rig, of: &Subject, count: usize) -> History {
    let history = rig.store.load(of, SCHEMA).await.unwrap();
    let version = match (history.messages.last(), &history.snapshot) {
        (Some(last), _) => last.envelope().unwrap().version,
        (None, Some(snapshot)) => snapshot.version,
        (None, None) => 0,
    };
    let id = command();
    let write = |index: usize| {
        let distances: Vec<usize> = (1..=index).rev().collect();
        let expect = (index == 0).then_some(history.last);
        event(of, expect, id, index, version + 1 + index as u64, history.tail.header(&distances))
    };
    rig.store.append((0..count).map(write).collect()).await.unwrap();
    rig.store.load(of, SCHEMA).await.unwrap()
}

fn snapshot(schema: &str, history: &History) -> Snapshot {
    Snapshot {
        schema: schema.to_owned(),
        sequence: history.last,
        version: history.messages.last().unwrap().envelope().unwrap().version,
        commands: vec![],
        state: RawValue::from_string("{}".to_owned()).unwrap(),
    }
}

/// The aggregate's sequences as the stream has them.
async fn truth(rig: &Rig, of: &Subject) -> Vec<u64> {
    rig.log().await.iter().filter(|m| m.subject == *of).map(|m| m.position.sequence).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn histories_of_every_length_load_whole() {
    let rig = Rig::start().await;
    let of = item();
    let none = rig.store.load(&of, SCHEMA).await.unwrap();
    assert_eq!((none.last, none.messages.len()), (0, 0));
    for count in [1, 4, 1, 20, 2, 100, 3, 1] {
        let history = grow(&rig, &of, count).await;
        rig.store.append(vec![first(&item())]).await.unwrap();
        assert_eq!(sequences(&history), truth(&rig, &of).await);
        assert_eq!(history.last, *sequences(&history).last().unwrap());
        assert!(
            history.messages.iter().zip(1..).all(|(m, n)| m.header(header::SEQUENCE) == Some(&n.to_string()))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_used_only_if_it_is_of_the_right_shape() {
    let rig = Rig::start().await;
    let of = item();
    let history = grow(&rig, &of, 5).await;
    assert!(rig.store.save_snapshot(&of, &snapshot(SCHEMA, &history)).await);
    let mut tail = history.tail;
    tail.rebase(history.last);
    let next = event(&of, Some(history.last), command(), 0, 6, tail.header(&[]));
    rig.store.append(vec![next]).await.unwrap();
    let used = rig.store.load(&of, SCHEMA).await.unwrap();
    assert_eq!((used.snapshot.map(|s| s.sequence), used.messages.len(), used.last), (Some(5), 1, 6));
    let other = rig.store.load(&of, "item/other").await.unwrap();
    assert!(other.snapshot.is_none());
    assert_eq!(sequences(&other), truth(&rig, &of).await);
}

/// What the tail of the last event says, and what is in the bucket, in every contradiction.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_tail_or_a_lost_snapshot_costs_time_and_nothing_else() {
    let rig = Rig::start().await;
    let of = item();
    let whole = grow(&rig, &of, 6).await;
    let whole_tail = whole.tail.clone();
    let tails = [
        None,
        Some("?".to_owned()),
        Some("nonsense".to_owned()),
        // A snapshot that was lost.
        Some(Tail { snapshot: 4, since: vec![5, 6], broken: false }.header(&[]).unwrap()),
        // A sequence of another aggregate.
        Some("0;1,2,3,4,5,7".to_owned()),
        // Sequences that do not exist.
        Some("0;1,2,3,4,5,999999".to_owned()),
    ];
    rig.store.append(vec![first(&item())]).await.unwrap();
    let mut last = whole.last;
    for (version, tail) in (7..).zip(tails) {
        last = rig
            .store
            .append(vec![event(&of, Some(last), command(), 0, version, tail.clone())])
            .await
            .unwrap()
            .first;
        let loaded = rig.store.load(&of, SCHEMA).await.unwrap();
        assert_eq!(sequences(&loaded), truth(&rig, &of).await, "{tail:?}");
        assert_eq!(loaded.tail.since, sequences(&loaded), "the next event's tail is whole again");
    }
    // A snapshot older than the tail says: a late writer overwrote a newer one.
    let now = rig.store.load(&of, SCHEMA).await.unwrap();
    assert!(
        rig.store.save_snapshot(&of, &Snapshot { sequence: 3, version: 3, ..snapshot(SCHEMA, &now) }).await
    );
    let mut tail = whole_tail;
    tail.rebase(last);
    rig.store.append(vec![event(&of, Some(last), command(), 0, 13, tail.header(&[]))]).await.unwrap();
    let loaded = rig.store.load(&of, SCHEMA).await.unwrap();
    assert_eq!(loaded.snapshot.as_ref().map(|s| s.sequence), Some(3));
    assert_eq!(sequences(&loaded), truth(&rig, &of).await[3..]);
}

/// More than the server puts into one answer, by number and by bytes.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_history_is_repaired_whole() {
    let rig = Rig::start().await;
    // Eighty megabytes beside every other test: how fast is not the question here.
    let store = rig.with_timeout(std::time::Duration::from_mins(1));
    let (many, large) = (item(), item());
    let id = command();
    let mut last = 0;
    for (part, count) in [(0, 300), (300, 300)] {
        let write = |index: usize| {
            event(&many, (index == part).then_some(last), id, index, index as u64 + 1, Some("?".to_owned()))
        };
        let writes: Vec<Write> = (part..part + count).map(write).collect();
        last = store.append(writes).await.unwrap().first + count as u64 - 1;
    }
    let loaded = store.load(&many, SCHEMA).await.unwrap();
    assert_eq!(sequences(&loaded), truth(&rig, &many).await);
    let mut last = 0;
    for version in 1..=80 {
        let tail = Some("?".to_owned());
        let write = sized(&large, Some(last), (command(), 0, version), tail, 1_040_000);
        last = store.append(vec![write]).await.unwrap().first;
    }
    let loaded = store.load(&large, SCHEMA).await.unwrap();
    assert_eq!(loaded.messages.len(), 80);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_command_is_found() {
    let rig = Rig::start().await;
    let (of, id) = (item(), command());
    rig.store
        .append(vec![event(&of, Some(0), id, 0, 1, None), event(&of, None, id, 1, 2, None)])
        .await
        .unwrap();
    grow(&rig, &of, 3).await;
    assert_eq!(rig.store.find_command(&of, id).await.unwrap().map(|p| p.sequence), Some(1));
    assert_eq!(rig.store.find_command(&of, command()).await.unwrap(), None);
}
