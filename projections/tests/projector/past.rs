//! Things as they were: the same queries over a part of the log.

use super::{Made, System, ask, flow, get, order_id, router, user_id};
use axum::{Extension, Router, body::Body, http::Request};
use events::{
    AccountId, Actor, Aggregate, CommandId, CorrelationId, DomainEvent, Envelope, Metadata, Money, UserId,
    payments::{AccountCredited, AccountEvent, AccountOpened},
};
use jiff::Timestamp;
use nats::Write;
use serde_json::{Value, json};
use service::auth::{Principal, Role};
use std::time::Instant;
use tower::ServiceExt;
use uuid::Uuid;

/// Carries out what a history says was changed, as a client would.
fn apply(document: &mut Value, changes: &Value) {
    for change in changes.as_array().unwrap() {
        let path = change["path"].as_str().unwrap();
        assert_eq!(document.pointer(path), change.get("from"), "{change}");
        let (parent, name) = path.rsplit_once('/').unwrap();
        match (document.pointer_mut(parent).unwrap(), change.get("to").cloned()) {
            (Value::Object(object), Some(to)) => drop(object.insert(name.to_owned(), to)),
            (Value::Object(object), None) => drop(object.remove(name)),
            (Value::Array(items), Some(to)) => match items.get_mut(name.parse::<usize>().unwrap()) {
                Some(item) => *item = to,
                None => items.push(to),
            },
            (Value::Array(items), None) => drop(items.pop()),
            (other, _) => panic!("nothing is beneath {other}"),
        }
    }
}

/// Some orders, each as far as chance will have it, their events mixed.
async fn record(system: &System, orders: u64, random: &mut fastrand::Rng) {
    let mut flows: Vec<Vec<Made>> = (1..=orders)
        .map(|number| {
            let mut flow = flow(number);
            flow.truncate(random.usize(1..=7));
            flow.reverse();
            flow
        })
        .collect();
    let mut created = vec![0; flows.len()];
    while flows.iter().any(|flow| !flow.is_empty()) {
        let place = random.usize(..flows.len());
        let Some(made) = flows[place].pop() else { continue };
        let expect = if made.envelope.version == 1 { 0 } else { created[place] };
        let position = system.append(&made, expect).await;
        if made.subject.aggregate() == Aggregate::Order && expect == 0 {
            created[place] = position.sequence;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_version_is_the_present_and_all_changes_lead_to_it() {
    let system = System::start(super::On::Sqlite).await;
    let mut random = fastrand::Rng::with_seed(7);
    record(&system, 16, &mut random).await;
    let mut seen = 0;
    for (service, path) in [("orders", "/orders"), ("payments", "/payments"), ("shipping", "/shipments")] {
        let projections = system.projections(service).await;
        system.caught_up(&projections).await;
        let routes = router(&system, &projections);
        for number in 1..=16 {
            let thing = format!("{path}/{}", order_id(number));
            let (status, present) = get(&routes, &thing).await;
            if status != 200 {
                assert_eq!(get(&routes, &format!("{thing}/history?diff=true")).await.0, 404);
                continue;
            }
            seen += 1;
            let (status, history) = get(&routes, &format!("{thing}/history?diff=true&limit=100")).await;
            assert_eq!(status, 200, "{history}");
            let events = history["events"].as_array().unwrap();
            let own = format!("{}/", path.trim_start_matches('/').trim_end_matches('s'));
            let version =
                events.iter().filter(|event| event["aggregate"].as_str().unwrap().starts_with(&own));
            let version = version.map(|event| event["version"].as_u64().unwrap()).max().unwrap();
            assert_eq!(
                get(&routes, &format!("{thing}?asOf={version}")).await,
                (200, present.clone()),
                "{thing}"
            );

            let mut document = json!({});
            for event in events {
                apply(&mut document, &event["changes"]);
                let time = event["time"].as_str().unwrap();
                assert_eq!(
                    get(&routes, &format!("{thing}?asOf={time}")).await.1,
                    document,
                    "{thing} at {time}"
                );
            }
            assert_eq!(document, present, "{thing}");

            let (mut paged, mut cursor) = (Vec::new(), String::new());
            loop {
                let (_, page) = get(&routes, &format!("{thing}/history?diff=true&limit=2{cursor}")).await;
                paged.extend(page["events"].as_array().unwrap().clone());
                let Some(next) = page["nextCursor"].as_str() else { break };
                cursor = format!("&cursor={next}");
            }
            assert_eq!(&paged, events, "{thing} page by page");
            let (_, plain) = get(&routes, &format!("{thing}/history")).await;
            let ids = |events: &Value| {
                events.as_array().unwrap().iter().map(|one| one["id"].clone()).collect::<Vec<_>>()
            };
            assert_eq!(ids(&plain["events"]), ids(&history["events"]), "{thing} with and without changes");
        }
    }
    assert!(seen > 16, "chance left something to see: {seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_never_was_is_not_made_up() {
    let system = System::start(super::On::Sqlite).await;
    system.order(1).await;
    let orders = system.projections("orders").await;
    system.caught_up(&orders).await;
    let routes = router(&system, &orders);
    let thing = format!("/orders/{}", order_id(1));
    for (query, status, kind) in [
        ("asOf=0", 404, "state-not-found"),
        ("asOf=3", 404, "state-not-found"),
        ("asOf=2000-01-01T00:00:00Z", 404, "state-not-found"),
        ("asOf=2999-01-01T00:00:00Z", 400, "invalid-as-of"),
        ("asOf=yesterday", 400, "invalid-as-of"),
        ("asOf=", 400, "invalid-as-of"),
        ("asOf=1&asOf=2", 400, "invalid-query"),
    ] {
        let (found, problem) = get(&routes, &format!("{thing}?{query}")).await;
        assert_eq!((found, &problem["type"]), (status, &json!(format!("/problems/{kind}"))), "{query}");
    }
    for elsewhere in ["/orders?asOf=1".to_owned(), format!("{thing}/history?asOf=1")] {
        let (status, problem) = get(&routes, &elsewhere).await;
        assert_eq!((status, &problem["field"]), (400, &json!("asOf")), "{elsewhere}");
    }
    for (query, status) in
        [("diff=maybe", 400), ("limit=0", 422), ("cursor=00", 422), ("diff=true&size=1", 400)]
    {
        assert_eq!(get(&routes, &format!("{thing}/history?{query}")).await.0, status, "{query}");
    }
    let nobodys = format!("/orders/{}", order_id(2));
    assert_eq!(get(&routes, &format!("{nobodys}?asOf=1")).await.1["type"], "/problems/order-not-found");

    // However the id is written; and with a position to wait for.
    let shouted = format!("/orders/{}", order_id(1).to_string().to_uppercase());
    let response = ask(&routes, &format!("{shouted}?after=ORDERS:2&asOf=1")).await;
    let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
    assert_eq!((response.status().as_u16(), header("waybill-version")), (200, "1".to_owned()));
    assert_eq!(header("waybill-position"), "ORDERS:1, INVENTORY:2, PAYMENTS:2, SHIPPING:1");
    assert_eq!(header("waybill-as-of"), "2023-11-14T22:13:20.001005Z");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_see_the_present_does_not_see_the_past() {
    let system = System::start(super::On::Sqlite).await;
    system.order(1).await;
    let orders = system.projections("orders").await;
    let payments = system.projections("payments").await;
    system.caught_up(&orders).await;
    system.caught_up(&payments).await;
    let as_user = |routes: Router, user: UserId| {
        routes.layer(Extension(Principal { user: user.uuid(), role: Role::Customer, token: Uuid::nil() }))
    };
    let of = |projections: &projections::Projections| Router::from(projections.router(&system.keys));
    for (user, status) in [(user_id(1), 200), (user_id(2), 404)] {
        let routes = as_user(of(&orders), user);
        for query in ["?asOf=1", "?asOf=2", "/history", "/history?diff=true"] {
            assert_eq!(get(&routes, &format!("/orders/{}{query}", order_id(1))).await.0, status, "{query}");
        }
        // No account was opened for it, so that only operators see the payment.
        let routes = as_user(of(&payments), user);
        assert_eq!(get(&routes, &format!("/payments/{}?asOf=1", order_id(1))).await.0, 404);
    }
    // Who did what to the stock is for operators.
    let inventory = system.projections("inventory").await;
    let routes = as_user(of(&inventory), user_id(1));
    for path in ["/inventory/SKU-1/history", "/products/SKU-1/history?diff=true"] {
        assert_eq!(get(&routes, path).await.0, 403, "{path}");
    }
    let request = Request::get("/products/SKU-1?asOf=1").body(Body::empty()).unwrap();
    assert_ne!(of(&inventory).oneshot(request).await.unwrap().status(), 200, "nobody asks the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_history_is_told_in_time_and_one_that_is_too_long_is_refused() {
    const MOST: u64 = 20_000;
    let system = System::start(super::On::Sqlite).await;
    let (account_id, user_id) = (AccountId::new(Uuid::from_u128(5)), user_id(1));
    let subject = Aggregate::Account.subject(account_id);
    let currency = "EUR".parse().unwrap();
    let euro = |amount| Money::new(amount, currency);
    let write = |version: u64, expect, event: AccountEvent| {
        let from = Metadata {
            command: CommandId::new(Uuid::from_u64_pair(9, version)),
            correlation: CorrelationId::from(Uuid::nil()),
            causation: Uuid::nil(),
            actor: Actor::CLIENT,
            traceparent: None,
        };
        let time = Timestamp::from_second(1_700_000_000 + version.cast_signed()).unwrap();
        let envelope = Envelope::new(event.fact_type(), &subject, version, 0, time, &from);
        Write::new(&subject, expect, &envelope, None, event.to_json())
    };
    let opened = AccountOpened { account_id, user_id, currency };
    let mut last = system.store.append(vec![write(1, Some(0), opened.into())]).await.unwrap().first;
    while last <= MOST {
        let count = 500.min(MOST + 1 - last);
        let writes = (1..=count).map(|step| {
            let version = last + step;
            let balance = euro(version.cast_signed() - 1);
            let credited = AccountCredited { account_id, amount: euro(1), balance, order_id: None };
            write(version, (step == 1).then_some(last), credited.into())
        });
        system.store.append(writes.collect()).await.unwrap();
        last += count;
    }
    let payments = system.projections("payments").await;
    let mut progress = payments.progress();
    let end = format!("PAYMENTS:{}", MOST + 1).parse().unwrap();
    progress.wait_for(|progress| progress.has(end) == Some(true)).await.unwrap();
    let routes = router(&system, &payments);
    let thing = format!("/accounts/{account_id}");
    for version in [1, 10_000] {
        let began = Instant::now();
        let (status, account) = get(&routes, &format!("{thing}?asOf={version}")).await;
        println!("as of version {version}: {:?}", began.elapsed());
        assert_eq!((status, account["balance"]["amount"].as_u64()), (200, Some(version - 1)), "{account}");
    }
    let (status, problem) = get(&routes, &format!("{thing}?asOf={}", MOST + 1)).await;
    assert_eq!((status, &problem["type"]), (422, &json!("/problems/history-too-long")));
    // Without changes its history is told page by page, however long it is.
    let (_, first) = get(&routes, &format!("{thing}/history?limit=100")).await;
    let cursor = first["nextCursor"].as_str().unwrap();
    let began = Instant::now();
    let (_, second) = get(&routes, &format!("{thing}/history?limit=100&diff=true&cursor={cursor}")).await;
    println!("a hundred changes: {:?}", began.elapsed());
    let changes = &second["events"][0]["changes"];
    assert_eq!(changes, &json!([{ "path": "/balance/amount", "from": 99, "to": 100 }]));
    let far = format!("PAYMENTS:{}", MOST - 1)
        .bytes()
        .fold(String::new(), |far, byte| far + &format!("{byte:02x}"));
    let (_, last) = get(&routes, &format!("{thing}/history?cursor={far}")).await;
    let versions: Vec<_> =
        last["events"].as_array().unwrap().iter().map(|one| one["version"].as_u64()).collect();
    assert_eq!((versions, &last["nextCursor"]), (vec![Some(MOST), Some(MOST + 1)], &Value::Null));
}
