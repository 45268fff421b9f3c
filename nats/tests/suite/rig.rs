//! A server of its own for every test, and events to put into it.

use events::{
    Actor, Aggregate, CommandId, Context, DomainEvent, Envelope, Metadata, Sku, Subject,
    inventory::{ItemEvent, Stock, StockReceived},
};
use jiff::Timestamp;
use nats::{
    Connection, Durability, EventStore, Filter, From, Message, Reader, StoreOptions, Until, Write,
    server::{Binary, Config, Server},
};
use service::Clock;
use std::time::Duration;
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
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon(what, wait).await;
}

/// Asks again and again until the answer is the expected one; says what it was instead.
pub(crate) async fn becomes<T: PartialEq + std::fmt::Debug>(
    what: &str,
    expected: &T,
    mut is: impl AsyncFnMut() -> T,
) {
    let start = tokio::time::Instant::now();
    loop {
        let found = soon(what, is()).await;
        if found == *expected {
            return;
        }
        assert!(start.elapsed() < DEADLINE, "not in time: {what} is {found:?}, expected {expected:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) struct Rig {
    pub(crate) server: Server,
    pub(crate) connection: Connection,
    pub(crate) store: EventStore,
    pub(crate) folder: TempDir,
}

impl Rig {
    /// A durable server with the streams of every context.
    pub(crate) async fn start() -> Self {
        let rig = Self::bare().await;
        nats::topology::ensure(&rig.connection, &Context::ALL, 1).await.unwrap();
        rig
    }

    /// A server without any stream.
    pub(crate) async fn bare() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let binary = Binary::locate(None).await.unwrap();
        let config =
            Config { durability: Durability::Interval, ..Config::new(binary, folder.path().join("nats")) };
        let server = Server::start(config).await.unwrap();
        let connection = Connection::connect(&server.url(), "test").await.unwrap();
        let store = EventStore::new(&connection, StoreOptions::default());
        Self { server, connection, store, folder }
    }

    /// A store that waits so long for an answer.
    pub(crate) fn with_timeout(&self, timeout: Duration) -> EventStore {
        EventStore::new(&self.connection, StoreOptions { timeout, ..StoreOptions::default() })
    }

    /// Everything recorded of inventory.
    pub(crate) async fn log(&self) -> Vec<Message> {
        let (from, until) = (From::Start, Until::End);
        let mut reader =
            Reader::open(&self.connection, Context::Inventory, from, until, Filter::default()).await.unwrap();
        soon("the log", rest(&mut reader)).await
    }

    /// Plain access to the same server.
    pub(crate) async fn client(&self) -> async_nats::Client {
        async_nats::ConnectOptions::new().connect(self.server.url()).await.unwrap()
    }

    /// Waits until the connection is there again.
    pub(crate) async fn connected(&self) {
        until("connected again", async || self.connection.is_connected()).await;
        assert!(self.server.ready(DEADLINE).await);
    }
}

/// What a bounded reading still has.
pub(crate) async fn rest(reader: &mut Reader) -> Vec<Message> {
    let mut all = Vec::new();
    loop {
        let batch = reader.next_batch(100).await.unwrap();
        if batch.is_empty() {
            return all;
        }
        all.extend(batch);
    }
}

/// A new command.
pub(crate) fn command() -> CommandId {
    CommandId::new(Clock::system().uuid())
}

/// A new item.
pub(crate) fn item() -> Subject {
    Aggregate::Item.subject(sku())
}

fn sku() -> Sku {
    Clock::system().uuid().simple().to_string().to_uppercase().parse().unwrap()
}

/// The `index`-th event of a command: goods arrive.
pub(crate) fn event(
    of: &Subject,
    expect: Option<u64>,
    command: CommandId,
    index: usize,
    version: u64,
    tail: Option<String>,
) -> Write {
    sized(of, expect, (command, index, version), tail, 0)
}

/// An event with so many bytes more than usual.
pub(crate) fn sized(
    of: &Subject,
    expect: Option<u64>,
    (command, index, version): (CommandId, usize, u64),
    tail: Option<String>,
    more: usize,
) -> Write {
    let metadata = Metadata {
        command,
        correlation: command.uuid().into(),
        causation: command.uuid(),
        actor: Actor::CLIENT,
        traceparent: None,
    };
    let stock = Stock { on_hand: version, reserved: 0 };
    let fact = ItemEvent::from(StockReceived { sku: of.id().parse().unwrap(), quantity: 1, stock });
    let envelope = Envelope::new(fact.fact_type(), of, version, index, Timestamp::UNIX_EPOCH, &metadata);
    let mut body = fact.to_json();
    body.resize(body.len() + more, b' ');
    Write::new(of, expect, &envelope, tail, body)
}

/// The only event of a new command on a new item.
pub(crate) fn first(of: &Subject) -> Write {
    event(of, Some(0), command(), 0, 1, None)
}
