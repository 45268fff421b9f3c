//! What became different between two JSON documents: a list of places, each with what stood there and what stands there now.

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

/// One difference.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[schema(as = HistoryChange)]
pub(crate) struct Change {
    /// Where: a JSON Pointer, RFC 6901.
    #[schema(example = "/status")]
    path: String,
    /// What stood there; missing where nothing did.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>, example = "pending")]
    from: Option<Value>,
    /// What stands there now; missing where nothing does.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>, example = "completed")]
    to: Option<Value>,
}

/// Every difference, in an order in which they can be carried out one after the other: of a list that became shorter the
/// last item goes first.
pub(crate) fn diff(before: &Value, after: &Value) -> Vec<Change> {
    let mut changes = Vec::new();
    compare("", Some(before), Some(after), &mut changes);
    changes
}

fn compare(path: &str, before: Option<&Value>, after: Option<&Value>, changes: &mut Vec<Change>) {
    match (before, after) {
        (Some(Value::Object(old)), Some(Value::Object(new))) => {
            for name in old.keys().filter(|name| !new.contains_key(*name)) {
                compare(&beneath(path, name), old.get(name), None, changes);
            }
            for (name, value) in new {
                compare(&beneath(path, name), old.get(name), Some(value), changes);
            }
        }
        (Some(Value::Array(old)), Some(Value::Array(new))) => {
            for at in (new.len()..old.len()).rev() {
                compare(&beneath(path, &at.to_string()), old.get(at), None, changes);
            }
            for (at, value) in new.iter().enumerate() {
                compare(&beneath(path, &at.to_string()), old.get(at), Some(value), changes);
            }
        }
        (old, new) if old == new => {}
        (old, new) => {
            changes.push(Change { path: path.to_owned(), from: old.cloned(), to: new.cloned() });
        }
    }
}

/// A place beneath another.
fn beneath(path: &str, name: &str) -> String {
    format!("{path}/{}", name.replace('~', "~0").replace('/', "~1"))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    /// Carries differences out, as a client would.
    pub(crate) fn apply(document: &mut Value, changes: &[Change]) {
        for change in changes {
            let Some((parent, name)) = change.path.rsplit_once('/') else {
                *document = change.to.clone().unwrap_or_default();
                continue;
            };
            let name = name.replace("~1", "/").replace("~0", "~");
            assert_eq!(document.pointer(&change.path), change.from.as_ref(), "{}", change.path);
            match (document.pointer_mut(parent).unwrap(), change.to.clone()) {
                (Value::Object(object), Some(value)) => drop(object.insert(name, value)),
                (Value::Object(object), None) => drop(object.remove(&name)),
                (Value::Array(items), Some(value)) => match items.get_mut(name.parse::<usize>().unwrap()) {
                    Some(item) => *item = value,
                    None => items.push(value),
                },
                (Value::Array(items), None) => assert!(items.pop().is_some()),
                (other, _) => panic!("nothing is beneath {other}"),
            }
        }
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (-3..3_i64).prop_map(Value::from),
            "[a/~]{0,2}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a/~]{0,2}", inner, 0..4)
                    .prop_map(|fields| fields.into_iter().collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn carried_out_they_make_the_one_of_the_other(before in json(), after in json()) {
            let changes = diff(&before, &after);
            prop_assert_eq!(changes.is_empty(), before == after);
            let mut document = before;
            apply(&mut document, &changes);
            prop_assert_eq!(document, after);
        }
    }

    #[test]
    fn a_difference_says_what_was_and_what_is() {
        let (before, after) = (json!({ "a": 1, "b": [1, 2] }), json!({ "b": [1, 2, 3], "c/d": null }));
        let changes = serde_json::to_value(diff(&before, &after)).unwrap();
        let expected = json!([{ "path": "/a", "from": 1 }, { "path": "/b/2", "to": 3 }, { "path": "/c~1d", "to": null }]);
        assert_eq!(changes, expected);
    }
}
