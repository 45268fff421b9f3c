//! What a consumer cannot handle waits for an operator, holds nothing else up, and comes back in order.

use crate::READ_MODELS;
use commands::shipping::Behaviour;
use serde_json::{Value, json};
use std::time::Duration;
use uuid::Uuid;
use waybill::{
    api::{Cart, Tokens},
    system::Service,
};
use waybill_tests::{Front, World, eventually, run};

const SOON: Duration = Duration::from_mins(1);

struct Shop {
    world: World,
    cart: Cart,
    position: String,
}

impl Shop {
    /// Whoever fails three times is parked.
    async fn open() -> Self {
        let world =
            World::with(READ_MODELS, |config| config.policies = "park:3".parse().unwrap()).await.unwrap();
        let stocked = world.api.stock_product("p", ("TEA", "Tea", 450), 100).await.unwrap();
        let user_id = world.api.register("u").await.unwrap();
        let (account_id, _) = world.api.open_account("a", user_id, 100_000).await.unwrap();
        let cart = Cart { user_id, account_id, items: vec![("TEA".to_owned(), 1)], country: "DE".to_owned() };
        let position = stocked.position().unwrap().to_owned();
        Self { world, cart, position }
    }

    async fn place(&self, key: &str) -> Uuid {
        let placed = self.world.api.place(key, &self.cart, &[&self.position]).await.unwrap();
        placed.expect(202, "an order").unwrap().id().unwrap()
    }

    async fn status(&self, order: Uuid) -> String {
        self.world.api.order(order).await.unwrap().body["status"].as_str().unwrap_or_default().to_owned()
    }

    async fn ends(&self, order: Uuid, status: &str) {
        eventually(&format!("the order is {status}"), SOON, async || {
            (self.status(order).await == status).then_some(())
        })
        .await;
    }

    async fn letters(&self) -> Value {
        self.world.api.get(Service::Operations, "/ops/dead-letters").await.unwrap().body
    }

    async fn parked(&self, count: u64) -> Value {
        eventually("they are parked", SOON, async || {
            let letters = self.letters().await;
            (letters["count"] == count).then_some(letters)
        })
        .await
    }

    async fn ask(&self, path: &str, body: &Value) -> (u16, Value) {
        let path = format!("/ops/dead-letters/{path}");
        let answer = self.world.api.post(Service::Operations, &path, &path, body).await.unwrap();
        (answer.status, answer.body)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_has_a_parked_message_handled_again_over_http() {
    let shop = Shop::open().await;
    shop.world.config.outside.carrier.set_behaviour(Behaviour::Garbled);
    let orders = [shop.place("1").await, shop.place("2").await];
    let letters = shop.parked(2).await;
    let group = &letters["groups"][0];
    assert_eq!((&group["count"], &group["consumer"]), (&2.into(), &"shipping-payments".into()), "{letters}");
    let letter = &group["letters"][0];
    let (id, fingerprint) = (letter["id"].as_str().unwrap(), group["fingerprint"].as_str().unwrap());
    assert_eq!((&letter["attempts"], &letter["eventType"]), (&3.into(), &"payment.charged".into()));
    let shown = shop.world.api.get(Service::Operations, &format!("/ops/dead-letters/{id}")).await.unwrap();
    assert_eq!(shown.body["waiting"][0]["eventType"], "payment.charged", "{}", shown.body);
    assert_eq!((&shown.body["asked"], shown.status), (&Value::Null, 200));

    // Nobody but an operator.
    let url = shop.world.api.url(Service::Operations, "/ops/dead-letters");
    let request = shop.world.api.http().get(&url);
    assert_eq!(shop.world.api.send_as(shop.cart.user_id, request).await.unwrap().status, 403);
    assert_eq!(shop.world.api.send(shop.world.api.http().get(&url)).await.unwrap().status, 401);
    assert_eq!(shop.ask(&format!("{}/retry", Uuid::nil()), &json!({})).await.0, 404);
    assert_eq!(shop.ask(&format!("{id}/discard"), &json!({ "reason": " " })).await.0, 422);

    shop.world.config.outside.carrier.set_behaviour(Behaviour::default());
    assert_eq!(shop.ask(&format!("{id}/retry"), &json!({})).await.0, 202);
    shop.parked(1).await;
    let (status, body) = shop.ask(&format!("groups/{fingerprint}/retry"), &json!({})).await;
    assert_eq!((status, &body["count"]), (202, &1.into()));
    shop.parked(0).await;
    for order in orders {
        shop.ends(order, "completed").await;
    }
    shop.world.settled().await.unwrap();
}

/// A dependency that is away says nothing of the orders that need it.
#[tokio::test(flavor = "multi_thread")]
async fn a_carrier_that_is_away_for_long_parks_no_order() {
    let shop = Shop::open().await;
    shop.world.config.outside.carrier.set_behaviour(Behaviour::Down);
    let orders = [shop.place("1").await, shop.place("2").await];
    let url = shop.world.api.url(Service::Shipping, "/metrics");
    let away = |line: &str| {
        let of = ["waybill_reaction_failures_total{", "durable=\"shipping-payments\"", "cause=\"world\""];
        let count = of.iter().all(|part| line.contains(part)).then(|| line.rsplit(' ').next()?.parse().ok());
        count.flatten().unwrap_or(0)
    };
    eventually("both have failed more often than three times", SOON, async || {
        let metrics = shop.world.api.http().get(&url).send().await.ok()?.text().await.ok()?;
        (metrics.lines().map(away).sum::<u32>() >= 10).then_some(())
    })
    .await;
    assert_eq!(shop.letters().await["count"], 0);
    for order in orders {
        assert_eq!(shop.status(order).await, "pending");
    }
    shop.world.config.outside.carrier.set_behaviour(Behaviour::default());
    for order in orders {
        shop.ends(order, "completed").await;
    }
    shop.world.settled().await.unwrap();
}

/// `waybill dead-letters`, through the gateway.
#[tokio::test(flavor = "multi_thread")]
async fn operators_see_to_dead_letters_by_command_and_all_of_it_is_recorded() {
    let shop = Shop::open().await;
    let front = Front::patient(&shop.world, "").await.unwrap();
    front.knows(&Service::ALL).await.unwrap();
    let config = &shop.world.config;
    let tokens = Tokens::open(&config.nats_url, &config.master_key, &config.clock).await.unwrap();
    let (url, nats, token) =
        (format!("{}/api", front.url), shop.world.nats.url(), tokens.operator().await.unwrap());
    let place = ["--url", &url, "--token", &token];
    let waybill = async |line: &[&str]| run(&[&["dead-letters"], line, &place].concat()).await.unwrap();

    assert_eq!(waybill(&["list"]).await, (Some(0), "nothing waits\n".to_owned()));
    shop.world.config.outside.carrier.set_behaviour(Behaviour::Garbled);
    let mut orders = Vec::new();
    for key in ["1", "2", "3"] {
        orders.push(shop.place(key).await);
    }
    let letters = shop.parked(3).await;
    let group = &letters["groups"][0];
    let (fingerprint, id) =
        (group["fingerprint"].as_str().unwrap(), group["letters"][0]["id"].as_str().unwrap());
    let (_, listed) = waybill(&["list"]).await;
    let of_group = format!("{fingerprint}  3  shipping-payments  payment.charged: the carrier's answer");
    assert!(listed.starts_with(&of_group) && listed.contains(id), "{listed}");
    let (_, shown) = waybill(&["show", id]).await;
    assert!(shown.contains("cannot be understood") && shown.contains("\"attempts\": 3"), "{shown}");

    let (code, why) = waybill(&["discard", id, "--reason", " "]).await;
    assert!(code != Some(0) && why.contains("reason"), "{why}");
    assert_eq!(waybill(&["discard", id, "--reason", "a duplicate"]).await.1, "discard: 1\n");
    shop.parked(2).await;
    shop.world.config.outside.carrier.set_behaviour(Behaviour::default());
    assert_eq!(waybill(&["retry", fingerprint]).await.1, "retry: 2\n");
    shop.parked(0).await;
    eventually("all but the one that was given up are completed", SOON, async || {
        let mut completed = 0;
        for order in &orders {
            completed += usize::from(shop.status(*order).await == "completed");
        }
        (completed == 2).then_some(())
    })
    .await;
    assert_eq!(waybill(&["retry", "--all"]).await.1, "retry: 0\n");

    let replay = ["replay", "--stream", "OPS", "--output", "json", "--nats-url", &nats];
    let (_, told) = run(&replay).await.unwrap();
    let told: Vec<Value> = told.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let of = |kind: &str| told.iter().filter(|fact| fact["type"] == kind).collect::<Vec<_>>();
    let counts = ["message.parked", "deadletter.discarded", "deadletter.retried", "deadletter.resolved"];
    assert_eq!(counts.map(|kind| of(kind).len()), [3, 1, 2, 3], "{told:?}");
    let discarded = of("deadletter.discarded")[0];
    assert_eq!(discarded["data"]["reason"], "a duplicate");
    assert!(discarded["actor"].as_str().unwrap().starts_with("operator:"), "{discarded}");
    assert!(front.stop().await);
}
