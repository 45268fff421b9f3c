//! What several queries answer with: money, pages and their cursors, and what nobody may see but its owner.

use crate::sqlite::{DatabaseError, Row};
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

/// One page of a list.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Page<T> {
    /// The items, in the order of the list.
    items: Vec<T>,
    /// Asks for the next page; missing on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// How many items a page may hold.
const LIMITS: std::ops::RangeInclusive<u32> = 1..=100;
const DEFAULT_LIMIT: u32 = 20;

/// The wanted size of a page, checked.
pub(crate) fn limit(wanted: Option<u32>) -> Result<u32, Problem> {
    let limit = wanted.unwrap_or(DEFAULT_LIMIT);
    if LIMITS.contains(&limit) {
        return Ok(limit);
    }
    let detail = format!("A page holds {} to {} items.", LIMITS.start(), LIMITS.end());
    Err(Problem::invalid("invalid-limit", "limit", detail))
}

impl<T> Page<T> {
    /// Its items.
    pub(crate) fn items_mut(&mut self) -> &mut [T] {
        &mut self.items
    }

    /// A page of `limit` items from rows of which one more was asked for, to see whether there is more. `cursor` names
    /// the place of the last item in the list.
    pub(crate) fn new(
        rows: &[Row],
        limit: u32,
        item: impl Fn(&Row) -> Result<T, DatabaseError>,
        cursor: impl Fn(&Row) -> Result<Vec<u8>, DatabaseError>,
    ) -> Result<Self, DatabaseError> {
        let limit = limit as usize;
        let shown = &rows[..limit.min(rows.len())];
        let items = shown.iter().map(item).collect::<Result<_, _>>()?;
        let last = shown.last().filter(|_| rows.len() > limit);
        let next_cursor = last.map(|row| cursor(row).map(|bytes| hex(&bytes))).transpose()?;
        Ok(Self { items, next_cursor })
    }
}

fn hex(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from(b"0123456789abcdef"[usize::from(value)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let bytes = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect();
    if rest.is_empty() { bytes } else { None }
}

/// Reads a cursor; `None` where none was given.
pub(crate) fn cursor<T>(text: Option<&str>, read: impl Fn(&[u8]) -> Option<T>) -> Result<Option<T>, Problem> {
    let Some(text) = text else { return Ok(None) };
    let place = unhex(text).and_then(|bytes| read(&bytes));
    let refuse =
        || Problem::invalid("invalid-cursor", "cursor", "Take the cursor from nextCursor, as it is.");
    place.map(Some).ok_or_else(refuse)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_read_back_and_nonsense_is_refused() {
        let read = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
        assert_eq!(cursor(Some(&hex(b"TEA-1")), read).unwrap().as_deref(), Some("TEA-1"));
        assert_eq!(cursor(None, read).unwrap(), None);
        for bad in ["x", "abc", "zz", "ff", "ä"] {
            assert_eq!(cursor(Some(bad), read).unwrap_err().status(), 422, "{bad}");
        }
    }

    #[test]
    fn pages_are_neither_empty_nor_endless() {
        assert_eq!(limit(None).unwrap(), 20);
        assert_eq!(limit(Some(100)).unwrap(), 100);
        assert!(limit(Some(0)).is_err() && limit(Some(101)).is_err());
    }
}
