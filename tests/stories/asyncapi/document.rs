//! What is generated: `docs/asyncapi.json`, of the types of facts, the declarations of streams, the interests of services and
//! the tables of read models.

use super::{
    feeds,
    messages::{self, Schemas},
    operations,
};
use events::{Aggregate, Context, FactType};
use nats::topology;
use serde_json::{Map, Value, json};
use waybill::system::Service;

/// What of a stream's declaration is worth knowing to a reader.
const SETTINGS: [&str; 10] = [
    "name",
    "subjects",
    "retention",
    "storage",
    "compression",
    "duplicate_window",
    "allow_direct",
    "allow_atomic",
    "deny_delete",
    "deny_purge",
];

/// The document.
pub(super) fn document() -> Value {
    let mut schemas = Schemas::default();
    let mut messages = messages::of_facts(&mut schemas);
    let mut channels = Map::from_iter(Aggregate::ALL.map(|aggregate| (key(aggregate), channel(aggregate))));
    let mut operations = operations::of_services();
    feeds::describe(&mut channels, &mut messages, &mut operations);
    json!({
        "asyncapi": "3.0.0",
        "id": "urn:waybill",
        "info": {
            "title": "Waybill",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "What Waybill records, on which subjects, and who reads it. One fact is one message of a \
                JetStream stream, on the one subject of its aggregate; its type is in the headers, which are CloudEvents \
                1.0 in binary mode. Nothing that was recorded is ever changed or taken away: whoever reads a stream from \
                the beginning meets every version of every fact, and each has a message here. Facts of one aggregate are \
                in order; facts of different aggregates of one stream are too; there is no order between streams. Beside the \
                facts there is a change feed for each read model, view.<service>.>: rows as they are after their last \
                change, in memory and for a few minutes.",
            "license": { "name": "MIT OR Apache-2.0" },
            "tags": Service::ALL.map(|service| json!({ "name": service.name() })),
        },
        "defaultContentType": "application/json",
        "servers": { "nats": server() },
        "channels": channels,
        "operations": operations,
        "components": {
            "messages": messages,
            "messageTraits": { "cloudevent": messages::cloud_event() },
            "correlationIds": { "request": {
                "description": "One id for everything that follows from one request: the X-Correlation-Id of HTTP.",
                "location": format!("$message.header#/{}", events::envelope::header::CORRELATION),
            } },
            "schemas": schemas.done(),
        },
    })
}

fn server() -> Value {
    json!({
        "host": "{host}",
        "protocol": "nats",
        "description": "A nats-server from 2.14.4 on, with JetStream; several nodes make a cluster.",
        "variables": { "host": {
            "description": "Host and port, as in WAYBILL_NATS_URL.",
            "default": "localhost:4222",
        } },
    })
}

/// What a channel is called in the document: `orders.order`.
pub(super) fn key(aggregate: Aggregate) -> String {
    format!("{}.{}", aggregate.context().token(), aggregate.token())
}

/// The service that records the facts of a context: its own, or the payments service, which owns the fraud rules too.
pub(super) fn owner(context: Context) -> Service {
    Service::ALL.into_iter().find(|service| service.context() == context).unwrap_or(Service::Payments)
}

fn channel(aggregate: Aggregate) -> Value {
    let (what, id) = described(aggregate);
    let (context, service) = (aggregate.context(), owner(aggregate.context()));
    let versions = FactType::of(aggregate).iter().flat_map(messages::keys);
    let messages = versions.map(|key| {
        let reference = json!({ "$ref": format!("#/components/messages/{key}") });
        (key, reference)
    });
    json!({
        "address": aggregate.subject("{id}").as_str(),
        "title": what,
        "description": format!("{what}. Recorded by {service} in the stream {}.", context.stream()),
        "servers": [{ "$ref": "#/servers/nats" }],
        "parameters": { "id": { "description": id } },
        "messages": messages.collect::<Map<_, _>>(),
        "tags": [{ "name": service.name() }],
        "x-jetstream": { "stream": stream(context) },
    })
}

fn stream(context: Context) -> Value {
    let declared = topology::declared(context);
    let setting = |name: &&str| match &declared[*name] {
        // What is not set is left out.
        Value::Null => json!(false),
        set => set.clone(),
    };
    Value::Object(SETTINGS.iter().map(|name| ((*name).to_owned(), setting(name))).collect())
}

/// What is recorded on the subjects of an aggregate, and what its id is.
fn described(aggregate: Aggregate) -> (&'static str, &'static str) {
    const ORDER: &str = "The order's id, a UUID.";
    match aggregate {
        Aggregate::Order => ("What happened to an order", ORDER),
        Aggregate::Product => ("What happened to a product of the catalogue", "The SKU."),
        Aggregate::Item => ("What happened to the stock of a product", "The SKU."),
        Aggregate::Reservation => ("What an order holds of the stock", ORDER),
        Aggregate::Account => ("What happened to an account", "The account's id, a UUID."),
        Aggregate::Payment => ("What became of the payment of an order", ORDER),
        Aggregate::Assessment => ("What the fraud rules said of an order", ORDER),
        Aggregate::Shipment => ("What became of the shipment of an order", ORDER),
        Aggregate::Notification => (
            "What somebody was told of an event on a channel",
            "The event's id and the channel: `<UUID>_email`.",
        ),
        Aggregate::User => ("What happened to a user", "The user's id, a UUID."),
        Aggregate::Email => ("Whose an e-mail address is", "A keyed hash of the address."),
        Aggregate::Process => ("How a saga carries an order through", ORDER),
        Aggregate::Hold => ("How long the stock of an order is held unpaid", ORDER),
        Aggregate::Timer => ("Whose time has come", ORDER),
        Aggregate::Projection => {
            ("What operators ask of a read model, and what became of it", "The service.")
        }
        Aggregate::DeadLetter => (
            "What consumers could not handle, and what operators did about it",
            "The dead letter's id, a UUID.",
        ),
    }
}
