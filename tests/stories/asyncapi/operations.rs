//! Operations: what each service records, and whose facts it reads: to answer them, to keep read models and copies of its
//! own, and to do what operators ask of its consumers.

use super::{
    document::{key, owner},
    messages,
};
use commands::reactions::interests;
use events::{Aggregate, Context, FactType};
use projections::View;
use serde_json::{Map, Value, json};
use waybill::system::Service;

/// The durable consumer with which a service reads a stream. Notifications have one for each channel.
pub(super) fn durable(service: Service, context: Context) -> String {
    let channel = if service == Service::Notifications { "-{channel}" } else { "" };
    format!("{service}{channel}-{context}")
}

/// Every operation of every service.
pub(super) fn of_services() -> Map<String, Value> {
    let mut operations = Map::new();
    for service in Service::ALL {
        records(service, &mut operations);
        answers(service, &mut operations);
        projects(service, &mut operations);
    }
    holds(&mut operations);
    for aggregate in commands::orders::FOLLOWS {
        let summary =
            format!("Orders keep a copy of their own of what they need of each {}.", aggregate.token());
        let operation =
            receive(Service::Orders, aggregate, versions(FactType::of(aggregate)), &summary, FOLLOWED);
        operations.insert(format!("orders.follows.{}", key(aggregate)), operation);
    }
    operations
}

const FOLLOWED: &str = "Every process reads it from where it started, in order, without a durable consumer.";
const PROJECTED: &str =
    "Read in order from the checkpoint that is kept with the tables, without a durable consumer.";
const ANSWERED: &str = "A durable pull consumer, which all processes of the service share. A fact is acknowledged when what \
                        follows from it is recorded, and comes again until then. Other types of the stream are acknowledged \
                        unread.";

/// What the service records, in the newest version.
fn records(service: Service, operations: &mut Map<String, Value>) {
    for aggregate in Aggregate::ALL.into_iter().filter(|aggregate| owner(aggregate.context()) == service) {
        let newest = FactType::of(aggregate).iter().map(|fact| messages::key(fact, fact.version));
        let operation = json!({
            "action": "send",
            "title": format!("{service} records what happens to its {}s", aggregate.token()),
            "summary": "Appended with the version of the aggregate as its guard: of two writers one wins, and the other decides again.",
            "channel": { "$ref": format!("#/channels/{}", key(aggregate)) },
            "messages": references(aggregate, newest),
            "tags": [{ "name": service.name() }],
            "bindings": { "nats": { "bindingVersion": "0.1.0" } },
        });
        operations.insert(format!("{service}.records.{}", key(aggregate)), operation);
    }
}

/// Which facts it answers, and what operators ask of its consumers.
fn answers(service: Service, operations: &mut Map<String, Value>) {
    for (context, kinds) in interests(service.context()) {
        let durable = durable(service, *context);
        for aggregate in Aggregate::ALL.into_iter().filter(|aggregate| aggregate.context() == *context) {
            let kinds = FactType::of(aggregate).iter().filter(|fact| kinds.contains(&fact.name));
            let mut operation = receive(service, aggregate, versions(kinds), "", ANSWERED);
            if operation["messages"].as_array().is_some_and(Vec::is_empty) {
                continue;
            }
            operation["summary"] = json!(format!("{service} answers facts of {context}."));
            operation["bindings"]["nats"]["x-jetstream"] =
                consumer(&durable, *context, &filter(service, *context));
            operations.insert(format!("{service}.answers.{}", key(aggregate)), operation);
        }
        obeys(service, &durable, operations);
    }
}

/// What operators ask of a consumer that may have parked something.
fn obeys(service: Service, durable: &str, operations: &mut Map<String, Value>) {
    let asked = FactType::of(Aggregate::DeadLetter);
    let asked = asked.iter().filter(|fact| nats::ASKED_BY_OPERATORS.contains(&fact.name));
    let summary =
        format!("What operators ask of {durable}: to try again what it has parked, or to give it up.");
    let mut operation = receive(service, Aggregate::DeadLetter, versions(asked), &summary, ANSWERED);
    let (own, ops) = (format!("{durable}-ops"), Context::Ops);
    operation["bindings"]["nats"]["x-jetstream"] = consumer(&own, ops, &ops.filter());
    // Without the service's name in front and the channel behind, which is not known here.
    let name = durable.trim_start_matches(service.name()).trim_start_matches("-{channel}");
    operations.insert(format!("{service}.obeys.{}", name.trim_start_matches('-')), operation);
}

/// The subjects that a consumer asks for: all facts of the stream, unless what it wants is rare in it.
fn filter(service: Service, context: Context) -> String {
    match (service, context) {
        (Service::Fulfilment, Context::Fulfilment) => Aggregate::Timer.filter(),
        _ => context.filter(),
    }
}

/// Stock that is held unpaid, which a consumer apart from the others sees to.
fn holds(operations: &mut Map<String, Value>) {
    let (service, durable, held) = (Service::Fulfilment, commands::fulfilment::HOLDS, Aggregate::Reservation);
    let kinds = FactType::of(held).iter().filter(|fact| commands::fulfilment::HELD.contains(&fact.name));
    let summary = "fulfilment sees to it that stock is not held for ever by an order that nobody pays.";
    let mut operation = receive(service, held, versions(kinds), summary, ANSWERED);
    operation["bindings"]["nats"]["x-jetstream"] = consumer(durable, held.context(), &held.filter());
    operations.insert(format!("{service}.holds.{}", key(held)), operation);
    obeys(service, durable, operations);
}

/// Whose facts its read model is made of.
fn projects(service: Service, operations: &mut Map<String, Value>) {
    let Some(view) = View::of(service.name()) else { return };
    let tables: Vec<_> = view.tables.iter().map(|table| table.name).collect();
    let summary = format!("The read model of {service}: {}.", tables.join(", "));
    let asked = versions(FactType::of(Aggregate::Projection));
    let obeyed = format!("What operators ask of the read model of {service}: to build it again, to go back.");
    let operation = receive(service, Aggregate::Projection, asked, &obeyed, FOLLOWED);
    operations.insert(format!("{service}.obeys.projections"), operation);
    for aggregate in view.aggregates {
        let operation = receive(service, *aggregate, versions(FactType::of(*aggregate)), &summary, PROJECTED);
        operations.insert(format!("{service}.projects.{}", key(*aggregate)), operation);
    }
}

fn consumer(durable: &str, context: Context, filter: &str) -> Value {
    json!({ "consumer": { "stream": context.stream(), "durable": durable, "filter": filter, "ack": "explicit" } })
}

fn versions(facts: impl IntoIterator<Item = &'static FactType>) -> Vec<String> {
    facts.into_iter().flat_map(messages::keys).collect()
}

fn receive(service: Service, aggregate: Aggregate, messages: Vec<String>, summary: &str, how: &str) -> Value {
    json!({
        "action": "receive",
        "summary": summary,
        "description": how,
        "channel": { "$ref": format!("#/channels/{}", key(aggregate)) },
        "messages": references(aggregate, messages),
        "tags": [{ "name": service.name() }],
        "bindings": { "nats": { "bindingVersion": "0.1.0" } },
    })
}

fn references(aggregate: Aggregate, messages: impl IntoIterator<Item = String>) -> Vec<Value> {
    let channel = key(aggregate);
    let reference = |message| json!({ "$ref": format!("#/channels/{channel}/messages/{message}") });
    messages.into_iter().map(reference).collect()
}
