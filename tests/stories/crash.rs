//! Processes are killed while hundreds of orders are under way. Nothing that was acknowledged is lost.

use crate::READ_MODELS;
use futures::future::join_all;
use projections::{View, database::Database};
use std::time::Duration;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use uuid::Uuid;
use waybill::api::{Api, Cart};
use waybill_tests::{Process, settled};

const FLAGS: &[&str] = &["--log", "warn"];
const ROUNDS: usize = 5;
const ORDERS: usize = 60;
const PAUSE: Duration = Duration::from_millis(50);
/// A request whose process was killed can be tried again under its key only after a while.
const ACCEPTED_WITHIN: Duration = Duration::from_mins(2);

#[derive(Clone, Copy, Debug)]
enum Victim {
    Waybill,
    Nats,
    Both,
}

/// Places an order until it is accepted, whatever dies meanwhile: the same request under the same key.
async fn insist(api: watch::Receiver<Api>, key: String, cart: Cart, accepted: watch::Sender<usize>) -> Uuid {
    let deadline = Instant::now() + ACCEPTED_WITHIN;
    loop {
        // The services may be elsewhere by now.
        let here = api.borrow().clone();
        let answer = here.place(&key, &cart, &[]).await;
        match answer.map(|answer| (answer.status, answer)) {
            Ok((202, answer)) => {
                accepted.send_modify(|count| *count += 1);
                return answer.id().unwrap();
            }
            Ok((409 | 500.., _)) | Err(_) => assert!(Instant::now() < deadline, "{key} is not accepted"),
            Ok((_, answer)) => panic!("{answer:?}"),
        }
        sleep(PAUSE).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_whatever_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let kept = READ_MODELS.kept();
    let flags = kept.flags(FLAGS);
    let flags = flags.as_slice();
    let mut process = Process::dev(&data, flags).await.unwrap();
    let user_id = process.api.register("u").await.unwrap();
    process.api.stock_product("p", ("PEN", "Pen", 10), 1_000_000).await.unwrap();
    let (account_id, _) = process.api.open_account("a", user_id, 100_000_000).await.unwrap();
    let cart = Cart { user_id, account_id, items: vec![("PEN".to_owned(), 1)], country: "DE".to_owned() };

    let (apis, api) = watch::channel(process.api.clone());
    let mut customers = Vec::new();
    for round in 0..ROUNDS {
        for victim in [Victim::Waybill, Victim::Nats, Victim::Both] {
            let accepted = watch::Sender::new(0);
            for number in 0..ORDERS / 3 {
                let key = format!("{round}-{victim:?}-{number}");
                customers.push(tokio::spawn(insist(api.clone(), key, cart.clone(), accepted.clone())));
            }
            let enough = fastrand::usize(1..ORDERS / 3 - 2);
            accepted.subscribe().wait_for(|count| *count >= enough).await.unwrap();
            if matches!(victim, Victim::Nats | Victim::Both) {
                process.kill_nats();
            }
            if let Some(cluster) = kept.cluster() {
                if round % 2 == 0 {
                    cluster.kill();
                } else {
                    cluster.stop_immediately();
                }
                cluster.launch();
            }
            if matches!(victim, Victim::Waybill | Victim::Both) {
                process.kill().await.unwrap();
                process.again(flags).await.unwrap();
                apis.send_replace(process.api.clone());
            }
        }
    }
    let mut orders: Vec<_> = join_all(customers).await.into_iter().map(Result::unwrap).collect();
    orders.sort_unstable();
    orders.dedup();
    assert_eq!(orders.len(), ROUNDS * ORDERS, "every key has an order of its own");

    let connection = nats::Connection::connect(&process.nats_url, "test").await.unwrap();
    let audit = settled(&connection, &process.api).await.unwrap();
    assert_eq!(audit.ends(), [("completed", ROUNDS * ORDERS)].into());
    for view in View::ALL {
        let live = Database::open(&kept.storage(view.name, &data.join("views")), view, 1).await.unwrap();
        let scratch = folder.path().join("scratch");
        let differences = projections::verify(view, &connection, &live, &scratch).await.unwrap();
        assert!(differences.is_empty(), "{}: {differences:?}", view.name);
    }
    assert!(process.stop().await.unwrap().success());
}
