//! Timers: messages that nats-server keeps and records as facts when their time has come (ADR-51 of NATS).
//!
//! A timer stands on a subject of its own, in the stream of the facts that it belongs to, so that arming and cancelling it
//! is part of the same atomic batch. A timer that is armed again replaces the one before. When its time comes, the server
//! takes it away and records the fact it carries.
//!
//! The server looks for what is due every quarter of a second at most, so a timer alone would be late by that. It is
//! therefore recorded up to [`LEAD`] early, and consumers hold it until it is due ([`Message::ripe`]): late where something
//! was away, never early. How long that is, is counted from when the server recorded it: its clock is the one that counts,
//! and no other is looked at.

use crate::{Message, Write, consumer::ACK_WAIT};
use async_nats::header::{NATS_SCHEDULE, NATS_SCHEDULE_NEXT, NATS_SCHEDULE_TARGET, NATS_SCHEDULER};
use events::{
    Aggregate, Envelope, Subject,
    envelope::header::{MSG_ID, TIME},
};
use jiff::Timestamp;
use std::time::Duration;

/// How much earlier than it is due the server is asked for a timer: longer than it takes from one look to the next, with
/// all that is due then.
pub const LEAD: Duration = Duration::from_millis(350);

const _: () = assert!(LEAD.as_millis() * 4 < ACK_WAIT.as_millis(), "what comes again would be early");

/// What the server is to do with the timer that a fact cancels.
const PURGE: &str = "purge";

impl Write {
    /// A timer that stands at the subject `timer` until shortly before `at`, the time of its envelope, and is then recorded
    /// as an event of `subject`. It goes behind the events of the same append.
    pub fn timer(subject: &Subject, timer: &str, at: Timestamp, envelope: &Envelope, body: Vec<u8>) -> Self {
        // The id would reach the fired message too, which the server would take for a repetition.
        let wanted = |name: &str| name != MSG_ID;
        let mut write = Self::told_by(subject, None, envelope, None, body, wanted);
        let early = at.saturating_sub(LEAD).unwrap_or(at);
        write.put(NATS_SCHEDULE, format!("@at {early}").as_str());
        write.put(NATS_SCHEDULE_TARGET, subject.as_str());
        write.stands_at(timer);
        write
    }

    /// This event, and with it the end of the timer that stands at `timer`. One that has fired or never was does not
    /// matter.
    #[must_use]
    pub fn cancelling(mut self, timer: &str) -> Self {
        self.put(NATS_SCHEDULER, timer);
        self.put(NATS_SCHEDULE_NEXT, PURGE);
        self
    }
}

impl Message {
    /// Waits until it may be handled: a timer until it is due, anything else not at all.
    pub(crate) async fn ripe(&self) {
        let left = self.early();
        if !left.is_zero() {
            tokio::time::sleep_until((self.received + left).into()).await;
        }
    }

    /// How long before it was due the server has recorded it. One that is delivered again is due: whoever had it has held
    /// it before he handed it back, or died, and then it comes after [`ACK_WAIT`], which is longer.
    fn early(&self) -> Duration {
        if self.again {
            return Duration::ZERO;
        }
        let due = (self.subject.aggregate() == Aggregate::Timer).then(|| self.header(TIME)).flatten();
        let due = due.and_then(|text| text.parse::<Timestamp>().ok()).unwrap_or(self.stored);
        // Nobody records one earlier than that, and one that says so would stand still for as long.
        Duration::try_from(due.duration_since(self.stored)).unwrap_or_default().min(LEAD)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_nats::HeaderMap;
    use events::{Context, Position};

    /// A fact that was recorded at noon, and says that it is so many milliseconds older or younger.
    fn message(aggregate: Aggregate, millis: i64) -> Message {
        let noon: Timestamp = "2026-01-01T12:00:00Z".parse().unwrap();
        let time = noon + jiff::SignedDuration::from_millis(millis);
        let headers = HeaderMap::from_iter([(TIME.parse().unwrap(), time.to_string().parse().unwrap())]);
        let position = Position { context: Context::Fulfilment, sequence: 1 };
        Message::from_parts(position, aggregate.subject("a"), noon, headers, bytes::Bytes::new())
    }

    #[test]
    fn a_timer_is_held_for_as_long_as_it_was_recorded_early_and_nothing_else_is() {
        for (millis, held) in [(-60_000, 0), (0, 0), (1, 1), (349, 349), (350, 350), (3_600_000, 350)] {
            let early = message(Aggregate::Timer, millis).early();
            assert_eq!(early, Duration::from_millis(held), "{millis}");
            assert!(message(Aggregate::Process, millis).early().is_zero());
        }
    }

    #[test]
    fn a_timer_that_is_delivered_again_is_due_and_not_held_once_more() {
        let mut again = message(Aggregate::Timer, 350);
        again.again = true;
        assert_eq!(again.early(), Duration::ZERO);
    }
}
