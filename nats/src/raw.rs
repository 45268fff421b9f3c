//! Messages of a stream as they stand, whatever they are: for checks of the log and for copies of it.
//!
//! Read page by page with direct gets, which leave nothing behind on the server and see timers and buckets too. The next
//! page is on its way while one is worked on.

use crate::{Connection, Message, MessageError};
use async_nats::{HeaderMap, HeaderName, HeaderValue, StatusCode, jetstream::stream::RawMessageErrorKind};
use bytes::Bytes;
use events::{Context, Position, Subject};
use futures::StreamExt;
use jiff::Timestamp;
use std::{fmt, str::FromStr, time::Duration};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

/// Messages of a page at most, and bytes: answers are not flow-controlled.
const PAGE: usize = 500;
const PAGE_BYTES: usize = 4 << 20;
/// Pages read ahead.
const AHEAD: usize = 2;
const TIMEOUT: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_millis(200);
/// How often a page is asked for, before the reading fails.
const TRIES: u32 = 50;

/// What the server adds to the headers of a message that it is asked for.
const OF_THE_ANSWER: [&str; 7] = [
    "Nats-Stream",
    "Nats-Subject",
    "Nats-Sequence",
    "Nats-Time-Stamp",
    "Nats-Num-Pending",
    "Nats-Last-Sequence",
    "Nats-UpTo-Sequence",
];

/// A message as it stands in a stream.
#[derive(Clone, PartialEq, Eq)]
pub struct Raw {
    /// Its place in the stream.
    pub sequence: u64,
    /// Where it was published.
    pub subject: String,
    /// When the server stored it.
    pub stored: Timestamp,
    headers: HeaderMap,
    body: Bytes,
}

/// Why a stream cannot be read as it stands.
#[derive(Debug, thiserror::Error)]
#[error("cannot read stream {stream} at {sequence}: {detail}")]
pub struct RawError {
    /// Which stream.
    pub stream: String,
    /// From where on.
    pub sequence: u64,
    /// What is in the way.
    pub detail: String,
}

impl Raw {
    /// A message as it stood in a stream once. `None` where a header could be none.
    pub fn new(
        sequence: u64,
        subject: String,
        stored: Timestamp,
        headers: &[(String, String)],
        body: Bytes,
    ) -> Option<Self> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let (name, value) = (HeaderName::from_str(name).ok()?, HeaderValue::from_str(value).ok()?);
            map.append(name, value);
        }
        Some(Self { sequence, subject, stored, headers: map, body })
    }

    /// Its headers, sorted by name: the client keeps no order.
    pub fn headers(&self) -> Vec<(&str, &str)> {
        let all = self.headers.iter();
        let mut all: Vec<(&str, &str)> = all
            .flat_map(|(name, values)| {
                values.iter().map(move |value| (AsRef::<str>::as_ref(name), value.as_str()))
            })
            .filter(|(name, _)| !OF_THE_ANSWER.contains(name))
            .collect();
        all.sort_by_key(|(name, _)| *name);
        all
    }

    /// The first value of a header, if it is there.
    pub fn header(&self, name: &'static str) -> Option<&str> {
        self.headers.get(HeaderName::from_static(name)).map(HeaderValue::as_str)
    }

    /// Its body.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The event that it is.
    pub fn into_event(self) -> Result<Message, MessageError> {
        let subject = Subject::parse(&self.subject).ok_or_else(MessageError::subject)?;
        let position = Position { context: subject.context(), sequence: self.sequence };
        Ok(Message::from_parts(position, subject, self.stored, self.headers, self.body))
    }

    pub(crate) fn into_parts(self) -> (String, HeaderMap, Bytes) {
        (self.subject, self.headers, self.body)
    }

    /// From the answer to a direct get.
    fn direct(message: async_nats::Message) -> Option<Self> {
        let headers = message.headers?;
        let get =
            |name: &'static str| headers.get_last(HeaderName::from_static(name)).map(HeaderValue::as_str);
        let (sequence, stored) = (get("Nats-Sequence")?.parse().ok()?, get("Nats-Time-Stamp")?.parse().ok()?);
        let subject = get("Nats-Subject")?.to_owned();
        Some(Self { sequence, subject, stored, headers, body: message.payload })
    }
}

impl fmt::Debug for Raw {
    // The body may hold personal data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.subject, self.sequence)
    }
}

/// What a stream holds.
#[derive(Clone, Debug)]
pub struct StreamState {
    /// Sequence of its first message.
    pub first: u64,
    /// Sequence of its last message, also of one that is gone.
    pub last: u64,
    /// Messages in it.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
    /// When the last one was stored; the start of time for an empty stream.
    pub stored: Timestamp,
    /// Its configuration, as the server has it.
    pub config: serde_json::Value,
}

/// What the stream of a context holds; `None` where there is no such stream.
pub async fn state(connection: &Connection, context: Context) -> Result<Option<StreamState>, RawError> {
    let stream = match connection.jetstream.get_stream(context.stream()).await {
        Ok(stream) => stream,
        Err(error) if crate::topology::is_missing(&error) => return Ok(None),
        Err(error) => return Err(failed(context.stream(), 0, error)),
    };
    let info = stream.cached_info();
    let stored = Timestamp::from_nanosecond(info.state.last_timestamp.unix_timestamp_nanos());
    Ok(Some(StreamState {
        first: info.state.first_sequence,
        last: info.state.last_sequence,
        messages: info.state.messages,
        bytes: info.state.bytes,
        stored: stored.unwrap_or(Timestamp::UNIX_EPOCH),
        config: serde_json::to_value(&info.config).map_err(|error| failed(context.stream(), 0, error))?,
    }))
}

fn failed(stream: &str, sequence: u64, error: impl fmt::Display) -> RawError {
    RawError { stream: stream.to_owned(), sequence, detail: error.to_string() }
}

/// Reads one stream as it stands, from a sequence up to another.
pub struct RawReader {
    pages: mpsc::Receiver<Result<Vec<Raw>, RawError>>,
    _task: AbortOnDropHandle<()>,
}

impl RawReader {
    /// Reads the stream of a context from `from` up to and with `until`; of these, where it is named, one subject only, which
    /// may have a `*` or `>`.
    pub fn open(
        connection: &Connection,
        context: Context,
        from: u64,
        until: u64,
        subject: Option<String>,
    ) -> Self {
        let source = Source { connection: connection.clone(), stream: context.stream(), subject };
        let (sender, pages) = mpsc::channel(AHEAD);
        let task = tokio::spawn(source.run(from.max(1), until, sender));
        Self { pages, _task: AbortOnDropHandle::new(task) }
    }

    /// The next messages; none at the end. Losses of the connection are repaired for some seconds.
    pub async fn next_page(&mut self) -> Result<Vec<Raw>, RawError> {
        self.pages.recv().await.unwrap_or_else(|| Ok(Vec::new()))
    }
}

struct Source {
    connection: Connection,
    stream: &'static str,
    subject: Option<String>,
}

impl Source {
    async fn run(self, mut from: u64, until: u64, pages: mpsc::Sender<Result<Vec<Raw>, RawError>>) {
        let mut tries = 0;
        while from <= until {
            let mut page = match self.page(from).await {
                Ok(page) => page,
                Err(error) if tries == TRIES => {
                    // Nobody listens where this fails.
                    let _ = pages.send(Err(error)).await;
                    return;
                }
                Err(error) => {
                    tracing::warn!(%error, "reading again");
                    tokio::time::sleep(RETRY).await;
                    tries += 1;
                    continue;
                }
            };
            tries = 0;
            let Some(last) = page.last().map(|raw| raw.sequence) else { return };
            page.retain(|raw| raw.sequence <= until);
            from = last + 1;
            if page.is_empty() || pages.send(Ok(page)).await.is_err() {
                return;
            }
        }
    }

    /// Messages from `from` on; none where there are none any more.
    async fn page(&self, from: u64) -> Result<Vec<Raw>, RawError> {
        let failed = |detail: &str| failed(self.stream, from, detail);
        let client = &self.connection.client;
        let inbox = client.new_inbox();
        let mut answers =
            client.subscribe(inbox.clone()).await.map_err(|error| failed(&error.to_string()))?;
        let body = serde_json::json!({
            "seq": from, "next_by_subj": self.subject.as_deref().unwrap_or(">"), "batch": PAGE, "max_bytes": PAGE_BYTES,
        });
        let api = self.connection.api(format_args!("DIRECT.GET.{}", self.stream));
        let sent = client.publish_with_reply(api, inbox, body.to_string().into()).await;
        sent.map_err(|error| failed(&error.to_string()))?;
        let mut page = Vec::with_capacity(PAGE);
        loop {
            let answer = tokio::time::timeout(TIMEOUT, answers.next()).await;
            let answer = answer.map_err(|_| failed("no answer in time"))?;
            let answer = answer.ok_or_else(|| failed("the subscription ended"))?;
            match answer.status {
                None => page.push(Raw::direct(answer).ok_or_else(|| failed("an answer is no message"))?),
                Some(status) if status.as_u16() == 204 => return Ok(page),
                Some(StatusCode::NOT_FOUND) if self.is_end(from).await? => return Ok(page),
                Some(StatusCode::NOT_FOUND) => return Err(failed("a copy of the stream is behind")),
                Some(status) => return Err(failed(&format!("the server answers {status}"))),
            }
        }
    }

    /// Whether nothing stands there and behind. The leader is asked: whoever answers direct gets may be a copy that is behind.
    async fn is_end(&self, from: u64) -> Result<bool, RawError> {
        let failed = |error: String| failed(self.stream, from, error);
        let stream = self.connection.jetstream.get_stream_no_info(self.stream).await;
        let stream = stream.map_err(|error| failed(error.to_string()))?;
        let subject = self.subject.as_deref().unwrap_or(">");
        match stream.get_first_raw_message_by_subject(subject, from).await {
            Ok(_) => Ok(false),
            Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(true),
            Err(error) => Err(failed(error.to_string())),
        }
    }
}
