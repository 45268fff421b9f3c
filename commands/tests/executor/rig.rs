//! A server, executors on it as if in processes of their own, and a shelf to put things on.

use commands::{
    Aggregate, AnyKey, Decision, ExecuteError, Executor, ExecutorMetrics, Key, Receipt, Refusal, Stop,
};
use events::{
    Actor, CommandId, Context, Metadata, Sku,
    inventory::{ItemEvent, Stock, StockAdjusted},
};
use nats::{
    Connection, Durability, EventStore, Filter, From, Message, Reader, StoreMetrics, StoreOptions, Until,
    server::{Binary, Config, Server},
};
use prometheus_client::{encoding::text::encode, registry::Registry};
use service::Clock;
use std::{sync::Arc, time::Duration};
use tempfile::TempDir;

/// Far more than anything here takes: only a hang gets there.
pub(crate) const DEADLINE: Duration = Duration::from_mins(1);

/// Waits for something that must happen.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("not in time: {what}"))
}

/// Asks again and again until the answer is yes.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon(what, wait).await;
}

/// An aggregate without rules but one: nothing is taken that is not there.
pub(crate) struct Shelf;

#[derive(Clone, Debug)]
pub(crate) enum Change {
    Put(u32),
    Take(u32),
    /// So many events.
    Shuffle(u32),
    /// An event of so many bytes.
    Describe(usize),
    /// No event where nothing is on it, else all is taken.
    Clear,
}

impl Aggregate for Shelf {
    const KIND: events::Aggregate = events::Aggregate::Item;
    const SCHEMA: &'static str = "shelf/1";
    type State = Stock;
    type Command = (Sku, Change);
    type Event = ItemEvent;
    type Rejection = Refusal;

    fn decide(state: &Stock, (sku, change): Self::Command) -> Result<Vec<ItemEvent>, Refusal> {
        let event = |delta: i64, reason: String| {
            let on_hand = state.on_hand.checked_add_signed(delta)?;
            let stock = Stock { on_hand, reserved: 0 };
            Some(ItemEvent::from(StockAdjusted { sku: sku.clone(), delta, reason, stock }))
        };
        let empty = || Refusal::conflict("empty", "nothing is left");
        let changed = |delta| event(delta, String::new()).ok_or_else(empty);
        Ok(match change {
            Change::Put(count) => vec![changed(count.into())?],
            Change::Take(count) => vec![changed(-i64::from(count))?],
            Change::Shuffle(count) => (0..count).map(|_| changed(0)).collect::<Result<_, _>>()?,
            Change::Describe(size) => vec![event(0, "x".repeat(size)).ok_or_else(empty)?],
            Change::Clear if state.on_hand == 0 => vec![],
            Change::Clear => vec![changed(-i64::try_from(state.on_hand).unwrap())?],
        })
    }

    fn evolve(_: Stock, event: &ItemEvent) -> Stock {
        match event {
            ItemEvent::Adjusted(fact) => fact.stock,
            _ => Stock::default(),
        }
    }
}

pub(crate) struct Rig {
    pub(crate) server: Server,
    pub(crate) folder: TempDir,
}

/// What one process has.
#[derive(Clone)]
pub(crate) struct Process {
    pub(crate) executor: Executor,
    registry: Arc<Registry>,
}

impl Rig {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let binary = Binary::locate(None).await.unwrap();
        let config =
            Config { durability: Durability::Interval, ..Config::new(binary, folder.path().join("nats")) };
        let server = Server::start(config).await.unwrap();
        let rig = Self { server, folder };
        nats::topology::ensure(&rig.connect().await, &[Context::Inventory], 1).await.unwrap();
        rig
    }

    pub(crate) async fn connect(&self) -> Connection {
        assert!(self.folder.path().exists());
        Connection::connect(&self.server.url(), "test").await.unwrap()
    }

    pub(crate) async fn process(&self) -> Process {
        Process::at(&self.server.url()).await
    }

    /// Everything recorded, with its command.
    pub(crate) async fn log(&self) -> Vec<Message> {
        let connection = self.connect().await;
        let open = Reader::open(&connection, Context::Inventory, From::Start, Until::End, Filter::default());
        let mut reader = open.await.unwrap();
        let mut all = Vec::new();
        loop {
            let batch = soon("the log", reader.next_batch(1000)).await.unwrap();
            if batch.is_empty() {
                return all;
            }
            all.extend(batch);
        }
    }

    /// The versions of a shelf in the log, which must have no gap: how many.
    pub(crate) async fn versions(&self, of: &Key<Shelf>) -> u64 {
        let log = self.log().await;
        let versions = log.iter().filter(|message| message.subject == *of.subject());
        versions.zip(1..).fold(0, |_, (message, version)| {
            assert_eq!(message.envelope().unwrap().version, version, "{}", of.subject());
            version
        })
    }
}

impl Process {
    pub(crate) async fn at(url: &str) -> Self {
        let connection = Connection::connect(url, "test").await.unwrap();
        let metrics = StoreMetrics::default();
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let options = StoreOptions { durability: Durability::Interval, metrics, ..StoreOptions::default() };
        let store = EventStore::new(&connection, options);
        let executor = Executor::new(Context::Inventory, store, Clock::system(), ExecutorMetrics::default());
        Self { executor, registry: Arc::new(registry) }
    }

    /// Changes one shelf.
    pub(crate) async fn change(&self, of: &Key<Shelf>, change: Change) -> Result<Receipt, ExecuteError> {
        self.repeat(command(), of, change).await
    }

    /// Changes one shelf by a command that may have been given before.
    pub(crate) async fn repeat(
        &self,
        id: CommandId,
        of: &Key<Shelf>,
        change: Change,
    ) -> Result<Receipt, ExecuteError> {
        self.run(id, vec![of.load()], apply(of, change)).await
    }

    pub(crate) async fn run(
        &self,
        id: CommandId,
        keys: Vec<AnyKey>,
        run: impl Fn(&mut Decision) -> Result<(), Stop> + Send + Sync + 'static,
    ) -> Result<Receipt, ExecuteError> {
        soon("a command", self.executor.execute(keys, metadata(id), run)).await
    }

    /// What is on a shelf, as the log has it.
    pub(crate) async fn on(&self, key: &Key<Shelf>) -> u64 {
        self.executor.state(key).await.unwrap().on_hand
    }

    /// A counter of the store, such as `waybill_appends_total{outcome="stored"}`.
    pub(crate) fn count(&self, name: &str) -> u64 {
        let mut text = String::new();
        encode(&mut text, &self.registry).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.map_or(0, |line| line.trim().parse().unwrap())
    }
}

/// A change of one shelf as a decision.
pub(crate) fn apply(
    of: &Key<Shelf>,
    change: Change,
) -> impl Fn(&mut Decision) -> Result<(), Stop> + Send + Sync + 'static {
    let key = again(of);
    move |decision| decision.apply(&key, (sku(&key), change.clone()))
}

pub(crate) fn metadata(command: CommandId) -> Metadata {
    let (correlation, causation) = (command.uuid().into(), command.uuid());
    Metadata { command, correlation, causation, actor: Actor::CLIENT, traceparent: None }
}

/// A new command.
pub(crate) fn command() -> CommandId {
    CommandId::new(Clock::system().uuid())
}

/// A new shelf.
pub(crate) fn shelf() -> Key<Shelf> {
    Key::new(Clock::system().uuid().simple())
}

/// The same key again.
pub(crate) fn again(key: &Key<Shelf>) -> Key<Shelf> {
    Key::new(key.subject().id())
}

pub(crate) fn refused<T>(result: &Result<T, ExecuteError>) -> bool {
    matches!(result, Err(ExecuteError::Refused(_)))
}

/// What is on the shelf.
pub(crate) fn sku(key: &Key<Shelf>) -> Sku {
    key.subject().id().parse().unwrap()
}
