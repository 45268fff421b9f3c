//! Lists, page by page: which page is asked for, and what it holds. Stable under inserts, for a page begins behind a place
//! and not after so many items.

use crate::{
    database::{Database, DatabaseError, Row},
    table::Value,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize, de::IgnoredAny};
use service::Problem;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

/// How many items a page may hold.
const LIMITS: std::ops::RangeInclusive<u32> = 1..=100;
const DEFAULT_LIMIT: u32 = 20;

/// Which page of a list is asked for.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Paging {
    /// `nextCursor` of the page before.
    cursor: Option<String>,
    /// Items per page, 1 to 100; 20 unless said.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<u32>,
    // Read by the layer that waits.
    #[serde(rename = "after")]
    #[param(ignore)]
    _after: Option<IgnoredAny>,
    #[serde(rename = "wait")]
    #[param(ignore)]
    _wait: Option<IgnoredAny>,
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

impl Paging {
    /// For a list that takes other parameters too.
    pub(crate) const fn new(cursor: Option<String>, limit: Option<u32>) -> Self {
        Self { cursor, limit, _after: None, _wait: None }
    }

    /// The place behind which the page begins; `None` for the first one.
    pub(crate) fn place<T>(&self, read: impl Fn(&[u8]) -> Option<T>) -> Result<Option<T>, Problem> {
        let Some(text) = &self.cursor else { return Ok(None) };
        let place = unhex(text).and_then(|bytes| read(&bytes));
        let refuse =
            || Problem::invalid("invalid-cursor", "cursor", "Take the cursor from nextCursor, as it is.");
        place.map(Some).ok_or_else(refuse)
    }

    /// The page. `sql` selects at most `$1` rows behind the place, in the order of the list; `values` are the parameters
    /// from `$2` on. `place` says where a row stands in the list.
    pub(crate) async fn page<T>(
        &self,
        database: &Database,
        sql: &'static str,
        values: impl IntoIterator<Item = Value>,
        item: impl Fn(&Row) -> Result<T, DatabaseError>,
        place: impl Fn(&Row) -> Result<Vec<u8>, DatabaseError>,
    ) -> Result<Page<T>, Problem> {
        let limit = self.limit()?;
        // One more, to see whether there is more.
        let values = [Value::from(i64::from(limit) + 1)].into_iter().chain(values).collect();
        let rows = database.rows(sql, values).await?;
        let limit = limit as usize;
        let shown = &rows[..limit.min(rows.len())];
        let items = shown.iter().map(item).collect::<Result<_, _>>()?;
        let last = shown.last().filter(|_| rows.len() > limit);
        let next_cursor = last.map(|row| place(row).map(|bytes| hex(&bytes))).transpose()?;
        Ok(Page { items, next_cursor })
    }

    /// How many items it may hold.
    pub(crate) fn limit(&self) -> Result<u32, Problem> {
        let limit = self.limit.unwrap_or(DEFAULT_LIMIT);
        if LIMITS.contains(&limit) {
            return Ok(limit);
        }
        let detail = format!("A page holds {} to {} items.", LIMITS.start(), LIMITS.end());
        Err(Problem::invalid("invalid-limit", "limit", detail))
    }
}

impl<T> Page<T> {
    /// These items, and the place behind which the next page begins, where there is one.
    pub(crate) fn new(items: Vec<T>, next: Option<&[u8]>) -> Self {
        Self { items, next_cursor: next.map(hex) }
    }

    /// Its items.
    pub(crate) fn items_mut(&mut self) -> &mut [T] {
        &mut self.items
    }
}

/// The place of a row in a list that is ordered by a time and, within the same moment, by an id.
pub(crate) fn write_place(time: Timestamp, id: Uuid) -> Vec<u8> {
    [&time.as_microsecond().to_be_bytes()[..], id.as_bytes()].concat()
}

/// The same, read back.
pub(crate) fn read_place(bytes: &[u8]) -> Option<(Timestamp, Uuid)> {
    let (time, id) = bytes.split_first_chunk()?;
    Some((Timestamp::from_microsecond(i64::from_be_bytes(*time)).ok()?, Uuid::from_slice(id).ok()?))
}

/// A place as a cursor.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from(b"0123456789abcdef"[usize::from(value)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let bytes = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect();
    if rest.is_empty() { bytes } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_read_back_and_nonsense_is_refused() {
        let read = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
        let place = |text: Option<&str>| Paging::new(text.map(str::to_owned), None).place(read);
        assert_eq!(place(Some(&hex(b"TEA-1"))).unwrap().as_deref(), Some("TEA-1"));
        assert_eq!(place(None).unwrap(), None);
        for bad in ["x", "abc", "zz", "ff", "ä"] {
            assert_eq!(place(Some(bad)).unwrap_err().status(), 422, "{bad}");
        }
    }

    #[test]
    fn pages_are_neither_empty_nor_endless() {
        let limit = |wanted| Paging::new(None, wanted).limit();
        assert_eq!(limit(None).unwrap(), 20);
        assert_eq!(limit(Some(100)).unwrap(), 100);
        assert!(limit(Some(0)).is_err() && limit(Some(101)).is_err());
    }
}
