//! Hides personal data, or opens them where that is asked for and possible. What is personal is said by the schema of
//! the type, which is made from the Rust type [`Personal`]: a new personal field is hidden without a change here.

use crate::KeyRing;
use events::{FactType, Personal};
use serde_json::{Value, json};
use std::{
    collections::{HashMap, HashSet},
    sync::LazyLock,
};

/// The personal fields of every type.
static PERSONAL: LazyLock<HashMap<&'static str, HashSet<String>>> =
    LazyLock::new(|| FactType::all().map(|fact| (fact.name, personal((fact.schema)().as_value()))).collect());

/// What stands in place of what is hidden.
fn hidden() -> Value {
    json!({ "redacted": true })
}

/// The data of an event of this type, to be shown: what is personal is opened with `keys`, and hidden without them or
/// where its owner was erased. Without keys everything is hidden where the type is not known.
pub async fn shown(kind: &str, mut data: Value, keys: Option<&KeyRing>) -> Value {
    let Some(fields) = PERSONAL.get(kind) else {
        return if keys.is_some() { data } else { hidden() };
    };
    let mut found = Vec::new();
    find(fields, &mut data, &mut found);
    for value in found {
        *value = match keys {
            Some(keys) => opened(value.take(), keys).await,
            None => hidden(),
        };
    }
    data
}

/// What was recorded before there were keys is shown as it is.
async fn opened(value: Value, keys: &KeyRing) -> Value {
    match serde_json::from_value::<Personal<Value>>(value.clone()) {
        Ok(personal) => keys.reveal(&personal).await.ok().flatten().unwrap_or_else(hidden),
        Err(_) => value,
    }
}

/// The values of these fields, at any depth.
fn find<'a>(fields: &HashSet<String>, data: &'a mut Value, found: &mut Vec<&'a mut Value>) {
    match data {
        Value::Object(object) => {
            for (name, value) in object {
                if fields.contains(name) {
                    found.push(value);
                } else {
                    find(fields, value, found);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| find(fields, item, found)),
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

    #[tokio::test]
    async fn the_address_is_hidden_in_any_form_and_nothing_else() {
        for address in [json!({ "name": "Ada" }), json!({ "plain": {} }), json!({ "of": "1", "sealed": "x" })]
        {
            let data = json!({ "orderId": "1", "shippingAddress": address, "items": [{ "sku": "TEA" }] });
            let data = shown("order.created", data, None).await;
            assert_eq!(
                data,
                json!({ "orderId": "1", "shippingAddress": hidden(), "items": [{ "sku": "TEA" }] })
            );
        }
        let data = shown("order.cancelled", json!({ "reason": { "plain": "moved" } }), None).await;
        assert_eq!(data, json!({ "reason": hidden() }), "what a customer says is personal");
        let data = shown("product.added", json!({ "sku": "TEA", "name": "Tea" }), None).await;
        assert_eq!(data["name"], "Tea", "a product's name is nobody's");
    }

    #[tokio::test]
    async fn what_is_not_known_is_hidden() {
        assert_eq!(shown("user.dreamt", json!({ "name": "Ada" }), None).await, hidden());
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
