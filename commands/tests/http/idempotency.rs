//! A request sent again under its key: one effect and the same answer, whatever happened in between.

use crate::shop::{Answer, Nats, OPERATOR, Shop, order, product};
use axum::http::Method;
use commands::{
    Decision, Key,
    inventory::{Product, ProductCommand},
    orders::{Order, OrderCommand, Placement},
    payments::{Account, AccountCommand},
};
use events::{
    AccountId, Address, CommandId, Context, Currency, Money, OrderId, Sku, UserId,
    orders::{Line, UserSnapshot, Workflow},
};
use jiff::SignedDuration;
use nats::{Claim, Ledger};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;

#[tokio::test]
async fn a_request_sent_again_has_one_effect_and_the_same_answer() {
    let nats = Nats::start().await;
    let shop = Shop::open(&nats).await;
    at_once_and_later(&shop).await;
    a_refusal_is_an_answer_too(&shop).await;
    a_fault_takes_no_key(&shop).await;
    the_key_counts_where_it_was_sent(&shop).await;
    the_key_is_of_whoever_sends_it(&shop).await;
    after_an_erasure(&shop).await;
    Box::pin(after_a_restart(&nats, &shop)).await;
    nats.server.stop().await;
}

#[tokio::test]
async fn a_request_whose_process_died_is_looked_up_before_it_is_carried_out() {
    let nats = Nats::start().await;
    let shop = Shop::open(&nats).await;
    a_claim_stands_until_its_lease_ends(&shop).await;
    a_credit_that_was_recorded(&shop).await;
    an_account_that_was_opened(&shop).await;
    a_product_that_was_added(&shop).await;
    an_order_that_was_placed(&shop).await;
    nats.server.stop().await;
}

fn eur(amount: i64) -> Money {
    Money::new(amount, "EUR".parse().unwrap())
}

fn credit(amount: i64) -> Value {
    json!({ "amount": { "amount": amount, "currency": "EUR" } })
}

async fn balance(shop: &Shop, account: Uuid) -> i64 {
    let key = Key::<Account>::new(account);
    shop.executors[&Context::Payments].state(&key).await.unwrap().unwrap().balance.amount
}

/// The second answer is the first one, and says so.
#[track_caller]
fn assert_replayed(again: &Answer, first: &Answer) {
    assert!(again.is_replayed() && !first.is_replayed(), "{again:?}");
    assert_eq!((again.status, &again.body), (first.status, &first.body));
    for header in ["location", "waybill-position", "content-type"] {
        assert_eq!(again.header(header), first.header(header));
    }
}

async fn at_once_and_later(shop: &Shop) {
    let user = Uuid::from_u128(1);
    shop.product("TEA", 450).await;
    let account = shop.account(user, "EUR").await;
    let (body, before) = (order(user, account, &[("TEA", 2)]), shop.ends().await);
    let (one, two) =
        tokio::join!(shop.post_once("/orders", "k-1", &body), shop.post_once("/orders", "k-1", &body));
    let (first, other) = if one.status == 202 && !one.is_replayed() { (one, two) } else { (two, one) };
    match other.status {
        202 => assert_replayed(&other, &first),
        _ => assert_eq!(other.problem(409, "request-in-flight"), Some("Idempotency-Key")),
    }
    assert_eq!(first.id().get_version_num(), 5, "the key names what is created");
    assert_replayed(&shop.post_once("/orders", "k-1", &body).await, &first);

    let price = json!({ "price": { "amount": 500, "currency": "EUR" } });
    let repriced = shop.ask(Method::PUT, "/products/TEA/price", &[], &price).await.expect(202);
    let headers =
        [("Idempotency-Key", "k-1"), ("Waybill-Position", repriced.header("waybill-position").unwrap())];
    let again = shop.ask(Method::POST, "/orders", &headers, &body).await;
    assert_eq!(again.body["totalAmount"]["amount"], 900, "as it was answered then");

    let other = order(user, account, &[("TEA", 3)]);
    let answer = shop.post_once("/orders", "k-1", &other).await;
    assert_eq!(answer.problem(422, "idempotency-key-reused"), Some("Idempotency-Key"));
    let placed = shop.ends().await[0] - before[0];
    assert_eq!(placed, 1, "one order");

    let (one, two) = (shop.post("/orders", &body).await, shop.post("/orders", &body).await);
    assert_ne!(one.expect(202).id(), two.expect(202).id(), "without a key each request is its own");
}

async fn a_refusal_is_an_answer_too(shop: &Shop) {
    shop.product("CUP", 450).await;
    let (path, body) = ("/inventory/CUP/adjustments", json!({ "delta": -3, "reason": "broken" }));
    let first = shop.post_once(path, "k-2", &body).await;
    first.problem(409, "stock-reserved");
    shop.post("/inventory/CUP/receipts", &json!({ "quantity": 5 })).await.expect(202);
    assert_replayed(&shop.post_once(path, "k-2", &body).await, &first);
    shop.post_once(path, "k-3", &body).await.expect(202);
}

async fn a_fault_takes_no_key(shop: &Shop) {
    let account = shop.account(Uuid::from_u128(2), "EUR").await;
    let path = format!("/accounts/{account}/credits");
    shop.post_once(&path, "k-4", &credit(0)).await.problem(422, "amount-not-positive");
    shop.post_once(&path, "k-4", &json!({})).await.problem(422, "invalid-body");
    shop.post_once(&path, "k-4", &credit(100)).await.expect(202);
    // Spaces and the order of fields say nothing.
    let same = json!({ "amount": { "currency": "EUR", "amount": 100 } });
    assert!(shop.post_once(&path, "k-4", &same).await.expect(202).is_replayed());
    assert_eq!(balance(shop, account).await, 100);
}

async fn the_key_counts_where_it_was_sent(shop: &Shop) {
    for _ in 0..2 {
        let account = shop.account(Uuid::from_u128(3), "EUR").await;
        shop.post_once(&format!("/accounts/{account}/credits"), "k-5", &credit(7)).await.expect(202);
        assert_eq!(balance(shop, account).await, 7);
    }
}

async fn the_key_is_of_whoever_sends_it(shop: &Shop) {
    let mut opened = Vec::new();
    for user in [Uuid::from_u128(31), Uuid::from_u128(32)] {
        let headers = [("Idempotency-Key", "same"), ("Authorization", &*shop.customer(user).await)];
        let body = json!({ "userId": user, "currency": "EUR" });
        let first = shop.ask(Method::POST, "/accounts", &headers, &body).await.expect(201);
        assert_replayed(&shop.ask(Method::POST, "/accounts", &headers, &body).await, &first);
        opened.push(first.id());
    }
    assert_ne!(opened[0], opened[1]);
}

/// Nothing can be sealed any more for somebody who was erased; it was answered before.
async fn after_an_erasure(shop: &Shop) {
    let user = shop.clock.uuid();
    let account = shop.account(user, "EUR").await;
    shop.product("GIFT", 100).await;
    let placed = shop.post("/orders", &order(user, account, &[("GIFT", 1)])).await.expect(202).id();
    let (cancel, reason) = (format!("/orders/{placed}/cancel"), json!({ "reason": "found it cheaper" }));
    let cancelled = shop.post_once(&cancel, "cancel", &reason).await.expect(202);
    let (profile, name, bearer) =
        (format!("/users/{user}"), json!({ "name": "Ada King" }), shop.customer(user).await);
    let headers = [("Authorization", &*bearer), ("Idempotency-Key", "profile")];
    let changed = shop.ask(Method::PATCH, &profile, &headers, &name).await.expect(202);

    shop.keys.destroy(UserId::new(user)).await.unwrap();
    assert_replayed(&shop.post_once(&cancel, "cancel", &reason).await, &cancelled);
    assert_replayed(&shop.ask(Method::PATCH, &profile, &headers, &name).await, &changed);
    shop.post_once(&cancel, "again", &reason).await.problem(409, "user-erased");
}

async fn after_a_restart(nats: &Nats, shop: &Shop) {
    let body = json!({ "userId": Uuid::from_u128(4), "currency": "EUR" });
    let opened = shop.post_once("/accounts", "k-6", &body).await.expect(201);
    let path = format!("/accounts/{}/credits", opened.id());
    let credited = shop.post_once(&path, "k-6", &credit(5)).await.expect(202);
    let added = shop.post_once("/products", "k-6", &product("POT", 3000)).await.expect(201);

    let restarted = Shop::open(nats).await;
    assert_replayed(&restarted.post_once("/accounts", "k-6", &body).await, &opened);
    assert_replayed(&restarted.post_once(&path, "k-6", &credit(5)).await, &credited);
    assert_replayed(&restarted.post_once("/products", "k-6", &product("POT", 3000)).await, &added);
    assert_eq!(balance(&restarted, opened.id()).await, 5);
}

/// Claims a key as a process would have that died `ago` seconds ago. `body` is what the request says, in the order of
/// the documentation: what was claimed before an update must be recognised behind it.
async fn claim(shop: &Shop, context: Context, (scope, key): (&str, &str), body: &str, ago: i64) -> CommandId {
    let scope = &*format!("{OPERATOR} {scope}");
    let digest = Sha256::new().chain_update(format!("{scope}\n{key}\n")).chain_update(body).finalize();
    let digest: Vec<_> = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let (command, then) =
        (CommandId::from_key(scope, key), shop.clock.now() - SignedDuration::from_secs(ago));
    let ledger = Ledger::open(&shop.connection, context).await.unwrap();
    let claim = ledger.claim(command, &digest.concat(), then).await.unwrap();
    assert!(matches!(claim, Claim::Granted { again: false, .. }), "{claim:?}");
    command
}

async fn a_claim_stands_until_its_lease_ends(shop: &Shop) {
    let account = shop.account(Uuid::from_u128(5), "EUR").await;
    let path = format!("/accounts/{account}/credits");
    let (scope, body) = (format!("POST {path}"), r#"{"amount":{"amount":30,"currency":"EUR"}}"#);
    claim(shop, Context::Payments, (&scope, "alive"), body, 1).await;
    let answer = shop.post_once(&path, "alive", &credit(30)).await;
    assert_eq!(answer.problem(409, "request-in-flight"), Some("Idempotency-Key"));
    assert_eq!(answer.header("retry-after"), Some("1"));

    claim(shop, Context::Payments, (&scope, "dead"), body, 60).await;
    let first = shop.post_once(&path, "dead", &credit(30)).await.expect(202);
    assert_replayed(&shop.post_once(&path, "dead", &credit(30)).await, &first);
    assert_eq!(balance(shop, account).await, 30);
}

async fn a_credit_that_was_recorded(shop: &Shop) {
    let account = shop.account(Uuid::from_u128(6), "EUR").await;
    let path = format!("/accounts/{account}/credits");
    let body = r#"{"amount":{"amount":40,"currency":"EUR"}}"#;
    let command = claim(shop, Context::Payments, (&format!("POST {path}"), "k"), body, 60).await;
    let key = Key::<Account>::new(account);
    let run = move |decision: &mut Decision| decision.apply(&key, AccountCommand::Credit { amount: eur(40) });
    let position = shop.execute(Context::Payments, command, run).await;
    // So many since that neither a cache nor a load of the account remembers it.
    for _ in 0..70 {
        shop.post(&path, &credit(1)).await.expect(202);
    }
    shop.executors[&Context::Payments].forget();

    let answer = shop.post_once(&path, "k", &credit(40)).await.expect(202);
    assert!(answer.is_replayed());
    assert_eq!((answer.position(), answer.id()), (position, account));
    assert_eq!(balance(shop, account).await, 110);
}

async fn an_account_that_was_opened(shop: &Shop) {
    let (user_id, currency): (_, Currency) = (UserId::new(Uuid::from_u128(7)), "EUR".parse().unwrap());
    let body = format!(r#"{{"userId":"{user_id}","currency":"EUR"}}"#);
    let command = claim(shop, Context::Payments, ("POST /accounts", "k"), &body, 60).await;
    let account_id = AccountId::new(command.derive("account"));
    let key = Key::<Account>::new(account_id);
    let open = AccountCommand::Open { account_id, user_id, currency };
    let run = move |decision: &mut Decision| decision.apply(&key, open.clone());
    let position = shop.execute(Context::Payments, command, run).await;
    let answer = shop.post_once("/accounts", "k", &serde_json::from_str(&body).unwrap()).await.expect(201);
    assert!(answer.is_replayed());
    assert_eq!((answer.position(), answer.id()), (position, account_id.uuid()));
}

async fn a_product_that_was_added(shop: &Shop) {
    let body = r#"{"sku":"MUG","name":"Tea","price":{"amount":900,"currency":"EUR"}}"#;
    let command = claim(shop, Context::Inventory, ("POST /products", "k"), body, 60).await;
    let sku: Sku = "MUG".parse().unwrap();
    let key = Key::<Product>::new(&sku);
    let add = ProductCommand::Add { sku, name: "Tea".to_owned(), price: eur(900) };
    let run = move |decision: &mut Decision| decision.apply(&key, add.clone());
    let position = shop.execute(Context::Inventory, command, run).await;
    let answer = shop.post_once("/products", "k", &product("MUG", 900)).await.expect(201);
    assert!(answer.is_replayed());
    assert_eq!(answer.position(), position);
    shop.post_once("/products", "other", &product("MUG", 900)).await.problem(409, "product-exists");
}

async fn an_order_that_was_placed(shop: &Shop) {
    let user = Uuid::from_u128(8);
    shop.product("JUG", 450).await;
    let account = shop.account(user, "EUR").await;
    let body = format!(
        r#"{{"userId":"{user}","accountId":"{account}","items":[{{"sku":"JUG","quantity":2}}],"shippingAddress":{{"name":"Ada Lovelace","line1":"12 St James's Square","line2":null,"city":"London","postalCode":"SW1Y 4JH","country":"GB"}}}}"#
    );
    let command = claim(shop, Context::Orders, ("POST /orders", "k"), &body, 60).await;
    let order_id = OrderId::new(command.derive("order"));
    let address: Address =
        serde_json::from_value(order(user, account, &[])["shippingAddress"].clone()).unwrap();
    // At a price that the product had then.
    let placement = Placement {
        order_id,
        user_id: UserId::new(user),
        account_id: AccountId::new(account),
        items: vec![Line { sku: "JUG".parse().unwrap(), quantity: 2, unit_price: eur(300) }],
        shipping_address: shop.keys.seal(UserId::new(user), &address).await.unwrap(),
        workflow: Workflow::Choreography,
        user_snapshot: UserSnapshot::default(),
    };
    let (key, place) = (Key::<Order>::new(order_id), OrderCommand::Place(Box::new(placement)));
    let run = move |decision: &mut Decision| decision.apply(&key, place.clone());
    let position = shop.execute(Context::Orders, command, run).await;
    let answer = shop.post_once("/orders", "k", &order(user, account, &[("JUG", 2)])).await.expect(202);
    assert!(answer.is_replayed());
    assert_eq!((answer.position(), answer.id()), (position, order_id.uuid()));
    assert_eq!(answer.body["totalAmount"]["amount"], 600);
}
