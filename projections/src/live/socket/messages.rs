//! What is said over a socket.

use crate::live::{LiveModel, bookmark::Bookmark, follow::Said, routes::no_cursor};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use service::Problem;
use std::collections::BTreeMap;

/// What a client says.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub(super) enum Asked {
    /// Follow something.
    Subscribe(Subscribe),
    /// Follow it no longer.
    Unsubscribe {
        /// The client's name for it.
        id: String,
    },
    /// Go on with this token.
    Token {
        /// An access token of the same user.
        token: String,
    },
    /// Are you there?
    Ping {},
}

/// What a client wants to follow.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Subscribe {
    /// The client's name for it.
    pub(super) id: String,
    /// Which documents.
    pub(super) model: String,
    /// Which one of them; the list, where it is not said.
    pub(super) key: Option<String>,
    /// Parameters of the query.
    #[serde(default, rename = "where")]
    conditions: BTreeMap<String, Value>,
    /// Where to go on.
    cursor: Option<String>,
}

impl Subscribe {
    pub(super) fn cursor(&self) -> Result<Option<Bookmark>, Problem> {
        let text = self.cursor.as_deref().filter(|text| !text.is_empty());
        text.map(|text| text.parse().map_err(|()| no_cursor("cursor"))).transpose()
    }

    /// The parameters as a query has them.
    pub(super) fn query(&self) -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        self.conditions.iter().map(|(name, value)| (name.clone(), text(value))).collect()
    }
}

/// Names are given back with every event.
const LONGEST_ID: usize = 64;

/// Reads what a client says.
pub(super) fn read(text: &str) -> Result<Asked, Problem> {
    let asked: Asked = serde_json::from_str(text).map_err(|error| {
        let detail = format!("This is no message: {error}.");
        Problem::bad_request("invalid-message", detail)
    })?;
    if let Asked::Subscribe(Subscribe { id, .. }) = &asked
        && !(1..=LONGEST_ID).contains(&id.len())
    {
        let detail = format!("An id has 1 to {LONGEST_ID} bytes.");
        return Err(Problem::invalid("invalid-message", "id", detail));
    }
    Ok(asked)
}

/// An event of a subscription. Its data are JSON already.
pub(super) fn told(id: &str, said: &Said) -> String {
    let (name, data) = (said.what.name(), said.what.data());
    let data = std::str::from_utf8(&data).unwrap_or("null");
    let cursor = said.cursor.as_ref().map(|cursor| format!(r#""cursor":"{cursor}","#)).unwrap_or_default();
    format!(r#"{{"type":"{name}","id":{},{cursor}"data":{data}}}"#, json!(id))
}

/// A request was refused, or a subscription has ended.
pub(super) fn error(id: Option<&str>, problem: &Problem) -> String {
    let id = id.map(|id| format!(r#""id":{},"#, json!(id))).unwrap_or_default();
    format!(r#"{{"type":"error",{id}"problem":{}}}"#, problem.to_json())
}

/// The socket ends.
pub(super) fn bye(problem: &Problem) -> String {
    format!(r#"{{"type":"bye","problem":{}}}"#, problem.to_json())
}

pub(super) fn unsubscribed(id: &str) -> String {
    json!({ "type": "unsubscribed", "id": id }).to_string()
}

pub(super) fn renewed() -> String {
    json!({ "type": "renewed" }).to_string()
}

pub(super) fn pong() -> String {
    json!({ "type": "pong" }).to_string()
}

pub(super) fn no_text() -> Problem {
    Problem::bad_request("invalid-message", "Messages are text: JSON.")
}

pub(super) fn unknown(id: &str) -> Problem {
    Problem::not_found("subscription-not-found", format!("There is no subscription '{id}' on this socket."))
}

pub(super) fn in_use(id: &str) -> Problem {
    Problem::conflict("subscription-in-use", format!("'{id}' names another subscription of this socket."))
}

pub(super) fn too_many(most: usize) -> Problem {
    let detail = format!("A socket carries {most} subscriptions at most. Open another one.");
    Problem::new(StatusCode::TOO_MANY_REQUESTS, "too-many-subscriptions", detail)
}

pub(super) fn another_user() -> Problem {
    let detail = "The token is of another user or role. Open another socket with it.";
    Problem::new(StatusCode::FORBIDDEN, "forbidden", detail)
}

pub(super) fn no_model(name: &str, models: &[LiveModel]) -> Problem {
    let known = models.iter().map(|model| model.name).collect::<Vec<_>>().join(", ");
    Problem::invalid(
        "invalid-message",
        "model",
        format!("There is no '{name}' here: {known} can be followed."),
    )
}

pub(super) fn needs_key(model: &LiveModel) -> Problem {
    Problem::invalid("invalid-message", "key", format!("There is no list of {}: say which one.", model.name))
}

pub(super) fn list_only(model: &LiveModel) -> Problem {
    Problem::invalid("invalid-message", "key", format!("Of {} only the list can be followed.", model.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_says_is_read_strictly() {
        let asked =
            read(r#"{"type":"subscribe","id":"a","model":"orders","where":{"limit":5,"status":"pending"}}"#);
        let Ok(Asked::Subscribe(wanted)) = asked else { panic!("{asked:?}") };
        let query = wanted.query();
        assert_eq!(
            query,
            [("limit".to_owned(), "5".to_owned()), ("status".to_owned(), "pending".to_owned())]
        );
        assert!(wanted.cursor().unwrap().is_none());
        assert!(matches!(read(r#"{"type":"ping"}"#), Ok(Asked::Ping {})));
        let long = "x".repeat(65);
        for bad in [
            "",
            "[]",
            r#"{"type":"sing"}"#,
            r#"{"type":"subscribe","id":"a"}"#,
            r#"{"type":"subscribe","id":"","model":"orders"}"#,
            &format!(r#"{{"type":"subscribe","id":"{long}","model":"orders"}}"#),
            r#"{"type":"subscribe","id":"a","model":"orders","sql":"x"}"#,
            r#"{"type":"unsubscribe","id":"a","model":"orders"}"#,
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ids_are_given_back_whatever_they_hold() {
        let said: Value = serde_json::from_str(&error(Some("a\"b"), &no_text())).unwrap();
        assert_eq!((said["id"].as_str(), said["problem"]["status"].as_u64()), (Some("a\"b"), Some(400)));
    }
}
