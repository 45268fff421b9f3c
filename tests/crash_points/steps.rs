//! Every step of an order, and every way in which it can go wrong, for both workflows: it is refused, gives no answer in
//! time, is done and answered late, and its service dies before and after it has recorded what it does, or undoes.
//!
//! The service of the step is a process of its own, which is killed, stands still or is not there; all others go on. What
//! has died is started again at once. All orders have to end, and then everything that must hold does.

use crate::table::Table;
use commands::fulfilment::Times;
use events::{
    Context, Fact, OrderId,
    fulfilment::{HoldEvent, ProcessEvent, Step},
    notifications::NotificationEvent,
    orders::Workflow,
};
use nats::{Connection, Filter, From, Reader, Until};
use projections::{
    View,
    database::{Database, Storage},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};
use uuid::Uuid;
use waybill::{
    api::{Api, Cart},
    system::{Service, System},
};
use waybill_tests::{ReadModels, Serve, Trap, Verdict, World, eventually};

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Failure {
    /// The service refuses.
    Refused,
    /// It is done, and answered when the answer was asked for again.
    Late,
    /// It is done, and answered when nobody waits for it any more.
    TooLate,
    /// Nobody is there until everybody has stopped waiting.
    Silent,
    /// The service dies before it has recorded what it does.
    DiesBefore,
    /// It dies after that.
    DiesAfter,
    /// The service dies before it has recorded that it undoes what it did.
    DiesBeforeUndoing,
    /// It dies after that.
    DiesAfterUndoing,
}

impl Failure {
    const ALL: [Self; 8] = [
        Self::Refused,
        Self::Late,
        Self::TooLate,
        Self::Silent,
        Self::DiesBefore,
        Self::DiesAfter,
        Self::DiesBeforeUndoing,
        Self::DiesAfterUndoing,
    ];
}

/// How long a saga waits for an answer, four times in all.
const DEADLINE: Duration = Duration::from_secs(1);
/// Longer than that, and shorter than it asks again.
const LATE: &str = "1500";
/// Longer than it asks at all.
const TOO_LATE: &str = "6000";
/// How long stock is held unpaid.
const HOLD: Duration = Duration::from_secs(3);
/// A message that was under way in a process that died comes again after four seconds; on a machine with other work later.
const SOON: Duration = Duration::from_mins(4);

/// A price above the limit of an account that was filled with this.
const MONEY: i64 = 100_000;
const STOCK: u32 = 1000;

/// Whether somebody dies here at a point that is not passed by everybody: a parcel that is called off.
pub(crate) fn has(point: &str) -> bool {
    point.starts_with("carrier.cancel.")
}

/// What is done about a step: by which service, in which stream.
fn done_by(step: Step) -> (Service, Context) {
    match step {
        Step::Payment => (Service::Payments, Context::Payments),
        Step::Inventory => (Service::Inventory, Context::Inventory),
        Step::Shipping => (Service::Shipping, Context::Shipping),
    }
}

struct Shop {
    world: World,
    system: System,
    api: Api,
    cart: Cart,
    workers: BTreeMap<Step, Serve>,
    started: usize,
    workflow: Workflow,
}

impl Shop {
    async fn open(workflow: Workflow) -> Self {
        let mut world = World::with(ReadModels::OnSqlite, |config| {
            config.flow.workflow = workflow;
            config.flow.times =
                Times { deadline: Some(DEADLINE), pause: Some(Duration::from_millis(50)), hold: HOLD };
        })
        .await
        .unwrap();
        world.api.stock_product("p", ("TEA", "Tea", 450), STOCK).await.unwrap();
        let user_id = world.api.register("u").await.unwrap();
        let (account_id, _) = world.api.open_account("a", user_id, MONEY).await.unwrap();
        assert!(world.stop().await);
        let apart = Step::ALL.map(|step| done_by(step).0);
        let others: Vec<_> = Service::ALL.into_iter().filter(|service| !apart.contains(service)).collect();
        let (system, api) = world.another("others", &others).await.unwrap();
        let cart = Cart { user_id, account_id, items: vec![("TEA".to_owned(), 1)], country: "DE".to_owned() };
        let workers = BTreeMap::new();
        let mut shop = Self { world, system, api, cart, workers, started: 0, workflow };
        for step in Step::ALL {
            shop.start(step, &[]).await;
        }
        shop
    }

    /// Starts the service of a step in place of the one that runs.
    async fn start(&mut self, step: Step, env: &[(&str, &str)]) {
        self.end(step).await;
        self.started += 1;
        let (service, name) = (done_by(step).0.name(), format!("{step}-{}", self.started));
        let mut serve = Serve::with_env(&self.world, service, &name, (&[] as &[&str], env)).unwrap();
        serve.listens_or_ends().await;
        self.workers.insert(step, serve);
    }

    async fn end(&mut self, step: Step) {
        if let Some(mut running) = self.workers.remove(&step) {
            running.kill().await.unwrap();
        }
    }

    /// Starts the service of a step so that it dies at a place.
    async fn start_trapped(&mut self, step: Step, at: &str) -> Trap {
        let trap = Trap::at(at).unwrap();
        self.start(step, &trap.env()).await;
        trap
    }

    /// Waits until the service of a step has died, and starts it again; whether it died where it should.
    async fn dies(&mut self, step: Step, trap: &Trap) -> Verdict {
        let worker = self.workers.get_mut(&step).unwrap();
        let begun = Instant::now();
        while !worker.has_ended() && begun.elapsed() < SOON {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let verdict = trap.verdict(worker.status());
        self.start(step, &[]).await;
        verdict
    }

    async fn place(&self, key: &str, change: impl FnOnce(&mut Cart)) -> Uuid {
        let mut cart = self.cart.clone();
        change(&mut cart);
        self.api.place(key, &cart, &[]).await.unwrap().expect(202, "an order").unwrap().id().unwrap()
    }

    async fn status(&self, order: Uuid) -> Option<String> {
        let order = self.api.order(order).await.ok()?.body;
        order["status"].as_str().filter(|status| *status != "pending").map(str::to_owned)
    }

    async fn ended(&self, order: Uuid) -> String {
        eventually(&format!("order {order} has ended"), SOON, async || self.status(order).await).await
    }

    async fn facts(&self, context: Context) -> Vec<Fact> {
        let connection = self.world.connect().await.unwrap();
        facts(&connection, context).await
    }

    /// Waits until a saga has stopped waiting for a step, or the hold of an order is over.
    async fn given_up(&self, order: Uuid, step: Step) {
        let id = OrderId::new(order);
        eventually("nobody waits any more", SOON, async || {
            let facts = self.facts(Context::Fulfilment).await;
            let over = |fact: &Fact| match fact {
                Fact::Process(ProcessEvent::CompensationRequested(it)) => it.order_id == id,
                Fact::Hold(HoldEvent::Expired(it)) => it.order_id == id,
                _ => false,
            };
            (facts.iter().any(over) || !self.waits_at_all(step)).then_some(())
        })
        .await;
    }

    /// Whether anybody stops waiting for a step that is not done: in the choreography only for the payment.
    fn waits_at_all(&self, step: Step) -> bool {
        self.workflow == Workflow::Orchestration || step == Step::Payment
    }

    /// What has been recorded of an order so far by whoever comes before a step.
    async fn is_asked(&self, order: Uuid, step: Step) {
        let id = OrderId::new(order);
        let context = match (self.workflow, step) {
            (Workflow::Orchestration, _) => Context::Fulfilment,
            (Workflow::Choreography, Step::Inventory) => Context::Orders,
            (Workflow::Choreography, Step::Payment) => Context::Inventory,
            (Workflow::Choreography, Step::Shipping) => Context::Payments,
        };
        eventually("the step is asked for", SOON, async || {
            let facts = self.facts(context).await;
            facts.iter().any(|fact| asks(fact, id, step)).then_some(())
        })
        .await;
    }
}

/// Whether a fact asks for a step.
fn asks(fact: &Fact, order: OrderId, step: Step) -> bool {
    use events::{inventory::ReservationEvent, orders::OrderEvent, payments::PaymentEvent};
    match fact {
        Fact::Process(event) => {
            event.asks().is_some_and(|(of, asks)| of.order_id == order && asks.step == step)
        }
        Fact::Order(OrderEvent::Created(it)) => it.order_id == order,
        Fact::Reservation(ReservationEvent::Reserved(it)) => it.order_id == order,
        Fact::Payment(PaymentEvent::Charged(it)) => it.order_id == order,
        _ => false,
    }
}

async fn facts(connection: &Connection, context: Context) -> Vec<Fact> {
    let (from, until) = (From::Start, Until::End);
    let mut reader = Reader::open(connection, context, from, until, Filter::default()).await.unwrap();
    let mut facts = Vec::new();
    loop {
        let batch = reader.next_batch(1000).await.unwrap();
        if batch.is_empty() {
            return facts;
        }
        facts.extend(batch.iter().map(|message| message.fact().unwrap()));
    }
}

/// One cell: an order, and what happened to it.
struct Cell {
    step: Step,
    failure: Failure,
    order: Uuid,
    /// Whether what should go wrong did: who was to die has died there, who was to be late stood still there.
    verdict: Verdict,
    took: Duration,
}

impl Shop {
    async fn cell(&mut self, step: Step, failure: Failure) -> Cell {
        let (begun, key) = (Instant::now(), format!("{step}-{failure:?}"));
        let stream = done_by(step).1.stream();
        let append = |when: &str, count: u32| format!("append.{when}@{stream}:{count}");
        let (order, verdict) = match failure {
            // How its order ends tells whether it was refused.
            Failure::Refused => (self.refused(step, &key).await, Verdict::Reached),
            Failure::Late | Failure::TooLate => {
                let millis = if failure == Failure::Late { LATE } else { TOO_LATE };
                let trap = Trap::stall(&format!("append.before@{stream}:{millis}")).unwrap();
                self.start(step, &trap.env()).await;
                let order = self.place(&key, |_| ()).await;
                self.ended(order).await;
                self.start(step, &[]).await;
                (order, trap.reached())
            }
            Failure::Silent => {
                self.end(step).await;
                let order = self.place(&key, |_| ()).await;
                self.is_asked(order, step).await;
                self.given_up(order, step).await;
                self.start(step, &[]).await;
                (order, Verdict::Reached)
            }
            Failure::DiesBefore | Failure::DiesAfter => {
                let when = if failure == Failure::DiesBefore { "before" } else { "after" };
                let trap = self.start_trapped(step, &append(when, 1)).await;
                let order = self.place(&key, |_| ()).await;
                (order, self.dies(step, &trap).await)
            }
            Failure::DiesBeforeUndoing | Failure::DiesAfterUndoing => {
                let when = if failure == Failure::DiesBeforeUndoing { "before" } else { "after" };
                if step == Step::Shipping {
                    self.dies_calling_off(&key, when).await
                } else {
                    // What it does is one append, and undoing it another: the carrier does not go there.
                    let trap = self.start_trapped(step, &append(when, 2)).await;
                    let order = self.place(&key, |cart| "AQ".clone_into(&mut cart.country)).await;
                    (order, self.dies(step, &trap).await)
                }
            }
        };
        Cell { step, failure, order, verdict, took: begun.elapsed() }
    }

    async fn refused(&self, step: Step, key: &str) -> Uuid {
        let order = self.place(key, |cart| match step {
            Step::Payment => cart.items[0].1 = 900,
            Step::Inventory => cart.items[0].1 = STOCK + 1,
            Step::Shipping => "AQ".clone_into(&mut cart.country),
        });
        let order = order.await;
        self.ended(order).await;
        order
    }

    /// A parcel is called off that was never booked, because its saga gave it up, or its customer: and shipping dies.
    async fn dies_calling_off(&mut self, key: &str, when: &str) -> (Uuid, Verdict) {
        self.end(Step::Shipping).await;
        let order = self.place(key, |_| ()).await;
        self.is_asked(order, Step::Shipping).await;
        match self.workflow {
            Workflow::Orchestration => self.given_up(order, Step::Shipping).await,
            Workflow::Choreography => {
                let cancelled = self.api.cancel(&format!("cancel-{key}"), order).await.unwrap();
                cancelled.expect(202, "a cancellation").unwrap();
            }
        }
        let at = format!("carrier.cancel.{when}@shipping:1");
        let trap = self.start_trapped(Step::Shipping, &at).await;
        (order, self.dies(Step::Shipping, &trap).await)
    }
}

/// What was undone of every saga is what was asked for and not refused, in the reverse order and once.
fn compensations(facts: &[Fact]) -> Vec<String> {
    let mut sagas: BTreeMap<OrderId, (Vec<Step>, Vec<Step>, bool)> = BTreeMap::new();
    for fact in facts {
        let Fact::Process(event) = fact else { continue };
        if let Some((order, asks)) = event.asks().filter(|(_, asks)| asks.attempt == 1) {
            sagas.entry(order.order_id).or_default().0.push(asks.step);
        }
        match event {
            ProcessEvent::StepFailed(it) => {
                sagas.entry(it.order_id).or_default().0.retain(|step| *step != it.step);
            }
            ProcessEvent::CompensationSucceeded(it) => sagas.entry(it.order_id).or_default().1.push(it.step),
            ProcessEvent::Failed(it) => sagas.entry(it.order_id).or_default().2 = true,
            _ => {}
        }
    }
    let wrong = sagas.into_iter().filter_map(|(order, (mut done, undone, failed))| {
        done.reverse();
        let expected = if failed { done } else { Vec::new() };
        (undone != expected).then(|| format!("order {order} undid {undone:?}, not {expected:?}"))
    });
    wrong.collect()
}

/// What was told twice.
fn told_twice(facts: &[Fact]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let sent = facts.iter().filter_map(|fact| match fact {
        Fact::Notification(NotificationEvent::Sent(it)) => Some(format!("{:?}", it.notice)),
        _ => None,
    });
    sent.filter(|told| !seen.insert(told.clone())).collect()
}

/// What must hold of everything that is recorded, besides the audit.
pub(crate) async fn faults(connection: &Connection) -> Vec<String> {
    let mut faults = compensations(&facts(connection, Context::Fulfilment).await);
    faults.extend(told_twice(&facts(connection, Context::Notifications).await));
    faults
}

/// The read models in a folder are the fold of the log.
pub(crate) async fn verify(
    api: &Api,
    connection: &Connection,
    views: &std::path::Path,
    scratch: &std::path::Path,
) {
    for view in View::ALL {
        let serves = async || {
            let stands =
                api.get(Service::Operations, &format!("/ops/projections/{}", view.name)).await.ok()?.body;
            u32::try_from(stands["live"].as_u64()?).ok()
        };
        let live = eventually("it is known what serves", SOON, serves).await;
        let live = Database::open(&Storage::Sqlite(views.to_owned()), view, live).await.unwrap();
        let differences = projections::verify(view, connection, &live, scratch).await.unwrap();
        assert!(differences.is_empty(), "{}: {differences:?}", view.name);
    }
}

async fn matrix(workflow: Workflow) {
    let mut shop = Shop::open(workflow).await;
    let mut cells = Vec::new();
    for failure in Failure::ALL {
        for step in Step::ALL {
            if crate::is_asked_for(&format!("{step}-{failure:?}")) {
                cells.push(shop.cell(step, failure).await);
            }
        }
    }
    let mut ends = Vec::new();
    for cell in &cells {
        ends.push(shop.ended(cell.order).await);
    }
    for step in Step::ALL {
        shop.end(step).await;
    }
    let Shop { mut world, system, .. } = shop;
    assert!(system.stop().await);
    world.resume().await.unwrap();
    let audit = world.settled().await.unwrap();
    assert_eq!(audit.orders(), cells.len());
    world.told(&["email"]).await;
    let connection = world.connect().await.unwrap();
    assert_eq!(faults(&connection).await, [""; 0]);
    let scratch = tempfile::tempdir().unwrap();
    verify(&world.api, &connection, &world.config.data, scratch.path()).await;

    let mut table =
        Table::new(&format!("{workflow:?}: what goes wrong with each step, and how its order ended"));
    for (cell, end) in cells.into_iter().zip(ends) {
        let expected = expected(workflow, &cell);
        let Cell { step, failure, verdict, took, .. } = cell;
        let verdict = match verdict {
            verdict if verdict.is_green() && !expected.contains(&&*end) => {
                Verdict::Wrong(format!("its order should end as one of {expected:?}"))
            }
            verdict => verdict,
        };
        let failure = format!("{failure:?}");
        let row = format!("{:<10} {failure:<18} {end:<10} {:>5.1} s", step.name(), took.as_secs_f64());
        table.note(row, verdict);
    }
    table.demand();
    assert!(world.stop().await);
}

/// How the order of a cell may end.
fn expected(workflow: Workflow, cell: &Cell) -> &'static [&'static str] {
    let saga = workflow == Workflow::Orchestration;
    match cell.failure {
        Failure::Refused => &["failed"],
        Failure::Silent | Failure::TooLate if saga => &["failed"],
        Failure::DiesBeforeUndoing | Failure::DiesAfterUndoing => &["failed", "cancelled"],
        // A saga that waits for a process that is started again may give it up, if that takes long. And what was delivered
        // to a process that dies comes again after four seconds, when the hold of three is over: stock given back, nothing
        // charged.
        Failure::DiesBefore | Failure::DiesAfter => &["completed", "failed"],
        Failure::Late if saga => &["completed", "failed"],
        // The payment and the end of the hold may come at the same moment: one of them wins.
        _ if cell.step == Step::Payment => &["completed", "failed"],
        _ => &["completed"],
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_goes_wrong_with_a_step_of_the_choreography_its_order_ends_once() {
    Box::pin(matrix(Workflow::Choreography)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_goes_wrong_with_a_step_of_a_saga_its_order_ends_once() {
    Box::pin(matrix(Workflow::Orchestration)).await;
}
