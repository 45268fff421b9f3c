//! The front door: the read model of one service, kept up to date and open for queries.

use crate::{
    FeedMetrics, Progress, View,
    database::{Database, DatabaseError, Row, Storage},
    freshness,
    generations::{Gauges, Rebuilds, Serving, Shared},
    history::History,
    metrics::{Lag, ProjectionMetrics},
    past::{self, Past},
    telling::Teller,
};
use axum::{Extension, middleware::from_fn_with_state};
use events::{Context, Position};
use jiff::Timestamp;
use nats::{ChangeFeed, KeyRing, Parking, Policy, ReadModel, ReadModels, State};
use service::{Clock, Metrics, Problem, Shutdown};
use std::sync::Arc;
use tokio::sync::watch;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;

/// The schemas that are not collected from the routes: every refusal, and every history.
#[derive(OpenApi)]
#[openapi(components(schemas(Problem, History)))]
struct Schemas;

/// Where facts come from.
#[derive(Clone)]
pub struct Feed {
    /// The streams.
    pub connection: nats::Connection,
    /// Where operators see what cannot be read, and ask for it. Without it such an event stops its stream.
    pub parking: Option<Parking>,
    /// What is done about an event that cannot be read. Attempts do not matter: it cannot be read later either.
    pub policy: Policy,
    /// Where operators see how generations stand, and ask for others. Without it none are built but for changed code.
    pub read_models: Option<ReadModels>,
    /// How many generations are built at the same time.
    pub rebuilds: Rebuilds,
    /// Where changed rows go. Without it nobody is told.
    pub outlet: Option<Outlet>,
}

/// Where changed rows go.
#[derive(Clone, Debug)]
pub struct Outlet {
    /// The change feed of the service.
    pub feed: ChangeFeed,
    /// What it counts.
    pub metrics: FeedMetrics,
}

/// The read model of one service. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Projections {
    serving: watch::Receiver<Serving>,
    progress: watch::Receiver<Progress>,
    known: watch::Receiver<Option<ReadModel>>,
    view: &'static View,
    connection: nats::Connection,
    clock: Clock,
}

impl Projections {
    /// Opens the generation in `storage` that serves, and keeps it up to date until the shutdown; where there is none for
    /// this program it is built, and nothing is answered before. The streams have to exist.
    pub async fn start(
        view: &'static View,
        feed: &Feed,
        storage: &Storage,
        clock: Clock,
        metrics: &Metrics,
        counters: ProjectionMetrics,
        shutdown: &Shutdown,
    ) -> Result<Self, DatabaseError> {
        let mut generations = Shared::open(view, feed, storage, clock.clone(), counters).await?;
        if let Some(outlet) = &feed.outlet {
            let (teller, announcer) = Teller::new(view, outlet, &feed.connection, generations.serving());
            shutdown.spawn(teller.run(shutdown.clone()));
            generations.tell_changes(announcer);
        }
        let (serving, progress) = (generations.serving(), generations.progress());
        let known = generations.known();
        let lag = Lag { projection: view.name, progress: progress.clone(), clock: clock.clone() };
        metrics.registry().register_collector(Box::new(lag));
        let gauges = Gauges { projection: view.name, known: known.clone() };
        metrics.registry().register_collector(Box::new(gauges));
        shutdown.spawn(Arc::new(generations).run(shutdown.clone()));
        let connection = feed.connection.clone();
        Ok(Self { serving, progress, known, view, connection, clock })
    }

    /// The queries, documented. What is personal in their answers is opened with `keys`, when it is asked for.
    pub fn router(&self, keys: &KeyRing) -> OpenApiRouter {
        let past = Past::new(self.clone(), keys.clone());
        let mut routes = OpenApiRouter::with_openapi(Schemas::openapi()).merge((self.view.routes)());
        past::document(routes.get_openapi_mut(), self.view.things);
        let routes = routes.merge(past.routes().into());
        routes
            .layer(from_fn_with_state(past, past::layer))
            .layer(from_fn_with_state(self.clone(), freshness::layer))
            .layer(Extension(keys.clone()))
            .with_state(self.clone())
    }

    /// The same queries over other tables, at another time.
    pub(crate) fn over(&self, database: Database, clock: Clock) -> Self {
        let serving = Serving { database, generation: self.generation(), ready: true };
        Self { serving: watch::Sender::new(serving).subscribe(), clock, ..self.clone() }
    }

    /// The read model.
    pub(crate) const fn view(&self) -> &'static View {
        self.view
    }

    /// Where facts come from.
    pub(crate) const fn connection(&self) -> &nats::Connection {
        &self.connection
    }

    /// How far the read model is; changes with every commit.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// The generations of the read model, as the catalogue has them; changes with it.
    pub fn generations(&self) -> watch::Receiver<Option<ReadModel>> {
        self.known.clone()
    }

    /// The number of the generation that queries are answered from.
    pub fn generation(&self) -> u32 {
        self.serving.borrow().generation
    }

    /// Whether queries are answered: not before a generation of this program has caught up for the first time.
    pub fn serves(&self) -> bool {
        self.serving.borrow().ready
    }

    /// Whether the read model is as good as up to date.
    pub fn check(&self) -> service::Check {
        let this = self.clone();
        Arc::new(move || {
            if !this.serves() {
                return Err(this.complaint());
            }
            this.progress.borrow().check(this.clock.now())
        })
    }

    fn complaint(&self) -> String {
        let known = self.known.borrow();
        let generations = known.iter().flat_map(|known| &known.generations);
        let building = generations.filter(|one| one.state == State::Building).find_map(|one| {
            let build = one.build.as_ref()?;
            Some(format!(
                "generation {} is being built: {} of {} events",
                one.number, build.events, build.total
            ))
        });
        building.unwrap_or_else(|| "a generation is about to be built".to_owned())
    }

    /// Where the tables are: nothing that was read of them before is further, whoever writes them.
    pub(crate) async fn contained(&self) -> Result<Vec<Position>, DatabaseError> {
        let sql = "SELECT stream, sequence FROM waybill_checkpoint WHERE projection = $1";
        let rows = self.database().rows(sql, vec![self.view().name.into()]).await?;
        let position = |row: &Row| {
            let stream: String = row.get("stream")?;
            let sequence = row.get::<i64>("sequence")?.cast_unsigned();
            Ok(Context::of_stream(&stream).map(|context| Position { context, sequence }))
        };
        rows.iter().filter_map(|row| position(row).transpose()).collect()
    }

    /// The clock.
    pub(crate) fn clock(&self) -> Clock {
        self.clock.clone()
    }

    /// The time.
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The database of the generation that serves at this moment, for reading. Ask for it anew for each request.
    pub fn database(&self) -> Database {
        self.serving.borrow().database.clone()
    }
}
