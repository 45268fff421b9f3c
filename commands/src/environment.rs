//! What the write sides share, and how one is put together.

use crate::{
    Executor, ExecutorMetrics,
    fraud::Fraud,
    fulfilment::{self, ProcessMetrics, Times},
    http::Api,
    inventory,
    notifications::{self, ChannelError, Channels},
    ops,
    orders::{self, UsersService},
    payments, reactions,
    reactor::Reacting,
    shipping::{self, CarrierGateway},
    users,
};
use events::{Context, orders::Workflow};
use futures::future::BoxFuture;
use nats::{
    Connection, Consumer, ConsumerMetrics, EventStore, Handler, KeyRing, Ledger, LedgerError, Manner,
    MasterKey, Parking, Policies, ReplayError, StoreOptions, TopologyError,
};
use service::{Clock, Metrics, Shutdown, origin::TrustedProxies};
use std::{sync::Arc, time::Duration};
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
    /// What each consumer does about a message that it cannot handle.
    pub policies: Policies,
    /// Time and new identifiers.
    pub clock: Clock,
    /// What the keys of tokens and digests come from.
    pub master_key: MasterKey,
    /// The keys of personal data.
    pub keys: KeyRing,
    /// The users service, which orders ask.
    pub users: UsersService,
    /// Who is believed on whose behalf a request comes: gateways.
    pub proxies: TrustedProxies,
    /// The world outside: who carries parcels.
    pub carrier: Arc<dyn CarrierGateway>,
    /// The fraud rules.
    pub fraud: Arc<Fraud>,
    /// Who carries orders that do not say.
    pub workflow: Workflow,
    /// How long sagas and holds wait.
    pub times: Times,
    /// How notifications are sent.
    pub channels: Channels,
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
    /// Notifications cannot be sent as they are configured.
    #[error("notifications cannot be sent")]
    Channels(#[from] ChannelError),
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
            Context::Orders => Box::pin(orders::write_side(build, env.workflow)).await,
            Context::Inventory => Ok(inventory::write_side(build)),
            // Payments ask the fraud rules and record what they say.
            Context::Payments | Context::Fraud => Box::pin(payments::write_side(build, &env.fraud)).await,
            Context::Shipping => Ok(shipping::write_side(build, &env.carrier)),
            Context::Notifications => Box::pin(notifications::write_side(build, &env.channels)).await,
            Context::Users => Box::pin(users::write_side(build)).await,
            Context::Fulfilment => Ok(fulfilment::write_side(build, env.times)),
            Context::Ops => Box::pin(ops::write_side(build)).await,
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
    pub(crate) proxies: TrustedProxies,
    pub(crate) parking: Parking,
    policies: Policies,
    metrics: ConsumerMetrics,
    pub(crate) processes: ProcessMetrics,
}

impl Build {
    async fn new(context: Context, env: &Environment, metrics: &Metrics) -> Result<Self, BuildError> {
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
            proxies: env.proxies.clone(),
            keys: env.keys.clone(),
            users: env.users.clone(),
            reactions: env.reactions.clone(),
            parking: Parking::open(&env.connection, store.clone(), env.clock.clone(), env.store.replicas)
                .await?,
            policies: env.policies.clone(),
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
        let consumer = |(stream, kinds): &(Context, &'static [&'static str])| {
            self.consumer(*stream, kinds, reactions::durable(self.context, *stream))
        };
        let consumers = interests.iter().map(|interest| (consumer(interest), Arc::clone(handler))).collect();
        self.finish_with(http, consumers)
    }

    /// The same, with consumers that were made one by one.
    pub(crate) fn finish_with(self, http: OpenApiRouter, consumers: Vec<(Consumer, Handler)>) -> WriteSide {
        WriteSide { http, executor: self.executor, consumers, followers: Vec::new() }
    }

    /// A durable consumer of a stream.
    pub(crate) fn consumer(
        &self,
        stream: Context,
        kinds: &'static [&'static str],
        durable: String,
    ) -> Consumer {
        Consumer {
            connection: self.reactions.clone(),
            service: self.context.token(),
            context: stream,
            interests: kinds,
            only: None,
            lag: Duration::ZERO,
            manner: Manner::React,
            policy: self.policies.of(&durable),
            durable,
            parking: self.parking.clone(),
            metrics: self.metrics.clone(),
        }
    }
}

impl Build {
    /// A service that reacts to nothing.
    pub(crate) fn quiet(self, http: OpenApiRouter) -> WriteSide {
        WriteSide { http, executor: self.executor, consumers: Vec::new(), followers: Vec::new() }
    }
}

impl WriteSide {
    /// With something that runs beside the reactions.
    pub(crate) fn beside(mut self, follower: impl Future<Output = ()> + Send + 'static) -> Self {
        self.followers.push(Box::pin(follower));
        self
    }
}
