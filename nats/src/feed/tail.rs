//! Following a feed: what was changed, in order, without the rows themselves.

use super::{ChangeFeed, FeedError, away};
use crate::topology;
use async_nats::jetstream::{
    self,
    consumer::{AckPolicy, DeliverPolicy, pull},
};
use events::feed;
use futures::{FutureExt, StreamExt};
use jiff::Timestamp;
use std::time::Duration;
use tokio::sync::watch;

/// Something that a feed tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Its sequence.
    pub sequence: u64,
    /// When it was told.
    pub time: Timestamp,
    /// The tables contain this.
    pub position: String,
    /// What it is.
    pub news: FeedNews,
}

/// What a feed tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FeedNews {
    /// A row has changed, or is gone.
    Row {
        /// Its table.
        model: String,
        /// Its key.
        key: Vec<String>,
    },
    /// Everything up to the position was told, since the feed began at this sequence.
    Mark {
        /// Sequence of the mark that it began with.
        begins: u64,
    },
    /// The stream is another one than before: sequences begin anew.
    Anew,
}

/// Messages asked for at once.
const PULL: usize = 1000;
const HEARTBEAT: Duration = Duration::from_secs(5);

/// Follows a feed from the oldest change that is kept.
pub struct FeedTail {
    feed: ChangeFeed,
    /// When the stream was made: what tells it from another one of the same name.
    epoch: u64,
    /// Last sequence seen.
    seen: u64,
    source: Option<Source>,
}

struct Source {
    messages: pull::Stream,
    /// Deliveries of this consumer so far: its own numbering has no gaps unless a message was lost on the way.
    delivered: u64,
    connected: watch::Receiver<u64>,
}

impl FeedTail {
    pub(super) fn new(feed: ChangeFeed) -> Self {
        Self { feed, epoch: 0, seen: 0, source: None }
    }

    /// Tells the stream from another one of the same name; 0 before the first message was waited for.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Begins to follow where it does not yet. Says how much is waiting to be read.
    pub async fn connect(&mut self) -> Result<u64, FeedError> {
        let mut connected = self.feed.connection.connected.clone();
        connected.mark_unchanged();
        let stream = topology::ensure_feed(&self.feed.connection, self.feed.config()).await.map_err(away)?;
        let made = stream.cached_info().created.unix_timestamp_nanos() / 1000;
        let epoch = u64::try_from(made).unwrap_or_default();
        if epoch != self.epoch {
            (self.epoch, self.seen) = (epoch, 0);
        }
        let config = pull::Config {
            name: Some(self.feed.connection.passing_name()),
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: self.seen + 1 },
            ack_policy: AckPolicy::None,
            headers_only: true,
            inactive_threshold: Duration::from_mins(1),
            memory_storage: true,
            num_replicas: 1,
            ..pull::Config::default()
        };
        let consumer = stream.create_consumer(config).await.map_err(away)?;
        let pending = consumer.cached_info().num_pending;
        let messages = consumer.stream().max_messages_per_batch(PULL).heartbeat(HEARTBEAT);
        let messages = messages.messages().await.map_err(away)?;
        self.source = Some(Source { messages, delivered: 0, connected });
        Ok(pending)
    }

    /// Waits for something and gives what is ready, at most `most`. After an error the next call goes on where this was.
    /// Cancel safe.
    pub async fn next(&mut self, most: usize) -> Result<Vec<Told>, FeedError> {
        let before = self.epoch;
        if self.source.is_none() {
            self.connect().await?;
            if self.epoch != before {
                let news = FeedNews::Anew;
                return Ok(vec![Told {
                    sequence: 0,
                    time: Timestamp::UNIX_EPOCH,
                    position: String::new(),
                    news,
                }]);
            }
        }
        let told = self.fill(most).await;
        if told.is_err() {
            self.source = None;
        }
        told
    }

    async fn fill(&mut self, most: usize) -> Result<Vec<Told>, FeedError> {
        let Some(source) = self.source.as_mut() else { return Ok(Vec::new()) };
        let first = tokio::select! {
            biased;
            first = source.messages.next() => first,
            // The stream lives in the memory of a server that may have been restarted.
            _ = source.connected.changed() => return Err(away("connected anew")),
        };
        let mut told = Vec::new();
        let mut next = first;
        loop {
            let message = match next {
                Some(Ok(message)) => message,
                // What has been read is given first.
                Some(Err(_)) | None if !told.is_empty() => {
                    self.source = None;
                    return Ok(told);
                }
                Some(Err(error)) => return Err(away(error)),
                None => return Err(away("the consumer ended")),
            };
            match self.read(&message) {
                Ok(one) => told.extend(one),
                Err(error) if told.is_empty() => return Err(error),
                Err(_) => {
                    self.source = None;
                    return Ok(told);
                }
            }
            let Some(source) = self.source.as_mut().filter(|_| told.len() < most) else { return Ok(told) };
            let Some(ready) = source.messages.next().now_or_never() else { return Ok(told) };
            next = ready;
        }
    }

    /// What a message tells; nothing where it is none of ours.
    fn read(&mut self, message: &jetstream::Message) -> Result<Option<Told>, FeedError> {
        let info = message.info().map_err(away)?;
        if let Some(source) = self.source.as_mut() {
            source.delivered += 1;
            if info.consumer_sequence != source.delivered {
                return Err(away("a delivery was lost"));
            }
        }
        let (sequence, published) = (info.stream_sequence, info.published.unix_timestamp_nanos());
        self.seen = sequence;
        let header = |name: &'static str| Some(message.headers.as_ref()?.get(name)?.as_str());
        let service = self.feed.service;
        let news = match feed::parse(service, &message.subject) {
            Some((model, key)) => FeedNews::Row { model: model.to_owned(), key },
            None if *message.subject == *feed::mark(service) => {
                let begins = header(feed::BEGINS).and_then(|text| text.parse().ok());
                FeedNews::Mark { begins: begins.unwrap_or(sequence) }
            }
            None => return Ok(None),
        };
        Ok(Some(Told {
            sequence,
            time: Timestamp::from_nanosecond(published).unwrap_or_default(),
            position: header(feed::POSITION).unwrap_or_default().to_owned(),
            news,
        }))
    }
}
