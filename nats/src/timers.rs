//! Timers: messages that nats-server keeps and records as facts when their time has come (ADR-51 of NATS).
//!
//! A timer stands on a subject of its own, in the stream of the facts that it belongs to, so that arming and cancelling it
//! is part of the same atomic batch. A timer that is armed again replaces the one before. When it is due, the server
//! takes it away and records the fact it carries: late when the server was away, never early. The clock is the server's.

use crate::Write;
use async_nats::header::{NATS_SCHEDULE, NATS_SCHEDULE_NEXT, NATS_SCHEDULE_TARGET, NATS_SCHEDULER};
use events::{Envelope, Subject, envelope::header::MSG_ID};
use jiff::Timestamp;

/// What the server is to do with the timer that a fact cancels.
const PURGE: &str = "purge";

impl Write {
    /// A timer that stands at the subject `timer` until `at`, and is then recorded as an event of `subject`. It goes
    /// behind the events of the same append.
    pub fn timer(subject: &Subject, timer: &str, at: Timestamp, envelope: &Envelope, body: Vec<u8>) -> Self {
        // The id would reach the fired message too, which the server would take for a repetition.
        let wanted = |name: &str| name != MSG_ID;
        let mut write = Self::told_by(subject, None, envelope, None, body, wanted);
        write.put(NATS_SCHEDULE, format!("@at {at}").as_str());
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
