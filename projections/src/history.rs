//! What happened to something, oldest first. Without the facts' data, which may be personal.

use crate::{
    Changes,
    database::{DatabaseError, Row},
    page::hex,
    past::Change,
    table::{Table, Type, Value, row},
};
use jiff::Timestamp;
use nats::Recorded;
use serde::Serialize;
use std::collections::HashMap;
use utoipa::ToSchema;
use uuid::Uuid;

/// A table of what happened to whatever the first column of its key names; the others are `stream` and `sequence`.
pub(crate) const fn table(name: &'static str, key: &'static [(&'static str, Type); 3]) -> Table {
    const COLUMNS: &[(&str, Type)] = &[
        ("id", Type::Uuid),
        ("kind", Type::Text),
        ("time", Type::Timestamp),
        ("actor", Type::Text),
        ("causation", Type::Uuid),
    ];
    Table { name, key, columns: COLUMNS, indexes: &[] }
}

/// Takes an event into the history of what it is about, in such a table.
pub(crate) fn happened(
    recorded: &Recorded,
    about: impl Into<Value>,
    to: &'static Table,
    changes: &mut Changes,
) {
    const ANY: Table = table("", &[("", Type::Uuid); 3]);
    let (position, envelope) = (recorded.position, &recorded.envelope);
    let key = [about.into(), position.context.stream().into(), position.sequence.into()];
    let row = row!(ANY {
        id: envelope.id,
        kind: envelope.kind.clone(),
        time: envelope.time,
        actor: envelope.actor.as_str().to_owned(),
        causation: envelope.causation,
    });
    changes.upsert(to, key, row);
}

/// What happened.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct History {
    /// Its events, oldest first, causes before what they caused.
    events: Vec<Entry>,
    /// Asks for the next page; missing on the last one, and where there are no pages.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// One event.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = HistoryEntry)]
pub(crate) struct Entry {
    id: Uuid,
    #[serde(rename = "type")]
    #[schema(example = "order.created")]
    kind: String,
    #[schema(value_type = String, format = DateTime)]
    time: Timestamp,
    /// Who asked for it.
    #[schema(example = "user:018f3f5e-0000-7000-8000-000000000001")]
    actor: String,
    /// The event or command that caused it.
    causation: Uuid,
    /// Where it is recorded.
    position: Place,
    /// What it happened to, and the version of that after it; missing where it is told from the read model.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "order/018f3f5e-0000-7000-8000-000000000001")]
    aggregate: Option<String>,
    /// Counts the events of that.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
    /// What it changed of the answer, where that is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    changes: Option<Vec<Change>>,
}

/// Where an event is recorded.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[schema(as = Position)]
struct Place {
    #[schema(example = "ORDERS")]
    stream: String,
    sequence: i64,
}

impl Entry {
    fn of(row: &Row) -> Result<Self, DatabaseError> {
        Ok(Self {
            id: row.get("id")?,
            kind: row.get("kind")?,
            time: row.get("time")?,
            actor: row.get("actor")?,
            causation: row.get("causation")?,
            position: Place { stream: row.get("stream")?, sequence: row.get("sequence")? },
            aggregate: None,
            version: None,
            changes: None,
        })
    }

    /// Of an event as the log has it, and what it changed.
    pub(crate) fn told(recorded: &Recorded, changes: Option<Vec<Change>>) -> Self {
        let (envelope, position) = (&recorded.envelope, recorded.position);
        Self {
            id: envelope.id.uuid(),
            kind: envelope.kind.clone().into_owned(),
            time: envelope.time,
            actor: envelope.actor.as_str().to_owned(),
            causation: envelope.causation,
            position: Place {
                stream: position.context.stream().to_owned(),
                sequence: position.sequence.cast_signed(),
            },
            aggregate: Some(recorded.subject.name()),
            version: Some(envelope.version),
            changes,
        }
    }
}

impl History {
    /// Of these rows; `None` where nothing happened.
    pub(crate) fn of(rows: &[Row]) -> Result<Option<Self>, DatabaseError> {
        let events = rows.iter().map(Entry::of).collect::<Result<Vec<_>, _>>()?;
        Ok((!events.is_empty()).then(|| Self { events: in_order(&events), next_cursor: None }))
    }

    /// These events, and the place behind which the next page begins, where there is one.
    pub(crate) fn page(events: Vec<Entry>, next: Option<String>) -> Self {
        Self { events, next_cursor: next.map(|place| hex(place.as_bytes())) }
    }
}

/// Sorts by time and then by the chain of causes. Clocks of different machines may disagree: an event counts as no
/// earlier than what caused it.
fn in_order(entries: &[Entry]) -> Vec<Entry> {
    let by_id: HashMap<Uuid, &Entry> = entries.iter().map(|entry| (entry.id, entry)).collect();
    let rank = |entry: &Entry| {
        let (mut time, mut depth, mut at) = (entry.time, 0, entry);
        // A chain is no longer than the history, even if ids were to form a ring.
        while let Some(cause) = by_id.get(&at.causation).filter(|_| depth < entries.len()) {
            (time, depth, at) = (time.max(cause.time), depth + 1, cause);
        }
        (time, depth, entry.position.clone())
    };
    let mut ranked: Vec<_> = entries.iter().map(|entry| (rank(entry), entry.clone())).collect();
    ranked.sort_by(|(a, _), (b, _)| a.cmp(b));
    ranked.into_iter().map(|(_, entry)| entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: u128, cause: u128, second: i64, stream: &str) -> Entry {
        Entry {
            id: Uuid::from_u128(id),
            kind: String::new(),
            time: Timestamp::from_second(second).unwrap(),
            actor: String::new(),
            causation: Uuid::from_u128(cause),
            position: Place { stream: stream.to_owned(), sequence: 1 },
            aggregate: None,
            version: None,
            changes: None,
        }
    }

    fn order(entries: &[Entry]) -> Vec<u128> {
        in_order(entries).iter().map(|entry| entry.id.as_u128()).collect()
    }

    #[test]
    fn causes_come_before_what_they_cause_whatever_the_clocks_say() {
        let slow_clock = [entry(2, 1, 5, "INVENTORY"), entry(3, 2, 6, "PAYMENTS"), entry(1, 9, 7, "ORDERS")];
        assert_eq!(order(&slow_clock), [1, 2, 3]);
        let same_time = [entry(3, 2, 5, "A"), entry(2, 1, 5, "B"), entry(1, 9, 5, "C")];
        assert_eq!(order(&same_time), [1, 2, 3]);
    }

    #[test]
    fn unrelated_events_are_in_the_order_of_time() {
        assert_eq!(order(&[entry(1, 9, 8, "A"), entry(2, 8, 7, "B")]), [2, 1]);
        // A ring of causes cannot happen; it must not hang either.
        assert_eq!(order(&[entry(1, 2, 8, "A"), entry(2, 1, 7, "B")]).len(), 2);
    }
}
