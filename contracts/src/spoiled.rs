//! A provider that breaks its contracts: answers of the real one, in which a field has another name. Shows that the
//! verification would notice.

use axum::{
    Router,
    body::Bytes,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use tokio::net::TcpListener;

/// Something in front of a provider.
#[derive(Clone, Debug)]
pub struct Spoiled {
    port: u16,
    client: reqwest::Client,
    field: &'static str,
    called: &'static str,
}

impl Spoiled {
    /// In front of a service at `port`: what it calls `field` is `called` something else. Gives its own port; it ends with
    /// the runtime.
    ///
    /// # Panics
    /// Where no port is free.
    pub async fn serve(port: u16, field: &'static str, called: &'static str) -> u16 {
        let spoiled = Self { port, client: reqwest::Client::new(), field, called };
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap_or_else(|error| panic!("{error}"));
        let own = listener.local_addr().map_or(0, |address| address.port());
        let router = Router::new().fallback(pass_on).with_state(spoiled);
        tokio::spawn(async move { axum::serve(listener, router).await });
        own
    }
}

/// Passes a request without a body on.
async fn pass_on(State(spoiled): State<Spoiled>, request: Request) -> Response {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let mut headers: HeaderMap = request.headers().clone();
    headers.remove(header::HOST);
    let url = format!("http://127.0.0.1:{}{path}", spoiled.port);
    let sent = spoiled.client.request(request.method().clone(), url).headers(headers).send().await;
    let Ok(answer) = sent else { return StatusCode::BAD_GATEWAY.into_response() };
    let (status, kind) = (answer.status(), answer.headers().get(header::CONTENT_TYPE).cloned());
    let body: Bytes = answer.bytes().await.unwrap_or_default();
    let name = |name| format!("\"{name}\":");
    let body = String::from_utf8_lossy(&body).replace(&name(spoiled.field), &name(spoiled.called));
    let kind = kind.into_iter().map(|kind| (header::CONTENT_TYPE, kind)).collect::<HeaderMap>();
    (status, kind, body).into_response()
}
