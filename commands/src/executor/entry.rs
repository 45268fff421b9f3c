//! One cached aggregate.

use crate::aggregate::{AnyState, Codec};
use events::{CommandId, DecodeError, envelope::header};
use nats::{History, Tail};
use std::{collections::VecDeque, time::Instant};

/// Commands remembered per aggregate. Older repetitions are recognised by the state (reactions) or by the ledger of
/// idempotency keys (clients).
const REMEMBERED: usize = 64;

/// What is known of an aggregate: a baseline for decisions, validated by the append.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) codec: Codec,
    pub(super) state: AnyState,
    /// Stream sequence of its last event; 0 where there is none.
    pub(super) sequence: u64,
    /// Number of its events.
    pub(super) version: u64,
    pub(super) tail: Tail,
    /// Its newest commands, each with the sequence of its last event: of those read from the log, the last one on this
    /// aggregate.
    pub(super) commands: VecDeque<(CommandId, u64)>,
    /// When the log was last seen to agree; `None` for a mere supposition.
    pub(super) verified: Option<Instant>,
    /// Whether a snapshot is being written.
    pub(super) freezing: bool,
}

impl Entry {
    /// An aggregate without events. `verified` when the log says so.
    pub(super) fn absent(codec: Codec, verified: Option<Instant>) -> Self {
        Self {
            codec,
            state: (codec.fresh)(),
            sequence: 0,
            version: 0,
            tail: Tail::default(),
            commands: VecDeque::new(),
            verified,
            freezing: false,
        }
    }

    /// An aggregate as it was loaded by a request sent at `asked`.
    pub(super) fn loaded(codec: Codec, history: History, asked: Instant) -> Result<Self, DecodeError> {
        let mut entry = Self::absent(codec, Some(asked));
        entry.sequence = history.last;
        entry.tail = history.tail;
        if let Some(snapshot) = history.snapshot {
            entry.state = (codec.thaw)(snapshot.state.get().as_bytes()).unwrap_or(entry.state);
            entry.version = snapshot.version;
            entry.commands = snapshot.commands.into();
        }
        for message in &history.messages {
            entry.state = (codec.fold)(&entry.state, message.kind(), message.schema()?, message.body())?;
            let version = message.header(header::SEQUENCE).and_then(|version| version.parse().ok());
            entry.version = version.ok_or(DecodeError::Header(header::SEQUENCE))?;
            let command = message.header(header::COMMAND).and_then(|command| command.parse().ok());
            entry.remember(command.ok_or(DecodeError::Header(header::COMMAND))?, message.position.sequence);
        }
        Ok(entry)
    }

    /// Remembers that `command` recorded events here, and where its last one stands.
    pub(super) fn remember(&mut self, command: CommandId, sequence: u64) {
        match self.commands.back_mut() {
            Some(last) if last.0 == command => last.1 = sequence,
            _ => {
                if self.commands.len() == REMEMBERED {
                    self.commands.pop_front();
                }
                self.commands.push_back((command, sequence));
            }
        }
    }

    /// Where the last event of `command` stands, if it is remembered.
    pub(super) fn outcome_of(&self, command: CommandId) -> Option<u64> {
        self.commands.iter().find(|(known, _)| *known == command).map(|(_, sequence)| *sequence)
    }
}
