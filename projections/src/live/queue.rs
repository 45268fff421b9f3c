//! What waits for one client. Nobody waits for the client: when too much waits, the client is dropped.

use super::{
    cursor::Cursor,
    document::{Document, Look},
};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Notify;

/// Something for one of a client's subscriptions.
#[derive(Clone, Debug)]
pub(crate) enum Item {
    /// A document has changed.
    Change(Arc<Change>),
    /// What was told of a document ahead of the feed, the feed has told by now.
    Settled {
        /// Which document.
        key: Arc<str>,
        /// Where the feed is behind it.
        sequence: u64,
    },
    /// What the client has is worth nothing any more.
    Reset(Why),
}

/// A document has changed.
#[derive(Debug)]
pub(crate) struct Change {
    /// Where the feed is behind it.
    pub(crate) cursor: Cursor,
    /// Which document.
    pub(crate) key: Arc<str>,
    /// What it is now.
    pub(crate) now: Now,
    /// Whether it may contain what the feed tells only behind the cursor.
    pub(crate) ahead: bool,
}

/// What a document is now.
#[derive(Clone, Debug)]
pub(crate) enum Now {
    /// This.
    Known(Arc<Document>),
    /// Gone, when it was looked at.
    Gone(Look),
    /// Whoever wants to know has to look.
    Unknown,
}

/// Why a client has to begin anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// Its cursor is older than what is kept.
    TooOld,
    /// Its cursor belongs to another feed.
    AnotherFeed,
    /// The feed was lost, or has left something out.
    Lost,
    /// A user was erased.
    Erased,
}

impl Why {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::TooOld => "too-old",
            Self::AnotherFeed => "another-feed",
            Self::Lost => "feed-lost",
            Self::Erased => "user-erased",
        }
    }
}

/// Why a client is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It takes too long.
    Slow,
    /// The user was erased.
    Erased,
}

#[derive(Debug, Default)]
pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    items: VecDeque<(u32, Item)>,
    end: Option<End>,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Every statement leaves it valid.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds something for a subscription; whether there was room. Where there is none all of it is dropped.
    pub(crate) fn push(&self, to: u32, item: Item, most: usize) -> bool {
        let mut waiting = self.lock();
        if waiting.end.is_some() {
            return true;
        }
        let room = waiting.items.len() < most;
        if !room && matches!(item, Item::Settled { .. }) {
            // It only makes ids shorter: nobody is dropped for it.
            return true;
        }
        if room {
            waiting.items.push_back((to, item));
        } else {
            waiting.end = Some(End::Slow);
            waiting.items = VecDeque::new();
        }
        drop(waiting);
        self.wake.notify_one();
        room
    }

    /// Takes what waits for a subscription of what the feed told up to a sequence.
    pub(crate) fn extract(&self, to: u32, sequence: u64) -> Vec<Item> {
        let mut waiting = self.lock();
        let mut extracted = Vec::new();
        waiting.items.retain(|(tag, item)| {
            let early = match item {
                Item::Change(change) => change.cursor.sequence <= sequence,
                Item::Settled { sequence: at, .. } => *at <= sequence,
                Item::Reset(_) => true,
            };
            let wanted = *tag == to && early;
            if wanted {
                extracted.push(item.clone());
            }
            !wanted
        });
        extracted
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().items.is_empty()
    }

    /// Ends it.
    pub(crate) fn end(&self, end: End) {
        let mut waiting = self.lock();
        waiting.end.get_or_insert(end);
        waiting.items = VecDeque::new();
        drop(waiting);
        self.wake.notify_one();
    }

    /// Waits for the next one. Cancel safe.
    pub(crate) async fn next(&self) -> Result<(u32, Item), End> {
        loop {
            let notified = self.wake.notified();
            {
                let mut waiting = self.lock();
                if let Some(end) = waiting.end {
                    return Err(end);
                }
                if let Some(item) = waiting.items.pop_front() {
                    return Ok(item);
                }
                // A burst has passed: its room is given back.
                if waiting.items.capacity() > 8 {
                    waiting.items = VecDeque::new();
                }
            }
            notified.await;
        }
    }
}
