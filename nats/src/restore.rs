//! Puts a copy of a stream back, message by message at the sequences they had.
//!
//! Everything that points into the log (tails, guards, checkpoints, parked messages) points to sequences, so a copy is worth
//! nothing at others. Where messages are gone (timers that have fired), fillers are published and purged at the end; until
//! then the stream may be purged and its messages deleted, and nothing starts on it. A repeated id would be dropped by the
//! server: it is held back until the server has forgotten the first.

mod bucket;

pub use bucket::{BucketCopy, complete_bucket, copy_bucket, put_bucket};

use crate::{Connection, Raw, RawError, publish::EXPECT, raw, topology};
use async_nats::{
    HeaderMap, HeaderName, HeaderValue,
    jetstream::{consumer, context::PublishAckFuture, message::PublishMessage, stream::Config},
};
use bytes::Bytes;
use events::{Context, envelope::header::MSG_ID};
use futures::TryStreamExt;
use std::{
    collections::{HashMap, HashSet, VecDeque},
    fmt,
    ops::RangeInclusive,
    time::{Duration, Instant},
};

/// Where the atomic batch that a message was recorded with is kept: `<batch>;<place in it>`, and `;1` behind the last one. The
/// server's own headers would begin a batch again.
pub const BATCH: &str = "Waybill-Batch";
const SERVERS_BATCH: [&str; 3] = ["Nats-Batch-Id", "Nats-Batch-Sequence", "Nats-Batch-Commit"];

/// Publishes under way at most.
const WINDOW: usize = 512;
/// The least the server takes.
const DUPLICATE_WINDOW: Duration = Duration::from_millis(100);
/// After which the server has forgotten an id for sure. It looks through them now and then only.
const FORGOTTEN: Duration = Duration::from_secs(10);
/// Before an id that the server still knows is tried again.
const AGAIN: Duration = Duration::from_millis(50);
/// In the stream's metadata as long as the import is under way: the copy that is put back.
pub(crate) const MARK: &str = "waybill-import";

/// Why a copy is not put back.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// There is something already.
    #[error("{stream} is not empty: it holds {messages} messages up to {last}")]
    NotEmpty {
        /// Which stream.
        stream: String,
        /// How many messages.
        messages: u64,
        /// The last sequence.
        last: u64,
    },
    /// A message went to another place than it had: somebody else writes to the stream.
    #[error("message {stream}:{sequence} was stored at {stored}: does somebody else write to the stream?")]
    Displaced {
        /// Which stream.
        stream: &'static str,
        /// Where it belongs.
        sequence: u64,
        /// Where it is.
        stored: u64,
    },
    /// The server did not do what it was asked.
    #[error("cannot {action} {name}: {detail}")]
    Refused {
        /// What was tried.
        action: &'static str,
        /// On what.
        name: String,
        /// What the server or the client says.
        detail: String,
    },
    /// The stream cannot be read.
    #[error(transparent)]
    Read(#[from] RawError),
}

fn refused<E: fmt::Display>(action: &'static str, name: impl fmt::Display) -> impl FnOnce(E) -> RestoreError {
    move |error| RestoreError::Refused { action, name: name.to_string(), detail: error.to_string() }
}

/// A stream that is being put back.
pub struct Restore {
    connection: Connection,
    context: Context,
    replicas: usize,
    copy: String,
    /// An earlier attempt has finished it.
    closed: bool,
    next: u64,
    /// Where each message under way belongs, and to which subject.
    pending: VecDeque<(u64, String, PublishAckFuture)>,
    /// Where the last message under way to each subject belongs.
    under_way: HashMap<String, u64>,
    /// Ids that the server may still know.
    recent: VecDeque<(Instant, String)>,
    known: HashSet<String>,
}

impl Restore {
    /// Makes the stream of a context, or goes on where an earlier attempt with the same `copy` ended. An empty stream is made
    /// anew; one that holds anything is refused.
    pub async fn begin(
        connection: &Connection,
        context: Context,
        replicas: usize,
        copy: &str,
    ) -> Result<Self, RestoreError> {
        let stream = context.stream();
        let (mut next, mut closed) = (1, false);
        match raw::state(connection, context).await? {
            Some(state) if state.config["metadata"][MARK] == copy => {
                (next, closed) = (state.last + 1, state.config["deny_delete"] == true);
            }
            Some(state) if state.last > 0 => {
                let (messages, last) = (state.messages, state.last);
                return Err(RestoreError::NotEmpty { stream: stream.to_owned(), messages, last });
            }
            state => {
                let jetstream = &connection.jetstream;
                if state.is_some() {
                    jetstream.delete_stream(stream).await.map_err(refused("make anew", stream))?;
                }
                let config = Config {
                    deny_delete: false,
                    deny_purge: false,
                    duplicate_window: DUPLICATE_WINDOW,
                    metadata: mark(copy),
                    ..topology::stream(context, replicas)
                };
                jetstream.create_stream(config).await.map_err(refused("create", stream))?;
            }
        }
        Ok(Self {
            connection: connection.clone(),
            context,
            replicas,
            copy: copy.to_owned(),
            closed,
            next,
            pending: VecDeque::with_capacity(WINDOW),
            under_way: HashMap::new(),
            recent: VecDeque::new(),
            known: HashSet::new(),
        })
    }

    /// The next sequence: what stands before it is there already.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Puts a message where it was, with fillers before it where others are gone. One that is there already is passed over.
    pub async fn append(&mut self, raw: Raw) -> Result<(), RestoreError> {
        if raw.sequence < self.next {
            return Ok(());
        }
        self.fill(raw.sequence).await?;
        let is_repeated = raw.header(MSG_ID).map(str::to_owned).is_some_and(|id| self.is_repeated(id));
        let (subject, headers, body) = raw.into_parts();
        if is_repeated {
            return self.publish_again(&subject, &own(&headers), &body).await;
        }
        // Nodes that keep copies refuse a guard while another message to the subject is under way.
        if self.replicas > 1
            && headers.get(EXPECT).is_some()
            && let Some(last) = self.under_way.get(&subject)
        {
            self.settle(usize::try_from(self.next - 1 - last).unwrap_or(WINDOW)).await?;
        }
        self.publish(subject, own(&headers), body).await
    }

    /// Fills up to and with `last`, takes the fillers away, checks what is there, and makes the stream what it has to be.
    /// It stays marked as part of an import until [`complete`].
    pub async fn finish(mut self, last: u64, messages: u64) -> Result<(), RestoreError> {
        let stream = self.context.stream();
        if self.closed {
            return Ok(());
        }
        self.fill(last + 1).await?;
        self.settle(0).await?;
        let handle = self.connection.jetstream.get_stream_no_info(stream).await;
        let handle = handle.map_err(refused("open", stream))?;
        handle
            .purge()
            .filter(self.context.gap())
            .await
            .map_err(refused("take the fillers out of", stream))?;
        let state = raw::state(&self.connection, self.context).await?;
        let found = state.map_or((0, 0), |state| (state.last, state.messages));
        if found != (last, messages) {
            let detail =
                format!("it holds {} messages up to {}, not {messages} up to {last}", found.1, found.0);
            return Err(RestoreError::Refused { action: "complete", name: stream.to_owned(), detail });
        }
        let config = Config { metadata: mark(&self.copy), ..topology::stream(self.context, self.replicas) };
        self.connection.jetstream.update_stream(config).await.map_err(refused("close", stream))?;
        Ok(())
    }

    async fn fill(&mut self, until: u64) -> Result<(), RestoreError> {
        while self.next < until {
            self.publish(self.context.gap(), HeaderMap::new(), Bytes::new()).await?;
        }
        Ok(())
    }

    async fn publish(
        &mut self,
        subject: String,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<(), RestoreError> {
        let message = PublishMessage::build().headers(headers).payload(body);
        let sent = self.connection.jetstream.send_publish(subject.clone(), message).await;
        let sent = sent.map_err(refused("write to", self.context.stream()))?;
        self.under_way.insert(subject.clone(), self.next);
        self.pending.push_back((self.next, subject, sent));
        self.next += 1;
        self.settle(WINDOW - 1).await
    }

    /// Waits until no more than so many are under way.
    async fn settle(&mut self, most: usize) -> Result<(), RestoreError> {
        let stream = self.context.stream();
        while self.pending.len() > most {
            let Some((sequence, subject, sent)) = self.pending.pop_front() else { break };
            if self.under_way.get(&subject) == Some(&sequence) {
                self.under_way.remove(&subject);
            }
            let position = format!("{stream}:{sequence}");
            let stored = sent.await.map_err(refused("write", position))?.sequence;
            self.at(sequence, stored)?;
        }
        Ok(())
    }

    /// Publishes what the server takes for a repetition, until it has forgotten the first one.
    async fn publish_again(
        &mut self,
        subject: &str,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Result<(), RestoreError> {
        self.settle(0).await?;
        let position = format!("{}:{}", self.context.stream(), self.next);
        loop {
            let message = PublishMessage::build().headers(headers.clone()).payload(body.clone());
            let sent = self.connection.jetstream.send_publish(subject.to_owned(), message).await;
            let ack =
                sent.map_err(refused("write", &position))?.await.map_err(refused("write", &position))?;
            if !ack.duplicate {
                self.next += 1;
                return self.at(self.next - 1, ack.sequence);
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    fn at(&self, sequence: u64, stored: u64) -> Result<(), RestoreError> {
        let stream = self.context.stream();
        if stored == sequence { Ok(()) } else { Err(RestoreError::Displaced { stream, sequence, stored }) }
    }

    /// Notes an id; whether the server may still know it.
    fn is_repeated(&mut self, id: String) -> bool {
        while self.recent.front().is_some_and(|(since, _)| since.elapsed() > FORGOTTEN) {
            if let Some((_, old)) = self.recent.pop_front() {
                self.known.remove(&old);
            }
        }
        self.recent.push_back((Instant::now(), id.clone()));
        !self.known.insert(id)
    }
}

/// The headers to publish again.
fn own(headers: &HeaderMap) -> HeaderMap {
    let first = |name: &'static str| headers.get(HeaderName::from_static(name)).map(HeaderValue::as_str);
    let mut own: HeaderMap = HeaderMap::new();
    for (name, values) in
        headers.iter().filter(|(name, _)| !SERVERS_BATCH.contains(&AsRef::<str>::as_ref(name)))
    {
        for value in values {
            own.append(name.clone(), value.clone());
        }
    }
    if let [Some(batch), Some(place), commit] = SERVERS_BATCH.map(first) {
        let commit = if commit.is_some() { ";1" } else { "" };
        own.insert(HeaderName::from_static(BATCH), format!("{batch};{place}{commit}").as_str());
    }
    own
}

fn mark(copy: &str) -> HashMap<String, String> {
    HashMap::from([(MARK.to_owned(), copy.to_owned())])
}

/// Says that the import is done: services may start. `armed` is where timers were armed again: before, as the configuration
/// of the stream in the copy has it, where that was imported itself, and now.
pub async fn complete(
    connection: &Connection,
    context: Context,
    replicas: usize,
    (before, now): (&serde_json::Value, Option<(u64, u64)>),
) -> Result<(), RestoreError> {
    // Timers are gone one day, and nothing else tells that there was no fact.
    let known = before["metadata"][ARMED].as_str().map(ToOwned::to_owned);
    let armed: Vec<_> = known.into_iter().chain(now.map(|(first, last)| format!("{first}-{last}"))).collect();
    let metadata = (!armed.is_empty()).then(|| (ARMED.to_owned(), armed.join(" ")));
    let config = Config { metadata: metadata.into_iter().collect(), ..topology::stream(context, replicas) };
    connection.jetstream.update_stream(config).await.map_err(refused("complete", context.stream()))?;
    Ok(())
}

/// In the metadata of a stream whose timers were armed again: of each time the first and the last sequence where they stood,
/// such as `5-6 40-42`.
pub const ARMED: &str = "waybill-armed";

/// Where timers of a stream with this configuration stood that were armed again.
pub fn armed(config: &serde_json::Value) -> Vec<RangeInclusive<u64>> {
    let ranges = config["metadata"][ARMED].as_str().into_iter().flat_map(str::split_whitespace);
    let range = |text: &str| {
        let (first, last) = text.split_once('-')?;
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    ranges.filter_map(range).collect()
}

/// Arms timers that stood when the copy was made, and says where: behind everything else. Late ones fire at once.
pub async fn arm(connection: &Connection, timers: Vec<Raw>) -> Result<Option<(u64, u64)>, RestoreError> {
    let mut places = None;
    for timer in timers {
        let (subject, headers, body) = timer.into_parts();
        let message = PublishMessage::build().headers(own(&headers)).payload(body);
        let sent = connection.jetstream.send_publish(subject.clone(), message).await;
        let ack = sent.map_err(refused("arm", &subject))?.await.map_err(refused("arm", &subject))?;
        let (first, _) = places.unwrap_or((ack.sequence, 0));
        places = Some((first, ack.sequence));
    }
    Ok(places)
}

/// How far a durable consumer was.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Durable {
    /// Its name.
    pub name: String,
    /// Everything up to this sequence is acknowledged.
    pub acknowledged: u64,
    /// Its configuration, as the server has it.
    pub config: serde_json::Value,
}

/// The durable consumers of a stream.
pub async fn durables(connection: &Connection, context: Context) -> Result<Vec<Durable>, RestoreError> {
    let name = context.stream();
    let stream = connection.jetstream.get_stream_no_info(name).await.map_err(refused("open", name))?;
    let all: Vec<consumer::Info> =
        stream.consumers().try_collect().await.map_err(refused("list the consumers of", name))?;
    let durable = |info: consumer::Info| {
        info.config.durable_name.as_ref()?;
        let config = serde_json::to_value(&info.config).ok()?;
        Some(Durable { name: info.name, acknowledged: info.ack_floor.stream_sequence, config })
    };
    let mut found: Vec<_> = all.into_iter().filter_map(durable).collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// Makes a durable consumer that goes on where it was. One that is there stays as it is.
pub async fn resume(
    connection: &Connection,
    context: Context,
    durable: &Durable,
) -> Result<(), RestoreError> {
    let name = &durable.name;
    let config: consumer::Config =
        serde_json::from_value(durable.config.clone()).map_err(refused("read the configuration of", name))?;
    let config = consumer::pull::Config {
        durable_name: Some(name.clone()),
        deliver_policy: consumer::DeliverPolicy::ByStartSequence { start_sequence: durable.acknowledged + 1 },
        ack_policy: config.ack_policy,
        ack_wait: config.ack_wait,
        max_ack_pending: config.max_ack_pending,
        filter_subject: config.filter_subject,
        ..consumer::pull::Config::default()
    };
    let stream = connection.jetstream.get_stream_no_info(context.stream()).await;
    let stream = stream.map_err(refused("open", context))?;
    stream.get_or_create_consumer(name, config).await.map_err(refused("make the consumer", name))?;
    Ok(())
}
