//! Commands that share a flight: each gets its own answer.

use crate::rig::{Change, Rig, again, apply, command, refused, shelf, sku, soon, until};
use commands::{ExecuteError, Key, Stop};
use futures::future::join_all;
use nats::{AppendError, Write};
use std::collections::HashSet;

#[tokio::test(flavor = "multi_thread")]
async fn a_hot_shelf_takes_many_commands_in_few_appends() {
    let rig = Rig::start().await;
    let (process, key) = (rig.process().await, shelf());
    let results = join_all((0..100).map(|_| process.change(&key, Change::Put(1)))).await;
    let positions: HashSet<u64> =
        results.into_iter().map(|result| result.unwrap().position.sequence).collect();
    assert_eq!(positions.len(), 100, "everybody gets the position of his own event");
    assert_eq!((process.on(&key).await, rig.versions(&key).await), (100, 100));
    let appends = process.count(r#"waybill_appends_total{outcome="stored"}"#);
    assert!(appends <= 20, "{appends} appends");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_in_a_group_concerns_nobody_else() {
    let rig = Rig::start().await;
    let (process, key) = (rig.process().await, shelf());
    process.change(&key, Change::Put(20)).await.unwrap();
    let results = join_all((0..50).map(|_| process.change(&key, Change::Take(1)))).await;
    let (taken, empty): (Vec<_>, Vec<_>) = results.iter().partition(|result| result.is_ok());
    assert_eq!((taken.len(), empty.len()), (20, 30));
    assert!(empty.into_iter().all(refused));
    assert_eq!((process.on(&key).await, rig.versions(&key).await), (0, 21));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_fails_alone() {
    let rig = Rig::start().await;
    let (process, key) = (rig.process().await, shelf());
    let change = |index: usize| if index % 10 == 3 { Change::Describe(2 << 20) } else { Change::Put(1) };
    let results = join_all((0..30).map(|index| process.change(&key, change(index)))).await;
    for (index, result) in results.into_iter().enumerate() {
        match result {
            Err(ExecuteError::Append(AppendError::TooLarge { .. })) => assert_eq!(index % 10, 3),
            other => assert!(index % 10 != 3 && other.is_ok(), "{other:?}"),
        }
    }
    assert_eq!((process.on(&key).await, rig.versions(&key).await), (27, 27));
}

/// Two clear the shelf at once: the second finds nothing to do because of the first, and must not be answered with a
/// position at which the shelf is still full.
#[tokio::test(flavor = "multi_thread")]
async fn who_needs_no_change_is_told_where_the_change_is() {
    let rig = Rig::start().await;
    let (process, key) = (rig.process().await, shelf());
    // While the first one flies, the others gather.
    let (put, cleared) = tokio::join!(
        process.change(&key, Change::Put(5)),
        join_all((0..10).map(|_| process.change(&key, Change::Clear)))
    );
    put.unwrap();
    let receipts: Vec<_> = cleared.into_iter().map(Result::unwrap).collect();
    assert_eq!(receipts.iter().map(|receipt| receipt.events).sum::<usize>(), 1);
    for receipt in receipts {
        assert_eq!(receipt.position.sequence, 2, "{receipt:?}");
    }
}

/// A shelf whose log cannot be read, and commands that touch it beside others that do not.
#[tokio::test(flavor = "multi_thread")]
async fn a_shelf_that_cannot_be_read_fails_only_those_who_need_it() {
    let rig = Rig::start().await;
    let (process, good, bad) = (rig.process().await, shelf(), shelf());
    process.change(&bad, Change::Put(1)).await.unwrap();
    let last = rig.log().await.pop().unwrap().record().unwrap();
    let mut envelope = last.envelope;
    (envelope.schema, envelope.id) = (99, events::EventId::new(command().uuid()));
    let broken = Write::new(bad.subject(), Some(last.position.sequence), &envelope, None, b"{}".to_vec());
    process.executor.store().append(vec![broken]).await.unwrap();
    process.executor.forget();
    let results = join_all((0..20).map(|index| {
        let (process, good, bad) = (process.clone(), again(&good), again(&bad));
        async move {
            let mut keys = vec![good.load()];
            if index % 4 == 1 {
                keys.push(bad.load());
            }
            (index % 4 == 1, process.run(command(), keys, apply(&good, Change::Put(1))).await)
        }
    }))
    .await;
    for (needs, result) in results {
        assert_eq!(needs, matches!(result, Err(ExecuteError::Unreadable { .. })), "{result:?}");
    }
    assert_eq!(process.on(&good).await, 15);
}

/// Jobs name their shelves one after the other, in any order, while others hold them.
#[tokio::test(flavor = "multi_thread")]
async fn commands_over_several_shelves_never_wait_for_each_other_for_ever() {
    let rig = Rig::start().await;
    let (one, two) = (rig.process().await, rig.process().await);
    let shelves: Vec<Key<_>> = (0..6).map(|_| shelf()).collect();
    let jobs = (0..300_u64).map(|job| {
        let mut random = fastrand::Rng::with_seed(job);
        let mut mine: Vec<Key<_>> = shelves.iter().map(again).collect();
        random.shuffle(&mut mine);
        mine.truncate(random.usize(1..=4));
        let (count, known) = (mine.len() as u64, random.usize(..=mine.len()));
        let keys: Vec<_> = mine[..known].iter().map(Key::load).collect();
        let mine = std::sync::Arc::new(mine);
        let process = if random.bool() { one.clone() } else { two.clone() };
        tokio::spawn(async move {
            let put = move |decision: &mut commands::Decision| -> Result<(), Stop> {
                // One after the other: each is named only after the one before was seen.
                mine.iter().try_for_each(|key| decision.apply(key, (sku(key), Change::Put(1))))
            };
            let id = command();
            loop {
                match process.run(id, keys.clone(), put.clone()).await {
                    Ok(receipt) => return (count, receipt.events as u64, receipt.replayed),
                    Err(ExecuteError::Contended) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        })
    });
    let done = soon("all jobs", join_all(jobs)).await;
    let mut expected = 0;
    for job in done {
        let (count, events, replayed) = job.unwrap();
        assert!(events == count || replayed);
        expected += count;
    }
    let mut found = 0;
    for key in &shelves {
        let (on, versions) = (one.on(key).await, rig.versions(key).await);
        assert_eq!(on, versions);
        found += on;
    }
    assert_eq!(found, expected);
    until("the lanes are free", async || one.change(&shelves[0], Change::Put(1)).await.is_ok()).await;
}
