//! Several processes, callers that go away, and a server that does.

use crate::rig::{
    Change, DEADLINE, Process, Rig, again, apply, command, metadata, refused, shelf, sku, soon, until,
};
use commands::{ExecuteError, Key, Receipt, Stop};
use futures::{FutureExt, future::join_all};
use nats::AppendError;
use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

#[tokio::test(flavor = "multi_thread")]
async fn no_update_is_lost_between_two_processes() {
    let rig = Rig::start().await;
    let processes = [rig.process().await, rig.process().await];
    let shelves: Vec<Key<_>> = (0..3).map(|_| shelf()).collect();
    let puts = (0..300).map(|index: usize| {
        let (process, key) = (processes[index % 2].clone(), again(&shelves[index % 3]));
        tokio::spawn(async move {
            let id = command();
            while let Err(error) = process.repeat(id, &key, Change::Put(1)).await {
                assert!(matches!(error, ExecuteError::Contended), "{error}");
            }
        })
    });
    for put in soon("all puts", join_all(puts)).await {
        put.unwrap();
    }
    for key in &shelves {
        assert_eq!((processes[0].on(key).await, rig.versions(key).await), (100, 100));
    }
}

/// What another process changed is seen by whoever was told of it, also where nothing is to be appended.
#[tokio::test(flavor = "multi_thread")]
async fn a_stale_state_never_refuses_and_never_does_nothing() {
    let rig = Rig::start().await;
    let (here, there, key) = (rig.process().await, rig.process().await, shelf());
    here.change(&key, Change::Put(1)).await.unwrap();
    here.change(&key, Change::Take(1)).await.unwrap();
    for _ in 0..20 {
        assert!(refused(&here.change(&key, Change::Take(1)).await));
        there.change(&key, Change::Put(2)).await.unwrap();
        here.change(&key, Change::Take(1)).await.unwrap();
        assert_eq!(here.change(&key, Change::Clear).await.unwrap().events, 1);
        assert_eq!(here.change(&key, Change::Clear).await.unwrap().events, 0);
        there.change(&key, Change::Put(1)).await.unwrap();
        assert_eq!(here.change(&key, Change::Clear).await.unwrap().events, 1);
    }
}

/// Between client and server: holds back what the server says while it is shut.
async fn gate(server: &str) -> (String, watch::Sender<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("nats://{}", listener.local_addr().unwrap());
    let server = server.trim_start_matches("nats://").to_owned();
    let (shut, shutting) = watch::channel(false);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let upstream = TcpStream::connect(&server).await.unwrap();
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = upstream.into_split();
            tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
            let mut shutting = shutting.clone();
            tokio::spawn(async move {
                let mut buffer = vec![0; 65536];
                while let Ok(read @ 1..) = from_server.read(&mut buffer).await {
                    if shutting.wait_for(|shut| !shut).await.is_err()
                        || to_client.write_all(&buffer[..read]).await.is_err()
                    {
                        return;
                    }
                }
            });
        }
    });
    (url, shut)
}

/// The answer to an append is on its way while another process changes the shelf, and a command is asked after that.
/// The append's answer tells nothing of the change.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_on_its_way_does_not_make_the_state_fresh() {
    let rig = Rig::start().await;
    let (url, shut) = gate(&rig.server.url()).await;
    let (here, there, key) = (Process::at(&url).await, rig.process().await, shelf());
    here.change(&key, Change::Put(1)).await.unwrap();
    here.change(&key, Change::Take(1)).await.unwrap();
    shut.send_replace(true);
    let shuffling = tokio::spawn({
        let (here, key) = (here.clone(), again(&key));
        async move { here.change(&key, Change::Shuffle(1)).await }
    });
    until("it is recorded", async || rig.versions(&key).await == 3).await;
    there.change(&key, Change::Put(1)).await.unwrap();
    let taking = here.executor.execute(vec![key.load()], metadata(command()), apply(&key, Change::Take(1)));
    let mut taking = Box::pin(taking);
    assert!((&mut taking).now_or_never().is_none(), "it waits in the lane");
    shut.send_replace(false);
    soon("shuffled", shuffling).await.unwrap().unwrap();
    let taken = soon("taken", taking).await;
    assert!(taken.is_ok(), "refused on a state older than the question: {taken:?}");
}

/// Callers go away at any moment: what was recorded stays whole, and the lanes go on.
#[tokio::test(flavor = "multi_thread")]
async fn callers_that_go_away_leave_the_lanes_usable() {
    let rig = Rig::start().await;
    let (process, other) = (rig.process().await, rig.process().await);
    let shelves: Vec<Key<_>> = (0..3).map(|_| shelf()).collect();
    let mut kept = Vec::new();
    let mut random = fastrand::Rng::with_seed(7);
    for index in 0..400_usize {
        let by = if random.u8(..4) == 0 { &other } else { &process };
        let (by, a, b) = (by.clone(), again(&shelves[index % 3]), again(&shelves[random.usize(..3)]));
        let id = command();
        let task = tokio::spawn(async move {
            let put = move |decision: &mut commands::Decision| -> Result<(), Stop> {
                decision.apply(&a, (sku(&a), Change::Put(1)))?;
                decision.apply(&b, (sku(&b), Change::Put(1)))
            };
            by.run(id, vec![], put).await
        });
        if random.bool() {
            for _ in 0..random.usize(..20) {
                tokio::task::yield_now().await;
            }
            task.abort();
        }
        kept.push((id, task));
    }
    let mut answered: HashSet<String> = HashSet::new();
    for (id, task) in kept {
        match soon("an answer", task).await {
            Ok(Ok(_)) => assert!(answered.insert(id.to_string())),
            Ok(Err(error)) => assert!(matches!(error, ExecuteError::Contended), "{error}"),
            Err(aborted) => assert!(aborted.is_cancelled()),
        }
    }
    for key in &shelves {
        process.change(key, Change::Put(2)).await.unwrap();
        assert_eq!(process.on(key).await, rig.versions(key).await + 1);
        other.change(key, Change::Take(1)).await.unwrap();
    }
    let log = rig.log().await;
    let mut events: std::collections::HashMap<String, usize> = std::collections::HashMap::new();
    for message in &log {
        *events.entry(message.envelope().unwrap().command.to_string()).or_default() += 1;
    }
    for id in answered {
        assert_eq!(events.get(&id), Some(&2), "what was confirmed is there, once and whole");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_server_it_fails_quickly_and_recovers_by_itself() {
    let rig = Rig::start().await;
    let (process, warm, cold) = (rig.process().await, shelf(), shelf());
    process.change(&warm, Change::Put(1)).await.unwrap();
    rig.server.pause();
    rig.server.kill().await;
    let mut failed = 0;
    let recovered = Instant::now();
    while failed == 0 || process.change(&warm, Change::Put(1)).await.is_err() {
        for key in [&warm, &cold] {
            let start = Instant::now();
            match process.change(key, Change::Put(1)).await {
                Ok(_) => failed += 1,
                Err(
                    ExecuteError::Append(AppendError::Unavailable(_) | AppendError::Unknown)
                    | ExecuteError::Load(_),
                ) => {
                    failed += 1;
                }
                Err(error) => panic!("{error:?}"),
            }
            assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
        }
        assert!(recovered.elapsed() < DEADLINE);
    }
    assert_eq!(process.on(&warm).await, rig.versions(&warm).await);
    let stopped = rig.process().await;
    let Rig { server, folder, .. } = rig;
    server.stop().await;
    until("disconnected", async || !stopped.executor.is_ready()).await;
    let start = Instant::now();
    let result: Result<Receipt, _> = stopped.change(&shelf(), Change::Put(1)).await;
    assert!(matches!(result, Err(ExecuteError::Append(AppendError::Unavailable(_)))), "{result:?}");
    assert!(start.elapsed() < Duration::from_secs(3), "at once, not after waiting: {:?}", start.elapsed());
    drop(folder);
}

/// Every acknowledged command is there once, whatever dies: the same command is asked until it is answered. No shelf has more
/// commands than an aggregate remembers: of older ones callers know themselves (ADR 9).
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_doubles_nothing_and_loses_nothing() {
    let rig = Rig::start().await;
    let processes = [rig.process().await, rig.process().await];
    let shelves: Vec<Key<_>> = (0..4).map(|_| shelf()).collect();
    let puts: Vec<_> = (0..120_usize)
        .map(|index| {
            let processes = processes.clone();
            let (a, b) = (again(&shelves[index % 4]), again(&shelves[(index / 4) % 4]));
            tokio::spawn(async move {
                let id = command();
                for round in 0.. {
                    let (a, b) = (again(&a), again(&b));
                    let put = move |decision: &mut commands::Decision| -> Result<(), Stop> {
                        decision.apply(&a, (sku(&a), Change::Put(1)))?;
                        decision.apply(&b, (sku(&b), Change::Put(1)))
                    };
                    // Also by the other process.
                    if processes[(index + round) % 2].run(id, vec![], put).await.is_ok() {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            })
        })
        .collect();
    for part in 1..=2 {
        until("a part is through", async || puts.iter().filter(|put| put.is_finished()).count() >= part * 30)
            .await;
        rig.server.kill().await;
        assert!(rig.server.ready(DEADLINE).await);
    }
    for put in soon("all puts", join_all(puts)).await {
        put.unwrap();
    }
    let mut total = 0;
    for key in &shelves {
        let (on, versions) = (processes[0].on(key).await, rig.versions(key).await);
        assert_eq!(on, versions);
        total += on;
    }
    assert_eq!(total, 240);
}

/// The server hangs longer than anybody waits, while a group is on its way.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_whose_answer_is_late_is_neither_lost_nor_doubled() {
    let rig = Rig::start().await;
    let (process, key) = (rig.process().await, shelf());
    process.change(&key, Change::Put(1)).await.unwrap();
    rig.server.pause();
    let given_up = Arc::new(AtomicUsize::new(0));
    let puts: Vec<_> = (0..20)
        .map(|_| {
            let (process, key, given_up) = (process.clone(), again(&key), given_up.clone());
            tokio::spawn(async move {
                let id = command();
                loop {
                    match process.repeat(id, &key, Change::Put(1)).await {
                        Ok(_) => return,
                        Err(
                            ExecuteError::Append(AppendError::Unknown | AppendError::Unavailable(_))
                            | ExecuteError::Load(_),
                        ) => {
                            given_up.fetch_add(1, Ordering::Relaxed);
                            tokio::time::sleep(Duration::from_millis(20)).await;
                        }
                        Err(error) => panic!("{error:?}"),
                    }
                }
            })
        })
        .collect();
    until("the answer is given up", async || given_up.load(Ordering::Relaxed) > 0).await;
    rig.server.resume();
    for put in soon("all puts", join_all(puts)).await {
        put.unwrap();
    }
    assert_eq!((process.on(&key).await, rig.versions(&key).await), (21, 21));
}
