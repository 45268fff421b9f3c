//! What several queries answer with: money, refusals, and what nobody may see but its owner.

use crate::database::{DatabaseError, Row};
use events::UserId;
use serde::{Deserialize, Serialize};
use service::{Problem, auth::Principal};
use utoipa::{IntoResponses, ToSchema};
use uuid::Uuid;

/// An amount of money.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Money {
    /// Minor units, such as cents.
    #[schema(example = 1250)]
    pub(crate) amount: i64,
    /// ISO 4217 code.
    #[schema(example = "EUR")]
    pub(crate) currency: String,
}

impl Money {
    /// From the columns `amount` (or another) and `currency`.
    pub(crate) fn of(row: &Row, amount: &'static str) -> Result<Self, DatabaseError> {
        Ok(Self { amount: row.get(amount)?, currency: row.get("currency")? })
    }
}

/// The row, if there is one and the principal may see it: operators see all, others what has their id in `user_id`.
/// What is somebody else's is answered like what does not exist, so that nobody can find out what does.
pub(crate) fn owned<'a>(
    row: Option<&'a Row>,
    principal: &Principal,
    unknown: impl FnOnce() -> Problem,
) -> Result<&'a Row, Problem> {
    let Some(row) = row else { return Err(unknown()) };
    let owner: Option<Uuid> = row.find("user_id")?;
    let visible = owner.map_or_else(|| principal.is_operator(), |owner| principal.may_act_for(owner));
    if visible { Ok(row) } else { Err(unknown()) }
}

/// Whose items are listed; `None` for everybody's.
pub(crate) fn whose(wanted: Option<UserId>, principal: &Principal) -> Result<Option<UserId>, Problem> {
    match wanted {
        Some(user) => principal.require_for(user.uuid()).map(|()| wanted),
        None if principal.is_operator() => Ok(None),
        None => Ok(Some(UserId::new(principal.user))),
    }
}

/// What was asked for does not exist, or is somebody else's.
#[derive(IntoResponses)]
#[response(status = 404, content_type = "application/problem+json")]
#[expect(dead_code, reason = "documents an answer")]
pub(crate) struct Unknown(Problem);

/// How every query can be refused.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "documents the problems of every query")]
pub(crate) enum Refused {
    /// The path, a header or a parameter cannot be read.
    #[response(status = 400, content_type = "application/problem+json")]
    Unreadable(Problem),
    /// A parameter cannot be accepted.
    #[response(status = 422, content_type = "application/problem+json")]
    Invalid(Problem),
    /// The read model is away or not as far yet, or the keys of access tokens are away: try again after `Retry-After`.
    #[response(status = 503, content_type = "application/problem+json")]
    Unavailable(Problem),
}

impl From<DatabaseError> for Problem {
    fn from(error: DatabaseError) -> Self {
        let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        tracing::error!(%error, cause, "a query failed");
        Self::unavailable("read-model-unavailable", "The read model cannot be queried now.", 1)
    }
}
