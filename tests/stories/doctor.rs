//! Each thing that an installation rests on is broken for real, and `waybill doctor` says so, and what to do.

use crate::READ_MODELS;
use axum::{Json, Router, routing::get};
use jiff::SignedDuration;
use nats::server::Binary;
use serde_json::{Value, json};
use service::Clock;
use std::{fs, net::SocketAddr, os::unix::fs::PermissionsExt, process::Stdio, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpListener,
    process::{Child, Command},
};
use waybill::{api::Cart, system::Service};
use waybill_tests::{Front, ReadModels, World, eventually, request, run};

const SOON: Duration = Duration::from_secs(30);

/// What doctor says, as a document, and its exit code.
async fn doctor(arguments: &[&str]) -> (i32, Value) {
    let (code, said) = run(&[&["doctor", "--json"], arguments].concat()).await.unwrap();
    // Behind the document, on standard error, is the count of findings.
    let document = serde_json::Deserializer::from_str(&said).into_iter().next();
    (
        code.unwrap(),
        document.unwrap_or_else(|| panic!("{said}")).unwrap_or_else(|error| panic!("{error}: {said}")),
    )
}

/// Whether there is a finding about this, which says so, and what to do.
fn has(report: &Value, area: &str, of: &str, what: &str) -> bool {
    let fits = |finding: &Value| {
        let text = |name: &str| finding[name].as_str().unwrap_or_default().to_owned();
        text("area") == area
            && text("of").contains(of)
            && text("what").contains(what)
            && text("todo").len() > 5
    };
    report["findings"].as_array().unwrap().iter().any(fits)
}

#[track_caller]
fn finds(report: &Value, area: &str, of: &str, what: &str) {
    assert!(has(report, area, of, what), "nothing in {area} of {of} says {what}: {report:#}");
}

#[track_caller]
fn finds_nothing((code, report): (i32, Value)) {
    assert_eq!((code, &report["findings"]), (0, &json!([])), "{report:#}");
}

/// Where a world is, as flags.
struct Place(Vec<String>);

impl Place {
    fn of(world: &World) -> Self {
        let key = world.config.data.with_file_name("master.key");
        fs::write(&key, &*world.config.master_key.to_base64()).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        let words = [
            "--nats-url",
            &world.config.nats_url,
            "--master-key-file",
            key.to_str().unwrap(),
            // Whatever else is on this disk.
            "--full",
            "100",
        ];
        // Each a flag and what it is given.
        let read_models = world.read_models();
        let read_models =
            read_models.iter().filter_map(|flag| flag.split_once('=')).flat_map(<[&str; 2]>::from);
        Self(words.into_iter().chain(read_models).map(str::to_owned).collect())
    }

    async fn doctor(&self, more: &[&str]) -> (i32, Value) {
        let words: Vec<_> = self.0.iter().map(String::as_str).collect();
        // What stands last counts.
        let more: Vec<_> = more.to_vec();
        let words = words.chunks(2).filter(|pair| !more.contains(&pair[0])).flatten().copied();
        doctor(&words.chain(more.clone()).collect::<Vec<_>>()).await
    }
}

/// Places an order, and waits until all is done.
async fn order(world: &World) {
    let api = &world.api;
    let stocked = api.stock_product("p", ("PEN", "Pen", 10), 100).await.unwrap();
    let user_id = api.register("u").await.unwrap();
    let (account_id, opened) = api.open_account("a", user_id, 100_000).await.unwrap();
    let cart = Cart { user_id, account_id, items: vec![("PEN".to_owned(), 1)], country: "DE".to_owned() };
    let after = [&stocked, &opened].map(|answer| answer.position().unwrap());
    api.place("o", &cart, &after).await.unwrap().expect(202, "an order").unwrap();
    world.settled().await.unwrap();
    world.told(&["email"]).await;
}

/// What JetStream answers, which has to be that it did it.
async fn asked(world: &World, subject: &str, body: &Value) -> Value {
    let answer = request(&world.nats.url(), &format!("$JS.API.{subject}"), &body.to_string()).await.unwrap();
    assert!(answer.get("error").is_none(), "{subject}: {answer}");
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_broken_is_found() {
    let mut world = World::start(READ_MODELS).await.unwrap();
    order(&world).await;
    // With what a gateway keeps, too.
    let front = Front::start(&world).await.unwrap();
    assert!(front.stop().await);
    let place = Place::of(&world);
    let (code, report) = place.doctor(&[]).await;
    assert!(
        report["unknown"].as_array().unwrap().iter().any(|open| open["of"] == "sync_interval"),
        "{report:#}"
    );
    if READ_MODELS == ReadModels::OnPostgres {
        let said = report["fine"].to_string();
        assert!(said.contains("PostgreSQL 1") && said.contains("\"of\":\"databases\""), "{report:#}");
        assert!(!said.contains("postgres://"), "{said}");
        let (_, report) = place.doctor(&["--full", "1"]).await;
        finds(&report, "databases", "orders", "connections are taken");
    }
    finds_nothing((code, report));

    // A stream that forgets, a consumer that skips, one that is paused, one that nobody takes from.
    let mut config = asked(&world, "STREAM.INFO.SHIPPING", &json!({})).await["config"].clone();
    let good = config.clone();
    config["max_msgs"] = 1_000_000.into();
    asked(&world, "STREAM.UPDATE.SHIPPING", &config).await;
    let names = asked(&world, "CONSUMER.NAMES.ORDERS", &json!({})).await;
    let name = names["consumers"].as_array().unwrap().iter().map(|name| name.as_str().unwrap());
    let name = name.max_by_key(|name| name.starts_with("inventory")).unwrap().to_owned();
    let info = asked(&world, &format!("CONSUMER.INFO.ORDERS.{name}"), &json!({})).await;
    let mut config = info["config"].clone();
    config["max_deliver"] = 3.into();
    let change = json!({ "stream_name": "ORDERS", "config": config, "action": "update" });
    asked(&world, &format!("CONSUMER.DURABLE.CREATE.ORDERS.{name}"), &change).await;
    let until = (Clock::system().now() + SignedDuration::from_hours(1)).to_string();
    asked(&world, &format!("CONSUMER.PAUSE.ORDERS.{name}"), &json!({ "pause_until": until })).await;
    let lazy = json!({ "stream_name": "ORDERS", "config": {
        "durable_name": "nobody", "ack_policy": "explicit", "ack_wait": 4_000_000_000_u64, "max_ack_pending": 1024 } });
    asked(&world, "CONSUMER.DURABLE.CREATE.ORDERS.nobody", &lazy).await;
    let letter = r#"{"what":"an operator has to see"}"#;
    request(&world.nats.url(), "$KV.PARKED.x.y", letter).await.unwrap();
    let (code, report) = place.doctor(&["--lag", "1"]).await;
    assert_eq!(code, 1);
    finds(&report, "streams", "SHIPPING", "max_msgs is 1000000, needs no limit");
    finds(&report, "consumers", &name, "max_deliver is 3");
    finds(&report, "consumers", &name, "paused");
    finds(&report, "consumers", "nobody", "messages wait");
    finds(&report, "consumers", "parked", "1 messages could not be handled");

    // Nothing starts on such a stream, nor with what cannot be read.
    asked(&world, "STREAM.UPDATE.SHIPPING", &good).await;
    asked(&world, "STREAM.PURGE.KV_PARKED", &json!({})).await;

    // Copies that are not there, a cluster that is none.
    let (_, report) = place.doctor(&["--replicas", "3"]).await;
    finds(&report, "cluster", "waybill", "no node of a cluster");
    finds(&report, "streams", "ORDERS", "replicas is 1, needs 3");
    finds(&report, "streams", "KV_PERSONAL_KEYS", "replicas is 1, needs 3");

    // Read models that stand still, that are of another log, and that a newer program made.
    assert!(world.stop().await);
    // It has a read model of its own.
    let databases = std::mem::take(&mut world.config.databases);
    let (another, api) = world.another("second", &[Service::Users]).await.unwrap();
    world.config.databases = databases;
    for number in 0..3 {
        api.register(&format!("more-{number}")).await.unwrap();
    }
    assert!(another.stop().await);
    let (_, report) = place.doctor(&["--lag", "2"]).await;
    finds(&report, "projections", "users", "events behind USERS");
    let empty = World::of(READ_MODELS, &[Service::Users, Service::Orders], |_| ()).await.unwrap();
    let (_, report) = place.doctor(&["--nats-url", &empty.config.nats_url]).await;
    finds(&report, "projections", "orders", "made from another log");
    let newer = |generation: &mut Value| {
        generation["version"] = 999.into();
        generation["model"] = "of tomorrow".into();
    };
    world.kept.change_generations("orders", &world.config.data, newer).await.unwrap();
    let (_, report) = place.doctor(&[]).await;
    finds(&report, "databases", "orders", "is of version");
    let (code, report) =
        place.doctor(&["orders", "--database-url", "postgres://a:b@127.0.0.1:1/orders"]).await;
    assert_eq!(code, 1);
    finds(&report, "databases", "orders", "cannot open the database");

    // Keys, and room.
    let key = world.config.data.with_file_name("other.key");
    fs::write(&key, &*nats::MasterKey::generate().to_base64()).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let key = key.to_str().unwrap();
    let (_, report) = place.doctor(&["--master-key-file", key]).await;
    finds(&report, "credentials", "other.key", "has mode 644");
    finds(&report, "credentials", "master key", "is not the one");
    let (_, report) = place.doctor(&["--master-key-file", "/nowhere"]).await;
    finds(&report, "credentials", "master key", "--master-key-file");
    let (_, report) = place.doctor(&["--full", "1"]).await;
    if READ_MODELS == ReadModels::OnSqlite {
        finds(&report, "disk", "read models", "% full");
    }

    // NATS itself.
    world.nats.pause();
    let (code, report) = place.doctor(&[]).await;
    world.nats.resume();
    assert_eq!(code, 1);
    finds(&report, "nats", "nats-server", "cannot connect to NATS");
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (code, report) = place.doctor(&["--nats-url", &format!("nats://{free}")]).await;
    assert_eq!(code, 1);
    finds(&report, "nats", "nats-server", "cannot connect to NATS");
    let (_, report) = place.doctor(&["--nats-url", &old_server().await]).await;
    finds(&report, "nats", "ancient", "version 2.9.0 is too old");
    assert_eq!(run(&["doctor", "carts", "--full", "0"]).await.unwrap().0, Some(64));
}

/// A server that says that it is old, and nothing else.
async fn old_server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("nats://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (from, mut to) = stream.into_split();
            let hello = r#"INFO {"server_id":"x","server_name":"ancient","version":"2.9.0","host":"127.0.0.1","port":1,"proto":1,"max_payload":1048576,"headers":true,"jetstream":true}"#;
            if to.write_all(format!("{hello}\r\n").as_bytes()).await.is_err() {
                continue;
            }
            let mut lines = BufReader::new(from).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                if line.starts_with("PING") && to.write_all(b"PONG\r\n").await.is_err() {
                    break;
                }
            }
        }
    });
    url
}

/// A nats-server with a configuration of the test's own, which says how it is.
struct Own {
    _child: Child,
    _dir: tempfile::TempDir,
    url: String,
    monitor: String,
}

impl Own {
    async fn start(jetstream: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = format!(
            "server_name: own\nhost: 127.0.0.1\nport: -1\nhttp: \"127.0.0.1:-1\"\n\
             jetstream {{ store_dir: \"{}\", {jetstream} }}\n",
            dir.path().join("data").display()
        );
        fs::write(dir.path().join("conf"), config).unwrap();
        let binary = Binary::locate(None).await.unwrap();
        let child = Command::new(binary.path)
            .arg("-c")
            .arg(dir.path().join("conf"))
            .arg("--ports_file_dir")
            .arg(dir.path())
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let ports = eventually("the server says where it is", SOON, async || {
            let files = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
            let file = { files }.find(|path| path.extension().is_some_and(|end| end == "ports"))?;
            serde_json::from_slice::<Value>(&fs::read(file).ok()?).ok()
        })
        .await;
        let at = |name: &str| ports[name][0].as_str().unwrap().to_owned();
        Self { url: at("nats"), monitor: at("monitoring"), _child: child, _dir: dir }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_the_server_knows_is_asked_of_the_server() {
    let lazy = Own::start("max_file_store: 1MB").await;
    let empty = tempfile::tempdir().unwrap();
    let data = empty.path().to_str().unwrap();
    let at =
        |own: &Own| ["--nats-url", &own.url, "--monitor", &own.monitor, "--data", data].map(str::to_owned);
    let words = at(&lazy);
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let (code, report) = doctor(&words).await;
    assert_eq!(code, 1);
    finds(&report, "durability", "own", "acknowledges before it writes to disk");
    // Unless that is meant.
    let (_, report) = doctor(&[&words[..], &["--durability", "interval"]].concat()).await;
    assert!(!has(&report, "durability", "", ""), "{report:#}");
    let stream = json!({ "name": "BIG", "subjects": ["big"], "storage": "file" });
    request(&lazy.url, "$JS.API.STREAM.CREATE.BIG", &stream.to_string()).await.unwrap();
    request(&lazy.url, "big", &"x".repeat(500_000)).await.unwrap();
    let (_, report) = doctor(&[&words[..], &["--full", "40"]].concat()).await;
    finds(&report, "disk", "own", "bytes are used");

    let good = Own::start("sync_interval: always").await;
    let words = at(&good);
    let (_, report) = doctor(&words.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert!(!has(&report, "durability", "", ""), "{report:#}");
    assert!(!has(&report, "clocks", "", ""), "{report:#}");
    finds(&report, "streams", "ORDERS", "does not exist");

    // Nodes as they would be elsewhere: of other versions, with other clocks, with certificates that end.
    let node = |name: &str, version: &str, ahead: i64, ends: i64| {
        json!({
            "server_name": name, "version": version, "now": Clock::system().now() + SignedDuration::from_secs(ahead),
            "tls_required": true, "tls_cert_not_after": Clock::system().now() + SignedDuration::from_hours(24 * ends),
            "jetstream": { "config": { "max_storage": 100, "store_dir": "/nowhere", "sync_always": true },
                "stats": { "storage": 99 } },
        })
    };
    let one = monitor(node("nats-1", "2.15.1", 0, 365)).await;
    let two = monitor(node("nats-2", "2.14.4", 60, 3)).await;
    let three = monitor(node("nats-3", "2.15.1", 0, -1)).await;
    // Who asks one of three does not know of the others.
    let (_, report) = doctor(&["--nats-url", &good.url, "--data", data, "--monitor", &one]).await;
    let open = report["unknown"].as_array().unwrap().iter().find(|open| open["of"] == "sync_interval");
    assert!(open.unwrap()["what"].as_str().unwrap().starts_with("1 of 3 nodes"), "{report:#}");
    assert!(!report["fine"].to_string().contains("durability"), "{report:#}");
    let all = [&one, &two, &three].map(String::as_str).join(",");
    let (_, report) = doctor(&["--nats-url", &good.url, "--data", data, "--monitor", &all]).await;
    assert_eq!(report["fine"].to_string().matches("sync_interval: always").count(), 3, "{report:#}");
    let away = format!("http://{}", TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap());
    let monitors = [one, two, three, away.clone()].join(",");
    let (_, report) =
        doctor(&["--nats-url", &good.url, "--data", data, "--replicas", "3", "--monitor", &monitors]).await;
    finds(&report, "cluster", "versions", "nats-2 2.14.4");
    finds(&report, "clocks", "monitored nodes", "ahead of");
    finds(&report, "credentials", "nats-2", "its certificate ends");
    finds(&report, "credentials", "nats-3", "its certificate ended");
    finds(&report, "disk", "nats-1", "99 of 100 bytes");
    finds(&report, "cluster", "nats-9", "is away");
    finds(&report, "nats", "nats-1", "is not well: unavailable");
    finds(&report, "cluster", &away, "does not say how it is");
}

/// A monitoring port that plays a node.
async fn monitor(varz: Value) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let meta = json!({ "meta_cluster": { "name": "c", "leader": "nats-1", "cluster_size": 3,
        "replicas": [{ "name": "nats-9", "offline": true }] } });
    let health = json!({ "status": "unavailable", "error": "JetStream is not current" });
    let router = Router::new()
        .route("/varz", get(async move || Json(varz)))
        .route("/jsz", get(async move || Json(meta)))
        .route("/healthz", get(async move || (axum::http::StatusCode::SERVICE_UNAVAILABLE, Json(health))));
    let router = router.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_away_is_found_on_a_cluster() {
    let mut world = World::cluster(READ_MODELS).await.unwrap();
    let place = Place::of(&world);
    eventually("all copies have everything", SOON, async || {
        let (_, report) = place.doctor(&["--replicas", "3"]).await;
        report["findings"].as_array().unwrap().is_empty().then_some(())
    })
    .await;
    world.others[1].kill().await;
    eventually("the others know that it is away", SOON, async || {
        let (_, report) = place.doctor(&["--replicas", "3"]).await;
        has(&report, "cluster", "on nats-3", "").then_some(())
    })
    .await;
    assert!(world.stop().await);
}
