//! Appends: every outcome is told apart and means what it says.

use crate::rig::{DEADLINE, Rig, command, event, first, item, sized, soon};
use events::{CommandId, Subject, envelope::header};
use futures::future::join_all;
use nats::{AppendError, Appended, Durability, EventStore, StoreOptions, Write};
use std::{collections::HashMap, sync::Arc, time::Duration, time::Instant};

fn conflict(result: &Result<Appended, AppendError>) -> bool {
    matches!(result, Err(AppendError::Conflict))
}

#[tokio::test(flavor = "multi_thread")]
async fn one_event_or_many_are_recorded_with_their_sequences() {
    let rig = Rig::start().await;
    let (a, b) = (item(), item());
    assert_eq!(rig.store.append(vec![first(&a)]).await.unwrap(), Appended { first: 1, duplicate: false });
    let id = command();
    let many = vec![
        event(&a, Some(1), id, 0, 2, None),
        event(&b, Some(0), id, 1, 1, None),
        event(&a, None, id, 2, 3, None),
    ];
    assert_eq!(rig.store.append(many).await.unwrap(), Appended { first: 2, duplicate: false });
    let log = rig.log().await;
    let subjects: Vec<&Subject> = log.iter().map(|message| &message.subject).collect();
    assert_eq!(subjects, [&a, &a, &b, &a]);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_one_guard_fails_nothing_is_recorded() {
    let rig = Rig::start().await;
    let (a, b) = (item(), item());
    rig.store.append(vec![first(&a)]).await.unwrap();
    for wrong in [0, 7] {
        assert!(conflict(&rig.store.append(vec![event(&a, Some(wrong), command(), 0, 2, None)]).await));
        let id = command();
        let pair = vec![event(&b, Some(0), id, 0, 1, None), event(&a, Some(wrong), id, 1, 2, None)];
        assert!(conflict(&rig.store.append(pair).await));
    }
    assert_eq!(rig.log().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_append_is_told_apart_from_a_conflict() {
    let rig = Rig::start().await;
    let (a, b) = (item(), item());
    let only = first(&a);
    let single = || vec![only.clone()];
    let id = command();
    let batch = || vec![event(&b, Some(0), id, 0, 1, None), event(&b, None, id, 1, 2, None)];
    rig.store.append(single()).await.unwrap();
    rig.store.append(batch()).await.unwrap();
    assert_eq!(rig.store.append(single()).await.unwrap(), Appended { first: 1, duplicate: true });
    assert_eq!(rig.store.append(batch()).await.unwrap(), Appended { first: 2, duplicate: true });
    // Others have moved on.
    rig.store.append(vec![event(&a, Some(1), command(), 0, 2, None)]).await.unwrap();
    assert_eq!(rig.store.append(single()).await.unwrap(), Appended { first: 1, duplicate: true });
    assert_eq!(rig.log().await.len(), 4);
}

/// Another process recorded the first command of a group: the rest of the group must not count as recorded.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_of_which_only_the_first_was_recorded_is_a_conflict() {
    let rig = Rig::start().await;
    let a = item();
    let (one, two) = (command(), command());
    rig.store.append(vec![event(&a, Some(0), one, 0, 1, None)]).await.unwrap();
    let group = vec![event(&a, Some(0), one, 0, 1, None), event(&a, None, two, 0, 2, None)];
    assert!(conflict(&rig.store.append(group.clone()).await));
    // Also where the sequence behind is somebody else's.
    rig.store.append(vec![event(&a, Some(1), command(), 0, 2, None)]).await.unwrap();
    assert!(conflict(&rig.store.append(group).await));
    assert_eq!(rig.log().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_is_refused_before_it_is_sent() {
    let rig = Rig::start().await;
    let a = item();
    let large = sized(&a, Some(0), (command(), 0, 1), None, 1 << 20);
    let result = rig.store.append(vec![first(&item()), large]).await;
    assert!(matches!(result, Err(AppendError::TooLarge { size, max }) if size > max), "{result:?}");
    // As large as it gets: the server takes it, and the connection survives.
    rig.store.append(vec![sized(&a, Some(0), (command(), 0, 1), None, (1 << 20) - 2000)]).await.unwrap();
    assert_eq!(rig.log().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_stream_or_a_server_it_says_so_at_once() {
    let rig = Rig::bare().await;
    let start = Instant::now();
    let unavailable = |result| matches!(result, Err(AppendError::Unavailable(_)));
    assert!(unavailable(rig.store.append(vec![first(&item())]).await), "no stream");
    assert!(unavailable(rig.store.append(vec![first(&item()), first(&item())]).await), "no stream, a batch");
    let Rig { server, store, .. } = rig;
    server.stop().await;
    let disconnected = async {
        while store.is_connected() {
            tokio::task::yield_now().await;
        }
    };
    soon("disconnected", disconnected).await;
    assert!(unavailable(store.append(vec![first(&item())]).await), "no server");
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

/// The committer has a queue and so has the client: whoever waits for his turn, or for a place, waits no longer than for an
/// answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_holds_up_nobody_however_many_ask() {
    for durability in [Durability::Always, Durability::Interval] {
        let rig = Rig::start().await;
        let timeout = Duration::from_millis(500);
        let options = StoreOptions { durability, timeout, ..StoreOptions::default() };
        let store = EventStore::new(&rig.connection, options);
        rig.server.pause();
        let asked: Vec<_> = (0..11_000)
            .map(|_| {
                let (store, write) = (store.clone(), sized(&item(), Some(0), (command(), 0, 1), None, 8000));
                tokio::spawn(async move {
                    let start = Instant::now();
                    (store.append(vec![write]).await, start.elapsed())
                })
            })
            .collect();
        let mut longest = Duration::ZERO;
        for one in asked {
            let (result, took) = soon("an answer", one).await.unwrap();
            // Now and then the server answers before it hangs.
            let known = matches!(result, Ok(_) | Err(AppendError::Unknown | AppendError::Unavailable(_)));
            assert!(known, "{result:?}");
            longest = longest.max(took);
        }
        rig.server.resume();
        // The client notices after twenty seconds that nobody is there.
        assert!(longest < Duration::from_secs(8), "{durability}: {longest:?}");
    }
}

/// The server hangs longer than the store waits, and takes the append when it goes on.
#[tokio::test(flavor = "multi_thread")]
async fn an_append_whose_answer_is_late_is_neither_lost_nor_doubled() {
    let rig = Rig::start().await;
    let store = rig.with_timeout(Duration::from_millis(500));
    for count in [1, 3] {
        let (a, id) = (item(), command());
        let writes: Vec<Write> = (0..count)
            .map(|index| event(&a, (index == 0).then_some(0), id, index, index as u64 + 1, None))
            .collect();
        rig.server.pause();
        let (asking, asked) = tokio::sync::oneshot::channel();
        let hanging = tokio::spawn({
            let (store, writes) = (store.clone(), writes.clone());
            async move {
                let _ = asking.send(Instant::now());
                store.append(writes).await
            }
        });
        // The store has given up waiting after 500 ms and asks what became of it. How long is the point of the test.
        let asked = soon("the append has begun", asked).await.unwrap();
        tokio::time::sleep_until((asked + Duration::from_millis(900)).into()).await;
        rig.server.resume();
        match soon("an answer", hanging).await.unwrap() {
            // A signal takes a moment to stop every thread: now and then the server answers before it hangs.
            Ok(_) | Err(AppendError::Conflict | AppendError::Unknown) => {}
            other => panic!("{other:?}"),
        }
        // Whatever it said: asked again, the append stands exactly once.
        let again = rig.store.append(writes).await.unwrap();
        let log = rig.log().await;
        let of_a: Vec<u64> = log.iter().filter(|m| m.subject == a).map(|m| m.position.sequence).collect();
        assert_eq!(of_a, (again.first..again.first + count as u64).collect::<Vec<_>>());
    }
}

/// A chain of appends on one item until `enough`; what each one said.
async fn chain(
    store: EventStore,
    of: Subject,
    length: usize,
) -> Vec<(CommandId, usize, Result<Appended, AppendError>)> {
    let mut outcomes = Vec::new();
    let (mut last, mut version) = (0, 0);
    for step in 0..length {
        let (id, count) = (command(), 1 + step % 3);
        let writes = (0..count)
            .map(|index| {
                event(&of, (index == 0).then_some(last), id, index, version + 1 + index as u64, None)
            })
            .collect();
        let outcome = soon("an append", store.append(writes)).await;
        if outcome.is_err() {
            let known = async {
                loop {
                    if let Ok(found) = store.last(&of).await {
                        return found;
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            let found = soon("the server is back", known).await;
            last = found.as_ref().map_or(0, |message| message.position.sequence);
            version = found.map_or(0, |message| message.envelope().unwrap().version);
        } else if let Ok(appended) = &outcome {
            last = appended.first + count as u64 - 1;
            version += count as u64;
        }
        outcomes.push((id, count, outcome));
    }
    outcomes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_loses_nothing_it_confirmed_and_keeps_nothing_it_denied() {
    let rig = Arc::new(Rig::start().await);
    let store = rig.with_timeout(Duration::from_secs(1));
    let chains: Vec<_> = (0..40).map(|_| tokio::spawn(chain(store.clone(), item(), 40))).collect();
    for _ in 0..3 {
        let start = rig.log().await.len();
        crate::rig::until("some more are recorded", async || {
            rig.log().await.len() > start + 50 || chains.iter().all(tokio::task::JoinHandle::is_finished)
        })
        .await;
        rig.server.kill().await;
        assert!(rig.server.ready(DEADLINE).await);
        rig.connected().await;
    }
    let outcomes: Vec<_> =
        soon("all chains", join_all(chains)).await.into_iter().flat_map(Result::unwrap).collect();
    let mut found: HashMap<String, Vec<u64>> = HashMap::new();
    let log = rig.log().await;
    let mut versions: HashMap<Subject, u64> = HashMap::new();
    for message in &log {
        let id = message.header(header::COMMAND).unwrap().to_owned();
        found.entry(id).or_default().push(message.position.sequence);
        let version = versions.entry(message.subject.clone()).or_default();
        *version += 1;
        assert_eq!(message.envelope().unwrap().version, *version, "versions have no gap");
    }
    let (mut stored, mut failed) = (0, 0);
    for (id, count, outcome) in outcomes {
        let sequences = found.remove(&id.to_string()).unwrap_or_default();
        match outcome {
            Ok(Appended { first, .. }) => {
                stored += 1;
                assert_eq!(sequences, (first..first + count as u64).collect::<Vec<_>>());
            }
            Err(AppendError::Unknown) => assert!(sequences.is_empty() || sequences.len() == count),
            Err(error) => {
                failed += 1;
                assert!(sequences.is_empty(), "{error} but {sequences:?}");
            }
        }
    }
    assert!(found.is_empty(), "recorded by nobody: {found:?}");
    assert!(stored > failed, "{stored} recorded, {failed} denied");
}
