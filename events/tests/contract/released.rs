//! What was released stays true: `released/` holds the schemas as of the last release, apart from the generated ones, and
//! no version may take back what it says there.

use crate::{
    files::{self, listed, versions, write},
    schemas::schema,
};
use events::{FactType, schema::path};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// Keywords that say nothing of what a value may be.
const REMARKS: [&str; 8] =
    ["$defs", "$id", "$schema", "description", "default", "examples", "title", "x-personal"];

/// What of `new` breaks the promises of `old`, two schemas of one version. Both directions count, for readers and writers
/// are deployed one after the other: what was written under the old one is read by the new one, and what is written under
/// the new one by whoever only knows the old one. So a field may be added that need not be there, and nothing else.
fn broken(old: &Value, new: &Value) -> Vec<String> {
    Comparison { old, new }.of("body", old, new)
}

/// The two documents in which references lead somewhere.
struct Comparison<'a> {
    old: &'a Value,
    new: &'a Value,
}

impl Comparison<'_> {
    fn of(&self, at: &str, old: &Value, new: &Value) -> Vec<String> {
        let (old, new) = (resolved(old, self.old), resolved(new, self.new));
        let mut broken = Vec::new();
        let keywords = |schema: &Value| schema.as_object().into_iter().flat_map(Map::keys).cloned().collect();
        let (olds, news): (BTreeSet<String>, BTreeSet<String>) = (keywords(old), keywords(new));
        for keyword in olds.union(&news).filter(|keyword| !REMARKS.contains(&keyword.as_str())) {
            let (was, is) = (&old[keyword], &new[keyword]);
            broken.extend(match keyword.as_str() {
                "properties" => self.properties(at, old, new),
                // Looked at together with the properties.
                "required" => Vec::new(),
                "items" => self.of(&format!("{at}[]"), was, is),
                "anyOf" | "oneOf" => self.options(at, was, is),
                _ if was == is => Vec::new(),
                keyword => vec![format!("{at}: {keyword} was {was} and is {is}")],
            });
        }
        broken
    }

    fn properties(&self, at: &str, old: &Value, new: &Value) -> Vec<String> {
        let none = Map::new();
        let fields = |schema: &'_ Value| schema["properties"].as_object().unwrap_or(&none).clone();
        let needs = |schema: &Value, name: &str| {
            schema["required"].as_array().into_iter().flatten().any(|required| required == name)
        };
        let (olds, news) = (fields(old), fields(new));
        let mut broken = Vec::new();
        for (name, was) in &olds {
            let at = format!("{at}.{name}");
            let Some(is) = news.get(name) else {
                broken.push(format!("{at} was taken away"));
                continue;
            };
            match (needs(old, name), needs(new, name)) {
                (false, true) => broken.push(format!("{at} is required and was not")),
                (true, false) => broken.push(format!("{at} was required and is not")),
                _ => {}
            }
            broken.extend(self.of(&at, was, is));
        }
        let closed = old["additionalProperties"] == false;
        for name in news.keys().filter(|name| !olds.contains_key(*name)) {
            if needs(new, name) {
                broken.push(format!("{at}.{name} is new and required"));
            } else if closed {
                broken.push(format!("{at}.{name} is new, and no other fields were allowed"));
            }
        }
        broken
    }

    /// Each choice there was is still one, and there is no other: whoever knows the old ones only would refuse it.
    fn options(&self, at: &str, old: &Value, new: &Value) -> Vec<String> {
        let of = |options: &Value| options.as_array().cloned().unwrap_or_default();
        let (olds, news) = (of(old), of(new));
        let same = |old: &Value, new: &Value| self.of(at, old, new).is_empty();
        let gone = olds.iter().filter(|old| !news.iter().any(|new| same(old, new)));
        let gone = gone.map(|old| format!("{at}: {} is no choice any more", name(old)));
        let added = news.iter().filter(|new| !olds.iter().any(|old| same(old, new)));
        gone.chain(added.map(|new| format!("{at}: {} is a new choice", name(new)))).collect()
    }
}

/// What a reference leads to.
fn resolved<'a>(schema: &'a Value, root: &'a Value) -> &'a Value {
    match schema["$ref"].as_str() {
        Some(name) => root.pointer(name.trim_start_matches('#')).unwrap_or(&Value::Null),
        None => schema,
    }
}

/// What people call a choice.
fn name(option: &Value) -> String {
    [&option["const"], &option["$ref"], &option["type"]].into_iter().find(|name| !name.is_null()).map_or_else(
        || option.to_string(),
        |name| name.as_str().map_or_else(|| name.to_string(), str::to_owned),
    )
}

/// Whether this is a release: what is promised from now on is what the types say.
fn releasing() -> bool {
    std::env::var_os("RELEASE_SCHEMAS").is_some()
}

fn fact(kind: &str) -> Option<&'static FactType> {
    FactType::all().find(|fact| fact.name == kind)
}

#[test]
fn what_was_released_still_holds() {
    let mut faults = Vec::new();
    for file in listed("released") {
        let (kind, version) = file.trim_end_matches(".json").split_once('/').unwrap();
        let version: u32 = version.parse().unwrap();
        let Some(fact) = fact(kind).filter(|fact| version <= fact.version) else {
            faults.push(format!("{kind} {version} was released and is gone"));
            continue;
        };
        let old = files::json(&format!("released/{file}")).unwrap();
        assert_eq!(old["$id"], path(kind, version));
        faults.extend(
            broken(&old, &schema(fact, version)).iter().map(|what| format!("{kind} {version}: {what}")),
        );
    }
    assert!(
        faults.is_empty(),
        "promises are broken. A changed shape is a new version with an upcaster (docs/contracts.md):\n{}",
        faults.join("\n")
    );
    if releasing() {
        for (_, fact, version) in versions() {
            let schema = schema(fact, version);
            write(&format!("released/{}/{version}.json", fact.name), &format!("{schema:#}\n"));
        }
    }
}

/// What comes onto main is deployed, and what is deployed records: from then on it stands in a log.
#[test]
fn what_may_be_recorded_is_released() {
    let released = listed("released");
    let missing: Vec<_> = versions()
        .map(|(_, fact, version)| format!("{}/{version}.json", fact.name))
        .filter(|file| !released.contains(file))
        .collect();
    assert!(
        missing.is_empty() || releasing(),
        "not in events/released: {}. Before it comes onto main: RELEASE_SCHEMAS=1 cargo test -p events released",
        missing.join(", ")
    );
}

/// The schema of an order, as it was and as `change` leaves it.
fn changed(change: fn(&mut Value)) -> Vec<String> {
    let old = schema(fact("order.created").unwrap(), 2);
    let mut new = old.clone();
    change(&mut new);
    broken(&old, &new)
}

/// Takes a name out of a list of required fields.
fn unrequire(schema: &mut Value, name: &str) {
    schema["required"].as_array_mut().unwrap().retain(|required| required != name);
}

#[test]
fn a_field_that_need_not_be_there_may_be_added_and_words_may_change() {
    assert_eq!(changed(|_| ()), [""; 0]);
    assert_eq!(changed(|new| new["properties"]["giftNote"] = json!({ "type": "string" })), [""; 0]);
    assert_eq!(
        changed(|new| {
            let note = json!({ "type": ["string", "null"], "format": "uuid" });
            new["$defs"]["Line"]["properties"]["lot"] = note;
        }),
        [""; 0]
    );
    assert_eq!(
        changed(|new| {
            new["description"] = "Other words.".into();
            new["properties"]["userId"]["description"] = "Who pays.".into();
        }),
        [""; 0]
    );
    // What is shared may be called something else, or not be shared any more.
    assert_eq!(
        changed(|new| {
            let line = new["$defs"]["Line"].take();
            new["properties"]["items"]["items"] = line;
        }),
        [""; 0]
    );
}

#[test]
fn a_field_that_is_taken_away_retyped_or_newly_required_breaks_it() {
    let of = |change| changed(change).join("; ");
    assert_eq!(
        of(|new| {
            new["properties"].as_object_mut().unwrap().remove("userId");
            unrequire(new, "userId");
        }),
        "body.userId was taken away"
    );
    // Renamed: taken away, and another is asked for.
    let renamed = of(|new| {
        let id = new["properties"].as_object_mut().unwrap().remove("userId").unwrap();
        new["properties"]["customerId"] = id;
        unrequire(new, "userId");
        new["required"].as_array_mut().unwrap().push("customerId".into());
    });
    assert_eq!(renamed, "body.userId was taken away; body.customerId is new and required");
    assert_eq!(
        of(|new| new["$defs"]["Line"]["properties"]["quantity"]["type"] = "string".into()),
        "body.items[].quantity: type was \"integer\" and is \"string\""
    );
    let quantity = |change: fn(&mut Value)| {
        let old = json!({ "type": "object", "properties": { "n": { "type": "integer", "minimum": 0 } } });
        let mut new = old.clone();
        change(&mut new["properties"]["n"]);
        broken(&old, &new).join("; ")
    };
    assert_eq!(quantity(|n| n["minimum"] = json!(1)), "body.n: minimum was 0 and is 1");
    assert_eq!(
        quantity(|n| n["type"] = json!(["integer", "null"])),
        "body.n: type was \"integer\" and is [\"integer\",\"null\"]"
    );
    assert_eq!(of(|new| unrequire(new, "workflow")), "body.workflow was required and is not");
    assert_eq!(
        of(|new| new["$defs"]["Line"]["properties"]["lot"] = json!({ "type": "string" })),
        "",
        "what need not be there may come"
    );
    assert_eq!(
        of(|new| {
            new["$defs"]["Line"]["properties"]["lot"] = json!({ "type": "string" });
            new["$defs"]["Line"]["required"].as_array_mut().unwrap().push("lot".into());
        }),
        "body.items[].lot is new and required"
    );
    // Whoever takes no other fields cannot be sent one.
    let closed = json!({ "type": "object", "properties": {}, "additionalProperties": false });
    let mut more = closed.clone();
    more["properties"]["n"] = json!({ "type": "integer" });
    assert_eq!(broken(&closed, &more), ["body.n is new, and no other fields were allowed"]);
}

#[test]
fn a_choice_that_is_gone_or_new_breaks_it() {
    let of = |change| changed(change).join("; ");
    assert_eq!(
        of(|new| drop(new["$defs"]["Workflow"]["oneOf"].as_array_mut().unwrap().pop())),
        "body.workflow: orchestration is no choice any more"
    );
    assert_eq!(
        of(|new| {
            let luck = json!({ "const": "luck", "type": "string" });
            new["$defs"]["Workflow"]["oneOf"].as_array_mut().unwrap().push(luck);
        }),
        "body.workflow: luck is a new choice"
    );
}

/// The checker is not fooled by any schema there is: whichever field of whichever version goes away or changes its type,
/// it is told.
#[test]
fn every_field_of_every_version_is_held_to() {
    let mut seen = 0;
    for (_, fact, version) in versions() {
        let old = schema(fact, version);
        let required: Vec<Value> = old["required"].as_array().cloned().unwrap_or_default();
        for name in old["properties"].as_object().unwrap().keys() {
            let mut without = old.clone();
            without["properties"].as_object_mut().unwrap().remove(name);
            assert_eq!(
                broken(&old, &without),
                [format!("body.{name} was taken away")],
                "{} {version}",
                fact.name
            );

            let mut retyped = old.clone();
            retyped["properties"][name] = json!({ "type": "number" });
            assert!(!broken(&old, &retyped).is_empty(), "{} {version} {name}", fact.name);

            let mut turned = old.clone();
            if required.iter().any(|required| required == name) {
                unrequire(&mut turned, name);
            } else {
                turned["required"].as_array_mut().unwrap().push(name.clone().into());
            }
            assert_eq!(broken(&old, &turned).len(), 1, "{} {version} {name}", fact.name);
            seen += 1;
        }
    }
    assert!(seen > 200, "{seen}");
}
