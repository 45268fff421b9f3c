//! The layers around every route, and serving with a drain.

mod answered;

use crate::{
    Clock, Metrics, Problem,
    extract::MAX_BODY,
    telemetry::{Cause, KeyValue, Scope, Span, SpanKind, is_traceparent, semconv},
    tls::Listener,
};
use answered::Answered;
use axum::{
    Router,
    extract::{DefaultBodyLimit, MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    serve::ListenerExt,
};
use futures::FutureExt;
use std::{io, net::SocketAddr, panic::AssertUnwindSafe, sync::Arc, time::Duration, time::Instant};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

/// Joins everything that one request caused, across services. In the extensions of every request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Correlation(pub Arc<str>);

/// The W3C trace context to pass on: of the request's span, or the caller's where nothing is exported. In the extensions
/// of every request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceParent(pub Arc<str>);

/// The header that carries [`Correlation`] in and out.
pub const CORRELATION_ID: HeaderName = HeaderName::from_static("x-correlation-id");
/// The header that carries [`TraceParent`] in.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Puts what every request needs around the routes of a service, and counts what is answered. Call it last: routes added later
/// stay outside.
pub fn layers(service: &'static str, router: Router, clock: Clock, metrics: &Metrics) -> Router {
    router
        // A path that no route matches, and a method that its route does not know.
        .fallback(async || Problem::not_found("no-such-route", "There is nothing at this path."))
        .method_not_allowed_fallback(async || {
            let detail = "This path does not know this method. The Allow header lists those that it knows.";
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", detail)
        })
        // Everything else in one step, which costs one allocation where a stack of layers costs one each.
        .layer(middleware::from_fn_with_state((service, clock, Answered::new(metrics)), around))
}

/// What happens around every request, outermost first.
async fn around(
    State((service, clock, answered)): State<(&'static str, Clock, Answered)>,
    mut request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();

    // 1. Correlation id: the caller's or a new one. It comes first, so that every later answer carries it.
    let (correlation, header, accepted) = correlate(&clock, request.headers());
    // 2. Trace context: the caller's trace goes on, or this request starts one. What comes of the request is in the span.
    let template = route.as_ref().map_or("", MatchedPath::as_str);
    let named = (!is_probe(template)).then_some(|| named(&method, template));
    let (span, trace) = start_span(service, request.headers(), &correlation, named);
    describe(&span, &method, template);
    let scope = Scope {
        service,
        correlation: correlation.0.clone(),
        traceparent: Some(trace.clone()),
        span: span.clone(),
    };
    let extensions = request.extensions_mut();
    extensions.insert(correlation.clone());
    extensions.insert(TraceParent(trace));
    // 3. The limit for handlers that take the body other than by `extract::Body`, which has the same one.
    DefaultBodyLimit::max(MAX_BODY).apply(&mut request);

    let inside = async move {
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
            if response.status().is_server_error() {
                span.fail(|| problem.detail().to_owned());
            }
            *response.body_mut() = problem.with_correlation_id(correlation.0.clone()).body();
        }
        response.headers_mut().insert(CORRELATION_ID, header);
        // 6. One line per request, one more in the metrics, and the end of its span.
        log(&method, route.as_ref(), response.status(), started, &correlation);
        if !route.as_ref().is_some_and(|route| is_probe(route.as_str())) {
            answered.count(response.status().as_u16());
        }
        span.describe(|| [KeyValue::new(semconv::HTTP_STATUS, i64::from(response.status().as_u16()))]);
        span.end();
        response
    };
    scope.run(inside).await
}

/// Begins the span of a request, which goes on with the caller's trace, and says which trace context is passed on. Without
/// a name, as for probes, which come every few seconds, there is no span.
pub fn start_span(
    service: &'static str,
    headers: &HeaderMap,
    correlation: &Correlation,
    named: Option<impl FnOnce() -> String>,
) -> (Span, Arc<str>) {
    let caller = headers.get(TRACEPARENT).and_then(|value| value.to_str().ok());
    // What is not valid is as good as missing, as W3C asks.
    let caller = caller.filter(|sent| is_traceparent(sent));
    let span = named.map_or_else(Span::default, |name| {
        Span::start(service, SpanKind::Server, Cause::Parent(caller), name)
    });
    span.describe(|| [KeyValue::new(semconv::CORRELATION, correlation.0.to_string())]);
    let new = || format!("00-{:032x}-{:016x}-01", fastrand::u128(1..), fastrand::u64(1..)).into();
    let trace = span.traceparent().or_else(|| caller.map(Into::into)).unwrap_or_else(new);
    (span, trace)
}

/// What the span of a request is called: by the route and never the path, for a path may hold anything.
pub fn named(method: &Method, route: &str) -> String {
    format!("{method} {route}").trim_end().to_owned()
}

/// Says in the span of a request what was asked.
pub fn describe(span: &Span, method: &Method, route: &str) {
    span.describe(|| {
        [
            KeyValue::new(semconv::HTTP_METHOD, method.to_string()),
            KeyValue::new(semconv::HTTP_ROUTE, route.to_owned()),
        ]
    });
}

/// Whether it is a path that is asked every few seconds, and whose answers say something only when they fail.
pub fn is_probe(route: &str) -> bool {
    matches!(route, "/health" | "/ready" | "/metrics")
}

/// The correlation id, the header that returns it, and whether the caller's was acceptable.
pub fn correlate(clock: &Clock, headers: &HeaderMap) -> (Correlation, HeaderValue, Result<(), Problem>) {
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
    let accepted = if sent.is_none() {
        Ok(())
    } else {
        let detail = "X-Correlation-Id must be 1 to 128 visible ASCII characters.";
        Err(Problem::bad_request("invalid-correlation-id", detail).with_field("X-Correlation-Id"))
    };
    (Correlation(minted.into()), header, accepted)
}

/// The caller's `traceparent`, if it is there and, as W3C asks, valid.
pub fn trace_parent(headers: &HeaderMap) -> Option<&str> {
    headers.get(TRACEPARENT)?.to_str().ok().filter(|sent| is_traceparent(sent))
}

/// A new and sampled trace.
pub fn new_trace_parent() -> Arc<str> {
    format!("00-{:032x}-{:016x}-01", fastrand::u128(1..), fastrand::u64(1..)).into()
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
    if status < 400 && is_probe(route) {
        tracing::debug!(target: "http", %method, route, status, ms, correlationId = id, "probe");
    } else if status >= 500 {
        tracing::warn!(target: "http", %method, route, status, ms, correlationId = id, "request failed");
    } else {
        tracing::info!(target: "http", %method, route, status, ms, correlationId = id, "request");
    }
}

/// Serves until `shutdown`, then lets the requests in flight finish for at most `drain`. Says whether they all did.
pub async fn serve(
    listener: impl Into<Listener>,
    router: Router,
    shutdown: CancellationToken,
    drain: Duration,
) -> io::Result<bool> {
    // Told what to do with each connection, which is nothing more, it is one that says from where they come.
    let listener = listener.into().tap_io(|_| ());
    let deadline = async {
        shutdown.cancelled().await;
        tokio::time::sleep(drain).await;
    };
    let router = router.into_make_service_with_connect_info::<SocketAddr>();
    let server = axum::serve(listener, router).with_graceful_shutdown(shutdown.clone().cancelled_owned());
    tokio::select! {
        result = server => result.map(|()| true),
        () = deadline => Ok(false),
    }
}

/// How long a client may take to read what it was sent, before its connection counts as broken.
pub const STALLED: Duration = Duration::from_mins(1);

/// Prepares a connection of a client, which breaks off when what it was sent is not read within `stalled`.
pub fn prepare(stream: &TcpStream, stalled: Duration) {
    // Answers are sent as they come: waiting to fill a packet only delays them.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    // An answer without an end would wait for ever for whoever reads no more, and only Linux can tell.
    #[cfg(target_os = "linux")]
    if let Err(error) = socket2::SockRef::from(stream).set_tcp_user_timeout(Some(stalled)) {
        tracing::debug!(%error, "cannot set TCP_USER_TIMEOUT");
    }
    #[cfg(not(target_os = "linux"))]
    let _ = stalled;
}

/// Answers a body as JSON: for handlers outside the documented API.
pub(crate) fn json(status: StatusCode, body: &serde_json::Value) -> Response {
    (status, [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], body.to_string())
        .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extract::Body;
    use axum::{Extension, body, body::Body as RawBody, routing::get, routing::post};
    use serde_json::Value;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
        sync::Notify,
    };
    use tower::ServiceExt;
    use uuid::Uuid;

    #[expect(clippy::panic, reason = "the test needs a handler that panics")]
    async fn panics() -> &'static str {
        panic!("a bug")
    }

    fn app() -> Router {
        let routes = Router::new()
            .route(
                "/echo/{id}",
                get(
                    async |Extension(id): Extension<Correlation>,
                           Extension(trace): Extension<TraceParent>| {
                        format!("{} {}", id.0, trace.0)
                    },
                ),
            )
            .route("/panic", get(panics))
            .route("/json", post(async |Body(_): Body<Value>| "ok"))
            .route("/bytes", post(async |bytes: bytes::Bytes| bytes.len().to_string()));
        layers("test", routes, Clock::system(), &Metrics::new())
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn who_reads_no_more_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        prepare(&stream, Duration::from_millis(300));
        let zeros = vec![0; 65536];
        let flood = async { while stream.write_all(&zeros).await.is_ok() {} };
        tokio::time::timeout(Duration::from_mins(1), flood).await.expect("the connection breaks off");
        drop(client);
    }

    async fn send(request: Request) -> (Response, String) {
        let (parts, stream) = app().oneshot(request).await.unwrap().into_parts();
        let text = body::to_bytes(stream, usize::MAX).await.unwrap();
        (Response::from_parts(parts, RawBody::empty()), String::from_utf8(text.to_vec()).unwrap())
    }

    async fn ask(path: &str, headers: &[(&str, &[u8])]) -> (Response, String) {
        let mut request = Request::get(path);
        for (name, value) in headers {
            request = request.header(*name, HeaderValue::from_bytes(value).unwrap());
        }
        send(request.body(RawBody::empty()).unwrap()).await
    }

    #[tokio::test]
    async fn answers_are_counted_by_their_status_and_probes_are_not() {
        let metrics = Metrics::new();
        let routes = Router::new()
            .route("/fine", get(async || "fine"))
            .route("/panic", get(panics))
            .route("/ready", get(async || StatusCode::SERVICE_UNAVAILABLE));
        let app = layers("test", routes, Clock::system(), &metrics);
        for path in ["/fine", "/fine", "/panic", "/nowhere", "/ready"] {
            app.clone().oneshot(Request::get(path).body(RawBody::empty()).unwrap()).await.unwrap();
        }
        let page = metrics.render();
        let counted: Vec<_> =
            page.lines().filter(|line| line.starts_with("waybill_http_requests_total{")).collect();
        assert_eq!(counted.len(), 3, "{page}");
        for (status, count) in [(200, 2), (500, 1), (404, 1)] {
            let line = format!("waybill_http_requests_total{{status=\"{status}\"}} {count}");
            assert!(counted.contains(&&*line), "{line}: {page}");
        }
    }

    const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[tokio::test]
    async fn takes_the_callers_ids_and_returns_the_correlation_id() {
        let (response, body) =
            ask("/echo/1", &[("x-correlation-id", b"cart-7"), ("traceparent", TRACE.as_bytes())]).await;
        assert_eq!(body, format!("cart-7 {TRACE}"));
        assert_eq!(response.headers()[CORRELATION_ID], "cart-7");
    }

    #[tokio::test]
    async fn mints_what_is_missing() {
        let (response, body) = ask("/echo/1", &[]).await;
        let (id, trace) = body.split_once(' ').unwrap();
        assert_eq!(response.headers()[CORRELATION_ID], id);
        assert_eq!(Uuid::parse_str(id).unwrap().get_version_num(), 7);
        assert!(is_traceparent(trace), "{trace}");
    }

    #[tokio::test]
    async fn replaces_a_trace_context_that_is_not_valid() {
        let zero = TRACE.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32));
        for bad in [
            "",
            "x",
            &TRACE.to_uppercase(),
            &TRACE[..54],
            &format!("{TRACE}-x"),
            &zero,
            &TRACE.replacen("00", "ff", 1),
        ] {
            assert!(!is_traceparent(bad), "{bad}");
            let (_, body) = ask("/echo/1", &[("traceparent", bad.as_bytes())]).await;
            assert!(is_traceparent(body.split_once(' ').unwrap().1), "{bad}: {body}");
        }
    }

    #[tokio::test]
    async fn refuses_a_correlation_id_that_could_not_be_logged_or_forwarded() {
        let long = "x".repeat(129);
        for bad in [&b""[..], b"two words", b"caf\xc3\xa9", b"a\tb", long.as_bytes()] {
            let (response, body) = ask("/echo/1", &[("x-correlation-id", bad)]).await;
            assert_eq!(response.status(), 400, "{bad:?}");
            let body: Value = serde_json::from_str(&body).unwrap();
            assert_eq!(body["type"], "/problems/invalid-correlation-id");
            assert_eq!(body["correlationId"], response.headers()[CORRELATION_ID].to_str().unwrap());
        }
        assert_eq!(ask("/echo/1", &[("x-correlation-id", &long.as_bytes()[1..])]).await.0.status(), 200);
    }

    #[tokio::test]
    async fn every_error_is_a_problem_that_names_the_request() {
        let large = vec![b' '; 2 * MAX_BODY];
        let post = |path: &str, body: Vec<u8>| {
            let request = Request::post(path).header("content-type", "application/json");
            request.body(RawBody::from(body)).unwrap()
        };
        for (request, status, slug) in [
            (Request::get("/nowhere").body(RawBody::empty()).unwrap(), 404, "no-such-route"),
            (Request::delete("/json").body(RawBody::empty()).unwrap(), 405, "method-not-allowed"),
            (Request::get("/panic").body(RawBody::empty()).unwrap(), 500, "internal"),
            (post("/json", b"{".to_vec()), 400, "malformed-json"),
            (post("/json", large), 413, "body-too-large"),
        ] {
            let (response, body) = send(request).await;
            assert_eq!(response.status(), status, "{slug}");
            assert_eq!(response.headers()["content-type"], "application/problem+json");
            let body: Value = serde_json::from_str(&body).unwrap();
            assert_eq!(body["type"], format!("/problems/{slug}"));
            assert_eq!(body["correlationId"], response.headers()[CORRELATION_ID].to_str().unwrap());
            if status == 405 {
                assert_eq!(response.headers()["allow"], "POST");
            }
        }
    }

    #[tokio::test]
    async fn limits_the_body_for_other_extractors_too() {
        let post = |size| Request::post("/bytes").body(RawBody::from(vec![0; size])).unwrap();
        assert_eq!(send(post(MAX_BODY)).await.1, MAX_BODY.to_string());
        assert_eq!(send(post(MAX_BODY + 1)).await.0.status(), 413);
    }

    /// A client must be able to read the refusal of a body that it is still sending.
    #[tokio::test]
    async fn answers_a_large_body_over_a_real_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let server = tokio::spawn(serve(listener, app(), shutdown.clone(), Duration::from_secs(10)));

        let mut client = TcpStream::connect(address).await.unwrap();
        let size = 2 * MAX_BODY;
        let head = format!(
            "POST /json HTTP/1.1\r\nhost: x\r\ncontent-type: text/plain\r\ncontent-length: {size}\r\nconnection: close\r\n\r\n"
        );
        client.write_all(head.as_bytes()).await.unwrap();
        client.write_all(&vec![b' '; size]).await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");

        shutdown.cancel();
        assert!(server.await.unwrap().unwrap());
    }

    #[tokio::test]
    async fn drains_what_is_in_flight_up_to_the_deadline() {
        for (drain, finish) in [(Duration::from_secs(30), true), (Duration::from_millis(10), false)] {
            let (entered, gate) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
            let (inside, opened) = (entered.clone(), gate.clone());
            let slow = get(async move || {
                inside.notify_one();
                opened.notified().await;
                "done"
            });
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let shutdown = CancellationToken::new();
            let app = layers("test", Router::new().route("/slow", slow), Clock::system(), &Metrics::new());
            let server = tokio::spawn(serve(listener, app, shutdown.clone(), drain));

            let mut client = TcpStream::connect(address).await.unwrap();
            client.write_all(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
            entered.notified().await;
            shutdown.cancel();
            if finish {
                gate.notify_one();
                let mut answer = String::new();
                client.read_to_string(&mut answer).await.unwrap();
                assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("done"), "{answer}");
            }
            assert_eq!(server.await.unwrap().unwrap(), finish);
        }
    }
}
