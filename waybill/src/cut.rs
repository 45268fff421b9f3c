//! One moment of the whole log: what every stream held then.
//!
//! Streams are read one by one while all of them grow. An effect may be in one before its cause is looked for in another, so
//! the ends of the streams are no moment. The server's clock is one: everything stored up to the newest message that a first
//! look finds is complete, cause and effect. An atomic batch is in it as a whole.

use events::Context;
use jiff::Timestamp;
use nats::{
    Connection, Raw, RawError, RawReader,
    raw::{self, StreamState},
    restore::BATCH,
};
use std::{collections::VecDeque, ops::RangeInclusive};

/// A moment of the log.
#[derive(Debug)]
pub(crate) struct Cut {
    /// Everything stored up to here belongs to it.
    pub(crate) at: Timestamp,
    /// What the streams held a moment later; those that do not exist are left out.
    pub(crate) streams: Vec<(Context, StreamState)>,
}

impl Cut {
    /// This moment.
    pub(crate) async fn now(connection: &Connection, contexts: &[Context]) -> Result<Self, RawError> {
        let mut at = Timestamp::MIN;
        for &context in contexts {
            if let Some(state) = raw::state(connection, context).await?.filter(|state| state.last > 0) {
                at = at.max(state.stored);
            }
        }
        let mut streams = Vec::new();
        for &context in contexts {
            if let Some(state) = raw::state(connection, context).await? {
                streams.push((context, state));
            }
        }
        Ok(Self { at, streams })
    }
}

/// The atomic batch that a message was recorded with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Batch {
    /// Which one.
    pub(crate) id: String,
    /// The message's place in it, from 1.
    pub(crate) place: u64,
    /// Whether it is the last one.
    pub(crate) is_last: bool,
}

impl Batch {
    /// As the server says it, or the copy of a stream that was put back.
    pub(crate) fn of(raw: &Raw) -> Option<Self> {
        if let Some(id) = raw.header("Nats-Batch-Id") {
            let place = raw.header("Nats-Batch-Sequence")?.parse().ok()?;
            let is_last = raw.header("Nats-Batch-Commit").is_some();
            return Some(Self { id: id.to_owned(), place, is_last });
        }
        let mut parts = raw.header(BATCH)?.split(';');
        let (id, place) = (parts.next()?.to_owned(), parts.next()?.parse().ok()?);
        Some(Self { id, place, is_last: parts.next() == Some("1") })
    }
}

/// What one stream holds up to a cut, and later up to another.
pub(crate) struct Part {
    connection: Connection,
    pub(crate) context: Context,
    at: Timestamp,
    until: u64,
    /// What stands before it is read, or on its way.
    asked: u64,
    /// What stands before it was taken.
    next: u64,
    reader: Option<RawReader>,
    ahead: VecDeque<Raw>,
    batch: Option<Batch>,
}

impl Part {
    /// Nothing yet: to be extended to a cut.
    pub(crate) fn new(connection: &Connection, context: Context, from: u64) -> Self {
        Self {
            connection: connection.clone(),
            context,
            at: Timestamp::MIN,
            until: 0,
            asked: from,
            next: from,
            reader: None,
            ahead: VecDeque::new(),
            batch: None,
        }
    }

    /// Up to this cut from now on.
    pub(crate) fn extend(&mut self, cut: &Cut) {
        self.at = cut.at;
        let state = cut.streams.iter().find(|(context, _)| *context == self.context);
        self.until = state.map_or(self.until, |(_, state)| state.last);
    }

    /// When the next message was stored; `None` where there is none within the cut.
    pub(crate) async fn peek(&mut self) -> Result<Option<Timestamp>, RawError> {
        while self.ahead.is_empty() {
            if self.reader.is_none() {
                if self.asked > self.until {
                    return Ok(None);
                }
                self.reader =
                    Some(RawReader::open(&self.connection, self.context, self.asked, self.until, None));
                self.asked = self.until + 1;
            }
            let Some(reader) = &mut self.reader else { return Ok(None) };
            let page = reader.next_page().await?;
            if page.is_empty() {
                self.reader = None;
                continue;
            }
            self.ahead.extend(page);
        }
        let Some(next) = self.ahead.front() else { return Ok(None) };
        let within = next.stored <= self.at || self.is_rest_of_batch(next);
        Ok(within.then_some(next.stored))
    }

    fn is_rest_of_batch(&self, next: &Raw) -> bool {
        let Some(batch) = self.batch.as_ref().filter(|batch| !batch.is_last) else { return false };
        Batch::of(next).is_some_and(|next| next.id == batch.id)
    }

    /// The message that was looked at.
    pub(crate) fn take(&mut self) -> Option<Raw> {
        let raw = self.ahead.pop_front()?;
        self.next = raw.sequence + 1;
        self.batch = Batch::of(&raw);
        Some(raw)
    }

    /// Sequences at the end of the stream that hold nothing any more. To be asked when there is no next message.
    pub(crate) fn missing_at_end(&self) -> Option<RangeInclusive<u64>> {
        let is_end = self.ahead.is_empty() && self.reader.is_none() && self.asked > self.until;
        (is_end && self.next <= self.until).then_some(self.next..=self.until)
    }

    /// The next sequence.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }
}
