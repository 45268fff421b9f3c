//! What server-sent events tell.

use crate::{
    client::Events,
    flows::{order_id, user_id},
    rig::{OPERATOR, Rig, soon, until},
};
use projections::LiveOptions;
use serde_json::{Value, json};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn one_order_is_followed_from_its_answer_to_its_last_change() {
    one_order_is_followed(Rig::start().await).await;
}

pub(crate) async fn one_order_is_followed(rig: Rig) {
    let node = rig.usual("orders").await;
    let path = format!("/orders/{}", order_id(1));
    assert_eq!(node.get(&format!("{path}/stream"), OPERATOR).await.0, 404);
    let mut list = node.follow("/orders/stream", OPERATOR).await;
    assert_eq!(list.expect("snapshot").await.data["items"], json!([]));
    let before = list.expect("live").await.id;
    assert!(list.head.contains("text/event-stream") && list.retry.is_some(), "{}", list.head);

    rig.order(1, &node).await;
    // Steps that come faster than they are told are told as one.
    let mut seen = vec![list.expect("change").await];
    while seen.last().unwrap().data["stage"] != "scheduled" || seen.last().unwrap().data["version"] != 2 {
        seen.push(list.expect("change").await);
    }
    assert!(seen.windows(2).all(|two| two[0].data != two[1].data), "nothing comes twice: {seen:?}");
    let (status, now) = node.get(&path, OPERATOR).await;
    assert_eq!((status, &seen.last().unwrap().data), (200, &now));

    // The owner begins with the same, and one who comes again with what he has missed.
    let mut own = node.follow(&format!("{path}/stream"), user_id(1).uuid()).await;
    assert_eq!(own.expect("snapshot").await.data, now);
    own.expect("live").await;
    for (id, missed) in [(before, true), (seen.last().unwrap().id.clone(), false)] {
        let again = format!("{path}/stream?lastEventId={id}&until=live");
        let mut again = node.follow(&again, user_id(1).uuid()).await;
        if missed {
            assert_eq!(again.expect("change").await.data, now);
        }
        again.expect("live").await;
        soon("it ends", again.next()).await.unwrap_err();
    }
    let (_, page) = node.get("/orders", OPERATOR).await;
    let mut late = node.follow("/orders/stream?limit=5", OPERATOR).await;
    assert_eq!(late.expect("snapshot").await.data, page);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_tells_what_is_in_it_and_what_is_not_any_more() {
    a_list_tells(Rig::start().await).await;
}

pub(crate) async fn a_list_tells(rig: Rig) {
    let node = rig.usual("orders").await;
    let mut pending = node.follow("/orders/stream?status=pending", OPERATOR).await;
    let mut others = node.follow("/orders/stream", user_id(2).uuid()).await;
    let path = format!("/orders/stream?userId={}&status=completed", user_id(1));
    let mut completed = node.follow(&path, user_id(1).uuid()).await;
    for list in [&mut pending, &mut others, &mut completed] {
        list.expect("snapshot").await;
        list.expect("live").await;
    }
    rig.order(1, &node).await;
    let id = json!({ "id": order_id(1).to_string() });
    let gone = async {
        loop {
            let event = pending.next().await.unwrap();
            if event.name == "removed" {
                return event.data;
            }
            assert_eq!(event.data["status"], "pending");
        }
    };
    assert_eq!(soon("it is no longer pending", gone).await, id);
    let there = async {
        loop {
            let event = completed.next().await.unwrap();
            if event.name == "change" {
                return event.data;
            }
            assert_eq!((event.name.as_str(), &event.data), ("removed", &id));
        }
    };
    assert_eq!(soon("it is completed", there).await["status"], "completed");
    rig.order(2, &node).await;
    assert_eq!(others.expect("change").await.data["userId"], user_id(2).to_string(), "and nobody else's");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_waits_for_the_position_that_is_named() {
    let rig = Rig::start().await;
    let node = rig.usual("inventory").await;
    let at = rig.product("TEA").await;
    let mut tea = node.follow(&format!("/inventory/TEA/stream?after=INVENTORY:{at}"), OPERATOR).await;
    let snapshot = tea.expect("snapshot").await;
    assert_eq!(snapshot.data["price"]["amount"], 1);
    let live = tea.expect("live").await;
    assert_eq!(live.data["position"], format!("INVENTORY:{at}"));
    let path = "/inventory/TEA/stream?after=INVENTORY:999&wait=20ms";
    assert_eq!(node.get(path, OPERATOR).await.0, 503);
    for (path, status) in [
        ("/inventory/TEA/stream?lastEventId=nonsense", 422),
        ("/inventory/TEA/stream?until=tomorrow", 400),
        ("/products/stream?cursor=00", 400),
        ("/products/stream?limit=0", 422),
        ("/products/stream?sku=TEA", 400),
        ("/inventory/NONE/stream", 404),
        ("/products/socket", 426),
    ] {
        assert_eq!(node.get(path, OPERATOR).await.0, status, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_that_is_worth_nothing_is_answered_with_a_snapshot() {
    let rig = Rig::start().await;
    let node = rig.usual("inventory").await;
    rig.product("TEA").await;
    let mut tea = node.follow("/products/stream?after=INVENTORY:1", OPERATOR).await;
    tea.expect("snapshot").await;
    let id = tea.expect("live").await.id;
    let parts: Vec<_> = id.split('-').collect();
    let (epoch, sequence, time) = (parts[0], parts[1], parts[2]);
    for (id, reason) in [
        (format!("1-{sequence}-{time}"), "another-feed"),
        (format!("{epoch}-999999-{time}"), "another-feed"),
        (format!("{epoch}-0-{time}"), "too-old"),
    ] {
        let mut again = Events::open(node.address, "/products/stream", OPERATOR, Some(&id)).await.unwrap();
        assert_eq!(again.expect("reset").await.data["reason"], reason, "{id}");
        again.expect("snapshot").await;
        again.expect("live").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_nothing_is_heard_to_live_and_where_it_is() {
    let rig = Rig::start().await;
    let options = LiveOptions { heartbeat: Duration::from_millis(50), ..LiveOptions::default() };
    let node = rig.node("inventory", "inventory", options).await;
    rig.product("TEA").await;
    let mut tea = node.follow("/inventory/TEA/stream?after=INVENTORY:1", OPERATOR).await;
    tea.expect("snapshot").await;
    let before = tea.expect("live").await.id;
    let _ = tokio::time::timeout(Duration::from_millis(1500), tea.next()).await;
    assert_ne!(tea.last, before, "its time has gone on");
    rig.product("TEA").await;
    tea.expect("change").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_is_dropped_and_delays_nobody() {
    let rig = Rig::start().await;
    let options = LiveOptions { queue: 16, ..LiveOptions::default() };
    let node = rig.node("inventory", "inventory", options).await;
    rig.product("TEA").await;
    rig.width.store(30_000, std::sync::atomic::Ordering::SeqCst);
    let mut lazy = node.connect().await;
    let request =
        format!("GET /products/stream?after=INVENTORY:1 HTTP/1.1\r\nhost: x\r\nx-user: {OPERATOR}\r\n\r\n");
    tokio::io::AsyncWriteExt::write_all(&mut lazy, request.as_bytes()).await.unwrap();
    let mut eager = node.follow("/products/stream?after=INVENTORY:1", OPERATOR).await;
    eager.expect("snapshot").await;
    eager.expect("live").await;
    let slow = "waybill_feed_dropped_total{projection=\"inventory\",reason=\"slow\"} ";
    let mut longest = Duration::ZERO;
    let mut prices = 1;
    let dropped = async {
        while node.counted(slow) < 1.0 {
            rig.product("TEA").await;
            prices += 1;
            let started = std::time::Instant::now();
            while eager.expect("change").await.data["price"]["amount"] != prices {}
            longest = longest.max(started.elapsed());
        }
    };
    tokio::time::timeout(Duration::from_mins(3), dropped).await.expect("it is dropped");
    assert!(longest < Duration::from_secs(5), "{longest:?}");
    // What it reads after all ends with the reason, and with where to go on.
    let mut text = String::new();
    let bye = async {
        let mut part = vec![0; 64 * 1024];
        while !text.contains("subscriber-too-slow") {
            let length = tokio::io::AsyncReadExt::read(&mut lazy, &mut part).await.unwrap();
            assert!(length > 0, "it ends without a reason: {}", &text[text.len().saturating_sub(300)..]);
            text.push_str(&String::from_utf8_lossy(&part[..length]));
        }
    };
    soon("it is told why", bye).await;
    let last = text.rfind("id: ").map(|at| text[at + 4..].lines().next().unwrap().to_owned()).unwrap();
    let mut again = Events::open(node.address, "/products/stream", OPERATOR, Some(&last)).await.unwrap();
    assert_eq!(again.expect("change").await.data["price"]["amount"], prices, "nothing is lost");
    let open = "waybill_feed_subscriptions{projection=\"inventory\",carrier=\"events\"} ";
    until("only the other one is there", async || node.counted(open) <= 2.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_process_stops_clients_are_told_to_come_again() {
    let rig = Rig::start().await;
    let node = rig.usual("inventory").await;
    rig.product("TEA").await;
    let mut tea = node.follow("/inventory/TEA/stream?after=INVENTORY:1", OPERATOR).await;
    tea.expect("snapshot").await;
    let id = tea.expect("live").await.id;
    let first = tea.retry.unwrap();
    assert!(soon("it stops", node.shutdown.drain(Duration::from_secs(10))).await);
    let bye = tea.expect("bye").await;
    assert_eq!(bye.data["type"], "/problems/stopping");
    assert!(tea.retry.unwrap() < 1500 && first >= 1000 && bye.id == id);
    soon("it ends", tea.next()).await.unwrap_err();
    // Another process goes on where this one was, from what the feed keeps.
    rig.product("TEA").await;
    let again = rig.usual("inventory").await;
    let mut tea = Events::open(again.address, "/inventory/TEA/stream", OPERATOR, Some(&id)).await.unwrap();
    let told = async {
        loop {
            // What was recorded meanwhile may not be in the tables when this one begins.
            let event = tea.next().await.unwrap();
            if event.name != "live" {
                return event;
            }
        }
    };
    let told = soon("it is told", told).await;
    assert_eq!((told.name.as_str(), &told.data["price"]["amount"]), ("change", &json!(2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_can_be_followed_is_documented() {
    let rig = Rig::start().await;
    for (service, paths) in [
        ("orders", &["/orders/socket", "/orders/stream", "/orders/{id}/stream"][..]),
        (
            "inventory",
            &["/inventory/{sku}/stream", "/products/socket", "/products/stream", "/products/{sku}/stream"],
        ),
        ("payments", &["/accounts/{id}/stream", "/payments/socket", "/payments/{orderId}/stream"]),
        ("shipping", &["/shipments/socket", "/shipments/{orderId}/stream"]),
        ("notifications", &["/notifications/socket", "/notifications/stream", "/notifications/{id}/stream"]),
        ("fulfilment", &["/ops/sagas/socket", "/ops/sagas/stream", "/ops/sagas/{orderId}/stream"]),
        ("users", &["/users/socket", "/users/{id}/stream"]),
    ] {
        let (metrics, shutdown) = (service::Metrics::new(), service::Shutdown::new());
        let feed = rig.changes(service).await;
        let outlet = projections::Outlet { feed, metrics: projections::FeedMetrics::new(&metrics) };
        let projections = rig.projections(service, service, None, &metrics, &shutdown).await;
        let routes = projections.live(&rig.keys, &outlet, LiveOptions::default(), &shutdown);
        let api = serde_json::to_value(routes.split_for_parts().1).unwrap();
        let documented: Vec<_> = api["paths"].as_object().unwrap().keys().collect();
        let live: Vec<_> = documented
            .into_iter()
            .filter(|path| path.contains("/s") && (path.ends_with("/stream") || path.ends_with("/socket")))
            .collect();
        assert_eq!(live, paths);
        for path in paths.iter().filter(|path| path.ends_with("/stream")) {
            let operation: &Value = &api["paths"][*path]["get"];
            let text = operation.to_string();
            for part in [
                "lastEventId",
                "Last-Event-ID",
                "\"until\"",
                "text/event-stream",
                "\"429\"",
                "\"503\"",
                "\"after\"",
            ] {
                assert!(text.contains(part), "{path} lacks {part}");
            }
            assert!(!text.contains("\"cursor\""), "{path}");
        }
        assert!(shutdown.drain(Duration::from_secs(10)).await);
    }
}
