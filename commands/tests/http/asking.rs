//! Orders that are placed at once ask the users service once for their customer.

use crate::shop::{DEADLINE, Nats, Shop, order};
use axum::{Json, Router, routing::get};
use futures::future::join_all;
use serde_json::json;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use tokio::{net::TcpListener, sync::Semaphore, time::timeout};
use uuid::Uuid;

#[tokio::test]
async fn orders_of_one_customer_that_are_placed_at_once_share_one_call() {
    let (calls, answers) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
    let (counted, gate) = (calls.clone(), answers.clone());
    let answer = get(async move || {
        counted.fetch_add(1, Ordering::Relaxed);
        gate.acquire().await.unwrap().forget();
        Json(json!({ "erased": false }))
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let users = axum::serve(listener, Router::new().route("/users/{id}", answer));
    let users = tokio::spawn(users.into_future());

    let nats = Nats::start().await;
    let shop = Shop::open_asking(&nats, url).await;
    let (ada, bob) = (Uuid::from_u128(1), Uuid::from_u128(2));
    shop.product("TEA", 450).await;
    let (of_ada, of_bob) = (shop.account(ada, "EUR").await, shop.account(bob, "EUR").await);
    let tea = |user, account| order(user, account, &[("TEA", 1)]);
    let (hers, his) = (tea(ada, of_ada), tea(bob, of_bob));
    let placing = async {
        let hers = join_all((0..20).map(|_| shop.post("/orders", &hers)));
        let (hers, his) = tokio::join!(hers, shop.post("/orders", &his));
        for placed in hers.into_iter().chain([his]) {
            assert_eq!(placed.expect(202).body["userSnapshot"]["stale"], false);
        }
    };
    let mut placing = Box::pin(timeout(DEADLINE, placing));
    let asked = async {
        while calls.load(Ordering::Relaxed) < 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        placed = &mut placing => panic!("{placed:?} before anybody answered"),
        () = asked => {}
    }
    answers.add_permits(100);
    placing.await.unwrap();
    assert_eq!(calls.load(Ordering::Relaxed), 2, "one for each customer");
    users.abort();
    nats.server.stop().await;
}
