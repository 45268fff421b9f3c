//! What goes over the wire to append: a plain publish, or an atomic batch (ADR-50 of NATS). Every outcome told apart.

use crate::Connection;
use async_nats::{HeaderMap, HeaderName, HeaderValue, RequestErrorKind};
use bytes::Bytes;
use events::{Envelope, EventId, Subject, envelope::header};
use serde::Deserialize;
use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

/// One message to append.
#[derive(Clone, Debug)]
pub struct Write {
    subject: Subject,
    /// Where it stands instead, where it is a timer that will be an event.
    timer: Option<Arc<str>>,
    headers: HeaderMap,
    body: Bytes,
    /// Bytes of headers and body, for the server's limit.
    size: usize,
    id: EventId,
    /// Sequence that the subject's last message must have, where the server checks it for this one.
    expect: Option<u64>,
}

impl Write {
    /// An event of the aggregate at `subject`. `expect` is the sequence of the aggregate's last message, 0 where there
    /// is none; `None` only behind another message of the same subject in the same append, for the server checks a
    /// subject once per batch. `tail` says where the aggregate's earlier events stand.
    pub fn new(
        subject: &Subject,
        expect: Option<u64>,
        envelope: &Envelope,
        tail: Option<String>,
        body: Vec<u8>,
    ) -> Self {
        Self::told_by(subject, expect, envelope, tail, body, |_| true)
    }

    /// The same, with those of the envelope's headers that are wanted.
    pub(crate) fn told_by(
        subject: &Subject,
        expect: Option<u64>,
        envelope: &Envelope,
        tail: Option<String>,
        body: Vec<u8>,
        wanted: impl Fn(&str) -> bool,
    ) -> Self {
        let mut headers = ROOM.clone();
        let mut size = HEADER_OVERHEAD + BATCH_HEADERS + body.len();
        let mut put = |name: &'static str, value: String| {
            if !wanted(name) {
                return;
            }
            size += name.len() + value.len() + 4;
            headers.insert(HeaderName::from_static(name), value);
        };
        envelope.write_headers(subject.context(), &mut put);
        if let Some(tail) = tail {
            put(TAIL, tail);
        }
        if let Some(expect) = expect {
            put(EXPECT, expect.to_string());
        }
        let (subject, body) = (subject.clone(), body.into());
        Self { subject, timer: None, headers, body, size, id: envelope.id, expect }
    }

    /// The aggregate.
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// The event.
    pub(crate) fn id(&self) -> EventId {
        self.id
    }

    /// Whether it is a timer, and an event only later.
    pub(crate) fn is_timer(&self) -> bool {
        self.timer.is_some()
    }

    pub(crate) fn stands_at(&mut self, timer: &str) {
        self.timer = Some(timer.into());
    }

    pub(crate) fn put(&mut self, name: HeaderName, value: impl Into<HeaderValue>) {
        let value = value.into();
        self.size += AsRef::<str>::as_ref(&name).len() + value.as_str().len() + 4;
        self.headers.insert(name, value);
    }

    /// Sequence that the subject's last message must have, where the server checks it for this one.
    pub(crate) fn expect(&self) -> Option<u64> {
        self.expect
    }
}

/// Every name that an event has, without values. A header map cannot be given room, and would grow four times while it
/// is filled, which costs more than filling it; a clone of this one has room for all. What is read from JSON may have
/// names without any value, which need no memory and are not sent where nobody fills them.
static ROOM: LazyLock<HeaderMap> = LazyLock::new(|| {
    let names = header::ALWAYS.into_iter().chain([header::TRACEPARENT, EXPECT, TAIL]);
    let empty: serde_json::Map<_, _> =
        names.map(|name| (name.to_owned(), serde_json::Value::Array(vec![]))).collect();
    // Were it refused, the map would only grow as it is filled.
    serde_json::from_value(empty.into()).unwrap_or_default()
});

/// The guard of a write: the sequence that the subject's last message must have.
pub(crate) const EXPECT: &str = "Nats-Expected-Last-Subject-Sequence";
/// Where the aggregate's earlier events stand; see [`crate::Tail`].
pub(crate) const TAIL: &str = "Waybill-Tail";

/// What an append did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Sequence of the first message; the others follow without a gap.
    pub first: u64,
    /// Whether it had been appended before, by an attempt whose answer was lost.
    pub duplicate: bool,
}

/// Why nothing was appended, or nobody knows.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AppendError {
    /// An aggregate has changed since it was loaded: load, decide and append again. Nothing was appended.
    #[error("an aggregate has changed since it was loaded")]
    Conflict,
    /// The stream cannot be reached. Nothing was appended.
    #[error("the stream cannot be reached: {0}")]
    Unavailable(String),
    /// The answer was lost and the stream cannot be asked: it may have been appended. The same command again gives
    /// the same events, so trying again is safe.
    #[error("the answer was lost and the stream cannot be asked whether it was appended")]
    Unknown,
    /// The message is larger than the server takes. Nothing was appended.
    #[error("{size} bytes are more than the {max} bytes the server takes")]
    TooLarge {
        /// Bytes of the message with its headers.
        size: usize,
        /// Bytes the server takes.
        max: usize,
    },
    /// The server refuses for another reason. Nothing was appended.
    #[error("the server refuses: {description} ({code})")]
    Refused {
        /// JetStream's error code.
        code: u64,
        /// JetStream's words.
        description: String,
    },
}

/// What the server said, or that it said nothing.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// Stored; the sequence of the last message.
    Stored { last: u64, duplicate: bool },
    /// A guard does not hold.
    Conflict,
    /// A message with this id was seen before, which rejects the batch: look whether it is ours.
    Repeated,
    /// No answer: stored or not.
    Silence,
    /// Not stored.
    Failed(AppendError),
}

#[derive(Deserialize)]
struct Ack {
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    duplicate: bool,
    error: Option<AckError>,
}

#[derive(Deserialize)]
struct AckError {
    /// Kind of failure, as in HTTP.
    #[serde(default)]
    code: u16,
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

const WRONG_LAST_SEQUENCE: u64 = 10071;
const WRITE_IN_FLIGHT: u64 = 10164;
const DUPLICATE_IN_FLIGHT: u64 = 10158;
const DUPLICATE_IN_BATCH: u64 = 10201;
/// Its beginning was sent to a server that has died since.
const BATCH_INCOMPLETE: u64 = 10176;
const TOO_MANY_BATCHES: u64 = 10210;
/// Its account has no room: nothing that it is sent would be taken, whatever it says, until there is. A server without room
/// says so with the kind 5xx (10047, 10023).
const NO_ROOM: u64 = 10002;
const TOO_LARGE: [u64; 2] = [10054, 10097];

/// Head of the header block and per-header separators, for the size check.
const HEADER_OVERHEAD: usize = 12;
/// Room for the batch headers.
const BATCH_HEADERS: usize = 128;

/// Checks sizes before anything is sent: the server would close the connection.
pub(crate) fn check_sizes(connection: &Connection, writes: &[Write]) -> Result<(), AppendError> {
    let max = connection.client.max_payload();
    match writes.iter().map(|write| write.size).max() {
        Some(size) if size > max => Err(AppendError::TooLarge { size, max }),
        _ => Ok(()),
    }
}

/// One message, one answer.
pub(crate) async fn single(connection: &Connection, write: Write, timeout: Duration) -> Answer {
    let to = to_subject(&write);
    let request = async_nats::Request::new().headers(write.headers).payload(write.body);
    answer(connection.ask(to, request, timeout).await)
}

/// Several messages, all or none, one answer. The guards are checked against the stream before the batch.
pub(crate) async fn batch<'a>(
    connection: &Connection,
    writes: impl ExactSizeIterator<Item = &'a Write>,
    timeout: Duration,
) -> Answer {
    // What has been sent of it when the time is up has no end, and the server drops it.
    let sent = send_batch(connection, writes, timeout);
    tokio::time::timeout(timeout, sent).await.unwrap_or(Answer::Silence)
}

async fn send_batch<'a>(
    connection: &Connection,
    writes: impl ExactSizeIterator<Item = &'a Write>,
    timeout: Duration,
) -> Answer {
    let id = connection.client.new_inbox();
    let count = writes.len();
    for (index, write) in writes.enumerate() {
        let mut headers = write.headers.clone();
        headers.insert(async_nats::header::NATS_BATCH_ID, id.as_str());
        headers.insert(async_nats::header::NATS_BATCH_SEQUENCE, HeaderValue::from(index + 1));
        let (subject, body) = (to_subject(write), write.body.clone());
        if index + 1 < count {
            // Without a reply subject: the answer to the last message speaks for all.
            if let Err(error) = connection.client.publish_with_headers(subject, headers, body).await {
                return Answer::Failed(AppendError::Unavailable(error.to_string()));
            }
            continue;
        }
        headers.insert(async_nats::header::NATS_BATCH_COMMIT, "1");
        let request = async_nats::Request::new().headers(headers).payload(body);
        return answer(connection.ask(subject, request, timeout).await);
    }
    Answer::Stored { last: 0, duplicate: false }
}

fn to_subject(write: &Write) -> async_nats::Subject {
    async_nats::Subject::from(write.timer.as_deref().unwrap_or(write.subject.as_str()))
}

/// The code of the error that an answer tells, if it tells one.
pub(crate) fn error_code(reply: &[u8]) -> Option<u64> {
    Some(serde_json::from_slice::<Ack>(reply).ok()?.error?.err_code)
}

/// What an answer says.
pub(crate) fn answer(reply: Result<async_nats::Message, async_nats::RequestError>) -> Answer {
    let message = match reply {
        Ok(message) => message,
        Err(error) => {
            return match error.kind() {
                // Nobody listens on the subject: no such stream, or no leader at this moment.
                RequestErrorKind::NoResponders => {
                    Answer::Failed(AppendError::Unavailable("no stream answers".to_owned()))
                }
                RequestErrorKind::TimedOut | RequestErrorKind::Other => Answer::Silence,
                kind => Answer::Failed(AppendError::Refused { code: 0, description: kind.to_string() }),
            };
        }
    };
    let Ok(ack) = serde_json::from_slice::<Ack>(&message.payload) else {
        return Answer::Silence;
    };
    match ack.error {
        None => Answer::Stored { last: ack.seq, duplicate: ack.duplicate },
        Some(error) => classify(error, message.payload.len()),
    }
}

fn classify(error: AckError, size: usize) -> Answer {
    match error.err_code {
        WRONG_LAST_SEQUENCE | WRITE_IN_FLIGHT => Answer::Conflict,
        DUPLICATE_IN_FLIGHT | DUPLICATE_IN_BATCH => Answer::Repeated,
        BATCH_INCOMPLETE | TOO_MANY_BATCHES | NO_ROOM => {
            Answer::Failed(AppendError::Unavailable(error.description))
        }
        code if TOO_LARGE.contains(&code) => Answer::Failed(AppendError::TooLarge { size, max: 0 }),
        // No quorum, a full disk, a stream that is just being moved: may pass.
        _ if error.code >= 500 => Answer::Failed(AppendError::Unavailable(error.description)),
        code => Answer::Failed(AppendError::Refused { code, description: error.description }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use events::{Actor, Aggregate, CommandId, FactType, Metadata};
    use jiff::Timestamp;
    use uuid::Uuid;

    fn said(code: u16, err_code: u64) -> Answer {
        classify(AckError { code, err_code, description: String::new() }, 7)
    }

    #[test]
    fn every_code_is_what_the_server_means_by_it() {
        for (code, err_code) in [(400, 10071), (400, 10164)] {
            assert!(matches!(said(code, err_code), Answer::Conflict), "{err_code}");
        }
        for (code, err_code) in [(409, 10158), (400, 10201)] {
            assert!(matches!(said(code, err_code), Answer::Repeated), "{err_code}");
        }
        // An account without room, though its kind is 4xx; a batch that is not whole, too many of them; and whatever is 5xx:
        // no room on the server, no leader, no place in the stream, and what nobody knows yet.
        for (code, err_code) in [
            (400, 10002),
            (400, 10176),
            (429, 10210),
            (500, 10047),
            (503, 10023),
            (503, 10008),
            (503, 10077),
            (500, 1),
        ] {
            let unavailable = matches!(said(code, err_code), Answer::Failed(AppendError::Unavailable(_)));
            assert!(unavailable, "{err_code}");
        }
        for (code, err_code) in [(400, 10054), (400, 10097)] {
            let too_large = said(code, err_code);
            assert!(
                matches!(too_large, Answer::Failed(AppendError::TooLarge { size: 7, .. })),
                "{err_code}: {too_large:?}"
            );
        }
        // A sealed stream, and what nobody knows yet.
        for (code, err_code) in [(400, 10109), (400, 1), (0, 2)] {
            let refused = said(code, err_code);
            assert!(
                matches!(refused, Answer::Failed(AppendError::Refused { code, .. }) if code == err_code),
                "{err_code}: {refused:?}"
            );
        }
    }

    /// The names come first without values: one that nobody fills does not go out.
    #[test]
    fn no_header_is_empty() {
        let command = CommandId::new(Uuid::from_u128(1));
        let (correlation, causation) = (command.uuid().into(), command.uuid());
        let from = Metadata { command, correlation, causation, actor: Actor::CLIENT, traceparent: None };
        let subject = Aggregate::Order.subject(Uuid::from_u128(2));
        let fact = &FactType::of(Aggregate::Order)[0];
        let envelope = Envelope::new(fact, &subject, 1, 0, Timestamp::UNIX_EPOCH, &from);
        for expect in [None, Some(0)] {
            let write = Write::new(&subject, expect, &envelope, None, vec![]);
            let values: Vec<_> = write.headers.iter().flat_map(|(_, values)| values).collect();
            assert_eq!(values.len(), header::ALWAYS.len() + usize::from(expect.is_some()));
            assert!(values.iter().all(|value| !value.as_str().is_empty()));
            assert!(write.headers.len() > values.len(), "there was room");
        }
    }
}
