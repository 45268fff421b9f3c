//! Providers are held to the pacts: the services of the real executable over HTTP, and the events that they really record.

use contracts::{Answer, Log, Ports, Provider, Spoiled, States, verify};
use reqwest::Method;
use serde_json::{Value, json};
use std::{collections::HashMap, sync::Arc};
use uuid::Uuid;

/// Everything is quick, but for the carrier: an order can be cancelled before it is completed. Amounts above 100.00 are
/// declined.
const SHOP: [&str; 6] = ["--carrier", "slow:700ms", "--fraud-limit", "10000", "--step-pause", "100ms"];
/// No payment is decided before its stock is no longer held, and before a saga asks for it again.
const LATE: [&str; 10] = [
    "--hold",
    "300ms",
    "--fraud",
    "slow:4s",
    "--fraud-deadline",
    "3s",
    "--step-deadline",
    "1s",
    "--step-pause",
    "100ms",
];
/// What shipping cannot book it gives up at once. (A carrier that is away would be waited for.)
const BROKEN: [&str; 4] = ["--carrier", "garbled", "--on-failure", "shipping-payments=park:1"];

/// Of what there is enough, one.
const ONE: (&str, u32) = ("PACT-1", 1);

/// A customer of the shop.
struct Customer<'a> {
    provider: &'a Provider,
    user: Uuid,
    account: Uuid,
}

fn created(answer: Answer) -> Answer {
    assert!(answer.status.is_success(), "{answer:?}");
    answer
}

impl<'a> Customer<'a> {
    async fn new(provider: &'a Provider) -> Self {
        let email = format!("{}@example.com", Uuid::now_v7());
        let user =
            json!({ "name": "Ada Lovelace", "email": email, "password": "correct horse battery staple" });
        let user = created(provider.ask("users", "/users", Some(&user)).await).id();
        let account = json!({ "userId": user, "currency": "EUR" });
        let account = created(provider.ask("payments", "/accounts", Some(&account)).await).id();
        let credit = json!({ "amount": { "amount": 100_000, "currency": "EUR" } });
        created(provider.ask("payments", &format!("/accounts/{account}/credits"), Some(&credit)).await);
        Self { provider, user, account }
    }

    async fn places(&self, (sku, quantity): (&str, u32), country: &str, workflow: &str) -> Uuid {
        let order = json!({
            "userId": self.user,
            "accountId": self.account,
            "items": [{ "sku": sku, "quantity": quantity }],
            "workflow": workflow,
            "shippingAddress": {
                "name": "Ada Lovelace", "line1": "Gartenweg 1", "city": "Berlin", "postalCode": "10115", "country": country,
            },
        });
        created(self.provider.ask("orders", "/orders", Some(&order)).await).id()
    }

    /// Cancels an order; it may have ended.
    async fn cancels(&self, order: Uuid) {
        self.provider.ask("orders", &format!("/orders/{order}/cancel"), Some(&json!({}))).await;
    }
}

fn wanted(context: &str, kind: &str, pinned: &Value) -> HashMap<String, Value> {
    HashMap::from([
        ("context".to_owned(), context.into()),
        ("type".to_owned(), kind.into()),
        ("where".to_owned(), pinned.clone()),
    ])
}

/// Sees to it that every event that somebody reads is recorded: orders that end in every way there is, carried in both.
async fn trade(provider: &Provider, log: &Log) {
    for sku in [ONE.0, "PACT-2"] {
        let product = json!({ "sku": sku, "name": "Tea", "price": { "amount": 450, "currency": "EUR" } });
        created(provider.ask("inventory", "/products", Some(&product)).await);
    }
    let price = json!({ "price": { "amount": 460, "currency": "EUR" } });
    let (put, token) = (Method::PUT, provider.operator());
    created(provider.send(put, "inventory", "/products/PACT-2/price", Some(&price), token).await);
    let receipt = json!({ "quantity": 100 });
    created(provider.ask("inventory", "/inventory/PACT-1/receipts", Some(&receipt)).await);
    let customer = Customer::new(provider).await;
    let (choreography, orchestration) = ("choreography", "orchestration");
    let mut good = Uuid::nil();
    for workflow in [choreography, orchestration] {
        good = customer.places(ONE, "DE", workflow).await;
        // Out of stock, too dear, too far.
        customer.places(("PACT-2", 1), "DE", workflow).await;
        customer.places((ONE.0, 50), "DE", workflow).await;
        customer.places(ONE, "AQ", workflow).await;
    }
    // The saga asks for the shipment last: taken back then, all three steps are undone.
    for workflow in [choreography, orchestration] {
        log.eventually("an order is cancelled in time", || async {
            let order = customer.places(ONE, "DE", workflow).await;
            // The carrier takes its time, with the one as with the other.
            let booking = if workflow == choreography {
                wanted("payments", "payment.charged", &json!({ "orderId": order }))
            } else {
                wanted("fulfilment", "step.requested", &json!({ "orderId": order, "step": "shipping" }))
            };
            log.wait_for(&booking).await;
            customer.cancels(order).await;
            let cancelled = wanted("orders", "order.cancelled", &json!({ "orderId": order }));
            log.find(&cancelled).await.map(drop)
        })
        .await;
    }
    let completed = wanted("orders", "order.completed", &json!({ "orderId": good }));
    log.wait_for(&completed).await;
    for step in ["dispatch", "deliver"] {
        created(provider.ask("shipping", &format!("/shipments/{good}/{step}"), Some(&json!({}))).await);
    }

    // Somebody is told once more.
    let sent = log.eventually("somebody was told", || async {
        let listed = provider.ask("notifications", "/notifications", None).await.body;
        listed["items"].as_array()?.iter().find(|one| one["status"] == "sent")?["id"]
            .as_str()
            .map(str::to_owned)
    });
    let sent = sent.await;
    created(
        provider.ask("notifications", &format!("/notifications/{sent}/redeliver"), Some(&json!({}))).await,
    );
}

/// Every provider there is, and whether it keeps what consumers rely on.
async fn all(
    provider: &Provider,
    messages: u16,
    states: &Arc<States>,
) -> Vec<(&'static str, Result<(), String>)> {
    let mut verified = Vec::new();
    for (name, service) in [
        ("users", "users"),
        ("orders", "orders"),
        ("inventory", "inventory"),
        ("payments", "payments"),
        ("shipping", "shipping"),
        ("notifications", "notifications"),
        ("fulfilment", "fulfilment"),
    ] {
        let ports = Ports { http: provider.port(service), messages };
        verified.push((name, verify(name, ports, states).await));
    }
    verified
}

#[tokio::test(flavor = "multi_thread")]
async fn providers_keep_their_contracts() {
    let mut provider = Provider::start(&SHOP).await;
    trade(&provider, &Log::of(provider.nats_url())).await;
    provider.again(&LATE).await;
    let late = Log::of(provider.nats_url());
    let customer = Customer::new(&provider).await;
    customer.places(ONE, "DE", "choreography").await;
    customer.places(ONE, "DE", "orchestration").await;
    late.wait_for(&wanted("fulfilment", "hold.expired", &json!({}))).await;
    late.wait_for(&wanted("fulfilment", "step.requested", &json!({ "step": "payment" }))).await;
    provider.again(&BROKEN).await;
    let customer = Customer::new(&provider).await;
    customer.places(ONE, "DE", "choreography").await;

    let provider = Arc::new(provider);
    let log = Log::of(provider.nats_url());
    let states = States::new(Arc::clone(&provider), log.clone());
    let messages = log.serve(|_| ()).await;
    let ports = Ports { http: provider.port("operations"), messages };
    verify("operations", ports, &states).await.unwrap();
    for (name, verified) in all(&provider, messages, &states).await {
        assert!(verified.is_ok(), "{name}:\n{}", verified.unwrap_err());
    }

    // A field that is called something else turns it red, in an answer and in an event.
    let spoiled = Spoiled::serve(provider.port("users"), "email", "mail").await;
    let red = verify("users", Ports { http: spoiled, messages }, &states).await.unwrap_err();
    assert!(red.contains("a request for user details") && red.contains("email"), "{red}");
    let renamed = log.serve(|body| {
        if let Some(fields) = body.as_object_mut()
            && let Some(total) = fields.remove("totalAmount")
        {
            fields.insert("total".to_owned(), total);
        }
    });
    let red =
        verify("orders", Ports { http: provider.port("orders"), messages: renamed.await }, &states).await;
    let red = red.unwrap_err();
    assert!(red.contains("order.created") && red.contains("totalAmount"), "{red}");
}
