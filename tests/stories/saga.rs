//! Orders that a saga carries: done step by step, undone in the reverse order, whatever fails, is silent or dies.

use crate::READ_MODELS;
use commands::{fraud::Rules, shipping::Behaviour};
use events::{Context, Fact, OrderId, fulfilment::ProcessEvent};
use nats::{Filter, From, Reader, Until};
use serde_json::json;
use std::time::Duration;
use uuid::Uuid;
use waybill::{
    api::{Answer, Api, Cart},
    system::Service,
};
use waybill_tests::{Serve, World, eventually};

const SOON: Duration = Duration::from_secs(30);
const STOCK: u32 = 100;
const MONEY: i64 = 100_000;

struct Shop {
    world: World,
    cart: Cart,
    position: String,
}

/// A shop whose orders are carried by sagas, which do not wait for long.
async fn open() -> Shop {
    open_with(Duration::from_secs(10)).await
}

async fn open_with(deadline: Duration) -> Shop {
    let world = World::with(READ_MODELS, |config| {
        config.flow.workflow = events::orders::Workflow::Orchestration;
        config.flow.times.deadline = Some(deadline);
        config.flow.times.pause = Some(Duration::from_millis(20));
    });
    let world = world.await.unwrap();
    let stocked = world.api.stock_product("p", ("TEA", "Tea", 450), STOCK).await.unwrap();
    let user_id = world.api.register("u").await.unwrap();
    let (account_id, _) = world.api.open_account("a", user_id, MONEY).await.unwrap();
    let cart = Cart { user_id, account_id, items: vec![("TEA".to_owned(), 2)], country: "DE".to_owned() };
    Shop { world, cart, position: stocked.position().unwrap().to_owned() }
}

/// Stock and money as the queries have them: (available, balance).
async fn left(api: &Api, cart: &Cart) -> (u64, i64) {
    let item = api.get(Service::Inventory, "/inventory/TEA").await.unwrap().body;
    let account = api.get(Service::Payments, &format!("/accounts/{}", cart.account_id)).await.unwrap().body;
    (item["available"].as_u64().unwrap(), account["balance"]["amount"].as_i64().unwrap())
}

impl Shop {
    async fn place(&self, key: &str) -> Uuid {
        self.place_cart(key, &self.cart).await
    }

    async fn place_cart(&self, key: &str, cart: &Cart) -> Uuid {
        let placed = self.world.api.place(key, cart, &[&self.position]).await.unwrap();
        placed.expect(202, "an order").unwrap().id().unwrap()
    }

    /// What the saga of an order has done, in words.
    async fn story(&self, order: Uuid) -> Vec<String> {
        let connection = self.world.connect().await.unwrap();
        let subject = events::Aggregate::Process.subject(OrderId::new(order)).to_string();
        let filter = Filter { subject: Some(subject), ..Filter::default() };
        let mut reader =
            Reader::open(&connection, Context::Fulfilment, From::Start, Until::End, filter).await.unwrap();
        let mut told = Vec::new();
        loop {
            let batch = reader.next_batch(100).await.unwrap();
            if batch.is_empty() {
                return told;
            }
            for message in batch {
                let Fact::Process(event) = message.fact().unwrap() else { panic!("{message:?}") };
                told.extend(in_words(&event));
            }
        }
    }

    async fn order(&self, order: Uuid) -> serde_json::Value {
        self.world.api.order(order).await.unwrap().body
    }

    /// Waits until an order has ended.
    async fn ended(&self, order: Uuid) -> serde_json::Value {
        eventually("the order has ended", SOON, async || {
            let order = self.order(order).await;
            // A problem has a status too: that of the answer.
            let told = order["status"].as_str().is_some_and(|status| status != "pending");
            told.then_some(order)
        })
        .await
    }

    /// The saga of an order as operators see it.
    async fn saga(&self, order: Uuid) -> serde_json::Value {
        self.world.api.get(Service::Fulfilment, &format!("/ops/sagas/{order}")).await.unwrap().body
    }

    async fn interfere(&self, order: Uuid, verb: &str) -> Answer {
        let body = json!({ "reason": "the carrier called" });
        let path = format!("/ops/sagas/{order}/{verb}");
        self.world.api.post(Service::Fulfilment, &path, &format!("{verb}-{order}"), &body).await.unwrap()
    }

    async fn is(&self, order: Uuid, state: &str) -> serde_json::Value {
        eventually(state, SOON, async || {
            let saga = self.saga(order).await;
            (saga["state"] == state).then_some(saga)
        })
        .await
    }
}

/// What a fact says, one thing after the other.
fn in_words(event: &ProcessEvent) -> Vec<String> {
    use ProcessEvent as P;
    let done = event.done().map(|done| done.step.to_string());
    let told = match event {
        P::Started(_) => "started".to_owned(),
        P::StepRequested(_) | P::StepSucceeded(_) => String::new(),
        P::StepFailed(it) => format!("{} refused", it.step),
        P::StepTimedOut(it) => format!("{} silent", it.step),
        P::CompensationRequested(it) => format!("undo {}?", it.step),
        P::CompensationSucceeded(it) => format!("undo {}", it.step),
        P::CompensationFailed(it) => format!("undo {} silent", it.step),
        P::Completed(_) => "completed".to_owned(),
        P::Failed(_) => "failed".to_owned(),
        P::Parked(_) => "parked".to_owned(),
        P::Retried(_) => "retried".to_owned(),
        P::Skipped(_) => "skipped".to_owned(),
        P::Compensated(_) => "compensated".to_owned(),
        P::Cancelled(_) => "cancelled".to_owned(),
        P::Resumed(_) => "resumed".to_owned(),
        P::Waiting(it) => format!("{} waits", it.step),
    };
    let asks = event.asks().map(|(_, asks)| format!("{}?", asks.step));
    let told = Some(told).filter(|told| !told.is_empty());
    done.into_iter().chain(told).chain(asks).collect()
}

const DONE: [&str; 8] =
    ["started", "payment?", "payment", "inventory?", "inventory", "shipping?", "shipping", "completed"];

#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_done_step_by_step() {
    let mut shop = open().await;
    let order = shop.place("o").await;
    assert_eq!(shop.world.settled().await.unwrap().ends(), [("completed", 1)].into());
    assert_eq!(shop.story(order).await, DONE);
    assert_eq!(left(&shop.world.api, &shop.cart).await, (u64::from(STOCK) - 2, MONEY - 900));
    let saga = shop.is(order, "completed").await;
    assert_eq!(saga["events"].as_array().unwrap().len(), 4, "one fact for each move");
    // Nothing is left that would wake it.
    let (url, filter) = (shop.world.nats.url(), r#"{"subjects_filter":"timer.>"}"#);
    let stream = waybill_tests::request(&url, "$JS.API.STREAM.INFO.FULFILMENT", filter).await.unwrap();
    assert!(stream["state"]["subjects"].as_object().is_none_or(serde_json::Map::is_empty), "{stream}");
    assert!(shop.world.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn whichever_step_is_refused_the_others_are_undone_in_reverse() {
    let mut shop = open().await;
    let outside = shop.world.config.outside.clone();
    let refused = async |shop: &Shop, key: &str, cart: &Cart, reason: &str| {
        let order = shop.place_cart(key, cart).await;
        shop.world.settled().await.unwrap();
        let answer = shop.order(order).await;
        assert_eq!((&answer["status"], &answer["reason"]), (&"failed".into(), &reason.into()), "{answer}");
        shop.story(order).await
    };
    outside.fraud.set_rules(Rules { amount_limit: Some(1), ..Rules::default() });
    let story = refused(&shop, "payment", &shop.cart, "fraud_declined").await;
    assert_eq!(story, ["started", "payment?", "payment refused", "failed"]);
    outside.fraud.set_rules(Rules::default());

    let many = Cart { items: vec![("TEA".to_owned(), STOCK + 1)], ..shop.cart.clone() };
    let story = refused(&shop, "inventory", &many, "out_of_stock").await;
    let undone = ["inventory refused", "undo payment?", "undo payment", "failed"];
    assert_eq!(story[3..], [&["inventory?"][..], &undone[..]].concat());

    outside.carrier.set_behaviour(Behaviour::Refuse);
    let story = refused(&shop, "shipping", &shop.cart, "carrier_refused").await;
    let undone =
        ["shipping refused", "undo inventory?", "undo inventory", "undo payment?", "undo payment", "failed"];
    assert_eq!(story[6..], undone);
    assert_eq!(left(&shop.world.api, &shop.cart).await, (STOCK.into(), MONEY));
    assert!(shop.world.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_carrier_that_is_silent_for_too_long_is_called_off_when_it_answers_again() {
    let mut shop = open_with(Duration::from_millis(150)).await;
    let carrier = shop.world.config.outside.carrier.clone();
    carrier.set_behaviour(Behaviour::Down);
    let order = shop.place("o").await;
    shop.is(order, "compensating").await;
    carrier.set_behaviour(Behaviour::Accept);
    let answer = shop.ended(order).await;
    assert_eq!((&answer["status"], &answer["reason"]), (&"failed".into(), &"step_timed_out".into()));
    shop.world.settled().await.unwrap();
    let story = shop.story(order).await;
    let silent = story.iter().filter(|word| *word == "shipping silent").count();
    assert_eq!(silent, 4, "{story:?}");
    let order_of: Vec<_> = story
        .iter()
        .filter(|word| ["undo shipping", "undo inventory", "undo payment"].contains(&word.as_str()))
        .collect();
    assert_eq!(order_of, ["undo shipping", "undo inventory", "undo payment"], "{story:?}");
    assert_eq!(left(&shop.world.api, &shop.cart).await, (STOCK.into(), MONEY));
    assert!(shop.world.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_carrier_that_is_slow_is_asked_again_and_books_one_parcel() {
    let mut shop = open_with(Duration::from_millis(300)).await;
    let carrier = shop.world.config.outside.carrier.clone();
    carrier.set_behaviour(Behaviour::Slow(Duration::from_millis(400)));
    let order = shop.place("o").await;
    let answer = shop.ended(order).await;
    assert_eq!(answer["status"], "completed", "{answer} {:?}", shop.story(order).await);
    shop.world.settled().await.unwrap();
    let story = shop.story(order).await;
    assert_eq!(story.iter().filter(|word| *word == "shipping").count(), 1, "{story:?}");
    assert_eq!(left(&shop.world.api, &shop.cart).await, (u64::from(STOCK) - 2, MONEY - 900));
    assert!(shop.world.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_at_any_moment_ends_in_completed_or_undone() {
    const ORDERS: usize = 40;
    let mut shop = open().await;
    let (api, shop_) = (&shop.world.api, &shop);
    let one = |number: usize| async move {
        let order = shop_.place(&format!("o-{number}")).await;
        for _ in 0..number / 2 {
            api.order(order).await.unwrap();
        }
        let cancelled = api.cancel(&format!("c-{number}"), order).await.unwrap();
        assert!(matches!(cancelled.status, 202 | 409), "{cancelled:?}");
        usize::from(cancelled.status == 202)
    };
    let mut cancelled = 0;
    for group in (0..ORDERS).collect::<Vec<_>>().chunks(10) {
        cancelled +=
            futures::future::join_all(group.iter().map(|number| one(*number))).await.iter().sum::<usize>();
    }
    let audit = shop.world.settled().await.unwrap();
    let ends = audit.ends();
    let count = |end| ends.get(end).copied().unwrap_or_default();
    assert_eq!(
        (count("cancelled"), count("completed") + count("cancelled")),
        (cancelled, ORDERS),
        "{ends:?}"
    );
    assert!(cancelled > 0, "the first ones are cancelled at once");
    let completed = count("completed");
    let paid = i64::try_from(completed).unwrap() * 900;
    let held = u64::try_from(completed).unwrap() * 2;
    assert_eq!(left(&shop.world.api, &shop.cart).await, (u64::from(STOCK) - held, MONEY - paid));
    assert!(shop.world.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compensation_that_fails_is_parked_and_an_operator_brings_it_to_its_end() {
    let mut shop = open_with(Duration::from_millis(200)).await;
    let carrier = shop.world.config.outside.carrier.clone();
    carrier.set_behaviour(Behaviour::Down);
    let order = shop.place("o").await;
    let saga = shop.is(order, "parked").await;
    assert_eq!((&saga["step"], &saga["stuck"]), (&"shipping".into(), &true.into()), "{saga}");
    let stuck = shop.world.api.get(Service::Fulfilment, "/ops/sagas?stuck=true").await.unwrap().body;
    let parked = shop.world.api.get(Service::Fulfilment, "/ops/sagas?state=parked").await.unwrap().body;
    assert_eq!(parked, stuck);
    let unknown = shop.world.api.get(Service::Fulfilment, "/ops/sagas?state=lost").await.unwrap();
    assert_eq!((unknown.status, &unknown.body["type"]), (400, &"/problems/invalid-query".into()));
    assert_eq!(stuck["items"][0]["orderId"], order.to_string());
    let metrics = shop.world.api.http().get(shop.world.api.url(Service::Fulfilment, "/metrics"));
    let metrics = metrics.send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains(r#"waybill_processes_total{outcome="parked"} 1"#), "{metrics}");
    carrier.set_behaviour(Behaviour::Accept);
    assert_eq!(shop.interfere(order, "resume").await.status, 202);
    assert_eq!(shop.ended(order).await["status"], "failed");
    shop.world.settled().await.unwrap();
    let saga = shop.is(order, "failed").await;
    let events = saga["events"].as_array().unwrap();
    let resumed = events.iter().find(|event| event["type"] == "operator.resumed").unwrap();
    assert_eq!(resumed["detail"], "the carrier called");
    assert!(resumed["actor"].as_str().unwrap().starts_with("operator:"), "{resumed}");
    assert_eq!(shop.interfere(order, "retry").await.body["type"], "/problems/saga-ended");
    assert_eq!(shop.interfere(Uuid::from_u128(9), "retry").await.body["type"], "/problems/saga-not-found");
    assert_eq!(left(&shop.world.api, &shop.cart).await, (STOCK.into(), MONEY));
    assert!(shop.world.stop().await);
}

/// The process manager alone is killed again and again while orders are under way, a few of which are refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_manager_that_is_killed_between_two_steps_goes_on() {
    const ORDERS: usize = 30;
    let mut shop = open().await;
    assert!(shop.world.stop().await);
    let others = Service::ALL.into_iter().filter(|service| *service != Service::Fulfilment);
    let (system, api) = shop.world.another("others", &others.collect::<Vec<_>>()).await.unwrap();
    shop.world.api = api;
    let far = Cart { country: "AQ".to_owned(), ..shop.cart.clone() };
    for round in 0..5 {
        let mut manager = Serve::start(&shop.world, "fulfilment", "manager").unwrap();
        for number in 0..ORDERS / 5 {
            let cart = if number % 3 == 0 { &far } else { &shop.cart };
            shop.place_cart(&format!("o-{round}-{number}"), cart).await;
        }
        let connection = shop.world.connect().await.unwrap();
        let before = nats::last_sequence(&connection, Context::Fulfilment).await.unwrap();
        let some = fastrand::u64(1..30);
        eventually("some steps are done", SOON, async || {
            let now = nats::last_sequence(&connection, Context::Fulfilment).await.unwrap();
            (now >= before + some || round > 0).then_some(())
        })
        .await;
        manager.kill().await.unwrap();
    }
    let (manager, fulfilment) = shop.world.another("last", &[Service::Fulfilment]).await.unwrap();
    let audit = shop.world.settled().await.unwrap();
    let refused = ORDERS.div_ceil(3);
    assert_eq!(audit.ends(), [("completed", ORDERS - refused), ("failed", refused)].into());
    let done = u32::try_from(ORDERS - refused).unwrap();
    let expected = (u64::from(STOCK - 2 * done), MONEY - 900 * i64::from(done));
    assert_eq!(left(&shop.world.api, &shop.cart).await, expected);
    drop(fulfilment);
    assert!(manager.stop().await && system.stop().await);
}

/// Payments are away for longer than stock is held.
#[tokio::test(flavor = "multi_thread")]
async fn stock_that_nobody_pays_for_is_free_again_when_its_time_is_over() {
    let with = |config: &mut waybill::system::Config| config.flow.times.hold = Duration::from_millis(600);
    let mut world = World::with(READ_MODELS, with).await.unwrap();
    let stocked = world.api.stock_product("p", ("TEA", "Tea", 450), STOCK).await.unwrap();
    let user_id = world.api.register("u").await.unwrap();
    let (account_id, _) = world.api.open_account("a", user_id, MONEY).await.unwrap();
    let cart = Cart { user_id, account_id, items: vec![("TEA".to_owned(), 2)], country: "DE".to_owned() };
    let after = [stocked.position().unwrap()];
    let paid = world.api.place("paid", &cart, &after).await.unwrap().id().unwrap();
    world.settled().await.unwrap();

    assert!(world.stop().await);
    let without = Service::ALL.into_iter().filter(|service| *service != Service::Payments);
    let (system, api) = world.another("without", &without.collect::<Vec<_>>()).await.unwrap();
    let unpaid = api.place("unpaid", &cart, &after).await.unwrap().id().unwrap();
    let connection = world.connect().await.unwrap();
    eventually("the hold has expired", SOON, async || {
        let filter = Filter { kinds: vec!["hold.expired".to_owned()], ..Filter::default() };
        let (from, until) = (From::Start, Until::End);
        let mut reader = Reader::open(&connection, Context::Fulfilment, from, until, filter).await.unwrap();
        (!reader.next_batch(1).await.unwrap().is_empty()).then_some(())
    })
    .await;
    assert!(system.stop().await);
    world.resume().await.unwrap();
    world.settled().await.unwrap();
    // Back, payments find both what is to be paid and that it is too late. Whichever they see first wins.
    let order = world.api.order(unpaid).await.unwrap().body;
    assert!(order["status"] == "completed" || order["reason"] == "hold_expired", "{order}");
    assert_eq!(world.api.order(paid).await.unwrap().body["status"], "completed");
    let held = if order["status"] == "completed" { 4 } else { 2 };
    let item = world.api.get(Service::Inventory, "/inventory/TEA").await.unwrap().body;
    assert_eq!(item["reserved"], held, "{item}");
    assert!(world.stop().await);
}
