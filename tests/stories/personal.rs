//! Personal data: nowhere in plain, and gone for good with their key.

use crate::READ_MODELS;
use base64::{Engine, prelude::BASE64_STANDARD};
use commands::shipping::Behaviour;
use projections::View;
use serde_json::{Value, json};
use std::{fs, path::Path, time::Duration};
use tokio::process::Command;
use waybill::{
    api::{Answer, Api, Cart},
    system::Service,
};
use waybill_tests::{Cluster, Process, World, eventually, request, settled};

const SOON: Duration = Duration::from_secs(20);
/// What the customer says when cancelling.
const SAID: &str = "Aunt Ottilie has one already";
const PASSWORD: &str = "sesam oeffne dich";
/// Parts of what is personal or secret in these stories, in lower case. Nobody whom the program itself makes up is
/// called so.
const PERSONAL: [&str; 6] = ["zwirnsdorf", "krummgasse", "tuttlingen", "ottilie", "wendelin", "sesam"];

async fn shop(api: &Api) -> (Cart, String) {
    let stocked = api.stock_product("p", ("POT-9", "Pot", 450), 50).await.unwrap();
    (customer(api, "a").await, stocked.position().unwrap().to_owned())
}

async fn customer(api: &Api, key: &str) -> Cart {
    let user_id = api.register(key).await.unwrap();
    let (account_id, _) = api.open_account(key, user_id, 100_000).await.unwrap();
    Cart { user_id, account_id, items: vec![("POT-9".to_owned(), 2)], country: "DE".to_owned() }
}

/// Asks for an order of somebody who lives somewhere.
async fn ask(api: &Api, key: &str, cart: &Cart, after: &str) -> Answer {
    let mut body = cart.body();
    body["shippingAddress"] = json!({
        "name": "Kaspar Zwirnsdorf",
        "line1": "Krummgasse 77",
        "city": "Tuttlingen",
        "postalCode": "78532",
        "country": cart.country,
    });
    let request = api.http().post(api.url(Service::Orders, "/orders")).header("Idempotency-Key", key);
    api.send_as(cart.user_id, request.header("Waybill-Position", after).json(&body)).await.unwrap()
}

async fn place(api: &Api, key: &str, cart: &Cart, after: &str) -> uuid::Uuid {
    ask(api, key, cart, after).await.expect(202, "an order").unwrap().id().unwrap()
}

/// Places an order and takes it back, with words.
async fn take_back(api: &Api, key: &str, cart: &Cart, after: &str) -> uuid::Uuid {
    let order = place(api, key, cart, after).await;
    let path = format!("/orders/{order}/cancel");
    let cancelled = api.post(Service::Orders, &path, &format!("{key}-c"), &json!({ "reason": SAID })).await;
    cancelled.unwrap().expect(202, "a cancelled order").unwrap();
    order
}

/// Registers somebody, logs in with a wrong password and with the right one.
async fn register(api: &Api) {
    let post = async |status: u16, path: &str, body: Value| {
        let request = api.http().post(api.url(Service::Users, path)).json(&body);
        api.send(request).await.unwrap().expect(status, path).unwrap()
    };
    let email = "Ottokar.Wendelin@Example.com";
    let person = json!({ "email": email, "password": PASSWORD, "name": "Ottokar Wendelin" });
    post(201, "/users", person.clone()).await;
    post(409, "/users", person).await;
    post(401, "/sessions", json!({ "email": email, "password": format!("{PASSWORD}!") })).await;
    post(201, "/sessions", json!({ "email": email.to_lowercase(), "password": PASSWORD })).await;
}

/// Which of the texts are in there, in capitals or not.
fn found<'a>(bytes: &[u8], texts: &[&'a str]) -> Vec<&'a str> {
    let bytes = String::from_utf8_lossy(bytes).to_lowercase();
    texts.iter().copied().filter(|text| bytes.contains(&text.to_lowercase())).collect()
}

/// Searches every message of every stream, buckets included, as the server gives them. Answers in which streams what
/// was found.
async fn search_streams(nats_url: &str, texts: &[&str]) -> Vec<String> {
    let ask =
        async |subject: String, body: Value| request(nats_url, &subject, &body.to_string()).await.unwrap();
    let names = ask("$JS.API.STREAM.NAMES".to_owned(), json!({})).await;
    let mut hits = Vec::new();
    for name in names["streams"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()) {
        let state = ask(format!("$JS.API.STREAM.INFO.{name}"), json!({})).await["state"].clone();
        let ends = ["first_seq", "last_seq"].map(|end| state[end].as_u64().unwrap());
        for sequence in ends[0]..=ends[1] {
            let answer = ask(format!("$JS.API.STREAM.MSG.GET.{name}"), json!({ "seq": sequence })).await;
            let part = |part: &str| {
                BASE64_STANDARD.decode(answer["message"][part].as_str().unwrap_or_default()).unwrap()
            };
            let subject = answer["message"]["subject"].as_str().unwrap_or_default();
            let bytes = [subject.as_bytes(), &part("hdrs"), &part("data")].concat();
            hits.extend(found(&bytes, texts).iter().map(|text| format!("{name} {sequence}: {text}")));
        }
    }
    hits
}

/// Searches every file below a folder.
fn search_files(folder: &Path, texts: &[&str]) -> Vec<String> {
    let mut hits = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            hits.extend(search_files(&entry, texts));
        } else if !entry.ends_with("master.key") {
            let bytes = fs::read(&entry).unwrap();
            hits.extend(found(&bytes, texts).iter().map(|text| format!("{}: {text}", entry.display())));
        }
    }
    hits
}

/// Writes down everything that is in the databases, where it is searched for, and what the server has logged.
fn dump(cluster: &Cluster, folder: &Path) {
    for view in View::ALL {
        let all = cluster.sql(&format!("waybill_{}", view.name), "SELECT database_to_xml(true, false, '')");
        fs::write(folder.join(format!("{}.1.xml", view.name)), all).unwrap();
    }
    fs::write(folder.join("postgresql.log"), cluster.log()).unwrap();
}

#[tokio::test]
async fn personal_data_are_in_no_stream_no_read_model_and_no_log() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let kept = READ_MODELS.kept();
    let dev = Process::dev(&data, &kept.flags(&["--log", "debug"])).await.unwrap();
    register(&dev.api).await;
    let (cart, stocked) = shop(&dev.api).await;
    place(&dev.api, "good", &cart, &stocked).await;
    take_back(&dev.api, "back", &cart, &stocked).await;
    // The carrier refuses, the field is refused, the body is refused.
    place(&dev.api, "far", &Cart { country: "AQ".to_owned(), ..cart.clone() }, &stocked).await;
    for address in
        [json!("Krummgasse 77, 78532 Tuttlingen"), json!({ "name": "Zwirnsdorf", "line1": [78532] })]
    {
        let mut body = cart.body();
        body["shippingAddress"] = address;
        let refused = dev.api.post(Service::Orders, "/orders", "bad", &body).await.unwrap();
        assert_eq!(refused.status, 422, "{refused:?}");
    }
    let utopia = Cart { country: "Ottilie".to_owned(), ..cart.clone() };
    ask(&dev.api, "utopia", &utopia, &stocked).await.expect(422, "a refusal").unwrap();
    let connection = nats::Connection::connect(&dev.nats_url, "test").await.unwrap();
    assert_eq!(settled(&connection, &dev.api).await.unwrap().orders(), 3);

    let key = fs::read_to_string(data.join("master.key")).unwrap();
    let secrets = [&PERSONAL[..], &[key.trim()]].concat();
    assert_eq!(search_streams(&dev.nats_url, &secrets).await, [""; 0]);
    assert!(!search_streams(&dev.nats_url, &["POT-9"]).await.is_empty(), "the search searches");
    assert!(dev.stop().await.unwrap().success());
    if let Some(cluster) = kept.cluster() {
        dump(cluster, &data.join("views"));
    }
    assert_eq!(search_files(&data, &secrets), [""; 0]);
    let hits = search_files(&data, &["POT-9", "POST /orders", "/orders"]).join("\n");
    for file in ["views/inventory.1.", "views/orders.1.", "waybill.log"] {
        assert!(hits.contains(file), "the search searches {file}: {hits}");
    }
}

/// Every event with personal data, as `waybill replay --reveal` prints it: the customer, and what it shows of him.
async fn replayed(world: &World, folder: &Path) -> Vec<(String, Value)> {
    let file = folder.join("key");
    fs::write(&file, world.config.master_key.to_base64().as_bytes()).unwrap();
    let arguments = ["replay", "--reveal", "--output", "json", "--nats-url", &world.nats.url()];
    let mut command = Command::new(Process::executable());
    let output = command.args(arguments).arg("--master-key-file").arg(&file).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap();
    let events = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let personal = events.filter_map(|event| {
        let data = &event["data"];
        let shown = ["shippingAddress", "reason"].iter().find_map(|field| {
            Some(&data[field]).filter(|value| !value.is_null() && event["type"] != "stock.adjusted")
        })?;
        // Other reasons are names of reasons.
        let user = data["userId"].as_str()?.to_owned();
        (event["type"] != "order.failed").then(|| (user, shown.clone()))
    });
    personal.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erased_customer_is_gone_and_everything_else_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::start(READ_MODELS).await.unwrap();
    let (ada, stocked) = shop(&world.api).await;
    let bob = customer(&world.api, "b").await;
    let shipped = place(&world.api, "1", &ada, &stocked).await;
    let cancelled = take_back(&world.api, "2", &ada, &stocked).await;
    let bobs = place(&world.api, "3", &bob, &stocked).await;
    let before = world.settled().await.unwrap().ends();
    assert_eq!(before.get("cancelled").copied(), Some(1), "{before:?}");

    let shipment = async |world: &World, order| {
        world.api.get(Service::Shipping, &format!("/shipments/{order}")).await.unwrap().body
    };
    let seen = shipment(&world, shipped).await;
    assert_eq!((&seen["address"]["name"], &seen["erased"]), (&json!("Kaspar Zwirnsdorf"), &json!(false)));
    assert_eq!(world.api.order(cancelled).await.unwrap().body["detail"], SAID);
    assert!(replayed(&world, folder.path()).await.iter().all(|(_, shown)| shown["redacted"].is_null()));

    // One more is paid, and waits for the carrier.
    world.config.outside.carrier.set_behaviour(Behaviour::Down);
    let waiting = place(&world.api, "4", &ada, &stocked).await;
    eventually("the order is paid", SOON, async || {
        (world.api.order(waiting).await.ok()?.body["stage"] == "charged").then_some(())
    })
    .await;

    let user = world.api.url(Service::Users, &format!("/users/{}", ada.user_id));
    let erased = world.api.send_as(ada.user_id, world.api.http().delete(user)).await.unwrap();
    erased.expect(202, "an erasure").unwrap();
    eventually("the erasure is seen", SOON, async || {
        (shipment(&world, shipped).await["erased"] == true).then_some(())
    })
    .await;
    world.config.outside.carrier.set_behaviour(Behaviour::Accept);
    let after = world.settled().await.unwrap().ends();
    assert_eq!(after.get("failed").copied().unwrap_or_default(), 1, "{after:?}");
    let order = world.api.order(waiting).await.unwrap().body;
    assert_eq!((&order["reason"], &order["stage"]), (&json!("user_erased"), &json!("undone")), "{order}");

    let refused = ask(&world.api, "5", &ada, &stocked).await.expect(409, "a refusal").unwrap();
    assert_eq!(refused.body["type"], "/problems/user-erased");
    let repeated = ask(&world.api, "1", &ada, &stocked).await.expect(202, "the answer").unwrap();
    assert_eq!(repeated.id().unwrap(), shipped, "what was answered stays answered");

    // Read models made anew say the same.
    assert!(world.stop().await);
    world.lose_read_models().await.unwrap();
    world.resume().await.unwrap();
    assert_eq!(world.settled().await.unwrap().ends(), after);
    assert_eq!(shipment(&world, shipped).await["address"], Value::Null);
    assert_eq!(world.api.order(cancelled).await.unwrap().body["detail"], Value::Null);
    assert_eq!(shipment(&world, bobs).await["address"]["city"], "Tuttlingen", "another customer");
    for (user, shown) in replayed(&world, folder.path()).await {
        assert_eq!(shown["redacted"] == true, user == ada.user_id.to_string(), "{user}: {shown}");
    }
    assert!(world.stop().await);
}
