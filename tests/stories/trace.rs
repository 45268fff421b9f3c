//! What a collector of OpenTelemetry and a reader of logs learn about orders.

use crate::READ_MODELS;
use reqwest::RequestBuilder;
use serde_json::{Value, json};
use std::{collections::BTreeSet, path::Path, time::Duration};
use waybill::api::{Answer, Api, Cart};
use waybill_tests::{CollectedSpan, Collector, Kept, Process, eventually};

const SOON: Duration = Duration::from_secs(30);

/// Sends what is recorded almost at once.
const HASTE: [(&str, &str); 3] = [
    ("OTEL_BSP_SCHEDULE_DELAY", "50"),
    ("OTEL_BLRP_SCHEDULE_DELAY", "50"),
    ("OTEL_METRIC_EXPORT_INTERVAL", "200"),
];

async fn dev(folder: &Path, kept: &Kept, collector: &str, env: &[(&str, &str)]) -> Process {
    let env = [&HASTE, env, &[("OTEL_EXPORTER_OTLP_ENDPOINT", collector)]].concat();
    Process::dev_with(folder, &kept.flags(&["--log-format", "json"]), &env).await.unwrap()
}

/// A customer with so much money, and a product of which there is enough.
async fn shop(api: &Api, key: &str, balance: i64) -> (Cart, Vec<String>) {
    let sku = format!("{}-POT", key.to_uppercase());
    let stocked = api.stock_product(key, (&sku, "Pot", 500), 10).await.unwrap();
    let user_id = api.register(key).await.unwrap();
    let (account_id, opened) = api.open_account(key, user_id, balance).await.unwrap();
    let after = [&stocked, &opened].map(|answer| answer.position().unwrap().to_owned());
    (Cart { user_id, account_id, items: vec![(sku, 2)], country: "DE".to_owned() }, after.into())
}

async fn place(api: &Api, key: &str, cart: &Cart, after: &[String]) -> Answer {
    let after: Vec<_> = after.iter().map(String::as_str).collect();
    api.place(key, cart, &after).await.unwrap()
}

/// Through the front door, as soon as it knows who is behind it.
async fn place_at_gateway(api: &Api, folder: &Path, cart: &Cart, after: &[String]) -> Answer {
    let file: Value = serde_json::from_slice(&std::fs::read(folder.join("dev.json")).unwrap()).unwrap();
    let url = format!("{}/api/orders", file["gateway"].as_str().unwrap());
    eventually("the gateway takes an order", SOON, async || {
        let request = api.http().post(&url).header("Idempotency-Key", "order").json(&cart.body());
        let request = request.header("Waybill-Position", after.join(", "));
        let answer = api.send_as(cart.user_id, request).await.unwrap();
        (answer.status != 503).then(|| answer.expect(202, "an order").unwrap())
    })
    .await
}

async fn ended(api: &Api, order: &Answer, stage: &str) {
    let id = order.id().unwrap();
    eventually(stage, SOON, async || (api.order(id).await.ok()?.body["status"] == stage).then_some(())).await;
}

/// The trace of the request with this correlation id.
fn trace_of(spans: &[CollectedSpan], correlation: &str) -> Vec<CollectedSpan> {
    let known = |span: &&CollectedSpan| {
        span.name == "POST /orders"
            && span.attributes.get("waybill.correlation_id").is_some_and(|id| id == correlation)
    };
    let trace = spans.iter().find(known).map(|span| span.trace.clone()).unwrap_or_default();
    spans.iter().filter(|span| span.trace == trace).cloned().collect()
}

fn correlation(answer: &Answer) -> &str {
    answer.headers["x-correlation-id"].to_str().unwrap()
}

/// Each as `<service> <what it does> <the type of the event>`.
fn summary(spans: &[CollectedSpan]) -> BTreeSet<String> {
    let kind =
        |span: &CollectedSpan| span.attributes.get("cloudevents.event_type").cloned().unwrap_or_default();
    spans
        .iter()
        .map(|span| format!("{} {} {}", span.service, span.name, kind(span)).trim_end().to_owned())
        .collect()
}

/// Every span begins its trace, or is caused by a span that was received too.
fn assert_no_orphans(spans: &[CollectedSpan]) {
    let known: BTreeSet<_> = spans.iter().map(|span| (&*span.trace, &*span.id)).collect();
    assert_eq!(known.len(), spans.len(), "no span is sent twice");
    for span in spans {
        let parent = span.parent.is_empty() || known.contains(&(&*span.trace, &*span.parent));
        let links = span.links.iter().all(|(trace, id)| known.contains(&(&**trace, &**id)));
        assert!(parent && links, "an orphan: {span:?}");
    }
}

/// What one order that succeeds does.
const COMPLETED: [&str; 34] = [
    "gateway POST /api/orders",
    "gateway POST orders",
    "orders POST /orders",
    "orders GET users",
    "users GET /users/{id}",
    "orders execute order",
    "orders publish ORDERS order.created",
    "orders project ORDERS order.created",
    "inventory process ORDERS order.created",
    "inventory execute item+reservation",
    "inventory publish INVENTORY stock.reserved,inventory.reserved",
    "inventory project INVENTORY stock.reserved",
    "orders project INVENTORY inventory.reserved",
    "payments process INVENTORY inventory.reserved",
    "fraud assess payment",
    "fraud execute assessment",
    "fraud publish FRAUD fraud.assessed",
    "payments execute account+payment",
    "payments publish PAYMENTS account.debited,payment.charged",
    "payments project PAYMENTS account.debited",
    "payments project PAYMENTS payment.charged",
    "shipping process PAYMENTS payment.charged",
    "shipping execute shipment",
    "shipping publish SHIPPING shipping.scheduled",
    "shipping project SHIPPING shipping.scheduled",
    "orders process SHIPPING shipping.scheduled",
    "orders publish ORDERS order.completed",
    "orders project ORDERS order.completed",
    "orders project SHIPPING shipping.scheduled",
    "notifications process ORDERS order.created",
    "notifications process ORDERS order.completed",
    "notifications execute notification",
    "notifications publish NOTIFICATIONS notification.sent",
    "notifications project NOTIFICATIONS notification.sent",
];

#[tokio::test]
async fn one_order_is_one_trace_through_every_service_and_projection() {
    let folder = tempfile::tempdir().unwrap();
    let collector = Collector::http().await.unwrap();
    let kept = READ_MODELS.kept();
    let process = dev(folder.path(), &kept, &collector.url, &[]).await;
    let (cart, after) = shop(&process.api, "a", 1000).await;
    let order = place_at_gateway(&process.api, folder.path(), &cart, &after).await;
    ended(&process.api, &order, "completed").await;
    // The money is spent.
    let poor = place(&process.api, "poor", &cart, &after).await.expect(202, "an order").unwrap();
    ended(&process.api, &poor, "failed").await;
    let unknown = Cart { items: vec![("NONE".to_owned(), 1)], ..cart.clone() };
    let refused = place(&process.api, "refused", &unknown, &after).await.expect(422, "an order").unwrap();

    let complete = |spans: &[CollectedSpan]| {
        let seen = summary(&trace_of(spans, correlation(&order)));
        COMPLETED.iter().all(|span| seen.contains(*span))
    };
    let failed = "orders project ORDERS order.failed";
    let whole = |spans: &[CollectedSpan]| {
        complete(spans) && summary(&trace_of(spans, correlation(&poor))).contains(failed)
    };
    eventually("the traces", SOON, async || whole(&collector.spans()).then_some(())).await;
    assert!(process.stop().await.unwrap().success());

    let spans = collector.spans();
    assert_no_orphans(&spans);
    let trace = trace_of(&spans, correlation(&order));
    let root = trace.iter().find(|span| span.parent.is_empty()).unwrap();
    assert_eq!(trace.iter().filter(|span| span.parent.is_empty()).count(), 1, "one trace has one beginning");
    assert_eq!((&*root.service, &*root.attributes["http.response.status_code"]), ("gateway", "202"));
    let placing = trace.iter().find(|span| span.name == "POST /orders").unwrap();
    assert_eq!(placing.attributes["order.user_id"], cart.user_id.to_string());
    assert_eq!(placing.attributes["order.item_count"], "1");
    assert_eq!(placing.attributes["http.response.status_code"], "202");
    assert_eq!(placing.status, Some(Ok(())));
    assert!(trace.iter().all(|span| !matches!(span.status, Some(Err(_)))), "{trace:?}");

    let short = "insufficient_funds".to_owned();
    for name in ["publish PAYMENTS", "publish ORDERS"] {
        let trace = trace_of(&spans, correlation(&poor));
        let failed = trace.iter().filter(|span| span.name == name && span.status == Some(Err(short.clone())));
        assert_eq!(failed.count(), 1, "{trace:?}");
    }
    let trace = trace_of(&spans, correlation(&refused));
    assert_eq!(trace[0].status, Some(Err("There is no product 'NONE'.".to_owned())));

    let logs = collector.logs();
    let charged = logs.iter().find(|log| log.body == "Payment processed successfully").unwrap();
    assert_eq!((&*charged.service, &*charged.trace), ("payments", &*root.trace));
    assert_eq!(charged.attributes["correlationId"], correlation(&order));
    let metrics = collector.metrics();
    for service in ["orders", "inventory", "payments", "shipping", "notifications"] {
        for name in ["waybill_commands", "waybill_command_seconds", "waybill_projection_lag_events"] {
            assert!(
                metrics.contains(&(service.to_owned(), name.to_owned())),
                "{service} {name}: {metrics:?}"
            );
        }
    }
}

#[tokio::test]
async fn over_grpc_too_and_only_what_the_sampler_takes() {
    let folder = tempfile::tempdir().unwrap();
    let collector = Collector::grpc().unwrap();
    let env = [("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"), ("OTEL_TRACES_SAMPLER", "parentbased_always_off")];
    let kept = READ_MODELS.kept();
    let process = dev(folder.path(), &kept, &collector.url, &env).await;
    let (cart, after) = shop(&process.api, "a", 5000).await;
    let left_out = place(&process.api, "order", &cart, &after).await.expect(202, "an order").unwrap();
    ended(&process.api, &left_out, "completed").await;

    let (trace, caller) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
    let url = process.api.url(waybill::system::Service::Orders, "/orders");
    let request = process.api.http().post(url).header("traceparent", format!("00-{trace}-{caller}-01"));
    let request = request.header("Waybill-Position", after.join(", ")).json(&cart.body());
    let order = process.api.send_as(cart.user_id, request).await.unwrap();
    let order = order.expect(202, "an order").unwrap();
    ended(&process.api, &order, "completed").await;
    eventually("the trace", SOON, async || {
        summary(&collector.spans()).contains("orders project ORDERS order.completed").then_some(())
    })
    .await;
    assert!(process.stop().await.unwrap().success());

    let spans = collector.spans();
    assert!(spans.iter().all(|span| span.trace == trace), "only what the caller asked for: {spans:?}");
    let root = spans.iter().find(|span| span.name == "POST /orders").unwrap();
    assert_eq!(root.parent, caller);
    assert!(collector.logs().iter().any(|log| log.service == "payments" && log.trace == trace));
    assert!(collector.metrics().contains(&("orders".to_owned(), "waybill_commands".to_owned())));
}

/// Whatever somebody might look for in a log and must not find.
const PERSONAL: [&str; 7] = ["Ada", "Lovelace", "Gartenweg", "10115", "@example.com", "eyJ", "Bearer"];

#[tokio::test]
async fn logs_are_json_tell_of_payments_and_of_nobody_and_no_collector_is_missed() {
    let folder = tempfile::tempdir().unwrap();
    // Nobody listens there.
    let kept = READ_MODELS.kept();
    let process = dev(folder.path(), &kept, "http://127.0.0.1:1", &[]).await;
    let (cart, after) = shop(&process.api, "a", 1000).await;
    let order = place(&process.api, "order", &cart, &after).await.expect(202, "an order").unwrap();
    ended(&process.api, &order, "completed").await;
    let poor = place(&process.api, "poor", &cart, &after).await.expect(202, "an order").unwrap();
    ended(&process.api, &poor, "failed").await;
    let log = process.log_file();
    assert!(process.stop().await.unwrap().success());

    let text = std::fs::read_to_string(log).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for personal in PERSONAL {
        assert!(!text.contains(personal), "{personal} is in the log");
    }
    let of = |answer: &Answer, message: &str| {
        let id = correlation(answer);
        let mut found = lines.iter().filter(|line| line["correlationId"] == id && line["message"] == message);
        let line = found.next().unwrap_or_else(|| panic!("no '{message}' of {id} in\n{text}")).clone();
        assert_eq!(found.next(), None, "once");
        line
    };
    for (answer, message, level) in [
        (&order, "Processing payment", "INFO"),
        (&order, "Payment processed successfully", "INFO"),
        (&poor, "Processing payment", "INFO"),
        (&poor, "Payment processing failed", "ERROR"),
    ] {
        let line = of(answer, message);
        assert_eq!(line["level"], level);
        assert_eq!(line["userId"], cart.user_id.to_string());
        assert_eq!((&line["amount"], &line["currency"]), (&1000.into(), &"EUR".into()));
        assert_eq!(line["transactionId"], answer.id().unwrap().to_string());
        assert_eq!(line["service"], "payments");
    }
    let why = of(&poor, "Payment processing failed");
    // The reason, and not what the customer has.
    assert_eq!(why["error"], "insufficient_funds");
    assert!(!text.contains("the balance is"));

    // Everything that belongs to a request or a reaction says to which, and to which trace.
    let inside = lines
        .iter()
        .filter(|line| ["http", "reaction", "payment"].contains(&line["target"].as_str().unwrap()));
    for line in inside {
        assert!(
            line["correlationId"].is_string() && line["traceId"].as_str().is_some_and(|id| id.len() == 32),
            "{line}"
        );
    }
    let traces: BTreeSet<_> = lines
        .iter()
        .filter(|line| line["correlationId"] == correlation(&order))
        .map(|line| line["traceId"].to_string())
        .collect();
    assert_eq!(traces.len(), 1);
    for signal in ["traces", "metrics", "logs"] {
        let said = lines.iter().filter(|line| {
            line["signal"] == signal
                && line["message"].as_str().is_some_and(|text| text.starts_with("telemetry is not"))
        });
        assert_eq!(said.count(), 1, "an outage of the collector is told once");
    }
}

/// What a customer sends and is given, all of it through the gateway, and what is none of a log's business in it.
struct Visit<'a> {
    api: &'a Api,
    gateway: String,
    secrets: Vec<String>,
}

impl Visit<'_> {
    async fn ask(&self, status: u16, token: &str, request: RequestBuilder) -> Value {
        let request = if token.is_empty() { request } else { request.bearer_auth(token) };
        self.api.send(request).await.unwrap().expect(status, "a visitor").unwrap().body
    }

    async fn post(&self, status: u16, token: &str, path: &str, body: &Value) -> Value {
        self.ask(status, token, self.api.http().post(format!("{}{path}", self.gateway)).json(body)).await
    }

    /// Notes the tokens that were given, and gives them: for access, for refreshing.
    fn noted(&mut self, session: &Value) -> (String, String) {
        let [access, refresh] =
            ["accessToken", "refreshToken"].map(|name| session[name].as_str().unwrap().to_owned());
        // Any part of it would do harm.
        self.secrets.extend(access.split('.').skip(1).map(str::to_owned));
        self.secrets.push(refresh.clone());
        (access, refresh)
    }
}

#[tokio::test]
async fn nothing_that_a_customer_sends_through_the_gateway_is_in_any_log_line() {
    let folder = tempfile::tempdir().unwrap();
    let kept = READ_MODELS.kept();
    let flags = kept.flags(&["--log-format", "json", "--log", "debug"]);
    let process = Process::dev(folder.path(), &flags).await.unwrap();
    let file: Value =
        serde_json::from_slice(&std::fs::read(folder.path().join("dev.json")).unwrap()).unwrap();
    let gateway = format!("{}/api", file["gateway"].as_str().unwrap());
    let stocked = process.api.stock_product("p", ("POT-9", "Pot", 500), 10).await.unwrap();
    let mut visit = Visit { api: &process.api, gateway, secrets: Vec::new() };

    let (email, password) = ("Wilhelmine.Zwirnsdorf@Tuttlingen.example", "sesam oeffne dich");
    let person = json!({ "email": email, "password": password, "name": "Wilhelmine Zwirnsdorf" });
    let id = visit.post(201, "", "/users", &person).await["id"].as_str().unwrap().to_owned();
    visit.post(409, "", "/users", &person).await;
    visit
        .post(422, "", "/users", &json!({ "email": email, "password": "sesam", "name": "Wilhelmine" }))
        .await;
    visit.post(401, "", "/sessions", &json!({ "email": email, "password": "sesam geh auf" })).await;
    let session = visit.post(201, "", "/sessions", &json!({ "email": email, "password": password })).await;
    let (_, refresh) = visit.noted(&session);
    let renewed = visit.post(200, "", "/sessions/refresh", &json!({ "refreshToken": refresh })).await;
    let (access, last) = visit.noted(&renewed);

    let address = json!({
        "name": "Wilhelmine Zwirnsdorf", "line1": "Krummgasse 77", "city": "Tuttlingen", "postalCode": "QX7 8ZW",
        "country": "DE",
    });
    let user = format!("{}/users/{id}", visit.gateway);
    let change = process.api.http().patch(&user).json(&json!({ "addresses": [&address] }));
    visit.ask(202, &access, change).await;
    let account = json!({ "userId": id, "currency": "EUR" });
    let account = visit.post(201, &access, "/accounts", &account).await["id"].as_str().unwrap().to_owned();
    let mut order = json!({
        "userId": id, "accountId": account, "items": [{ "sku": "POT-9", "quantity": 2 }], "shippingAddress": address,
    });
    let place = process.api.http().post(format!("{}/orders", visit.gateway)).json(&order);
    let after = stocked.position().unwrap();
    let placed = visit.ask(202, &access, place.header("Waybill-Position", after)).await;
    let placed = placed["id"].as_str().unwrap().parse().unwrap();
    eventually("the order has failed, for want of money", SOON, async || {
        (process.api.order(placed).await.ok()?.body["status"] == "failed").then_some(())
    })
    .await;
    // What is refused, and where nothing is: a path, a query, a token that is none.
    order["shippingAddress"] = json!("Krummgasse 77, Tuttlingen");
    visit.post(422, &access, "/orders", &order).await;
    let get = |path: &str| process.api.http().get(format!("{}{path}", visit.gateway));
    visit.ask(400, &access, get(&format!("/users/{email}"))).await;
    visit.ask(404, &access, get("/Krummgasse")).await;
    visit.ask(400, &access, get(&format!("/users/{id}?include=Krummgasse&access_token={access}"))).await;
    visit.ask(401, &format!("{access}x"), get(&format!("/users/{id}"))).await;
    // A token that was used before: the session ends.
    visit.post(401, "", "/sessions/refresh", &json!({ "refreshToken": refresh })).await;
    visit.post(401, "", "/sessions/refresh", &json!({ "refreshToken": last })).await;
    visit.ask(202, &access, process.api.http().delete(&user)).await;
    let (secrets, log) = (visit.secrets, process.log_file());
    assert!(process.stop().await.unwrap().success());

    let text = std::fs::read_to_string(log).unwrap();
    let personal = ["wilhelmine", "zwirnsdorf", "tuttlingen", "krummgasse", "qx7 8zw", "sesam"];
    let known: Vec<_> = personal.into_iter().chain(secrets.iter().map(String::as_str)).collect();
    assert_eq!(secrets.len(), 6);
    let (mut lines, mut of_gateway) = (0, 0);
    for line in text.lines() {
        let read: Value = serde_json::from_str(line).unwrap();
        let small = line.to_lowercase();
        for secret in &known {
            assert!(!small.contains(&secret.to_lowercase()), "{secret} is in the log: {line}");
        }
        lines += 1;
        of_gateway += usize::from(read["target"] == "access");
    }
    assert!(lines > 100 && of_gateway >= 16, "{of_gateway} requests in {lines} lines: {text}");
}
