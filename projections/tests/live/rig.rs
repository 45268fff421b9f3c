//! A read model that is served over HTTP, and events to put into its streams.

use crate::{client::Events, postgres::Cluster, streams::Streams};
use axum::{Router, extract::Request, middleware, middleware::Next};
use events::{
    Actor, Aggregate, CommandId, Context, DomainEvent, Envelope, Metadata, Money, Sku,
    inventory::{ProductAdded, ProductEvent, ProductRepriced},
};
use nats::{
    ChangeFeed, Connection, EventStore, FeedOptions, KeyRing, Policy, ReadModels, Write, server::Server,
};
use projections::{
    Feed, FeedMetrics, LiveOptions, Outlet, Progress, ProjectionMetrics, Projections, Rebuilds,
    StreamProgress, View, database::Storage,
};
use serde_json::Value;
use service::{
    Clock, Metrics, Shutdown,
    auth::{Principal, Role},
};
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};
use tempfile::TempDir;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};
use uuid::Uuid;

/// Far more than anything here takes: only a hang gets there.
pub(crate) const DEADLINE: Duration = Duration::from_mins(1);

/// So many events a writer may be ahead of the read model.
const LEAD: u64 = 1000;

pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("not in time: {what}"))
}

pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon(what, wait).await;
}

/// A nats-server with its streams, and what several processes would share.
pub(crate) struct Rig {
    pub(crate) server: Server,
    pub(crate) connection: Connection,
    pub(crate) store: EventStore,
    pub(crate) keys: KeyRing,
    pub(crate) folder: TempDir,
    pub(crate) feed: FeedOptions,
    /// Where PostgreSQL is; without it read models are on SQLite.
    cluster: Option<Arc<Cluster>>,
    /// How long the names of products are.
    pub(crate) width: std::sync::atomic::AtomicUsize,
    /// Last sequence of each product, and how often it was changed.
    products: Mutex<std::collections::BTreeMap<String, (u64, u64)>>,
}

/// One process of a service.
pub(crate) struct Node {
    pub(crate) address: SocketAddr,
    pub(crate) projections: Projections,
    pub(crate) metrics: Metrics,
    pub(crate) shutdown: Shutdown,
}

impl Rig {
    pub(crate) async fn start() -> Self {
        let Streams { server, connection, store, keys, folder } = Streams::start().await;
        let (feed, products) = (FeedOptions::default(), Mutex::default());
        Self { server, connection, store, keys, folder, feed, cluster: None, width: 0.into(), products }
    }

    /// The same with read models on PostgreSQL.
    pub(crate) async fn on_postgres() -> Self {
        Self { cluster: Some(Cluster::shared()), ..Self::start().await }
    }

    pub(crate) const fn is_on_postgres(&self) -> bool {
        self.cluster.is_some()
    }

    /// Where the tables are that are called so.
    fn storage(&self, name: &str) -> Storage {
        let Some(cluster) = &self.cluster else {
            let folder = self.folder.path().join(name);
            std::fs::create_dir_all(&folder).unwrap();
            return Storage::Sqlite(folder);
        };
        // A server is shared by tests: the port of NATS tells them apart.
        let name = format!("{name}_{}", self.server.url().rsplit(':').next().unwrap());
        let there = cluster.sql("postgres", &format!("SELECT 1 FROM pg_database WHERE datname = '{name}'"));
        let url = if there == "1" { cluster.url(&name) } else { cluster.database(&name) };
        Storage::Postgres(url.parse().unwrap())
    }

    pub(crate) async fn read_models(&self) -> ReadModels {
        ReadModels::open(&self.connection, self.store.clone(), Clock::system(), 1).await.unwrap()
    }

    pub(crate) async fn changes(&self, service: &'static str) -> ChangeFeed {
        ChangeFeed::open(&self.connection, service, self.feed).await.unwrap()
    }

    /// A process with tables of its own in `folder`.
    pub(crate) async fn node(&self, service: &'static str, folder: &str, live: LiveOptions) -> Node {
        let (metrics, shutdown) = (Metrics::new(), Shutdown::new());
        let outlet = Outlet { feed: self.changes(service).await, metrics: FeedMetrics::new(&metrics) };
        let projections = self.projections(service, folder, Some(outlet.clone()), &metrics, &shutdown).await;
        self.serve(projections, outlet, live, metrics, shutdown).await
    }

    /// The same, but nobody tells what is written.
    pub(crate) async fn mute(&self, service: &'static str) -> Node {
        let (metrics, shutdown) = (Metrics::new(), Shutdown::new());
        let outlet = Outlet { feed: self.changes(service).await, metrics: FeedMetrics::new(&metrics) };
        let projections = self.projections(service, service, None, &metrics, &shutdown).await;
        self.serve(projections, outlet, LiveOptions::default(), metrics, shutdown).await
    }

    async fn serve(
        &self,
        projections: Projections,
        outlet: Outlet,
        live: LiveOptions,
        metrics: Metrics,
        shutdown: Shutdown,
    ) -> Node {
        let routes = projections.live(&self.keys, &outlet, live, &shutdown);
        let router = Router::from(routes).layer(middleware::from_fn(speaks));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = service::http::layers("test", router, Clock::system(), &Metrics::new());
        shutdown.spawn(service::http::serve(listener, router, shutdown.token(), Duration::from_secs(2)));
        Node { address, projections, metrics, shutdown }
    }

    pub(crate) async fn usual(&self, service: &'static str) -> Node {
        self.node(service, service, LiveOptions::default()).await
    }

    pub(crate) async fn projections(
        &self,
        service: &str,
        folder: &str,
        outlet: Option<Outlet>,
        metrics: &Metrics,
        shutdown: &Shutdown,
    ) -> Projections {
        let (connection, rebuilds) = (self.connection.clone(), Rebuilds::default());
        let read_models = Some(self.read_models().await);
        let policy = Policy::default();
        let feed = Feed { connection, parking: None, policy, read_models, rebuilds, outlet };
        let view = View::of(service).unwrap();
        let counters = ProjectionMetrics::new(metrics);
        let storage = self.storage(folder);
        let clock = Clock::system();
        Projections::start(view, &feed, &storage, clock, metrics, counters, shutdown).await.unwrap()
    }

    /// Like [`Rig::product`], no faster than the read model follows: far behind the log it tells nothing of single changes.
    pub(crate) async fn product_behind(&self, progress: &mut watch::Receiver<Progress>, name: &str) {
        let written = self.product(name).await;
        let reached = |progress: &Progress| {
            let inventory = |stream: &StreamProgress| stream.position.context == Context::Inventory;
            progress
                .streams
                .iter()
                .any(|stream| inventory(stream) && stream.position.sequence + LEAD > written)
        };
        soon("the read model follows", progress.wait_for(reached)).await.unwrap();
    }

    /// Adds a product, or changes its price to how often it was changed. Gives its sequence.
    pub(crate) async fn product(&self, name: &str) -> u64 {
        let (last, count) = self.products.lock().unwrap().get(name).copied().unwrap_or_default();
        let sku: Sku = name.parse().unwrap();
        let price = Money::new(i64::try_from(count + 1).unwrap(), "EUR".parse().unwrap());
        let (text, subject) = (
            format!("The {name:0$}", self.width.load(std::sync::atomic::Ordering::SeqCst)),
            Aggregate::Product.subject(&sku),
        );
        let event: ProductEvent = if count == 0 {
            ProductAdded { sku, name: text, price }.into()
        } else {
            ProductRepriced { sku, name: text, price }.into()
        };
        let command = CommandId::new(Clock::system().uuid());
        let (correlation, causation) = (command.uuid().into(), command.uuid());
        let from = Metadata { command, correlation, causation, actor: Actor::CLIENT, traceparent: None };
        let now = Clock::system().now();
        let envelope = Envelope::new(event.fact_type(), &subject, count + 1, 0, now, &from);
        let write = Write::new(&subject, Some(last), &envelope, None, event.to_json());
        let appended = self.store.append(vec![write]).await.unwrap();
        self.products.lock().unwrap().insert(name.to_owned(), (appended.first, count + 1));
        appended.first
    }

    /// How often each product was changed.
    pub(crate) fn prices(&self) -> std::collections::BTreeMap<String, u64> {
        let products = self.products.lock().unwrap();
        products.iter().map(|(name, (_, count))| (name.clone(), *count)).collect()
    }

    /// Records the steps of an order that goes well, one after the other, each once the read model has the one before.
    pub(crate) async fn order(&self, number: u64, node: &Node) {
        let mut created = 0;
        for made in crate::flows::flow(number) {
            let expect = if made.envelope.version == 1 { 0 } else { created };
            let write = Write::new(&made.subject, Some(expect), &made.envelope, None, made.body.clone());
            let appended = self.store.append(vec![write]).await.unwrap();
            created = if created == 0 { appended.first } else { created };
            let position = events::Position { context: made.subject.context(), sequence: appended.first };
            let mut progress = node.projections.progress();
            let there = progress.wait_for(|progress| progress.has(position) != Some(false));
            soon("it is projected", there).await.unwrap();
        }
    }
}

impl Node {
    pub(crate) async fn get(&self, path: &str, user: Uuid) -> (u16, Value) {
        let mut events = Events::open(self.address, path, user, None).await.unwrap();
        let status = events.status;
        (status, serde_json::from_str(&events.rest().await).unwrap_or_default())
    }

    pub(crate) async fn follow(&self, path: &str, user: Uuid) -> Events {
        Events::open(self.address, path, user, None).await.unwrap()
    }

    /// What the metrics say; 0 where they say nothing.
    pub(crate) fn counted(&self, name_and_labels: &str) -> f64 {
        let page = self.metrics.render();
        let line = page.lines().find_map(|line| line.strip_prefix(name_and_labels).map(str::to_owned));
        line.map_or(0.0, |value| value.trim().parse().unwrap())
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }
}

/// Who asks is said in a header here; the nil user is an operator.
async fn speaks(mut request: Request, next: Next) -> axum::response::Response {
    let user = request.headers().get("x-user").and_then(|value| value.to_str().ok()?.parse().ok());
    if let Some(user) = user {
        let role = if user == Uuid::nil() { Role::Operator } else { Role::Customer };
        request.extensions_mut().insert(Principal { user, role, token: Uuid::nil() });
    }
    next.run(request).await
}

pub(crate) const OPERATOR: Uuid = Uuid::nil();
