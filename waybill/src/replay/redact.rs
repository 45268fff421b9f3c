//! Hides personal data. What is personal is said by the schema of the type, which is made from the Rust type
//! [`events::Personal`]: a new personal field is hidden without a change here.

use events::FactType;
use serde_json::Value;
use std::{
    collections::{HashMap, HashSet},
    sync::LazyLock,
};

const HIDDEN: &str = "[personal data]";

/// The personal fields of every type.
static PERSONAL: LazyLock<HashMap<&'static str, HashSet<String>>> =
    LazyLock::new(|| FactType::all().map(|fact| (fact.name, personal((fact.schema)().as_value()))).collect());

/// Hides what is personal in the data of an event of this type; everything where the type is not known.
pub(super) fn redact(kind: &str, data: &mut Value) {
    match PERSONAL.get(kind) {
        Some(fields) if fields.is_empty() => {}
        Some(fields) => hide(fields, data),
        None => *data = HIDDEN.into(),
    }
}

fn hide(fields: &HashSet<String>, data: &mut Value) {
    match data {
        Value::Object(object) => {
            for (name, value) in object {
                if fields.contains(name) {
                    *value = HIDDEN.into();
                } else {
                    hide(fields, value);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| hide(fields, item)),
        _ => {}
    }
}

/// Names of the properties, at any depth, whose schema says that they are personal.
fn personal(schema: &Value) -> HashSet<String> {
    let mut found = HashSet::new();
    let mut todo = vec![schema];
    while let Some(part) = todo.pop() {
        if let Some(Value::Object(properties)) = part.get("properties") {
            found.extend(
                properties.iter().filter(|(_, of)| is_personal(schema, of)).map(|(name, _)| name.clone()),
            );
        }
        match part {
            Value::Object(object) => todo.extend(object.values()),
            Value::Array(items) => todo.extend(items),
            _ => {}
        }
    }
    found
}

/// Whether a property is marked, itself or where it refers to; also as one of several alternatives.
fn is_personal(schema: &Value, property: &Value) -> bool {
    let referred = property["$ref"].as_str().and_then(|to| schema.pointer(to.strip_prefix('#')?));
    let alternatives =
        ["anyOf", "oneOf", "allOf"].into_iter().filter_map(|of| property[of].as_array()).flatten();
    property["x-personal"] == true
        || referred.is_some_and(|to| is_personal(schema, to))
        || alternatives.into_iter().any(|one| is_personal(schema, one))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_address_is_hidden_and_nothing_else() {
        let mut data =
            json!({ "orderId": "1", "shippingAddress": { "name": "Ada" }, "items": [{ "sku": "TEA" }] });
        redact("order.created", &mut data);
        assert_eq!(data, json!({ "orderId": "1", "shippingAddress": HIDDEN, "items": [{ "sku": "TEA" }] }));
        let mut data = json!({ "sku": "TEA", "name": "Tea" });
        redact("product.added", &mut data);
        assert_eq!(data["name"], "Tea", "a product's name is nobody's");
    }

    #[test]
    fn what_is_not_known_is_hidden() {
        let mut data = json!({ "name": "Ada" });
        redact("user.created", &mut data);
        assert_eq!(data, HIDDEN);
    }

    #[test]
    fn marks_are_found_behind_references_and_alternatives() {
        let schema = json!({
            "properties": {
                "a": { "anyOf": [{ "$ref": "#/$defs/P" }, { "type": "null" }] },
                "b": { "type": "string", "x-personal": true },
                "c": { "type": "array", "items": { "properties": { "d": { "$ref": "#/$defs/P" } } } },
            },
            "$defs": { "P": { "type": "string", "x-personal": true } },
        });
        assert_eq!(personal(&schema), ["a", "b", "d"].map(str::to_owned).into());
    }
}
