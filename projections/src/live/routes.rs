//! The routes: one handler for everything that can be followed, and one for the socket.

use super::{
    LiveModel, Shared, socket,
    sse::{self, Wish},
    target::Target,
};
use axum::{
    Router,
    extract::{FromRequestParts, OriginalUri, RawPathParams, Request, State, ws::WebSocketUpgrade},
    http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts},
    middleware::map_response,
    response::Response,
    routing::get,
};
use service::{
    Problem,
    auth::{Principal, expiry},
    extract::Query,
};
use std::sync::Arc;

/// Where a client says which event it has seen last, other than in a header.
pub(super) const LAST_EVENT_ID: &str = "lastEventId";
/// Where a client says when the answer ends.
pub(super) const UNTIL: &str = "until";
/// What every answer that goes on is called, beside the query that it begins with.
pub(super) const STREAM: &str = "/stream";

/// One thing that can be followed.
#[derive(Clone)]
struct Endpoint {
    shared: Arc<Shared>,
    model: usize,
    /// The query of a list; None for one document.
    list: Option<&'static str>,
}

pub(super) fn routes(shared: &Arc<Shared>) -> Router {
    let mut router = Router::new();
    for (model, declared) in shared.view.live.models.iter().enumerate() {
        let mut add = |path: &str, list| {
            let endpoint = Endpoint { shared: Arc::clone(shared), model, list };
            let route = get(follow).with_state(endpoint);
            router = std::mem::take(&mut router).route(&format!("{path}{STREAM}"), route);
        };
        if declared.single {
            add(declared.one, None);
        }
        if let Some(many) = declared.many {
            add(many, Some(many));
        }
    }
    if shared.view.live.models.is_empty() {
        return router;
    }
    // Whoever asks for it otherwise is told which protocol it speaks (RFC 9110, section 15.5.22).
    let told = map_response(async |mut response: Response| {
        if response.status() == StatusCode::UPGRADE_REQUIRED {
            response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        }
        response
    });
    router.route(shared.view.live.socket, get(open).layer(told).with_state(Arc::clone(shared)))
}

/// Follows one document or a list.
async fn follow(
    State(endpoint): State<Endpoint>,
    principal: Principal,
    params: RawPathParams,
    Query(query): Query<Vec<(String, String)>>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let Endpoint { shared, model, list } = endpoint;
    let declared: &LiveModel = &shared.view.live.models[model];
    let mut wanted = Asked::read(query, &headers)?;
    let target = if let Some(path) = list {
        Target::many(declared, path, &wanted.query, &principal)?
    } else {
        let key = params.iter().next().map(|(_, value)| value).unwrap_or_default();
        Target::one(declared, key, &wanted.query)
    };
    let cursor = wanted.cursor.take();
    let cursor = cursor.map(|text| text.parse()).transpose().map_err(|()| no_cursor(LAST_EVENT_ID))?;
    let (expires, until_live) = (expiry(&headers), wanted.until_live);
    sse::answer(&shared, Wish { model, target, cursor, principal, expires, until_live }).await
}

/// What is ours of a request, and what is the query's.
#[derive(Debug, Default)]
struct Asked {
    query: Vec<(String, String)>,
    cursor: Option<String>,
    until_live: bool,
}

impl Asked {
    fn read(query: Vec<(String, String)>, headers: &HeaderMap) -> Result<Self, Problem> {
        let mut asked = Self::default();
        for (name, value) in query {
            match name.as_str() {
                LAST_EVENT_ID => asked.cursor = Some(value),
                UNTIL if value == "live" => asked.until_live = true,
                "asOf" => {
                    let detail = "The past does not change: ask for it without following it.";
                    return Err(Problem::bad_request("invalid-query", detail).with_field("asOf"));
                }
                UNTIL => {
                    let detail = "An answer ends with the connection, or until=live.";
                    return Err(Problem::bad_request("invalid-query", detail).with_field(UNTIL));
                }
                _ => asked.query.push((name, value)),
            }
        }
        if let Some(id) = headers.get("last-event-id") {
            asked.cursor = Some(id.to_str().unwrap_or_default().to_owned());
        }
        // Clients that have seen no event yet say so with an empty one.
        asked.cursor = asked.cursor.filter(|text| !text.is_empty());
        // A position in a header is one of the query.
        let positions = headers.get_all("waybill-position").iter().filter_map(|value| value.to_str().ok());
        asked.query.extend(positions.map(|text| ("after".to_owned(), text.to_owned())).take(1));
        Ok(asked)
    }
}

/// What was sent is no event's id.
pub(super) fn no_cursor(field: &str) -> Problem {
    let detail = "Take the cursor from the id of an event, as it is.";
    Problem::invalid("invalid-cursor", field, detail)
}

/// Opens a socket.
async fn open(
    State(shared): State<Arc<Shared>>,
    principal: Principal,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, Problem> {
    let (mut parts, _) = request.into_parts();
    let verifier = parts.extensions.get().cloned();
    let upgrade = upgrade(&mut parts).await?;
    Ok(socket::answer(shared, upgrade, principal, expiry(&headers), verifier))
}

async fn upgrade(parts: &mut Parts) -> Result<WebSocketUpgrade, Problem> {
    WebSocketUpgrade::from_request_parts(parts, &()).await.map_err(|_| {
        let path = parts.extensions.get::<OriginalUri>().map(|uri| uri.0.path().to_owned());
        let path = path.unwrap_or_default();
        let detail = format!("{path} is a WebSocket: ask for it with 'Upgrade: websocket' and version 13.");
        Problem::new(StatusCode::UPGRADE_REQUIRED, "upgrade-required", detail)
    })
}
