//! What a subscription is on: one document, or a list under conditions.

use super::{LiveModel, SeenBy, document::Document};
use crate::table::Type;
use service::{Problem, auth::Principal};
use std::{fmt::Write, sync::Arc};
use uuid::Uuid;

/// What is followed.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    /// One document.
    One {
        /// Its key.
        key: Arc<str>,
        /// The query that answers it, with what else was asked for.
        path: Arc<str>,
    },
    /// A list.
    Many {
        /// The query that answers it.
        path: Arc<str>,
        /// Whose documents; `None` for everybody's.
        owner: Option<Uuid>,
        /// What else a document in it has to have.
        filters: Vec<(&'static str, String)>,
    },
}

/// Parameters of every list that say nothing of its documents.
const PAGING: [&str; 3] = ["limit", "after", "wait"];

impl Target {
    /// One document. `query` are parameters of its query.
    pub(crate) fn one(model: &LiveModel, key: &str, query: &[(String, String)]) -> Self {
        let kind = model.tables.first().and_then(|table| table.key.first()).map(|(_, kind)| *kind);
        // As the feed has it.
        let uuid = key.parse::<Uuid>().ok().filter(|_| kind == Some(Type::Uuid));
        let key = uuid.map_or_else(|| key.to_owned(), |id| id.to_string());
        let path = with_query(&one(model, &key), query);
        Self::One { key: key.into(), path: path.into() }
    }

    /// A list, as somebody may see it.
    pub(crate) fn many(
        model: &LiveModel,
        path: &str,
        query: &[(String, String)],
        principal: &Principal,
    ) -> Result<Self, Problem> {
        let mut filters = Vec::new();
        for (name, value) in query {
            if PAGING.contains(&name.as_str()) {
                continue;
            }
            let Some(filter) = model.filters.iter().find(|filter| *filter == name) else {
                let detail = format!("A list is not followed by {name}; {} can.", allowed(model));
                return Err(Problem::bad_request("invalid-query", detail).with_field(name));
            };
            // As documents have it.
            let value = value.parse::<Uuid>().map_or_else(|_| value.clone(), |id| id.to_string());
            filters.push((*filter, value));
        }
        let mut owner = None;
        if let SeenBy::Owner(member) = model.seen_by {
            let wanted = filters.iter().find(|(name, _)| *name == member);
            owner = wanted.and_then(|(_, value)| value.parse().ok());
            if !principal.is_operator() {
                // Where he asked for somebody else's the query refuses.
                owner = owner.or(Some(principal.user));
            }
        }
        Ok(Self::Many { path: with_query(path, query).into(), owner, filters })
    }

    /// The query that answers it.
    pub(crate) fn path(&self) -> &Arc<str> {
        match self {
            Self::One { path, .. } | Self::Many { path, .. } => path,
        }
    }

    /// Whether a document is part of it.
    pub(crate) fn holds(&self, document: &Document) -> bool {
        let Self::Many { filters, .. } = self else { return true };
        filters.iter().all(|(name, wanted)| match document.value.get(name) {
            Some(serde_json::Value::String(text)) => text == wanted,
            Some(serde_json::Value::Null) | None => false,
            Some(other) => {
                let shown = other.to_string();
                shown == *wanted
            }
        })
    }
}

/// Whether somebody may see a document.
pub(crate) fn may_see(model: &LiveModel, document: &Document, principal: &Principal) -> bool {
    match model.seen_by {
        SeenBy::Everybody => true,
        SeenBy::Operators => principal.is_operator(),
        SeenBy::Owner(member) => {
            let owner = document.user(member);
            owner.map_or_else(|| principal.is_operator(), |owner| principal.may_act_for(owner))
        }
    }
}

/// The query of one document, as everybody gets it.
pub(crate) fn one(model: &LiveModel, key: &str) -> String {
    model.one.replace(&format!("{{{}}}", model.key()), &encode(key))
}

fn allowed(model: &LiveModel) -> String {
    model.filters.iter().copied().chain(PAGING).collect::<Vec<_>>().join(", ")
}

fn with_query(path: &str, query: &[(String, String)]) -> String {
    let mut whole = path.to_owned();
    for (place, (name, value)) in query.iter().enumerate() {
        let separator = if place == 0 { '?' } else { '&' };
        // Writing to a string cannot fail.
        let _ = write!(whole, "{separator}{}={}", encode(name), encode(value));
    }
    whole
}

/// A text as part of a path or query.
fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}
