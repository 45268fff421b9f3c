//! Which documents have changed lately: what a client has missed that comes again.

use super::{cursor::Cursor, queue::Why};
use std::{collections::VecDeque, sync::Arc, time::Duration};

/// Changes that are remembered at most; about 100 bytes each.
const MOST: usize = 65_536;

/// A document that has changed.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) sequence: u64,
    pub(super) model: usize,
    pub(super) key: Arc<str>,
}

#[derive(Debug, Default)]
pub(super) struct History {
    entries: VecDeque<Entry>,
    /// Of cursors before it something is missing.
    floor: u64,
    /// The sequence up to which it was read when this process began to follow: what was kept of it.
    began: u64,
}

impl History {
    /// Nothing is known; who was before this has to begin anew.
    pub(super) fn clear(&mut self, floor: u64) {
        self.entries.clear();
        (self.floor, self.began) = (floor, 0);
    }

    /// Of cursors before this something is missing.
    pub(super) fn raise(&mut self, floor: u64) {
        self.floor = self.floor.max(floor);
    }

    /// Everything up to here was there before.
    pub(super) fn began(&mut self, sequence: u64) {
        self.began = sequence;
    }

    pub(super) fn push(&mut self, entry: Entry) {
        if self.entries.len() == MOST
            && let Some(oldest) = self.entries.pop_front()
        {
            self.floor = self.floor.max(oldest.sequence);
        }
        self.entries.push_back(entry);
    }

    /// The documents of a model that have changed behind `cursor`, each once, with its last change; in that order. `now` is
    /// where the feed is. What was kept when this process began goes back for `retention`.
    pub(super) fn since(
        &self,
        cursor: Cursor,
        now: Cursor,
        model: usize,
        retention: Duration,
    ) -> Result<Vec<(u64, Arc<str>)>, Why> {
        if cursor.epoch != now.epoch || cursor.sequence > now.sequence {
            return Err(Why::AnotherFeed);
        }
        let age = u64::try_from(now.time.saturating_sub(cursor.time)).unwrap_or_default();
        let kept = cursor.sequence >= self.began || age < retention.as_secs() * 4 / 5;
        if cursor.sequence < self.floor || !kept {
            return Err(Why::TooOld);
        }
        let behind = self.entries.partition_point(|entry| entry.sequence <= cursor.sequence);
        let mut seen = std::collections::HashSet::new();
        let of_model = self.entries.range(behind..).rev().filter(|entry| entry.model == model);
        let mut missed: Vec<_> = of_model
            .filter(|entry| seen.insert(&entry.key))
            .map(|entry| (entry.sequence, Arc::clone(&entry.key)))
            .collect();
        missed.reverse();
        Ok(missed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RETENTION: Duration = Duration::from_secs(100);

    const fn at(sequence: u64, time: i64) -> Cursor {
        Cursor { epoch: 1, sequence, time }
    }

    fn history() -> History {
        let mut history = History::default();
        for (sequence, key) in [(3, "a"), (4, "b"), (5, "a"), (6, "c")] {
            history.push(Entry { sequence, model: usize::from(key == "c"), key: key.into() });
        }
        history
    }

    fn missed(history: &History, cursor: Cursor) -> Result<Vec<(u64, String)>, Why> {
        let missed = history.since(cursor, at(7, 1000), 0, RETENTION)?;
        Ok(missed.into_iter().map(|(sequence, key)| (sequence, key.to_string())).collect())
    }

    #[test]
    fn each_document_comes_once_with_its_last_change() {
        let history = history();
        let (a, b) = ((5, "a".to_owned()), (4, "b".to_owned()));
        assert_eq!(missed(&history, at(2, 1000)).unwrap(), [b, a.clone()]);
        assert_eq!(missed(&history, at(4, 1000)).unwrap(), [a]);
        assert_eq!(missed(&history, at(7, 1000)).unwrap(), []);
    }

    #[test]
    fn a_cursor_of_which_something_is_missing_is_refused() {
        let mut history = history();
        assert_eq!(missed(&history, Cursor { epoch: 2, ..at(4, 1000) }), Err(Why::AnotherFeed));
        assert_eq!(missed(&history, at(8, 1000)), Err(Why::AnotherFeed), "it was restored from a backup");
        // What this process has not seen itself is there for a while.
        history.began(6);
        assert!(missed(&history, at(4, 930)).is_ok());
        assert_eq!(missed(&history, at(4, 910)), Err(Why::TooOld));
        assert!(missed(&history, at(6, 1)).is_ok(), "it has seen everything behind this");
        for sequence in 8..MOST as u64 + 8 {
            history.push(Entry { sequence, model: 0, key: "x".into() });
        }
        assert_eq!(missed(&history, at(5, 1000)), Err(Why::TooOld));
        history.clear(90_000);
        assert_eq!(history.since(at(8, 0), at(90_000, 0), 0, RETENTION), Err(Why::TooOld));
        assert!(history.since(at(90_000, 0), at(90_000, 0), 0, RETENTION).unwrap().is_empty());
    }
}
