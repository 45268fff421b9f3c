//! `waybill dev` as a process.

use crate::READ_MODELS;
use std::{fs, process::Output};
use tokio::process::Command;
use waybill_tests::{Process, settled};

const NOBODY: &str = "00000000-0000-0000-0000-000000000007";

async fn waybill(arguments: &[&str]) -> Output {
    Command::new(Process::executable()).args(arguments).output().await.unwrap()
}

#[tokio::test]
async fn it_is_found_refuses_a_second_one_stops_cleanly_and_continues() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let shown = data.to_str().unwrap();
    let kept = READ_MODELS.kept();
    let first = Process::dev(&data, &kept.flags(&[])).await.unwrap();
    let file: serde_json::Value = serde_json::from_slice(&fs::read(data.join("dev.json")).unwrap()).unwrap();
    assert_eq!(file["durability"], "always");
    assert_eq!(file["services"].as_object().unwrap().len(), waybill::system::Service::ALL.len());
    // Ready is who answers for everybody through the front door, from the first moment.
    for asked in ["products", "users/{}", "orders/{}", "payments/{}", "shipments/{}"]
        .map(|path| path.replace("{}", NOBODY))
    {
        let request = first.api.http().get(format!("{}/api/{asked}", file["gateway"].as_str().unwrap()));
        let answer = first.api.send_as_operator(request).await.unwrap();
        assert!([200, 404].contains(&answer.status), "{asked}: {answer:?}");
    }

    let second = waybill(&["dev", "--data", shown]).await;
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(said.contains("already running") && said.contains(&file["pid"].to_string()), "{said}");

    let demo = waybill(&["demo", "--data", shown]).await;
    let told = String::from_utf8_lossy(&demo.stdout);
    assert!(demo.status.success(), "{told}\n{}", String::from_utf8_lossy(&demo.stderr));
    assert!(told.contains("failed: out_of_stock") && told.contains("failed: carrier_refused"), "{told}");

    let replay = waybill(&["replay", "--data", shown, "--type", "order.created", "--output", "json"]).await;
    let lines = String::from_utf8(replay.stdout).unwrap();
    let events: Vec<serde_json::Value> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events.len(), 12);
    assert!(
        events
            .iter()
            .all(|event| event["data"]["shippingAddress"] == serde_json::json!({ "redacted": true }))
    );

    let before = events.len();
    assert!(first.stop().await.unwrap().success());
    assert!(!data.join("dev.json").exists());

    let again = Process::dev(&data, &kept.flags(&["--durability", "interval"])).await.unwrap();
    let connection = nats::Connection::connect(&again.nats_url, "test").await.unwrap();
    let audit = settled(&connection, &again.api).await.unwrap();
    assert_eq!(audit.orders(), before, "it continues where it was");
    assert!(again.stop().await.unwrap().success());
}
