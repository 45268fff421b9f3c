//! Projections over a real nats-server: what is in the stream is in the tables, once, whatever happens on the way.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "projector/fairness.rs"]
mod fairness;
#[path = "../examples/apply/flows.rs"]
mod flows;
#[path = "projector/full.rs"]
mod full;
#[path = "projector/past.rs"]
mod past;
#[expect(unreachable_pub, dead_code, reason = "shared with the end-to-end tests, which use all of it")]
#[path = "../../tests/src/postgres.rs"]
mod postgres;
#[path = "../src/testing/streams.rs"]
mod streams;

use axum::{
    Extension, Router,
    body::{Body, to_bytes},
    http::{Request, Response},
};
use events::{
    Actor, Aggregate, CommandId, Context, DeadLetterId, DomainEvent, Envelope, Fact, FactType, Metadata,
    Position,
    ops::{DeadLetterDiscarded, DeadLetterEvent, DeadLetterRetried, Holds},
};
use flows::{Made, flow, order_id, user_id};
use futures::{StreamExt, stream};
use nats::{
    AppendError, Connection, DeadLetter, EventStore, Filter, From, KeyRing, Parking, Policy, Reader, Until,
    Write, server::Server,
};
use postgres::Cluster;
use projections::database::Cluster as Started;
use projections::{Feed, ProjectionMetrics, Projections, Rebuilds, View, compare, database::Storage, verify};
use serde_json::Value;
use service::{
    Clock, Metrics, Shutdown,
    auth::{Principal, Role},
};
use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
    time::Duration,
};
use streams::Streams;
use tempfile::TempDir;
use tower::ServiceExt;
use uuid::Uuid;

/// Far more than anything here takes: only a hang gets there.
const DEADLINE: Duration = Duration::from_mins(1);

/// Where the read models of a test are.
enum On {
    Sqlite,
    Postgres,
}

struct System {
    server: Server,
    connection: Connection,
    store: EventStore,
    keys: KeyRing,
    folder: TempDir,
    metrics: Metrics,
    shutdown: Shutdown,
    /// The last position recorded in each stream.
    ends: Mutex<HashMap<Context, Position>>,
    /// Where PostgreSQL is; without it read models are on SQLite.
    cluster: Option<Arc<Cluster>>,
}

impl System {
    async fn start(on: On) -> Self {
        let cluster = match on {
            On::Sqlite => None,
            On::Postgres => Some(Cluster::shared()),
        };
        Self::with(cluster).await
    }

    async fn with(cluster: Option<Arc<Cluster>>) -> Self {
        let Streams { server, connection, store, keys, folder } = Streams::start().await;
        let (metrics, shutdown, ends) = (Metrics::new(), Shutdown::new(), Mutex::default());
        Self { server, connection, store, keys, folder, metrics, shutdown, ends, cluster }
    }

    async fn projections(&self, service: &str) -> Projections {
        Box::pin(self.projections_of(service, None)).await
    }

    async fn parking(&self) -> Parking {
        Parking::open(&self.connection, self.store.clone(), Clock::system(), 1).await.unwrap()
    }

    async fn projections_of(&self, service: &str, parking: Option<Parking>) -> Projections {
        self.projections_by(service, parking, Policy::default()).await
    }

    async fn projections_by(&self, service: &str, parking: Option<Parking>, policy: Policy) -> Projections {
        Box::pin(self.projections_in(service, parking, policy, &self.storage(service))).await
    }

    async fn projections_in(
        &self,
        service: &str,
        parking: Option<Parking>,
        policy: Policy,
        storage: &Storage,
    ) -> Projections {
        let feed = Feed {
            connection: self.connection.clone(),
            parking,
            policy,
            read_models: None,
            rebuilds: Rebuilds::default(),
            outlet: None,
        };
        let view = View::of(service).unwrap();
        let counters = ProjectionMetrics::new(&self.metrics);
        Projections::start(view, &feed, storage, Clock::system(), &self.metrics, counters, &self.shutdown)
            .await
            .unwrap()
    }

    /// What the database of a service is called. A server is shared by tests: the port of NATS tells them apart.
    fn name(&self, service: &str) -> String {
        format!("{service}_{}", self.server.url().rsplit(':').next().unwrap())
    }

    /// Where the read model of a service is kept, each time it is asked.
    fn storage(&self, service: &str) -> Storage {
        self.kept("views", &self.name(service))
    }

    /// In this folder, or in the database that is called so.
    fn kept(&self, folder: &str, name: &str) -> Storage {
        let Some(cluster) = &self.cluster else { return Storage::Sqlite(self.folder.path().join(folder)) };
        let there = cluster.sql("postgres", &format!("SELECT 1 FROM pg_database WHERE datname = '{name}'"));
        let url = if there == "1" { cluster.url(name) } else { cluster.database(name) };
        Storage::Postgres(url.parse().unwrap())
    }

    /// Records that the orders with these numbers are placed, many at a time.
    async fn place(&self, numbers: std::ops::Range<u64>) {
        let placing = numbers.map(|number| async move {
            let made = &flow(number)[0];
            let write = || Write::new(&made.subject, Some(0), &made.envelope, None, made.body.clone());
            // On a busy machine an answer may be late: who asks again is told that it is there.
            while let Err(AppendError::Unknown) = self.store.append(vec![write()]).await {}
        });
        stream::iter(placing).buffer_unordered(50).collect::<Vec<_>>().await;
    }

    /// Records an order that goes well; the position of its last event.
    async fn order(&self, number: u64) -> Position {
        let (mut created, mut last) = (0, None);
        for made in flow(number) {
            let expect = if made.envelope.version == 1 { 0 } else { created };
            let position = self.append(&made, expect).await;
            created = if created == 0 { position.sequence } else { created };
            last = Some(position);
        }
        last.unwrap()
    }

    async fn append(&self, made: &Made, expect: u64) -> Position {
        let write = Write::new(&made.subject, Some(expect), &made.envelope, None, made.body.clone());
        let appended = self.store.append(vec![write]).await.unwrap();
        let position = Position { context: made.subject.context(), sequence: appended.first };
        self.ends.lock().unwrap().insert(position.context, position);
        position
    }

    /// Waits until everything recorded so far is in the tables.
    async fn caught_up(&self, projections: &Projections) {
        let ends = self.ends.lock().unwrap().clone();
        let mut progress = projections.progress();
        let done = progress.wait_for(|progress| ends.values().all(|end| progress.has(*end) != Some(false)));
        tokio::time::timeout(DEADLINE, done).await.expect("the projection catches up").unwrap();
    }

    /// The tables are what the streams say.
    async fn verify(&self, service: &str, projections: &Projections) {
        let scratch = self.folder.path().join(format!("{service}-{}", Clock::system().uuid()));
        let view = View::of(service).unwrap();
        let differences = verify(view, &self.connection, &projections.database(), &scratch).await.unwrap();
        assert_eq!(differences, []);
    }
}

async fn every_query_is_documented_with_its_wait(on: On) {
    let system = System::start(on).await;
    for (service, paths) in [
        ("orders", &["/orders", "/orders/{id}", "/orders/{id}/history"][..]),
        (
            "inventory",
            &[
                "/inventory/{sku}",
                "/inventory/{sku}/history",
                "/products",
                "/products/{sku}",
                "/products/{sku}/history",
            ],
        ),
        (
            "payments",
            &[
                "/accounts/{id}",
                "/accounts/{id}/entries",
                "/accounts/{id}/history",
                "/payments/{orderId}",
                "/payments/{orderId}/history",
            ],
        ),
        ("shipping", &["/shipments/{orderId}", "/shipments/{orderId}/history"]),
        ("notifications", &["/notifications", "/notifications/{id}", "/notifications/{id}/history"]),
        ("fulfilment", &["/ops/sagas", "/ops/sagas/{orderId}", "/ops/sagas/{orderId}/history"]),
        ("users", &["/users/{id}", "/users/{id}/history"]),
    ] {
        let (_, api) = system.projections(service).await.router(&system.keys).split_for_parts();
        let api = serde_json::to_value(api).unwrap();
        let documented: Vec<_> = api["paths"].as_object().unwrap().keys().collect();
        assert_eq!(documented, paths);
        for path in paths {
            let text = api["paths"][path]["get"].to_string();
            for part in ["\"after\"", "\"wait\"", "\"200\"", "\"503\"", "Problem"] {
                assert!(text.contains(part), "{path} lacks {part}");
            }
            let (history, one) = (path.ends_with("/history"), path.ends_with('}'));
            assert_eq!(text.contains("\"asOf\""), one, "{path}");
            assert_eq!(text.contains("\"diff\"") && text.contains("schemas/History"), history, "{path}");
        }
    }
}

fn router(system: &System, projections: &Projections) -> Router {
    // Who asks is found out by a layer around this.
    let operator = Principal { user: Uuid::nil(), role: Role::Operator, token: Uuid::nil() };
    Router::from(projections.router(&system.keys)).layer(Extension(operator))
}

async fn get(router: &Router, path: &str) -> (u16, Value) {
    let response = ask(router, path).await;
    let status = response.status().as_u16();
    let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap())
}

async fn ask(router: &Router, path: &str) -> Response<Body> {
    router.clone().oneshot(Request::get(path).body(Body::empty()).unwrap()).await.unwrap()
}

async fn an_order_shows_in_every_read_model(on: On) {
    let system = System::start(on).await;
    let at = system.order(1).await;
    let (id, user) = (order_id(1), user_id(1));

    let orders = system.projections("orders").await;
    let routes = router(&system, &orders);
    let (status, order) = get(&routes, &format!("/orders/{id}?after={at}")).await;
    assert_eq!(status, 200);
    assert_eq!(order["status"], "completed");
    assert_eq!(order["userId"], user.to_string());
    assert_eq!(order["totalAmount"], serde_json::json!({ "amount": 2500, "currency": "EUR" }));
    assert_eq!(order["items"][0]["sku"], "SKU-1");
    assert_eq!(order["items"][0]["unitPrice"]["amount"], 1250);
    assert_eq!((&order["version"], &order["reason"]), (&2.into(), &Value::Null));
    assert_eq!(order["createdAt"], "2023-11-14T22:13:20.001Z");

    system.caught_up(&orders).await;
    assert_eq!(get(&routes, &format!("/orders/{id}")).await.1["stage"], "scheduled");
    let (_, history) = get(&routes, &format!("/orders/{id}/history")).await;
    let kinds: Vec<_> = history["events"].as_array().unwrap().iter().map(|one| &one["type"]).collect();
    assert_eq!(
        kinds,
        ["order.created", "inventory.reserved", "payment.charged", "shipping.scheduled", "order.completed"]
    );
    assert_eq!(history["events"][4]["position"]["stream"], "ORDERS");
    assert!(!history.to_string().contains("Lovelace"), "addresses are kept with shipments only");

    let payments = system.projections("payments").await;
    system.caught_up(&payments).await;
    let (status, payment) = get(&router(&system, &payments), &format!("/payments/{id}")).await;
    assert_eq!((status, &payment["status"]), (200, &"charged".into()));

    let shipping = system.projections("shipping").await;
    system.caught_up(&shipping).await;
    let (_, shipment) = get(&router(&system, &shipping), &format!("/shipments/{id}")).await;
    assert_eq!(shipment["status"], "scheduled");
    assert_eq!(
        (&shipment["address"], &shipment["erased"]),
        (&Value::Null, &true.into()),
        "its key is not there"
    );

    for (service, projections) in [("orders", &orders), ("payments", &payments), ("shipping", &shipping)] {
        system.verify(service, projections).await;
        projections.check()().unwrap();
    }
}

async fn a_position_is_waited_for_and_never_answered_with_less(on: On) {
    let system = System::start(on).await;
    let orders = system.projections("orders").await;
    let routes = router(&system, &orders);
    let at = system.order(1).await;
    let path = format!("/orders/{}", order_id(1));

    let response = ask(&routes, &format!("{path}?after={at}")).await;
    assert_eq!(response.status(), 200);
    let contained = response.headers()["waybill-position"].to_str().unwrap().to_owned();
    assert!(contained.starts_with(&at.to_string()), "{contained}");
    let request = Request::get(&path).header("Waybill-Position", contained).body(Body::empty()).unwrap();
    assert_eq!(routes.clone().oneshot(request).await.unwrap().status(), 200);

    let response = ask(&routes, &format!("{path}?after=ORDERS:999&wait=20ms")).await;
    assert_eq!(
        (response.status().as_u16(), &response.headers()["retry-after"]),
        (503, &"1".parse().unwrap())
    );
    for (query, status) in [("after=FRAUD:1", 422), ("after=x", 400), ("after=ORDERS:1&wait=99", 400)] {
        assert_eq!(get(&routes, &format!("{path}?{query}")).await.0, status, "{query}");
    }
    assert_eq!(get(&routes, &format!("/orders/{}", Uuid::nil())).await.0, 404);
    assert_eq!(get(&routes, "/orders/nonsense").await.0, 400);
}

async fn pages_are_stable_while_orders_come_in(on: On) {
    let system = System::start(on).await;
    let orders = system.projections("orders").await;
    let routes = router(&system, &orders);
    for number in (0..20).step_by(2) {
        system.order(number).await;
    }
    system.caught_up(&orders).await;
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    for page in 0..4 {
        let (status, list) = get(&routes, &format!("/orders?limit=3{cursor}")).await;
        assert_eq!(status, 200);
        let items = list["items"].as_array().unwrap();
        seen.extend(items.iter().map(|order| order["id"].as_str().unwrap().to_owned()));
        cursor = format!("&cursor={}", list["nextCursor"].as_str().unwrap_or("none"));
        // Newer than the whole list: not part of it any more.
        system.order(100 + page).await;
        system.caught_up(&orders).await;
    }
    let expected: Vec<_> =
        (0..10).rev().map(|half| half * 2).map(|number| order_id(number).to_string()).collect();
    assert_eq!(seen, expected);
    assert_eq!(cursor, "&cursor=none");

    let path = format!("/orders?userId={}&status=completed", user_id(4));
    assert_eq!(get(&routes, &path).await.1["items"].as_array().unwrap().len(), 1);
    assert_eq!(get(&routes, "/orders?status=failed").await.1["items"], serde_json::json!([]));
    for bad in ["limit=0", "limit=101", "cursor=zz", "cursor=00"] {
        assert_eq!(get(&routes, &format!("/orders?{bad}")).await.0, 422, "{bad}");
    }
    for bad in ["status=lost", "userid=1", "userId=x", "limit=-1"] {
        assert_eq!(get(&routes, &format!("/orders?{bad}")).await.0, 400, "{bad}");
    }
}

async fn two_projectors_of_one_database_and_a_server_that_dies_lose_and_repeat_nothing(on: On) {
    let system = System::start(on).await;
    let (one, two) = (system.projections("orders").await, system.projections("orders").await);
    for number in 0..150 {
        system.order(number).await;
    }
    system.server.kill().await;
    assert!(system.server.ready(DEADLINE).await);
    let connected = async {
        while !system.connection.is_connected() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, connected).await.expect("the connection is repaired");
    for number in 150..300 {
        system.order(number).await;
    }
    for projections in [&one, &two] {
        system.caught_up(projections).await;
    }
    system.verify("orders", &one).await;
    let rows = one.database().rows("SELECT id FROM orders", Vec::new()).await.unwrap();
    let ids: HashSet<Uuid> = rows.iter().map(|row| row.get("id").unwrap()).collect();
    assert_eq!(ids, (0..300).map(|number| order_id(number).uuid()).collect());
    assert!(system.shutdown.drain(DEADLINE).await);
}

async fn an_event_that_cannot_be_read_stops_its_stream_and_no_other(on: On) {
    static FUTURE: FactType =
        FactType { name: "payment.teleported", version: 1, schema: || schemars::schema_for!(()) };
    let system = System::start(on).await;
    // Without anywhere to park, and where it shall be tried again for ever.
    let orders = system.projections("orders").await;
    let retry = "retry".parse().unwrap();
    let payments = system.projections_by("payments", Some(system.parking().await), retry).await;
    system.order(1).await;
    let mut unknown = flow(2).into_iter().find(|made| made.envelope.kind == "payment.charged").unwrap();
    let from = Metadata {
        command: CommandId::new(Uuid::from_u128(9)),
        correlation: Uuid::nil().into(),
        causation: Uuid::nil(),
        actor: Actor::CLIENT,
        traceparent: None,
    };
    unknown.envelope = Envelope::new(&FUTURE, &unknown.subject, 1, 0, unknown.envelope.time, &from);
    let at = system.append(&unknown, 0).await;
    let after = system.order(3).await;

    let path = format!("/orders/{}?after={after}", order_id(3));
    assert_eq!(get(&router(&system, &orders), &path).await.0, 200, "other streams go on");
    let stands = |progress: &projections::Progress| {
        let stream = progress.stream(Context::Payments).unwrap();
        // What stood before it is in the tables.
        stream.fault.is_some() && stream.position.sequence + 1 == at.sequence
    };
    for projections in [&orders, &payments] {
        let faulty = async {
            while !stands(&projections.progress().borrow()) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DEADLINE, faulty).await.expect("the fault shows");
        let complaint = projections.check()().unwrap_err();
        assert!(complaint.contains("payment.teleported"), "{complaint}");
    }
    assert!(system.metrics.render().contains("kind=\"decode\""));
    let path = format!("/payments/{}?after={at}&wait=20ms", order_id(1));
    assert_eq!(get(&router(&system, &payments), &path).await.0, 503);
}

/// A type that no version of the program knows.
static FUTURE: FactType =
    FactType { name: "payment.teleported", version: 1, schema: || schemars::schema_for!(()) };

fn metadata(number: u128) -> Metadata {
    let command = CommandId::new(Uuid::from_u128(number));
    let (correlation, causation) = (command.uuid().into(), command.uuid());
    Metadata { command, correlation, causation, actor: Actor::CLIENT, traceparent: None }
}

/// What an operator asks for, as the service of operations records it.
async fn operator(system: &System, letter: &DeadLetter, event: DeadLetterEvent) {
    let subject = Aggregate::DeadLetter.subject(letter.id);
    let last = system.store.last(&subject).await.unwrap().unwrap();
    let (version, guard) = (last.envelope().unwrap().version + 1, last.position.sequence);
    let from = metadata(0xa5_0000 + u128::from(guard));
    let time = last.envelope().unwrap().time;
    let envelope = Envelope::new(event.fact_type(), &subject, version, 0, time, &from);
    let write = Write::new(&subject, Some(guard), &envelope, Some("?".to_owned()), event.to_json());
    system.store.append(vec![write]).await.unwrap();
}

async fn parked(system: &System, count: usize) -> Vec<DeadLetter> {
    let parking = system.parking().await;
    let waiting = async {
        loop {
            let all = parking.all().await.unwrap();
            if all.len() == count {
                return all;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, waiting).await.expect("so many are parked")
}

/// The rows of the parked aggregate wait, everything else flows, also after a restart; then what waited is applied once.
async fn an_event_that_cannot_be_read_parks_its_aggregate_and_no_other(on: On) {
    let system = System::start(on).await;
    let parking = system.parking().await;
    let payments = system.projections_of("payments", Some(parking.clone())).await;
    let mut charged = flow(2).into_iter().find(|made| made.envelope.kind == "payment.charged").unwrap();
    let mut unknown = flow(2).into_iter().find(|made| made.envelope.kind == "payment.charged").unwrap();
    unknown.envelope = Envelope::new(&FUTURE, &unknown.subject, 1, 0, unknown.envelope.time, &metadata(9));
    let at = system.append(&unknown, 0).await;
    charged.envelope.version = 2;
    let behind = system.append(&charged, at.sequence).await;
    let after = system.order(3).await;

    system.caught_up(&payments).await;
    assert_eq!(payments.progress().borrow().has(behind), Some(true), "the checkpoint goes past it");
    let row = |number| format!("/payments/{}", order_id(number));
    let routes = router(&system, &payments);
    assert_eq!(get(&routes, &row(3)).await.0, 200, "others flow, up to {after}");
    assert_eq!(get(&routes, &row(2)).await.0, 404, "what is behind it waits");
    let letter = parked(&system, 1).await.remove(0);
    assert_eq!((&*letter.failure.consumer, letter.failure.sequence), ("payments-projection", at.sequence));
    payments.check()().unwrap();

    // In vain, and then by a projector that had not heard of it.
    let (dead_letter_id, consumer, sequence) =
        (letter.id, letter.failure.consumer.clone(), letter.failure.sequence);
    let retried = DeadLetterRetried { dead_letter_id, consumer: consumer.clone(), sequence };
    operator(&system, &letter, retried.into()).await;
    let again = async {
        let subject = Aggregate::DeadLetter.subject(letter.id);
        while system.store.last(&subject).await.unwrap().unwrap().kind() != "message.parked" {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, again).await.expect("it is parked again");
    assert_eq!(get(&routes, &row(2)).await.0, 404);
    assert!(system.shutdown.drain(DEADLINE).await);
    let discarded = DeadLetterDiscarded { dead_letter_id, consumer, sequence, reason: "a test".to_owned() };
    operator(&system, &letter, discarded.into()).await;
    let system = System { shutdown: Shutdown::new(), ..system };
    let payments = system.projections_of("payments", Some(parking.clone())).await;
    parked(&system, 0).await;
    let routes = router(&system, &payments);
    assert_eq!(get(&routes, &row(2)).await.0, 200, "what waited is there");
    system.order(4).await;
    system.caught_up(&payments).await;
    assert_eq!(get(&routes, &row(4)).await.0, 200);

    // What was discarded stays discarded: for whoever folds the log again, and in tables that are built again.
    system.verify("payments", &payments).await;
    let anew = system.kept("anew", &system.name("anew"));
    let anew = system.projections_in("payments", Some(parking.clone()), Policy::default(), &anew).await;
    system.caught_up(&anew).await;
    assert_eq!(get(&router(&system, &anew), &row(2)).await.0, 200, "what was behind it is there");
    let mut writer = anew.database().writer().await.unwrap();
    assert!(writer.parked().await.unwrap().is_empty(), "nothing waits again");
    assert_eq!(parking.all().await.unwrap(), []);
}

/// An event that nobody can read, and one of the same aggregate behind it.
async fn unreadable(system: &System) -> (Position, Position) {
    let charged = || flow(2).into_iter().find(|made| made.envelope.kind == "payment.charged").unwrap();
    let (mut behind, mut unknown) = (charged(), charged());
    unknown.envelope = Envelope::new(&FUTURE, &unknown.subject, 1, 0, unknown.envelope.time, &metadata(9));
    let at = system.append(&unknown, 0).await;
    behind.envelope.version = 2;
    (at, system.append(&behind, at.sequence).await)
}

/// It is left out, which is said; what comes behind it of its aggregate is there.
async fn an_event_that_cannot_be_read_is_skipped_where_that_is_the_policy(on: On) {
    let system = System::start(on).await;
    let parking = system.parking().await;
    let policy = "skip:1".parse().unwrap();
    let payments = system.projections_by("payments", Some(parking.clone()), policy).await;
    let (at, behind) = unreadable(&system).await;
    let mut another = flow_of_payment(2);
    another.envelope = Envelope::new(&FUTURE, &another.subject, 3, 0, another.envelope.time, &metadata(8));
    let then = system.append(&another, behind.sequence).await;
    system.order(3).await;
    system.caught_up(&payments).await;
    let routes = router(&system, &payments);
    for number in [2, 3] {
        assert_eq!(get(&routes, &format!("/payments/{}", order_id(number))).await.0, 200, "{number}");
    }
    assert_eq!(parking.all().await.unwrap(), [], "nothing waits");
    let subject = flow_of_payment(2).subject;
    let id = DeadLetterId::of("payments-projection", subject.as_str());
    let letter = Aggregate::DeadLetter.subject(id);
    let said = system.store.last(&letter).await.unwrap().unwrap();
    let Fact::DeadLetter(DeadLetterEvent::Skipped(skipped)) = said.fact().unwrap() else {
        panic!("{said:?} is said")
    };
    assert_eq!(
        (skipped.failure.sequence, said.header(events::envelope::header::SEQUENCE)),
        (then.sequence, Some("2"))
    );
    // Whoever could not write what he had said says it again when he tries again: that is nothing new.
    let (context, from) = (Context::Payments, From::Sequence(at.sequence));
    let filter = Filter { subject: Some(subject.to_string()), ..Filter::default() };
    let mut reader = Reader::open(&system.connection, context, from, Until::End, filter).await.unwrap();
    let messages = reader.next_batch(10).await.unwrap();
    for message in messages.iter().filter(|message| [at, then].contains(&message.position)) {
        parking.skip("payments", "payments-projection", message, "again".to_owned()).await.unwrap();
    }
    assert_eq!(system.store.last(&letter).await.unwrap().unwrap().position, said.position);
    // Whoever folds the log again leaves it out as well, and says so.
    let (view, scratch) = (View::of("payments").unwrap(), system.folder.path().join("scratch"));
    let compared =
        compare(view, &system.connection, &payments.database(), &scratch, |_, _| ()).await.unwrap();
    assert_eq!((compared.differences, compared.waiting), (vec![], vec![]));
    assert_eq!(compared.left_out, [at, then]);
}

/// Tables that do not serve yet leave it out too, and nobody comes there again who could say so.
async fn what_is_skipped_while_tables_are_built_is_said(on: On) {
    let system = System::start(on).await;
    let parking = system.parking().await;
    let (at, _) = unreadable(&system).await;
    let payments = system.projections_by("payments", Some(parking), "skip:1".parse().unwrap()).await;
    system.order(3).await;
    system.caught_up(&payments).await;
    let id = DeadLetterId::of("payments-projection", flow_of_payment(2).subject.as_str());
    let said = system.store.last(&Aggregate::DeadLetter.subject(id)).await.unwrap();
    let said = said.expect("it is said").fact().unwrap();
    let Fact::DeadLetter(DeadLetterEvent::Skipped(skipped)) = said else { panic!("{said:?} is said") };
    assert_eq!(skipped.failure.sequence, at.sequence);
    let (view, scratch) = (View::of("payments").unwrap(), system.folder.path().join("scratch"));
    let compared =
        compare(view, &system.connection, &payments.database(), &scratch, |_, _| ()).await.unwrap();
    assert_eq!((compared.differences, compared.left_out), (vec![], vec![at]));
}

/// Skipped by the policy of then, and a later event of the same aggregate waits by that of now: what came between is there.
async fn what_was_skipped_before_something_waits_is_no_difference(on: On) {
    let system = System::start(on).await;
    let parking = system.parking().await;
    let skip = "skip:1".parse().unwrap();
    let payments = system.projections_by("payments", Some(parking.clone()), skip).await;
    let (at, behind) = unreadable(&system).await;
    system.caught_up(&payments).await;
    assert!(system.shutdown.drain(DEADLINE).await);
    let system = System { shutdown: Shutdown::new(), ..system };
    let payments = system.projections_by("payments", Some(parking), Policy::default()).await;
    let mut another = flow_of_payment(2);
    another.envelope = Envelope::new(&FUTURE, &another.subject, 3, 0, another.envelope.time, &metadata(8));
    system.append(&another, behind.sequence).await;
    system.caught_up(&payments).await;
    parked(&system, 1).await;
    let (view, scratch) = (View::of("payments").unwrap(), system.folder.path().join("scratch"));
    let compared =
        compare(view, &system.connection, &payments.database(), &scratch, |_, _| ()).await.unwrap();
    assert_eq!((compared.differences, compared.left_out), (vec![], vec![at]));
}

fn flow_of_payment(number: u64) -> Made {
    flow(number).into_iter().find(|made| made.subject.aggregate() == Aggregate::Payment).unwrap()
}

/// Nothing is written any more, of any aggregate, until an operator has seen to it.
async fn a_read_model_stands_still_at_an_event_that_cannot_be_read_where_that_is_the_policy(on: On) {
    let system = System::start(on).await;
    let parking = system.parking().await;
    let policy: Policy = "pause:1".parse().unwrap();
    let payments = system.projections_by("payments", Some(parking.clone()), policy).await;
    let (at, _) = unreadable(&system).await;
    let letter = parked(&system, 1).await.remove(0);
    assert_eq!((letter.failure.sequence, letter.holds), (at.sequence, Holds::Consumer));
    system.order(3).await;
    let after = system.ends.lock().unwrap()[&Context::Payments];
    let asked = format!("/payments/{}?after={after}&wait=300ms", order_id(3));
    assert_eq!(get(&router(&system, &payments), &asked).await.0, 503);
    // Who starts again stands still too.
    assert!(system.shutdown.drain(DEADLINE).await);
    let system = System { shutdown: Shutdown::new(), ..system };
    let payments = system.projections_by("payments", Some(parking), policy).await;
    let routes = router(&system, &payments);
    assert_eq!(get(&routes, &asked).await.0, 503);
    let (dead_letter_id, consumer, sequence) = (letter.id, letter.failure.consumer.clone(), at.sequence);
    let discarded = DeadLetterDiscarded { dead_letter_id, consumer, sequence, reason: "a test".to_owned() };
    operator(&system, &letter, discarded.into()).await;
    parked(&system, 0).await;
    system.caught_up(&payments).await;
    for number in [2, 3] {
        assert_eq!(get(&routes, &format!("/payments/{}", order_id(number))).await.0, 200, "{number}");
    }
}

/// As long as the database is away the service is not ready and queries are refused; what was recorded meanwhile is there
/// afterwards, once.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_dies_while_it_is_written_loses_and_repeats_nothing() {
    let cluster = Arc::new(Cluster::start());
    let system = System::with(Some(Arc::clone(&cluster))).await;
    let orders = system.projections("orders").await;
    let routes = router(&system, &orders);
    for round in 0..6_u64 {
        // Killed at some moment of the work on these.
        let killer = {
            let (cluster, mut progress) = (Arc::clone(&cluster), orders.progress());
            let before = progress.borrow().stream(Context::Orders).unwrap().position.sequence;
            tokio::spawn(async move {
                let some = |progress: &projections::Progress| {
                    progress.stream(Context::Orders).unwrap().position.sequence > before + round * 3
                };
                progress.wait_for(some).await.unwrap();
                let end = move || if round % 2 == 0 { cluster.kill() } else { cluster.stop_immediately() };
                tokio::task::spawn_blocking(end).await.unwrap();
            })
        };
        for number in 0..20 {
            system.order(round * 20 + number).await;
        }
        killer.await.unwrap();
        let away = async {
            while orders.check()().is_ok() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DEADLINE, away).await.expect("the service says that it is not ready");
        if round == 0 {
            let (status, problem) = get(&routes, "/orders").await;
            assert_eq!((status, &problem["type"]), (503, &"/problems/read-model-unavailable".into()));
        }
        let again = Arc::clone(&cluster);
        tokio::task::spawn_blocking(move || again.launch()).await.unwrap();
        system.caught_up(&orders).await;
        let ready = async {
            while orders.check()().is_err() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DEADLINE, ready).await.expect("the service is ready again");
    }
    assert_eq!(get(&routes, "/orders").await.0, 200);
    system.verify("orders", &orders).await;
    let rows = orders.database().rows("SELECT id FROM orders", Vec::new()).await.unwrap();
    assert_eq!(rows.len(), 120);
    assert!(system.shutdown.drain(DEADLINE).await);
}

/// What the server refuses, for whatever reason, is tried again until it takes it: a full disk (raised by a trigger, as no
/// test can fill one), a serialization failure, a deadlock, a connection that an administrator ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_refuses_is_asked_again_until_it_does_not() {
    let system = System::start(On::Postgres).await;
    let orders = system.projections("orders").await;
    let Storage::Postgres(url) = system.storage("orders") else { unreachable!() };
    let (cluster, database) = (system.cluster.clone().unwrap(), url.database().to_owned());
    for (number, refusal) in ["53100", "40001", "40P01", "57P01"].into_iter().enumerate() {
        let number = number as u64;
        cluster.sql(
            &database,
            &format!(
                "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
                 IF '{refusal}' = '57P01' THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF; \
                 RAISE EXCEPTION 'refused' USING ERRCODE = '{refusal}'; END $$; \
                 CREATE TRIGGER refuse BEFORE INSERT ON orders_1.order_events EXECUTE FUNCTION refuse()"
            ),
        );
        let at = system.order(number).await;
        let refused = async {
            while orders.check()().is_ok() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DEADLINE, refused).await.expect("the service says that it is not ready");
        let events = cluster.sql(&database, "SELECT count(*) FROM orders_1.orders");
        assert_eq!(events, number.to_string(), "{refusal}: nothing of a refused batch is there");
        assert_eq!(orders.progress().borrow().has(at), Some(false));
        cluster.sql(&database, "DROP TRIGGER refuse ON orders_1.order_events");
        system.caught_up(&orders).await;
    }
    system.verify("orders", &orders).await;
    assert!(system.shutdown.drain(DEADLINE).await);
}

/// One of several projectors works; when it is gone another one does, and both say how far the tables are.
#[tokio::test(flavor = "multi_thread")]
async fn of_several_projectors_one_works_and_the_others_follow() {
    let system = System::start(On::Postgres).await;
    let one = system.projections("orders").await;
    system.order(1).await;
    system.caught_up(&one).await;
    let other =
        System { shutdown: Shutdown::new(), ends: Mutex::default(), metrics: Metrics::new(), ..system };
    let system = &other;
    let two = system.projections("orders").await;
    for number in 2..50 {
        system.order(number).await;
    }
    for projections in [&one, &two] {
        system.caught_up(projections).await;
    }
    let (committed, idle) = (system.metrics.render(), "waybill_projection_commit_seconds_count");
    let commits = committed.lines().find(|line| line.starts_with(idle)).map(|line| line.ends_with(" 0"));
    assert!(commits.unwrap_or(true), "the second one has written nothing: {committed}");
    assert_eq!(get(&router(system, &two), &format!("/orders/{}", order_id(49))).await.0, 200);
    let ready = async {
        while two.check()().is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, ready).await.expect("who stands by is ready");
    let Storage::Postgres(url) = system.storage("orders") else { unreachable!() };
    // Whoever leads loses its connection: one of the two goes on.
    let leader =
        "SELECT count(pg_terminate_backend(pid)) FROM pg_locks WHERE locktype = 'advisory' AND granted";
    assert_eq!(
        system.cluster.as_ref().unwrap().sql(
            url.database(),
            &format!(
                "{leader} AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            )
        ),
        "1"
    );
    system.order(50).await;
    for projections in [&one, &two] {
        system.caught_up(projections).await;
    }
    system.verify("orders", &two).await;
    assert!(system.shutdown.drain(DEADLINE).await);
}

/// Tests that take a database, on each.
macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                Box::pin(super::$name(super::On::Sqlite)).await;
            })+
        }
        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                Box::pin(super::$name(super::On::Postgres)).await;
            })+
        }
    };
}

use fairness::one_read_model_that_is_far_behind_delays_no_other;

on_both! {
    one_read_model_that_is_far_behind_delays_no_other,
    every_query_is_documented_with_its_wait,
    an_order_shows_in_every_read_model,
    a_position_is_waited_for_and_never_answered_with_less,
    pages_are_stable_while_orders_come_in,
    two_projectors_of_one_database_and_a_server_that_dies_lose_and_repeat_nothing,
    an_event_that_cannot_be_read_parks_its_aggregate_and_no_other,
    an_event_that_cannot_be_read_stops_its_stream_and_no_other,
    an_event_that_cannot_be_read_is_skipped_where_that_is_the_policy,
    what_is_skipped_while_tables_are_built_is_said,
    what_was_skipped_before_something_waits_is_no_difference,
    a_read_model_stands_still_at_an_event_that_cannot_be_read_where_that_is_the_policy,
}
