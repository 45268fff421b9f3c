//! The log, read again: in parts, in every form, and copied elsewhere without anything happening twice.

use crate::READ_MODELS;
use events::Context;
use jiff::Timestamp;
use nats::{
    Access, Connection, Filter, From, Reader, Seed, Until,
    server::{self, Binary, Server},
    topology,
};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    fs,
    process::{Output, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};
use uuid::Uuid;
use waybill::{api::Cart, system::Service};
use waybill_tests::{Front, Process, World, request, run};

/// Whether an event is one of those that are asked for.
type Fits<'a> = &'a dyn Fn(&Value) -> bool;

const SOON: Duration = Duration::from_secs(30);

async fn replay(nats: &str, flags: &[&str]) -> Output {
    Command::new(Process::executable())
        .args(["replay", "--nats-url", nats])
        .args(flags)
        .output()
        .await
        .unwrap()
}

async fn lines(nats: &str, flags: &[&str]) -> Vec<Value> {
    let output = replay(nats, flags).await;
    assert!(output.status.success(), "{flags:?}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Some orders that have come to their end; answers the first.
async fn orders(world: &World, count: u32) -> Uuid {
    let api = &world.api;
    let stocked = api.stock_product("tea", ("TEA-1", "Tea", 500), 100).await.unwrap();
    let user_id = api.register("ada").await.unwrap();
    let (account_id, credited) = api.open_account("ada", user_id, 100_000).await.unwrap();
    let items = vec![("TEA-1".to_owned(), 1)];
    let cart = Cart { user_id, account_id, items, country: "DE".to_owned() };
    let mut first = None;
    for number in 0..count {
        let after = [stocked.position().unwrap(), credited.position().unwrap()];
        let placed = api.place(&format!("cart-{number}"), &cart, &after).await.unwrap();
        first.get_or_insert_with(|| placed.expect(202, "an order").unwrap().id().unwrap());
    }
    world.settled().await.unwrap();
    world.told(&["email"]).await;
    first.unwrap()
}

/// Another NATS, of nobody.
async fn another() -> (Server, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let config = server::Config::new(Binary::locate(None).await.unwrap(), folder.path().join("nats"));
    (Server::start(config).await.unwrap(), folder)
}

/// The same, where nobody may publish copies of payments.
async fn particular() -> (Server, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let users = r#"
        accounts: { A: { jetstream: enabled, users: [
            { user: anybody, password: anybody, permissions: { publish: { deny: "copy.payments.>" } } },
        ] } }
        no_auth_user: anybody
    "#;
    let conf = format!("{}\ninclude accounts.conf\n", include_str!("../../nats/conf/single.conf"));
    fs::write(folder.path().join("single.conf"), conf).unwrap();
    fs::write(folder.path().join("accounts.conf"), users).unwrap();
    let guard = server::Guard { folder: folder.path().to_owned(), access: Access::default() };
    let config = server::Config::new(Binary::locate(None).await.unwrap(), folder.path().join("nats"));
    (Server::start(server::Config { guard: Some(guard), ..config }).await.unwrap(), folder)
}

/// The same, which speaks TLS, and asks everybody who comes, also for a certificate where more of `tls` says so. Answers the seed
/// of one user, the other one is ada.
async fn guarded(more: &str) -> (Server, TempDir, Seed) {
    let (folder, seed) = (tempfile::tempdir().unwrap(), Seed::generate());
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (code, said) = run(&["dev-certs", "--out", &at("tls")]).await.unwrap();
    assert_eq!(code, Some(0), "{said}");
    let users = format!(
        r#"accounts: {{ A: {{ jetstream: enabled, users: [ {{ nkey: {} }}, {{ user: ada, password: "p@ss,word" }} ] }} }}"#,
        seed.public()
    );
    let [cert, key, ca] = ["node.pem", "node.key", "ca.pem"].map(|name| at(&format!("tls/{name}")));
    let tls = format!("tls {{ cert_file: {cert:?}, key_file: {key:?}, ca_file: {ca:?}{more} }}");
    let conf = format!("{}\ninclude accounts.conf\n{tls}\n", include_str!("../../nats/conf/single.conf"));
    fs::write(at("single.conf"), conf).unwrap();
    fs::write(at("accounts.conf"), users).unwrap();
    fs::write(at("copies.nk"), seed.reveal()).unwrap();
    let certificate = Some((at("tls/operator.pem").into(), at("tls/operator.key").into()));
    let access = Access { seed: Some(seed.clone()), ca: Some(ca.into()), certificate, ..Access::default() };
    let guard = server::Guard { folder: folder.path().to_owned(), access };
    let config = server::Config::new(Binary::locate(None).await.unwrap(), at("nats"));
    (Server::start(server::Config { guard: Some(guard), ..config }).await.unwrap(), folder, seed)
}

/// Has a stream keep what comes on these subjects.
async fn keep(nats: &str, stream: &str, subjects: &str) {
    let config = json!({ "name": stream, "subjects": [subjects], "storage": "memory", "allow_direct": true });
    let made = request(nats, &format!("$JS.API.STREAM.CREATE.{stream}"), &config.to_string()).await.unwrap();
    assert!(made["error"].is_null(), "{made}");
}

async fn kept(nats: &str, stream: &str) -> u64 {
    let info = request(nats, &format!("$JS.API.STREAM.INFO.{stream}"), "").await.unwrap();
    info["state"]["messages"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_printed_in_parts_and_in_every_form() {
    let mut world = World::start(READ_MODELS).await.unwrap();
    let order = orders(&world, 2).await;
    let nats = world.nats.url();
    let json = |flags: &'static [&'static str]| lines(&nats, flags);

    let all = lines(&nats, &["--output", "json"]).await;
    let stored: Vec<_> = all.iter().map(|event| event["storedAt"].as_str().unwrap().to_owned()).collect();
    assert!(stored.is_sorted(), "in the order they were stored");
    assert_eq!(all.len() as u64, world.lengths().await.unwrap().values().sum::<u64>());
    let places = |events: &[Value]| {
        events.iter().map(|e| (e["stream"].clone(), e["sequence"].clone())).collect::<Vec<_>>()
    };

    let two = json(&["--output", "json", "--stream", "ORDERS", "--from", "2", "--to", "3"]).await;
    assert_eq!(places(&two), [(json!("ORDERS"), json!(2)), (json!("ORDERS"), json!(3))]);
    let each = json(&[
        "--output",
        "json",
        "--stream",
        "ORDERS,PAYMENTS",
        "--from",
        "ORDERS:4,PAYMENTS:2",
        "--to",
        "PAYMENTS:2",
    ])
    .await;
    assert_eq!(each.len(), 2, "{each:?}");
    let middle = all.len() / 2;
    let until = lines(&nats, &["--output", "json", "--until", &stored[middle]]).await;
    let since = lines(&nats, &["--output", "json", "--since", &stored[middle]]).await;
    assert!(
        until.len() > middle && until.iter().all(|event| event["storedAt"].as_str() <= Some(&stored[middle]))
    );
    assert!(since.len() <= all.len() - middle && until.len() + since.len() > all.len());

    let created =
        all.iter().find(|e| e["type"] == "order.created" && e["data"]["orderId"] == json!(order)).unwrap();
    let id = created["id"].as_str().unwrap();
    assert_eq!(
        places(&lines(&nats, &["--output", "json", "--event", id]).await),
        places(std::slice::from_ref(created))
    );
    let caused = lines(&nats, &["--output", "json", "--causation", id]).await;
    let kinds: BTreeSet<_> = caused.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["inventory.reserved", "notification.sent", "stock.reserved"].into());

    // Each way to choose finds what one would find in the whole.
    let (subject, correlation) =
        (created["subject"].as_str().unwrap(), created["correlation"].as_str().unwrap());
    let chosen: [([&str; 2], Fits<'_>); 5] = [
        (["--subject", subject], &|e| e["subject"] == created["subject"]),
        (["--subject", "evt.payments.>"], &|e| e["stream"] == "PAYMENTS"),
        (["--type", "order.completed"], &|e| e["type"] == "order.completed"),
        (["--aggregate", &format!("order/{order}")], &|e| e["subject"] == created["subject"]),
        (["--correlation", correlation], &|e| e["correlation"] == created["correlation"]),
    ];
    for (flags, fits) in chosen {
        let found = lines(&nats, &[&["--output", "json"], &flags[..]].concat()).await;
        let expected: Vec<_> = all.iter().filter(|event| fits(event)).cloned().collect();
        assert!(!expected.is_empty() && expected.len() < all.len(), "{flags:?}");
        assert_eq!(places(&found), places(&expected), "{flags:?}");
    }
    printed_for_people(&nats, &all).await;

    // CloudEvents 1.0, structured mode, by the letter of the specification.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("orders.jsonl");
    let flags = ["--stream", "ORDERS", "--output", "cloudevents", "--file", file.to_str().unwrap()];
    let output = replay(&nats, &flags).await;
    assert!(output.status.success() && output.stdout.is_empty(), "{}", said(&output));
    let text = fs::read_to_string(&file).unwrap();
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events.len(), 4);
    for event in &events {
        let attributes = event.as_object().unwrap();
        for (name, value) in attributes.iter().filter(|(name, _)| *name != "data") {
            let plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
            assert!(plain && name.len() <= 20, "the name of an attribute: {name}");
            assert!(value.as_str().is_some_and(|text| !text.is_empty()), "{name} is {value}");
        }
        assert_eq!(
            (&event["specversion"], &event["datacontenttype"]),
            (&json!("1.0"), &json!("application/json"))
        );
        assert_eq!((&event["source"], &event["stream"]), (&json!("/waybill/orders"), &json!("ORDERS")));
        assert!(event["id"].as_str().unwrap().parse::<Uuid>().is_ok());
        assert!(event["time"].as_str().unwrap().ends_with('Z') && event["data"].is_object());
        assert!(event["dataschema"].as_str().unwrap().starts_with("waybill:/schemas/order."));
        assert_eq!(event["subject"], event["data"]["orderId"], "what it is about");
    }
    assert!(!text.contains("Lovelace") && text.contains("redacted"));
    assert!(world.stop().await);
}

/// A line for each event, beneath a head; and with `--follow` those to come.
async fn printed_for_people(nats: &str, all: &[Value]) {
    let output = replay(nats, &[]).await;
    assert!(output.status.success(), "{}", said(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    let mut table = text.lines();
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(
        words(table.next().unwrap()),
        ["STORED", "POSITION", "TYPE", "AGGREGATE", "VERSION", "ACTOR", "CORRELATION"]
    );
    let rows: Vec<_> = table.map(words).collect();
    assert_eq!(rows.len(), all.len());
    for (row, event) in rows.iter().zip(all) {
        let place = format!("{}:{}", event["stream"].as_str().unwrap(), event["sequence"]);
        assert_eq!((&row[1], row[2].as_str()), (&place, event["type"].as_str().unwrap()), "{row:?}");
        assert_eq!((&json!(row[3]), &row[4]), (&event["aggregate"], &event["version"].to_string()));
        assert_eq!((&json!(row[5]), &json!(row[6])), (&event["actor"], &event["correlation"]));
    }
}

/// What is recorded while somebody looks on is printed when it is.
#[tokio::test(flavor = "multi_thread")]
async fn who_follows_the_log_is_shown_what_is_recorded_from_then_on() {
    let mut world = World::start(READ_MODELS).await.unwrap();
    orders(&world, 1).await;
    let mut following = Command::new(Process::executable())
        .args([
            "replay",
            "--follow",
            "--stream",
            "INVENTORY",
            "--type",
            "product.repriced",
            "--type",
            "product.added",
        ])
        .args(["--nats-url", &world.nats.url(), "--limit", "3"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut table = BufReader::new(following.stdout.take().unwrap()).lines();
    let mut next = async || {
        let line = tokio::time::timeout(SOON, table.next_line()).await.expect("a line is printed");
        line.unwrap().unwrap()
    };
    assert!(next().await.starts_with("STORED "));
    assert!(next().await.contains("product.added"));
    for price in [501, 502] {
        let body = json!({ "price": { "amount": price, "currency": "EUR" } });
        let url = world.api.url(Service::Inventory, "/products/TEA-1/price");
        let asked = world.api.http().put(url).header("Idempotency-Key", price.to_string()).json(&body);
        world.api.send_as_operator(asked).await.unwrap().expect(202, "a price").unwrap();
        let line = next().await;
        assert!(line.contains("product.repriced") && line.contains("product/TEA-1"), "{line}");
    }
    let ended = tokio::time::timeout(SOON, following.wait()).await.expect("that was the third").unwrap();
    assert!(ended.success());
    assert!(world.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_on_other_subjects_repeat_nothing() {
    let mut world = World::start(READ_MODELS).await.unwrap();
    orders(&world, 3).await;
    let (nats, before) = (world.nats.url(), world.lengths().await.unwrap());
    let total: u64 = before.values().sum();
    keep(&nats, "AUDIT", "audit.>").await;
    let copy = |flags: &'static [&'static str]| async {
        let output = replay(&world.nats.url(), flags).await;
        assert!(output.status.success(), "{}", said(&output));
        said(&output)
    };
    let summary = copy(&["--to-subject", "audit"]).await;
    assert!(summary.contains(&format!("{total} events copied, up to ")), "{summary}");
    assert_eq!(kept(&nats, "AUDIT").await, total);
    let again = copy(&["--to-subject", "audit"]).await;
    assert!(again.contains(&format!("{total} were there already")), "{again}");
    assert_eq!(kept(&nats, "AUDIT").await, total, "a copy has the id of its event");

    // Each copy is the event as it was recorded, and says where it comes from.
    let get = async |stream: &str, what: Value| {
        let found =
            request(&nats, &format!("$JS.API.STREAM.MSG.GET.{stream}"), &what.to_string()).await.unwrap();
        let text = |part: &str| {
            use base64::{Engine, prelude::BASE64_STANDARD};
            let bytes = BASE64_STANDARD.decode(found["message"][part].as_str().unwrap()).unwrap();
            String::from_utf8(bytes).unwrap()
        };
        (found["message"]["subject"].as_str().unwrap().to_owned(), text("hdrs"), text("data"))
    };
    let (subject, headers, data) = get("ORDERS", json!({ "seq": 2 })).await;
    let copied = subject.replacen("evt.", "audit.", 1);
    assert_eq!(copied.split('.').count(), 4);
    let all: BTreeSet<_> = headers.lines().map(str::to_owned).collect();
    let mut found = None;
    for sequence in 1..=total {
        let one = get("AUDIT", json!({ "seq": sequence })).await;
        if one.1.contains("Waybill-Replayed-From: ORDERS:2\r\n") {
            found = Some(one);
        }
    }
    let (at, copies, body) = found.unwrap();
    assert_eq!((at, body), (copied, data));
    let copies: BTreeSet<_> = copies.lines().map(str::to_owned).collect();
    for header in
        all.iter().filter(|line| !line.starts_with("Nats-Expected") && !line.starts_with("Waybill-Tail"))
    {
        assert!(copies.contains(header), "{header} is missing in {copies:?}");
    }
    assert!(copies.iter().any(|line| line.starts_with("Waybill-Replayed-Stored: 2")));
    assert!(!copies.iter().any(|line| line.starts_with("Nats-Expected") || line.starts_with("Waybill-Tail")));

    // Where Waybill listens nothing is copied to.
    for own in ["evt", "evt.orders", "timer.x", "$KV.KEYS"] {
        let output = replay(&nats, &["--to-subject", own]).await;
        assert_eq!(output.status.code(), Some(64), "{own}");
        assert!(said(&output).contains("--to-subject: "), "{}", said(&output));
    }
    for flags in [&["--to-nats", &nats][..], &["--to-nats", &nats, "--stream", "FRAUD"]] {
        let output = replay(&nats, flags).await;
        assert_eq!(output.status.code(), Some(64), "{}", said(&output));
        assert!(said(&output).contains("they would happen again"), "{}", said(&output));
    }
    world.settled().await.unwrap();
    assert_eq!(world.lengths().await.unwrap(), before, "nothing happened");
    assert!(world.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_nats_gets_what_it_is_sent_at_the_pace_it_is_asked_for() {
    let mut world = World::start(READ_MODELS).await.unwrap();
    orders(&world, 2).await;
    let nats = world.nats.url();
    let (other, _folder) = another().await;
    let to = other.url();
    let to_other = |flags: &[&str]| {
        let flags = [
            &["--to-nats".to_owned(), to.clone()][..],
            &flags.iter().map(|&f| f.to_owned()).collect::<Vec<_>>(),
        ]
        .concat();
        let nats = nats.clone();
        async move { replay(&nats, &flags.iter().map(String::as_str).collect::<Vec<_>>()).await }
    };
    // In two goes: the second where the first one ended.
    keep(&to, "COPIES", "copy.>").await;
    let began = Instant::now();
    let output =
        to_other(&["--to-subject", "copy", "--stream", "ORDERS", "--limit", "3", "--rate", "10"]).await;
    assert!(output.status.success(), "{}", said(&output));
    assert!(began.elapsed().as_millis() >= 200, "two gaps of a tenth of a second");
    assert!(said(&output).contains("3 events copied, up to ORDERS:3"), "{}", said(&output));
    let began = Instant::now();
    let output = to_other(&["--to-subject", "other", "--limit", "11", "--rate", "10"]).await;
    // No stream keeps these: they are sent all the same.
    assert!(output.status.success() && said(&output).contains("11 events "), "{}", said(&output));
    assert!(began.elapsed().as_secs() >= 1, "ten gaps of a tenth of a second");
    let output =
        to_other(&["--to-subject", "copy", "--stream", "ORDERS", "--from", "ORDERS:4", "--speed", "1000x"])
            .await;
    assert!(said(&output).contains("1 events copied, up to ORDERS:4"), "{}", said(&output));
    assert_eq!(kept(&to, "COPIES").await, 4);

    // On the subjects they have: as long as nobody there would take them for new.
    let connection = Connection::connect(&to, "test").await.unwrap();
    topology::ensure(&connection, &[Context::Orders], 1).await.unwrap();
    let output = to_other(&["--stream", "ORDERS"]).await;
    assert!(output.status.success(), "{}", said(&output));
    let read =
        async |connection: &Connection| {
            let (from, until, filter) = (From::Start, Until::End, Filter::default());
            let mut reader = Reader::open(connection, Context::Orders, from, until, filter).await.unwrap();
            let mut all = Vec::new();
            loop {
                let batch = reader.next_batch(100).await.unwrap();
                if batch.is_empty() {
                    return all;
                }
                all.extend(batch.iter().map(|m| {
                    (m.subject.to_string(), m.header("ce-id").unwrap().to_owned(), m.body().clone())
                }));
            }
        };
    assert_eq!(read(&connection).await, read(&world.connect().await.unwrap()).await);
    let consumer = json!({
        "stream_name": "ORDERS",
        "config": { "durable_name": "inventory-orders", "ack_policy": "explicit" },
    });
    request(&to, "$JS.API.CONSUMER.DURABLE.CREATE.ORDERS.inventory-orders", &consumer.to_string())
        .await
        .unwrap();
    let output = to_other(&["--stream", "ORDERS"]).await;
    assert_eq!(output.status.code(), Some(64), "{}", said(&output));
    assert!(said(&output).contains("inventory-orders"), "{}", said(&output));
    assert!(world.stop().await);
}

/// Another NATS has users of its own: they come with a key, or with what the address says, and nobody else does.
#[tokio::test(flavor = "multi_thread")]
async fn another_nats_is_told_who_comes_and_nobody_else_is() {
    let mut world = World::start(READ_MODELS).await.unwrap();
    orders(&world, 2).await;
    let (other, folder, seed) = guarded("").await;
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (ca, key, plain) = (at("tls/ca.pem"), at("copies.nk"), other.url());
    let as_user = |login: &str| plain.replace("nats://", &format!("nats://{login}@"));
    let access = Access { ca: Some(ca.clone().into()), ..Access::default() };
    let ada = as_user("ada:p%40ss%2Cword");
    let connection = Connection::connect_as(&ada, "test", &access).await.unwrap();
    topology::ensure(&connection, &[Context::Orders], 1).await.unwrap();
    let copy = async |to: &str, flags: &[&str]| {
        let nats = world.nats.url();
        replay(&nats, &[&["--stream", "ORDERS", "--to-nats", to, "--to-nats-ca", &ca], flags].concat()).await
    };
    let output = copy(&ada, &[]).await;
    assert!(output.status.success() && said(&output).contains("4 events copied"), "{}", said(&output));
    assert!(!said(&output).contains("there already"), "{}", said(&output));
    let output = copy(&plain, &["--to-nats-nkey-file", &key]).await;
    assert!(output.status.success() && said(&output).contains("4 were there already"), "{}", said(&output));
    // A key goes before what the address says.
    let output = copy(&as_user("ada:wrong"), &["--to-nats-nkey-file", &key]).await;
    assert!(output.status.success(), "{}", said(&output));

    for (to, log) in [(&plain, "warn"), (&as_user("ada:s3cret"), "trace"), (&as_user("t0ken"), "trace")] {
        let output = copy(to, &["--log", log]).await;
        let told = said(&output);
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(told.contains("--to-nats-nkey-file"), "{told}");
        assert!(!told.contains("s3cret") && !told.contains("t0ken"), "{told}");
    }
    let output = copy(&ada, &["--log", "trace"]).await;
    let told = said(&output);
    assert!(output.status.success(), "{told}");
    assert!(!told.contains("p@ss") && !told.contains("p%40ss") && !told.contains(seed.reveal()), "{told}");
    assert!(world.stop().await);
}

/// It may ask for a certificate, too.
#[tokio::test(flavor = "multi_thread")]
async fn another_nats_is_shown_a_certificate_where_it_asks_for_one() {
    let mut world = World::start(READ_MODELS).await.unwrap();
    orders(&world, 1).await;
    let (other, folder, _) = guarded(", verify: true").await;
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (nats, to, key, ca) = (world.nats.url(), other.url(), at("copies.nk"), at("tls/ca.pem"));
    let place = ["--stream", "ORDERS", "--to-nats", &to, "--to-subject", "copy"];
    let known = ["--to-nats-nkey-file", &key, "--to-nats-ca", &ca];
    let copy = async |flags: &[&str]| replay(&nats, &[&place[..], &known, flags].concat()).await;
    let shown = |role: &str| [at(&format!("tls/{role}.pem")), at(&format!("tls/{role}.key"))];

    let output = copy(&[]).await;
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("cannot connect"), "{}", said(&output));
    let [certificate, private] = shown("operator");
    let output = copy(&["--to-nats-cert", &certificate, "--to-nats-key", &private]).await;
    assert!(output.status.success() && said(&output).contains("2 events copied"), "{}", said(&output));
    // One that somebody else has signed opens nothing; one that is not whole is said before anything is tried.
    let (code, told) = run(&["dev-certs", "--out", &at("others")]).await.unwrap();
    assert_eq!(code, Some(0), "{told}");
    let [theirs, its_key] = shown("operator").map(|file| file.replace("/tls/", "/others/"));
    let output = copy(&["--to-nats-cert", &theirs, "--to-nats-key", &its_key]).await;
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let output = copy(&["--to-nats-cert", &certificate]).await;
    assert_eq!(output.status.code(), Some(64), "{}", said(&output));
    assert!(said(&output).contains("--to-nats-key: is missing"), "{}", said(&output));
    assert!(world.stop().await);
}

/// What a stream has acknowledged has arrived, whatever else is refused.
#[tokio::test(flavor = "multi_thread")]
async fn where_some_copies_are_refused_the_others_need_not_be_made_again() {
    let mut world = World::start(READ_MODELS).await.unwrap();
    orders(&world, 2).await;
    let (other, _folder) = particular().await;
    keep(&other.url(), "COPIES", "copy.orders.>").await;
    let flags = ["--to-nats", &other.url(), "--to-subject", "copy", "--stream"];
    let output = replay(&world.nats.url(), &[&flags[..], &["ORDERS", "--stream", "PAYMENTS"]].concat()).await;
    let told = said(&output);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("copies are refused") && told.contains("copy.payments."), "{told}");
    let kept = kept(&other.url(), "COPIES").await;
    assert!(kept > 0 && told.contains(&format!("copied, up to ORDERS:{kept}\n")), "{told}");
    assert!(told.contains(&format!("--from ORDERS:{}\n", kept + 1)), "{told}");
    assert!(world.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_page_through_a_stream_and_follow_causes() {
    let mut world = World::start(READ_MODELS).await.unwrap();
    let order = orders(&world, 3).await;
    let front = Front::patient(&world, "").await.unwrap();
    front.knows(&[Service::Operations]).await.unwrap();
    let url = |path: &str| front.api.url(Service::Operations, path);
    let get = async |path: &str| front.as_operator(front.api.http().get(url(path))).await.unwrap();
    let ok = async |path: &str| get(path).await.expect(200, path).unwrap().body;

    let streams = ok("/ops/streams").await;
    let orders = streams["streams"].as_array().unwrap().iter().find(|one| one["stream"] == "ORDERS").unwrap();
    assert_eq!((&orders["events"], &orders["aggregates"]), (&json!(6), &json!(3)), "{orders}");
    assert_eq!((&orders["first"]["sequence"], &orders["last"]["sequence"]), (&json!(1), &json!(6)));
    let counted = world.lengths().await.unwrap();
    for stream in streams["streams"].as_array().unwrap() {
        let context = Context::of_stream(stream["stream"].as_str().unwrap()).unwrap();
        assert_eq!(stream["events"].as_u64().unwrap(), counted[&context], "{stream}");
    }

    // Page by page it is what a replay prints.
    let mut paged = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = ok(&format!("/ops/streams/INVENTORY/events?limit=4{cursor}")).await;
        assert!(page["items"].as_array().unwrap().len() <= 4);
        paged.extend(page["items"].as_array().unwrap().clone());
        let Some(next) = page["nextCursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(paged, lines(&world.nats.url(), &["--stream", "INVENTORY", "--output", "json"]).await);

    let found = async |query: &str| {
        ok(&format!("/ops/streams/ORDERS/events?{query}")).await["items"].as_array().unwrap().clone()
    };
    assert_eq!(found("from=2&to=4").await.len(), 3);
    assert_eq!(found(&format!("aggregate=order/{order}")).await.len(), 2);
    assert_eq!(found("subject=evt.orders.order.*&limit=100").await.len(), 6);
    assert_eq!(found("type=order.completed").await.len(), 3);
    assert_eq!(found("type=order.failed,order.cancelled").await.len(), 0);
    let all = found("").await;
    let (middle, correlation) =
        (all[2]["storedAt"].as_str().unwrap(), all[0]["correlation"].as_str().unwrap());
    assert_eq!(
        found(&format!("since={middle}")).await.len() + found(&format!("until={middle}")).await.len(),
        7
    );
    assert_eq!(found(&format!("correlation={correlation}")).await.len(), 2);
    let personal = all.iter().find(|event| event["type"] == "order.created").unwrap();
    assert_eq!(personal["data"]["shippingAddress"], json!({ "redacted": true }));

    // From the payment back to the order.
    let paid =
        ok(&format!("/ops/streams/PAYMENTS/events?type=payment.charged&aggregate=payment/{order}")).await;
    let paid = ok(&format!("/ops/streams/PAYMENTS/events/{}", paid["items"][0]["sequence"])).await;
    let kinds = |part: &str| -> Vec<String> {
        let links = paid["chain"][part].as_array().unwrap();
        links.iter().map(|link| link["type"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(kinds("causes"), ["inventory.reserved", "order.created"], "{paid}");
    assert_eq!(kinds("effects"), ["shipping.scheduled"]);
    let cause = ok(paid["chain"]["causes"][1]["link"].as_str().unwrap()).await;
    assert_eq!(cause["data"]["orderId"], json!(order));
    for link in paid["links"]["correlation"].as_array().unwrap() {
        ok(link.as_str().unwrap()).await;
    }
    assert_eq!(ok(paid["links"]["aggregate"].as_str().unwrap()).await["items"].as_array().unwrap().len(), 1);

    for (path, status, kind) in [
        ("/ops/streams/CARTS/events", 404, "stream-not-found"),
        ("/ops/streams/ORDERS/events/999", 404, "event-not-found"),
        ("/ops/streams/ORDERS/events/0", 404, "event-not-found"),
        ("/ops/streams/ORDERS/events/x", 400, "invalid-path"),
        ("/ops/streams/ORDERS/events?type=order.gone", 422, "invalid-filter"),
        ("/ops/streams/ORDERS/events?subject=evt.payments.*", 422, "invalid-filter"),
        ("/ops/streams/ORDERS/events?limit=0", 422, "invalid-limit"),
        ("/ops/streams/ORDERS/events?cursor=zz", 422, "invalid-cursor"),
        ("/ops/streams/ORDERS/events?reveal=true", 400, "invalid-query"),
    ] {
        let answer = get(path).await;
        assert_eq!(
            (answer.status, &answer.body["type"]),
            (status, &json!(format!("/problems/{kind}"))),
            "{path}"
        );
    }
    let customer =
        front.api.send_as(Uuid::from_u128(7), front.api.http().get(url("/ops/streams"))).await.unwrap();
    assert_eq!(customer.status, 403);
    assert!(front.stop().await);
    assert!(world.stop().await);
}

/// Carries out what a history says was changed, as a client would.
fn apply(document: &mut Value, changes: &Value) {
    for change in changes.as_array().unwrap() {
        let path = change["path"].as_str().unwrap();
        assert_eq!(document.pointer(path), change.get("from"), "{change}");
        let (parent, name) = path.rsplit_once('/').unwrap();
        match (document.pointer_mut(parent).unwrap(), change.get("to").cloned()) {
            (Value::Object(object), Some(to)) => drop(object.insert(name.to_owned(), to)),
            (Value::Object(object), None) => drop(object.remove(name)),
            (Value::Array(items), Some(to)) => match items.get_mut(name.parse::<usize>().unwrap()) {
                Some(item) => *item = to,
                None => items.push(to),
            },
            (Value::Array(items), None) => drop(items.pop()),
            (other, _) => panic!("nothing is beneath {other}"),
        }
    }
}

/// What depends on the time of the question cannot be in the log.
fn timeless(mut document: Value) -> Value {
    document.as_object_mut().map(|fields| fields.remove("stuck"));
    document
}

/// What each event of a history made of the document, and since when.
fn steps(history: &Value) -> Vec<(Timestamp, Value)> {
    let (mut document, mut steps) = (json!({}), Vec::<(Timestamp, Value)>::new());
    for event in history["events"].as_array().unwrap() {
        apply(&mut document, &event["changes"]);
        let time: Timestamp = event["time"].as_str().unwrap().parse().unwrap();
        // It counts as no earlier than those before it, whatever the clock of its service said.
        let at = steps.last().map_or(time, |(before, _)| time.max(*before));
        steps.push((at, document.clone()));
    }
    steps
}

/// At the time of each event it is what that made of it; before the first one it is not there.
async fn is_shown_as_of_each_time(front: &Front, path: &str, steps: &[(Timestamp, Value)]) {
    let as_of = async |time: Timestamp| {
        let asked = front.api.http().get(format!("{}/api{path}?asOf={time}", front.url));
        front.as_operator(asked).await.unwrap()
    };
    for (at, _) in steps {
        let (_, then) = steps.iter().rfind(|(time, _)| time <= at).unwrap();
        let was = as_of(*at).await.expect(200, path).unwrap();
        assert_eq!(timeless(was.body), timeless(then.clone()), "{path} as of {at}");
    }
    let none = as_of(steps[0].0 - Duration::from_micros(1)).await;
    assert_eq!((none.status, &none.body["type"]), (404, &json!("/problems/state-not-found")), "{path}");
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_shown_as_it_was_to_whoever_may_see_it() {
    let mut world = World::start(READ_MODELS).await.unwrap();
    let front = Front::patient(&world, "").await.unwrap();
    front.knows(&Service::ALL).await.unwrap();
    let api = &world.api;
    let stocked = api.stock_product("tea", ("TEA-1", "Tea", 500), 100).await.unwrap();
    let user_id = api.register("ada").await.unwrap();
    let (account_id, credited) = api.open_account("ada", user_id, 100_000).await.unwrap();
    let items = vec![("TEA-1".to_owned(), 1)];
    let cart = Cart { user_id, account_id, items, country: "DE".to_owned() };
    let after = [stocked.position().unwrap(), credited.position().unwrap()];
    let order = api.place("1", &cart, &after).await.unwrap().expect(202, "an order").unwrap().id().unwrap();
    let mut body = cart.body();
    body["workflow"] = json!("orchestration");
    let orders = api.http().post(api.url(Service::Orders, "/orders")).header("Idempotency-Key", "2");
    let carried = api.send_as(user_id, orders.json(&body)).await.unwrap().expect(202, "an order").unwrap();
    let carried = carried.id().unwrap();
    world.settled().await.unwrap();
    world.told(&["email"]).await;

    let http = || front.api.http();
    let operator =
        async |path: &str| front.as_operator(http().get(format!("{}/api{path}", front.url))).await.unwrap();
    let customer = async |user: Uuid, path: &str| {
        front.api.send_as(user, http().get(format!("{}/api{path}", front.url))).await.unwrap()
    };
    let notifications = operator("/notifications").await.body;
    let notification = notifications["items"][0]["id"].as_str().unwrap().to_owned();
    for path in [
        format!("/orders/{order}"),
        format!("/accounts/{account_id}"),
        format!("/payments/{order}"),
        "/inventory/TEA-1".to_owned(),
        "/products/TEA-1".to_owned(),
        format!("/shipments/{order}"),
        format!("/users/{user_id}"),
        format!("/notifications/{notification}"),
        format!("/ops/sagas/{carried}"),
    ] {
        let present = timeless(operator(&path).await.expect(200, &path).unwrap().body);
        let history = operator(&format!("{path}/history?diff=true&limit=100")).await;
        let history = history.expect(200, &path).unwrap().body;
        let steps = steps(&history);
        let (_, document) = steps.last().unwrap().clone();
        assert_eq!(timeless(document), present, "all changes of {path} make the present one");
        is_shown_as_of_each_time(&front, &path, &steps).await;
        let last = operator(&format!("{path}?asOf=999")).await;
        assert_eq!((last.status, &last.body["type"]), (404, &json!("/problems/state-not-found")), "{path}");
        let detail = last.body["detail"].as_str().unwrap();
        let version = detail.trim_end_matches('.').rsplit(' ').next().unwrap();
        let as_of = operator(&format!("{path}?asOf={version}")).await.expect(200, &path).unwrap();
        assert_eq!(as_of.headers["waybill-version"], version, "{path}");
        assert_eq!(timeless(as_of.body), present, "the last version of {path} is the present one");
        assert_eq!(
            operator(&format!("{path}/history?limit=1")).await.body["events"].as_array().unwrap().len(),
            1
        );
        let nobody = front.api.send(http().get(format!("{}/api{path}?asOf=1", front.url))).await.unwrap();
        assert_eq!(nobody.status, 401, "{path}");
    }

    let first = customer(user_id, &format!("/orders/{order}?asOf=1")).await.expect(200, "the past").unwrap();
    assert_eq!((&first.body["status"], &first.body["version"]), (&json!("pending"), &json!(1)));
    let (bob, own) = (api.register("bob").await.unwrap(), format!("/orders/{order}"));
    for path in [format!("{own}?asOf=1"), format!("{own}?asOf=99"), format!("{own}/history?diff=true")] {
        let refused = customer(bob, &path).await;
        assert_eq!(
            (refused.status, &refused.body["type"]),
            (404, &json!("/problems/order-not-found")),
            "{path}"
        );
    }
    assert_eq!(customer(user_id, "/inventory/TEA-1?asOf=1").await.status, 200);
    assert_eq!(customer(user_id, "/inventory/TEA-1/history").await.status, 403);
    assert_eq!(customer(user_id, &format!("/ops/sagas/{carried}?asOf=1")).await.status, 403);

    // A name and an address that were changed, and then erased.
    let user = api.url(Service::Users, &format!("/users/{user_id}"));
    let renamed = http().patch(&user).json(&json!({ "name": "Ada King" }));
    let renamed = api.send_as(user_id, renamed).await.unwrap().expect(202, "a new name").unwrap();
    let path = format!("/users/{user_id}?after={}", renamed.position().unwrap());
    assert_eq!(customer(user_id, &path).await.body["name"], "Ada King");
    assert_eq!(customer(user_id, &format!("{path}&asOf=1")).await.body["name"], "Ada Lovelace");
    let history = customer(user_id, &format!("/users/{user_id}/history?diff=true")).await.body;
    let change = json!({ "path": "/name", "from": "Ada Lovelace", "to": "Ada King" });
    assert!(history["events"][1]["changes"].as_array().unwrap().contains(&change), "{history}");
    let erased = api.send_as(user_id, http().delete(&user)).await.unwrap().expect(202, "an erasure").unwrap();
    let after = erased.position().unwrap();
    for query in ["asOf=1", "asOf=2", "asOf=3"] {
        let was =
            operator(&format!("/users/{user_id}?{query}&after={after}")).await.expect(200, query).unwrap();
        assert_eq!((&was.body["name"], &was.body["erased"]), (&Value::Null, &json!(true)), "{query}");
    }
    for path in [format!("/users/{user_id}"), format!("/shipments/{order}"), format!("/orders/{order}")] {
        let told = operator(&format!("{path}/history?diff=true&limit=100")).await.expect(200, &path).unwrap();
        assert!(!told.body.to_string().contains("Lovelace"), "{path} shows who was erased");
    }
    assert!(front.stop().await);
    assert!(world.stop().await);
}
