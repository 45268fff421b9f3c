//! What operators do about sagas, by `waybill saga` and over HTTP, through the gateway: everything is recorded with who did it
//! and why, and nobody else may.

use crate::READ_MODELS;
use commands::{fulfilment::Times, shipping::Behaviour};
use events::orders::Workflow;
use serde_json::{Value, json};
use std::{fs, time::Duration};
use tokio::process::Command;
use uuid::Uuid;
use waybill::{
    api::{Answer, Cart},
    system::Service,
};
use waybill_tests::{Front, Process, World, eventually};

const SOON: Duration = Duration::from_mins(1);
const VERBS: [&str; 5] = ["retry", "skip", "compensate", "cancel", "resume"];

struct Desk {
    world: World,
    front: Front,
    cart: Cart,
}

impl Desk {
    async fn open() -> Self {
        let world = World::with(READ_MODELS, |config| {
            config.flow.workflow = Workflow::Orchestration;
            config.policies = "retry".parse().unwrap();
        });
        let world = world.await.unwrap();
        world.api.stock_product("p", ("TEA", "Tea", 450), 100).await.unwrap();
        let user_id = world.api.register("u").await.unwrap();
        let (account_id, _) = world.api.open_account("a", user_id, 100_000).await.unwrap();
        let cart = Cart { user_id, account_id, items: vec![("TEA".to_owned(), 1)], country: "DE".to_owned() };
        let front = Front::patient(&world, "").await.unwrap();
        front.knows(&Service::ALL).await.unwrap();
        Self { world, front, cart }
    }

    /// An order whose saga comes into a state, at shipping.
    async fn order(&self, key: &str, state: &str) -> Uuid {
        let placed = self.world.api.place(key, &self.cart, &[]).await.unwrap();
        let order = placed.expect(202, "an order").unwrap().id().unwrap();
        self.is(order, |saga| saga["state"] == state && saga["step"] == "shipping").await;
        order
    }

    async fn saga(&self, order: Uuid) -> Option<Value> {
        let answer = self.front.api.get(Service::Fulfilment, &format!("/ops/sagas/{order}")).await.ok()?;
        (answer.status == 200).then_some(answer.body)
    }

    async fn is(&self, order: Uuid, like: impl Fn(&Value) -> bool) -> Value {
        eventually("the saga is there", SOON, async || self.saga(order).await.filter(|saga| like(saga))).await
    }

    /// Waits until a saga and its order have ended, and gives what is recorded of the saga.
    async fn ends(&self, order: Uuid, status: &str) -> Vec<Value> {
        let saga = self.is(order, |saga| saga["state"] == status).await;
        eventually("the order has ended", SOON, async || {
            (self.world.api.order(order).await.ok()?.body["status"] == status).then_some(())
        })
        .await;
        saga["events"].as_array().unwrap().clone()
    }

    async fn ask(&self, order: Uuid, verb: &str, reason: &str) -> Answer {
        let path = format!("/ops/sagas/{order}/{verb}");
        let (key, body) = (
            Uuid::new_v5(&order, format!("{verb} {reason}").as_bytes()).to_string(),
            json!({ "reason": reason }),
        );
        self.front.api.post(Service::Fulfilment, &path, &key, &body).await.unwrap()
    }

    /// `waybill saga`, through the gateway: what it prints, where it succeeds.
    async fn waybill(&self, line: &str, more: &[&str]) -> Result<String, String> {
        let key = self.world.config.data.with_file_name("operator.key");
        fs::write(&key, &*self.world.config.master_key.to_base64()).unwrap();
        let done = Command::new(Process::executable())
            .arg("saga")
            .args(line.split_whitespace())
            .args(more)
            .args(["--url", &format!("{}/api", self.front.url), "--nats-url", &self.world.nats.url()])
            .env("WAYBILL_MASTER_KEY_FILE", &key)
            .output()
            .await
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        if done.status.success() { Ok(text(done.stdout)) } else { Err(text(done.stderr)) }
    }
}

/// That an operator did this, and why.
#[track_caller]
fn audited(events: &[Value], kind: &str, reason: &str) {
    let event = events.iter().find(|event| event["type"] == kind);
    let event = event.unwrap_or_else(|| panic!("{kind} is not in {events:?}"));
    assert_eq!(event["detail"], reason);
    assert!(event["actor"].as_str().unwrap().starts_with("operator:"), "{event}");
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_help_sagas_through_the_gateway() {
    let mut desk = Desk::open().await;
    let carrier = desk.world.config.outside.carrier.clone();
    carrier.set_behaviour(Behaviour::Down);
    let (retried, cancelled) = (desk.order("1", "running").await, desk.order("2", "running").await);
    let compensated = desk.order("3", "running").await;

    let running = desk.waybill("list --state running", &[]).await.unwrap();
    for order in [retried, cancelled, compensated] {
        assert!(running.contains(&order.to_string()), "{running}");
    }
    assert_eq!(desk.waybill("list --state running --min-age 3600", &[]).await.unwrap(), "");
    assert_eq!(desk.waybill("list --stuck", &[]).await.unwrap(), "");
    nobody_else_may(&desk, retried).await;

    let told = desk.waybill(&format!("cancel {cancelled} --reason"), &["he rang up"]).await.unwrap();
    assert_eq!(told, format!("cancel: recorded for order {cancelled}\n"));
    desk.waybill(&format!("compensate {compensated} --reason"), &["a recall"]).await.unwrap();
    let refused = desk.waybill(&format!("cancel {compensated} --reason"), &["again"]).await.unwrap_err();
    assert!(refused.contains("being compensated already"), "{refused}");
    assert_eq!(desk.ask(retried, "resume", "too early").await.body["type"], "/problems/saga-not-parked");
    assert_eq!(desk.ask(retried, "retry", " ").await.status, 422);
    // With the carrier there it might end by itself before the command has come.
    desk.waybill(&format!("retry {retried} --reason"), &["it is back"]).await.unwrap();
    carrier.set_behaviour(Behaviour::Accept);
    audited(&desk.ends(retried, "completed").await, "operator.retried", "it is back");
    audited(&desk.ends(cancelled, "failed").await, "operator.cancelled", "he rang up");
    audited(&desk.ends(compensated, "failed").await, "operator.compensated", "a recall");
    assert_eq!(desk.ask(retried, "retry", "late").await.body["type"], "/problems/saga-ended");
    assert_eq!(desk.ask(Uuid::nil(), "retry", "who").await.body["type"], "/problems/saga-not-found");

    // With less patience, so that what cannot be undone is parked.
    assert!(desk.world.stop().await);
    let times = Times {
        deadline: Some(Duration::from_millis(50)),
        pause: Some(Duration::from_millis(5)),
        ..Times::default()
    };
    desk.world.config.flow.times = times;
    desk.world.resume().await.unwrap();
    desk.front.knows(&Service::ALL).await.unwrap();
    carrier.set_behaviour(Behaviour::Down);
    let (resumed, skipped) = (desk.order("4", "parked").await, desk.order("5", "parked").await);
    let stuck = desk.waybill("list --stuck", &[]).await.unwrap();
    assert_eq!(stuck.lines().filter(|line| line.ends_with("STUCK")).count(), 2, "{stuck}");
    let over_http =
        desk.front.api.get(Service::Fulfilment, "/ops/sagas?stuck=true&state=parked").await.unwrap();
    assert_eq!(over_http.body["items"].as_array().unwrap().len(), 2, "{}", over_http.body);

    desk.waybill(&format!("skip {skipped} --reason"), &["called off by telephone"]).await.unwrap();
    audited(&desk.ends(skipped, "failed").await, "operator.skipped", "called off by telephone");
    carrier.set_behaviour(Behaviour::Accept);
    desk.waybill(&format!("resume {resumed} --reason"), &["the carrier is back"]).await.unwrap();
    audited(&desk.ends(resumed, "failed").await, "operator.resumed", "the carrier is back");
    let timeline = desk.waybill(&format!("show {resumed}"), &[]).await.unwrap();
    for line in
        ["process.started", "step.timed_out", "compensation.failed", "process.parked", "the carrier is back"]
    {
        assert!(timeline.contains(line), "{line} is not in {timeline}");
    }
    assert!(desk.front.stop().await && desk.world.stop().await);
}

/// Neither customers nor who says nothing of himself.
async fn nobody_else_may(desk: &Desk, order: Uuid) {
    let (api, url) = (&desk.front.api, format!("{}/api/ops/sagas", desk.front.url));
    let mut requests = vec![api.http().get(&url), api.http().get(format!("{url}/{order}"))];
    let verbs = VERBS.iter().map(|verb| {
        let request = api.http().post(format!("{url}/{order}/{verb}"));
        request.header("Idempotency-Key", *verb).json(&json!({ "reason": "mine" }))
    });
    requests.extend(verbs);
    for request in requests {
        let again = request.try_clone().unwrap();
        assert_eq!(api.send_as(desk.cart.user_id, request).await.unwrap().status, 403);
        assert_eq!(api.send(again).await.unwrap().status, 401);
    }
    assert_eq!(desk.saga(order).await.unwrap()["state"], "running", "nothing came of it");
}
