//! The change feed of a read model: rows as they are after their last change, told by whoever writes the tables, and
//! followed by whoever serves clients.
//!
//! A stream in memory holds the last value of each row, for as long as its retention: it can be lost, and then begins
//! anew. Whoever tells does so in atomic batches that name the last sequence he has seen, so that of several only one
//! goes on, and nobody tells something old after something new (ADR 23).

mod tail;

use crate::{
    Connection, TopologyError,
    publish::{self, Answer},
    topology,
};
use async_nats::{
    HeaderMap, HeaderValue,
    header::{NATS_BATCH_COMMIT, NATS_BATCH_ID, NATS_BATCH_SEQUENCE, NATS_EXPECTED_LAST_SEQUENCE},
    jetstream::stream::{Config, DiscardPolicy, LastRawMessageErrorKind, StorageType},
};
use bytes::Bytes;
use events::feed;
use service::crash_point;
use std::time::Duration;
pub use tail::{FeedNews, FeedTail, Told};

/// What a feed keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeedOptions {
    /// How long a changed row is kept: so long a client may be away and go on where it was.
    pub retention: Duration,
    /// Bytes kept at most. A feed that is full begins anew.
    pub most_bytes: u32,
    /// Copies: 1 on one machine, 3 on a cluster.
    pub replicas: usize,
}

impl Default for FeedOptions {
    fn default() -> Self {
        Self { retention: Duration::from_mins(5), most_bytes: 256 * 1024 * 1024, replicas: 1 }
    }
}

/// The feed of one service. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ChangeFeed {
    connection: Connection,
    service: &'static str,
    options: FeedOptions,
}

/// How far a feed is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedHead {
    /// Up to where everything was told, as its last mark says it; `None` where nothing was ever told.
    pub position: Option<String>,
    /// Sequence of the mark that it began with.
    pub begins: u64,
    /// Its last sequence.
    last: u64,
}

/// A row to tell.
#[derive(Clone, Debug)]
pub struct FeedRow {
    /// Its subject.
    pub subject: String,
    /// The row as JSON; `None` where it is gone.
    pub body: Option<Bytes>,
}

/// Why nothing was told, or nobody knows. Reading the head again tells.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// Somebody else has told something meanwhile.
    #[error("somebody else has told something meanwhile")]
    Overtaken,
    /// There is no room left.
    #[error("the feed is full")]
    Full,
    /// The stream cannot be reached.
    #[error("the feed cannot be reached")]
    Away(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Messages of one batch at most; the server takes 1000.
const BATCH: usize = 500;
const TIMEOUT: Duration = Duration::from_secs(5);
/// What the server answers where `max_bytes` would be exceeded.
const STORE_FAILED: u64 = 10077;

impl ChangeFeed {
    /// Opens the feed of a service, whose stream is created where it is missing.
    pub async fn open(
        connection: &Connection,
        service: &'static str,
        options: FeedOptions,
    ) -> Result<Self, TopologyError> {
        let feed = Self { connection: connection.clone(), service, options };
        topology::ensure_feed(connection, feed.config()).await?;
        Ok(feed)
    }

    /// The stream, as it has to be.
    fn config(&self) -> Config {
        Config {
            name: feed::stream(self.service),
            description: Some(format!("Changed rows of {}; disposable", self.service)),
            subjects: vec![feed::mark(self.service), feed::filter(self.service)],
            storage: StorageType::Memory,
            num_replicas: self.options.replicas,
            max_age: self.options.retention,
            max_bytes: self.options.most_bytes.into(),
            max_messages_per_subject: 1,
            // What is dropped without a word could not be told from what never was: it is refused, and begins anew.
            discard: DiscardPolicy::New,
            // The mark stays whatever its age.
            allow_message_ttl: true,
            allow_atomic_publish: true,
            allow_direct: true,
            ..Config::default()
        }
    }

    /// The service.
    pub fn service(&self) -> &'static str {
        self.service
    }

    /// How long a changed row is kept.
    pub fn retention(&self) -> Duration {
        self.options.retention
    }

    /// Resolves when the connection was made anew: what the server kept in memory may be gone.
    pub async fn connected_anew(&self) {
        let mut connected = self.connection.connected.clone();
        connected.mark_unchanged();
        if connected.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// How far the feed is. A stream that is gone is created again.
    pub async fn head(&self) -> Result<FeedHead, FeedError> {
        let stream = topology::ensure_feed(&self.connection, self.config()).await.map_err(away)?;
        let last = stream.cached_info().state.last_sequence;
        match stream.get_last_raw_message_by_subject(&feed::mark(self.service)).await {
            Ok(mark) => {
                let header = |name: &'static str| mark.headers.get(name).map(HeaderValue::as_str);
                let begins = header(feed::BEGINS).and_then(|text| text.parse().ok()).unwrap_or(mark.sequence);
                let position = header(feed::POSITION).map(str::to_owned);
                Ok(FeedHead { position, begins, last: last.max(mark.sequence) })
            }
            Err(error) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => {
                Ok(FeedHead { position: None, begins: last + 1, last })
            }
            Err(error) => Err(away(error)),
        }
    }

    /// Tells rows, and that with them everything up to `position` is told. Where it fails some of the rows may be told,
    /// the mark is not.
    pub async fn tell(
        &self,
        head: &FeedHead,
        rows: Vec<FeedRow>,
        position: &str,
    ) -> Result<FeedHead, FeedError> {
        crash_point("feed.before", self.service);
        let mut messages: Vec<_> = rows.into_iter().map(|row| Self::message(row, position)).collect();
        messages.push(self.mark(head.begins, position));
        let mut last = head.last;
        while !messages.is_empty() {
            let later = messages.split_off(BATCH.min(messages.len()));
            last = self.publish(std::mem::replace(&mut messages, later), last).await?;
        }
        crash_point("feed.after", self.service);
        Ok(FeedHead { position: Some(position.to_owned()), begins: head.begins, last })
    }

    /// Forgets what was told, and begins at `position`: followers have to look at the tables again.
    pub async fn begin(&self, head: &FeedHead, position: &str) -> Result<FeedHead, FeedError> {
        if head.last > 0 {
            let stream = self.connection.jetstream.get_stream_no_info(feed::stream(self.service)).await;
            stream.map_err(away)?.purge().await.map_err(away)?;
        }
        let begins = head.last + 1;
        let last = self.publish(vec![self.mark(begins, position)], head.last).await?;
        Ok(FeedHead { position: Some(position.to_owned()), begins, last })
    }

    /// Follows the feed, from the oldest change that is kept.
    pub fn tail(&self) -> FeedTail {
        FeedTail::new(self.clone())
    }

    fn message(row: FeedRow, position: &str) -> (String, HeaderMap, Bytes) {
        let mut headers = HeaderMap::new();
        headers.insert(feed::POSITION, position);
        if row.body.is_none() {
            headers.insert(feed::GONE, "true");
        }
        (row.subject, headers, row.body.unwrap_or_default())
    }

    fn mark(&self, begins: u64, position: &str) -> (String, HeaderMap, Bytes) {
        let mut headers = HeaderMap::new();
        headers.insert(feed::POSITION, position);
        headers.insert(feed::BEGINS, HeaderValue::from(begins));
        headers.insert("Nats-TTL", "never");
        (feed::mark(self.service), headers, Bytes::new())
    }

    /// All of them or none, and only right behind `last`; the sequence of the last one.
    async fn publish(
        &self,
        mut messages: Vec<(String, HeaderMap, Bytes)>,
        last: u64,
    ) -> Result<u64, FeedError> {
        let Some((_, headers, _)) = messages.first_mut() else { return Ok(last) };
        headers.insert(NATS_EXPECTED_LAST_SEQUENCE, HeaderValue::from(last));
        let sent = self.send(messages);
        tokio::time::timeout(TIMEOUT, sent).await.unwrap_or_else(|_| Err(away("no answer")))
    }

    async fn send(&self, messages: Vec<(String, HeaderMap, Bytes)>) -> Result<u64, FeedError> {
        let client = &self.connection.client;
        let (id, count) = (client.new_inbox(), messages.len());
        for (place, (subject, mut headers, body)) in (1..).zip(messages) {
            if count > 1 {
                headers.insert(NATS_BATCH_ID, id.as_str());
                headers.insert(NATS_BATCH_SEQUENCE, HeaderValue::from(place));
            }
            if place < count {
                // Without a reply subject: the answer to the last message speaks for all.
                client.publish_with_headers(subject, headers, body).await.map_err(away)?;
                continue;
            }
            if count > 1 {
                headers.insert(NATS_BATCH_COMMIT, "1");
            }
            let request = async_nats::Request::new().headers(headers).payload(body);
            let reply = self.connection.ask(subject, request, TIMEOUT).await;
            if reply.as_ref().is_ok_and(|reply| publish::error_code(&reply.payload) == Some(STORE_FAILED)) {
                return Err(FeedError::Full);
            }
            return match publish::answer(reply) {
                Answer::Stored { last, .. } => Ok(last),
                Answer::Conflict => Err(FeedError::Overtaken),
                Answer::Failed(error) => Err(away(error)),
                Answer::Repeated | Answer::Silence => Err(away("no answer")),
            };
        }
        Err(away("nothing to tell"))
    }
}

fn away(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> FeedError {
    FeedError::Away(source.into())
}
