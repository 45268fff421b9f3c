//! The schema gate: every type, version and shape that is recorded, and whether this program can read it.
//!
//! What a schema does not know is no fault: it is read by nobody. It is told all the same, for somebody recorded it.

use super::finding::{Findings, Kind};
use events::{DecodeError, Fact, FactType, schema};
use foldhash::fast::FixedState;
use nats::Message;
use serde::Serialize;
use serde_json::Value;
use std::{
    collections::{BTreeMap, HashMap},
    hash::BuildHasher,
};

/// Shapes of one version that are kept.
const SHAPES: usize = 64;

/// What is recorded of one version of a type.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Version {
    /// The newest version that this program knows; none where it does not know the type.
    pub(super) newest: Option<u32>,
    /// How many events.
    pub(super) events: u64,
    /// Where the first one is.
    pub(super) first: String,
    /// Where the last one is.
    pub(super) last: String,
    /// Events that this program cannot read.
    pub(super) unreadable: u64,
    /// Fields that its schema does not know, and how many events have them.
    pub(super) unknown_fields: BTreeMap<String, u64>,
    /// The shapes of its bodies: fields with their types, never a value.
    pub(super) shapes: Vec<Shape>,
    #[serde(skip)]
    known_shapes: HashMap<u64, usize, FixedState>,
    #[serde(skip)]
    schema: Option<Known>,
}

/// Bodies with the same fields of the same types.
#[derive(Debug, Default, Serialize)]
pub(super) struct Shape {
    /// How many.
    pub(super) events: u64,
    /// Where the first one is.
    pub(super) first: String,
    /// Fields and their types.
    pub(super) fields: Vec<String>,
}

/// Everything that is recorded, by type and version.
#[derive(Debug, Default)]
pub(super) struct Gate {
    pub(super) versions: BTreeMap<(String, u32), Version>,
}

impl Gate {
    /// Looks at the next event, and at what became of reading it.
    pub(super) fn check(
        &mut self,
        event: &Message,
        fact: &Result<Fact, DecodeError>,
        findings: &mut Findings,
    ) {
        let (kind, number) = (event.kind(), event.schema().unwrap_or(0));
        let version = match self.versions.get_mut(&(kind.to_owned(), number)) {
            Some(version) => version,
            None => {
                self.versions.entry((kind.to_owned(), number)).or_insert_with(|| Version::new(event, number))
            }
        };
        version.events += 1;
        version.last = event.position.to_string();
        if let Err(error) = fact {
            version.unreadable += 1;
            let kind = if matches!(error, DecodeError::Body { .. }) { Kind::Body } else { Kind::Type };
            findings.add(kind, event.position, unreadable(error));
        }
        if let Ok(body) = serde_json::from_slice::<Value>(event.body()) {
            version.look(event, &body);
        }
    }
}

/// Why an event cannot be read, without what it holds: that may be personal.
fn unreadable(error: &DecodeError) -> String {
    let DecodeError::Body { source, .. } = error else { return error.to_string() };
    let told = source.to_string();
    let why = match told.strip_prefix("missing field") {
        Some(_) => told,
        None => format!("wrong at line {} column {}", source.line(), source.column()),
    };
    format!("{error}: {why}")
}

impl Version {
    fn new(event: &Message, number: u32) -> Self {
        let types = FactType::of(event.subject.aggregate());
        let fact = types.iter().find(|fact| fact.name == event.kind());
        let schema = fact.and_then(|fact| schema::of(fact, number));
        Self {
            newest: fact.map(|fact| fact.version),
            first: event.position.to_string(),
            schema: schema.map(|schema| Known::of(&schema, &schema, 0)),
            ..Self::default()
        }
    }

    fn look(&mut self, event: &Message, body: &Value) {
        let fields = Fields::of(body, self.schema.as_ref(), false);
        for path in fields.unknown {
            *self.unknown_fields.entry(path).or_default() += 1;
        }
        let shape = FixedState::with_seed(3).hash_one(&fields.leaves);
        match self.known_shapes.get(&shape) {
            Some(place) => self.shapes[*place].events += 1,
            None if self.shapes.len() < SHAPES => {
                self.known_shapes.insert(shape, self.shapes.len());
                let fields = Fields::of(body, None, true).listed.unwrap_or_default();
                self.shapes.push(Shape { events: 1, first: event.position.to_string(), fields });
            }
            None => {}
        }
    }
}

/// The fields of one body, each once, however many items of a list have it.
struct Fields {
    /// Digests of fields with their types.
    leaves: Vec<u64>,
    /// Those that the schema does not know.
    unknown: Vec<String>,
    /// All of them with their types, where they are to be listed.
    listed: Option<Vec<String>>,
}

impl Fields {
    fn of(body: &Value, schema: Option<&Known>, list: bool) -> Self {
        let mut fields = Self { leaves: Vec::new(), unknown: Vec::new(), listed: list.then(Vec::new) };
        fields.walk(body, schema, &mut String::new());
        fields.leaves.sort_unstable();
        fields.leaves.dedup();
        fields.unknown.sort();
        fields.unknown.dedup();
        if let Some(listed) = &mut fields.listed {
            listed.sort();
            listed.dedup();
        }
        fields
    }

    fn walk(&mut self, value: &Value, known: Option<&Known>, path: &mut String) {
        let length = path.len();
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    if length > 0 {
                        path.push('.');
                    }
                    path.push_str(name);
                    let inside = known.map(|known| known.field(name));
                    if inside == Some(None) {
                        self.unknown.push(path.clone());
                    }
                    self.walk(value, inside.flatten(), path);
                    path.truncate(length);
                }
            }
            Value::Array(items) => {
                path.push_str("[]");
                for item in items {
                    self.walk(item, known.and_then(|known| known.items.as_deref()), path);
                }
                path.truncate(length);
            }
            Value::Null => self.leaf(path, "null"),
            Value::Bool(_) => self.leaf(path, "boolean"),
            Value::Number(_) => self.leaf(path, "number"),
            Value::String(_) => self.leaf(path, "string"),
        }
    }

    fn leaf(&mut self, path: &str, kind: &'static str) {
        self.leaves.push(FixedState::with_seed(3).hash_one((path, kind)));
        if let Some(listed) = &mut self.listed {
            listed.push(format!("{path}: {kind}"));
        }
    }
}

/// The fields that a schema knows.
#[derive(Debug, Default, PartialEq)]
struct Known {
    /// Anything goes.
    any: bool,
    fields: HashMap<String, Known>,
    /// Fields with names that are data.
    rest: Option<Box<Known>>,
    items: Option<Box<Known>>,
}

/// What a schema without any of these says nothing about.
const SAYING: [&str; 8] = ["type", "$ref", "properties", "allOf", "anyOf", "oneOf", "enum", "const"];
/// Deeper than any fact is.
const DEEPEST: usize = 16;

impl Known {
    fn of(root: &Value, schema: &Value, depth: usize) -> Self {
        let mut known = Self::default();
        known.add(root, schema, depth);
        known
    }

    /// Adds what one more schema of the same value knows.
    fn add(&mut self, root: &Value, schema: &Value, depth: usize) {
        let says_nothing =
            |fields: &serde_json::Map<_, _>| !SAYING.iter().any(|name| fields.contains_key(*name));
        if depth > DEEPEST || *schema == Value::Bool(true) || schema.as_object().is_some_and(says_nothing) {
            self.any = true;
            return;
        }
        let referred = schema["$ref"].as_str().and_then(|to| root.pointer(to.strip_prefix('#')?));
        if let Some(referred) = referred {
            self.add(root, referred, depth + 1);
        }
        for of in ["allOf", "anyOf", "oneOf"] {
            schema[of].as_array().into_iter().flatten().for_each(|one| self.add(root, one, depth + 1));
        }
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            self.fields.entry(name.clone()).or_default().add(root, property, depth + 1);
        }
        if let Some(items) = schema.get("items") {
            self.items.get_or_insert_default().add(root, items, depth + 1);
        }
        if let Some(rest) = schema.get("additionalProperties").filter(|rest| **rest != Value::Bool(false)) {
            self.rest.get_or_insert_default().add(root, rest, depth + 1);
        }
    }

    /// What is known of a field; `Some(None)` where anything goes, `None` where it is not known.
    fn field(&self, name: &str) -> Option<&Self> {
        self.fields.get(name).or(self.rest.as_deref()).or_else(|| self.any.then_some(self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn unknown(kind: &str, version: u32, body: &Value) -> Vec<String> {
        let fact = FactType::all().find(|fact| fact.name == kind).unwrap();
        let schema = schema::of(fact, version).unwrap();
        Fields::of(body, Some(&Known::of(&schema, &schema, 0)), false).unknown
    }

    #[test]
    fn every_golden_body_has_only_known_fields() {
        for fact in FactType::all() {
            for version in 1..=fact.version {
                let path =
                    format!("{}/../events/golden/{}/{version}.json", env!("CARGO_MANIFEST_DIR"), fact.name);
                let body: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
                assert_eq!(unknown(fact.name, version, &body), [""; 0], "{} {version}", fact.name);
            }
        }
    }

    #[test]
    fn what_a_schema_does_not_know_is_named_at_any_depth() {
        let body = json!({
            "orderId": "1", "colour": "red", "items": [{ "sku": "TEA", "gift": true }, { "gift": false }],
            "shippingAddress": { "plain": { "city": "Bern", "planet": "Earth" } },
        });
        let found = unknown("order.created", 2, &body);
        assert_eq!(found, ["colour", "items[].gift", "shippingAddress.plain.planet"]);
    }
}
