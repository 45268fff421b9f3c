//! A user from the registration to the erasure, through the real executable; and that nothing of what is secret or
//! personal is written anywhere.

use crate::READ_MODELS;
use reqwest::Method;
use serde_json::{Value, json};
use std::{fs, path::Path, time::Duration};
use tokio::process::Command;
use waybill::{
    api::{Answer, Api},
    system::Service,
};
use waybill_tests::{Process, eventually};

const SOON: Duration = Duration::from_secs(30);
const PASSWORD: &str = "correct horse battery";

/// What is secret or personal in this story, in lower case.
const SECRETS: [&str; 6] = ["quill", "vane", "zephyrine", "gryphon", PASSWORD, "a wrong password"];

/// The users service, and what the story says to it.
struct Users(Api);

impl Users {
    /// Asks with a token, unless it is empty, and expects an answer of this status.
    async fn ask(&self, status: u16, method: Method, path: &str, token: &str, body: &Value) -> Answer {
        let mut request = self.0.http().request(method, self.0.url(Service::Users, path)).json(body);
        if !token.is_empty() {
            request = request.bearer_auth(token);
        }
        self.0.send(request).await.unwrap().expect(status, path).unwrap()
    }

    async fn post(&self, status: u16, path: &str, body: &Value) -> Answer {
        self.ask(status, Method::POST, path, "", body).await
    }

    async fn get(&self, status: u16, path: &str, token: &str) -> Answer {
        self.ask(status, Method::GET, path, token, &json!({})).await
    }
}

fn text<'a>(answer: &'a Answer, field: &str) -> &'a str {
    answer.body[field].as_str().unwrap()
}

async fn waybill(arguments: &[&str]) -> String {
    let output = Command::new(Process::executable()).args(arguments).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn somebody_comes_and_is_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let shown = data.to_str().unwrap();
    let kept = READ_MODELS.kept();
    let flags = kept.flags(&["--log", "debug"]);
    let process = Process::dev(&data, &flags).await.unwrap();
    let users = Users(process.api.clone());

    let tokens = comes(&users).await;
    let (user, token) = (text(&tokens, "userId"), text(&tokens, "accessToken"));
    changes(&users, user, token, shown).await;
    // Erased, as soon as the answer is there; read again from nothing, the same.
    let deleted = users.ask(202, Method::DELETE, &format!("/users/{user}"), token, &json!({})).await;
    let after =
        format!("/users/{user}?include=preferences,subscriptions&after={}", deleted.position().unwrap());
    is_forgotten(&users.get(200, &after, token).await.body);
    users.post(401, "/sessions/refresh", &json!({ "refreshToken": text(&tokens, "refreshToken") })).await;
    let replay = ["replay", "--data", shown, "--stream", "USERS", "--reveal", "--output", "json"];
    eventually("the key is destroyed, and a replay shows nothing", SOON, async || {
        let events = waybill(&replay).await;
        (events.contains("user.erased") && !events.contains("Quill")).then_some(())
    })
    .await;

    assert!(process.stop().await.unwrap().success());
    kept.lose("users", &data.join("views")).await.unwrap();
    let again = Process::dev(&data, &flags).await.unwrap();
    let operator = waybill(&["token", "--role", "operator", "--data", shown]).await;
    let rebuilt = Users(again.api.clone()).get(200, &after, operator.trim()).await;
    is_forgotten(&rebuilt.body);
    let history = Users(again.api.clone()).get(200, &format!("/users/{user}/history"), operator.trim()).await;
    let events = history.body["events"].as_array().unwrap();
    let kinds: Vec<_> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(
        kinds,
        [
            "user.created",
            "user.profile.updated",
            "user.preferences.updated",
            "user.subscribed",
            "user.roles.changed",
            "user.erased",
        ]
    );
    assert!(again.stop().await.unwrap().success());
    let secret = [token, text(&tokens, "refreshToken"), operator.trim()];
    nowhere(&data, &secret);
}

/// Registers and logs in, with a mistake on the way.
async fn comes(users: &Users) -> Answer {
    let ada = json!({ "email": "Zephyrine@Example.com", "password": PASSWORD, "name": "Zephyrine Quill" });
    users.post(201, "/users", &ada).await;
    users.post(409, "/users", &ada).await;
    let wrong = json!({ "email": "zephyrine@example.com", "password": "a wrong password" });
    users.post(401, "/sessions", &wrong).await;
    let right = json!({ "email": "zephyrine@example.com", "password": PASSWORD });
    let login = users.post(201, "/sessions", &right).await;
    users.post(200, "/sessions/refresh", &json!({ "refreshToken": text(&login, "refreshToken") })).await
}

/// Changes everything there is, and reads it back in one call.
async fn changes(users: &Users, user: &str, token: &str, data: &str) {
    let address = json!({
        "name": "Zephyrine Vane", "line1": "7 Gryphon Mews", "city": "London", "postalCode": "SW1Y 4JH", "country": "GB",
    });
    let profile = json!({ "name": "Zephyrine Vane", "email": "vane@example.com", "addresses": [address] });
    let preferences = json!({ "language": "de-AT", "channels": ["push"], "currency": "EUR" });
    let path = format!("/users/{user}");
    users.ask(202, Method::PATCH, &path, token, &profile).await;
    users.ask(202, Method::PUT, &format!("{path}/preferences"), token, &preferences).await;
    users.ask(202, Method::PUT, &format!("{path}/subscriptions/news"), token, &json!({})).await;
    let admin = waybill(&["token", "--role", "admin", "--ttl", "1m", "--data", data]).await;
    let roles = json!({ "roles": ["customer", "operator"] });
    let changed = users.ask(202, Method::PUT, &format!("{path}/roles"), admin.trim(), &roles).await;

    let path = format!("{path}?include=preferences,subscriptions&after={}", changed.position().unwrap());
    let read = users.get(200, &path, token).await.body;
    let expected = [
        ("name", json!("Zephyrine Vane")),
        ("email", json!("vane@example.com")),
        ("addresses", json!([address])),
        ("roles", json!(["customer", "operator"])),
        ("preferences", preferences),
        ("erased", json!(false)),
        ("version", json!(5)),
    ];
    for (field, value) in expected {
        assert_eq!(read[field], value, "{field}");
    }
    assert_eq!(read["subscriptions"][0]["topic"], "news");
    // Somebody else's business, and nobody's.
    let stranger = waybill(&["token", "--role", "customer", "--data", data]).await;
    users.get(403, &path, stranger.trim()).await;
    users.get(401, &path, "x").await;
}

fn is_forgotten(user: &Value) {
    assert_eq!(user["erased"], true);
    for field in ["name", "email", "addresses"] {
        assert!(user[field].is_null(), "{user}");
    }
    assert!(user.get("preferences").is_none() && user["subscriptions"] == json!([]), "{user}");
}

/// Looks for what is secret in every byte that was written: the log, what is kept beside it, read models, log lines.
fn nowhere(folder: &Path, tokens: &[&str]) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            nowhere(&path, tokens);
            continue;
        }
        let bytes = fs::read(&path).unwrap();
        let text = String::from_utf8_lossy(&bytes).to_lowercase();
        let tokens = tokens.iter().map(|token| token.to_lowercase());
        for secret in SECRETS.iter().map(|secret| (*secret).to_owned()).chain(tokens) {
            assert!(!text.contains(&secret), "{secret} is in {}", path.display());
        }
    }
}
