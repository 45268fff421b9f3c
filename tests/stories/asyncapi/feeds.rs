//! The change feeds: a channel for the rows of each table that is told, and one for the mark of each service.

use events::feed;
use projections::{
    View,
    table::{Table, Type, member},
};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

const MARK: &str = "view.mark";

/// Adds what is told of every read model.
pub(super) fn describe(
    channels: &mut Map<String, Value>,
    messages: &mut Map<String, Value>,
    operations: &mut Map<String, Value>,
) {
    messages.insert(MARK.to_owned(), mark());
    for view in View::ALL {
        // A table may be part of several models that clients follow.
        let tables: BTreeMap<_, _> = view.fed().map(|table| (table.name, table)).collect();
        if tables.is_empty() {
            continue;
        }
        let own = feed::mark(view.name);
        let summary = format!("How far the feed of {} is.", view.name);
        channels.insert(own.clone(), channel(view, &feed::mark(view.name), &summary, &Map::new(), MARK));
        operations.insert(format!("{}.marks", view.name), send(view, &own, MARK, &summary));
        for table in tables.into_values() {
            let key = format!("{own}.{}", table.name);
            let summary = format!("A row of {} as it is after its last change.", table.name);
            messages.insert(key.clone(), row(view, table, &summary));
            let columns = table.key.iter().map(|(name, _)| {
                let description = format!(
                    "{}: what is no letter, digit, _ or - is = and two hexadecimal digits.",
                    member(name)
                );
                (member(name), json!({ "description": description }))
            });
            let parts: Vec<_> = table.key.iter().map(|(name, _)| format!("{{{}}}", member(name))).collect();
            let address = format!("{own}.{}.{}", table.name, parts.join("."));
            channels.insert(key.clone(), channel(view, &address, &summary, &columns.collect(), &key));
            operations
                .insert(format!("{}.tells.{}", view.name, table.name), send(view, &key, &key, &summary));
        }
    }
}

fn channel(
    view: &View,
    address: &str,
    summary: &str,
    parameters: &Map<String, Value>,
    message: &str,
) -> Value {
    json!({
        "address": address,
        "title": summary.trim_end_matches('.'),
        "description": format!("{summary} Told by {}, whichever of its processes does, after the commit.", view.name),
        "servers": [{ "$ref": "#/servers/nats" }],
        "parameters": parameters,
        "messages": { message: { "$ref": format!("#/components/messages/{message}") } },
        "tags": [{ "name": view.name }],
        "x-jetstream": { "stream": {
            "name": feed::stream(view.name),
            "subjects": [feed::mark(view.name), feed::filter(view.name)],
            "storage": "memory",
            "max_msgs_per_subject": 1,
        } },
    })
}

fn send(view: &View, channel: &str, message: &str, summary: &str) -> Value {
    json!({
        "action": "send",
        "summary": summary,
        "channel": { "$ref": format!("#/channels/{channel}") },
        "messages": [{ "$ref": format!("#/channels/{channel}/messages/{message}") }],
        "tags": [{ "name": view.name }],
        "bindings": { "nats": { "bindingVersion": "0.1.0" } },
    })
}

fn position() -> Value {
    json!({
        "type": "string",
        "description": "Up to where each stream of facts was in the tables, such as ORDERS:42, PAYMENTS:7.",
    })
}

/// Says how far the feed is, and has no body.
fn mark() -> Value {
    json!({
        "name": MARK,
        "title": "How far a feed is",
        "summary": "Everything up to its position is told.",
        "headers": { "type": "object", "properties": {
            feed::POSITION: position(),
            feed::BEGINS: { "type": "string", "description": "The feed begins anew behind this mark: what changed before was not told." },
        } },
        "payload": { "type": "string", "maxLength": 0 },
    })
}

/// One member for each column. What is personal stays sealed.
fn row(view: &View, table: &Table, summary: &str) -> Value {
    let properties = table.all().map(|(name, kind)| {
        let key = table.key.iter().any(|(part, _)| part == name);
        (member(name), column(*kind, key))
    });
    let required: Vec<_> = table.all().map(|(name, _)| member(name)).collect();
    json!({
        "name": format!("{}.{}", view.name, table.name),
        "title": format!("A row of {}", table.name),
        "summary": summary,
        "headers": { "type": "object", "required": [feed::POSITION], "properties": {
            feed::POSITION: position(),
            feed::GONE: { "type": "string", "description": "The row is gone; there is no body." },
        } },
        "payload": {
            "type": "object",
            "properties": properties.collect::<Map<_, _>>(),
            "required": required,
        },
    })
}

/// A column that is not part of the key may be empty.
fn column(kind: Type, key: bool) -> Value {
    let of = |name: &str| if key { json!(name) } else { json!([name, "null"]) };
    match kind {
        Type::Uuid => json!({ "type": of("string"), "format": "uuid" }),
        Type::Text => json!({ "type": of("string") }),
        Type::Int => json!({ "type": of("integer"), "format": "int64" }),
        Type::Timestamp => json!({ "type": of("string"), "format": "date-time" }),
        Type::Bool => json!({ "type": of("boolean") }),
        Type::Json => json!({ "description": "Any JSON." }),
    }
}
