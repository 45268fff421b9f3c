//! What the write sides share, and how one is put together.

use crate::{
    Executor, ExecutorMetrics,
    fraud::Fraud,
    fulfilment::{self, ProcessMetrics, Times},
    http::Api,
    inventory,
    orders::{self, UsersService},
    payments,
    reactor::Reacting,
    shipping::{self, CarrierGateway},
    users,
};
use events::{Context, orders::Workflow};
use futures::future::BoxFuture;
use nats::{
    Connection, Consumer, ConsumerMetrics, EventStore, Handler, KeyRing, Ledger, LedgerError, MasterKey,
    ReplayError, StoreOptions, TopologyError,
};
use service::{Clock, Metrics, Shutdown};
use std::sync::Arc;
use utoipa_axum::router::OpenApiRouter;

/// What every write side is built from. Cheap to clone.
#[derive(Clone)]
pub struct Environment {
    /// For commands and their appends.
    pub connection: Connection,
    /// For reactions: their deliveries do not queue behind commands.
    pub reactions: Connection,
    /// How appends are made.
    pub store: StoreOptions,
    /// Time and new identifiers.
    pub clock: Clock,
    /// What the keys of tokens and digests come from.
    pub master_key: MasterKey,
    /// The keys of personal data.
    pub keys: KeyRing,
    /// The users service, which orders ask.
    pub users: UsersService,
    /// The world outside: who carries parcels.
    pub carrier: Arc<dyn CarrierGateway>,
    /// The fraud rules.
    pub fraud: Arc<Fraud>,
    /// Who carries orders that do not say.
    pub workflow: Workflow,
    /// How long sagas and holds wait.
    pub times: Times,
}

/// One service's write side: its HTTP API and its reactions.
pub struct WriteSide {
    /// The HTTP API.
    pub http: OpenApiRouter,
    /// The executor of the service's own commands.
    pub executor: Executor,
    consumers: Vec<(Consumer, Handler)>,
    /// What runs beside the reactions: copies that are kept up to date.
    followers: Vec<BoxFuture<'static, ()>>,
}

/// Why a write side cannot be put together.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Its ledger cannot be opened.
    #[error("the ledger of idempotency keys cannot be opened")]
    Ledger(#[from] LedgerError),
    /// A stream that it follows cannot be read.
    #[error("a stream that the service follows cannot be read")]
    Replay(#[from] ReplayError),
    /// A bucket beside the log is not as it has to be.
    #[error("a bucket of the service cannot be opened")]
    Bucket(#[from] TopologyError),
    /// The keys of access tokens cannot be opened.
    #[error("the keys of access tokens cannot be opened")]
    Keys(#[from] users::tokens::OpenError),
}

impl WriteSide {
    /// The write side of the service that owns `context`; counts into `metrics`. The context's own streams and
    /// buckets exist ([`nats::topology::ensure`]).
    pub async fn build(context: Context, env: &Environment, metrics: &Metrics) -> Result<Self, BuildError> {
        let build = Build::new(context, env, metrics).await?;
        match context {
            Context::Orders => orders::write_side(build, env.workflow).await,
            Context::Inventory => Ok(inventory::write_side(build)),
            // Payments ask the fraud rules and record what they say.
            Context::Payments | Context::Fraud => payments::write_side(build, &env.fraud).await,
            Context::Shipping => Ok(shipping::write_side(build, &env.carrier)),
            Context::Users => Box::pin(users::write_side(build)).await,
            Context::Fulfilment => Ok(fulfilment::write_side(build, env.times)),
        }
    }

    /// Starts reacting, until the shutdown begins.
    pub fn react(&mut self, shutdown: &Shutdown) {
        for (consumer, handler) in self.consumers.drain(..) {
            shutdown.spawn(consumer.run(handler, shutdown.token()));
        }
        for follower in self.followers.drain(..) {
            let stop = shutdown.token();
            shutdown.spawn(async move { stop.run_until_cancelled(follower).await });
        }
    }
}

/// The parts a service's write side is made of.
pub(crate) struct Build {
    context: Context,
    pub(crate) executor: Executor,
    /// For the payments service: it records what the fraud rules say.
    pub(crate) assessments: Executor,
    pub(crate) ledger: Ledger,
    pub(crate) clock: Clock,
    pub(crate) connection: Connection,
    pub(crate) keys: KeyRing,
    pub(crate) users: UsersService,
    pub(crate) reactions: Connection,
    /// Copies of what is kept.
    pub(crate) replicas: usize,
    pub(crate) master_key: MasterKey,
    metrics: ConsumerMetrics,
    pub(crate) processes: ProcessMetrics,
}

impl Build {
    async fn new(context: Context, env: &Environment, metrics: &Metrics) -> Result<Self, LedgerError> {
        let (executing, consuming) = (ExecutorMetrics::default(), ConsumerMetrics::default());
        executing.register(&mut metrics.registry());
        consuming.register(&mut metrics.registry());
        let processes = ProcessMetrics::default();
        if context == Context::Fulfilment {
            processes.register(&mut metrics.registry());
        }
        let store = EventStore::new(&env.connection, env.store.clone());
        let executor = |context| Executor::new(context, store.clone(), env.clock.clone(), executing.clone());
        Ok(Self {
            context,
            executor: executor(context),
            assessments: executor(Context::Fraud),
            ledger: Ledger::open(&env.connection, context).await?,
            clock: env.clock.clone(),
            connection: env.connection.clone(),
            replicas: env.store.replicas,
            master_key: env.master_key.clone(),
            keys: env.keys.clone(),
            users: env.users.clone(),
            reactions: env.reactions.clone(),
            metrics: consuming,
            processes,
        })
    }

    /// Who reacts for the service.
    pub(crate) fn reacting(&self, service: &'static str) -> Reacting {
        Reacting { executor: self.executor.clone(), clock: self.clock.clone(), service }
    }

    /// What the service's endpoints need.
    pub(crate) fn api(&self) -> Api {
        Api { executor: self.executor.clone(), ledger: self.ledger.clone(), clock: self.clock.clone() }
    }

    /// One durable consumer for each stream the service reacts to.
    pub(crate) fn finish(
        self,
        http: OpenApiRouter,
        interests: &'static [(Context, &'static [&'static str])],
        handler: &Handler,
    ) -> WriteSide {
        let consumer = |(stream, kinds): &(Context, &'static [&'static str])| Consumer {
            connection: self.reactions.clone(),
            service: self.context.token(),
            context: *stream,
            durable: format!("{}-{stream}", self.context),
            interests: kinds,
            metrics: self.metrics.clone(),
        };
        let consumers = interests.iter().map(|interest| (consumer(interest), Arc::clone(handler))).collect();
        WriteSide { http, executor: self.executor, consumers, followers: Vec::new() }
    }
}

impl WriteSide {
    /// With something that runs beside the reactions.
    pub(crate) fn beside(mut self, follower: impl Future<Output = ()> + Send + 'static) -> Self {
        self.followers.push(Box::pin(follower));
        self
    }
}
