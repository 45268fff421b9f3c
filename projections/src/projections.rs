//! The front door: the read model of one service, kept up to date and open for queries.

use crate::{
    Progress, View,
    database::{Database, DatabaseError, Storage},
    freshness,
    metrics::{Lag, ProjectionMetrics},
    projector::Projector,
};
use axum::{Extension, middleware::from_fn_with_state};
use jiff::Timestamp;
use nats::{KeyRing, Parking};
use service::{Clock, Metrics, Problem, Shutdown};
use std::sync::Arc;
use tokio::sync::watch;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;

/// The schema of every refusal, which is not collected from the routes.
#[derive(OpenApi)]
#[openapi(components(schemas(Problem)))]
struct Schemas;

/// Where facts come from.
#[derive(Clone)]
pub struct Feed {
    /// The streams.
    pub connection: nats::Connection,
    /// Where operators see what cannot be read, and ask for it. Without it such an event stops its stream.
    pub parking: Option<Parking>,
}

/// The read model of one service. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Projections {
    database: Database,
    progress: watch::Receiver<Progress>,
    view: &'static View,
    clock: Clock,
}

impl Projections {
    /// Opens the database in `storage` and keeps it up to date until the shutdown. The streams have to exist.
    pub async fn start(
        view: &'static View,
        feed: &Feed,
        storage: &Storage,
        clock: Clock,
        metrics: &Metrics,
        counters: ProjectionMetrics,
        shutdown: &Shutdown,
    ) -> Result<Self, DatabaseError> {
        let database = Database::open(storage, view, 1).await?;
        let checkpoints = database.writer().await?.checkpoints().await?;
        let (sender, progress) = watch::channel(Progress::new(&checkpoints));
        let lag = Lag { projection: view.name, progress: progress.clone(), clock: clock.clone() };
        metrics.registry().register_collector(Box::new(lag));
        let projector = Projector {
            view,
            connection: feed.connection.clone(),
            parking: feed.parking.clone(),
            database: database.clone(),
            progress: sender,
            bound: None,
            metrics: counters,
        };
        shutdown.spawn(projector.run(shutdown.clone()));
        Ok(Self { database, progress, view, clock })
    }

    /// The queries, documented. What is personal in their answers is opened with `keys`, when it is asked for.
    pub fn router(&self, keys: &KeyRing) -> OpenApiRouter {
        let fresh = from_fn_with_state(self.clone(), freshness::layer);
        let routes = OpenApiRouter::with_openapi(Schemas::openapi()).merge((self.view.routes)());
        routes.layer(fresh).layer(Extension(keys.clone())).with_state(self.clone())
    }

    /// How far the read model is; changes with every commit.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// Whether the read model is as good as up to date.
    pub fn check(&self) -> service::Check {
        let (progress, clock) = (self.progress.clone(), self.clock.clone());
        Arc::new(move || progress.borrow().check(clock.now()))
    }

    /// The time.
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The database, for reading.
    pub fn database(&self) -> &Database {
        &self.database
    }
}
