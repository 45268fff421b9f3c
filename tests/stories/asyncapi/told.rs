//! What read models tell on NATS, held to what the document says of it.

use super::SOON;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use waybill::{api::Cart, system::Service};
use waybill_tests::{Received, Subscriber, World, eventually, request};

/// Has something happen to every read model, and compares every message, and every stream, with the document.
pub(super) async fn is_what_the_document_says(world: &World, document: &Value) {
    let nats = &world.config.nats_url;
    let heard = Subscriber::listen(nats, "view.>").await.unwrap();
    something_happens(world).await;
    let wanted: BTreeSet<_> = channels(document).map(|(key, _)| key.to_owned()).collect();
    eventually("something of every channel is told", SOON, async || {
        let told: BTreeSet<_> = heard.received().iter().map(|one| channel_of(&one.subject)).collect();
        (told == wanted).then_some(())
    })
    .await;
    for received in heard.received() {
        let key = channel_of(&received.subject);
        let channel = &document["channels"][&key];
        let tokens = |subject: &str| subject.split('.').count();
        assert_eq!(tokens(&received.subject), tokens(channel["address"].as_str().unwrap()), "{received:?}");
        let messages = channel["messages"].as_object().unwrap();
        let message = &document["components"]["messages"][messages.keys().next().unwrap()];
        headers(&received, &message["headers"]);
        body(&received, &message["payload"]);
    }
    for (key, channel) in channels(document) {
        let said = &channel["x-jetstream"]["stream"];
        let info = format!("$JS.API.STREAM.INFO.{}", said["name"].as_str().unwrap());
        let config = request(nats, &info, "").await.unwrap()["config"].clone();
        for (member, value) in said.as_object().unwrap() {
            assert_eq!(&config[member], value, "{member} of the stream of {key}");
        }
    }
}

fn channels(document: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let channels = document["channels"].as_object().unwrap().iter();
    channels.filter(|(key, _)| key.starts_with("view.")).map(|(key, channel)| (key.as_str(), channel))
}

/// `view.orders.orders` of `view.orders.orders.<id>`; of a mark all of it.
fn channel_of(subject: &str) -> String {
    subject.split('.').take(3).collect::<Vec<_>>().join(".")
}

/// Those that must be there are, and the others are described, or of the server.
fn headers(received: &Received, described: &Value) {
    for required in described["required"].as_array().into_iter().flatten() {
        assert_ne!(received.header(required.as_str().unwrap()), "", "{required} is missing: {received:?}");
    }
    for (name, _) in received.headers.iter().filter(|(name, _)| !name.starts_with("Nats-")) {
        assert!(described["properties"][name].is_object(), "{name} is not described: {received:?}");
    }
}

/// The members that are described, of the types that are said; nothing of a mark, and of a row that is gone.
fn body(received: &Received, described: &Value) {
    let Some(properties) = described["properties"].as_object() else {
        return assert_eq!(received.body, Value::Null, "a mark has no body: {received:?}");
    };
    if received.header("Waybill-Gone") == "true" {
        return assert_eq!(received.body, Value::Null, "{received:?}");
    }
    let members = received.body.as_object().unwrap();
    assert_eq!(
        members.keys().collect::<BTreeSet<_>>(),
        properties.keys().collect::<BTreeSet<_>>(),
        "{received:?}"
    );
    for (name, value) in members {
        let said = &properties[name]["type"];
        let kind = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(number) if number.is_i64() => "integer",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::Array(_) | Value::Object(_) => "any",
        };
        let fits =
            said.is_null() || said == kind || said.as_array().is_some_and(|all| all.contains(&json!(kind)));
        assert!(fits, "{name} is {value}, and {said} is described: {received:?}");
    }
}

async fn something_happens(world: &World) {
    let api = &world.api;
    let stocked = api.stock_product("told", ("TOLD-1", "Told", 500), 100).await.unwrap();
    let user_id = api.register("told").await.unwrap();
    let (account_id, credited) = api.open_account("told", user_id, 100_000).await.unwrap();
    let url = api.url(Service::Users, &format!("/users/{user_id}/subscriptions/order-updates"));
    for method in [reqwest::Method::DELETE, reqwest::Method::PUT] {
        api.send_as(user_id, api.http().request(method, &url)).await.unwrap().expect(202, "a topic").unwrap();
    }
    let items = vec![("TOLD-1".to_owned(), 1)];
    let cart = Cart { user_id, account_id, items, country: "DE".to_owned() };
    let mut body = cart.body();
    body["workflow"] = json!("orchestration");
    let after = [stocked.position().unwrap(), credited.position().unwrap()].join(", ");
    let placed = api.http().post(api.url(Service::Orders, "/orders")).header("Idempotency-Key", "told");
    let placed = placed.header("Waybill-Position", after).json(&body);
    api.send_as(user_id, placed).await.unwrap().expect(202, "an order").unwrap();
    world.settled().await.unwrap();
    world.told(&["email"]).await;
}
