//! Waybill in its durable profile: its executor, in this process as in a service, over a nats-server of its own.

use crate::{
    Result,
    event::{Event, Move, Parcel},
};
use commands::{Aggregate, Executor, ExecutorMetrics, Key, Refusal};
use events::{Actor, CommandId, Context, DecodeError, DomainEvent, FactType, Metadata};
use nats::{
    Connection, EventStore, StoreOptions,
    server::{Binary, Config, Server},
    topology,
};
use service::Clock;
use std::path::Path;

/// The executor and its server.
pub(crate) struct Waybill {
    executor: Executor,
    clock: Clock,
    _server: Server,
}

impl Waybill {
    /// Starts a server with `sync_interval: always` on `folder` and connects.
    pub(crate) async fn start(folder: &Path) -> Result<Self> {
        let server = Server::start(Config::new(Binary::locate(None).await?, folder)).await?;
        let connection = Connection::connect(&server.url(), "rivals").await?;
        topology::ensure(&connection, &[Context::Orders], 1).await?;
        let store = EventStore::new(&connection, StoreOptions::default());
        let clock = Clock::system();
        let executor = Executor::new(Context::Orders, store, clock.clone(), ExecutorMetrics::default());
        Ok(Self { executor, clock, _server: server })
    }

    /// Records one event: from the cached state, as the executor does, or with the cache emptied before.
    pub(crate) async fn append(&self, command: Move, loading: bool) -> Result<()> {
        let key = Key::<Parcel>::new(command.id);
        let first = if command.version == 1 && !loading { key.likely_new() } else { key.load() };
        if loading {
            self.executor.forget();
        }
        let request = self.clock.uuid();
        let metadata = Metadata {
            command: CommandId::new(request),
            correlation: request.into(),
            causation: request,
            actor: Actor::CLIENT,
            traceparent: None,
        };
        self.executor.execute(vec![first], metadata, move |decision| decision.apply(&key, command)).await?;
        Ok(())
    }
}

impl Aggregate for Parcel {
    /// Any of that context.
    const KIND: events::Aggregate = events::Aggregate::Order;
    const SCHEMA: &'static str = "parcel-1";
    type State = Self;
    type Command = Move;
    type Event = Event;
    type Rejection = Refusal;

    fn decide(state: &Self, command: Move) -> Result<Vec<Event>, Refusal> {
        let event = state.decide(command);
        event
            .map(|event| vec![event])
            .ok_or_else(|| Refusal::conflict("other-history", "not the next version"))
    }

    fn evolve(mut state: Self, event: &Event) -> Self {
        state.evolve(event);
        state
    }
}

impl DomainEvent for Event {
    const TYPES: &'static [FactType] = &[
        FactType { name: "parcel.created", version: 1, schema: Default::default },
        FactType { name: "parcel.moved", version: 1, schema: Default::default },
    ];

    fn fact_type(&self) -> &'static FactType {
        &Self::TYPES[usize::from(self.version > 1)]
    }

    #[expect(
        clippy::expect_used,
        reason = "the event is a struct of texts and integers, which JSON can always hold"
    )]
    fn to_json(&self) -> Vec<u8> {
        self.body().expect("an event is always JSON")
    }

    fn from_json(_: &str, _: u32, body: &[u8]) -> Result<Self, DecodeError> {
        serde_json::from_slice(body).map_err(|source| DecodeError::Body { kind: "parcel", source })
    }
}
