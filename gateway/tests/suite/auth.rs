//! Who comes in, and how often.

use crate::rig::{Echo, OPEN, Rig, until};
use futures::future::join_all;
use serde_json::{Value, json};
use service::auth::Role;
use uuid::Uuid;

const ROUTES: &str = r#"
    [limits.default]
    quota = 100
    window = "15m"
    [limits.wide]
    quota = 10000
    window = "15m"

    [[routes]]
    path = "/api/orders"
    service = "orders"
    methods = "read"
    auth = "required"
    role = "customer"
    limit = "default"
    timeout = "3s"
    body = "0B"
    retry = true
    streaming = false

    [[routes]]
    path = "/api/orders/{id}/ship"
    service = "orders"
    methods = ["POST"]
    auth = "required"
    role = "operator"
    limit = "wide"
    timeout = "3s"
    body = "1KiB"
    retry = true
    streaming = false

    [[routes]]
    path = "/api/products"
    service = "orders"
    methods = "read"
    auth = "public"
    limit = "default"
    timeout = "3s"
    body = "0B"
    retry = true
    streaming = false
"#;

#[tokio::test]
async fn a_token_is_needed_and_for_some_things_a_role() {
    let orders = Echo::start().await;
    let rig = Rig::start(ROUTES, &[("orders", orders.address)]).await;
    let customer = rig.issuer.bearer(Uuid::from_u128(1), Role::Customer);
    let operator = rig.issuer.bearer(Uuid::from_u128(2), Role::Operator);
    let forged = format!("{customer}x");
    for (sent, challenge) in [
        (None, "Bearer realm=\"waybill\""),
        (Some("Basic eDp5"), "Bearer realm=\"waybill\""),
        (Some("Bearer garbage"), "Bearer realm=\"waybill\", error=\"invalid_token\""),
        (Some(&*forged), "Bearer realm=\"waybill\", error=\"invalid_token\""),
    ] {
        let headers: Vec<_> = sent.iter().map(|sent| ("authorization", *sent)).collect();
        let answer = rig.ask("GET", "/api/orders", &headers, "").await;
        assert_eq!((answer.status, &*answer.problem()), (401, "unauthenticated"), "{sent:?}");
        assert!(answer.headers["www-authenticate"].starts_with(challenge), "{answer:?}");
    }
    assert!(orders.seen().is_empty());
    let authorization = [("authorization", &*customer)];
    assert_eq!(rig.ask("GET", "/api/orders", &authorization, "").await.status, 200);
    let answer = rig.ask("POST", "/api/orders/1/ship", &authorization, "{}").await;
    assert_eq!((answer.status, &*answer.problem()), (403, "forbidden"));
    assert!(answer.headers["www-authenticate"].contains("insufficient_scope"));
    assert_eq!(
        rig.ask("POST", "/api/orders/1/ship", &[("authorization", &operator)], "{}").await.status,
        200
    );
    // A public route asks nobody.
    assert_eq!(rig.get("/api/products").await.status, 200);
    assert_eq!(rig.ask("GET", "/api/products", &[("authorization", "Bearer garbage")], "").await.status, 200);
}

#[tokio::test]
async fn tokens_are_believed_while_their_issuer_is_away() {
    let orders = Echo::start().await;
    let rig = Rig::start(ROUTES, &[("orders", orders.address)]).await;
    let first = rig.issuer.bearer(Uuid::from_u128(1), Role::Customer);
    assert_eq!(rig.ask("GET", "/api/orders", &[("authorization", &first)], "").await.status, 200);
    rig.issuer.stop();
    // A token that was never seen before, signed with a key that was.
    let second = rig.issuer.bearer(Uuid::from_u128(2), Role::Customer);
    assert_eq!(rig.ask("GET", "/api/orders", &[("authorization", &second)], "").await.status, 200);
}

#[tokio::test]
async fn the_hundred_and_first_request_is_one_too_many() {
    let orders = Echo::start().await;
    let rig = Rig::start(ROUTES, &[("orders", orders.address)]).await;
    let token = rig.issuer.bearer(Uuid::from_u128(1), Role::Customer);
    for left in (0..100).rev() {
        let answer = rig.ask("GET", "/api/orders", &[("authorization", &token)], "").await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.headers["ratelimit-policy"], "\"default\";q=100;w=900");
        assert!(answer.headers["ratelimit"].starts_with(&format!("\"default\";r={left};t=")), "{answer:?}");
    }
    let answer = rig.ask("GET", "/api/orders", &[("authorization", &token)], "").await;
    assert_eq!((answer.status, &*answer.problem()), (429, "quota-exceeded"));
    assert!((1..=900).contains(&answer.headers["retry-after"].parse::<u32>().unwrap()));
    assert!(answer.headers["ratelimit"].starts_with("\"default\";r=0;t="));
    assert_eq!(orders.seen().len(), 100);
    // Others are counted for themselves, and so is whoever shows no token; inventing an address does not help.
    let other = rig.issuer.bearer(Uuid::from_u128(2), Role::Customer);
    assert_eq!(rig.ask("GET", "/api/orders", &[("authorization", &other)], "").await.status, 200);
    until("the address has used up its own", async || {
        let invented = format!("10.0.0.{}", fastrand::u8(..));
        rig.ask("GET", "/api/products", &[("x-forwarded-for", &invented)], "").await.status == 429
    })
    .await;
    assert_eq!(orders.seen().len(), 201);
}

/// A right token beside wrong ones: whoever guesses is stopped, and nobody who was there before.
#[tokio::test]
async fn wrong_tokens_are_counted_by_address_and_then_not_even_looked_at() {
    let orders = Echo::start().await;
    let routes = format!("[limits.authentication]\nquota = 10\nwindow = '15m'\n{ROUTES}");
    let rig = Rig::start(&routes, &[("orders", orders.address)]).await;
    let ask = async |token: &str| rig.ask("GET", "/api/orders", &[("authorization", token)], "").await;
    let logged_in = rig.issuer.bearer(Uuid::from_u128(1), Role::Customer);
    assert_eq!(ask(&logged_in).await.status, 200);
    for left in (0..10).rev() {
        let answer = ask(&format!("Bearer {left}.guess.{left}")).await;
        assert_eq!((answer.status, &*answer.problem()), (401, "unauthenticated"));
        assert_eq!(answer.headers["ratelimit-policy"], "\"authentication\";q=10;w=900");
        assert!(
            answer.headers["ratelimit"].starts_with(&format!("\"authentication\";r={left};")),
            "{answer:?}"
        );
    }
    let answer = ask("Bearer another.guess.0").await;
    assert_eq!((answer.status, &*answer.problem()), (429, "quota-exceeded"));
    assert!(answer.headers.contains_key("retry-after"));
    let lucky = rig.issuer.bearer(Uuid::from_u128(2), Role::Customer);
    assert_eq!(ask(&lucky).await.status, 429, "the right one comes too late");
    assert_eq!(ask(&logged_in).await.status, 200, "who is known is not locked out");
    assert_eq!(
        rig.ask("GET", "/api/products", &[("authorization", &lucky)], "").await.status,
        200,
        "nor anybody"
    );
    assert_eq!(rig.get("/api/orders").await.status, 401, "who guesses nothing has not guessed wrong");
}

#[tokio::test]
async fn who_has_no_token_is_counted_before_he_is_told_so() {
    let orders = Echo::start().await;
    let rig =
        Rig::start(&ROUTES.replace("quota = 100\n", "quota = 5\n"), &[("orders", orders.address)]).await;
    for _ in 0..5 {
        assert_eq!(rig.get("/api/orders").await.status, 401);
    }
    let answer = rig.get("/api/orders").await;
    assert_eq!((answer.status, &*answer.problem()), (429, "quota-exceeded"));
    // By address: a token is another client.
    let token = rig.issuer.bearer(Uuid::from_u128(1), Role::Customer);
    assert_eq!(rig.ask("GET", "/api/orders", &[("authorization", &token)], "").await.status, 200);
}

#[tokio::test]
async fn every_limit_counts_for_itself_and_the_routes_that_share_one_together() {
    let orders = Echo::start().await;
    let routes = ROUTES.replace("quota = 100\n", "quota = 3\n").replace("quota = 10000", "quota = 5");
    let rig = Rig::start(&routes, &[("orders", orders.address)]).await;
    let operator = rig.issuer.bearer(Uuid::from_u128(2), Role::Operator);
    let sent = [("authorization", &*operator)];
    let read = async |path: &str| rig.ask("GET", path, &sent, "").await.status;
    let ship = async || rig.ask("POST", "/api/orders/1/ship", &sent, "{}").await;
    assert_eq!([read("/api/orders").await, read("/api/products").await, read("/api/orders").await], [200; 3]);
    assert_eq!([read("/api/orders").await, read("/api/products").await], [429; 2]);
    for left in (0..5).rev() {
        let answer = ship().await;
        assert_eq!((answer.status, &*answer.headers["ratelimit-policy"]), (200, "\"wide\";q=5;w=900"));
        assert!(answer.headers["ratelimit"].starts_with(&format!("\"wide\";r={left};")), "{answer:?}");
    }
    assert_eq!(ship().await.status, 429);
}

#[tokio::test]
async fn clients_behind_a_proxy_are_told_apart_and_a_network_of_ipv6_is_one() {
    let orders = Echo::start().await;
    let routes = OPEN.replace("quota = 1000", "quota = 2");
    let trusting = format!("{routes}\n[clients]\ntrusted-proxies = ['127.0.0.0/8']");
    let rig = Rig::start(&trusting, &[("orders", orders.address)]).await;
    let from = async |rig: &Rig, client: &str| {
        rig.ask(
            "GET",
            "/api/orders",
            &[("x-forwarded-for", client), ("waybill-client-address", "6.6.6.6")],
            "",
        )
        .await
        .status
    };
    for (client, status) in [
        ("192.0.2.1", 200),
        ("192.0.2.1", 200),
        ("192.0.2.1", 429),
        // What the client wrote itself stands before what the proxy heard.
        ("192.0.2.9, 192.0.2.1", 429),
        ("192.0.2.2", 200),
        ("2001:db8:1:2::1", 200),
        ("2001:db8:1:2:ffff::7", 200),
        ("2001:db8:1:2:3::", 429),
        ("2001:db8:1:3::1", 200),
    ] {
        assert_eq!(from(&rig, client).await, status, "{client}");
    }
    // Services are told whom the gateway found, and nothing that anybody else wrote there.
    let told: Vec<_> =
        orders.seen().iter().map(|seen| seen.headers["waybill-client-address"].clone()).collect();
    let one =
        ["192.0.2.1", "192.0.2.1", "192.0.2.2", "2001:db8:1:2::1", "2001:db8:1:2:ffff::7", "2001:db8:1:3::1"];
    assert_eq!(told, one);
    // Without trust the header says nothing: all of them are one.
    let other = Rig::start(&routes, &[("orders", orders.address)]).await;
    assert_eq!(
        [from(&other, "1.1.1.1").await, from(&other, "2.2.2.2").await, from(&other, "3.3.3.3").await],
        [200, 200, 429]
    );
    assert_eq!(orders.seen().last().unwrap().headers["waybill-client-address"], "127.0.0.1");
}

#[tokio::test]
async fn two_gateways_admit_a_hundred_together() {
    let orders = Echo::start().await;
    let one = Rig::start(ROUTES, &[("orders", orders.address)]).await;
    let other = one.beside(ROUTES, &[("orders", orders.address)]).await;
    let mut statuses = Vec::new();
    for _ in 0..13 {
        let both = (0..10)
            .map(|index| if index % 2 == 0 { one.get("/api/products") } else { other.get("/api/products") });
        statuses.extend(join_all(both).await.iter().map(|answer| answer.status));
    }
    let admitted = statuses.iter().filter(|status| **status == 200).count();
    assert_eq!((admitted, statuses.len()), (100, 130));
    assert!(statuses[110..].iter().all(|status| *status == 429), "{statuses:?}");
    assert_eq!(orders.seen().len(), 100);
}

/// Signed with the right key, and all the same not believed.
#[tokio::test]
async fn only_tokens_of_ours_for_us_and_for_now_are_let_in() {
    let orders = Echo::start().await;
    let rig = Rig::start(ROUTES, &[("orders", orders.address)]).await;
    let wrong = |change: fn(&mut Value, &mut Value)| {
        rig.issuer.bearer_with(Uuid::from_u128(1), Role::Customer, &change)
    };
    let later = |claim: &Value, seconds: i64| json!(claim.as_i64().unwrap() + seconds);
    // Half a minute of leeway, and a little more or less for a machine that is busy.
    let tokens = [
        ("no algorithm", wrong(|header, _| header["alg"] = "none".into()), 401),
        ("a shared secret", wrong(|header, _| header["alg"] = "HS256".into()), 401),
        ("another algorithm", wrong(|header, _| header["alg"] = "RS256".into()), 401),
        ("another kind", wrong(|header, _| header["typ"] = "refresh".into()), 401),
        ("an unknown key", wrong(|header, _| header["kid"] = "k2".into()), 401),
        ("another issuer", wrong(|_, claims| claims["iss"] = "somebody".into()), 401),
        ("for somebody else", wrong(|_, claims| claims["aud"] = "somebody".into()), 401),
        ("no end", wrong(|_, claims| claims["exp"] = Value::Null), 401),
    ];
    let timed = |name, seconds: i64, of: &'static str, status| {
        let change = |_: &mut Value, claims: &mut Value| claims[of] = later(&claims["iat"], seconds);
        (name, rig.issuer.bearer_with(Uuid::from_u128(1), Role::Customer, &change), status)
    };
    let timed = [
        timed("expired", -31, "exp", 401),
        timed("expired a moment ago", -1, "exp", 200),
        timed("valid only later", 120, "nbf", 401),
        timed("valid in a moment", 20, "nbf", 200),
    ];
    for (name, token, status) in tokens.into_iter().chain(timed) {
        let answer = rig.ask("GET", "/api/orders", &[("authorization", &token)], "").await;
        assert_eq!(answer.status, status, "{name}: {answer:?}");
        if status == 401 {
            assert_eq!(answer.problem(), "unauthenticated", "{name}");
            assert!(answer.headers["www-authenticate"].contains("invalid_token"), "{name}: {answer:?}");
        }
    }
    assert_eq!(orders.seen().len(), 2);
}
