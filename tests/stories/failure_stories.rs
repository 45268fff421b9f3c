//! What went wrong in public systems, told here with another end: `docs/failure-stories.md`. Each for both workflows.

use crate::READ_MODELS;
use commands::{fulfilment::Times, shipping::Behaviour};
use events::orders::Workflow;
use serde_json::Value;
use std::{collections::BTreeMap, time::Duration};
use uuid::Uuid;
use waybill::{api::Cart, system::Service};
use waybill_tests::{World, eventually};

const SOON: Duration = Duration::from_mins(1);
const WORKFLOWS: [Workflow; 2] = [Workflow::Choreography, Workflow::Orchestration];
const MONEY: i64 = 100_000;

struct Shop {
    world: World,
    cart: Cart,
    position: String,
}

impl Shop {
    async fn open(workflow: Workflow, stock: u32, times: Times) -> Self {
        let world = World::with(READ_MODELS, |config| {
            config.flow.workflow = workflow;
            config.flow.times = times;
        });
        let world = world.await.unwrap();
        let stocked = world.api.stock_product("p", ("TEA", "Tea", 450), stock).await.unwrap();
        let user_id = world.api.register("u").await.unwrap();
        let (account_id, _) = world.api.open_account("a", user_id, MONEY).await.unwrap();
        let cart = Cart { user_id, account_id, items: vec![("TEA".to_owned(), 1)], country: "DE".to_owned() };
        Self { world, cart, position: stocked.position().unwrap().to_owned() }
    }

    async fn place(&self, key: &str, quantity: u32) -> Uuid {
        let cart = Cart { items: vec![("TEA".to_owned(), quantity)], ..self.cart.clone() };
        let placed = self.world.api.place(key, &cart, &[&self.position]).await.unwrap();
        placed.expect(202, "an order").unwrap().id().unwrap()
    }

    /// So many at the same moment.
    async fn crowd(&self, count: usize, quantity: u32) {
        let keys: Vec<_> = (0..count).map(|number| format!("o-{number}")).collect();
        futures::future::join_all(keys.iter().map(|key| self.place(key, quantity))).await;
    }

    async fn ends(&self) -> BTreeMap<&'static str, usize> {
        self.world.settled().await.unwrap().ends()
    }

    /// (on hand, held, balance)
    async fn left(&self) -> (u64, u64, i64) {
        let api = &self.world.api;
        let item = api.get(Service::Inventory, "/inventory/TEA").await.unwrap().body;
        let account =
            api.get(Service::Payments, &format!("/accounts/{}", self.cart.account_id)).await.unwrap();
        let count = |name: &str| item[name].as_u64().unwrap();
        (count("onHand"), count("reserved"), account.body["balance"]["amount"].as_i64().unwrap())
    }

    async fn order(&self, order: Uuid) -> Value {
        self.world.api.order(order).await.unwrap().body
    }
}

/// Two orders for one unit, one of them without a reservation and without a payment, because a step that had succeeded could not
/// be marked as failed.
#[tokio::test(flavor = "multi_thread")]
async fn medusa_16825_the_last_unit_makes_one_order_and_no_orphan() {
    for workflow in WORKFLOWS {
        let mut shop = Shop::open(workflow, 1, Times::default()).await;
        shop.crowd(20, 1).await;
        assert_eq!(shop.ends().await, [("completed", 1), ("failed", 19)].into(), "{workflow:?}");
        assert_eq!(shop.left().await, (1, 1, MONEY - 450), "{workflow:?}");
        assert!(shop.world.stop().await);
    }
}

/// Each of two checkouts was possible, both together were not; both went through.
#[tokio::test(flavor = "multi_thread")]
async fn saleor_543_checkouts_at_once_never_hold_more_than_there_is() {
    for workflow in WORKFLOWS {
        let mut shop = Shop::open(workflow, 10, Times::default()).await;
        shop.crowd(20, 3).await;
        assert_eq!(shop.ends().await, [("completed", 3), ("failed", 17)].into(), "{workflow:?}");
        assert_eq!(shop.left().await, (10, 9, MONEY - 9 * 450), "{workflow:?}");
        assert!(shop.world.stop().await);
    }
}

/// The compensation of one step was not written yet; it threw, and those of the steps before it never ran.
#[tokio::test(flavor = "multi_thread")]
async fn ftgo_107_whatever_was_done_before_the_step_that_fails_is_undone() {
    for workflow in WORKFLOWS {
        let mut shop = Shop::open(workflow, 10, Times::default()).await;
        shop.world.config.outside.carrier.set_behaviour(Behaviour::Refuse);
        let order = shop.place("o", 2).await;
        assert_eq!(shop.ends().await, [("failed", 1)].into(), "{workflow:?}");
        assert_eq!(shop.order(order).await["reason"], "carrier_refused");
        assert_eq!(shop.left().await, (10, 0, MONEY), "{workflow:?}");
        assert!(shop.world.stop().await);
    }
}

/// Orders stayed in approval pending for ever, and nobody was told: a service that should have answered was not there.
#[tokio::test(flavor = "multi_thread")]
async fn ftgo_71_an_order_that_nobody_answers_is_seen_and_ends() {
    let times = Times {
        deadline: Some(Duration::from_millis(100)),
        pause: Some(Duration::from_millis(10)),
        hold: Duration::from_millis(500),
    };
    for workflow in WORKFLOWS {
        let mut shop = Shop::open(workflow, 10, times).await;
        assert!(shop.world.stop().await);
        let others = Service::ALL.into_iter().filter(|service| *service != Service::Payments);
        let (system, api) = shop.world.another("others", &others.collect::<Vec<_>>()).await.unwrap();
        let placed = api.place("o", &shop.cart, &[]).await.unwrap();
        let order = placed.expect(202, "an order").unwrap().id().unwrap();
        if workflow == Workflow::Orchestration {
            eventually("the saga is seen as stuck", SOON, async || {
                let stuck = api.get(Service::Fulfilment, "/ops/sagas?stuck=true").await.ok()?.body;
                (stuck["items"][0]["orderId"] == order.to_string()).then_some(())
            })
            .await;
        }
        assert!(system.stop().await);
        shop.world.resume().await.unwrap();
        if workflow == Workflow::Orchestration {
            let body = serde_json::json!({ "reason": "payments are back" });
            let path = format!("/ops/sagas/{order}/resume");
            let resumed = shop.world.api.post(Service::Fulfilment, &path, "r", &body).await.unwrap();
            resumed.expect(202, "a saga that goes on").unwrap();
        }
        let ends = shop.ends().await;
        assert_eq!(ends.values().sum::<usize>(), 1, "{workflow:?}: {ends:?}");
        assert!(shop.world.stop().await);
    }
}

/// The event that an order was cancelled was written into a table and never published.
#[tokio::test(flavor = "multi_thread")]
async fn eshop_159_whom_a_cancelled_order_concerns_hears_of_it() {
    for workflow in WORKFLOWS {
        let mut shop = Shop::open(workflow, 10, Times::default()).await;
        let carrier = shop.world.config.outside.carrier.clone();
        carrier.set_behaviour(Behaviour::Down);
        let order = shop.place("o", 2).await;
        eventually("it is paid and held", SOON, async || {
            (shop.left().await == (10, 2, MONEY - 900)).then_some(())
        })
        .await;
        let cancelled = shop.world.api.cancel("c", order).await.unwrap();
        cancelled.expect(202, "a cancellation").unwrap();
        carrier.set_behaviour(Behaviour::Accept);
        assert_eq!(shop.ends().await, [("cancelled", 1)].into(), "{workflow:?}");
        eventually("everything is given back", SOON, async || {
            (shop.left().await == (10, 0, MONEY)).then_some(())
        })
        .await;
        let shipment = shop.world.api.get(Service::Shipping, &format!("/shipments/{order}")).await.unwrap();
        assert_eq!(shipment.body["status"], "cancelled", "{workflow:?}: {}", shipment.body);
        assert!(shop.world.stop().await);
    }
}
