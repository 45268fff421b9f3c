//! The layers around every route, and serving with a drain.

use crate::{Clock, Problem, extract::MAX_BODY};
use axum::{
    Router,
    extract::{DefaultBodyLimit, MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    serve::ListenerExt,
};
use futures::FutureExt;
use std::{io, panic::AssertUnwindSafe, sync::Arc, time::Duration, time::Instant};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Joins everything that one request caused, across services. In the extensions of every request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Correlation(pub Arc<str>);

/// The W3C trace context of the request. In the extensions of every request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceParent(pub Arc<str>);

/// The header that carries [`Correlation`] in and out.
pub const CORRELATION_ID: HeaderName = HeaderName::from_static("x-correlation-id");
/// The header that carries [`TraceParent`] in.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Puts what every request needs around `router`. Call it last: routes added later stay outside.
pub fn layers(router: Router, clock: Clock) -> Router {
    router
        // A path that no route matches, and a method that its route does not know.
        .fallback(async || Problem::not_found("no-such-route", "There is nothing at this path."))
        .method_not_allowed_fallback(async || {
            let detail = "This path does not know this method. The Allow header lists those that it knows.";
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", detail)
        })
        // Everything else in one step, which costs one allocation where a stack of layers costs one each.
        .layer(middleware::from_fn_with_state(clock, around))
}

/// What happens around every request, outermost first.
async fn around(State(clock): State<Clock>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();

    // 1. Correlation id: the caller's or a new one. It comes first, so that every later answer carries it.
    let (correlation, header, accepted) = correlate(&clock, request.headers());
    // 2. Trace context: the caller's, or this request starts a trace.
    let trace = TraceParent(trace_parent(request.headers()));
    let extensions = request.extensions_mut();
    extensions.insert(correlation.clone());
    extensions.insert(trace);
    // 3. The limit for handlers that take the body other than by `extract::Body`, which has the same one.
    DefaultBodyLimit::max(MAX_BODY).apply(&mut request);

    // 4. The route; a panic there ends this request and nothing else. The panic hook has logged it.
    let mut response = match accepted {
        Ok(()) => AssertUnwindSafe(next.run(request))
            .catch_unwind()
            .await
            .unwrap_or_else(|_| Problem::internal().into_response()),
        Err(problem) => problem.into_response(),
    };

    // 5. Problems name the request.
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        *response.body_mut() = problem.with_correlation_id(correlation.0.clone()).body();
    }
    response.headers_mut().insert(CORRELATION_ID, header);
    // 6. One line per request.
    log(&method, route.as_ref(), response.status(), started, &correlation);
    response
}

/// The correlation id, the header that returns it, and whether the caller's was acceptable.
fn correlate(clock: &Clock, headers: &HeaderMap) -> (Correlation, HeaderValue, Result<(), Problem>) {
    let sent = headers.get(CORRELATION_ID);
    if let Some(header) = sent
        && (1..=128).contains(&header.len())
        && header.as_bytes().iter().all(u8::is_ascii_graphic)
        && let Ok(text) = header.to_str()
    {
        return (Correlation(text.into()), header.clone(), Ok(()));
    }
    let mut buffer = uuid::Uuid::encode_buffer();
    let minted: &str = clock.uuid().hyphenated().encode_lower(&mut buffer);
    // A UUID is always a valid header value.
    let header = HeaderValue::from_str(minted).unwrap_or_else(|_| HeaderValue::from_static(""));
    let accepted = match sent {
        None => Ok(()),
        Some(_) => {
            let detail = "X-Correlation-Id must be 1 to 128 visible ASCII characters.";
            Err(Problem::bad_request("invalid-correlation-id", detail).with_field("X-Correlation-Id"))
        }
    };
    (Correlation(minted.into()), header, accepted)
}

/// The caller's `traceparent`; a new and sampled one where it is missing or, as W3C asks, not valid.
fn trace_parent(headers: &HeaderMap) -> Arc<str> {
    match headers.get(TRACEPARENT).and_then(|value| value.to_str().ok()) {
        Some(sent) if is_trace_parent(sent) => sent.into(),
        _ => format!("00-{:032x}-{:016x}-01", fastrand::u128(1..), fastrand::u64(1..)).into(),
    }
}

/// `00-<32 hex>-<16 hex>-<2 hex>` in lower case, with neither id all zeros.
fn is_trace_parent(text: &str) -> bool {
    let hex = |part: &str, length| {
        part.len() == length && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let id = |part: &str, length| hex(part, length) && part.bytes().any(|b| b != b'0');
    let mut parts = text.split('-');
    let mut next = || parts.next().unwrap_or_default();
    next() == "00" && id(next(), 32) && id(next(), 16) && hex(next(), 2) && parts.next().is_none()
}

fn log(
    method: &Method,
    route: Option<&MatchedPath>,
    status: StatusCode,
    started: Instant,
    correlation: &Correlation,
) {
    let route = route.map_or("(none)", MatchedPath::as_str);
    let ms = started.elapsed().as_secs_f64() * 1000.0;
    let (status, id) = (status.as_u16(), &*correlation.0);
    // Probes come every few seconds and say something only when they fail.
    if status < 400 && matches!(route, "/health" | "/ready" | "/metrics") {
        tracing::debug!(target: "http", %method, route, status, ms, correlationId = id, "probe");
    } else if status >= 500 {
        tracing::warn!(target: "http", %method, route, status, ms, correlationId = id, "request failed");
    } else {
        tracing::info!(target: "http", %method, route, status, ms, correlationId = id, "request");
    }
}

/// Serves until `shutdown`, then lets the requests in flight finish for at most `drain`. Says whether they all did.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: CancellationToken,
    drain: Duration,
) -> io::Result<bool> {
    // Answers are small and complete: waiting to fill a packet only delays them.
    let listener = listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
    });
    let deadline = async {
        shutdown.cancelled().await;
        tokio::time::sleep(drain).await;
    };
    let server = axum::serve(listener, router).with_graceful_shutdown(shutdown.clone().cancelled_owned());
    tokio::select! {
        served = server => served.map(|()| true),
        () = deadline => Ok(false),
    }
}

/// Answers a body as JSON: for handlers outside the documented API.
pub(crate) fn json(status: StatusCode, body: &serde_json::Value) -> Response {
    (status, [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], body.to_string())
        .into_response()
}
