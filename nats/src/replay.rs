//! Reading a stream in order: from a sequence or a time, filtered, to its end or for ever.
//!
//! The reader keeps no state on the server. A consumer without acknowledgements delivers as fast as it can; when it
//! is lost (server restart, missed heartbeat, a gap), the next one starts right behind the last message seen.

use crate::{Connection, Message, message::MessageError};
use async_nats::{
    datetime::DateTime,
    jetstream::{
        self,
        consumer::{AckPolicy, DeliverPolicy, pull},
        stream::LastRawMessageErrorKind,
    },
};
use events::{CorrelationId, Position, envelope::header};
use futures::{FutureExt, StreamExt};
use jiff::Timestamp;
use std::time::Duration;
use tokio::sync::watch;
use uuid::Uuid;

/// Where a reading starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// At the first message.
    Start,
    /// At this sequence of the stream.
    Sequence(u64),
    /// At the first message stored at or after this time.
    Time(Timestamp),
    /// Behind the last message there is: only what comes.
    Now,
}

/// Where a reading ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// With the message that is the last one when the reading starts.
    End,
    /// With this sequence, or with the last message there is when the reading starts, whichever comes first.
    Sequence(u64),
    /// With the last message stored at or before this time, of those that are there when the reading starts.
    Time(Timestamp),
    /// Never: it follows.
    Forever,
}

/// Which messages are wanted. Everything given must hold.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// A subject, or one with a `*` or `>`. The server filters by it; a sparse filter makes it scan.
    pub subject: Option<String>,
    /// Any of these types; empty for all. Filtered here: the type is a header.
    pub kinds: Vec<String>,
    /// One correlation id. Filtered here.
    pub correlation: Option<CorrelationId>,
    /// Only what this event or command caused. Filtered here.
    pub causation: Option<Uuid>,
    /// Only the event with this id. Filtered here.
    pub event: Option<Uuid>,
}

impl Filter {
    fn wants(&self, message: &Message) -> bool {
        let kind = self.kinds.is_empty() || self.kinds.iter().any(|kind| kind == message.kind());
        let of = |id: &CorrelationId| message.header(header::CORRELATION) == Some(id.as_str());
        let is = |name, id: Option<Uuid>| {
            id.is_none_or(|id| message.header(name).and_then(|text| text.parse().ok()) == Some(id))
        };
        kind && self.correlation.as_ref().is_none_or(of)
            && is(header::CAUSATION, self.causation)
            && is(header::ID, self.event)
    }
}

/// Why a reading cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The stream cannot be read now; trying again may help.
    #[error("cannot read stream {stream}")]
    Unavailable {
        /// Which stream.
        stream: &'static str,
        /// What the client says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Something in the stream is no event.
    #[error("message {position} is no event")]
    Foreign {
        /// Which message.
        position: String,
        /// Why.
        source: MessageError,
    },
}

/// Messages asked for at once. Measured: fewer cost throughput, more cost memory (docs/benchmarks.md).
const PULL: usize = 5000;
const HEARTBEAT: Duration = Duration::from_secs(5);
const FIRST_RETRY: Duration = Duration::from_millis(50);
const LAST_RETRY: Duration = Duration::from_secs(2);

/// Reads one stream in order. Without a subject filter every sequence is seen, and a gap is a fault that is repaired.
pub struct Reader {
    connection: Connection,
    context: events::Context,
    from: From,
    filter: Filter,
    /// Last sequence to deliver; `None` follows.
    end: Option<u64>,
    /// Last stored time to deliver.
    latest: Option<Timestamp>,
    /// Messages asked for at once.
    pull: usize,
    /// Messages that waited when the reading started.
    waiting: u64,
    /// Last sequence seen, delivered or filtered away.
    seen: u64,
    /// Whether the end was reached.
    done: bool,
    source: Option<Source>,
}

struct Source {
    /// What the server calls the consumer.
    consumer: String,
    messages: pull::Stream,
    /// Deliveries of this consumer so far: its own numbering has no gaps unless a message was lost on the way.
    delivered: u64,
    /// Tells when the connection was made anew.
    connected: watch::Receiver<u64>,
}

impl Reader {
    /// Opens a reading. An unreachable stream is an error here; later losses are repaired by [`Self::next_batch`].
    pub async fn open(
        connection: &Connection,
        context: events::Context,
        from: From,
        until: Until,
        filter: Filter,
    ) -> Result<Self, ReplayError> {
        Self::open_for(connection, context, from, until, filter, PULL).await
    }

    /// The same, for whoever wants few: no more than `pull` messages are on their way at once.
    pub async fn open_for(
        connection: &Connection,
        context: events::Context,
        from: From,
        until: Until,
        filter: Filter,
        pull: usize,
    ) -> Result<Self, ReplayError> {
        let last = last_sequence(connection, context).await?;
        let from = if from == From::Now { From::Sequence(last + 1) } else { from };
        let end = match until {
            Until::End | Until::Time(_) => Some(last),
            Until::Sequence(sequence) => Some(last.min(sequence)),
            Until::Forever => None,
        };
        let latest = if let Until::Time(time) = until { Some(time) } else { None };
        let mut reader = Self {
            connection: connection.clone(),
            context,
            from,
            filter,
            end,
            latest,
            pull: pull.clamp(1, PULL),
            waiting: 0,
            seen: 0,
            done: end == Some(0),
            source: None,
        };
        reader.waiting = reader.connect().await?;
        reader.done |= end.is_some() && reader.waiting == 0;
        Ok(reader)
    }

    /// The position behind which the next message stands: everything up to here was delivered or filtered away.
    pub fn position(&self) -> Position {
        Position { context: self.context, sequence: self.seen }
    }

    /// How many messages waited when the reading started: those that the server filters away are not among them, those
    /// behind the end of the reading are.
    pub fn waiting(&self) -> u64 {
        self.waiting
    }

    /// Last sequence of a bounded reading.
    pub fn end(&self) -> Option<u64> {
        self.end
    }

    /// Ends the reading, and takes what it needs from the server's memory; else that goes by itself after a minute.
    pub async fn close(mut self) {
        let Some(Source { consumer, messages, .. }) = self.source.take() else { return };
        drop(messages);
        if let Ok(stream) = self.connection.jetstream.get_stream_no_info(self.context.stream()).await {
            let _ = stream.delete_consumer(&consumer).await;
        }
    }

    /// Waits for messages and returns those that are ready, at most `max`. Empty: the end is reached. Losses of the
    /// connection are repaired here, for as long as it takes. Cancel safe.
    pub async fn next_batch(&mut self, max: usize) -> Result<Vec<Message>, ReplayError> {
        let mut batch = Vec::new();
        let mut retry = FIRST_RETRY;
        while batch.is_empty() && !self.done {
            match self.fill(&mut batch, max).await {
                Ok(()) => retry = FIRST_RETRY,
                Err(error) => {
                    // The next reading starts behind the last message seen, and meets again what is no event.
                    self.source = None;
                    if !batch.is_empty() {
                        // Not kept over a pause: whoever gives up waiting would lose it.
                        break;
                    }
                    if matches!(error, ReplayError::Foreign { .. }) {
                        return Err(error);
                    }
                    tracing::warn!(stream = self.context.stream(), seen = self.seen, %error, "reading again");
                    tokio::time::sleep(retry).await;
                    retry = (retry * 2).min(LAST_RETRY);
                }
            }
        }
        Ok(batch)
    }

    /// Waits for one message and takes what is ready behind it.
    async fn fill(&mut self, batch: &mut Vec<Message>, max: usize) -> Result<(), ReplayError> {
        if self.source.is_none() {
            self.connect().await?;
        }
        let Some(source) = self.source.as_mut() else { return Ok(()) };
        let first = tokio::select! {
            biased;
            first = source.messages.next() => first,
            // The consumer lived in the memory of a server that may have been restarted. Waiting for its heartbeat to be
            // missed would take seconds.
            _ = source.connected.changed() => return Err(unavailable(self.context, "connected anew")),
        };
        self.take(first, batch)?;
        while batch.len() < max && !self.done {
            let Some(source) = self.source.as_mut() else { break };
            let Some(next) = source.messages.next().now_or_never() else { break };
            self.take(next, batch)?;
        }
        Ok(())
    }

    fn take(
        &mut self,
        next: Option<Result<jetstream::Message, pull::MessagesError>>,
        batch: &mut Vec<Message>,
    ) -> Result<(), ReplayError> {
        let Some(source) = self.source.as_mut() else { return Ok(()) };
        let lost = |what: &str| unavailable(self.context, what.to_owned());
        let message = next.ok_or_else(|| lost("the consumer ended"))?;
        let mut message = message.map_err(|error| unavailable(self.context, error))?;
        let message = match Message::delivered(&mut message) {
            Ok(message) => message,
            Err(error) => return self.foreign(&message, error),
        };
        source.delivered += 1;
        if message.number != source.delivered {
            return Err(lost("a delivery was lost"));
        }
        let (sequence, pending) = (message.position.sequence, message.pending);
        if self.end.is_some_and(|end| sequence > end) {
            self.done = true;
            return Ok(());
        }
        if self.latest.is_some_and(|latest| message.stored > latest) {
            self.done = true;
            return Ok(());
        }
        self.seen = sequence;
        self.done = self.end.is_some_and(|end| sequence >= end || pending == 0);
        if self.filter.wants(&message) {
            batch.push(message);
        }
        Ok(())
    }

    /// Something that is no event ends the reading, unless that ends before it.
    fn foreign(&mut self, message: &jetstream::Message, source: MessageError) -> Result<(), ReplayError> {
        let info = message.info().map_err(|error| unavailable(self.context, error))?;
        let sequence = info.stream_sequence;
        if self.end.is_some_and(|end| sequence > end) {
            self.done = true;
            return Ok(());
        }
        Err(ReplayError::Foreign { position: format!("{}:{sequence}", self.context.stream()), source })
    }

    /// Starts a consumer behind the last message seen. Answers how many messages wait for it.
    async fn connect(&mut self) -> Result<u64, ReplayError> {
        let failed = |error| unavailable(self.context, error);
        let mut connected = self.connection.connected.clone();
        connected.mark_unchanged();
        let deliver_policy = match self.from {
            _ if self.seen > 0 => DeliverPolicy::ByStartSequence { start_sequence: self.seen + 1 },
            From::Start | From::Now => DeliverPolicy::All,
            From::Sequence(sequence) => DeliverPolicy::ByStartSequence { start_sequence: sequence.max(1) },
            From::Time(time) => DeliverPolicy::ByStartTime { start_time: to_time(time) },
        };
        let config = pull::Config {
            name: Some(self.connection.passing_name()),
            deliver_policy,
            ack_policy: AckPolicy::None,
            filter_subject: self.filter.subject.clone().unwrap_or_else(|| facts(self.context)),
            inactive_threshold: Duration::from_mins(1),
            memory_storage: true,
            num_replicas: 1,
            ..pull::Config::default()
        };
        let stream = self.connection.jetstream.get_stream_no_info(self.context.stream()).await;
        let stream = stream.map_err(|error| failed(error.to_string()))?;
        let consumer = stream.create_consumer(config).await.map_err(|error| failed(error.to_string()))?;
        let pending = consumer.cached_info().num_pending;
        let name = consumer.cached_info().name.clone();
        let messages = consumer.stream().max_messages_per_batch(self.pull).heartbeat(HEARTBEAT);
        let messages = messages.messages().await.map_err(|error| failed(error.to_string()))?;
        self.source = Some(Source { consumer: name, messages, delivered: 0, connected });
        Ok(pending)
    }
}

/// Sequence of the last fact of a stream; 0 for an empty one.
pub async fn last_sequence(connection: &Connection, context: events::Context) -> Result<u64, ReplayError> {
    if context.has_timers() {
        let stream = connection.jetstream.get_stream_no_info(context.stream()).await;
        let stream = stream.map_err(|error| unavailable(context, error))?;
        let last = stream.get_last_raw_message_by_subject(&context.filter()).await;
        return match last {
            Ok(message) => Ok(message.sequence),
            Err(error) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => Ok(0),
            Err(error) => Err(unavailable(context, error)),
        };
    }
    let stream = connection.jetstream.get_stream(context.stream()).await;
    let stream = stream.map_err(|error| unavailable(context, error))?;
    Ok(stream.cached_info().state.last_sequence)
}

/// What a consumer has to leave out to see facts only: nothing, where there is nothing else.
pub(crate) fn facts(context: events::Context) -> String {
    if context.has_timers() { context.filter() } else { String::new() }
}

fn unavailable(
    context: events::Context,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> ReplayError {
    ReplayError::Unavailable { stream: context.stream(), source: source.into() }
}

/// The client's own type of time. What it cannot hold lies before any stream.
fn to_time(time: Timestamp) -> DateTime {
    DateTime::from_unix_timestamp_nanos(time.as_nanosecond()).unwrap_or(DateTime::UNIX_EPOCH)
}
