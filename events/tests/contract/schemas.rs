//! The schemas say what the types say, and every recorded body agrees with its schema.

use crate::files::{facts, golden, json, listed, updating, versions, write};
use events::FactType;
use serde_json::{Value, json};

/// The schema of a type's newest version, as it is to be committed.
pub(crate) fn generated(fact: &FactType) -> Value {
    schema(fact, fact.version)
}

/// The schema of any version: from the type where it is the newest, as committed where it is superseded.
pub(crate) fn schema(fact: &FactType, version: u32) -> Value {
    events::schema::of(fact, version).unwrap_or_else(|| {
        let file = format!("events/schemas/{}/{version}.json", fact.name);
        panic!("keep the schema of the old version in {file}, and name it in events/src/schema.rs")
    })
}

/// What of `value` disagrees with `schema`; the part of JSON Schema that the types of facts use.
fn faults(at: &str, value: &Value, schema: &Value, root: &Value) -> Vec<String> {
    let fault = |what: String| vec![format!("{at}: {what}")];
    if let Some(name) = schema["$ref"].as_str() {
        return match root.pointer(name.trim_start_matches('#')) {
            Some(schema) => faults(at, value, schema, root),
            None => fault(format!("{name} is not defined")),
        };
    }
    if let Some(options) = schema["oneOf"].as_array().or_else(|| schema["anyOf"].as_array()) {
        let fits = options.iter().any(|option| faults(at, value, option, root).is_empty());
        return if fits { Vec::new() } else { fault(format!("{value} fits no option")) };
    }
    if let Some(constant) = schema.get("const") {
        return if constant == value { Vec::new() } else { fault(format!("{value} is not {constant}")) };
    }
    let is = |name: &str| match value {
        Value::Null => name == "null",
        Value::Bool(_) => name == "boolean",
        Value::Number(number) => name == "integer" && !number.is_f64(),
        Value::String(_) => name == "string",
        Value::Array(_) => name == "array",
        Value::Object(_) => name == "object",
    };
    let typed = match &schema["type"] {
        Value::String(name) => is(name),
        Value::Array(names) => names.iter().filter_map(Value::as_str).any(is),
        _ => false,
    };
    if !typed {
        return fault(format!("{value} is no {}", schema["type"]));
    }
    match value {
        Value::Array(items) => {
            items.iter().flat_map(|item| faults(at, item, &schema["items"], root)).collect()
        }
        Value::Object(fields) => {
            let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let missing = required.filter(|name| !fields.contains_key(*name));
            let missing = missing.map(|name| format!("{at}.{name}: missing"));
            missing
                .chain(fields.iter().flat_map(|(name, value)| match schema["properties"].get(name) {
                    Some(field) => faults(&format!("{at}.{name}"), value, field, root),
                    None => vec![format!("{at}.{name}: not declared")],
                }))
                .collect()
        }
        _ => Vec::new(),
    }
}

#[test]
fn schemas_are_those_of_the_types() {
    for (_, fact) in facts() {
        let file = format!("schemas/{}/{}.json", fact.name, fact.version);
        // Compared as JSON: the order of keys depends on features that other crates turn on.
        let schema = generated(fact);
        if json(&file).as_ref() == Some(&schema) {
            continue;
        }
        assert!(
            updating(),
            "events/{file} is not what the type says. A shape that was ever released needs a new version and an \
             upcaster; otherwise run UPDATE_GOLDEN=1 cargo test -p events"
        );
        write(&file, &format!("{schema:#}\n"));
    }
}

#[test]
fn every_version_has_a_schema_and_no_schema_is_left_over() {
    if updating() {
        return;
    }
    let mut expected: Vec<_> = versions().map(|(_, fact, v)| format!("{}/{v}.json", fact.name)).collect();
    expected.sort();
    assert_eq!(listed("schemas"), expected, "run UPDATE_GOLDEN=1 cargo test -p events");
}

#[test]
fn every_golden_body_agrees_with_its_schema() {
    for (_, fact, version) in versions() {
        let schema = schema(fact, version);
        let faults = faults("body", &golden(fact.name, version), &schema, &schema);
        assert!(faults.is_empty(), "{} {version}: {faults:#?}", fact.name);
    }
}

#[test]
fn a_body_that_disagrees_is_told() {
    let schema = FactType::all().find(|fact| fact.name == "order.created").map(generated).unwrap();
    let spoiled = |change: fn(&mut Value)| {
        let mut body = golden("order.created", 2);
        change(&mut body);
        faults("body", &body, &schema, &schema)
    };
    assert_eq!(spoiled(|_| ()), [""; 0]);
    assert_eq!(spoiled(|body| body["total"] = json!(1)), ["body.total: not declared"]);
    assert_eq!(spoiled(|body| body["items"][0]["sku"] = json!(1)), ["body.items.sku: 1 is no \"string\""]);
    assert_eq!(spoiled(|body| body["workflow"] = json!("luck")), ["body.workflow: \"luck\" fits no option"]);
    assert_eq!(
        spoiled(|body| drop(body["totalAmount"].as_object_mut().unwrap().remove("currency"))),
        ["body.totalAmount.currency: missing"]
    );
    let faults =
        spoiled(|body| body["shippingAddress"] = golden("order.created", 1)["shippingAddress"].clone());
    assert!(faults.len() == 1 && faults[0].ends_with("fits no option"), "{faults:?}");
}
