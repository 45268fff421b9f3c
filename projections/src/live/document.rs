//! Documents as the queries answer them.

use super::LiveModel;
use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Request, StatusCode},
};
use bytes::Bytes;
use serde_json::Value;
use service::{
    Problem,
    auth::{Principal, Role},
};
use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::atomic::{AtomicU64, Ordering},
};
use tower::ServiceExt;
use uuid::Uuid;

/// In whose name documents are looked at that several may see: who may is asked for each of them.
const OBSERVER: Principal = Principal { user: Uuid::nil(), role: Role::Operator, token: Uuid::nil() };

/// Asks the queries of a service.
pub(crate) struct Documents {
    queries: Router,
    /// Counts beginnings and ends of looking: what has begun later than another look has ended shows no less.
    looks: AtomicU64,
}

/// What a query answered.
pub(crate) struct Answer {
    /// The body.
    pub(crate) json: Bytes,
    /// The positions that it contains.
    pub(crate) position: String,
}

/// A document as it was at one moment.
#[derive(Debug)]
pub(crate) struct Document {
    /// As the query of one answers it.
    pub(crate) json: Bytes,
    /// As lists have it.
    pub(crate) listed: Bytes,
    /// Tells what lists have from what they had.
    pub(crate) digest: u64,
    /// Its members.
    pub(crate) value: Value,
    /// When it was looked at.
    pub(crate) look: Look,
}

/// When something was looked at, in moments of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Look {
    /// What was committed before this it shows.
    pub(crate) begun: u64,
    /// What was committed after this it does not.
    pub(crate) ended: u64,
}

impl Look {
    /// Whether the other one shows no less. Of two that overlap nobody knows.
    pub(crate) fn is_before(self, other: Self) -> bool {
        self.ended < other.begun
    }
}

/// What looking at one document gave; `None` where it is gone.
pub(crate) struct Seen {
    pub(crate) document: Option<Document>,
    pub(crate) look: Look,
}

impl Documents {
    pub(super) fn new(queries: Router) -> Self {
        Self { queries, looks: AtomicU64::new(1) }
    }

    /// A moment between looks.
    pub(crate) fn moment(&self) -> u64 {
        self.looks.fetch_add(1, Ordering::SeqCst)
    }

    /// What a query answers somebody.
    pub(crate) async fn ask(
        &self,
        path: &str,
        principal: Principal,
        position: &str,
    ) -> Result<Answer, Problem> {
        let mut request = Request::get(path);
        if !position.is_empty() {
            request = request.header("Waybill-Position", position);
        }
        let request = request.body(Body::empty());
        let mut request = request.map_err(|_| Problem::bad_request("invalid-path", "This is no path."))?;
        request.extensions_mut().insert(principal);
        let mut response = match self.queries.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        if response.status() != StatusCode::OK {
            return Err(response.extensions_mut().remove::<Problem>().unwrap_or_else(Problem::internal));
        }
        let position = response.headers().get("Waybill-Position").and_then(|value| value.to_str().ok());
        let position = position.unwrap_or_default().to_owned();
        let json = to_bytes(response.into_body(), usize::MAX).await.map_err(|_| Problem::internal())?;
        Ok(Answer { json, position })
    }

    /// One document, as it is or later. The tables contain `position` when it is looked at.
    pub(crate) async fn look(&self, model: &LiveModel, path: &str, position: &str) -> Result<Seen, Problem> {
        let begun = self.moment();
        let answer = self.ask(path, OBSERVER, position).await;
        let look = Look { begun, ended: self.moment() };
        match answer {
            Ok(answer) => {
                let document = Document::new(model, answer.json, look)?;
                Ok(Seen { document: Some(document), look })
            }
            Err(problem) if problem.status() == StatusCode::NOT_FOUND => Ok(Seen { document: None, look }),
            Err(problem) => Err(problem),
        }
    }
}

impl Document {
    pub(crate) fn new(model: &LiveModel, json: Bytes, look: Look) -> Result<Self, Problem> {
        let mut value: Value = serde_json::from_slice(&json).map_err(|_| Problem::internal())?;
        let mut listed = json.clone();
        if !model.only_in_one.is_empty()
            && let Some(members) = value.as_object_mut()
        {
            members.retain(|name, _| !model.only_in_one.contains(&name.as_str()));
            listed = members_of(members).into();
        }
        Ok(Self { digest: digest(&value), json, listed, value, look })
    }

    /// The user in a member.
    pub(crate) fn user(&self, member: &str) -> Option<Uuid> {
        self.value.get(member)?.as_str()?.parse().ok()
    }
}

fn members_of(members: &serde_json::Map<String, Value>) -> String {
    Value::Object(members.clone()).to_string()
}

/// Tells a document from what it was before.
pub(crate) fn digest(value: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.to_string().hash(&mut hasher);
    hasher.finish()
}
