//! An endpoint of somebody else that receives webhooks: a real HTTP server that behaves as it is told.

use crate::eventually;
use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use commands::notifications::Webhook;
use secrecy::SecretString;
use serde_json::Value;
use std::{
    collections::VecDeque,
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{net::TcpListener, sync::Semaphore, task::AbortHandle};

const SOON: Duration = Duration::from_secs(30);
/// How long senders wait for its answer.
const PATIENCE: Duration = Duration::from_millis(500);

/// How it answers a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// At once, with this status.
    Answer(u16),
    /// Not before [`Receiver::go_on`], when nobody waits any more; then with 200.
    Late,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Request {
    /// A header.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

#[derive(Default)]
struct Shared {
    received: Mutex<Vec<Request>>,
    /// What it does next; then it answers 200.
    next: Mutex<VecDeque<Behaviour>>,
    /// The type of an event that it does not take, once.
    refuses: Mutex<Option<String>>,
    gate: Gate,
}

impl Shared {
    /// Whether it does not take this one.
    fn refuses(&self, request: &Request) -> bool {
        let mut refuses = self.refuses.lock().unwrap_or_else(PoisonError::into_inner);
        let is_it = refuses.as_deref().is_some_and(|kind| request.json()["type"] == kind);
        if is_it {
            *refuses = None;
        }
        is_it
    }
}

/// Nobody passes before it is opened.
struct Gate(Semaphore);

impl Default for Gate {
    fn default() -> Self {
        Self(Semaphore::new(0))
    }
}

/// The endpoint. Dropped, it is gone.
pub struct Receiver {
    shared: Arc<Shared>,
    address: SocketAddr,
    serving: AbortHandle,
}

impl Receiver {
    /// Starts it on a free port; it does these things first, one for each request.
    pub async fn start(next: impl IntoIterator<Item = Behaviour>) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared { next: Mutex::new(next.into_iter().collect()), ..Shared::default() });
        let router = Router::new().route("/in", post(receive)).with_state(Arc::clone(&shared));
        let serving = tokio::spawn(async move { axum::serve(listener, router).await }).abort_handle();
        Ok(Self { shared, address, serving })
    }

    /// How it is told, signed with these secrets.
    pub fn webhook(&self, name: &str, secrets: &[&str]) -> Webhook {
        Webhook {
            name: name.to_owned(),
            url: format!("http://{}/in", self.address),
            secrets: secrets.iter().map(|secret| SecretString::from(*secret)).collect(),
            events: Vec::new(),
            timeout: PATIENCE,
            allow_private: true,
        }
    }

    /// The same in a file for `--webhooks`, in this folder.
    pub fn register(&self, name: &str, secret: &str, folder: &Path) -> io::Result<PathBuf> {
        fs::write(folder.join("webhook.secret"), secret)?;
        let file = folder.join("webhooks.toml");
        let table = format!(
            "[[webhook]]\nname = \"{name}\"\nurl = \"http://{}/in\"\nsecrets = [\"file:webhook.secret\"]\n\
             timeout = \"{}ms\"\nallow-private = true\n",
            self.address,
            PATIENCE.as_millis(),
        );
        fs::write(&file, table)?;
        Ok(file)
    }

    /// What it does next, one for each request.
    pub fn will(&self, next: impl IntoIterator<Item = Behaviour>) {
        self.shared.next.lock().unwrap_or_else(PoisonError::into_inner).extend(next);
    }

    /// Does not take the next event of this type, whatever else comes before it.
    pub fn refuses_next(&self, kind: &str) {
        *self.shared.refuses.lock().unwrap_or_else(PoisonError::into_inner) = Some(kind.to_owned());
    }

    /// What has come, oldest first.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until so many requests have come.
    ///
    /// # Panics
    /// When they have not in time.
    pub async fn received(&self, count: usize) -> Vec<Request> {
        eventually(&format!("{count} requests"), SOON, async || {
            Some(self.requests()).filter(|requests| requests.len() >= count)
        })
        .await
    }

    /// Answers what it has kept waiting.
    pub fn go_on(&self) {
        self.shared.gate.0.add_permits(Semaphore::MAX_PERMITS / 2);
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn receive(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let request = Request { headers, body };
    let refuses = shared.refuses(&request);
    shared.received.lock().unwrap_or_else(PoisonError::into_inner).push(request);
    if refuses {
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    let next = shared.next.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    match next {
        Some(Behaviour::Answer(status)) => StatusCode::from_u16(status).unwrap_or_default(),
        Some(Behaviour::Late) => {
            let _passed = shared.gate.0.acquire().await;
            StatusCode::OK
        }
        None => StatusCode::OK,
    }
}
