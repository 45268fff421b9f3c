//! Reading a stream: in order, without gap or repetition, to the end it had or for ever.

use crate::rig::{DEADLINE, Rig, command, event, first, item, rest, soon, until};
use events::{Context, Subject};
use futures::FutureExt;
use nats::{Filter, From, Message, Reader, ReplayError, Until};

async fn open(rig: &Rig, from: From, to: Until, filter: Filter) -> Reader {
    soon("open", Reader::open(&rig.connection, Context::Inventory, from, to, filter)).await.unwrap()
}

async fn read(rig: &Rig, from: From, filter: Filter) -> Vec<u64> {
    let mut reader = open(rig, from, Until::End, filter).await;
    sequences(&soon("the end", rest(&mut reader)).await)
}

fn sequences(messages: &[Message]) -> Vec<u64> {
    messages.iter().map(|message| message.position.sequence).collect()
}

async fn fill(rig: &Rig, count: usize) -> Vec<Subject> {
    let items: Vec<Subject> = (0..count).map(|_| item()).collect();
    rig.store.append(items.iter().map(first).collect()).await.unwrap();
    items
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reading_starts_where_it_is_told_and_ends_where_the_stream_ended() {
    let rig = Rig::start().await;
    let all = Filter::default;
    for from in [From::Start, From::Sequence(0), From::Sequence(9), From::Now] {
        assert!(read(&rig, from, all()).await.is_empty(), "an empty stream, {from:?}");
    }
    let items = fill(&rig, 5).await;
    let stored = rig.log().await[4].stored;
    until("time passes", async || {
        rig.store.append(vec![first(&item())]).await.unwrap();
        rig.log().await.last().unwrap().stored > stored
    })
    .await;
    let end = rig.log().await.len() as u64;
    let later = rig.log().await.last().unwrap().stored;
    assert_eq!(read(&rig, From::Start, all()).await, (1..=end).collect::<Vec<_>>());
    assert_eq!(read(&rig, From::Sequence(3), all()).await, (3..=end).collect::<Vec<_>>());
    assert!(read(&rig, From::Sequence(end + 1), all()).await.is_empty());
    assert!(read(&rig, From::Now, all()).await.is_empty());
    assert_eq!(read(&rig, From::Time(later), all()).await, [end]);
    assert!(read(&rig, From::Time(later + jiff::SignedDuration::from_hours(1)), all()).await.is_empty());
    let subject = |text: &str| Filter { subject: Some(text.to_owned()), ..Filter::default() };
    assert_eq!(read(&rig, From::Start, subject(items[2].as_str())).await, [3]);
    assert!(read(&rig, From::Start, subject(item().as_str())).await.is_empty());
    let kinds = |kind: &str| Filter { kinds: vec![kind.to_owned()], ..Filter::default() };
    assert_eq!(read(&rig, From::Start, kinds("stock.received")).await.len() as u64, end);
    assert!(read(&rig, From::Start, kinds("stock.shipped")).await.is_empty());
    let correlation = rig.log().await[1].envelope().unwrap().correlation;
    let correlated = Filter { correlation: Some(correlation), ..Filter::default() };
    assert_eq!(read(&rig, From::Start, correlated).await, [2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reading_to_the_end_does_not_follow_what_comes_later() {
    let rig = Rig::start().await;
    let items = fill(&rig, 3).await;
    for subject in [None, Some(items[0].to_string())] {
        let filter = Filter { subject, ..Filter::default() };
        let mut reader = open(&rig, From::Start, Until::End, filter.clone()).await;
        let end = reader.end().unwrap();
        let last = rig.store.last(&items[0]).await.unwrap().unwrap();
        let version = last.envelope().unwrap().version + 1;
        rig.store
            .append(vec![event(&items[0], Some(last.position.sequence), command(), 0, version, None)])
            .await
            .unwrap();
        let read = sequences(&soon("the end", rest(&mut reader)).await);
        assert!(!read.is_empty() && read.iter().all(|sequence| *sequence <= end), "{read:?} to {end}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_survives_the_server_without_gap_or_repetition() {
    let rig = Rig::start().await;
    fill(&rig, 100).await;
    let mut reader = open(&rig, From::Start, Until::Forever, Filter::default()).await;
    let mut seen = Vec::new();
    for round in 1..=3_usize {
        while seen.len() < round * 100 {
            // Small batches, and given up every now and then: nothing may be lost.
            let batch = reader.next_batch(7).now_or_never();
            match batch {
                Some(batch) => seen.extend(sequences(&batch.unwrap())),
                None => seen.extend(sequences(&soon("more", reader.next_batch(7)).await.unwrap())),
            }
        }
        rig.server.kill().await;
        assert!(rig.server.ready(DEADLINE).await);
        rig.connected().await;
        fill(&rig, 100).await;
    }
    while seen.len() < 400 {
        seen.extend(sequences(&soon("the rest", reader.next_batch(1000)).await.unwrap()));
    }
    assert_eq!(seen, (1..=400).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_event_is_never_stepped_over() {
    let rig = Rig::start().await;
    fill(&rig, 2).await;
    let client = rig.client().await;
    client.request("evt.inventory.nonsense", "x".into()).await.unwrap();
    fill(&rig, 1).await;
    let mut reader = open(&rig, From::Start, Until::End, Filter::default()).await;
    let mut before = Vec::new();
    while before.len() < 2 {
        before.extend(sequences(&reader.next_batch(10).await.unwrap()));
    }
    assert_eq!(before, [1, 2]);
    for _ in 0..3 {
        let error = soon("an answer", reader.next_batch(10)).await.unwrap_err();
        assert!(
            matches!(&error, ReplayError::Foreign { position, .. } if position == "INVENTORY:3"),
            "{error:?}"
        );
    }
    assert_eq!(reader.position().sequence, 2);
}
