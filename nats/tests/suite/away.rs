//! A world that is away: what fails because of it is tried until it is back, and parks nothing.

use crate::{
    parking::{add, discard, letter, retry, unacknowledged, worker},
    rig::{Rig, item, soon, until},
};
use events::Subject;
use nats::{Consumer, ConsumerMetrics, Handler, Manner, Retry};
use prometheus_client::{encoding::text::encode, registry::Registry};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// More than may wait behind a message that is itself to blame.
const BEHIND: u64 = 80;

/// How often reactions failed, by who is to blame.
fn failures(metrics: &ConsumerMetrics, cause: &str) -> u64 {
    let (mut registry, mut text) = (Registry::default(), String::new());
    metrics.register(&mut registry);
    encode(&mut text, &registry).unwrap();
    let label = format!("cause=\"{cause}\"");
    let of = |line: &&str| line.starts_with("waybill_reaction_failures_total{") && line.contains(&label);
    text.lines().find(of).and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_because_the_world_is_away_waits_for_it_and_is_never_parked() {
    let rig = Rig::start().await;
    let (cut_off, other) = (item(), item());
    let (away, handled) = (Arc::new(AtomicBool::new(true)), Arc::new(Mutex::new(Vec::new())));
    let handler: Handler = {
        let (away, handled, cut_off) = (Arc::clone(&away), Arc::clone(&handled), cut_off.clone());
        Arc::new(move |recorded| {
            let fails = away.load(Ordering::Relaxed) && recorded.subject == cut_off;
            if !fails {
                handled.lock().unwrap().push((recorded.subject.clone(), recorded.envelope.version));
            }
            Box::pin(async move { if fails { Err(Retry::world("the carrier is away")) } else { Ok("done") } })
        })
    };
    let of = |subject| {
        let handled = handled.lock().unwrap();
        handled.iter().filter(|(of, _)| *of == subject).map(|(_, version)| *version).collect::<Vec<_>>()
    };
    add(&rig, &cut_off, 1..=BEHIND).await;
    add(&rig, &other, 1..=3).await;
    let (metrics, stop) = (ConsumerMetrics::default(), CancellationToken::new());
    // Whoever is to blame himself is parked at once.
    let consumer = Consumer { metrics: metrics.clone(), ..worker(&rig, "park:1").await };
    let running = tokio::spawn(consumer.run(handler, stop.clone()));
    until("it has failed often", async || failures(&metrics, "world") >= 6).await;
    assert_eq!(failures(&metrics, "message"), 0);
    until("all others flow", async || of(other.clone()).len() == 3).await;
    assert_eq!((letter(&rig, &cut_off).await, of(cut_off.clone())), (None, vec![]));
    away.store(false, Ordering::Relaxed);
    until("it is back", async || of(cut_off.clone()).len() as u64 == BEHIND).await;
    assert_eq!(of(cut_off.clone()), (1..=BEHIND).collect::<Vec<_>>(), "in order, and each once");
    until("nothing is unacknowledged", async || unacknowledged(&rig).await == (0, 0)).await;
    stop.cancel();
    soon("stop", running).await.unwrap();
}

/// Brought back while the world is away, it is tried until the world is back, or it is given up; and what stands behind it is
/// brought back all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_brought_back_waits_for_the_world_and_can_be_given_up_meanwhile() {
    let rig = Rig::start().await;
    let (mended, given_up, halfway) = (item(), item(), item());
    let (state, tried) = (Arc::new(Mutex::new("poisoned")), Arc::new(Mutex::new(Vec::new())));
    let handler: Handler = {
        let (state, tried, halfway) = (Arc::clone(&state), Arc::clone(&tried), halfway.clone());
        Arc::new(move |recorded| {
            let first = recorded.subject == halfway && recorded.envelope.version == 1;
            let outcome = match *state.lock().unwrap() {
                "poisoned" => Err(Retry::message("it is poisoned")),
                "away" if !first => Err(Retry::world("the carrier is away")),
                _ => Ok("done"),
            };
            tried.lock().unwrap().push((
                recorded.subject.clone(),
                recorded.envelope.version,
                outcome.is_ok(),
            ));
            Box::pin(async move { outcome })
        })
    };
    let failed = |subject: &Subject, version| {
        let tried = tried.lock().unwrap();
        tried.iter().filter(|(of, which, done)| of == subject && *which == version && !done).count()
    };
    let stop = CancellationToken::new();
    let running = tokio::spawn(worker(&rig, "park:1").await.run(handler, stop.clone()));
    let mut letters = Vec::new();
    for of in [&mended, &given_up, &halfway] {
        add(&rig, of, 1..=3).await;
        until("it is parked, and what follows waits", async || {
            letter(&rig, of).await.is_some_and(|letter| letter.through == letter.failure.sequence + 2)
        })
        .await;
        letters.push(letter(&rig, of).await.unwrap());
    }
    *state.lock().unwrap() = "away";
    for letter in &letters {
        retry(&rig, letter).await;
    }
    let tries = [(&mended, 1), (&given_up, 1), (&halfway, 2)];
    for (of, version) in tries {
        until("it is tried on and on", async || failed(of, version) >= 3).await;
    }
    for (of, before) in [&mended, &given_up].into_iter().zip(&letters) {
        assert_eq!(letter(&rig, of).await.as_ref(), Some(before), "neither is parked once more");
    }
    // Of the one that is halfway the first is handled already: giving that up changes nothing.
    for letter in &letters[1..] {
        discard(&rig, letter).await;
    }
    let before = failed(&halfway, 2);
    until("what is behind it is tried on and on", async || failed(&given_up, 2) >= 3).await;
    until("and so behind what is handled", async || failed(&halfway, 2) >= before + 3).await;
    assert!(letter(&rig, &mended).await.is_some());
    *state.lock().unwrap() = "there";
    for of in [&mended, &given_up, &halfway] {
        until("nothing waits", async || letter(&rig, of).await.is_none()).await;
    }
    for (of, handled) in [(mended, vec![1, 2, 3]), (given_up, vec![2, 3]), (halfway, vec![1, 2, 3])] {
        let tried = tried.lock().unwrap();
        let done = tried.iter().filter(|(subject, _, done)| *subject == of && *done);
        assert_eq!(done.map(|(_, version, _)| *version).collect::<Vec<_>>(), handled);
    }
    stop.cancel();
    soon("stop", running).await.unwrap();
}

/// What the world does not take goes back to the server; what cannot be told to anybody is parked like everything else.
#[tokio::test(flavor = "multi_thread")]
async fn who_tells_gives_back_what_the_world_does_not_take_and_parks_what_cannot_be_told() {
    let rig = Rig::start().await;
    let (late, bad) = (item(), item());
    let (away, told) = (Arc::new(AtomicBool::new(true)), Arc::new(Mutex::new(Vec::new())));
    let handler: Handler = {
        let (away, told, bad) = (Arc::clone(&away), Arc::clone(&told), bad.clone());
        Arc::new(move |recorded| {
            let outcome = if recorded.subject == bad && recorded.envelope.version == 1 {
                Err(Retry::message("the letter cannot be written"))
            } else if away.load(Ordering::Relaxed) {
                Err(Retry::world("no mail server"))
            } else {
                told.lock().unwrap().push((recorded.subject.clone(), recorded.envelope.version));
                Ok("sent")
            };
            Box::pin(async move { outcome })
        })
    };
    let metrics = ConsumerMetrics::default();
    let (first, last) = (Duration::from_millis(50), Duration::from_millis(200));
    let manner = Manner::Tell { first, last };
    let consumer = Consumer { manner, metrics: metrics.clone(), ..worker(&rig, "park:2").await };
    consumer.ensure().await.unwrap();
    let stop = CancellationToken::new();
    let running = tokio::spawn(consumer.run(handler, stop.clone()));
    add(&rig, &late, 1..=1).await;
    add(&rig, &bad, 1..=2).await;
    until("it is parked", async || letter(&rig, &bad).await.is_some()).await;
    let parked = letter(&rig, &bad).await.unwrap().failure;
    assert_eq!((parked.attempts, parked.error.as_str()), (2, "the letter cannot be written"));
    until("the other comes again and again", async || failures(&metrics, "world") >= 4).await;
    assert_eq!(letter(&rig, &late).await, None);
    away.store(false, Ordering::Relaxed);
    until("it is told", async || *told.lock().unwrap() == [(late.clone(), 1)]).await;
    stop.cancel();
    soon("stop", running).await.unwrap();
}
