//! A read model of orders over a real nats-server, in as many processes as a test wants.

use super::*;

/// Far more than anything here takes: only a hang gets there.
pub(super) const DEADLINE: Duration = Duration::from_mins(3);

/// The same tables, filled in another way.
pub(super) static CHANGED: View = View {
    name: orders::VIEW.name,
    version: orders::VIEW.version + 1,
    tables: orders::VIEW.tables,
    aggregates: orders::VIEW.aggregates,
    project: orders::VIEW.project,
    things: orders::VIEW.things,
    routes: orders::VIEW.routes,
    live: orders::VIEW.live,
};

pub(super) struct Rig {
    _server: Server,
    pub(super) connection: Connection,
    pub(super) store: EventStore,
    pub(super) keys: KeyRing,
    pub(super) folder: TempDir,
    pub(super) storage: Storage,
}

/// One process, as far as the others can tell.
pub(super) struct Process {
    pub(super) projections: Projections,
    pub(super) shutdown: Shutdown,
}

impl Process {
    pub(super) async fn stop(self) {
        assert!(self.shutdown.drain(DEADLINE).await);
    }
}

pub(super) async fn within<T>(what: &str, condition: impl AsyncFn() -> Option<T>) -> T {
    let waiting = async {
        loop {
            if let Some(found) = condition().await {
                return found;
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, waiting).await.unwrap_or_else(|_| panic!("not in time: {what}"))
}

impl Rig {
    pub(super) async fn start(place: &Place) -> Self {
        let Streams { server, connection, store, keys, folder } = Streams::start().await;
        Self { _server: server, connection, store, keys, folder, storage: place.storage() }
    }

    pub(super) fn storage(&self) -> Storage {
        self.storage.clone()
    }

    /// Whether there are tables of a generation.
    pub(super) fn has(&self, place: &Place, generation: u32) -> bool {
        match (place, &self.storage) {
            (Place::Postgres(cluster), Storage::Postgres(url)) => {
                let sql = format!("SELECT 1 FROM pg_namespace WHERE nspname = 'orders_{generation}'");
                cluster.sql(url.database(), &sql) == "1"
            }
            (_, Storage::Sqlite(folder)) => folder.join(format!("orders.{generation}.sqlite")).exists(),
            _ => unreachable!("a place has one kind of storage"),
        }
    }

    pub(super) async fn models(&self) -> ReadModels {
        ReadModels::open(&self.connection, self.store.clone(), Clock::system(), 1).await.unwrap()
    }

    pub(super) async fn feed(&self) -> Feed {
        Feed {
            connection: self.connection.clone(),
            parking: None,
            policy: Policy::default(),
            read_models: Some(self.models().await),
            rebuilds: Rebuilds::default(),
            outlet: None,
        }
    }

    pub(super) async fn process(&self, view: &'static View) -> Process {
        self.process_of(view, Rebuilds::default()).await
    }

    /// The same, which builds as many generations at a time as it is allowed.
    pub(super) async fn process_of(&self, view: &'static View, rebuilds: Rebuilds) -> Process {
        let (metrics, shutdown) = (Metrics::new(), Shutdown::new());
        let feed = Feed { rebuilds, ..self.feed().await };
        let counters = ProjectionMetrics::new(&metrics);
        let (storage, clock) = (self.storage(), Clock::system());
        let started = Projections::start(view, &feed, &storage, clock, &metrics, counters, &shutdown);
        Process { projections: started.await.unwrap(), shutdown }
    }

    pub(super) async fn orders(&self, numbers: std::ops::Range<u64>) {
        for number in numbers {
            let mut created = 0;
            for made in flows::flow(number) {
                let expect = if made.envelope.version == 1 { 0 } else { created };
                let write = Write::new(&made.subject, Some(expect), &made.envelope, None, made.body);
                let sequence = self.store.append(vec![write]).await.unwrap().first;
                created = if created == 0 { sequence } else { created };
            }
        }
    }

    /// Records payments that no program can read, and more of them than may be missing when a build takes the place of what
    /// serves: no build of what is made of them comes to its end.
    pub(super) async fn unreadable_payments(&self) {
        let fact = FactType::all().find(|fact| fact.name == "payment.charged").unwrap();
        let subject = Aggregate::Payment.subject(flows::order_id(999_999));
        let (command, now) = (CommandId::new(Clock::system().uuid()), Clock::system().now());
        let (correlation, causation) = (command.uuid().into(), command.uuid());
        let from = Metadata { command, correlation, causation, actor: Actor::CLIENT, traceparent: None };
        let mut last = 0;
        for batch in 0..3 {
            let writes = (1..=500).map(|number| {
                let version = batch * 500 + number;
                let place = usize::try_from(version).unwrap();
                let envelope = Envelope::new(fact, &subject, version, place, now, &from);
                let tail = (version > 1).then(|| "?".to_owned());
                Write::new(&subject, (number == 1).then_some(last), &envelope, tail, b"{}".to_vec())
            });
            last = self.store.append(writes.collect()).await.unwrap().first + 499;
        }
    }

    /// What an operator asks for, as the service of operations records it; its sequence.
    pub(super) async fn ask(&self, event: ProjectionEvent) -> u64 {
        self.ask_of("orders", event).await
    }

    /// The same of another service.
    pub(super) async fn ask_of(&self, service: &str, event: ProjectionEvent) -> u64 {
        let subject = Aggregate::Projection.subject(service);
        loop {
            let last = self.store.last(&subject).await.unwrap();
            let version = last.as_ref().map_or(0, |last| last.envelope().unwrap().version) + 1;
            let command = CommandId::new(Clock::system().uuid());
            let (correlation, causation) = (command.uuid().into(), command.uuid());
            let from = Metadata { command, correlation, causation, actor: Actor::CLIENT, traceparent: None };
            let now = Clock::system().now();
            let envelope = Envelope::new(event.fact_type(), &subject, version, 0, now, &from);
            let tail = (version > 1).then(|| "?".to_owned());
            let guard = last.map_or(0, |last| last.position.sequence);
            let write = Write::new(&subject, Some(guard), &envelope, tail, event.to_json());
            match self.store.append(vec![write]).await {
                Ok(appended) => return appended.first,
                Err(nats::AppendError::Conflict) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    pub(super) async fn rebuild(&self, model: Option<&str>, from: Vec<Position>) -> u64 {
        let (service, model) = ("orders".to_owned(), model.map(ToOwned::to_owned));
        self.ask(ProjectionRebuildRequested { service, model, from, from_time: None }.into()).await
    }

    pub(super) async fn ends(&self) -> Vec<Position> {
        let mut ends = Vec::new();
        for context in orders::VIEW.contexts() {
            let sequence = nats::last_sequence(&self.connection, context).await.unwrap();
            ends.push(Position { context, sequence });
        }
        ends
    }

    pub(super) async fn caught_up(&self, process: &Process) {
        let ends = self.ends().await;
        let mut progress = process.projections.progress();
        let done = progress.wait_for(|progress| ends.iter().all(|end| progress.has(*end) == Some(true)));
        tokio::time::timeout(DEADLINE, done).await.expect("it catches up").unwrap();
    }

    /// What the log says, folded anew up to where this database is, from where that begins.
    pub(super) async fn folded(&self, database: &Database) -> String {
        let mut moment = database.moment().await.unwrap();
        let (since, until) = (moment.since().await.unwrap(), moment.checkpoints().to_vec());
        let scratch = Storage::Sqlite(self.folder.path().join(Clock::system().uuid().to_string()));
        let fresh = rebuild(&orders::VIEW, &self.connection, &scratch, &since, &until).await.unwrap();
        let differences = moment.differences(&mut fresh.database.moment().await.unwrap()).await.unwrap();
        assert_eq!(differences, []);
        assert_eq!(moment.digest().await.unwrap(), {
            let mut fresh = fresh.database.moment().await.unwrap();
            fresh.digest().await.unwrap()
        });
        moment.digest().await.unwrap()
    }

    pub(super) async fn catalogue(&self) -> Catalogue {
        self.catalogue_of("orders").await
    }

    pub(super) async fn catalogue_of(&self, service: &'static str) -> Catalogue {
        let mut kept = self.storage().shelf(service).await.unwrap();
        Catalogue::read(&kept.load().await.unwrap().unwrap().1).unwrap()
    }

    /// Waits until the second generation of a service is in this stage.
    pub(super) async fn builds(&self, service: &'static str, stage: &str) {
        within(&format!("{service} is {stage}"), async || {
            let catalogue = self.catalogue_of(service).await;
            let build = catalogue.find(2)?.shown.build.clone()?;
            (build.stage == stage).then_some(())
        })
        .await;
    }

    pub(super) async fn states(&self) -> Vec<(u32, State)> {
        let all = self.catalogue().await.generations;
        all.iter().map(|entry| (entry.shown.number, entry.shown.state)).collect()
    }

    pub(super) async fn is(&self, states: &[(u32, State)]) {
        within(&format!("{states:?}"), async || (self.states().await == states).then_some(())).await;
    }
}

pub(super) async fn serves(process: &Process, generation: u32) {
    within(&format!("generation {generation}"), async || {
        let projections = &process.projections;
        (projections.serves() && projections.generation() == generation).then_some(())
    })
    .await;
}

/// Asks all the time: never an error, and never less than before.
pub(super) fn client(rig: &Rig, process: &Process) -> Task {
    let operator = Principal { user: Uuid::nil(), role: Role::Operator, token: Uuid::nil() };
    let router = Router::from(process.projections.router(&rig.keys)).layer(Extension(operator));
    let stop = CancellationToken::new();
    let token = stop.clone();
    let handle = tokio::spawn(async move {
        let (mut before, mut rows): (Vec<Position>, usize) = (Vec::new(), 0);
        while !token.is_cancelled() {
            let request = Request::get("/orders?limit=100").body(Body::empty()).unwrap();
            let response = router.clone().oneshot(request).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            let header = response.headers()["waybill-position"].to_str().unwrap().to_owned();
            let now: Vec<Position> = header.split(", ").map(|one| one.parse().unwrap()).collect();
            assert!(before.iter().zip(&now).all(|(before, now)| before.sequence <= now.sequence), "{header}");
            let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
            let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
            let found = body["items"].as_array().unwrap().len();
            assert!(found >= rows, "{found} orders after {rows}");
            (before, rows) = (now, found);
        }
        true
    });
    Task { generation: 0, live: false, stop, handle }
}

impl Task {
    pub(super) async fn passed(self) {
        self.stop.cancel();
        assert!(self.handle.await.unwrap());
    }
}
