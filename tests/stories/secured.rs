//! A NATS that trusts nobody: everything works, each with a key of its own; and whoever has one key can do what its owner
//! can, and nothing else.

use crate::READ_MODELS;
use events::Context;
use events::feed::stream as feed_stream;
use jiff::Timestamp;
use nats::{Layout, SYSTEM, Seed, inbox};
use projections::database::Cluster;
use serde_json::{Value, json};
use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt, time::Duration};
use waybill::{
    access::{OPERATOR, PROVISIONING},
    api::Cart,
    edge::GATEWAY,
    rights,
    system::Service,
};
use waybill_tests::{Front, Intruder, Serve, World, eventually, run};

const SOON: Duration = Duration::from_secs(30);

async fn shop(world: &World) -> (Cart, String) {
    let api = &world.api;
    let stocked = api.stock_product("p", ("TEA", "Tea", 450), 30).await.unwrap();
    let user_id = api.register("u").await.unwrap();
    let (account_id, opened) = api.open_account("a", user_id, 10_000).await.unwrap();
    let items = vec![("TEA".to_owned(), 2)];
    let cart = Cart { user_id, account_id, items, country: "DE".to_owned() };
    (cart, format!("{},{}", stocked.position().unwrap(), opened.position().unwrap()))
}

/// Runs a command as the operator.
async fn operate(world: &World, command: &[&str]) -> (Option<i32>, String) {
    let seed = world.guarded().join("seeds/operator.nk");
    let place = ["--nats-url", &world.config.nats_url, "--nats-nkey-file", seed.to_str().unwrap()];
    run(&[command, &place].concat()).await.unwrap()
}

/// The same for a command that looks at read models too.
async fn examine(world: &World, command: &[&str]) -> (Option<i32>, String) {
    let read_models = world.read_models();
    let read_models: Vec<_> = read_models.iter().map(String::as_str).collect();
    operate(world, &[command, &read_models].concat()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_works_where_each_has_only_the_rights_it_needs() {
    let mut world = World::secured(READ_MODELS).await.unwrap();
    let (cart, after) = shop(&world).await;
    let placed = world.api.place("o", &cart, &[&after]).await.unwrap().expect(202, "an order").unwrap();
    // The same, asked for by a saga, and one that fails and is undone.
    let mut carried = cart.body();
    carried["workflow"] = "orchestration".into();
    let carried = world.api.post(Service::Orders, "/orders", "s", &carried).await.unwrap();
    assert_eq!(carried.status, 202, "{}", carried.body);
    let nowhere = Cart { country: "AQ".to_owned(), ..cart.clone() };
    world.api.place("f", &nowhere, &[]).await.unwrap().expect(202, "an order").unwrap();
    let audit = world.settled().await.unwrap();
    assert_eq!(audit.ends(), BTreeMap::from([("completed", 2), ("failed", 1)]));

    // Customers are told, through the gateway clients find the services.
    let outbox = world.config.data.join("outbox");
    eventually("letters are written", SOON, async || {
        let mut files = fs::read_dir(&outbox).ok()?.flatten().map(|file| file.path());
        files.any(|path| path.extension().is_some_and(|end| end == "eml")).then_some(())
    })
    .await;
    let front = Front::start(&world).await.unwrap();
    front.knows(&Service::ALL).await.unwrap();
    let through = front.api.order(placed.id().unwrap()).await.unwrap();
    assert_eq!(through.body["status"], "completed");

    // A read model is built again, a user is erased, the log is checked, printed and copied.
    let path = "/ops/projections/orders/rebuild";
    let asked = world.api.post(Service::Operations, path, "again", &json!({})).await.unwrap();
    assert_eq!(asked.status, 202, "{}", asked.body);
    eventually("the second generation serves", SOON, async || {
        let stands = world.api.get(Service::Operations, "/ops/projections/orders").await.ok()?;
        (stands.body["live"] == 2).then_some(())
    })
    .await;
    let (code, said) = examine(&world, &["verify"]).await;
    assert!(code == Some(0) && said.contains("everything agrees"), "{said}");
    let (code, said) = operate(&world, &["replay", "--stream", "ORDERS"]).await;
    assert!(code == Some(0) && said.contains("order.completed"), "{said}");
    let copy = world.config.data.with_file_name("copy");
    let (code, said) = operate(&world, &["export", copy.to_str().unwrap(), "--keys"]).await;
    assert_eq!(code, Some(0), "{said}");

    // What the server kept in memory is gone with it, and is made again by whom it belongs to.
    world.nats.kill().await;
    assert!(world.nats.ready(SOON).await);
    let again = eventually("an order is accepted again", SOON, async || {
        world.api.place("again", &cart, &[]).await.ok().filter(|answer| answer.status == 202)
    })
    .await;
    world.settled().await.unwrap();
    assert_eq!(world.api.order(again.id().unwrap()).await.unwrap().body["status"], "completed");
    let (mut orders, feed) = (enter(&world, "orders").await, feed_stream("orders"));
    eventually("the feed is made again", SOON, async || {
        let info = orders.request(&format!("JS.API.STREAM.INFO.{feed}"), "").await.unwrap().unwrap();
        (info["config"]["name"] == feed).then_some(())
    })
    .await;
    assert!(world.stop().await);
}

/// Everything that NATS keeps is gone.
async fn wipe(provisioning: &mut Intruder) {
    for stream in rights::layout(&["email".to_owned()]).streams.keys() {
        let gone = provisioning.request(&format!("JS.API.STREAM.DELETE.{stream}"), "").await;
        let gone = gone.unwrap().unwrap();
        assert!(gone["success"] == true || gone["error"]["err_code"] == 10059, "{stream}: {gone}");
    }
}

/// Without a file of read models, and whatever else is on this disk.
async fn examined(world: &World) -> (Option<i32>, String) {
    let key = world.config.data.with_file_name("master.key");
    if !key.exists() {
        fs::write(&key, &*world.config.master_key.to_base64()).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    }
    let key = key.to_str().unwrap();
    examine(world, &["doctor", "--json", "--master-key-file", key, "--full", "100"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_operates_may_examine_and_back_up_and_who_provisions_may_restore() {
    let mut world = World::secured(READ_MODELS).await.unwrap();
    let (cart, after) = shop(&world).await;
    let placed = world.api.place("o", &cart, &[&after]).await.unwrap().expect(202, "an order").unwrap();
    world.settled().await.unwrap();
    let said = eventually("doctor finds nothing", SOON, async || {
        let (code, said) = examined(&world).await;
        (code == Some(0)).then_some(said)
    })
    .await;
    let report: Value = serde_json::from_str(&said).unwrap();
    let open: Vec<_> = report["unknown"].as_array().unwrap().iter().map(|open| &open["of"]).collect();
    assert_eq!(open, ["sync_interval", "the account"], "{said}");
    let layout = rights::layout(&["email".to_owned()]);
    let buckets = layout.streams.keys().filter(|name| name.starts_with("KV_")).count();
    for seen in ["opens the keys of personal data", &format!("{buckets} of them")] {
        assert!(said.contains(seen), "{seen} is missing in {said}");
    }
    // The key that it comes with is looked at as well.
    let seed = world.guarded().join("seeds/operator.nk");
    fs::set_permissions(&seed, fs::Permissions::from_mode(0o644)).unwrap();
    let (code, said) = examined(&world).await;
    assert!(code == Some(1) && said.contains("operator.nk") && said.contains("has mode 644"), "{said}");
    fs::set_permissions(&seed, fs::Permissions::from_mode(0o600)).unwrap();
    // What waits for operators is seen here too, and a bucket that forgets.
    let mut provisioning = enter(&world, PROVISIONING).await;
    let info = provisioning.request("JS.API.STREAM.INFO.KV_SESSIONS", "").await.unwrap().unwrap();
    let mut config = info["config"].clone();
    config["max_bytes"] = 10_000_000.into();
    let changed = provisioning.request("JS.API.STREAM.UPDATE.KV_SESSIONS", &config.to_string()).await;
    assert!(changed.unwrap().unwrap()["config"].is_object());
    let letter = r#"{"what":"an operator has to see"}"#;
    provisioning.request("$KV.PARKED.x.y", letter).await.unwrap().unwrap();
    let (code, said) = examined(&world).await;
    assert!(code == Some(1) && said.contains("KV_SESSIONS") && said.contains("max_bytes"), "{said}");
    assert!(said.contains("1 messages could not be handled"), "{said}");
    let emptied = provisioning.request("JS.API.STREAM.PURGE.KV_PARKED", "").await.unwrap().unwrap();
    assert_eq!(emptied["success"], true, "{emptied}");

    let views = world.config.data.clone();
    let path = |name: &str| views.with_file_name(name).to_str().unwrap().to_owned();
    let (backup, keys) = (path("backup"), path("keys"));
    let (code, said) = operate(&world, &["backup", &backup, "--keys-to", &keys]).await;
    assert!(code == Some(0) && said.contains("keys and passwords in"), "{said}");
    assert!(world.stop().await);
    wipe(&mut provisioning).await;
    let seed = world.guarded().join(format!("seeds/{PROVISIONING}.nk"));
    let place = ["--nats-url", &world.config.nats_url, "--nats-nkey-file", seed.to_str().unwrap()];
    let restore = [&["restore", &backup, "--keys-from", &keys][..], &place].concat();
    let (code, said) = run(&restore).await.unwrap();
    assert_eq!(code, Some(0), "{said}");
    let key = path("master.key");
    let provision = [&["provision", "--master-key-file", &key][..], &place].concat();
    let (code, said) = run(&provision).await.unwrap();
    assert_eq!(code, Some(0), "{said}");
    world.resume().await.unwrap();
    assert_eq!(world.api.order(placed.id().unwrap()).await.unwrap().body["status"], "completed");
    let (code, said) = examine(&world, &["verify"]).await;
    assert!(code == Some(0) && said.contains("everything agrees"), "{said}");
    assert!(world.stop().await);
}

/// What an operator runs, as who it is for: it works, on NATS and over HTTP.
#[tokio::test(flavor = "multi_thread")]
async fn the_commands_of_operators_work_as_the_roles_that_they_are_for() {
    let mut world = World::secured(READ_MODELS).await.unwrap();
    let (cart, after) = shop(&world).await;
    let mut carried = cart.body();
    carried["workflow"] = "orchestration".into();
    let placed = world.api.place("o", &cart, &[&after]).await.unwrap().expect(202, "an order").unwrap();
    let carried = world.api.post(Service::Orders, "/orders", "s", &carried).await.unwrap();
    let (placed, carried) = (placed.id().unwrap(), carried.expect(202, "an order").unwrap().id().unwrap());
    world.settled().await.unwrap();
    let views = world.config.data.clone();
    let path = |name: &str| views.with_file_name(name).to_str().unwrap().to_owned();
    let key = path("master.key");
    fs::write(&key, &*world.config.master_key.to_base64()).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();

    let (code, token) = operate(&world, &["token", "--role", "operator", "--master-key-file", &key]).await;
    assert_eq!(code, Some(0), "{token}");
    let (fulfilment, operations) =
        (world.api.url(Service::Fulfilment, ""), world.api.url(Service::Operations, ""));
    let sagas = ["saga", "list", "--url", &fulfilment, "--master-key-file", &key];
    let (code, said) = operate(&world, &sagas).await;
    assert!(code == Some(0) && said.contains(&carried.to_string()), "{said}");
    let by_token = ["--url", &operations, "--token", token.trim()];
    for command in [&["rebuild", "--status"][..], &["dead-letters", "list"]] {
        let (code, said) = run(&[command, &by_token].concat()).await.unwrap();
        assert_eq!(code, Some(0), "{command:?}: {said}");
    }
    // Copies go to a NATS elsewhere; here nobody may write where events are not his.
    let elsewhere = nats::server::Config::new(
        nats::server::Binary::locate(None).await.unwrap(),
        views.with_file_name("elsewhere"),
    );
    let elsewhere = nats::server::Server::start(elsewhere).await.unwrap();
    let copies = ["replay", "--stream", "ORDERS", "--to-subject", "copy"];
    let (code, said) = operate(&world, &[&copies[..], &["--to-nats", &elsewhere.url()]].concat()).await;
    assert!(code == Some(0) && said.contains("events copied"), "{said}");
    let (code, said) = operate(&world, &copies).await;
    assert!(code == Some(1) && said.contains("this is done as operator"), "{said}");
    let (code, said) = operate(&world, &[&copies[..], &["--to-nats", &world.config.nats_url]].concat()).await;
    assert!(code == Some(1) && said.contains("--to-nats-nkey-file"), "{said}");

    let copy = path("copy");
    let (code, said) = operate(&world, &["export", &copy, "--keys"]).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(world.stop().await);
    wipe(&mut enter(&world, PROVISIONING).await).await;
    let seed = world.guarded().join(format!("seeds/{PROVISIONING}.nk"));
    let place = ["--nats-url", &world.config.nats_url, "--nats-nkey-file", seed.to_str().unwrap()];
    for command in [&["import", &copy, "--keys"][..], &["provision", "--master-key-file", &key]] {
        let (code, said) = run(&[command, &place].concat()).await.unwrap();
        assert_eq!(code, Some(0), "{command:?}: {said}");
    }
    world.resume().await.unwrap();
    assert_eq!(world.api.order(placed).await.unwrap().body["status"], "completed");
    assert!(world.stop().await);
}

/// With the key of somebody else, or none, nothing is done, and it is said whose it should be.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_comes_as_somebody_else_says_which_role_it_needs() {
    let mut world = World::secured(READ_MODELS).await.unwrap();
    let path = |name: &str| world.config.data.with_file_name(name).to_str().unwrap().to_owned();
    let (key, copy, made, data) = (path("master.key"), path("copy"), path("made"), path("views"));
    fs::write(&key, &*world.config.master_key.to_base64()).unwrap();
    let (code, said) = operate(&world, &["export", &copy]).await;
    assert_eq!(code, Some(0), "{said}");
    let commands: [(&[&str], &str); 8] = [
        (&["doctor", "--data", &data], OPERATOR),
        (&["verify", "--data", &data], OPERATOR),
        (&["replay"], OPERATOR),
        (&["export", &made], OPERATOR),
        (&["backup", &path("sealed")], OPERATOR),
        (&["token", "--role", "operator", "--master-key-file", &key], OPERATOR),
        (&["import", &copy], PROVISIONING),
        (&["provision", "--master-key-file", &key], PROVISIONING),
    ];
    let seed = world.guarded().join("seeds/notifications.nk");
    let place = ["--nats-url", &world.config.nats_url];
    let known = [&place[..], &["--nats-nkey-file", seed.to_str().unwrap()]].concat();
    let asked = commands.iter().map(async |(command, role)| {
        let (code, said) = run(&[command, &known[..]].concat()).await.unwrap();
        let named = said.contains(&format!("seeds/{role}.nk"));
        assert!(code.is_some_and(|code| code != 0) && named, "{command:?} with {code:?}: {said}");
        let (code, said) = run(&[command, &place[..]].concat()).await.unwrap();
        assert!(
            code.is_some_and(|code| code != 0) && said.contains("--nats-nkey-file"),
            "{command:?}: {said}"
        );
    });
    futures::future::join_all(asked).await;
    assert!(world.stop().await);
}

fn seed(world: &World, role: &str) -> Seed {
    let file = world.guarded().join(format!("seeds/{role}.nk"));
    fs::read_to_string(file).unwrap().parse().unwrap()
}

async fn enter(world: &World, role: &str) -> Intruder {
    let seed = seed(world, role);
    Intruder::enter(&world.nats.url(), role, Some(&seed), json!({})).await.unwrap().unwrap()
}

const EVERYBODYS: &[&str] =
    &["ORDERS", "INVENTORY", "PAYMENTS", "FRAUD", "SHIPPING", "NOTIFICATIONS", "USERS", "FULFILMENT", "OPS"];

/// Whose facts each may read, by hand: a change here is a change of who may see what.
const READS: [(&str, &[&str]); 11] = [
    ("users", &["USERS", "OPS"]),
    ("orders", &["ORDERS", "INVENTORY", "PAYMENTS", "SHIPPING", "USERS", "FULFILMENT", "OPS"]),
    ("payments", &["PAYMENTS", "FRAUD", "INVENTORY", "ORDERS", "SHIPPING", "FULFILMENT", "OPS"]),
    ("inventory", &["INVENTORY", "ORDERS", "PAYMENTS", "SHIPPING", "FULFILMENT", "OPS"]),
    ("shipping", &["SHIPPING", "PAYMENTS", "ORDERS", "FULFILMENT", "OPS"]),
    ("notifications", &["NOTIFICATIONS", "ORDERS", "SHIPPING", "USERS", "OPS"]),
    ("fulfilment", &["FULFILMENT", "ORDERS", "INVENTORY", "PAYMENTS", "SHIPPING", "OPS"]),
    ("operations", EVERYBODYS),
    (GATEWAY, &[]),
    (OPERATOR, EVERYBODYS),
    (PROVISIONING, EVERYBODYS),
];

/// Whose facts each may record.
fn records(role: &str) -> Vec<&str> {
    match role {
        "payments" => vec!["payments", "fraud"],
        "operations" => vec!["ops"],
        GATEWAY | OPERATOR => vec![],
        PROVISIONING => Context::ALL.map(Context::token).to_vec(),
        service => vec![service],
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_a_key_can_do_what_its_owner_may_and_nothing_else() {
    let mut world = World::secured(READ_MODELS).await.unwrap();
    assert!(world.stop().await);
    let layout = rights::layout(&["email".to_owned()]);
    let mut refused = 0;
    for role in rights::roles() {
        let reads = READS.iter().find(|(known, _)| *known == role).unwrap().1;
        let mut intruder = enter(&world, role).await;
        let mut forbidden = Vec::new();
        let mut allowed = Vec::new();
        for context in Context::ALL {
            let stream = context.stream();
            let may = records(role).contains(&context.token());
            let fact = format!("evt.{context}.order.0199d3a8-0000-7000-8000-000000000009");
            if may { &mut allowed } else { &mut forbidden }.push(fact);
            let reading = [
                format!("JS.API.STREAM.INFO.{stream}"),
                format!("JS.API.STREAM.MSG.GET.{stream}"),
                format!("JS.API.DIRECT.GET.{stream}"),
                format!("JS.API.DIRECT.GET.{stream}.evt.{context}.order.1"),
                format!("JS.API.CONSUMER.CREATE.{stream}.mine"),
                format!("JS.API.CONSUMER.CREATE.{stream}.mine.evt.{context}.>"),
                format!("JS.API.CONSUMER.MSG.NEXT.{stream}.mine"),
            ];
            if reads.contains(&stream) { &mut allowed } else { &mut forbidden }.extend(reading);
        }
        forbidden.extend(kept_from(role, &layout));
        let others = [
            "_INBOX_orders.x",
            "_INBOX_users.x",
            "_INBOX.x",
            "$SYS.REQ.SERVER.PING",
            "$SRV.PING",
            "anything",
        ];
        forbidden.extend(
            others.into_iter().filter(|it| !it.starts_with(&format!("{}.", inbox(role)))).map(str::to_owned),
        );
        for subject in &forbidden {
            let said = intruder.publish(subject, "", "{}").await.unwrap();
            assert!(
                said.is_some_and(|said| said.contains("Permissions Violation")),
                "{role} may publish on {subject}"
            );
            refused += 1;
        }
        for subject in &allowed {
            let said = intruder.publish(subject, "", "{}").await.unwrap();
            assert_eq!(said, None, "{role} may not publish on {subject}");
        }
        let listening = ["evt.>", ">", "_INBOX.>", "$JS.>", "$SYS.>", "$KV.>", "view.>", "_R_.>", "*"];
        let inboxes =
            rights::roles().filter(|other| *other != role).map(|other| format!("{}.>", inbox(other)));
        for subject in listening.map(str::to_owned).into_iter().chain(inboxes) {
            let said = intruder.subscribe(&subject).await.unwrap();
            assert!(
                said.is_some_and(|said| said.contains("Permissions Violation")),
                "{role} may listen on {subject}"
            );
            refused += 1;
        }
    }
    assert!(refused > 4000, "{refused} were refused");
}

/// That nobody else may is above: `$SYS.REQ.SERVER.PING` is forbidden to each role.
#[tokio::test(flavor = "multi_thread")]
async fn who_looks_after_the_servers_asks_how_they_are_and_touches_nothing_in_them() {
    let mut world = World::secured(READ_MODELS).await.unwrap();
    assert!(world.stop().await);
    let mut system = enter(&world, SYSTEM).await;
    let server = system.request("$SYS.REQ.SERVER.PING", "").await.unwrap().unwrap();
    assert_eq!(server["server"]["jetstream"], true, "{server}");
    let meta = system.request("$SYS.REQ.SERVER.PING.JSZ", r#"{"streams":false}"#).await.unwrap().unwrap();
    assert!(meta["data"]["streams"].as_u64().unwrap() > 0, "{meta}");
    // A server that is alone has nobody to remove: that it was asked is what is to be seen.
    let removed = system.publish("$JS.API.SERVER.REMOVE", "", r#"{"peer":"nats-2"}"#).await.unwrap();
    assert_eq!(removed, None);
    let id = server["server"]["id"].as_str().unwrap();
    for subject in [
        "$JS.API.ACCOUNT.PURGE.stream-ORDERS".to_owned(),
        "$JS.API.STREAM.DELETE.ORDERS".to_owned(),
        "$JS.API.ACCOUNT.STREAM.MOVE.stream-ORDERS.ORDERS".to_owned(),
        "$SYS.REQ.ACCOUNT.stream-ORDERS.CONNZ".to_owned(),
        "evt.orders.order.1".to_owned(),
        format!("$SYS.REQ.SERVER.{id}.KICK"),
        format!("$SYS.REQ.SERVER.{id}.RELOAD"),
    ] {
        let said = system.publish(&subject, "", "{}").await.unwrap();
        assert!(said.is_some_and(|said| said.contains("Permissions Violation")), "{subject}");
    }
    for subject in ["$SYS.>", ">", "evt.>"] {
        let said = system.subscribe(subject).await.unwrap();
        assert!(said.is_some_and(|said| said.contains("Permissions Violation")), "{subject}");
    }
}

/// What of the streams, buckets and durable consumers is not this role's to change or to take.
fn kept_from(role: &str, layout: &Layout) -> Vec<String> {
    let mut forbidden = Vec::new();
    for (stream, subjects) in &layout.streams {
        if role != PROVISIONING {
            let disposable = *stream == feed_stream(role) || (role == GATEWAY && stream == "KV_QUOTAS");
            for request in ["CREATE", "UPDATE", "PURGE", "DELETE"] {
                if !(disposable && request != "DELETE") {
                    forbidden.push(format!("JS.API.STREAM.{request}.{stream}"));
                }
            }
            if !(role == "users" && stream == "KV_PERSONAL_KEYS") {
                forbidden.push(format!("JS.API.STREAM.MSG.DELETE.{stream}"));
            }
            forbidden.push(format!("JS.API.STREAM.SNAPSHOT.{stream}"));
            forbidden.push(format!("JS.API.STREAM.RESTORE.{stream}"));
        }
        // Nobody asks the server by its own name: not even those who make streams.
        forbidden.push(format!("$JS.API.STREAM.DELETE.{stream}"));
        forbidden.push(format!("$JS.API.STREAM.CREATE.{stream}"));
        for subject in
            subjects.iter().filter(|subject| subject.starts_with("$KV.") || subject.starts_with("view."))
        {
            let bucket = subject.split('.').nth(1).unwrap();
            let own = role == PROVISIONING || owns(role, bucket);
            let sample = subject.replace('>', "stranger.1").replace('*', "stranger");
            if !own {
                forbidden.push(sample);
            }
        }
    }
    for (stream, durable) in &layout.durables {
        let own = durable.starts_with(&format!("{role}-"));
        if role == PROVISIONING {
            continue;
        }
        if !own {
            forbidden.push(format!("JS.API.CONSUMER.MSG.NEXT.{stream}.{durable}"));
            forbidden.push(format!("$JS.ACK.{stream}.{durable}.1.1.1.1.1"));
        }
        forbidden.push(format!("JS.API.CONSUMER.DELETE.{stream}.{durable}"));
        forbidden.push(format!("JS.API.CONSUMER.CREATE.{stream}.{durable}"));
        forbidden.push(format!("JS.API.CONSUMER.CREATE.{stream}.{durable}.evt.>"));
    }
    forbidden
}

/// Whether a bucket, or the feed of changes, is this role's own.
fn owns(role: &str, bucket: &str) -> bool {
    let contexts = records(role);
    let of_context =
        |prefix: &str| contexts.iter().any(|context| bucket == format!("{prefix}{}", context.to_uppercase()));
    let users = ["CREDENTIALS", "SESSIONS", "LOGIN_ATTEMPTS", "SIGNING_KEYS"];
    of_context("SNAPSHOTS_")
        || of_context("LEDGER_")
        || bucket == role
        || (role == "users" && users.contains(&bucket))
        || (role == GATEWAY && bucket == "QUOTAS")
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_cannot_be_sent_into_the_stream_of_somebody_else() {
    let mut world = World::secured(READ_MODELS).await.unwrap();
    assert!(world.stop().await);
    let before = world.lengths().await.unwrap();
    let mut inventory = enter(&world, "inventory").await;
    let forged = "evt.orders.order.0199d3a8-0000-7000-8000-000000000001";
    let own = "evt.inventory.item.X";
    let body = r#"{"orderId":"0199d3a8-0000-7000-8000-000000000001"}"#;
    // An acknowledgement, what a consumer hands out, what is stored at a subject: each with somebody else's subject to
    // answer on, and with one that would ask for something.
    for reply in [
        forged,
        "JS.API.STREAM.PURGE.INVENTORY",
        "JS.API.CONSUMER.DELETE.ORDERS.shipping-orders",
        "$KV.LEDGER_ORDERS.x",
    ] {
        for (subject, body) in [
            (own, body),
            ("JS.API.CONSUMER.MSG.NEXT.ORDERS.inventory-orders", r#"{"batch":10,"expires":1000000000}"#),
            ("JS.API.DIRECT.GET.INVENTORY.evt.inventory.item.X", ""),
            ("JS.API.STREAM.INFO.INVENTORY", ""),
        ] {
            assert_eq!(inventory.publish(subject, reply, body).await.unwrap(), None, "{subject} {reply}");
        }
    }
    // Consumers of its own that send by themselves.
    for target in
        [forged, "$JS.API.STREAM.DELETE.INVENTORY", "$KV.LEDGER_ORDERS.x", "$KV.SNAPSHOTS_INVENTORY.x"]
    {
        let config = json!({ "name": "mine", "deliver_subject": target, "ack_policy": "none", "deliver_policy": "all" });
        let body = json!({ "stream_name": "INVENTORY", "config": config }).to_string();
        let said = inventory.request("JS.API.CONSUMER.CREATE.INVENTORY.mine", &body).await.unwrap().unwrap();
        assert!(said["config"].is_object() || said["error"].is_object(), "{said}");
        inventory.request("JS.API.CONSUMER.DELETE.INVENTORY.mine", "").await.unwrap().unwrap();
    }
    let after = world.lengths().await.unwrap();
    for (context, length) in before {
        let grown = if context == Context::Inventory { 4 } else { 0 };
        assert_eq!(after[&context], length + grown, "{context}");
    }
    // Everything is still there, also what was to be deleted.
    let mut provisioning = enter(&world, PROVISIONING).await;
    let there = [
        "STREAM.INFO.INVENTORY",
        "CONSUMER.INFO.ORDERS.shipping-orders",
        "CONSUMER.INFO.ORDERS.inventory-orders",
    ];
    for request in there {
        let info = provisioning.request(&format!("JS.API.{request}"), "").await.unwrap().unwrap();
        assert!(info["config"].is_object(), "{request}: {info}");
    }
    let ledger = provisioning.request("JS.API.STREAM.INFO.KV_LEDGER_ORDERS", "").await.unwrap().unwrap();
    assert_eq!(ledger["state"]["messages"], 0, "{ledger}");
}

/// A consumer that sends headers only, or a heartbeat, sends what the server takes for a request to empty a stream, or to
/// delete it. In the account of a stream nobody listens there, so it sends nothing.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_reads_cannot_have_a_consumer_ask_what_he_may_not() {
    let mut world = World::secured(READ_MODELS).await.unwrap();
    let (cart, after) = shop(&world).await;
    world.api.place("o", &cart, &[&after]).await.unwrap().expect(202, "an order").unwrap();
    world.settled().await.unwrap();
    assert!(world.stop().await);
    let (mut provisioning, mut reader) =
        (enter(&world, PROVISIONING).await, enter(&world, "notifications").await);
    let cases = [
        ("ORDERS", "STREAM.PURGE.ORDERS"),
        ("ORDERS", "STREAM.DELETE.ORDERS"),
        ("ORDERS", "CONSUMER.DELETE.ORDERS.shipping-orders"),
        ("KV_PARKED", "STREAM.DELETE.KV_PARKED"),
        ("KV_PERSONAL_KEYS", "STREAM.PURGE.KV_PERSONAL_KEYS"),
    ];
    for (number, (stream, target)) in cases.iter().enumerate() {
        let config = json!({
            "name": format!("mine-{number}"), "deliver_subject": format!("$JS.API.{target}"), "ack_policy": "none",
            "deliver_policy": "all", "headers_only": true, "idle_heartbeat": 100_000_000,
        });
        let body = json!({ "stream_name": stream, "config": config }).to_string();
        let create = format!("JS.API.CONSUMER.CREATE.{stream}.mine-{number}");
        let made = reader.request(&create, &body).await.unwrap().unwrap();
        assert!(made["config"].is_object(), "{made}");
    }
    for (number, (stream, target)) in cases.iter().enumerate() {
        let made = loop {
            let info = format!("JS.API.CONSUMER.INFO.{stream}.mine-{number}");
            let info = reader.request(&info, "").await.unwrap().unwrap();
            let time = |key: &str| info[key].as_str().unwrap().parse::<Timestamp>().unwrap();
            // Several heartbeats later.
            if time("ts").duration_since(time("created")).as_millis() > 500 {
                break info;
            }
        };
        assert_eq!(made["delivered"]["consumer_seq"], 0, "{target}: {made}");
        let there = provisioning.request(&format!("JS.API.STREAM.INFO.{stream}"), "").await.unwrap().unwrap();
        assert_eq!(
            there["state"]["messages"].as_u64().unwrap() >= 1,
            *stream != "KV_PARKED",
            "{target}: {there}"
        );
        assert!(there["config"].is_object(), "{target}: {there}");
    }
    let durable = "JS.API.CONSUMER.INFO.ORDERS.shipping-orders";
    let durable = provisioning.request(durable, "").await.unwrap().unwrap();
    assert_eq!(durable["name"], "shipping-orders", "{durable}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_comes_in_without_a_key() {
    let mut world = World::secured(READ_MODELS).await.unwrap();
    let (cart, _) = shop(&world).await;
    let token = world.api.tokens().unwrap().customer(cart.user_id).await.unwrap();
    let (url, stranger) = (world.nats.url(), Seed::generate());
    let tries: [(Option<&Seed>, Value); 6] = [
        (None, json!({})),
        (None, json!({ "auth_token": token })),
        (None, json!({ "jwt": token })),
        (None, json!({ "user": cart.user_id.to_string(), "pass": token })),
        (None, json!({ "nkey": seed(&world, "orders").public() })),
        (Some(&stranger), json!({})),
    ];
    for (seed, with) in tries {
        let entered = Intruder::enter(&url, "orders", seed, with.clone()).await.unwrap();
        let said = entered.err().unwrap_or_else(|| panic!("somebody comes in with {with}"));
        assert!(said.contains("Authorization") || said.contains("closed"), "{said}");
    }
    assert!(world.stop().await);
    // A service that was not provided for says so, and does not start.
    let mut provisioning = enter(&world, PROVISIONING).await;
    let gone = provisioning.request("JS.API.STREAM.DELETE.KV_LEDGER_ORDERS", "").await.unwrap().unwrap();
    assert_eq!(gone["success"], true, "{gone}");
    let failure = world.resume().await.unwrap_err();
    let said = waybill::failure::report(&*failure);
    assert!(said.contains("LEDGER_ORDERS is missing") && said.contains("waybill provision"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_show_certificates() {
    let mut world = World::with_certificates(READ_MODELS).await.unwrap();
    let (cart, after) = shop(&world).await;
    world.api.place("o", &cart, &[&after]).await.unwrap().expect(202, "an order").unwrap();
    assert_eq!(world.settled().await.unwrap().ends(), [("completed", 1)].into());
    assert!(world.stop().await);

    // By flags, as the operator does.
    let tls = world.certificates();
    let file = |name: &str| tls.join(name).to_str().unwrap().to_owned();
    let (ca, certificate, key) = (file("ca.pem"), file("operator.pem"), file("operator.key"));
    let shown = ["--nats-ca", &ca, "--nats-cert", &certificate, "--nats-key", &key];
    let (code, said) = examine(&world, &[&["verify"][..], &shown].concat()).await;
    assert!(code == Some(0) && said.contains("everything agrees"), "{said}");

    // Neither without a certificate, nor with one of somebody else, nor to a server of somebody else.
    let (code, said) = examine(&world, &["verify", "--nats-ca", &ca]).await;
    assert!(code == Some(2) && said.contains("cannot connect"), "{said}");
    let other = world.config.data.with_file_name("other-tls");
    let (code, said) = run(&["dev-certs", "--out", other.to_str().unwrap()]).await.unwrap();
    assert_eq!(code, Some(0), "{said}");
    let file = |name: &str| other.join(name).to_str().unwrap().to_owned();
    let (theirs, certificate, key) = (file("ca.pem"), file("operator.pem"), file("operator.key"));
    for ca in [&ca, &theirs] {
        let shown = ["--nats-ca", ca, "--nats-cert", &certificate, "--nats-key", &key];
        let (code, said) = examine(&world, &[&["verify"][..], &shown].concat()).await;
        assert!(code == Some(2) && said.contains("cannot connect"), "{said}");
    }
}

/// Keeps the read model of orders in a database, until they are ready.
async fn orders_are_ready_on(database: &str) {
    let mut world = World::start(READ_MODELS).await.unwrap();
    let orders = Serve::with(&world, "orders", "orders-2", &["--database-url", database]).unwrap();
    let address = orders.address().await;
    eventually("orders are ready", SOON, async || {
        let answer = world.api.http().get(format!("http://{address}/ready")).send().await.ok()?;
        answer.status().is_success().then_some(())
    })
    .await;
    drop(orders);
    assert!(world.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_shows_a_certificate_too() {
    let dir = tempfile::tempdir().unwrap();
    let tls = dir.path().join("tls");
    let (code, said) = run(&["dev-certs", "--out", tls.to_str().unwrap()]).await.unwrap();
    assert_eq!(code, Some(0), "{said}");
    let files = [("cert", "pem"), ("key", "key")];
    let files =
        files.map(|(what, end)| format!("ssl_{what}_file={}", tls.join(format!("postgres.{end}")).display()));
    let listens = "listen_addresses=127.0.0.1,127.0.0.2";
    let cluster = Cluster::start(&["fsync=off", "ssl=on", listens, &files[0], &files[1]]).unwrap();
    let plain = cluster.url("postgres");
    let with = |host: &str, ca: &str| {
        let url = plain.replace("sslmode=disable", &format!("sslmode=verify-full&sslrootcert={ca}"));
        url.replace("127.0.0.1", host)
    };
    let ca = tls.join("ca.pem");
    let provision =
        async |url: String| run(&["provision-databases", "orders", "--admin-url", &url]).await.unwrap();
    let (code, said) = provision(with("127.0.0.1", ca.to_str().unwrap())).await;
    assert!(code == Some(0) && said.contains("sslmode=verify-full"), "{said}");
    // The read model is kept there.
    let url = said.lines().find_map(|line| line.strip_prefix("WAYBILL_DATABASE_URL_ORDERS='")).unwrap();
    orders_are_ready_on(url.trim_end_matches('\'')).await;
    // One that somebody else has signed, or of another host, is refused.
    let other = dir.path().join("other");
    let (code, _) = run(&["dev-certs", "--out", other.to_str().unwrap()]).await.unwrap();
    assert_eq!(code, Some(0));
    for url in
        [with("127.0.0.1", other.join("ca.pem").to_str().unwrap()), with("127.0.0.2", ca.to_str().unwrap())]
    {
        let (code, said) = provision(url).await;
        assert!(code == Some(1) && said.contains("certificate"), "{said}");
    }
}

/// And it can ask for one, in the place of a password: each role comes with its own, and with no other.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_asks_for_a_certificate_too() {
    let dir = tempfile::tempdir().unwrap();
    let tls = dir.path().join("tls");
    let at = |name: &str| tls.join(name).to_str().unwrap().to_owned();
    let (code, said) = run(&["dev-certs", "--out", tls.to_str().unwrap()]).await.unwrap();
    assert_eq!(code, Some(0), "{said}");
    let files = [("cert", "postgres.pem"), ("key", "postgres.key"), ("ca", "ca.pem")];
    let files = files.map(|(what, name)| format!("ssl_{what}_file={}", at(name)));
    let cluster = Cluster::start(&["fsync=off", "ssl=on", &files[0], &files[1], &files[2]]).unwrap();
    let plain = cluster.url("postgres");
    let sql = |text: &str| cluster.sql(&plain, text).unwrap();
    let hosts =
        "hostnossl all postgres 127.0.0.1/32 scram-sha-256\nhostssl all all 127.0.0.1/32 cert map=roles\n";
    fs::write(sql("SHOW hba_file"), hosts).unwrap();
    fs::write(sql("SHOW ident_file"), "roles postgres postgres\nroles orders waybill_orders\n").unwrap();
    sql("SELECT pg_reload_conf()");
    let nobody =
        plain.replace("sslmode=disable", &format!("sslmode=verify-full&sslrootcert={}", at("ca.pem")));
    let shown =
        |role: &str| format!("&sslcert={}&sslkey={}", at(&format!("{role}.pem")), at(&format!("{role}.key")));
    let provision =
        async |url: &str| run(&["provision-databases", "orders", "--admin-url", url]).await.unwrap();
    eventually("who shows none is refused", SOON, async || {
        let (code, said) = provision(&nobody).await;
        (code == Some(1) && said.contains("requires a valid client certificate")).then_some(())
    })
    .await;
    let (code, said) = provision(&format!("{nobody}{}", shown("orders"))).await;
    assert!(code == Some(1) && said.contains("certificate authentication failed"), "{said}");
    let (code, said) = provision(&format!("{nobody}{}", shown("postgres"))).await;
    assert!(code == Some(0) && said.contains("sslcert="), "{said}");

    // A service comes with the certificate of its role; its password alone opens nothing.
    let line = said.lines().find_map(|line| line.strip_prefix("WAYBILL_DATABASE_URL_ORDERS='")).unwrap();
    let of_admin = line.trim_end_matches('\'').to_owned();
    let of_orders = of_admin.replace("postgres.pem", "orders.pem").replace("postgres.key", "orders.key");
    for url in [&of_admin, of_admin.split("&sslcert").next().unwrap()] {
        assert!(cluster.sql(url, "SELECT 1").is_err(), "{url}");
    }
    orders_are_ready_on(&of_orders).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_changed_while_everything_runs() {
    let mut world = World::secured(READ_MODELS).await.unwrap();
    assert!(world.stop().await);
    let (old, folder) = (seed(&world, "orders"), world.guarded());
    let (code, said) =
        run(&["nats-config", "--out", folder.to_str().unwrap(), "--renew", "orders"]).await.unwrap();
    assert_eq!(code, Some(0), "{said}");
    let new = seed(&world, "orders");
    assert_ne!(old.public(), new.public());
    let mut users = enter(&world, "users").await;
    let accounts = "accounts.conf";
    fs::copy(folder.join(accounts), world.config.data.with_file_name("nats").join(accounts)).unwrap();
    let pid = world.nats.pid().and_then(|pid| rustix::process::Pid::from_raw(pid.try_into().unwrap()));
    rustix::process::kill_process(pid.unwrap(), rustix::process::Signal::HUP).unwrap();
    eventually("the old key is refused", SOON, async || {
        Intruder::enter(&world.nats.url(), "orders", Some(&old), json!({})).await.ok()?.err()
    })
    .await;
    enter(&world, "orders").await;
    // Nobody else notices.
    let info = users.request("JS.API.STREAM.INFO.USERS", "").await.unwrap().unwrap();
    assert_eq!(info["config"]["name"], "USERS");
    // The services go on with the new key, on what is there.
    let seeds = folder.join("seeds");
    let access = nats::Access::default();
    world.config.access = waybill::access::NatsAccess::of_folder(&access, &seeds, rights::roles()).unwrap();
    world.resume().await.unwrap();
    shop(&world).await;
    assert!(world.stop().await);
}
