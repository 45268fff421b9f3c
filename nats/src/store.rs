//! The event store: append and load, every outcome told apart. Step 3 of the flow.

use crate::{
    AppendError, Appended, Connection, History, LoadError, Message, Snapshot, StoreMetrics, Write,
    committer::{Committer, MAX_BATCH, Policy},
    load::Loader,
    metrics::{Outcome, Path},
    publish::{self, Answer},
    snapshot,
};
use async_nats::jetstream::{
    message::StreamMessage,
    stream::{LastRawMessageError, LastRawMessageErrorKind},
};
use events::{CommandId, Context, Position, Subject, envelope::header};
use std::{collections::HashMap, fmt, str::FromStr, sync::Arc, time::Duration, time::Instant};

/// When the server writes to disk for good. Part of its configuration; the store only needs to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Before it acknowledges: nothing acknowledged is lost, also when the power fails.
    Always,
    /// Every two minutes: the last ones can be lost when the power fails (not when a process is killed).
    Interval,
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Always => "always",
            Self::Interval => "interval",
        })
    }
}

impl FromStr for Durability {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "always" => Ok(Self::Always),
            "interval" => Ok(Self::Interval),
            _ => Err("expected `always` or `interval`"),
        }
    }
}

/// How the store is set up.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// What the server does before it acknowledges.
    pub durability: Durability,
    /// Copies of each stream: 1, or 3 on a cluster.
    pub replicas: usize,
    /// How long to wait for an answer before asking the stream what became of it.
    pub timeout: Duration,
    /// Where to count.
    pub metrics: StoreMetrics,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            durability: Durability::Always,
            replicas: 1,
            timeout: Duration::from_secs(3),
            metrics: StoreMetrics::default(),
        }
    }
}

impl StoreOptions {
    /// From how many waiting appends on a batch is cheaper than publishing singly (docs/benchmarks.md), at first: the
    /// committer learns it from the disk.
    fn policy(&self) -> Policy {
        match (self.durability, self.replicas) {
            (Durability::Interval, _) => Policy { singles: usize::MAX, batches: 1 },
            (Durability::Always, 1) => Policy { singles: 48, batches: 1 },
            (Durability::Always, _) => Policy { singles: 16, batches: 2 },
        }
    }
}

/// What is needed to find an append again.
struct Sent {
    /// Sequence that the first subject had to have.
    guard: u64,
    /// Ids of its first and last event.
    first: String,
    last: String,
    count: u64,
}

fn has_id(message: &StreamMessage, id: &str) -> bool {
    message.headers.get(header::ID).is_some_and(|found| found.as_str() == id)
}

/// Appends to and loads from the streams of all contexts. Cheap to clone.
#[derive(Clone)]
pub struct EventStore {
    connection: Connection,
    options: Arc<StoreOptions>,
    committers: Arc<HashMap<Context, Committer>>,
}

impl EventStore {
    /// A store on a connection. The streams are ensured by [`crate::topology::ensure`].
    pub fn new(connection: &Connection, options: StoreOptions) -> Self {
        let committer = || Committer::new(connection, options.policy(), options.timeout, &options.metrics);
        let committers = Context::ALL.map(|context| (context, committer())).into();
        Self { connection: connection.clone(), options: Arc::new(options), committers: Arc::new(committers) }
    }

    /// Whether the server can be reached at this moment.
    pub fn is_connected(&self) -> bool {
        self.connection.is_connected()
    }

    /// Appends all of `writes` (at least one, all of one stream) or none. The first write of every subject carries
    /// its guard. One write is a plain publish, several are an atomic batch; both may share a batch with others.
    pub async fn append(&self, writes: Vec<Write>) -> Result<Appended, AppendError> {
        let start = Instant::now();
        let result = self.try_append(writes).await;
        self.options.metrics.append_seconds.observe(start.elapsed().as_secs_f64());
        let outcome = match &result {
            Ok(Appended { duplicate: false, .. }) => "stored",
            Ok(Appended { duplicate: true, .. }) => "duplicate",
            Err(AppendError::Conflict) => "conflict",
            Err(AppendError::Unavailable(_)) => "unavailable",
            Err(AppendError::Unknown) => "unknown",
            Err(AppendError::TooLarge { .. } | AppendError::Refused { .. }) => "refused",
        };
        self.options.metrics.appends.get_or_create(&Outcome { outcome }).inc();
        result
    }

    async fn try_append(&self, writes: Vec<Write>) -> Result<Appended, AppendError> {
        let refused =
            |description: &str| AppendError::Refused { code: 0, description: description.to_owned() };
        let first = writes.first().ok_or_else(|| refused("nothing to append"))?;
        if writes.len() > MAX_BATCH {
            return Err(refused("more messages than one batch takes"));
        }
        if !self.is_connected() {
            // A publish would wait in the client and be sent after the reconnect, when nobody expects it any more.
            return Err(AppendError::Unavailable("not connected".to_owned()));
        }
        publish::check_sizes(&self.connection, &writes)?;
        let count = writes.len() as u64;
        let (subject, id) = (first.subject().clone(), first.header(header::ID).to_owned());
        let last_id = writes[writes.len() - 1].header(header::ID).to_owned();
        let sent = Sent {
            guard: first.header("Nats-Expected-Last-Subject-Sequence").parse().unwrap_or(0),
            first: id,
            last: last_id,
            count,
        };
        debug_assert!(first.guarded(), "the first write of a subject carries its guard");
        match self.committers[&subject.context()].append(writes).await {
            Answer::Stored { last, duplicate: false } => {
                Ok(Appended { first: last + 1 - count, duplicate: false })
            }
            // A single message; the sequence is the original one.
            Answer::Stored { last, duplicate: true } => Ok(Appended { first: last, duplicate: true }),
            Answer::Failed(error) => Err(error),
            // An append that stands already fails at its own guard.
            Answer::Conflict | Answer::Repeated | Answer::Silence => self.read_back(&subject, &sent).await,
        }
    }

    /// Asks the leader of the stream whether an append stands: the message behind its guard is its first event, and
    /// its last event is where it has to be. The first alone does not tell: another process may have recorded the
    /// first command of a group, and no other.
    ///
    /// Otherwise the append has failed, or will fail at its guard once the aggregate moves on; deciding again gives the
    /// same event ids. So it is a conflict.
    async fn read_back(&self, subject: &Subject, sent: &Sent) -> Result<Appended, AppendError> {
        let stream = self.connection.jetstream.get_stream_no_info(subject.context().stream()).await;
        let stream = stream.map_err(|_| AppendError::Unknown)?;
        let first = stream.raw_message_builder().sequence(sent.guard + 1).next_by_subject(subject.as_str());
        let first = self.asked(first.send()).await?;
        let Some(first) = first.filter(|found| has_id(found, &sent.first)) else {
            return Err(AppendError::Conflict);
        };
        if sent.count > 1 {
            let last = stream.raw_message_builder().sequence(first.sequence + sent.count - 1);
            if !self.asked(last.send()).await?.is_some_and(|found| has_id(&found, &sent.last)) {
                return Err(AppendError::Conflict);
            }
        }
        Ok(Appended { first: first.sequence, duplicate: true })
    }

    /// The answer to a question about the past of the stream; without one nobody knows.
    async fn asked(
        &self,
        answer: impl Future<Output = Result<StreamMessage, LastRawMessageError>>,
    ) -> Result<Option<StreamMessage>, AppendError> {
        match tokio::time::timeout(self.options.timeout, answer).await {
            Ok(Ok(found)) => Ok(Some(found)),
            Ok(Err(error)) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => Ok(None),
            Ok(Err(_)) | Err(_) => Err(AppendError::Unknown),
        }
    }

    /// What is recorded of an aggregate; a snapshot is used if its state has this schema.
    pub async fn load(&self, subject: &Subject, schema: &str) -> Result<History, LoadError> {
        let (history, repaired) = self.loader(subject).load(schema).await?;
        let path = if repaired { "repair" } else { "tail" };
        self.options.metrics.loads.get_or_create(&Path { path }).inc();
        Ok(history)
    }

    /// Where a command's first event on this aggregate stands, searched through its whole history: slow, for the rare
    /// case that nobody knows any more whether a command was carried out.
    pub async fn find_command(
        &self,
        subject: &Subject,
        command: CommandId,
    ) -> Result<Option<Position>, LoadError> {
        let command = command.to_string();
        let messages = self.loader(subject).by_subject(1).await?;
        let ours = |message: &&Message| message.header(header::COMMAND) == Some(&command);
        Ok(messages.iter().find(ours).map(|message| message.position))
    }

    /// Keeps a snapshot of an aggregate; whether that worked.
    pub async fn save_snapshot(&self, subject: &Subject, snapshot: &Snapshot) -> bool {
        snapshot::write(&self.connection, subject, snapshot, self.options.timeout).await
    }

    /// The last message of an aggregate.
    pub async fn last(&self, subject: &Subject) -> Result<Option<Message>, LoadError> {
        self.loader(subject).last().await
    }

    fn loader<'a>(&'a self, subject: &'a Subject) -> Loader<'a> {
        Loader { connection: &self.connection, subject, timeout: self.options.timeout }
    }
}
