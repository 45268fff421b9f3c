//! Users as a client sees them: who may come in, who may do what, and what is left of somebody who is erased.

use crate::shop::{Answer, DEADLINE, Nats, Shop, verifier};
use axum::{
    body::Body,
    extract::ConnectInfo,
    http::{Method, Request},
};
use commands::{
    Key,
    users::{INTERESTS, User, UserState},
};
use events::{Aggregate, Context, EventId, Fact, UserId, users::UserEvent};
use futures::{StreamExt, future::join_all};
use jiff::Timestamp;
use nats::{Bucket, BucketConfig, Change, Filter, From, Message, Reader, Until, Write};
use serde_json::{Value, json};
use service::{
    Clock, Shutdown,
    auth::{AuthError, Role},
    origin::CLIENT_ADDRESS,
};
use std::{net::SocketAddr, time::Duration};
use uuid::Uuid;

const PASSWORD: &str = "correct horse battery";

fn ada() -> Value {
    json!({ "email": "Ada@Example.com", "password": PASSWORD, "name": "Ada Lovelace" })
}

fn somebody(email: &str) -> Value {
    json!({ "email": email, "password": PASSWORD, "name": "Somebody" })
}

fn manual_clock() -> Clock {
    Clock::manual("2026-03-01T10:00:00Z".parse::<Timestamp>().unwrap())
}

/// What the users service knows and a story asks for.
impl Shop {
    async fn register(&self, body: &Value) -> Uuid {
        self.post("/users", body).await.expect(201).id()
    }

    async fn log_in(&self, email: &str, password: &str) -> Answer {
        self.post("/sessions", &json!({ "email": email, "password": password })).await
    }

    async fn refresh(&self, answer: &Answer) -> Answer {
        let body = json!({ "refreshToken": answer.body["refreshToken"] });
        self.post("/sessions/refresh", &body).await
    }

    /// A token as `waybill token` makes it.
    async fn bearer(&self, user: Uuid, role: Role) -> String {
        let id = self.clock.uuid();
        let issued = self.issuer.issue(user, vec![role], id, Duration::from_mins(15)).await.unwrap();
        format!("Bearer {}", issued.token)
    }

    async fn ask_as(&self, bearer: &str, method: Method, path: &str, body: &Value) -> Answer {
        self.ask(method, path, &[("authorization", bearer)], body).await
    }

    async fn state(&self, user: Uuid) -> UserState {
        self.executors[&Context::Users].state(&Key::<User>::new(user)).await.unwrap()
    }

    /// Every event of the users' stream.
    async fn events(&self) -> Vec<Message> {
        let filter = Filter::default();
        let open = Reader::open(&self.connection, Context::Users, From::Start, Until::End, filter);
        let mut reader = open.await.unwrap();
        let mut events = Vec::new();
        loop {
            let batch = reader.next_batch(1000).await.unwrap();
            if batch.is_empty() {
                return events;
            }
            events.extend(batch);
        }
    }

    async fn kinds(&self) -> Vec<String> {
        self.events().await.iter().map(|event| event.kind().to_owned()).collect()
    }

    async fn bucket(&self, name: &'static str) -> Bucket {
        let config = BucketConfig { name, description: "", max_age: Duration::ZERO, replicas: 1 };
        // Buckets whose values end keep less than this asks for, so the longest of them is asked for.
        let config = match name {
            "SESSIONS" => BucketConfig { max_age: Duration::from_hours(30 * 24), ..config },
            "LOGIN_ATTEMPTS" => BucketConfig { max_age: Duration::from_mins(15), ..config },
            "LEDGER_USERS" => BucketConfig { max_age: nats::topology::LEDGER_RETENTION, ..config },
            _ => config,
        };
        Bucket::ensure(&self.connection, &config).await.unwrap()
    }

    /// What a bucket holds at this moment, keys and values.
    async fn kept(&self, name: &'static str) -> String {
        let watch = self.bucket(name).await.watch::<Value>().await.unwrap();
        let mut watch = std::pin::pin!(watch);
        let mut text = String::new();
        while let Ok(Some(change)) = tokio::time::timeout(Duration::from_millis(200), watch.next()).await {
            if let Change::Put { key, value } = change.unwrap() {
                text.extend([&key, " ", &value.to_string(), "\n"]);
            }
        }
        text
    }
}

#[tokio::test]
async fn whoever_registers_is_a_user_once() {
    let nats = Nats::start().await;
    let shop = Shop::open(&nats).await;
    registering(&shop).await;
    at_the_same_time(&shop).await;
    under_a_key(&shop).await;
    what_cannot_be_accepted(&shop).await;
    nothing_is_revealed(&shop).await;
    nats.server.stop().await;
}

async fn registering(shop: &Shop) {
    let answer = shop.post("/users", &ada()).await.expect(201);
    let location = answer.header("location").unwrap();
    assert_eq!((location, answer.position().context), (&*format!("/users/{}", answer.id()), Context::Users));
    assert_eq!(shop.kinds().await, ["email.claimed", "user.created"]);
    let again = json!({ "email": " ada@example.COM", "password": PASSWORD, "name": "Another" });
    assert_eq!(shop.post("/users", &again).await.problem(409, "email-taken"), Some("email"));
    assert_eq!(shop.events().await.len(), 2);
}

async fn at_the_same_time(shop: &Shop) {
    let before = shop.events().await.len();
    let body = somebody("twice@example.com");
    let answers = join_all((0..4).map(|_| shop.post("/users", &body))).await;
    let mut statuses: Vec<_> = answers.iter().map(|answer| answer.status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 409, 409, 409]);
    assert_eq!(shop.events().await.len(), before + 2, "one user and one claim");
    // Whoever lost has left no password behind.
    assert_eq!(shop.kept("CREDENTIALS").await.lines().count(), 2);
    shop.log_in("twice@example.com", PASSWORD).await.expect(201);
}

async fn under_a_key(shop: &Shop) {
    let body = somebody("key@example.com");
    let first = shop.post_once("/users", "k-1", &body).await.expect(201);
    let again = shop.post_once("/users", "k-1", &body).await.expect(201);
    assert!(again.is_replayed());
    assert_eq!(again.body, first.body);
    let other = somebody("other@example.com");
    shop.post_once("/users", "k-1", &other).await.problem(422, "idempotency-key-reused");
    // The password is not remembered, and the one that was set stays.
    let mut forgotten = body;
    forgotten["password"] = json!("another long password");
    assert!(shop.post_once("/users", "k-1", &forgotten).await.expect(201).is_replayed());
    shop.log_in("key@example.com", PASSWORD).await.expect(201);
    shop.log_in("key@example.com", "another long password").await.problem(401, "wrong-credentials");
}

async fn what_cannot_be_accepted(shop: &Shop) {
    let before = shop.ends().await;
    for (field, value, slug, named) in [
        ("email", json!("ada"), "email-invalid", "email"),
        ("email", json!("ada@localhost"), "email-invalid", "email"),
        ("password", json!("too short"), "password-invalid", "password"),
        ("password", json!("x".repeat(129)), "password-invalid", "password"),
        ("password", json!(12_345_678_901_234_u64), "invalid-body", "password"),
        ("name", json!("  "), "name-invalid", "name"),
        ("name", json!("x".repeat(201)), "name-invalid", "name"),
        (
            "preferences",
            json!({ "language": "x", "channels": [] }),
            "language-invalid",
            "preferences.language",
        ),
        (
            "preferences",
            json!({ "language": "en", "channels": ["dove"] }),
            "invalid-body",
            "preferences.channels[0]",
        ),
        ("roles", json!(["admin"]), "invalid-body", "roles"),
    ] {
        let mut body = somebody("new@example.com");
        body[field] = value;
        let answer = shop.post("/users", &body).await;
        assert_eq!(answer.problem(422, slug), Some(named));
        assert!(!answer.body.to_string().contains("12345678"), "{answer:?}");
    }
    assert_eq!(shop.ends().await, before);
}

/// Neither the log nor anything beside it shows who somebody is, or a password.
async fn nothing_is_revealed(shop: &Shop) {
    let mut text = String::new();
    for event in shop.events().await {
        text.extend([event.subject.as_str(), " ", &String::from_utf8_lossy(event.body()), "\n"]);
    }
    for bucket in
        ["CREDENTIALS", "SESSIONS", "LOGIN_ATTEMPTS", "SIGNING_KEYS", "PERSONAL_KEYS", "LEDGER_USERS"]
    {
        let kept = shop.kept(bucket).await;
        assert!(!kept.is_empty(), "{bucket}");
        text += &kept;
    }
    let text = text.to_lowercase();
    for secret in ["ada@", "example.com", "lovelace", "somebody", PASSWORD, "another long password"] {
        assert!(!text.contains(secret), "{secret} is in {text}");
    }
}

#[tokio::test]
async fn a_session_is_refreshed_and_ends() {
    let nats = Nats::start().await;
    let clock = manual_clock();
    let shop = Shop::open_at(&nats, clock.clone()).await;
    let user = shop.register(&ada()).await;
    logging_in(&shop, user).await;
    refreshing(&shop, user, &clock).await;
    logging_out(&shop, user).await;
    another_password(&shop, user, &clock).await;
    Box::pin(a_refresh_without_an_answer(&nats, &shop)).await;
    nats.server.stop().await;
}

async fn logging_in(shop: &Shop, user: Uuid) {
    let answer = shop.log_in("ada@example.com", PASSWORD).await.expect(201);
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(
        (answer.body["tokenType"].as_str(), answer.body["expiresIn"].as_u64()),
        (Some("Bearer"), Some(900))
    );
    let token = answer.body["accessToken"].as_str().unwrap();
    let principal = verifier(&shop.issuer, &shop.clock).verify(token).await.unwrap();
    assert_eq!((principal.user, principal.role), (user, Role::Customer));
    // Tokens are kept nowhere, so no key can ask for them again.
    let key = [("Idempotency-Key", "login")];
    let body = json!({ "email": "ada@example.com", "password": PASSWORD });
    let one = shop.ask(Method::POST, "/sessions", &key, &body).await.expect(201);
    let two = shop.ask(Method::POST, "/sessions", &key, &body).await.expect(201);
    assert!(!two.is_replayed() && one.body["refreshToken"] != two.body["refreshToken"]);
    assert!(shop.kept("LEDGER_USERS").await.is_empty());

    // An unknown address is told nothing else than a wrong password.
    let wrong = shop.log_in("ada@example.com", "a wrong password").await;
    let unknown = shop.log_in("bob@example.com", PASSWORD).await;
    let no_address = shop.log_in("bob", PASSWORD).await;
    for answer in [&wrong, &unknown, &no_address] {
        answer.problem(401, "wrong-credentials");
        assert!(answer.header("www-authenticate").is_some());
        assert_eq!(answer.body["detail"], wrong.body["detail"]);
    }
}

async fn refreshing(shop: &Shop, user: Uuid, clock: &Clock) {
    let first = shop.log_in("ada@example.com", PASSWORD).await.expect(201);
    clock.advance(Duration::from_mins(16));
    let stale = format!("Bearer {}", first.body["accessToken"].as_str().unwrap());
    let path = format!("/users/{user}/subscriptions/news");
    shop.ask_as(&stale, Method::PUT, &path, &json!({})).await.problem(401, "unauthenticated");
    let second = shop.refresh(&first).await.expect(200);
    let fresh = format!("Bearer {}", second.body["accessToken"].as_str().unwrap());
    shop.ask_as(&fresh, Method::PUT, &path, &json!({})).await.expect(202);

    // Used again, the first token ends the session, for whoever has the second one too.
    shop.refresh(&first).await.problem(401, "session-over");
    shop.refresh(&second).await.problem(401, "session-over");
    let forged = json!({ "refreshToken": "wbr_AAAA" });
    shop.post("/sessions/refresh", &forged).await.problem(401, "session-over");

    // Two at once: one goes on, and the session is over, for one of them may be a thief.
    let login = shop.log_in("ada@example.com", PASSWORD).await.expect(201);
    let (one, two) = tokio::join!(shop.refresh(&login), shop.refresh(&login));
    let mut statuses = [one.status, two.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 401]);
    let winner = if one.status == 200 { one } else { two };
    shop.refresh(&winner).await.problem(401, "session-over");

    let login = shop.log_in("ada@example.com", PASSWORD).await.expect(201);
    clock.advance(Duration::from_hours(30 * 24));
    shop.refresh(&login).await.problem(401, "session-over");
}

/// Nobody can say what the user may do. The token is not used up: when it comes again, it is nobody's who stole it.
async fn a_refresh_without_an_answer(nats: &Nats, shop: &Shop) {
    let user = shop.register(&somebody("eve@example.com")).await;
    let login = shop.log_in("eve@example.com", PASSWORD).await.expect(201);
    let subject = Aggregate::User.subject(user);
    let store = shop.executors[&Context::Users].store();
    let last = store.last(&subject).await.unwrap().unwrap();
    let (mut envelope, sequence) = (last.envelope().unwrap(), last.position.sequence);
    envelope.id = EventId::new(shop.clock.uuid());
    let unreadable = Write::new(&subject, Some(sequence), &envelope, None, b"?".to_vec());
    store.append(vec![unreadable]).await.unwrap();

    let elsewhere = Shop::open_at(nats, shop.clock.clone()).await;
    let before = shop.kept("SESSIONS").await;
    assert_eq!(elsewhere.refresh(&login).await.status, 500);
    assert_eq!(shop.kept("SESSIONS").await, before, "the token is as good as it was");
}

async fn logging_out(shop: &Shop, user: Uuid) {
    let log_in = async || shop.log_in("ada@example.com", PASSWORD).await.expect(201);
    let (one, two, three) = (log_in().await, log_in().await, log_in().await);
    let nothing = json!({});
    let body = json!({ "refreshToken": one.body["refreshToken"] });
    shop.ask(Method::DELETE, "/sessions", &[], &body).await.expect(204);
    shop.refresh(&one).await.problem(401, "session-over");
    let two = shop.refresh(&two).await.expect(200);
    let bearer = format!("Bearer {}", two.body["accessToken"].as_str().unwrap());
    shop.ask_as(&bearer, Method::DELETE, "/sessions", &nothing).await.expect(204);
    shop.refresh(&two).await.problem(401, "session-over");
    shop.refresh(&three).await.expect(200);
    shop.ask(Method::DELETE, "/sessions", &[], &nothing).await.problem(401, "unauthenticated");
    // A token that no login made has no session to end.
    let minted = shop.bearer(user, Role::Customer).await;
    shop.ask_as(&minted, Method::DELETE, "/sessions", &nothing).await.expect(204);
}

async fn another_password(shop: &Shop, user: Uuid, clock: &Clock) {
    let login = shop.log_in("ada@example.com", PASSWORD).await.expect(201);
    let bearer = format!("Bearer {}", login.body["accessToken"].as_str().unwrap());
    let path = format!("/users/{user}/password");
    let body = |current: &str, new: &str| json!({ "currentPassword": current, "newPassword": new });
    let change = body(PASSWORD, "a staple of another kind");
    let operator = shop.bearer(Uuid::from_u128(1), Role::Admin).await;
    shop.ask_as(&operator, Method::PUT, &path, &change).await.problem(403, "forbidden");
    shop.ask(Method::PUT, &path, &[], &change).await.problem(401, "unauthenticated");
    let short = shop.ask_as(&bearer, Method::PUT, &path, &body(PASSWORD, "short")).await;
    assert_eq!(short.problem(422, "password-invalid"), Some("newPassword"));
    for _ in 0..10 {
        let guess = body("a wrong password", "a staple of another kind");
        shop.ask_as(&bearer, Method::PUT, &path, &guess).await.problem(401, "wrong-credentials");
    }
    shop.ask_as(&bearer, Method::PUT, &path, &change).await.problem(429, "too-many-attempts");
    clock.advance(Duration::from_mins(15));
    let bearer = shop.bearer(user, Role::Customer).await;
    shop.ask_as(&bearer, Method::PUT, &path, &change).await.expect(204);
    shop.refresh(&login).await.problem(401, "session-over");
    shop.log_in("ada@example.com", PASSWORD).await.problem(401, "wrong-credentials");
    shop.log_in("ada@example.com", "a staple of another kind").await.expect(201);
}

#[tokio::test]
async fn attempts_are_counted_for_all_processes_together() {
    let nats = Nats::start().await;
    let clock = manual_clock();
    let (shop, other) =
        (Shop::open_at(&nats, clock.clone()).await, Shop::open_at(&nats, clock.clone()).await);
    shop.register(&ada()).await;
    for (n, shop) in [&shop, &other].into_iter().cycle().take(9).enumerate() {
        // However the address is written.
        let email = if n % 2 == 0 { "ada@example.com" } else { "ADA@example.com" };
        shop.log_in(email, "a wrong password").await.problem(401, "wrong-credentials");
    }
    shop.log_in("ada@example.com", PASSWORD).await.expect(201);
    for _ in 0..10 {
        other.log_in("ada@example.com", "a wrong password").await.problem(401, "wrong-credentials");
    }
    let refused = shop.log_in("ada@example.com", PASSWORD).await;
    refused.problem(429, "too-many-attempts");
    assert_eq!(refused.header("retry-after"), Some("901"));
    clock.advance(Duration::from_secs(901));
    shop.log_in("ada@example.com", PASSWORD).await.expect(201);

    // Many accounts from one address, which the gateway tells. Anybody else who tells one is counted himself.
    let from = |peer: [u8; 4], client: &'static str| {
        let shop = &shop;
        async move {
            let body = json!({ "email": format!("{}@example.com", shop.clock.uuid()), "password": "x" });
            let request = Request::post("/sessions")
                .header("content-type", "application/json")
                .header("x-forwarded-for", format!("192.0.2.{}", fastrand::u8(..)))
                .header(CLIENT_ADDRESS, client)
                .extension(ConnectInfo(SocketAddr::from((peer, 4711))));
            shop.send(request.body(Body::from(body.to_string())).unwrap()).await
        }
    };
    let (gateway, stranger) = ([127, 0, 0, 1], [198, 51, 100, 1]);
    let mut statuses = Vec::new();
    for _ in 0..21 {
        // A few at once are counted as if they came one after the other.
        statuses.extend(join_all((0..5).map(|_| from(gateway, "192.0.2.7"))).await.iter().map(|a| a.status));
    }
    assert_eq!(statuses[..100], [401; 100]);
    assert_eq!(statuses[100..], [429; 5]);
    from(gateway, "192.0.2.8").await.problem(401, "wrong-credentials");
    from(stranger, "192.0.2.7").await.problem(401, "wrong-credentials");
    nats.server.stop().await;
}

#[tokio::test]
async fn everybody_does_what_he_may() {
    let nats = Nats::start().await;
    let shop = Shop::open(&nats).await;
    let (ada, bob) = (shop.register(&ada()).await, shop.register(&somebody("bob@example.com")).await);
    his_own_business(&shop, ada, bob).await;
    roles(&shop, ada).await;
    a_profile_changes(&shop, ada).await;
    preferences_and_topics(&shop, ada).await;
    nats.server.stop().await;
}

async fn his_own_business(shop: &Shop, ada: Uuid, bob: Uuid) {
    let (customer, operator) =
        (shop.bearer(bob, Role::Customer).await, shop.bearer(Uuid::from_u128(1), Role::Operator).await);
    let preferences = json!({ "language": "de", "channels": ["push"] });
    let user = format!("/users/{ada}");
    for (method, path, body) in [
        (Method::PATCH, user.clone(), json!({ "name": "Bob" })),
        (Method::DELETE, user.clone(), json!({})),
        (Method::PUT, format!("{user}/preferences"), preferences.clone()),
        (Method::PUT, format!("{user}/subscriptions/news"), json!({})),
        (Method::DELETE, format!("{user}/subscriptions/news"), json!({})),
        (Method::PUT, format!("{user}/roles"), json!({ "roles": ["admin"] })),
    ] {
        let answer = shop.ask(method.clone(), &path, &[], &body).await;
        answer.problem(401, "unauthenticated");
        shop.ask_as(&customer, method, &path, &body).await.problem(403, "forbidden");
    }
    let path = format!("{user}/preferences");
    shop.ask_as(&operator, Method::PUT, &path, &preferences).await.expect(202);
    let nobody = format!("/users/{}/preferences", Uuid::from_u128(9));
    shop.ask_as(&operator, Method::PUT, &nobody, &preferences).await.problem(404, "user-not-found");
    let nobody = format!("/users/{}", Uuid::from_u128(9));
    let answer = shop.ask_as(&operator, Method::PATCH, &nobody, &json!({ "name": "Nobody" })).await;
    answer.problem(404, "user-not-found");
    assert!(!shop.kept("PERSONAL_KEYS").await.contains("00000009"), "no key for nobody");
}

async fn roles(shop: &Shop, ada: Uuid) {
    let (operator, admin) =
        (shop.bearer(ada, Role::Operator).await, shop.bearer(Uuid::from_u128(1), Role::Admin).await);
    let (path, body) = (format!("/users/{ada}/roles"), json!({ "roles": ["operator", "customer"] }));
    shop.ask_as(&operator, Method::PUT, &path, &body).await.problem(403, "forbidden");
    let login = shop.log_in("ada@example.com", PASSWORD).await.expect(201);
    shop.ask_as(&admin, Method::PUT, &path, &body).await.expect(202);
    let none = json!({ "roles": [] });
    shop.ask_as(&admin, Method::PUT, &path, &none).await.problem(422, "role-missing");
    // A session learns of it when it is refreshed.
    let refreshed = shop.refresh(&login).await.expect(200);
    let token = refreshed.body["accessToken"].as_str().unwrap();
    assert_eq!(verifier(&shop.issuer, &shop.clock).verify(token).await.unwrap().role, Role::Operator);
}

async fn a_profile_changes(shop: &Shop, ada: Uuid) {
    let bearer = shop.bearer(ada, Role::Customer).await;
    let path = format!("/users/{ada}");
    let UserState::Registered(before) = shop.state(ada).await else { panic!("a user") };
    let tag = format!("\"{}\"", before.version);
    let headers = [("authorization", &*bearer), ("if-match", &*tag)];
    let address =
        json!({ "name": "Ada", "line1": "1", "city": "London", "postalCode": "1", "country": "GB" });
    let change = json!({ "name": " Ada King ", "email": "ada.king@example.com", "addresses": [address] });
    shop.ask(Method::PATCH, &path, &headers, &change).await.expect(202);
    // A second one who has read the same.
    shop.ask(Method::PATCH, &path, &headers, &change).await.problem(412, "user-changed");
    let bad = [("authorization", &*bearer), ("if-match", "3")];
    assert_eq!(
        shop.ask(Method::PATCH, &path, &bad, &change).await.problem(400, "invalid-if-match"),
        Some("If-Match")
    );

    shop.log_in("ada@example.com", PASSWORD).await.problem(401, "wrong-credentials");
    shop.log_in("ada.king@example.com", PASSWORD).await.expect(201);
    let taken = json!({ "email": "bob@example.com" });
    shop.ask_as(&bearer, Method::PATCH, &path, &taken).await.problem(409, "email-taken");
    // The old address is free for others.
    shop.register(&somebody("ada@example.com")).await;

    let mut wrong = address;
    wrong["country"] = json!("Britain");
    for (body, slug, field) in [
        (json!({ "addresses": [wrong] }), "country-invalid", "addresses[0].country"),
        (json!({ "addresses": vec![json!({}); 1] }), "invalid-body", "addresses[0].name"),
        (json!({ "email": "x" }), "email-invalid", "email"),
        (json!({ "name": "" }), "name-invalid", "name"),
    ] {
        assert_eq!(shop.ask_as(&bearer, Method::PATCH, &path, &body).await.problem(422, slug), Some(field));
    }
}

async fn preferences_and_topics(shop: &Shop, ada: Uuid) {
    let bearer = shop.bearer(ada, Role::Customer).await;
    let before = shop.events().await.len();
    let path = format!("/users/{ada}/subscriptions/order-updates");
    for _ in 0..2 {
        shop.ask_as(&bearer, Method::PUT, &path, &json!({})).await.expect(202);
    }
    shop.ask_as(&bearer, Method::DELETE, &path, &json!({})).await.expect(202);
    let wrong = format!("/users/{ada}/subscriptions/Order%20Updates");
    shop.ask_as(&bearer, Method::PUT, &wrong, &json!({})).await.problem(400, "invalid-path");
    let (path, body) =
        (format!("/users/{ada}/preferences"), json!({ "language": "de", "channels": [], "currency": "EUR" }));
    shop.ask_as(&bearer, Method::PUT, &path, &body).await.expect(202);
    let body = json!({ "language": "german", "channels": [] });
    assert_eq!(
        shop.ask_as(&bearer, Method::PUT, &path, &body).await.problem(422, "language-invalid"),
        Some("language")
    );
    let kinds = shop.kinds().await.split_off(before);
    assert_eq!(kinds, ["user.subscribed", "user.unsubscribed", "user.preferences.updated"]);
}

#[tokio::test]
async fn nothing_is_left_of_somebody_who_is_erased() {
    let nats = Nats::start().await;
    let (user, login) = {
        let shop = Shop::open(&nats).await;
        let user = shop.register(&ada()).await;
        let login = shop.log_in("ada@example.com", PASSWORD).await.expect(201);
        let bearer = format!("Bearer {}", login.body["accessToken"].as_str().unwrap());
        for _ in 0..2 {
            shop.ask_as(&bearer, Method::DELETE, &format!("/users/{user}"), &json!({})).await.expect(202);
        }
        assert_eq!(shop.kinds().await[2..], ["email.released", "user.erased"]);
        // Nobody reacts yet, as where the process died: the key is there, and nobody comes in any more.
        assert!(shop.keys.key(UserId::new(user)).await.unwrap().is_some());
        shop.log_in("ada@example.com", PASSWORD).await.problem(401, "wrong-credentials");
        shop.refresh(&login).await.problem(401, "session-over");
        let path = format!("/users/{user}/subscriptions/news");
        shop.ask_as(&bearer, Method::PUT, &path, &json!({})).await.problem(409, "user-erased");
        (user, login)
    };
    // The next process does what is left to do.
    let mut shop = Shop::open(&nats).await;
    let shutdown = Shutdown::new();
    shop.react(&shutdown);
    tokio::time::timeout(DEADLINE, async {
        while shop.kept("CREDENTIALS").await.contains(&user.to_string())
            || shop.kept("SESSIONS").await.contains(&user.to_string())
            || shop.keys.key(UserId::new(user)).await.unwrap().is_some()
        {}
    })
    .await
    .expect("everything is forgotten");
    shop.refresh(&login).await.problem(401, "session-over");

    // What was recorded can still be read, and shows nothing.
    for event in shop.events().await {
        if let Fact::User(UserEvent::Created(created)) = event.fact().unwrap() {
            assert_eq!(shop.keys.reveal(&created.name).await.unwrap(), None);
            assert_eq!(shop.keys.reveal(&created.email).await.unwrap(), None);
        }
    }
    assert_ne!(shop.register(&ada()).await, user, "the address is free");
    assert_eq!(INTERESTS, [(Context::Users, &["user.erased"][..])]);
    assert!(shutdown.drain(DEADLINE).await);
    nats.server.stop().await;
}

#[tokio::test]
async fn keys_change_and_every_token_is_good_to_its_end() {
    let nats = Nats::start().await;
    let clock = manual_clock();
    let shop = Shop::open_at(&nats, clock.clone()).await;
    let (day, hour) = (Duration::from_hours(24), Duration::from_hours(1));
    let issue = async || {
        let roles = vec![Role::Customer];
        shop.issuer.issue(Uuid::from_u128(7), roles, clock.uuid(), day).await.unwrap().token
    };
    let kids = async || {
        let answer = shop.ask(Method::GET, "/.well-known/jwks.json", &[], &json!({})).await.expect(200);
        let keys = answer.body["keys"].as_array().unwrap().clone();
        let fields: Vec<_> = keys[0].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(fields, ["alg", "crv", "kid", "kty", "use", "x"], "and no private part");
        keys.iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let kid = |token: &str| jsonwebtoken::decode_header(token).unwrap().kid.unwrap();
    let keys = shop.issuer.keys();
    let first = kids().await;
    assert_eq!(first.len(), 1);
    assert_eq!(kid(&issue().await), first[0]);

    // An hour before it signs, the next key is published; whoever looks after the keys at the same time adds no third.
    clock.advance(29 * day + 23 * hour);
    let (one, two) = tokio::join!(keys.tend(&clock), keys.tend(&clock));
    one.and(two).unwrap();
    let both = kids().await;
    assert_eq!((both.len(), &both[0]), (2, &first[0]));
    let early = verifier(&shop.issuer, &clock);
    let last_of_first = issue().await;
    assert_eq!(kid(&last_of_first), first[0]);
    clock.advance(hour);
    let token = issue().await;
    assert_eq!(kid(&token), both[1]);
    // Whoever has read the keys before can check it.
    early.verify(&token).await.unwrap();

    // The old key is published until its last token has expired.
    clock.advance(22 * hour);
    keys.tend(&clock).await.unwrap();
    verifier(&shop.issuer, &clock).verify(&last_of_first).await.unwrap();
    clock.advance(4 * hour);
    keys.tend(&clock).await.unwrap();
    assert_eq!(kids().await, both[1..]);
    let refused = verifier(&shop.issuer, &clock).verify(&last_of_first).await;
    assert!(matches!(refused, Err(AuthError::UnknownKey | AuthError::Expired)), "{refused:?}");
    nats.server.stop().await;
}

#[tokio::test]
async fn two_processes_that_start_at_once_share_the_first_key() {
    let nats = Nats::start().await;
    let (one, two) = tokio::join!(Shop::open(&nats), Shop::open(&nats));
    let token = one.bearer(Uuid::from_u128(1), Role::Admin).await;
    let principal = verifier(&two.issuer, &two.clock).verify(&token["Bearer ".len()..]).await.unwrap();
    assert_eq!(principal.role, Role::Admin);
    assert_eq!(Aggregate::User.context(), Context::Users);
    nats.server.stop().await;
}
