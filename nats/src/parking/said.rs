//! Of which messages it was said that they were passed over: kept, so that the history of a dead letter is read once and
//! not again for every message that is passed over.

use crate::Message;
use events::{DeadLetterId, Fact, ops::DeadLetterEvent};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};
use tokio::sync::Mutex;

/// Dead letters whose history is kept. Where there are more, all of them are read again.
const KEPT: usize = 64;

/// The histories of a process. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Histories(pub(super) Arc<Mutex<HashMap<DeadLetterId, Skipped>>>);

/// What is known of the history of one dead letter.
#[derive(Debug, Default)]
pub(super) struct Skipped {
    /// Sequence of the last fact that is known, 0 where none is.
    pub(super) through: u64,
    /// Sequences of the messages that were passed over.
    messages: HashSet<u64>,
}

/// The history of a dead letter, as far as it is known.
pub(super) fn of(all: &mut HashMap<DeadLetterId, Skipped>, id: DeadLetterId) -> &mut Skipped {
    if all.len() >= KEPT && !all.contains_key(&id) {
        all.clear();
    }
    all.entry(id).or_default()
}

impl Skipped {
    /// The next fact.
    pub(super) fn hear(&mut self, fact: &Message) {
        if let Ok(Fact::DeadLetter(DeadLetterEvent::Skipped(fact))) = fact.fact() {
            self.messages.insert(fact.failure.sequence);
        }
        self.through = fact.position.sequence;
    }

    /// A fact of one's own, `at` this sequence, which had `before` as the last one; nothing where that is not known.
    pub(super) fn said(&mut self, message: u64, before: u64, at: u64) {
        if self.through == before {
            self.messages.insert(message);
            self.through = at;
        }
    }

    /// Whether it was said of this message.
    pub(super) fn has(&self, message: u64) -> bool {
        self.messages.contains(&message)
    }
}
