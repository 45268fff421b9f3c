//! The configuration, exchanged under load.

use crate::rig::{Echo, OPEN, Rig, until};
use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

#[tokio::test]
async fn a_changed_file_is_taken_and_a_faulty_one_is_not_and_nobody_notices() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.toml");
    fs::write(&file, OPEN).unwrap();
    let orders = Echo::start().await;
    let rig = Arc::new(Rig::with(OPEN, &[("orders", orders.address)], Some(file.clone())).await);
    let running = Arc::new(AtomicBool::new(true));
    let load = tokio::spawn({
        let (rig, running) = (Arc::clone(&rig), Arc::clone(&running));
        async move {
            let mut asked = 0;
            while running.load(Ordering::Relaxed) && asked < 900 {
                assert_eq!(rig.get("/api/orders").await.status, 200);
                asked += 1;
                tokio::task::yield_now().await;
            }
            asked
        }
    });
    assert_eq!(rig.get("/api/things").await.status, 404);
    let more = OPEN.split("[[routes]]").nth(1).unwrap().replace("/api/orders", "/api/things");
    fs::write(&file, format!("{OPEN}\n[[routes]]\n{more}")).unwrap();
    until("the new route is there", async || rig.get("/api/things").await.status == 200).await;
    assert_eq!(rig.metric("waybill_gateway_reloads_total{outcome=\"taken\"} ").await, Some(1.0));

    fs::write(&file, OPEN.replace("\"orders\"", "7")).unwrap();
    let refused = "waybill_gateway_reloads_total{outcome=\"refused\"} ";
    until("the fault is counted", async || rig.metric(refused).await == Some(1.0)).await;
    assert_eq!(rig.get("/api/things").await.status, 200, "the old table stays");
    running.store(false, Ordering::Relaxed);
    assert!(load.await.unwrap() > 10);
}
