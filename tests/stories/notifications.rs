//! What customers and other systems are told: once, or not at all where they do not want it, and never at the cost of an
//! order, whatever happens to the servers that carry it.

use crate::READ_MODELS;
use aws_lc_rs::hmac;
use serde_json::{Value, json};
use std::{collections::BTreeSet, fs, time::Duration};
use uuid::Uuid;
use waybill::{
    api::Cart,
    system::{Config, Service},
};
use waybill_tests::{
    MailServer, ReceivedMail, ReceivedRequest, Receiver, ReceiverBehaviour as Behaviour, Serve, World,
    eventually, request,
};

const SOON: Duration = Duration::from_secs(40);
const SECRET: &str = "whsec_0123456789abcdef";
const NEW_SECRET: &str = "whsec_fedcba9876543210";

/// A world with a product and a customer, Ada.
struct Shop {
    world: World,
    ada: Cart,
    position: String,
}

impl Shop {
    async fn open(change: impl FnOnce(&mut Config)) -> Self {
        Self::of(&Service::ALL, change).await
    }

    async fn of(services: &[Service], change: impl FnOnce(&mut Config)) -> Self {
        let world = World::of(READ_MODELS, services, |config| {
            // Nobody has days here.
            config.channels.first_retry = Duration::from_millis(100);
            config.channels.last_mail_retry = Duration::from_secs(1);
            config.channels.last_webhook_retry = Duration::from_secs(1);
            change(config);
        });
        let world = world.await.unwrap();
        let stocked = world.api.stock_product("p", ("TEA", "Tea", 450), 1000).await.unwrap();
        let position = stocked.position().unwrap().to_owned();
        let ada = customer(&world, "ada").await;
        Self { world, ada, position }
    }

    async fn place(&self, key: &str, cart: &Cart) -> Uuid {
        let placed = self.world.api.place(key, cart, &[&self.position]).await.unwrap();
        placed.expect(202, "an order").unwrap().id().unwrap()
    }

    /// What the service answers to a user.
    async fn list(&self, user: Uuid, query: &str) -> (u16, Value) {
        let api = &self.world.api;
        let request = api.http().get(api.url(Service::Notifications, &format!("/notifications{query}")));
        let answer = api.send_as(user, request).await.unwrap();
        (answer.status, answer.body)
    }

    /// Waits until the service says so many notifications of Ada's orders stand like this.
    async fn recorded(&self, status: &str, count: usize) -> Vec<Value> {
        let query = format!("?limit=100&status={status}");
        eventually(&format!("{count} {status}"), SOON, async || {
            let (_, page) = self.list(self.ada.user_id, &query).await;
            page["items"].as_array().filter(|items| items.len() == count).cloned()
        })
        .await
    }

    async fn redeliver(&self, id: &str, key: &str) -> u16 {
        let path = format!("/notifications/{id}/redeliver");
        self.world.api.post(Service::Notifications, &path, key, &json!({})).await.unwrap().status
    }
}

async fn customer(world: &World, name: &str) -> Cart {
    let user_id = world.api.register(name).await.unwrap();
    let (account_id, _) = world.api.open_account(name, user_id, 1_000_000).await.unwrap();
    Cart { user_id, account_id, items: vec![("TEA".to_owned(), 1)], country: "DE".to_owned() }
}

/// The mails in the outbox.
fn outbox(world: &World) -> Vec<ReceivedMail> {
    let entries = fs::read_dir(world.config.data.join("outbox")).into_iter().flatten().flatten();
    let files = entries.map(|entry| entry.path());
    files
        .filter(|file| file.extension().is_some_and(|e| e == "eml"))
        .map(|file| ReceivedMail::read(&file))
        .collect()
}

fn ids(mails: &[ReceivedMail]) -> BTreeSet<&str> {
    mails.iter().map(|mail| mail.id.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_customer_hears_of_his_order_step_by_step_and_reads_what_was_sent() {
    let mut shop = Shop::open(|_| ()).await;
    let order = shop.place("o", &shop.ada).await;
    shop.world.settled().await.unwrap();
    let path = format!("/shipments/{order}/dispatch");
    let dispatched = shop.world.api.post(Service::Shipping, &path, "d", &json!({})).await.unwrap();
    dispatched.expect(202, "a dispatch").unwrap();
    let sent = shop.recorded("sent", 3).await;
    let told: Vec<_> = sent.iter().map(|one| one["eventType"].as_str().unwrap()).collect();
    assert_eq!(told, ["shipment.dispatched", "order.completed", "order.created"], "newest first");
    assert!(sent.iter().all(|one| one["orderId"] == order.to_string() && one["channel"] == "email"));
    let text = serde_json::to_string(&sent).unwrap();
    assert!(!text.contains('@') && !text.contains("Ada"), "nothing personal: {text}");

    let mut mails = outbox(&shop.world);
    mails.sort_by_key(|mail| mail.subject.clone());
    let subjects: Vec<_> =
        mails.iter().map(|mail| mail.subject.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(subjects, ["We have", "Your order", "Your order"]);
    assert!(mails.iter().all(|mail| mail.text.contains("To: \"Ada Lovelace\" <ada@example.com>")));
    let expected: BTreeSet<_> =
        sent.iter().map(|one| format!("<{}@localhost>", one["id"].as_str().unwrap())).collect();
    assert_eq!(ids(&mails), expected.iter().map(String::as_str).collect());

    // Page by page, one's own only, and one of them.
    let (_, first) = shop.list(shop.ada.user_id, "?limit=2&channel=email").await;
    let cursor = first["nextCursor"].as_str().unwrap();
    let (_, rest) = shop.list(shop.ada.user_id, &format!("?limit=2&cursor={cursor}")).await;
    assert_eq!((&rest["items"][0], &rest["nextCursor"]), (&sent[2], &Value::Null));
    let stranger = shop.world.config.clock.uuid();
    assert_eq!(shop.list(stranger, "").await.1["items"], json!([]));
    assert_eq!(shop.list(stranger, &format!("?userId={}", shop.ada.user_id)).await.0, 403);
    let one = format!("/{}", sent[0]["id"].as_str().unwrap());
    assert_eq!(shop.list(shop.ada.user_id, &one).await, (200, sent[0].clone()));
    assert_eq!(shop.list(stranger, &one).await.0, 404);
    assert!(shop.world.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_want_mail_gets_none_and_who_is_erased_nothing() {
    let receiver = Receiver::start([]).await.unwrap();
    let webhook = receiver.webhook("erp", &[SECRET]);
    let mut shop = Shop::open(|config| config.channels.webhooks = vec![webhook]).await;
    let (by_post, silent) = (customer(&shop.world, "post").await, customer(&shop.world, "silent").await);
    let gone = customer(&shop.world, "gone").await;
    let api = &shop.world.api;
    let put = async |cart: &Cart, request: reqwest::RequestBuilder| {
        api.send_as(cart.user_id, request).await.unwrap().expect(202, "a change").unwrap();
    };
    let user = |cart: &Cart, rest: &str| api.url(Service::Users, &format!("/users/{}{rest}", cart.user_id));
    let preferences = json!({ "language": "en", "channels": ["push"] });
    put(&by_post, api.http().put(user(&by_post, "/preferences")).json(&preferences)).await;
    put(&silent, api.http().delete(user(&silent, "/subscriptions/order-updates"))).await;
    for (key, cart) in [("1", &by_post), ("2", &silent), ("3", &shop.ada)] {
        shop.place(key, cart).await;
    }
    // Paid, and waiting for the carrier when its customer is erased.
    shop.world.config.outside.carrier.set_behaviour(commands::shipping::Behaviour::Down);
    let waiting = shop.place("4", &gone).await;
    eventually("it is paid", SOON, async || {
        (api.order(waiting).await.ok()?.body["stage"] == "charged").then_some(())
    })
    .await;
    shop.world.told(&["email", "webhook-erp"]).await;
    let before = receiver.requests().len();
    put(&gone, api.http().delete(user(&gone, ""))).await;
    shop.world.config.outside.carrier.set_behaviour(commands::shipping::Behaviour::Accept);
    let ends = shop.world.settled().await.unwrap().ends();
    assert_eq!(ends, [("completed", 3), ("failed", 1)].into());
    shop.world.told(&["email", "webhook-erp"]).await;
    let told: Vec<_> = outbox(&shop.world).into_iter().map(|mail| mail.text).collect();
    let to = |name: &str| told.iter().filter(|text| text.contains(&format!("<{name}@example.com>"))).count();
    assert_eq!((to("post"), to("silent"), to("ada"), to("gone")), (0, 0, 2, 1));
    let failed = |request: &&ReceivedRequest| request.json()["type"] == "order.failed";
    assert_eq!(receiver.requests()[before..].iter().filter(failed).count(), 0, "nothing of who is erased");
    assert!(shop.world.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mail_server_is_away_for_long_and_only_mail_waits() {
    let mut server = MailServer::start().await.unwrap();
    let mail = server.mail();
    let mut shop = Shop::open(|config| config.channels.mail = mail).await;
    server.kill().await.unwrap();
    for number in 0..10 {
        shop.place(&format!("o-{number}"), &shop.ada).await;
    }
    // Orders do not care.
    assert_eq!(shop.world.settled().await.unwrap().ends(), [("completed", 10)].into());
    assert_eq!(shop.list(shop.ada.user_id, "").await.1["items"], json!([]));
    // Nor does it matter that the service itself goes and comes back meanwhile.
    assert!(shop.world.stop().await);
    shop.world.resume().await.unwrap();
    server.again().await.unwrap();
    let sent = shop.recorded("sent", 20).await;
    shop.world.told(&["email"]).await;
    let mails = server.mails();
    assert_eq!((mails.len(), ids(&mails).len()), (20, 20), "each of them once");
    assert!(mails.iter().all(|mail| mail.to == "ada@example.com"));
    assert!(sent.iter().all(|one| one["code"] == 250 && one["delivery"] == 1));
    // Away again while connections to it are kept.
    server.kill().await.unwrap();
    shop.place("late", &shop.ada).await;
    shop.world.settled().await.unwrap();
    server.again().await.unwrap();
    shop.recorded("sent", 22).await;
    assert_eq!(server.mails().len(), 22);
    assert!(shop.world.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_unknown_is_given_up_and_who_is_busy_is_tried_again_until_it_is_too_late() {
    let server = MailServer::start().await.unwrap();
    let mail = server.mail();
    let within = Duration::from_secs(3);
    let mut shop = Shop::open(|config| {
        config.channels.mail = mail;
        config.channels.give_up_after = within;
    })
    .await;
    let (nobody, busy) = (customer(&shop.world, "nobody").await, customer(&shop.world, "busy").await);
    for (key, cart) in [("1", &nobody), ("2", &busy), ("3", &shop.ada)] {
        shop.place(key, cart).await;
    }
    for (cart, reason, code) in [(&nobody, "refused", json!(550)), (&busy, "expired", Value::Null)] {
        let items = eventually("both are given up", SOON, async || {
            let (_, page) = shop.list(cart.user_id, "?status=failed").await;
            page["items"].as_array().filter(|items| items.len() == 2).cloned()
        })
        .await;
        assert!(items.iter().all(|one| one["reason"] == reason && one["code"] == code), "{items:?}");
    }
    assert_eq!(server.accepted(2).await.len(), 2, "Ada's, whatever becomes of others");
    assert!(shop.world.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_instances_tell_everything_once() {
    let server = MailServer::start().await.unwrap();
    let receiver = Receiver::start([]).await.unwrap();
    let (mail, webhook) = (server.mail(), receiver.webhook("erp", &[SECRET]));
    let mut shop = Shop::open(|config| {
        config.channels.mail = mail;
        config.channels.webhooks = vec![webhook];
    })
    .await;
    let (other, _) = shop.world.another("views-2", &[Service::Notifications]).await.unwrap();
    for number in 0..15 {
        shop.place(&format!("o-{number}"), &shop.ada).await;
    }
    shop.world.settled().await.unwrap();
    shop.recorded("sent", 60).await;
    shop.world.told(&["email", "webhook-erp"]).await;
    let (mails, requests) = (server.mails(), receiver.requests());
    assert_eq!((mails.len(), ids(&mails).len()), (30, 30));
    let told: BTreeSet<_> =
        requests.iter().map(|one| one.header("waybill-notification-id").to_owned()).collect();
    assert_eq!((requests.len(), told.len()), (30, 30));
    assert!(other.stop().await);
    assert!(shop.world.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_delivered_again_is_not_told_again() {
    let server = MailServer::start().await.unwrap();
    let receiver = Receiver::start([]).await.unwrap();
    let (mail, webhook) = (server.mail(), receiver.webhook("erp", &[SECRET]));
    let mut shop = Shop::open(|config| {
        config.channels.mail = mail;
        config.channels.webhooks = vec![webhook];
    })
    .await;
    shop.place("o", &shop.ada).await;
    shop.world.settled().await.unwrap();
    shop.recorded("sent", 4).await;
    shop.world.told(&["email", "webhook-erp"]).await;
    // Consumers that know nothing of what they have handled get everything once more.
    assert!(shop.world.stop().await);
    let url = shop.world.nats.url();
    for channel in ["email", "webhook-erp"] {
        let name = format!("notifications-{channel}-orders");
        let gone = request(&url, &format!("$JS.API.CONSUMER.DELETE.ORDERS.{name}"), "").await.unwrap();
        assert_eq!(gone["success"], true, "{gone}");
        let config =
            json!({ "durable_name": name, "name": name, "deliver_policy": "all", "ack_policy": "explicit" });
        let body = json!({ "stream_name": "ORDERS", "config": config }).to_string();
        let made = request(&url, &format!("$JS.API.CONSUMER.CREATE.ORDERS.{name}"), &body).await.unwrap();
        assert!(made["num_pending"].as_u64().is_some_and(|pending| pending >= 2), "{made}");
    }
    let before = shop.world.lengths().await.unwrap();
    shop.world.resume().await.unwrap();
    shop.world.told(&["email", "webhook-erp"]).await;
    assert_eq!((server.mails().len(), receiver.requests().len()), (2, 2));
    assert_eq!(shop.world.lengths().await.unwrap(), before);
    assert!(shop.world.stop().await);
}

/// Nobody knows of a mail that was handed over just when the service was killed. It is sent again, and bears the same name.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_killed_while_it_sends_sends_again_under_the_same_name_and_records_it_once() {
    let server = MailServer::start().await.unwrap();
    let services = Service::ALL.into_iter().filter(|service| *service != Service::Notifications);
    let mut shop = Shop::of(&services.collect::<Vec<_>>(), |_| ()).await;
    let mut killed = Serve::with(&shop.world, "notifications", "views-n1", &server.flags()).unwrap();
    let ready = "$JS.API.CONSUMER.INFO.NOTIFICATIONS.notifications-email-notifications";
    eventually("it listens", SOON, async || {
        let info = request(&shop.world.nats.url(), ready, "").await.ok()?;
        info["error"].is_null().then_some(())
    })
    .await;
    server.hold().unwrap();
    shop.place("o", &shop.ada).await;
    shop.world.settled().await.unwrap();
    server.holding().await;
    killed.kill().await.unwrap();
    server.release().unwrap();
    let mut config = shop.world.config.clone();
    config.channels.mail = server.mail();
    shop.world.config = config;
    let (again, api) = shop.world.another("views-n2", &[Service::Notifications]).await.unwrap();
    let read = async || {
        let request = api.http().get(api.url(Service::Notifications, "/notifications?status=sent"));
        api.send_as(shop.ada.user_id, request).await.ok()?.body["items"].as_array().cloned()
    };
    let minute = Duration::from_mins(1);
    eventually("both are recorded", minute, async || Some(read().await?.len() == 2).filter(|done| *done))
        .await;
    let mails = server.mails();
    assert_eq!(ids(&mails).len(), 2, "two mails by name");
    assert!((2..=4).contains(&mails.len()), "each at most once more: {}", mails.len());
    assert!(again.stop().await);
    assert!(shop.world.stop().await);
}

/// Whether a request is signed with a secret, as a receiver finds out.
fn is_signed(request: &ReceivedRequest, secret: &str) -> bool {
    let header = request.header("waybill-signature").to_owned();
    let mut parts = header.split(',');
    let time = parts.next().and_then(|part| part.strip_prefix("t=")).unwrap();
    let signed = [time.as_bytes(), b".", &request.body].concat();
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let mut digests = parts.map(|part| part.strip_prefix("v1=").unwrap());
    digests.any(|digest| {
        let bytes: Vec<u8> = (0..digest.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&digest[at..at + 2], 16).unwrap())
            .collect();
        hmac::verify(&key, &signed, &bytes).is_ok()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_fails_is_told_again_and_no_mail_with_it() {
    let failing = [Behaviour::Answer(500), Behaviour::Answer(302), Behaviour::Late, Behaviour::Answer(404)];
    let receiver = Receiver::start(failing).await.unwrap();
    let mut webhook = receiver.webhook("erp", &[NEW_SECRET, SECRET]);
    webhook.events = vec!["order.completed".to_owned()];
    let broken = Receiver::start([]).await.unwrap();
    let mut down = broken.webhook("down", &[SECRET]);
    down.url = "http://127.0.0.1:1/in".to_owned();
    let mut shop = Shop::open(|config| config.channels.webhooks = vec![down, webhook]).await;
    let order = shop.place("o", &shop.ada).await;
    let requests = receiver.received(5).await;
    receiver.go_on();
    shop.world.told(&["webhook-erp"]).await;
    assert_eq!(receiver.requests().len(), 5, "until it is accepted, and not again");
    let first = &requests[0];
    for one in &requests {
        assert_eq!(
            (&one.body, one.header("waybill-notification-id")),
            (&first.body, first.header("waybill-notification-id"))
        );
        assert!(is_signed(one, SECRET) && is_signed(one, NEW_SECRET), "while one secret replaces the other");
        assert!(!is_signed(one, "whsec_of_somebody_else"));
    }
    let event = first.json();
    assert_eq!(first.header("content-type"), "application/cloudevents+json");
    assert_eq!((&event["type"], &event["subject"]), (&json!("order.completed"), &json!(order)));
    assert_eq!(event["data"], json!({ "orderId": order, "userId": shop.ada.user_id }));
    // The other endpoint is never reached; neither this one nor mail waits for it, and mail is sent once.
    let sent = shop.recorded("sent", 3).await;
    assert_eq!(sent.iter().filter(|one| one["channel"] == "webhook-erp").count(), 1);
    assert_eq!(outbox(&shop.world).len(), 2);
    assert_eq!(shop.list(shop.ada.user_id, "?channel=webhook-down").await.1["items"], json!([]));
    assert_eq!(shop.world.settled().await.unwrap().ends(), [("completed", 1)].into());
    assert!(shop.world.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_has_it_told_again() {
    let receiver = Receiver::start([Behaviour::Answer(410)]).await.unwrap();
    let mut webhook = receiver.webhook("erp", &[SECRET]);
    webhook.events = vec!["order.completed".to_owned()];
    let mut shop = Shop::open(|config| config.channels.webhooks = vec![webhook]).await;
    shop.place("o", &shop.ada).await;
    let failed = shop.recorded("failed", 1).await.remove(0);
    assert_eq!((&failed["reason"], &failed["code"]), (&json!("refused"), &json!(410)));
    let id = failed["id"].as_str().unwrap();
    assert_eq!(shop.redeliver(id, "again").await, 202);
    assert_eq!(shop.redeliver(id, "again").await, 202, "the same request");
    let requests = receiver.received(2).await;
    assert_eq!(requests[0].body, requests[1].body);
    let names =
        requests.iter().map(|one| (one.header("waybill-notification-id"), one.header("waybill-delivery")));
    assert_eq!(names.collect::<Vec<_>>(), [(id, "1"), (id, "2")]);
    shop.recorded("sent", 3).await;

    // A mail that was sent, too: under another name, or nobody would see it twice.
    let mail = shop.list(shop.ada.user_id, "?channel=email&limit=1").await.1["items"][0].clone();
    let id = mail["id"].as_str().unwrap();
    assert_eq!(shop.redeliver(id, "mail").await, 202);
    eventually("it is sent again", SOON, async || (outbox(&shop.world).len() == 3).then_some(())).await;
    let mails = outbox(&shop.world);
    assert!(ids(&mails).contains(format!("<{id}.2@localhost>").as_str()), "{:?}", ids(&mails));
    shop.world.told(&["email", "webhook-erp"]).await;
    assert_eq!((receiver.requests().len(), outbox(&shop.world).len()), (2, 3));
    let unknown = format!("{}_email", shop.world.config.clock.uuid());
    assert_eq!(shop.redeliver(&unknown, "unknown").await, 404);
    assert_eq!(shop.redeliver("nonsense", "nonsense").await, 400);
    assert!(shop.world.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_without_a_mail_server_says_at_its_start_that_nobody_gets_mail() {
    let mut world = World::of(READ_MODELS, &[Service::Users], |_| ()).await.unwrap();
    let outbox = world.config.data.join("meant").display().to_string();
    for (name, flags, warned) in [("forgotten", vec![], true), ("meant", vec!["--outbox", &outbox], false)] {
        let serve = Serve::with(&world, "notifications", name, &flags).unwrap();
        serve.address().await;
        let line = serve.log().into_iter().find(|line| line["message"].as_str().is_some_and(is_warning));
        assert_eq!(line.is_some(), warned, "{name}");
        if let Some(line) = line {
            assert_eq!(line["level"], "WARN");
            assert!(line["outbox"].as_str().unwrap().ends_with("outbox"), "{line}");
        }
    }
    assert!(world.stop().await);
}

fn is_warning(message: &str) -> bool {
    message.starts_with("no mail server") && message.contains("--smtp")
}
