//! Who caused what: ids that are there once, causes that are there at all, and one correlation from end to end.
//!
//! Of each event 16 bytes are kept.

use super::{
    aggregates::digest,
    finding::{Findings, Kind},
};
use events::{Aggregate, CommandId, Context, Envelope, EventId, Position};
use nats::Message;
use std::collections::HashMap;
use uuid::Uuid;

/// The events of the log, as far as chains need them.
#[derive(Debug, Default)]
pub(super) struct Chains {
    /// By half of the event's id: a digest of the correlation id.
    known: HashMap<u64, u32, foldhash::fast::FixedState>,
    /// The command of the last event of each stream, and how many events it has had.
    commands: HashMap<Context, (CommandId, usize)>,
    /// Events whose cause has not been seen: stored by a server whose clock is ahead, or not at all.
    open: Vec<(Position, Uuid, u32)>,
}

fn half(id: Uuid) -> u64 {
    let (high, low) = id.as_u64_pair();
    high ^ low.rotate_left(32)
}

impl Chains {
    /// Looks at the next event.
    pub(super) fn check(&mut self, event: &Message, envelope: &Envelope, findings: &mut Findings) {
        #[expect(clippy::cast_possible_truncation, reason = "a digest, of which so much is kept")]
        let correlation = digest(envelope.correlation.as_str()) as u32;
        let is_timer = event.subject.aggregate() == Aggregate::Timer;
        self.id(event, envelope, is_timer, findings);
        if self.known.insert(half(envelope.id.uuid()), correlation).is_some() {
            let (id, command) = (envelope.id, envelope.command);
            let what = format!("event {id} of command {command} is recorded a second time");
            findings.add(Kind::Repeated, event.position, what);
        }
        if envelope.causation != envelope.command.uuid() {
            self.cause(event.position, envelope.causation, correlation, findings);
        }
    }

    /// An id is derived from the command, and the place among the command's events.
    fn id(&mut self, event: &Message, envelope: &Envelope, is_timer: bool, findings: &mut Findings) {
        let command = envelope.command;
        let expected = if is_timer {
            EventId::new(command.derive(&format!("timer {}", envelope.causation)))
        } else {
            let of_stream = self.commands.entry(event.position.context).or_insert((command, 0));
            if of_stream.0 != command {
                *of_stream = (command, 0);
            }
            of_stream.1 += 1;
            EventId::of_command(command, of_stream.1 - 1)
        };
        if envelope.id != expected {
            findings.add(Kind::Id, event.position, format!("{} is no id of command {command}", envelope.id));
        }
    }

    fn cause(&mut self, position: Position, cause: Uuid, correlation: u32, findings: &mut Findings) {
        match self.known.get(&half(cause)) {
            Some(of_cause) if *of_cause == correlation => {}
            Some(_) => {
                let what = format!("has another correlation id than event {cause}, which caused it");
                findings.add(Kind::Correlation, position, what);
            }
            None => self.open.push((position, cause, correlation)),
        }
    }

    /// At the end: what was caused by nothing that is there.
    pub(super) fn finish(&mut self, findings: &mut Findings) {
        for (position, cause, correlation) in std::mem::take(&mut self.open) {
            if self.known.contains_key(&half(cause)) {
                self.cause(position, cause, correlation, findings);
            } else {
                findings.add(
                    Kind::Cause,
                    position,
                    format!("event {cause}, which caused it, is not in the log"),
                );
            }
        }
    }
}
