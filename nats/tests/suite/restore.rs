//! Copies of streams: put back at the sequences they had, whatever is missing, and nowhere else.

use crate::rig::{DEADLINE, Rig, command, event, first, item, soon, until};
use async_nats::{HeaderMap, jetstream};
use events::{Context, Subject};
use nats::{
    Connection, Raw, RawReader, Write, raw,
    restore::{
        ARMED, BATCH, Restore, RestoreError, arm, complete, complete_bucket, copy_bucket, durables,
        put_bucket, resume,
    },
};
use std::time::Duration;

async fn all(connection: &Connection, context: Context) -> Vec<Raw> {
    let Some(state) = raw::state(connection, context).await.unwrap() else { return Vec::new() };
    let mut reader = RawReader::open(connection, context, 1, state.last, None);
    let mut all = Vec::new();
    loop {
        let page = soon("a page", reader.next_page()).await.unwrap();
        if page.is_empty() {
            return all;
        }
        all.extend(page);
    }
}

/// What must be the same of a copy. The server's headers of a batch are kept under another name.
fn told(raw: &Raw) -> (u64, String, Vec<(String, String)>, Vec<u8>) {
    let kept = |name: &str| !name.starts_with("Nats-Batch-") && name != BATCH;
    let headers = raw.headers().into_iter().filter(|(name, _)| kept(name));
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    (raw.sequence, raw.subject.clone(), headers, raw.body().to_vec())
}

/// A log with single events, a batch, and thousands more than a page holds.
async fn log(rig: &Rig) -> Subject {
    let one = item();
    rig.store.append(vec![first(&one)]).await.unwrap();
    let id = command();
    let tails = ["0;1", "0;1,-1", "0;1,-2,-1"].into_iter().enumerate();
    let write = |(at, tail): (usize, &str)| {
        event(&one, (at == 0).then_some(1), id, at, 2 + at as u64, Some(tail.to_owned()))
    };
    rig.store.append(tails.map(write).collect::<Vec<Write>>()).await.unwrap();
    for _ in 0..3 {
        rig.store.append((0..400).map(|_| first(&item())).collect()).await.unwrap();
    }
    one
}

async fn copy(from: &Rig, to: &Rig, context: Context) -> Result<(), RestoreError> {
    let messages = all(&from.connection, context).await;
    let last = raw::state(&from.connection, context).await.unwrap().unwrap().last;
    let mut restore = Restore::begin(&to.connection, context, 1, "a copy").await?;
    let count = messages.len() as u64;
    for raw in messages {
        restore.append(raw).await?;
    }
    restore.finish(last, count).await?;
    // No service starts before it is said that all is there.
    let under_way = nats::topology::ensure(&to.connection, &[context], 1).await.unwrap_err();
    assert!(under_way.to_string().contains("an import under way is set"), "{under_way}");
    complete(&to.connection, context, 1, (&serde_json::Value::Null, None)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_has_every_message_where_it_was_and_the_stream_is_closed() {
    let (from, to) = (Rig::start().await, Rig::start().await);
    let one = log(&from).await;
    // An empty stream is made anew.
    copy(&from, &to, Context::Inventory).await.unwrap();
    let (before, after) =
        (all(&from.connection, Context::Inventory).await, all(&to.connection, Context::Inventory).await);
    assert_eq!(before.len(), 1204);
    assert!(before.iter().map(told).eq(after.iter().map(told)));
    assert!(after[1].header(BATCH).is_some_and(|batch| batch.ends_with(";1")), "{:?}", after[1].headers());
    assert!(after[3].header(BATCH).is_some_and(|batch| batch.ends_with(";3;1")));
    // As the services want it: with what it forbids, and with its guards.
    nats::topology::ensure(&to.connection, &Context::ALL, 1).await.unwrap();
    assert_eq!(to.store.load(&one, "x").await.unwrap().messages.len(), 4);
    to.store.append(vec![event(&one, Some(4), command(), 0, 5, None)]).await.unwrap();
    let refused = copy(&from, &to, Context::Inventory).await;
    assert!(matches!(refused, Err(RestoreError::NotEmpty { messages: 1205, .. })), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_missing_is_missing_and_repeated_ids_are_both_there() {
    let (from, to) = (Rig::bare().await, Rig::bare().await);
    let (there, here) = (jetstream::new(from.client().await), jetstream::new(to.client().await));
    let config = jetstream::stream::Config {
        name: "ORDERS".to_owned(),
        subjects: vec!["evt.orders.>".to_owned()],
        allow_direct: true,
        duplicate_window: Duration::from_millis(100),
        ..Default::default()
    };
    let stream = there.create_stream(config).await.unwrap();
    for number in 0..12 {
        let mut headers = HeaderMap::new();
        headers
            .insert("Nats-Msg-Id", if number > 4 { "same".to_owned() } else { number.to_string() }.as_str());
        headers.append("Twice", "a");
        headers.append("Twice", "b");
        let stored = async || {
            let ack =
                there.publish_with_headers("evt.orders.order.x", headers.clone(), "{}".into()).await.unwrap();
            let ack = ack.await.unwrap();
            !ack.duplicate
        };
        until("the server has forgotten the id", stored).await;
    }
    let last = stream.get_info().await.unwrap().state.last_sequence;
    for gone in [1, 2, 6, last] {
        stream.delete_message(gone).await.unwrap();
    }
    copy(&from, &to, Context::Orders).await.unwrap();
    let (before, after) =
        (all(&from.connection, Context::Orders).await, all(&to.connection, Context::Orders).await);
    assert_eq!(before.len() as u64, last - 4);
    assert!(before.iter().map(told).eq(after.iter().map(told)));
    let state = here.get_stream("ORDERS").await.unwrap().get_info().await.unwrap();
    assert_eq!(
        (state.state.last_sequence, state.config.deny_delete, state.config.deny_purge),
        (last, true, true)
    );
    assert!(state.config.metadata.keys().all(|key| key.starts_with("_nats")), "{:?}", state.config.metadata);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_copy_goes_on_and_another_one_does_not() {
    let (from, to) = (Rig::start().await, Rig::bare().await);
    log(&from).await;
    let messages = all(&from.connection, Context::Inventory).await;
    let mut restore = Restore::begin(&to.connection, Context::Inventory, 1, "a copy").await.unwrap();
    for raw in &messages[..700] {
        restore.append(raw.clone()).await.unwrap();
    }
    drop(restore);
    let stands = async || raw::state(&to.connection, Context::Inventory).await.unwrap().unwrap().last == 700;
    until("what was sent is stored", stands).await;
    let weaker = nats::topology::ensure(&to.connection, &[Context::Inventory], 1).await.unwrap_err();
    assert!(weaker.to_string().contains("deny_delete is false"), "no service starts on half a log: {weaker}");
    let other = Restore::begin(&to.connection, Context::Inventory, 1, "another").await;
    assert!(matches!(other.err(), Some(RestoreError::NotEmpty { .. })));
    let mut again = Restore::begin(&to.connection, Context::Inventory, 1, "a copy").await.unwrap();
    assert_eq!(again.next(), 701);
    for raw in messages.clone() {
        again.append(raw).await.unwrap();
    }
    again.finish(1204, 1204).await.unwrap();
    // Also after the stream was closed, as long as the whole import is not done.
    let mut again = Restore::begin(&to.connection, Context::Inventory, 1, "a copy").await.unwrap();
    again.append(messages[0].clone()).await.unwrap();
    again.finish(1204, 1204).await.unwrap();
    assert!(all(&to.connection, Context::Inventory).await.iter().map(told).eq(messages.iter().map(told)));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_writes_meanwhile_is_noticed() {
    let (from, to) = (Rig::start().await, Rig::bare().await);
    log(&from).await;
    let messages = all(&from.connection, Context::Inventory).await;
    let mut restore = Restore::begin(&to.connection, Context::Inventory, 1, "a copy").await.unwrap();
    let client = jetstream::new(to.client().await);
    client.publish("evt.inventory.item.X", "{}".into()).await.unwrap().await.unwrap();
    let mut result = Ok(());
    for raw in messages {
        result = restore.append(raw).await;
        if result.is_err() {
            break;
        }
    }
    let displaced = matches!(result, Err(RestoreError::Displaced { stored: 2, sequence: 1, .. }));
    assert!(displaced, "{result:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn timers_that_stand_are_armed_behind_everything_else() {
    let (from, to) = (Rig::start().await, Rig::bare().await);
    let (late, soon_due) = crate::timers::armed(&from).await;
    let timers: Vec<_> = all(&from.connection, Context::Fulfilment)
        .await
        .into_iter()
        .filter(|raw| raw.subject.starts_with("timer."))
        .collect();
    assert_eq!(timers.len(), 2);
    let facts: Vec<_> = all(&from.connection, Context::Fulfilment)
        .await
        .into_iter()
        .filter(|raw| !raw.subject.starts_with("timer."))
        .collect();
    let mut restore = Restore::begin(&to.connection, Context::Fulfilment, 1, "a copy").await.unwrap();
    for raw in facts.clone() {
        restore.append(raw).await.unwrap();
    }
    restore.finish(4, facts.len() as u64).await.unwrap();
    let armed = arm(&to.connection, timers).await.unwrap();
    // The copy was one of a stream that was imported itself, in which one stood before: that is known on.
    let before = serde_json::json!({ "metadata": { ARMED: "3-3" } });
    complete(&to.connection, Context::Fulfilment, 1, (&before, armed)).await.unwrap();
    nats::topology::ensure(&to.connection, &[Context::Fulfilment], 1).await.unwrap();
    let state = raw::state(&to.connection, Context::Fulfilment).await.unwrap().unwrap();
    assert_eq!(state.config["metadata"][ARMED], "3-3 5-6");
    assert_eq!(nats::restore::armed(&state.config), [3..=3, 5..=6]);
    let due = async || {
        let now = all(&to.connection, Context::Fulfilment).await;
        let due: Vec<_> = now.iter().filter(|raw| raw.subject.starts_with("evt.fulfilment.timer.")).collect();
        due.len() == 1
            && due[0].subject.ends_with(&soon_due)
            && now.iter().any(|raw| raw.subject.contains(&late))
    };
    tokio::time::timeout(DEADLINE, until("one of them is due", due)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_goes_on_where_it_was() {
    let (from, to) = (Rig::start().await, Rig::bare().await);
    log(&from).await;
    let stream = jetstream::new(from.client().await).get_stream("INVENTORY").await.unwrap();
    let config =
        jetstream::consumer::pull::Config { durable_name: Some("x".to_owned()), ..Default::default() };
    let consumer = stream.create_consumer(config).await.unwrap();
    let mut batch = consumer.fetch().max_messages(7).messages().await.unwrap();
    while let Some(message) = futures::StreamExt::next(&mut batch).await {
        message.unwrap().double_ack().await.unwrap();
    }
    let found = durables(&from.connection, Context::Inventory).await.unwrap();
    assert_eq!(found.iter().map(|one| (one.name.as_str(), one.acknowledged)).collect::<Vec<_>>(), [("x", 7)]);
    copy(&from, &to, Context::Inventory).await.unwrap();
    resume(&to.connection, Context::Inventory, &found[0]).await.unwrap();
    let stream = jetstream::new(to.client().await).get_stream("INVENTORY").await.unwrap();
    let consumer: jetstream::consumer::PullConsumer = stream.get_consumer("x").await.unwrap();
    assert_eq!(consumer.cached_info().num_pending, 1204 - 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_is_put_back_with_what_has_a_value() {
    let (from, to) = (Rig::bare().await, Rig::bare().await);
    let config =
        nats::BucketConfig { name: "THINGS", description: "Things", max_age: Duration::ZERO, replicas: 1 };
    let bucket = nats::Bucket::ensure(&from.connection, &config).await.unwrap();
    for key in ["a", "b", "gone"] {
        bucket.put(key, &1, None).await.unwrap();
        bucket.put(key, &2, None).await.unwrap();
    }
    bucket.remove("gone").await.unwrap();
    let copy = copy_bucket(&from.connection, "THINGS").await.unwrap().unwrap();
    assert_eq!(copy.entries.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    put_bucket(&to.connection, "THINGS", copy.clone(), 1, "a copy").await.unwrap();
    put_bucket(&to.connection, "THINGS", copy.clone(), 1, "a copy").await.unwrap();
    complete_bucket(&to.connection, "THINGS", &copy.config, 1).await.unwrap();
    let put = nats::Bucket::ensure(&to.connection, &config).await.unwrap();
    assert_eq!(put.get::<u32>("a").await.unwrap().unwrap().value, 2);
    assert_eq!(put.get::<u32>("gone").await.unwrap(), None);
    assert!(matches!(
        put_bucket(&to.connection, "THINGS", copy, 1, "a copy").await,
        Err(RestoreError::NotEmpty { .. })
    ));
    assert!(copy_bucket(&to.connection, "NONE").await.unwrap().is_none());
}
