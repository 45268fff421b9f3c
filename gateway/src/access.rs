//! One line per request, written when its answer has ended, however it ended.

use crate::{guard::Peer, metrics::Counters};
use axum::{
    body::{Body, Bytes, HttpBody},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode},
};
use http_body::{Frame, SizeHint};
use service::{
    Clock, Correlation, Problem,
    http::{CORRELATION_ID, TRACEPARENT, correlate, is_probe, new_trace_parent, trace_parent},
    telemetry::{Cause, KeyValue, Scope, Span, SpanKind, semconv},
};
use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Instant,
};
use uuid::Uuid;

/// Names one request, on its way through.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// As which it appears in traces.
pub(crate) const SERVICE: &str = "gateway";

/// What nginx calls a request whose client did not wait for the answer.
const GONE: u16 = 499;

/// What the line will say. It is written when this is dropped: so each request has exactly one, also when its client has
/// gone away.
pub(crate) struct Line {
    started: Instant,
    counters: Counters,
    method: Method,
    pub(crate) ids: Ids,
    /// The path of the route as the table has it.
    pub(crate) route: Arc<str>,
    pub(crate) principal: Option<Uuid>,
    pub(crate) limit: &'static str,
    pub(crate) proxied: Proxied,
    pub(crate) answer: Answer,
}

/// What a request is called.
pub(crate) struct Ids {
    pub(crate) request: HeaderValue,
    pub(crate) correlation: HeaderValue,
    /// The W3C trace context that goes on to the service.
    pub(crate) trace: Arc<str>,
    /// What the gateway does for the request, in that trace.
    pub(crate) span: Span,
    joining: Correlation,
}

/// What the proxy did.
#[derive(Default)]
pub(crate) struct Proxied {
    /// The instance that was asked last.
    pub(crate) upstream: Option<String>,
    pub(crate) attempts: u32,
    pub(crate) breaker: &'static str,
    /// Bytes of the request's body that were read.
    pub(crate) received: Arc<AtomicU64>,
}

/// What went back to the client.
#[derive(Default)]
pub(crate) struct Answer {
    pub(crate) status: Option<StatusCode>,
    pub(crate) sent: u64,
    /// Whether it came to its end.
    pub(crate) complete: bool,
}

impl Ids {
    /// Those that the caller sent; new ones where there are none, or where they are not acceptable, which is said.
    pub(crate) fn of(path: &str, headers: &HeaderMap, clock: &Clock) -> (Self, Result<(), Problem>) {
        let sent = headers.get(REQUEST_ID).filter(|value| {
            (1..=128).contains(&value.len()) && value.as_bytes().iter().all(u8::is_ascii_graphic)
        });
        let (joining, correlation, accepted) = correlate(clock, headers);
        let minted = || HeaderValue::try_from(clock.uuid().to_string());
        let request = sent.cloned().map_or_else(minted, Ok).unwrap_or_else(|_| HeaderValue::from_static(""));
        let caller = trace_parent(headers);
        let span = if is_probe(path) {
            Span::default()
        } else {
            Span::start(SERVICE, SpanKind::Server, Cause::Parent(caller), || "request".to_owned())
        };
        let trace = span.traceparent().or_else(|| caller.map(Into::into)).unwrap_or_else(new_trace_parent);
        (Self { request, correlation, trace, span, joining }, accepted)
    }

    /// Sets them where the service looks for them.
    pub(crate) fn send(&self, headers: &mut HeaderMap) {
        self.echo(headers);
        if let Ok(trace) = HeaderValue::from_str(&self.trace) {
            headers.insert(TRACEPARENT, trace);
        }
    }

    /// Sets them where the client looks for them.
    pub(crate) fn echo(&self, headers: &mut HeaderMap) {
        headers.insert(REQUEST_ID, self.request.clone());
        headers.insert(CORRELATION_ID, self.correlation.clone());
    }

    /// As problems name it.
    pub(crate) fn correlation(&self) -> Arc<str> {
        Arc::clone(&self.joining.0)
    }

    /// What belongs to this request.
    pub(crate) fn scope(&self) -> Scope {
        let (correlation, traceparent) = (self.correlation(), Some(Arc::clone(&self.trace)));
        Scope { service: SERVICE, correlation, traceparent, span: self.span.clone() }
    }
}

impl Line {
    pub(crate) fn begin(counters: &Counters, method: &Method, ids: Ids) -> Self {
        Self {
            started: Instant::now(),
            counters: counters.clone(),
            method: method.clone(),
            ids,
            route: "(none)".into(),
            principal: None,
            limit: "none",
            proxied: Proxied { breaker: "none", ..Proxied::default() },
            answer: Answer::default(),
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let status = self.answer.status.or_else(|| StatusCode::from_u16(GONE).ok()).unwrap_or_default();
        let taken = self.started.elapsed();
        self.counters.request(&self.route, &self.method, status, taken);
        let Self { method, route, limit, ids, proxied, answer, .. } = self;
        let (status, ms) = (status.as_u16(), taken.as_secs_f64() * 1000.0);
        let aborted = !answer.complete;
        let (request_id, id) =
            (ids.request.to_str().unwrap_or_default(), ids.correlation.to_str().unwrap_or_default());
        let trace_id = ids.trace.get(3..35).unwrap_or_default();
        let principal = self.principal.map(tracing::field::display);
        let (upstream, attempts) = (proxied.upstream.as_deref(), proxied.attempts);
        let (breaker, bytes_in, bytes_out) =
            (proxied.breaker, proxied.received.load(Ordering::Relaxed), answer.sent);
        macro_rules! line {
            ($level:ident, $text:literal) => {
                tracing::$level!(
                    target: "access", %method, route = &**route, status, ms, aborted, bytesIn = bytes_in,
                    bytesOut = bytes_out, principal, upstream, attempts, limit, breaker, requestId = request_id,
                    correlationId = id, traceId = trace_id, $text
                )
            };
        }
        ids.span.rename(|| format!("{method} {route}"));
        ids.span.describe(|| {
            [
                KeyValue::new(semconv::HTTP_METHOD, method.to_string()),
                KeyValue::new(semconv::HTTP_ROUTE, route.to_string()),
                KeyValue::new(semconv::HTTP_STATUS, i64::from(status)),
                KeyValue::new(semconv::CORRELATION, id.to_owned()),
            ]
        });
        if status >= 500 {
            ids.span.fail(|| format!("answered with {status}"));
        }
        ids.span.end();
        // Probes come every few seconds and say something only when they fail.
        ids.scope().enter(|| {
            if status < 400 && is_probe(route) {
                line!(debug, "probe");
            } else if status >= 500 {
                line!(warn, "request failed");
            } else {
                line!(info, "request");
            }
        });
    }
}

/// An answer on its way to the client. It carries the line, so that the line is written when the answer has ended; unless
/// a tunnel does.
pub(crate) struct Counted {
    body: Body,
    line: Option<Line>,
    peer: Arc<Peer>,
}

impl Counted {
    pub(crate) fn new(body: Body, mut line: Option<Line>, peer: Arc<Peer>) -> Self {
        if let Some(line) = &mut line {
            // An answer without a body, and one to HEAD, is never asked for a frame.
            line.answer.complete = body.is_end_stream() || line.method == Method::HEAD;
        }
        Self { body, line, peer }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(line) = self.line.take() {
            self.peer.ended(line);
        }
    }
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        let frame = ready!(Pin::new(&mut this.body).poll_frame(context));
        if let Some(line) = &mut this.line {
            let data = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref());
            line.answer.sent += data.map_or(0, Bytes::len) as u64;
            line.answer.complete = frame.is_none() || this.body.is_end_stream();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
