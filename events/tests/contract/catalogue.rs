//! `docs/events.md`: the catalogue of facts for people, generated from the schemas.

use crate::{
    files::{path, updating, write},
    schemas::generated,
};
use events::{Aggregate, Context, FactType};
use serde_json::Value;
use std::{collections::BTreeMap, fmt::Write, fs};

const FILE: &str = "../docs/events.md";

const PREAMBLE: &str = "\
# Events

<!-- Generated from the types in events/src: UPDATE_GOLDEN=1 cargo test -p events -->

Every fact that Waybill records, at its newest version. One fact is one message in the stream of its context, on the
one subject of its aggregate. The body is the data below as JSON; the headers are [CloudEvents 1.0][ce] in binary mode:
`ce-id` (also `Nats-Msg-Id`), `ce-type`, `ce-source`, `ce-subject` (id of the aggregate), `ce-time`, `ce-dataschema`
(`/schemas/<type>/<version>`), `ce-correlationid`, `ce-causationid`, `ce-commandid`, `ce-actor`, `ce-sequence` (version of
the aggregate after the fact) and `traceparent`.

A type whose shape changes gets a new version and an upcaster; older versions stay in the log as they are and are read as
the newest. Each version has a schema in `events/schemas` and a recorded body in `events/golden`.

What is called sealed is personal data: `{\"of\": \"<user>\", \"sealed\": \"<nonce and ciphertext in base64>\"}`, the JSON of
the value under XChaCha20-Poly1305 with the key of that user, and the user's id as associated data. When the key is destroyed
it cannot be read by anybody. What was recorded before there were keys is read as `{\"plain\": ..}`.

[ce]: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md
";

/// What a field holds, in words.
fn kind(schema: &Value, defs: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str().and_then(|name| name.rsplit('/').next()) {
        let named = &defs[name];
        if named["x-personal"] == true {
            return format!("{}, sealed", kind(&named["anyOf"][1]["properties"]["plain"], defs));
        }
        return format!("[{name}](#{})", name.to_lowercase());
    }
    if let Some(options) = schema["anyOf"].as_array() {
        let options = options.iter().filter(|option| option["type"] != "null");
        return options.map(|option| kind(option, defs)).collect::<Vec<_>>().join(" or ");
    }
    let name = match &schema["type"] {
        Value::Array(names) => names.iter().filter_map(Value::as_str).find(|name| *name != "null"),
        name => name.as_str(),
    };
    match name {
        Some("array") => format!("list of {}", kind(&schema["items"], defs)),
        Some("string") => "text".to_owned(),
        Some(name) => name.to_owned(),
        None => panic!("docs/events.md cannot say what {schema} is"),
    }
}

/// The table of an object's fields: the required ones as declared, then the others by name.
fn fields(out: &mut String, schema: &Value, defs: &Value) {
    let required: Vec<_> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let properties = schema["properties"].as_object().unwrap();
    let mut optional: Vec<_> =
        properties.keys().map(String::as_str).filter(|name| !required.contains(name)).collect();
    optional.sort_unstable();
    out.push_str("| field | holds | |\n|---|---|---|\n");
    for name in required.iter().chain(&optional) {
        let field = &properties[*name];
        let note = if required.contains(name) { "" } else { ", optional" };
        let text = field["description"].as_str().unwrap_or_default();
        writeln!(out, "| `{name}` | {}{note} | {text} |", kind(field, defs)).unwrap();
    }
}

fn fact(out: &mut String, aggregate: Aggregate, fact: &FactType) {
    let (name, version) = (fact.name, fact.version);
    let schema = generated(fact);
    let link = |what, folder, v| format!("[{what} {v}](../events/{folder}/{name}/{v}.json)");
    writeln!(out, "\n### {name}\n\n{}\n", schema["description"].as_str().unwrap()).unwrap();
    let links: Vec<_> = (1..=version)
        .rev()
        .flat_map(|v| [link("schema", "schemas", v), link("example", "golden", v)])
        .collect();
    let subject = aggregate.subject("<id>");
    writeln!(out, "Version {version} · `{subject}` · {}\n", links.join(" · ")).unwrap();
    fields(out, &schema, &schema["$defs"]);
}

/// The types that fields share: objects, choices and texts of a form.
fn shared(out: &mut String) {
    let mut types = BTreeMap::new();
    for fact in FactType::all() {
        let defs = generated(fact)["$defs"].clone();
        types.extend(
            defs.as_object()
                .into_iter()
                .flatten()
                .map(|(name, def)| (name.clone(), (def.clone(), defs.clone()))),
        );
    }
    out.push_str("\n## Shared types\n");
    for (name, (def, defs)) in types.iter().filter(|(_, (def, _))| def["x-personal"] != true) {
        writeln!(out, "\n### {name}\n").unwrap();
        if let Some(text) = def["description"].as_str() {
            writeln!(out, "{}.\n", text.trim_end_matches('.')).unwrap();
        }
        if def["properties"].is_object() {
            fields(out, def, defs);
        } else if let Some(choices) = def["oneOf"].as_array() {
            for choice in choices {
                let (value, text) =
                    (choice["const"].as_str().unwrap(), choice["description"].as_str().unwrap());
                writeln!(out, "- `{value}`: {text}").unwrap();
            }
        } else if let Some(pattern) = def["pattern"].as_str() {
            writeln!(out, "Text, `{pattern}`.").unwrap();
        } else {
            writeln!(out, "Text, a {}.", def["format"].as_str().unwrap().to_uppercase()).unwrap();
        }
    }
}

fn catalogue() -> String {
    let mut out = PREAMBLE.to_owned();
    for context in Context::ALL {
        writeln!(out, "\n## Stream {}", context.stream()).unwrap();
        for aggregate in Aggregate::ALL.into_iter().filter(|aggregate| aggregate.context() == context) {
            for each in FactType::of(aggregate) {
                fact(&mut out, aggregate, each);
            }
        }
    }
    shared(&mut out);
    out
}

#[test]
fn the_catalogue_is_that_of_the_types() {
    let catalogue = catalogue();
    if fs::read_to_string(path(FILE)).is_ok_and(|text| text == catalogue) {
        return;
    }
    assert!(updating(), "docs/events.md is not what the types say: run UPDATE_GOLDEN=1 cargo test -p events");
    write(FILE, &catalogue);
}
