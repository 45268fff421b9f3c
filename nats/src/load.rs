//! Loading one aggregate: its last message says where its earlier events stand, so that one more round trip of
//! pipelined gets fetches them, however long the history and however far apart they lie.
//!
//! A get by subject has to search block by block between two events of an aggregate (1.5 to 40 ms, measured); it is
//! the repair path, for when a tail or a snapshot is missing.

use crate::{Connection, Message, Snapshot, message::MessageError, publish::TAIL, snapshot};
use async_nats::StatusCode;
use bytes::Bytes;
use events::Subject;
use futures::{
    StreamExt,
    future::{join, join_all},
};
use std::time::Duration;

/// Longest tail that is written. Beyond it snapshots have failed for long, and loads take the repair path.
const LONGEST_TAIL: usize = 128;
/// Messages per answer of the repair path: answers are not flow-controlled.
const REPAIR_BATCH: usize = 256;
/// Bytes per answer of the repair path. The server cuts off a client that is 64 MiB behind, which is also what it would
/// send at once if it was not told less.
const REPAIR_BYTES: usize = 4 << 20;

/// Why an aggregate cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The stream cannot be read now; trying again may help.
    #[error("cannot read {subject}: {detail}")]
    Unavailable {
        /// The aggregate.
        subject: Subject,
        /// What the client says.
        detail: String,
    },
    /// A message of the aggregate is no event.
    #[error("a message of {subject} is no event")]
    Foreign {
        /// The aggregate.
        subject: Subject,
        /// Why.
        source: MessageError,
    },
}

/// Where an aggregate's events since its last snapshot stand. Carried by every event in the header `Waybill-Tail`:
/// `<snapshot>;<sequence>,…,-<distance>,…`, distances within the same append, whose sequences nobody knows before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tail {
    /// Sequence of the last event in the snapshot, 0 where there is none.
    pub snapshot: u64,
    /// Sequences of the events since, oldest first.
    pub since: Vec<u64>,
    /// Whether earlier events are unknown.
    pub broken: bool,
}

impl Tail {
    /// The header for an event of the aggregate, where events of the same append stand `distances` before it
    /// (largest first). `None` for an aggregate's first event.
    pub fn header(&self, distances: &[usize]) -> Option<String> {
        use std::fmt::Write;
        if self.broken || self.since.len() + distances.len() > LONGEST_TAIL {
            return Some("?".to_owned());
        }
        if self.snapshot == 0 && self.since.is_empty() && distances.is_empty() {
            return None;
        }
        let mut text = format!("{};", self.snapshot);
        let mut separator = "";
        for sequence in &self.since {
            // Writing to a String cannot fail.
            let _ = write!(text, "{separator}{sequence}");
            separator = ",";
        }
        for distance in distances {
            let _ = write!(text, "{separator}-{distance}");
            separator = ",";
        }
        Some(text)
    }

    /// Reads the header of the message at `sequence`; broken where it cannot be read.
    pub fn parse(header: Option<&str>, version: Option<&str>, sequence: u64) -> Self {
        let broken = Self { broken: true, ..Self::default() };
        let Some(header) = header else {
            return if version == Some("1") { Self::default() } else { broken };
        };
        let parsed = header.split_once(';').and_then(|(snapshot, since)| {
            let absolute = |text: &str| match text.strip_prefix('-') {
                Some(distance) => sequence.checked_sub(distance.parse().ok()?),
                None => text.parse().ok(),
            };
            let since =
                since.split(',').filter(|text| !text.is_empty()).map(absolute).collect::<Option<_>>()?;
            Some(Self { snapshot: snapshot.parse().ok()?, since, broken: false })
        });
        parsed.unwrap_or(broken)
    }

    /// Counts an event in.
    pub fn push(&mut self, sequence: u64) {
        self.since.push(sequence);
    }

    /// Counts a snapshot in: earlier events need not be found any more.
    pub fn rebase(&mut self, snapshot: u64) {
        self.since.retain(|sequence| *sequence > snapshot);
        self.snapshot = snapshot;
        self.broken = false;
    }
}

/// What is recorded of one aggregate.
#[derive(Debug, Default)]
pub struct History {
    /// Its state at some sequence, if a snapshot of the wanted shape was found.
    pub snapshot: Option<Snapshot>,
    /// Its events since, oldest first.
    pub messages: Vec<Message>,
    /// Sequence of its last event; 0 where there is none.
    pub last: u64,
    /// Where its events stand, for the next one's header.
    pub tail: Tail,
}

pub(crate) struct Loader<'a> {
    pub(crate) connection: &'a Connection,
    pub(crate) subject: &'a Subject,
    pub(crate) timeout: Duration,
}

impl Loader<'_> {
    /// Loads; answers also whether the repair path was taken.
    pub(crate) async fn load(&self, schema: &str) -> Result<(History, bool), LoadError> {
        let Some(last) = self.get(Get::Last).await? else { return Ok((History::default(), false)) };
        let sequence = last.position.sequence;
        let version = last.header(events::envelope::header::SEQUENCE);
        let tail = Tail::parse(last.header(TAIL), version, sequence);
        let (snapshot, earlier) = join(self.snapshot(&tail, schema), self.earlier(&tail)).await;
        let mut messages = earlier?;
        let covered = snapshot.as_ref().map_or(0, |snapshot| snapshot.sequence);
        if tail.broken || covered < tail.snapshot || messages.len() < tail.since.len() {
            return Ok((self.repair(snapshot).await?, true));
        }
        messages.push(last);
        messages.retain(|message| message.position.sequence > covered);
        let mut tail = Tail { since: tail.since, ..tail };
        tail.push(sequence);
        Ok((History { snapshot, messages, last: sequence, tail }, false))
    }

    /// The aggregate's last message.
    pub(crate) async fn last(&self) -> Result<Option<Message>, LoadError> {
        self.get(Get::Last).await
    }

    /// The aggregate's message at this sequence.
    pub(crate) async fn at(&self, sequence: u64) -> Result<Option<Message>, LoadError> {
        let found = self.get(Get::Sequence(sequence)).await?;
        Ok(found.filter(|message| message.subject == *self.subject))
    }

    async fn snapshot(&self, tail: &Tail, schema: &str) -> Option<Snapshot> {
        if tail.snapshot == 0 && !tail.broken {
            return None;
        }
        snapshot::read(self.connection, self.subject, self.timeout)
            .await
            .filter(|snapshot| snapshot.schema == schema)
    }

    async fn earlier(&self, tail: &Tail) -> Result<Vec<Message>, LoadError> {
        let gets = tail.since.iter().map(|sequence| self.get(Get::Sequence(*sequence)));
        let found: Vec<Option<Message>> = join_all(gets).await.into_iter().collect::<Result<_, _>>()?;
        Ok(found.into_iter().flatten().filter(|message| message.subject == *self.subject).collect())
    }

    /// Everything behind the snapshot, by subject.
    async fn repair(&self, snapshot: Option<Snapshot>) -> Result<History, LoadError> {
        let covered = snapshot.as_ref().map_or(0, |snapshot| snapshot.sequence);
        let messages = self.by_subject(covered + 1).await?;
        let last = messages.last().map_or(covered, |message| message.position.sequence);
        let since = messages.iter().map(|message| message.position.sequence).collect();
        Ok(History { snapshot, messages, last, tail: Tail { snapshot: covered, since, broken: false } })
    }

    /// The aggregate's messages from `start` on.
    pub(crate) async fn by_subject(&self, mut start: u64) -> Result<Vec<Message>, LoadError> {
        let mut messages = Vec::new();
        loop {
            // The server ends an answer early when it grows too large in bytes.
            if self.page(start, &mut messages).await? == 0 {
                return Ok(messages);
            }
            start = messages.last().map_or(start, |message: &Message| message.position.sequence + 1);
        }
    }

    /// Some more of them; how many are left.
    async fn page(&self, start: u64, messages: &mut Vec<Message>) -> Result<u64, LoadError> {
        let unavailable = |detail: String| LoadError::Unavailable { subject: self.subject.clone(), detail };
        let client = &self.connection.client;
        let inbox = client.new_inbox();
        let mut answers =
            client.subscribe(inbox.clone()).await.map_err(|error| unavailable(error.to_string()))?;
        let body = format!(
            r#"{{"seq":{start},"next_by_subj":"{}","batch":{REPAIR_BATCH},"max_bytes":{REPAIR_BYTES}}}"#,
            self.subject
        );
        let api = self.connection.api(format_args!("DIRECT.GET.{}", self.subject.context().stream()));
        let sent = client.publish_with_reply(api, inbox, body.into()).await;
        sent.map_err(|error| unavailable(error.to_string()))?;
        loop {
            let next = tokio::time::timeout(self.timeout, answers.next()).await;
            let answer = next.map_err(|_| unavailable("no answer in time".to_owned()))?;
            let answer = answer.ok_or_else(|| unavailable("the subscription ended".to_owned()))?;
            match answer.status {
                None => messages.push(self.message(answer)?),
                // The end of the batch.
                Some(status) if status.as_u16() == 204 => {
                    let left = answer.headers.as_ref().and_then(|headers| headers.get("Nats-Num-Pending"));
                    return left
                        .and_then(|left| left.as_str().parse().ok())
                        .ok_or_else(|| unavailable("the server does not say what is left".to_owned()));
                }
                Some(StatusCode::NOT_FOUND) => return Ok(0),
                Some(status) => return Err(unavailable(format!("the server answers {status}"))),
            }
        }
    }

    async fn get(&self, get: Get) -> Result<Option<Message>, LoadError> {
        let unavailable = |detail: String| LoadError::Unavailable { subject: self.subject.clone(), detail };
        let stream = self.subject.context().stream();
        let (api, body) = match get {
            Get::Last => (format!("DIRECT.GET.{stream}.{}", self.subject), Bytes::new()),
            Get::Sequence(sequence) => {
                (format!("DIRECT.GET.{stream}"), format!(r#"{{"seq":{sequence}}}"#).into())
            }
        };
        let api = self.connection.api(api);
        let request = async_nats::Request::new().payload(body);
        let answer = self.connection.ask(api, request, self.timeout).await;
        let answer = answer.map_err(|error| unavailable(error.to_string()))?;
        match answer.status {
            None => self.message(answer).map(Some),
            Some(StatusCode::NOT_FOUND) => Ok(None),
            Some(status) => Err(unavailable(format!("the server answers {status}"))),
        }
    }

    fn message(&self, answer: async_nats::Message) -> Result<Message, LoadError> {
        let foreign = |source| LoadError::Foreign { subject: self.subject.clone(), source };
        Message::direct(answer).map_err(foreign)
    }
}

enum Get {
    Last,
    Sequence(u64),
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_first_event_needs_no_tail() {
        assert_eq!(Tail::default().header(&[]), None);
        assert_eq!(Tail::parse(None, Some("1"), 9), Tail::default());
        assert!(Tail::parse(None, Some("2"), 9).broken, "a later event without one is repaired");
    }

    #[test]
    fn what_cannot_be_read_is_repaired() {
        for header in ["?", "", "1", "x;1", "1;x", "1;-99"] {
            assert!(Tail::parse(Some(header), Some("5"), 9).broken, "{header}");
        }
        let long = Tail { since: vec![1; LONGEST_TAIL + 1], ..Tail::default() };
        assert_eq!(long.header(&[]).as_deref(), Some("?"));
    }

    proptest! {
        #[test]
        fn a_tail_reads_back(snapshot in 0_u64..50, since in prop::collection::vec(51_u64..1000, 0..20), own in 0_usize..5) {
            let tail = Tail { snapshot, since, broken: false };
            let distances: Vec<usize> = (1..=own).rev().collect();
            let read = Tail::parse(tail.header(&distances).as_deref(), Some("1"), 2000);
            let mut expected = tail;
            expected.since.extend(distances.iter().map(|distance| 2000 - *distance as u64));
            prop_assert_eq!(read, expected);
        }
    }
}
