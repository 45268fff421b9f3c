//! Killed at every step of parking, and at every step of a retry: every message that was parked is handled once, in the end.

use crate::{cell::Shop, end, killed, table::Table};
use nats::Connection;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use waybill::{api::Api, system::Service};
use waybill_tests::{Process, Trap, eventually, settled};

const DOWN: &[&str] = &["--log", "off", "--carrier", "garbled", "--on-failure", "park:2"];
const UP: &[&str] = &["--log", "off", "--on-failure", "park:2"];
const CONSUMER: &str = "shipping-payments";

/// Where it is killed while a message is being parked: the record, the fact, the acknowledgement.
const PARKING: &[&str] = &[
    "bucket.before@PARKED:1",
    "bucket.after@PARKED:1",
    "append.before@OPS:1",
    "append.after@OPS:1",
    "acknowledge.before@shipping-payments:1",
    "acknowledge.after@shipping-payments:1",
];

/// Where it is killed while a message is brought back: the request, what was done, the end of the record, the fact, the
/// acknowledgement of the request.
const RETRYING: &[&str] = &[
    "append.before@OPS:1",
    "append.after@OPS:1",
    "append.before@SHIPPING:1",
    "append.after@SHIPPING:1",
    "bucket.before@PARKED:1",
    "bucket.after@PARKED:1",
    "bucket.before@PARKED:2",
    "bucket.after@PARKED:2",
    "append.before@OPS:2",
    "append.after@OPS:2",
    "acknowledge.before@shipping-payments-ops:1",
    "acknowledge.after@shipping-payments-ops:1",
];

/// A message that was under way in a process that died comes again after half a minute.
const SOON: Duration = Duration::from_mins(3);

/// The dead letters of the consumer, oldest first.
async fn letters(api: &Api) -> Option<Vec<Value>> {
    let all = api.get(Service::Operations, "/ops/dead-letters").await.ok()?.body;
    let groups = all["groups"].as_array()?.iter().filter(|group| group["consumer"] == CONSUMER);
    Some(groups.flat_map(|group| group["letters"].as_array().cloned().unwrap_or_default()).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_it_parks_and_brings_back_every_message_is_handled_once() {
    let parking = ["bucket.after@PARKED:1", "append.after@OPS:1"];
    let retrying = ["append.after@OPS:1", "append.after@SHIPPING:1", "bucket.after@PARKED:2"];
    Box::pin(matrix(&parking, &retrying)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes: every place, of which the ordinary suite has some"]
async fn wherever_it_is_killed_what_was_parked_is_brought_back_once() {
    Box::pin(matrix(PARKING, RETRYING)).await;
}

async fn matrix(parking: &[&str], retrying: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let mut process = Process::dev(&folder.path().join("data"), DOWN).await.unwrap();
    let shop = Shop::open(&process).await;
    let mut table = Table::new("dead letters: killed at");
    let mut customers = Vec::new();
    for at in parking {
        end(&mut process).await;
        // What an earlier one left behind may get there before anybody can order.
        let trap = Trap::at(at).unwrap();
        if process.again_with(DOWN, &trap.env()).await.unwrap() {
            shop.moved(&process);
        }
        customers.push(shop.orders(at, retrying.len().div_ceil(parking.len())));
        table.note(format!("parking   {at}"), killed(&mut process, &trap, async {}).await);
    }
    end(&mut process).await;
    process.again(DOWN).await.unwrap();
    shop.moved(&process);
    let mut orders = 0;
    for customer in customers {
        orders += customer.await.unwrap();
    }
    assert!(orders >= retrying.len());
    let api = process.api.clone();
    let parked = eventually("all are parked", SOON, async || {
        letters(&api).await.filter(|letters| letters.len() == orders)
    })
    .await;

    let ids: Vec<_> = parked.iter().map(|letter| letter["id"].as_str().unwrap().to_owned()).collect();
    for (at, id) in retrying.iter().zip(&ids) {
        end(&mut process).await;
        let trap = Trap::at(at).unwrap();
        // What an earlier one left behind may get there first.
        process.again_with(UP, &trap.env()).await.unwrap();
        let api = process.api.clone();
        let asking = async {
            let _ =
                api.post(Service::Operations, &format!("/ops/dead-letters/{id}/retry"), at, &json!({})).await;
        };
        table.note(format!("retrying  {at}"), killed(&mut process, &trap, asking).await);
    }
    end(&mut process).await;
    process.again(UP).await.unwrap();
    let api = process.api.clone();
    for (number, id) in ids.iter().enumerate() {
        // Asked for again where nobody knows whether it was heard; what was resolved meanwhile is not there.
        let path = format!("/ops/dead-letters/{id}/retry");
        let answer =
            api.post(Service::Operations, &path, &format!("again-{number}"), &json!({})).await.unwrap();
        assert!([202, 404].contains(&answer.status), "{answer:?}");
    }
    let until = Instant::now() + SOON;
    loop {
        let left = letters(&api).await;
        if left.as_ref().is_some_and(Vec::is_empty) {
            break;
        }
        assert!(Instant::now() < until, "not within {SOON:?}: {left:#?}\n{table}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let connection = Connection::connect(&process.nats_url, "test").await.unwrap();
    let audit = settled(&connection, &process.api).await.unwrap();
    assert_eq!(audit.ends(), [("completed", orders)].into());
    table.demand();
    process.stop().await.unwrap();
}
