//! Who comes in, and how often.

use crate::rig::{Echo, Rig, until};
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
