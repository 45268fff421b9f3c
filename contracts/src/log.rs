//! What was really recorded, for the verification of message pacts: a server that answers a description with an event of
//! the log, as it stands there.

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::post,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use events::{Context, envelope::header};
use nats::{Connection, Filter, From, Message, Reader, Until};
use serde_json::{Map, Value};
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};
use tokio::net::TcpListener;

const RECORDED_WITHIN: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

/// The log of a provider.
#[derive(Clone, Debug)]
pub struct Log {
    nats_url: String,
}

impl Log {
    /// The log in a NATS.
    pub fn of(nats_url: &str) -> Self {
        Self { nats_url: nats_url.to_owned() }
    }

    /// Serves what is asked for by [`given`](crate::messages::given); gives the port. It ends with the runtime.
    ///
    /// # Panics
    /// Where no port is free.
    pub async fn serve(&self, change: fn(&mut Value)) -> u16 {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap_or_else(|error| panic!("{error}"));
        let port = listener.local_addr().map_or(0, |address| address.port());
        let router = Router::new().route("/", post(answer)).with_state((self.clone(), change));
        tokio::spawn(async move { axum::serve(listener, router).await });
        port
    }

    /// Waits until there is an event as `wanted` says.
    pub async fn wait_for(&self, wanted: &HashMap<String, Value>) {
        let what = format!("{wanted:?} is recorded");
        self.eventually(&what, || async move { self.find(wanted).await.map(drop) }).await;
    }

    /// Waits for what `check` gives.
    ///
    /// # Panics
    /// Where it has not come in time.
    pub async fn eventually<F: Future<Output = Option<T>>, T>(&self, what: &str, check: impl Fn() -> F) -> T {
        let deadline = Instant::now() + RECORDED_WITHIN;
        loop {
            if let Some(found) = check().await {
                return found;
            }
            assert!(Instant::now() < deadline, "not after {RECORDED_WITHIN:?}: {what}");
            tokio::time::sleep(POLL).await;
        }
    }

    /// The last event of a type, in whose body certain fields hold certain values.
    pub async fn find(&self, wanted: &HashMap<String, Value>) -> Option<Message> {
        let context = wanted["context"]
            .as_str()
            .and_then(|name| Context::ALL.into_iter().find(|one| one.token() == name))?;
        let connection = Connection::connect(&self.nats_url, "contracts").await.ok()?;
        let mut reader =
            Reader::open(&connection, context, From::Start, Until::End, Filter::default()).await.ok()?;
        let mut found = None;
        loop {
            let batch = reader.next_batch(1000).await.ok()?;
            if batch.is_empty() {
                return found;
            }
            found = batch.into_iter().rfind(|message| fits(message, wanted)).or(found);
        }
    }
}

fn fits(message: &Message, wanted: &HashMap<String, Value>) -> bool {
    let Ok(body) = serde_json::from_slice::<Value>(message.body()) else { return false };
    let pinned = wanted.get("where").and_then(Value::as_object);
    wanted["type"] == message.kind()
        && pinned.into_iter().flatten().all(|(field, value)| body.get(field) == Some(value))
}

/// Answers what the verifier asks for: headers as metadata, the body as it is.
async fn answer(State((log, change)): State<(Log, fn(&mut Value))>, Json(asked): Json<Value>) -> Response {
    let wanted = asked.pointer("/providerStates/0/params").and_then(Value::as_object);
    let wanted: HashMap<_, _> = wanted.cloned().unwrap_or_default().into_iter().collect();
    let Some(message) = log.find(&wanted).await else {
        return (StatusCode::NOT_FOUND, format!("{wanted:?} was not recorded")).into_response();
    };
    let names = header::ALWAYS.into_iter().chain([header::TRACEPARENT]);
    let headers = names.filter_map(|name| Some((name.to_owned(), Value::from(message.header(name)?))));
    let metadata = BASE64_STANDARD.encode(Value::Object(Map::from_iter(headers)).to_string());
    let mut body = serde_json::from_slice(message.body()).unwrap_or_default();
    change(&mut body);
    ([("Pact-Message-Metadata", metadata)], Json(body)).into_response()
}
