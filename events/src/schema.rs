//! The JSON Schema of every version of every fact. That of the newest is generated from its type; those of older versions,
//! whose types are gone, are the files that were kept of them.

use crate::FactType;
use serde_json::{Value, json};

/// Where the schema of a version is served: its `$id`, and the `ce-dataschema` of every event of it.
pub fn path(kind: &str, version: u32) -> String {
    ["/schemas/", kind, "/", &version.to_string()].concat()
}

/// The schema of a version; `None` where the type has no such version.
pub fn of(fact: &FactType, version: u32) -> Option<Value> {
    if version != fact.version {
        return serde_json::from_str(superseded(fact.name, version)?).ok();
    }
    let mut schema = Value::from((fact.schema)());
    schema["$id"] = json!(path(fact.name, version));
    Some(schema)
}

/// The files of older versions: one for each step of [`upcast`](crate::upcast).
fn superseded(kind: &str, version: u32) -> Option<&'static str> {
    macro_rules! files {
        ($($kind:literal $version:literal),+ $(,)?) => {
            match (kind, version) {
                $(($kind, $version) => Some(include_str!(concat!("../schemas/", $kind, "/", $version, ".json"))),)+
                _ => None,
            }
        };
    }
    files! {
        "inventory.released" 1,
        "inventory.reserved" 1,
        "order.cancelled" 1,
        "order.created" 1,
        "payment.charged" 1,
        "payment.refunded" 1,
        "process.completed" 1,
        "process.started" 1,
        "product.added" 1,
        "shipping.cancelled" 1,
        "shipping.failed" 1,
        "shipping.scheduled" 1,
        "step.requested" 1,
    }
}
