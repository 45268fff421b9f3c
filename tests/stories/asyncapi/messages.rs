//! Messages: every version of every fact, with its headers, its schema and a body that was recorded.

use events::{Aggregate, FactType, envelope::header, schema};
use serde_json::{Map, Value, json};
use std::{fs, path::Path};

/// What a message is called in the document: `order.created.2`.
pub(super) fn key(fact: &FactType, version: u32) -> String {
    format!("{}.{version}", fact.name)
}

/// Every version of a fact.
pub(super) fn keys(fact: &'static FactType) -> impl Iterator<Item = String> {
    (1..=fact.version).map(|version| key(fact, version))
}

/// The messages; what their bodies are goes into `schemas`.
pub(super) fn of_facts(schemas: &mut Schemas) -> Map<String, Value> {
    let mut messages = Map::new();
    // The newest first, so that what is shared has the names that it has today.
    for newest in [true, false] {
        for aggregate in Aggregate::ALL {
            for fact in FactType::of(aggregate) {
                for version in (1..=fact.version).filter(|version| (*version == fact.version) == newest) {
                    messages.insert(key(fact, version), message(aggregate, fact, version, schemas));
                }
            }
        }
    }
    messages
}

fn message(aggregate: Aggregate, fact: &FactType, version: u32, schemas: &mut Schemas) -> Value {
    let schema = schema::of(fact, version).unwrap();
    let summary = schema["description"].as_str().unwrap().to_owned();
    let is = |value: String| json!({ "type": "string", "const": value });
    let mut message = json!({
        "name": fact.name,
        "title": format!("{}, version {version}", fact.name),
        "summary": summary,
        "traits": [{ "$ref": "#/components/messageTraits/cloudevent" }],
        "headers": { "type": "object", "properties": {
            header::TYPE: is(fact.name.to_owned()),
            header::SOURCE: is(format!("/waybill/{}", aggregate.context().token())),
            header::DATA_SCHEMA: is(schema::path(fact.name, version)),
        } },
        "payload": { "$ref": format!("#/components/schemas/{}", key(fact, version)) },
        "examples": [{ "name": "recorded", "payload": golden(fact.name, version) }],
    });
    if version < fact.version {
        message["description"] = json!(
            "Not recorded any more. What was recorded is still there, and is read as the newest version."
        );
        message["x-newest"] = json!(key(fact, fact.version));
    }
    schemas.add(key(fact, version), schema);
    message
}

/// What every event has in common: its headers.
pub(super) fn cloud_event() -> Value {
    json!({
        "contentType": "application/json",
        "correlationId": { "$ref": "#/components/correlationIds/request" },
        "headers": {
            "type": "object",
            "required": header::ALWAYS,
            "properties": Map::from_iter(headers().map(|(name, schema)| (name.to_owned(), schema))),
        },
    })
}

/// Every header with its schema. A test of a running system holds them to what is recorded.
fn headers() -> [(&'static str, Value); 15] {
    let text = |description: &str| json!({ "type": "string", "description": description });
    let with = |description: &str, keyword: &str, value: &str| {
        let mut schema = text(description);
        schema[keyword] = value.into();
        schema
    };
    let visible = |description| with(description, "pattern", "^[!-~]{1,128}$");
    [
        (
            header::MSG_ID,
            with("The event's id, for the server, which recognises repetitions by it.", "format", "uuid"),
        ),
        (header::SPEC_VERSION, with("Version of CloudEvents.", "const", "1.0")),
        (
            header::ID,
            with(
                "The event's id. Derived from the command, so the same command gives the same ids.",
                "format",
                "uuid",
            ),
        ),
        (header::TYPE, text("What happened.")),
        (header::SOURCE, text("Who recorded it.")),
        (header::SUBJECT, text("The aggregate's id: the last token of the subject.")),
        (header::TIME, with("When it was decided, UTC.", "format", "date-time")),
        (
            header::DATA_SCHEMA,
            with(
                "The JSON Schema of the body: a path of every service and of the gateway.",
                "format",
                "uri-reference",
            ),
        ),
        (header::CONTENT_TYPE, with("Media type of the body.", "const", "application/json")),
        (header::CORRELATION, visible("One id for everything that follows from one request.")),
        (header::CAUSATION, with("The event or command that caused it.", "format", "uuid")),
        (header::COMMAND, with("The command that recorded it.", "format", "uuid")),
        (header::ACTOR, visible("Who asked for it: client, user:<id>, operator:<id>, service:<name>.")),
        (
            header::SEQUENCE,
            with("Version of the aggregate after it, from 1, without gaps.", "pattern", "^[1-9][0-9]*$"),
        ),
        (header::TRACEPARENT, text("W3C trace context of the request, where there was one.")),
    ]
}

fn golden(kind: &str, version: u32) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../events/golden/{kind}/{version}.json"));
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The schemas of the document. Each type's own definitions become definitions of the document, where those that are the
/// same stand once.
#[derive(Default)]
pub(super) struct Schemas {
    done: Map<String, Value>,
}

impl Schemas {
    /// Takes a schema in, under a name of its own.
    pub(super) fn add(&mut self, name: String, mut schema: Value) {
        let fields = schema.as_object_mut().unwrap();
        // Those are of the file that is served; here references are to the document.
        for own in ["$schema", "$id"] {
            fields.remove(own);
        }
        let Value::Object(definitions) = fields.remove("$defs").unwrap_or_default() else {
            self.done.insert(name, schema);
            return;
        };
        let places: Vec<_> = definitions
            .iter()
            .map(|(name, definition)| (name.clone(), self.place(name, definition, &definitions)))
            .collect();
        for (own, place) in &places {
            let mut definition = definitions[own].clone();
            point(&mut definition, &places);
            self.done.insert(place.clone(), definition);
        }
        point(&mut schema, &places);
        self.done.insert(name, schema);
    }

    /// The first name under which there is nothing yet, or the same.
    fn place(&self, name: &str, definition: &Value, among: &Map<String, Value>) -> String {
        let mut numbers = 1..;
        let mut place = name.to_owned();
        while self.done.get(&place).is_some_and(|there| !self.same(there, definition, among)) {
            place = format!("{name}.{}", numbers.next().unwrap_or_default());
        }
        place
    }

    /// Whether two definitions are the same wherever they lead.
    fn same(&self, there: &Value, definition: &Value, among: &Map<String, Value>) -> bool {
        match (there, definition) {
            (Value::Object(there), Value::Object(here)) => {
                there.len() == here.len()
                    && there.iter().all(|(key, value)| match (key.as_str(), value.as_str(), here.get(key)) {
                        ("$ref", Some(there), Some(here)) => {
                            let there = &self.done[there.rsplit('/').next().unwrap()];
                            let here = &among[here.as_str().unwrap().rsplit('/').next().unwrap()];
                            self.same(there, here, among)
                        }
                        (_, _, here) => here.is_some_and(|here| self.same(value, here, among)),
                    })
            }
            (Value::Array(there), Value::Array(here)) => {
                there.len() == here.len()
                    && there.iter().zip(here).all(|(there, here)| self.same(there, here, among))
            }
            _ => there == definition,
        }
    }

    pub(super) fn done(self) -> Value {
        Value::Object(self.done)
    }
}

/// Turns references to a type's own definitions into references to those of the document.
fn point(schema: &mut Value, places: &[(String, String)]) {
    match schema {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value {
                    Value::String(target) if key == "$ref" => {
                        let own = target.strip_prefix("#/$defs/").unwrap();
                        let (_, place) = places.iter().find(|(name, _)| name == own).unwrap();
                        *target = format!("#/components/schemas/{place}");
                    }
                    value => point(value, places),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| point(item, places)),
        _ => {}
    }
}
