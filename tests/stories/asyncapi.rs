//! The AsyncAPI document and the schemas: generated from the types, valid, served to everybody, and true of a running system.

mod document;
mod feeds;
mod messages;
mod operations;
mod told;

use crate::READ_MODELS;
use document::document;
use reqwest::{Client, Response, StatusCode, header};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};
use waybill::system::Service;
use waybill_tests::{Front, World, eventually, node, request};

const SOON: Duration = Duration::from_secs(30);

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn file() -> PathBuf {
    root().join("docs/asyncapi.json")
}

fn committed() -> Value {
    serde_json::from_slice(&fs::read(file()).unwrap()).unwrap()
}

#[test]
fn the_document_is_that_of_the_types() {
    let document = document();
    if committed() == document {
        return;
    }
    assert!(
        std::env::var_os("UPDATE_GOLDEN").is_some(),
        "docs/asyncapi.json is not what the types say: run UPDATE_GOLDEN=1 cargo test -p waybill-tests --test stories asyncapi"
    );
    fs::write(file(), format!("{document:#}\n")).unwrap();
}

#[tokio::test]
async fn the_parser_of_the_asyncapi_initiative_finds_nothing_wrong() {
    let (mut right, _) = node(&root().join("tests/asyncapi")).await;
    let output = right.arg("validate.mjs").arg(file()).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let document = committed();
    let count = |of: &str| document.pointer(of).and_then(Value::as_object).unwrap().len();
    let expected = json!({
        "version": "3.0.0",
        "channels": count("/channels"),
        "operations": count("/operations"),
        "messages": count("/components/messages"),
    });
    assert_eq!(found, expected);

    // It would have found this.
    let folder = tempfile::tempdir().unwrap();
    let spoiled = folder.path().join("spoiled.json");
    let mut document = document;
    document["operations"]["inventory.answers.orders.order"]["channel"]["$ref"] = "#/channels/nowhere".into();
    fs::write(&spoiled, document.to_string()).unwrap();
    let (mut wrong, _) = node(&root().join("tests/asyncapi")).await;
    let output = wrong.arg("validate.mjs").arg(&spoiled).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("inventory.answers.orders.order"), "{said}");
}

async fn get(client: &Client, url: &str, known: Option<&str>) -> Response {
    let request =
        known.into_iter().fold(client.get(url), |request, etag| request.header("if-none-match", etag));
    request.send().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn schemas_and_the_document_are_served_by_every_service_and_by_the_gateway() {
    let mut world = World::start(READ_MODELS).await.unwrap();
    let front = Front::start(&world).await.unwrap();
    front.knows(&Service::ALL).await.unwrap();
    let client = Client::new();
    let services = Service::ALL.map(|service| world.api.url(service, ""));
    let mut etags = BTreeSet::new();
    for base in services.iter().chain([&front.url]) {
        for (path, kind) in [
            ("/asyncapi.json", "application/json"),
            ("/schemas", "application/json"),
            ("/schemas/order.created/2", "application/schema+json"),
        ] {
            let answer = get(&client, &format!("{base}{path}"), None).await;
            assert_eq!(
                (answer.status(), &answer.headers()[header::CONTENT_TYPE]),
                (StatusCode::OK, &header::HeaderValue::from_static(kind))
            );
            assert_eq!(answer.headers()[header::CACHE_CONTROL], "public, max-age=300");
            let etag = answer.headers()[header::ETAG].to_str().unwrap().to_owned();
            let again = get(&client, &format!("{base}{path}"), Some(&etag)).await;
            assert_eq!(
                (again.status(), again.headers()[header::ETAG].to_str().unwrap()),
                (StatusCode::NOT_MODIFIED, etag.as_str())
            );
            assert_eq!(again.bytes().await.unwrap().len(), 0);
            etags.insert(etag);
            let head = client.head(format!("{base}{path}")).send().await.unwrap();
            assert_eq!((head.status(), head.bytes().await.unwrap().len()), (StatusCode::OK, 0));
        }
        for path in ["/schemas/order.created/3", "/schemas/order.teleported/1", "/schemas/order.created/0"] {
            let answer = get(&client, &format!("{base}{path}"), None).await;
            assert_eq!(
                (answer.status(), &answer.headers()[header::CONTENT_TYPE]),
                (StatusCode::NOT_FOUND, &header::HeaderValue::from_static("application/problem+json"))
            );
            let problem: Value = answer.json().await.unwrap();
            assert_eq!(problem["type"], "/problems/unknown-schema", "{path}");
        }
        let answer = get(&client, &format!("{base}/schemas/order.created/two"), None).await;
        assert_eq!(answer.json::<Value>().await.unwrap()["type"], "/problems/invalid-path");
    }
    assert_eq!(etags.len(), 3, "they are the same everywhere: {etags:?}");

    let served: Value =
        get(&client, &format!("{}/asyncapi.json", front.url), None).await.json().await.unwrap();
    assert!(served == committed(), "what is served is not docs/asyncapi.json");
    let index: Value = get(&client, &format!("{}/schemas", front.url), None).await.json().await.unwrap();
    for path in index["types"].as_array().unwrap().iter().flat_map(|one| one["schemas"].as_array().unwrap()) {
        let path = path.as_str().unwrap();
        let schema: Value = get(&client, &format!("{}{path}", front.url), None).await.json().await.unwrap();
        let released = fs::read(root().join(format!("events{path}.json"))).unwrap();
        assert_eq!(schema, serde_json::from_slice::<Value>(&released).unwrap(), "{path}");
    }
    assert!(front.stop().await && world.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_says_what_a_running_system_does() {
    let mut world = World::start(READ_MODELS).await.unwrap();
    let user = world.api.register("asyncapi").await.unwrap();
    let (document, nats) = (committed(), world.config.nats_url.clone());

    // Who reads: every durable consumer of every stream, and no other.
    let operations = document["operations"].as_object().unwrap().values();
    let consumers = operations.filter_map(|one| one.pointer("/bindings/nats/x-jetstream/consumer"));
    let said: BTreeSet<_> = consumers
        .map(|one| {
            (
                one["stream"].as_str().unwrap().to_owned(),
                one["durable"].as_str().unwrap().replace("{channel}", "email"),
            )
        })
        .collect();
    eventually("the consumers are those of the document", SOON, async || {
        let mut there = BTreeSet::new();
        for context in events::Context::ALL {
            let stream = context.stream();
            let names = request(&nats, &format!("$JS.API.CONSUMER.NAMES.{stream}"), "").await.ok()?;
            let names = names["consumers"].as_array().cloned().unwrap_or_default();
            // Those without a name of their own have one that the server gave.
            let named = names.iter().filter_map(Value::as_str).filter(|name| name.contains('-'));
            there.extend(named.map(|name| (stream.to_owned(), name.to_owned())));
        }
        (there == said).then_some(())
    })
    .await;

    // And of what.
    for one in document["operations"].as_object().unwrap().values() {
        let Some(consumer) = one.pointer("/bindings/nats/x-jetstream/consumer") else { continue };
        let (stream, durable) = (consumer["stream"].as_str().unwrap(), consumer["durable"].as_str().unwrap());
        let subject = format!("$JS.API.CONSUMER.INFO.{stream}.{}", durable.replace("{channel}", "email"));
        let info = request(&nats, &subject, "").await.unwrap();
        // Without one it is the whole stream.
        let whole = events::Context::of_stream(stream).unwrap().filter();
        let filter = info["config"]["filter_subject"].as_str().unwrap_or(&whole);
        assert_eq!(filter, consumer["filter"], "{durable}");
    }

    // What is recorded: a header that is described, or one of the server's and the store's own.
    let wanted = json!({ "last_by_subj": format!("evt.users.user.{user}") }).to_string();
    let message = request(&nats, "$JS.API.STREAM.MSG.GET.USERS", &wanted).await.unwrap();
    let headers = base64::Engine::decode(
        &base64::prelude::BASE64_STANDARD,
        message["message"]["hdrs"].as_str().unwrap(),
    )
    .unwrap();
    let headers = String::from_utf8(headers).unwrap();
    let names: BTreeSet<_> =
        headers.lines().filter_map(|line| line.split_once(": ")).map(|(name, _)| name).collect();
    let described = &document["components"]["messageTraits"]["cloudevent"]["headers"];
    for required in described["required"].as_array().unwrap() {
        assert!(names.contains(required.as_str().unwrap()), "{required} is not recorded: {names:?}");
    }
    let own = |name: &str| name.starts_with("Nats-") || name.starts_with("Waybill-");
    for name in names.iter().filter(|name| !own(name)) {
        assert!(described["properties"][name].is_object(), "{name} is not described");
    }
    let text = headers.lines().find_map(|line| line.strip_prefix("ce-dataschema: ")).unwrap();
    assert_eq!(
        document["components"]["messages"]["user.created.1"]["headers"]["properties"]["ce-dataschema"]["const"],
        text
    );
    told::is_what_the_document_says(&world, &document).await;
    assert!(world.stop().await);
}
