//! What a measurement runs on: a nats-server of its own, an executor, and orders to place.

use crate::{
    api::Tokens,
    failure::Failure,
    system::{Config, Service, System},
};
use commands::{
    Executor, ExecutorMetrics, Key,
    orders::{Order, OrderCommand, Placement},
};
use events::{
    AccountId, Actor, Address, CommandId, Context, DataKey, Metadata, Money, OrderId, Personal, Sku, UserId,
    orders::Line, personal::NONCE,
};
use nats::{Connection, Durability, EventStore, MasterKey, StoreOptions, server, topology};
use service::Clock;
use std::{net::SocketAddr, sync::LazyLock};
use tempfile::TempDir;
use tokio::net::TcpListener;
use uuid::Uuid;

/// A nats-server with empty streams, and a connection to it.
pub(super) struct Stage {
    pub(super) clock: Clock,
    pub(super) connection: Connection,
    pub(super) durability: Durability,
    pub(super) server: server::Server,
    pub(super) master_key: MasterKey,
    pub(super) folder: TempDir,
}

impl Stage {
    pub(super) async fn open(durability: Durability) -> Result<Self, Failure> {
        let folder = tempfile::tempdir()?;
        let binary = server::Binary::locate(None).await?;
        let config = server::Config { durability, ..server::Config::new(binary, folder.path().join("nats")) };
        let server = server::Server::start(config).await?;
        let connection = Connection::connect(&server.url(), "waybill bench").await?;
        topology::ensure(&connection, &Context::ALL, 1).await?;
        let master_key = MasterKey::generate();
        Ok(Self { clock: Clock::system(), connection, durability, server, master_key, folder })
    }

    pub(super) fn executor(&self, context: Context) -> Executor {
        let options = StoreOptions { durability: self.durability, ..StoreOptions::default() };
        let store = EventStore::new(&self.connection, options);
        Executor::new(context, store, self.clock.clone(), ExecutorMetrics::default())
    }

    /// How services are configured that run on it.
    pub(super) fn config(&self) -> Config {
        let (durability, master_key) = (self.durability, self.master_key.clone());
        Config { durability, master_key, ..Config::new(self.server.url(), self.folder.path().join("views")) }
    }

    /// Starts services in this process. With where orders are taken.
    pub(super) async fn start(
        &self,
        services: impl IntoIterator<Item = Service>,
    ) -> Result<(System, SocketAddr), Failure> {
        let system = System::start(&self.config(), listeners(services).await?).await?;
        let orders = *system.addresses().get(&Service::Orders).ok_or("orders are not running")?;
        Ok((system, orders))
    }

    /// An access token of a customer, longer valid than any measurement takes.
    pub(super) async fn token(&self, user: Uuid) -> Result<String, Failure> {
        let tokens = Tokens::open(&self.server.url(), &self.master_key, &self.clock).await?;
        tokens.customer_for_a_day(user).await
    }

    pub(super) async fn close(self) {
        self.server.stop().await;
    }
}

/// A port for each of these services.
pub(super) async fn listeners(
    services: impl IntoIterator<Item = Service>,
) -> Result<Vec<(Service, TcpListener)>, Failure> {
    let mut listeners = Vec::new();
    for service in services {
        listeners.push((service, TcpListener::bind("127.0.0.1:0").await?));
    }
    Ok(listeners)
}

/// Memory that a process has resident, where the system tells.
pub(super) fn resident_mib(pid: u32) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024.0)
}

/// CPU time of a process, in seconds, where the system tells.
pub(super) struct Times {
    pub(super) own: f64,
    /// Of its children that have ended.
    pub(super) ended: f64,
    /// Whose child it is.
    pub(super) parent: u32,
}

/// What the kernel says of a process: its number, or `self`.
pub(super) fn times(process: &str) -> Option<Times> {
    /// Clock ticks per second in /proc, the same on every Linux that Rust supports.
    const TICKS: f64 = 100.0;
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name in brackets may hold spaces. Behind it: state and parent, and from the 12th on user and system time, and the same
    // of the children.
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let parent = fields.get(1)?.parse().ok()?;
    let ticks = |place: usize| fields.get(place)?.parse::<f64>().ok();
    let (own, ended) = (ticks(11)? + ticks(12)?, ticks(13)? + ticks(14)?);
    Some(Times { own: own / TICKS, ended: ended / TICKS, parent })
}

/// A fresh command of a client.
pub(super) fn metadata(clock: &Clock) -> Metadata {
    let command = CommandId::new(clock.uuid());
    Metadata {
        command,
        correlation: command.uuid().into(),
        causation: command.uuid(),
        actor: Actor::CLIENT,
        traceparent: None,
    }
}

/// An ordinary order of one line: about 500 bytes.
#[expect(clippy::expect_used, reason = "the SKU and the currency are constants that are valid")]
pub(super) fn placement(id: Uuid) -> Placement {
    let unit_price = Money::new(1999, "EUR".parse().expect("valid"));
    let line = Line { sku: Sku::new("TEA-1").expect("valid"), quantity: 2, unit_price };
    Placement {
        order_id: OrderId::new(id),
        user_id: UserId::new(CUSTOMER),
        account_id: AccountId::new(id),
        items: vec![line],
        shipping_address: SEALED.clone(),
        workflow: events::orders::Workflow::Choreography,
        user_snapshot: events::orders::UserSnapshot::default(),
    }
}

/// The address it goes to.
pub(super) fn address() -> Address {
    Address {
        name: "Ada Lovelace".to_owned(),
        line1: "12 St James's Square".to_owned(),
        line2: None,
        city: "London".to_owned(),
        postal_code: "SW1Y 4JH".to_owned(),
        country: "GB".to_owned(),
    }
}

/// Whose orders these are.
const CUSTOMER: Uuid = Uuid::from_u128(1);

/// The address as a handler seals it, once: sealing is no part of what the executor does.
static SEALED: LazyLock<Personal<Address>> =
    LazyLock::new(|| Personal::seal(&address(), UserId::new(CUSTOMER), &DataKey::new([1; 32]), [2; NONCE]));

/// Asks one order something; whether it was recorded.
pub(super) async fn ask(
    executor: &Executor,
    clock: &Clock,
    id: Uuid,
    new: bool,
    command: OrderCommand,
) -> bool {
    let key = Key::<Order>::new(id);
    let keys = vec![if new { key.likely_new() } else { key.load() }];
    let run = move |decision: &mut commands::Decision| decision.apply(&key, command.clone());
    let result = executor.execute(keys, metadata(clock), run).await;
    if let Err(error) = &result {
        // Counted by whoever asks; the first ones tell why.
        tracing::warn!(%error, "an operation failed");
    }
    result.is_ok()
}
