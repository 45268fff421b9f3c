//! A gateway of its own for every test, in front of small services written in the test.

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair},
};
use axum::{
    Json, Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, Method, Uri},
    response::IntoResponse,
    routing::any,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use gateway::{Config, Dialer, Gateway, LimitMetrics, LimitSettings, Limiter, Parts, Reload, Upstreams};
use jiff::SignedDuration;
use nats::{
    Connection, Durability, Instance, InstanceId, Registry,
    server::{self, Binary, Server},
};
use serde_json::{Map, Value, json};
use service::{
    Clock, Metrics,
    auth::{Claims, Role},
};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Far more than anything here takes: only a hang gets there.
const DEADLINE: Duration = Duration::from_secs(30);

/// Waits for something that must happen.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("not in time: {what}"))
}

/// Asks again and again until the answer is yes.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon(what, wait).await;
}

/// The routes of most tests: everything under `/api/orders`, open to everybody.
pub(crate) const OPEN: &str = r#"
    [limits.default]
    quota = 1000
    window = "15m"

    [[routes]]
    path = "/api/orders"
    service = "orders"
    methods = ["GET", "HEAD", "POST", "PUT", "DELETE"]
    auth = "public"
    limit = "default"
    timeout = "3s"
    body = "1MiB"
    retry = true
    streaming = true
"#;

/// A running gateway.
pub(crate) struct Rig {
    pub(crate) address: SocketAddr,
    /// Signs tokens that the gateway believes, as long as it has seen the keys.
    pub(crate) issuer: Issuer,
    pub(crate) shutdown: CancellationToken,
    pub(crate) running: JoinHandle<std::io::Result<bool>>,
    nats: Arc<Nats>,
}

/// Shared by gateways that count together.
struct Nats {
    server: Server,
    _folder: TempDir,
}

impl Nats {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let binary = Binary::locate(None).await.unwrap();
        let config = server::Config::new(binary, folder.path().join("nats"));
        let config = server::Config { durability: Durability::Interval, ..config };
        Self { server: Server::start(config).await.unwrap(), _folder: folder }
    }
}

impl Rig {
    /// A gateway with these routes and these instances of services.
    pub(crate) async fn start(config: &str, services: &[(&str, SocketAddr)]) -> Self {
        Self::with(config, services, None).await
    }

    /// The same, with a file that is followed.
    pub(crate) async fn with(config: &str, services: &[(&str, SocketAddr)], file: Option<PathBuf>) -> Self {
        Self::on(Arc::new(Nats::start().await), config, services, file).await
    }

    /// Another gateway, which counts together with this one.
    pub(crate) async fn beside(&self, config: &str, services: &[(&str, SocketAddr)]) -> Self {
        Self::on(Arc::clone(&self.nats), config, services, None).await
    }

    async fn on(
        nats: Arc<Nats>,
        config: &str,
        services: &[(&str, SocketAddr)],
        file: Option<PathBuf>,
    ) -> Self {
        let connection = Connection::connect(&nats.server.url(), "test").await.unwrap();
        let (clock, metrics) = (Clock::system(), Metrics::new());
        let limiter =
            Limiter::start(&connection, clock.clone(), LimitSettings::default(), LimitMetrics::default());
        let issuer = Issuer::start().await;
        let mut services = services.to_vec();
        services.push(("users", issuer.address));
        let config = Config::parse(config).unwrap();
        let gateway = Gateway::new(Parts {
            upstreams: upstreams(&services, &config, &metrics),
            config,
            reload: Reload::new(file).unwrap(),
            limiter: limiter.await.unwrap(),
            clock,
            metrics,
            details: Map::new(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(gateway::run(listener, gateway, shutdown.clone()));
        Self { address, issuer, shutdown, running, nats }
    }

    /// Sends a request and takes the whole answer.
    pub(crate) async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: shop.example\r\nconnection: close\r\n");
        let length = body.len().to_string();
        let length = [("content-length", &*length)].into_iter().filter(|_| !body.is_empty());
        for (name, value) in headers.iter().copied().chain(length) {
            head.extend([name, ": ", value, "\r\n"]);
        }
        Answer::read(&self.send(format!("{head}\r\n{body}").as_bytes()).await)
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], "").await
    }

    /// Sends bytes as they are, and gives everything that comes back until the gateway closes the connection.
    pub(crate) async fn send(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect().await;
        stream.write_all(bytes).await.unwrap();
        read_to_end(&mut stream).await
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// One value of the gateway's own counters; nothing where it was never counted.
    pub(crate) async fn metric(&self, line: &str) -> Option<f64> {
        let page = self.get("/metrics").await.text;
        page.lines().find_map(|found| found.strip_prefix(line)?.trim().parse().ok())
    }
}

/// Instances as the registry would name them.
fn upstreams(services: &[(&str, SocketAddr)], config: &Config, metrics: &Metrics) -> Upstreams {
    let clock = Clock::system();
    let instance = |(service, address): &(&str, SocketAddr)| Instance {
        service: (*service).to_owned(),
        id: InstanceId(clock.uuid()),
        url: format!("http://{address}"),
        version: "1".to_owned(),
        started: clock.now(),
    };
    let (_, known) = watch::channel(services.iter().map(instance).collect());
    let dialer = Dialer::new(config, None).unwrap();
    Upstreams::start(Registry::named_by(known), config.upstreams, dialer, clock.clone(), metrics)
}

/// Everything until the other side closes.
pub(crate) async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    // A connection that is reset has ended too; what came before counts.
    let _ = soon("the connection is closed", stream.read_to_end(&mut bytes)).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

/// How many answers there are in what came back.
pub(crate) fn answers(text: &str) -> usize {
    let status = |rest: &&str| rest.get(..3).is_some_and(|status| status.parse::<u16>().is_ok());
    text.split("HTTP/1.1 ").skip(1).filter(status).count()
}

/// Reads until `end` has come.
pub(crate) async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut text = String::new();
    let mut buffer = [0; 4096];
    while !text.contains(end) {
        let length = soon(end, stream.read(&mut buffer)).await.unwrap();
        assert!(length > 0, "the connection ended before {end:?}: {text}");
        text += &String::from_utf8_lossy(&buffer[..length]);
    }
    text
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn read(raw: &str) -> Self {
        let (head, body) = raw.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {raw:?}"));
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: BTreeMap<_, _> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        let chunked = headers.get("transfer-encoding").is_some_and(|coding| coding == "chunked");
        let text = if chunked { unchunk(body) } else { body.to_owned() };
        Self { status, headers, text }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    /// The name of the problem that it is.
    pub(crate) fn problem(&self) -> String {
        assert_eq!(self.headers["content-type"], "application/problem+json", "{self:?}");
        let body = self.json();
        assert_eq!(body["status"], self.status, "{self:?}");
        assert_eq!(body["correlationId"], self.headers["x-correlation-id"], "{self:?}");
        body["type"].as_str().unwrap().strip_prefix("/problems/").unwrap().to_owned()
    }
}

fn unchunk(mut body: &str) -> String {
    let mut text = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        text += rest.get(..size).unwrap_or(rest);
        body = rest.get(size + 2..).unwrap_or_default();
    }
    text
}

/// What a service was sent.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// A service that remembers what it was sent, and answers it.
pub(crate) struct Echo {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Echo {
    pub(crate) async fn start() -> Self {
        let seen = Arc::default();
        let healthy = any(async || "healthy");
        let router =
            Router::new().fallback(any(remember)).with_state(Arc::clone(&seen)).route("/health", healthy);
        Self { address: serve(router).await, seen }
    }

    /// Everything that it was sent so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

async fn remember(
    State(seen): State<Arc<Mutex<Vec<Seen>>>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> impl IntoResponse {
    let answer = Json(json!({ "method": method.as_str(), "path": uri.to_string(), "length": body.len() }));
    seen.lock().unwrap().push(Seen { method, path: uri.to_string(), headers, body });
    answer
}

/// Serves a router until the test ends.
pub(crate) async fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async { axum::serve(listener, router).await });
    address
}

/// Handles every connection with `handle` until the test ends, for services that speak in their own way. They are healthy
/// in the usual one.
pub(crate) async fn raw<F>(handle: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut begin = [0; 11];
            while stream.peek(&mut begin).await.is_ok_and(|length| (1..begin.len()).contains(&length)) {}
            if begin == *b"GET /health" {
                let _ = stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                    .await;
            } else {
                tokio::spawn(handle(stream));
            }
        }
    });
    address
}

/// An address where nobody listens.
pub(crate) async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

type Change<'a> = &'a dyn Fn(&mut Value, &mut Value);

/// Stands for the users service: publishes keys, and signs tokens with them.
pub(crate) struct Issuer {
    key: Ed25519KeyPair,
    address: SocketAddr,
    server: JoinHandle<()>,
}

impl Issuer {
    async fn start() -> Self {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let key = Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap();
        let public = URL_SAFE_NO_PAD.encode(key.public_key().as_ref());
        let keys = json!({ "keys": [{
            "kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": "k1", "x": public,
        }] });
        let keys = axum::routing::get(async move || Json(keys));
        let router = Router::new().route("/.well-known/jwks.json", keys).fallback(any(async || "users"));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async { axum::serve(listener, router).await.unwrap_or(()) });
        Self { key, address, server }
    }

    /// The users service is gone.
    pub(crate) fn stop(&self) {
        self.server.abort();
    }

    /// The header of somebody with this role.
    pub(crate) fn bearer(&self, user: Uuid, role: Role) -> String {
        self.bearer_with(user, role, &|_, _| {})
    }

    /// The same, with header and claims as `change` leaves them.
    pub(crate) fn bearer_with(&self, of: Uuid, role: Role, change: Change<'_>) -> String {
        let clock = Clock::system();
        let claims = Claims::new(of, vec![role], clock.uuid(), clock.now(), SignedDuration::from_mins(15));
        let mut header = json!({ "alg": "EdDSA", "typ": "JWT", "kid": "k1" });
        let mut claims = serde_json::to_value(claims).unwrap();
        change(&mut header, &mut claims);
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(&header), part(&claims));
        let signature = URL_SAFE_NO_PAD.encode(self.key.sign(message.as_bytes()).as_ref());
        format!("Bearer {message}.{signature}")
    }
}
