//! What a consumer cannot handle waits for an operator, holds nothing else up, and comes back in order.

use commands::shipping::Behaviour;
use serde_json::{Value, json};
use std::time::Duration;
use uuid::Uuid;
use waybill::{api::Cart, system::Service};
use waybill_tests::{World, eventually};

const SOON: Duration = Duration::from_mins(1);

struct Shop {
    world: World,
    cart: Cart,
    position: String,
}

impl Shop {
    /// Whoever fails three times is parked.
    async fn open() -> Self {
        let world = World::with(|config| config.policies = "park:3".parse().unwrap()).await.unwrap();
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
