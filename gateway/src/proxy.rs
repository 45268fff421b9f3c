//! Passes a request on to an instance of its service, and the answer back.

mod answer;
mod body;
mod budget;
mod fetch;
mod headers;
mod tunnel;

use crate::{
    access::{Line, SERVICE},
    guard::Peer,
    metrics::Counters,
    table::Route,
    upstream::{Failure, InFlight, NoUpstream, Pick, Upstreams},
};
use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header, request::Parts},
};
use body::{Progress, Sending};
pub(crate) use body::{Upload, too_large};
pub(crate) use budget::Budget;
pub(crate) use fetch::FetchError;
use hyper::body::Incoming;
use hyper_util::client::legacy;
use service::{
    Problem,
    http::TRACEPARENT,
    telemetry::{Cause, KeyValue, Span, SpanKind, semconv},
};
use std::{net::IpAddr, sync::Arc};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
pub(crate) use tunnel::Tunnel;

/// How many instances a request is sent to, one after the other, before it has failed.
const ATTEMPTS: usize = 3;

/// Names a request that is carried out once however often it is sent.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Calls instances of services. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Proxy {
    upstreams: Upstreams,
    counters: Counters,
    /// Cancelled when streams have to end.
    stop: CancellationToken,
}

/// A request that was let in.
pub(crate) struct Call<'a> {
    pub(crate) route: &'a Route,
    pub(crate) peer: &'a Arc<Peer>,
    /// Who the client is.
    pub(crate) client: IpAddr,
    /// Whether the peer is a proxy of ours.
    pub(crate) trusted: bool,
    /// When there has to be an answer.
    pub(crate) deadline: Instant,
}

impl Proxy {
    pub(crate) fn new(upstreams: Upstreams, counters: Counters, stop: CancellationToken) -> Self {
        Self { upstreams, counters, stop }
    }

    /// Sends a request on, to another instance where the first does not answer and that is safe, and gives the answer.
    pub(crate) async fn forward(
        &self,
        call: &Call<'_>,
        mut request: Request<Incoming>,
        line: &mut Line,
    ) -> Result<Response<Body>, Problem> {
        let upgrade = (call.route.streaming && headers::wants_websocket(request.headers()))
            .then(|| hyper::upgrade::on(&mut request));
        let (parts, body) = request.into_parts();
        let head = head(parts, call, line, upgrade.is_some());
        let upload = Upload::new(body, call.route.body, Arc::clone(&line.proxied.received));
        let progress = upload.progress();
        let at_fault = || progress.problem(call.route.body);
        let sending = timeout_at(call.deadline, Sending::prepare(upload)).await;
        let mut sending =
            sending.map_err(|_| too_slow())?.map_err(|_| at_fault().unwrap_or_else(Problem::internal))?;

        let (response, flight) = self.attempt(call, &head, &mut sending, &progress, line).await?;
        self.answer(call, upgrade, response, flight).await
    }

    /// Asks one instance after the other.
    async fn attempt(
        &self,
        call: &Call<'_>,
        head: &Head,
        sending: &mut Sending,
        progress: &Progress,
        line: &mut Line,
    ) -> Result<(Response<Incoming>, InFlight), Problem> {
        let Call { route, deadline, .. } = call;
        let mut tried = Vec::new();
        route.budget.earn();
        let picked = self.upstreams.pick(&route.service);
        let mut pick = picked.map_err(|why| self.nobody(&route.service, &why, line))?;
        loop {
            (line.proxied.breaker, line.proxied.attempts) = ("closed", line.proxied.attempts + 1);
            line.proxied.upstream = Some(pick.instance.id.to_string());
            let span = head.span(&pick, call, line, tried.len());
            let request = head.request(&pick, sending.body(), &span);
            let failure = match timeout_at(*deadline, pick.client().request(request)).await {
                Ok(Ok(response)) => {
                    let status = response.status();
                    let flight = pick.answered(response.status(), response.headers());
                    span.describe(|| [KeyValue::new(semconv::HTTP_STATUS, i64::from(status.as_u16()))]);
                    if status.is_server_error() {
                        span.fail(|| format!("answered with {}", status.as_u16()));
                    }
                    return Ok((response, flight));
                }
                // A client that is slow, breaks off or sends too much says nothing about the instance.
                Err(_) if !progress.is_complete() => return Err(too_slow()),
                Err(_) => Failure::Timeout,
                Ok(Err(error)) => progress.problem(route.body).map_or_else(|| Ok(kind(&error)), Err)?,
            };
            span.fail(|| name(failure).to_owned());
            self.counters.upstream_error(&route.service, name(failure));
            tried.push(pick.instance.id);
            let unanswered = pick.failed(failure);
            // Nothing was sent where no connection was made.
            let harmless = matches!(failure, Failure::Connect) || head.is_idempotent();
            let again = route.retry && sending.is_kept() && harmless && tried.len() < ATTEMPTS;
            if matches!(failure, Failure::Timeout) {
                unanswered.give_up();
                return Err(timed_out(&route.service));
            }
            if !again || !self.may_retry(route) {
                unanswered.give_up();
                return Err(bad_gateway(&route.service));
            }
            let another = self.upstreams.another(unanswered, &tried);
            pick = another.ok_or_else(|| bad_gateway(&route.service))?;
        }
    }

    fn may_retry(&self, route: &Route) -> bool {
        let may = route.budget.spend();
        self.counters.retry(&route.service, if may { "sent" } else { "refused" });
        may
    }

    fn nobody(&self, service: &Arc<str>, why: &NoUpstream, line: &mut Line) -> Problem {
        let (kind, breaker, seconds) = match why {
            NoUpstream::NoInstance => ("none", "none", 1),
            NoUpstream::Open { retry_after } => ("open", "open", retry_after.as_secs() + 1),
        };
        line.proxied.breaker = breaker;
        self.counters.upstream_error(service, kind);
        unavailable(service, u32::try_from(seconds).unwrap_or(u32::MAX))
    }
}

/// The head of a request as every instance gets it.
struct Head {
    method: Method,
    path: String,
    headers: HeaderMap,
}

/// Makes the head for the service out of the client's.
fn head(parts: Parts, call: &Call<'_>, line: &Line, upgrade: bool) -> Head {
    let mut headers = parts.headers;
    headers::strip(&mut headers);
    headers.remove(header::EXPECT);
    headers::forwarded(&mut headers, (call.peer.address, call.peer.scheme), call.client, call.trusted);
    line.ids.send(&mut headers);
    if upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    }
    let path = call.route.rewritten(parts.uri.path());
    let path = parts.uri.query().map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
    Head { method: parts.method, path, headers }
}

impl Head {
    /// The span of sending it to an instance, after so many others.
    fn span(&self, pick: &Pick, call: &Call<'_>, line: &Line, before: usize) -> Span {
        if !line.ids.span.is_recording() {
            return Span::default();
        }
        let (service, cause) = (&call.route.service, Cause::Parent(Some(&line.ids.trace)));
        let span = Span::start(SERVICE, SpanKind::Client, cause, || format!("{} {service}", self.method));
        span.describe(|| {
            [
                KeyValue::new(semconv::HTTP_METHOD, self.method.to_string()),
                KeyValue::new(semconv::HTTP_RESEND, i64::try_from(before).unwrap_or(i64::MAX)),
                KeyValue::new(semconv::SERVER_ADDRESS, pick.address.host().to_owned()),
                KeyValue::new(semconv::PEER, service.to_string()),
            ]
        });
        span
    }

    fn request(&self, pick: &Pick, body: Body, span: &Span) -> Request<Body> {
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        // A path that was read from a request can be written into one.
        *request.uri_mut() = pick.address.uri(&self.path).unwrap_or_default();
        *request.headers_mut() = self.headers.clone();
        if let Some(trace) = span.traceparent().and_then(|trace| HeaderValue::from_str(&trace).ok()) {
            request.headers_mut().insert(TRACEPARENT, trace);
        }
        request
    }

    /// Whether it can be carried out twice: reading can, and what is under a key is carried out once only.
    fn is_idempotent(&self) -> bool {
        self.method.is_safe() || self.headers.contains_key(IDEMPOTENCY_KEY)
    }
}

/// What kept an instance from answering.
fn kind(error: &legacy::Error) -> Failure {
    if error.is_connect() { Failure::Connect } else { Failure::Reset }
}

fn name(failure: Failure) -> &'static str {
    match failure {
        Failure::Connect => "connect",
        Failure::Timeout => "timeout",
        Failure::Reset => "reset",
    }
}

/// 503: nobody can be asked.
fn unavailable(service: &str, seconds: u32) -> Problem {
    Problem::unavailable("service-unavailable", format!("Service {service} is not available"), seconds)
}

/// 502: those that were asked did not answer.
fn bad_gateway(service: &str) -> Problem {
    let detail = format!(
        "Service {service} did not answer. With an Idempotency-Key the request can safely be sent again."
    );
    Problem::new(StatusCode::BAD_GATEWAY, "bad-gateway", detail)
}

/// 504: there was no answer in time.
fn timed_out(service: &str) -> Problem {
    let detail = format!("Service {service} did not answer in time. The request may have been carried out.");
    Problem::new(StatusCode::GATEWAY_TIMEOUT, "gateway-timeout", detail)
}

/// 408: the body did not arrive in time.
fn too_slow() -> Problem {
    Problem::new(StatusCode::REQUEST_TIMEOUT, "request-timeout", "The body did not arrive in time.")
}
