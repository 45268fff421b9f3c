//! The event store: append and load, every outcome told apart. Step 3 of the flow.

use crate::{
    AppendError, Appended, Connection, History, LoadError, Message, Snapshot, StoreMetrics, Write,
    committer::{Committer, MAX_BATCH, Policy},
    load::Loader,
    metrics::Path,
    publish::{self, Answer},
    snapshot,
};
use async_nats::jetstream::{
    message::StreamMessage,
    stream::{LastRawMessageError, LastRawMessageErrorKind},
};
use events::{CommandId, Context, EventId, Position, Subject, envelope::header};
use service::crash_point;
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
    /// Its first and its last event.
    first: EventId,
    last: EventId,
    count: u64,
}

fn has_id(message: &StreamMessage, id: EventId) -> bool {
    message.headers.get(header::ID).is_some_and(|found| found.as_str().parse() == Ok(id))
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

    /// Appends all of `writes` (at least one event, all of one stream) or none. The first write of every subject carries
    /// its guard; timers come last, and have none. One write is a plain publish, several are an atomic batch; both may share a batch with others.
    pub async fn append(&self, writes: Vec<Write>) -> Result<Appended, AppendError> {
        let start = Instant::now();
        let result = self.try_append(writes).await;
        self.options.metrics.append_seconds.observe(start.elapsed().as_secs_f64());
        self.options.metrics.appended(&result);
        result
    }

    async fn try_append(&self, writes: Vec<Write>) -> Result<Appended, AppendError> {
        let refused =
            |description: &str| AppendError::Refused { code: 0, description: description.to_owned() };
        let events = writes.iter().take_while(|write| !write.is_timer()).count();
        let (Some(first), Some(last)) = (writes.first(), writes[..events].last()) else {
            return Err(refused("nothing to append"));
        };
        if writes.len() > MAX_BATCH {
            return Err(refused("more messages than one batch takes"));
        }
        if !self.is_connected() {
            // A publish would wait in the client and be sent after the reconnect, when nobody expects it any more.
            return Err(AppendError::Unavailable("not connected".to_owned()));
        }
        publish::check_sizes(&self.connection, &writes)?;
        debug_assert!(first.expect().is_some(), "the first write of a subject carries its guard");
        debug_assert!(writes[events..].iter().all(Write::is_timer), "timers stand behind the events");
        let (subject, count) = (first.subject().clone(), writes.len() as u64);
        // A timer may be gone already when somebody looks for it.
        let (guard, events) = (first.expect().unwrap_or(0), events as u64);
        let sent = Sent { guard, first: first.id(), last: last.id(), count: events };
        let stream = subject.context().stream();
        crash_point("append.before", stream);
        let answer = self.committers[&subject.context()].append(writes).await;
        crash_point("append.after", stream);
        match answer {
            Answer::Stored { last, duplicate: false } => {
                Ok(Appended { first: last + 1 - count, duplicate: false })
            }
            // A single message; the sequence is the original one.
            Answer::Stored { last, duplicate: true } => Ok(Appended { first: last, duplicate: true }),
            Answer::Failed(error) => Err(error),
            // An append that stands already fails at its own guard.
            // In a box, as it is rare and would make the future of every append several times as large.
            Answer::Conflict | Answer::Repeated | Answer::Silence => {
                Box::pin(self.read_back(&subject, &sent)).await
            }
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
        let Some(first) = first.filter(|found| has_id(found, sent.first)) else {
            return Err(AppendError::Conflict);
        };
        if sent.count > 1 {
            let last = stream.raw_message_builder().sequence(first.sequence + sent.count - 1);
            if !self.asked(last.send()).await?.is_some_and(|found| has_id(&found, sent.last)) {
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

    /// The messages of an aggregate from a sequence of its stream on, however many there are: slow, for aggregates that have
    /// few.
    pub(crate) async fn since(&self, subject: &Subject, sequence: u64) -> Result<Vec<Message>, LoadError> {
        self.loader(subject).by_subject(sequence).await
    }

    /// The message of an aggregate at a sequence of its stream; `None` where there is none, or another aggregate's.
    pub async fn at(&self, subject: &Subject, sequence: u64) -> Result<Option<Message>, LoadError> {
        self.loader(subject).at(sequence).await
    }

    fn loader<'a>(&'a self, subject: &'a Subject) -> Loader<'a> {
        Loader { connection: &self.connection, subject, timeout: self.options.timeout }
    }
}

#[cfg(test)]
mod tests {
    //! Appends that share batches have the outcomes of single appends: of every run, the log is compared with what
    //! each append was told.

    use super::*;
    use crate::{
        Filter, From, Reader, Until,
        server::{Binary, Config, Server},
    };
    use events::{Actor, Aggregate, Envelope, FactType, Metadata};
    use futures::future::join_all;
    use jiff::Timestamp;
    use proptest::{prelude::*, test_runner::TestRunner};
    use service::Clock;

    const DEADLINE: Duration = Duration::from_mins(1);

    /// An append: the aggregates of its events, whether its guards are wrong, and how often it is asked at once.
    #[derive(Clone, Debug)]
    struct Unit {
        events: Vec<usize>,
        stale: bool,
        times: usize,
    }

    fn units() -> impl Strategy<Value = Vec<Unit>> {
        let times = prop_oneof![4 => Just(1_usize), 1 => Just(2)];
        let unit = (prop::collection::vec(0_usize..6, 1..=4), prop::bool::weighted(0.2), times)
            .prop_map(|(events, stale, times)| Unit { events, stale, times });
        prop::collection::vec(unit, 4..40)
    }

    /// What one asker was told.
    struct Told {
        command: CommandId,
        events: usize,
        result: Result<Appended, AppendError>,
    }

    struct World {
        server: Server,
        connection: Connection,
        store: EventStore,
        _folder: tempfile::TempDir,
    }

    impl World {
        async fn start() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let binary = Binary::locate(None).await.unwrap();
            let config = Config::new(binary, folder.path().join("nats"));
            let server = Server::start(Config { durability: Durability::Interval, ..config }).await.unwrap();
            let connection = Connection::connect(&server.url(), "test").await.unwrap();
            crate::topology::ensure(&connection, &[Context::Inventory], 1).await.unwrap();
            let options = StoreOptions { timeout: Duration::from_secs(1), ..StoreOptions::default() };
            let mut store = EventStore::new(&connection, options);
            // Batches form as soon as two wait.
            let policy = Policy { singles: 2, batches: 2 };
            let committer =
                Committer::new(&connection, policy, store.options.timeout, &store.options.metrics);
            store.committers = Arc::new([(Context::Inventory, committer)].into());
            Self { server, connection, store, _folder: folder }
        }

        /// Asks as the executor does: with the newest guards, a few times.
        async fn ask(&self, subjects: &[Subject], unit: &Unit, command: CommandId) -> Told {
            let mut result = Err(AppendError::Conflict);
            for _ in 0..3 {
                let Ok(writes) = self.writes(subjects, unit, command).await else { break };
                result = self.store.append(writes).await;
                if !matches!(result, Err(AppendError::Conflict)) {
                    break;
                }
            }
            Told { command, events: unit.events.len(), result }
        }

        async fn writes(
            &self,
            subjects: &[Subject],
            unit: &Unit,
            command: CommandId,
        ) -> Result<Vec<Write>, LoadError> {
            let metadata = Metadata {
                command,
                correlation: command.uuid().into(),
                causation: command.uuid(),
                actor: Actor::CLIENT,
                traceparent: None,
            };
            let fact = &FactType::of(Aggregate::Item)[0];
            let mut versions: HashMap<usize, u64> = HashMap::new();
            let mut writes = Vec::new();
            for (index, at) in unit.events.iter().enumerate() {
                let mut expect = None;
                if !versions.contains_key(at) {
                    let last = self.store.last(&subjects[*at]).await?;
                    let sequence = last.as_ref().map_or(0, |message| message.position.sequence);
                    // A guard of the past; it can never hold again.
                    let past = sequence.checked_sub(1).unwrap_or(1 << 40);
                    expect = Some(if unit.stale { past } else { sequence });
                    let version = last.and_then(|message| message.header(header::SEQUENCE)?.parse().ok());
                    versions.insert(*at, version.unwrap_or(0));
                }
                let version = versions.get_mut(at).unwrap();
                *version += 1;
                let time = Timestamp::UNIX_EPOCH;
                let envelope = Envelope::new(fact, &subjects[*at], *version, index, time, &metadata);
                writes.push(Write::new(&subjects[*at], expect, &envelope, None, b"{}".to_vec()));
            }
            Ok(writes)
        }

        async fn log(&self, from: u64) -> Vec<Message> {
            let (from, until) = (From::Sequence(from), Until::End);
            let open = Reader::open(&self.connection, Context::Inventory, from, until, Filter::default());
            let mut reader = open.await.unwrap();
            let mut log = Vec::new();
            loop {
                let batch = reader.next_batch(1000).await.unwrap();
                if batch.is_empty() {
                    return log;
                }
                log.extend(batch);
            }
        }

        /// Everything at once, on aggregates of their own; then the log must agree with what everybody was told.
        async fn run(&self, units: Vec<Unit>, kill: bool) {
            let start = crate::last_sequence(&self.connection, Context::Inventory).await.unwrap() + 1;
            let clock = Clock::system();
            let subjects: Vec<Subject> =
                (0..6).map(|_| Aggregate::Item.subject(clock.uuid().simple())).collect();
            let commands = units.iter().map(|unit| (unit, CommandId::new(clock.uuid())));
            let asked = commands.flat_map(|(unit, command)| {
                let ask = || self.ask(&subjects, unit, command);
                (0..unit.times).map(move |_| ask()).collect::<Vec<_>>()
            });
            let killing = async {
                if kill {
                    // In the middle of what is asked at the same time.
                    tokio::time::timeout(
                        Duration::from_millis(fastrand::u64(1..30)),
                        std::future::pending::<()>(),
                    )
                    .await
                    .ok();
                    self.server.kill().await;
                    assert!(self.server.ready(DEADLINE).await);
                }
            };
            let all = async { tokio::join!(join_all(asked), killing).0 };
            let told = tokio::time::timeout(DEADLINE, all).await.expect("everybody is answered");
            let back = async {
                while !self.store.is_connected() || self.store.last(&subjects[0]).await.is_err() {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(DEADLINE, back).await.expect("the server is back");
            let log = tokio::time::timeout(DEADLINE, self.log(start)).await.expect("the log");
            agree(&log, &told);
        }
    }

    /// All or nothing, each guard true, versions without a gap, and nothing that nobody was told of.
    fn agree(log: &[Message], told: &[Told]) {
        let (mut last, mut versions) = (HashMap::new(), HashMap::new());
        let mut found: HashMap<&str, Vec<u64>> = HashMap::new();
        for message in log {
            let sequence = message.position.sequence;
            let before = last.insert(&message.subject, sequence).unwrap_or(0);
            if let Some(guard) = message.header("Nats-Expected-Last-Subject-Sequence") {
                assert_eq!(guard, before.to_string(), "the guard of {message:?}");
            }
            let version: &mut u64 = versions.entry(&message.subject).or_default();
            *version += 1;
            assert_eq!(message.header(header::SEQUENCE), Some(version.to_string().as_str()));
            found.entry(message.header(header::COMMAND).unwrap()).or_default().push(sequence);
        }
        let mut confirmed: HashMap<String, usize> = HashMap::new();
        let mut unsure: HashMap<String, usize> = HashMap::new();
        for Told { command, events, result } in told {
            let command = command.to_string();
            let sequences = found.get(command.as_str()).map_or(&[][..], Vec::as_slice);
            assert!(sequences.is_empty() || sequences.len() == *events, "all or nothing, and once");
            match result {
                Ok(Appended { first, duplicate }) => {
                    assert_eq!(sequences, (*first..first + *events as u64).collect::<Vec<_>>());
                    *confirmed.entry(command).or_default() += usize::from(!duplicate);
                }
                Err(AppendError::Unknown) => *unsure.entry(command).or_default() += 1,
                Err(AppendError::Conflict | AppendError::Unavailable(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
        assert!(confirmed.values().all(|times| *times <= 1), "one of the same appends did it");
        for command in found.keys() {
            let known = confirmed.contains_key(*command) || unsure.contains_key(*command);
            assert!(known, "{command} is recorded, and nobody was told");
        }
    }

    fn property(cases: u32, kill: bool) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let world = runtime.block_on(World::start());
        let config =
            ProptestConfig { cases, max_shrink_iters: 50, failure_persistence: None, ..Default::default() };
        let run = |units| {
            runtime.block_on(world.run(units, kill));
            Ok(())
        };
        TestRunner::new(config).run(&units(), run).unwrap();
        runtime.block_on(world.server.stop());
    }

    #[test]
    fn appends_that_share_batches_have_the_outcomes_of_single_ones() {
        property(24, false);
    }

    #[test]
    fn a_killed_server_changes_no_outcome() {
        property(5, true);
    }
}
