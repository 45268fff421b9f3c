//! Which instance of a service is asked, through the gateway: those that are well, evenly, and those that fail only when
//! they are well again.

use crate::rig::{OPEN, Rig, serve, until};
use axum::{Router, http::StatusCode, routing::get};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

/// An instance that can be made to fail and to be ill, and counts what it is asked.
struct Instance {
    address: SocketAddr,
    fails: Arc<AtomicBool>,
    ill: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
}

impl Instance {
    async fn start() -> Self {
        let (fails, ill, asked) =
            (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default(), Arc::default());
        let status = |bad: bool| if bad { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::OK };
        let (failing, count) = (Arc::clone(&fails), Arc::<AtomicUsize>::clone(&asked));
        let answer = async move || {
            count.fetch_add(1, Ordering::SeqCst);
            status(failing.load(Ordering::SeqCst))
        };
        let illness = Arc::clone(&ill);
        let health = async move || status(illness.load(Ordering::SeqCst));
        let router = Router::new().route("/orders", get(answer)).route("/health", get(health));
        Self { address: serve(router).await, fails, ill, asked }
    }

    fn asked(&self) -> usize {
        self.asked.swap(0, Ordering::SeqCst)
    }
}

/// Asks so often, and gives the answers that were none.
async fn ask(rig: &Rig, times: usize) -> usize {
    let mut failed = 0;
    for _ in 0..times {
        failed += usize::from(rig.get("/api/orders").await.status != 200);
    }
    failed
}

fn config(policy: &str) -> String {
    // The breaker of all instances is out of the way, and nothing is asked twice.
    format!("{policy}\n[breaker]\nminimum = 100000\n{}", OPEN.replace("retry = true", "retry = false"))
}

#[tokio::test]
async fn an_instance_that_fails_is_left_alone_for_a_while() {
    let (well, bad) = (Instance::start().await, Instance::start().await);
    let policy = config("[ejection]\nfailures = 3\nbase = '5s'");
    let rig = Rig::start(&policy, &[("orders", well.address), ("orders", bad.address)]).await;
    assert_eq!(ask(&rig, 60).await, 0);
    let shares = [well.asked(), bad.asked()];
    assert!(shares.iter().all(|share| *share >= 10), "both are asked: {shares:?}");

    bad.fails.store(true, Ordering::SeqCst);
    let failed = ask(&rig, 60).await;
    assert_eq!((failed, bad.asked()), (3, 3), "after three failures in a row it is left alone");
    bad.fails.store(false, Ordering::SeqCst);
    until("it is asked again", async || {
        assert_eq!(ask(&rig, 1).await, 0);
        bad.asked() > 0
    })
    .await;
}

#[tokio::test]
async fn an_instance_that_says_it_is_ill_is_not_asked_until_it_is_well() {
    let (well, bad) = (Instance::start().await, Instance::start().await);
    let policy = config("[health]\nevery = '20ms'\nfall = 2\nrise = 2");
    let rig = Rig::start(&policy, &[("orders", well.address), ("orders", bad.address)]).await;
    bad.ill.store(true, Ordering::SeqCst);
    until("it is not asked any more", async || {
        bad.asked();
        assert_eq!(ask(&rig, 20).await, 0);
        bad.asked() == 0
    })
    .await;
    well.ill.store(true, Ordering::SeqCst);
    let mut answer = rig.get("/api/orders").await;
    until("nobody is left", async || {
        answer = rig.get("/api/orders").await;
        answer.status == 503
    })
    .await;
    assert_eq!(answer.problem(), "service-unavailable");
    assert_eq!(answer.json()["detail"], "Service orders is not available");
    assert!(answer.headers["retry-after"].parse::<u32>().unwrap() >= 1);
    bad.ill.store(false, Ordering::SeqCst);
    until("it is asked again", async || rig.get("/api/orders").await.status == 200).await;
    assert!(bad.asked() > 0);
}
