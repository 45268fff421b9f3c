//! Calls of other services over HTTP: in bounded time, through a circuit breaker, and as part of the same trace.

use crate::{
    Correlation, TraceParent,
    breaker::{Breaker, Permit},
    http::{CORRELATION_ID, TRACEPARENT},
    telemetry::{Cause, KeyValue, PROCESS, Scope, Span, SpanKind, semconv},
    tls::ClientTls,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};
use std::{error::Error, fmt, sync::Arc, time::Duration};

/// How long a call may take, from looking for an instance to the last byte of the answer.
pub const TIMEOUT: Duration = Duration::from_secs(3);

/// Gives the address of an instance to call now, such as `http://10.0.0.7:3001`; `None` where there is none.
pub type Locate = Arc<dyn Fn() -> Option<String> + Send + Sync>;

/// A client of one service. Cheap to clone; clones share their connections and their breaker.
#[derive(Clone)]
pub struct Client {
    upstream: Arc<str>,
    http: reqwest::Client,
    locate: Locate,
    breaker: Breaker,
    timeout: Duration,
}

/// What to ask for.
#[derive(Clone)]
pub struct Call {
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

/// An answer with a status of success.
#[derive(Clone, Debug)]
pub struct Answer {
    upstream: Arc<str>,
    /// The status: 2xx.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// Why a call has no answer that is success.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// It was not made, because those before it failed.
    #[error("{upstream} is not called for now, because calls before have failed")]
    Open {
        /// What was to be called.
        upstream: Arc<str>,
        /// When it may be called again.
        retry_after: Duration,
    },
    /// No instance is known.
    #[error("no instance of {upstream} is known")]
    NoInstance {
        /// What was to be called.
        upstream: Arc<str>,
    },
    /// It took too long. What was asked for may happen all the same.
    #[error("{upstream} has not answered within {} ms", after.as_millis())]
    Timeout {
        /// What was called.
        upstream: Arc<str>,
        /// How long was waited.
        after: Duration,
    },
    /// No connection could be made: nothing was asked.
    #[error("cannot connect to {upstream}")]
    Connect {
        /// What was to be called.
        upstream: Arc<str>,
        /// Why.
        source: reqwest::Error,
    },
    /// The connection broke, or what came is no answer. What was asked for may have happened all the same.
    #[error("the answer of {upstream} cannot be read")]
    Broken {
        /// What was called.
        upstream: Arc<str>,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// It answered, but not with success.
    #[error("{upstream} answered {status}")]
    Status {
        /// What was called.
        upstream: Arc<str>,
        /// The status: not 2xx.
        status: StatusCode,
        /// The body, usually a problem.
        body: Bytes,
    },
}

impl CallError {
    /// Whether the service is at fault or away, rather than what was asked of it.
    pub fn is_outage(&self) -> bool {
        !matches!(self, Self::Status { status, .. } if !status.is_server_error())
    }
}

impl Client {
    /// A client of the service `upstream`, found by `locate` before every call. With TLS an instance has to show a
    /// certificate for the service's name, and one that speaks plain HTTP is called only where TLS is optional.
    pub fn new(
        upstream: &str,
        locate: Locate,
        breaker: Breaker,
        tls: Option<&ClientTls>,
    ) -> Result<Self, Box<dyn Error + Send + Sync>> {
        // Services call each other directly, and an answer that leads elsewhere is none.
        let http = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
        let http = match tls {
            Some(tls) => {
                http.tls_backend_preconfigured(tls.by_name(upstream)?).https_only(!tls.is_optional())
            }
            None => http,
        };
        Ok(Self { upstream: upstream.into(), http: http.build()?, locate, breaker, timeout: TIMEOUT })
    }

    /// Sets how long a call may take.
    #[must_use]
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Makes a call, once. An answer of 5xx and none in time count as failures for the breaker; 4xx do not.
    pub async fn send(&self, mut call: Call) -> Result<Answer, CallError> {
        let span = call.start_span(&self.upstream);
        let result = self.send_once(call).await;
        match &result {
            Ok(answer) => {
                span.describe(|| [KeyValue::new(semconv::HTTP_STATUS, i64::from(answer.status.as_u16()))]);
            }
            Err(error) => span.fail(|| error.to_string()),
        }
        result
    }

    async fn send_once(&self, call: Call) -> Result<Answer, CallError> {
        let upstream = || Arc::clone(&self.upstream);
        let base = (self.locate)().ok_or_else(|| CallError::NoInstance { upstream: upstream() })?;
        let permit = self
            .breaker
            .acquire()
            .map_err(|open| CallError::Open { upstream: upstream(), retry_after: open.retry_after })?;
        let result = tokio::time::timeout(self.timeout, self.exchange(&base, call)).await;
        let result =
            result.unwrap_or_else(|_| Err(CallError::Timeout { upstream: upstream(), after: self.timeout }));
        note(permit, &result);
        result
    }

    async fn exchange(&self, base: &str, call: Call) -> Result<Answer, CallError> {
        let upstream = || Arc::clone(&self.upstream);
        let broken =
            |source: reqwest::Error| CallError::Broken { upstream: upstream(), source: source.into() };
        let url = format!("{}{}", base.trim_end_matches('/'), call.path);
        let request = self.http.request(call.method, url).headers(call.headers).body(call.body);
        let response = request.send().await.map_err(|source| {
            if source.is_connect() {
                CallError::Connect { upstream: upstream(), source }
            } else {
                broken(source)
            }
        })?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = response.bytes().await.map_err(broken)?;
        if !status.is_success() {
            return Err(CallError::Status { upstream: upstream(), status, body });
        }
        Ok(Answer { upstream: upstream(), status, headers, body })
    }
}

fn note(permit: Permit, result: &Result<Answer, CallError>) {
    match result {
        Err(error) if error.is_outage() => permit.failed(),
        _ => permit.succeeded(),
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { upstream, breaker, timeout, .. } = self;
        let mut shown = f.debug_struct("Client");
        shown.field("upstream", upstream).field("breaker", breaker).field("timeout", timeout);
        shown.finish_non_exhaustive()
    }
}

impl Call {
    /// A call of `path`, which begins with a slash.
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), headers: HeaderMap::new(), body: Bytes::new() }
    }

    /// A call that reads.
    pub fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }

    /// Makes it part of what the request with these ids causes.
    #[must_use]
    pub fn within(self, correlation: &Correlation, trace: &TraceParent) -> Self {
        self.header(CORRELATION_ID, &correlation.0).header(TRACEPARENT, &trace.0)
    }

    /// The span of the call: its trace context is the one that is sent.
    fn start_span(&mut self, upstream: &Arc<str>) -> Span {
        let service = Scope::current().map_or(PROCESS, |scope| scope.service);
        let caller = self.headers.get(TRACEPARENT).and_then(|value| value.to_str().ok());
        let span = Span::start(service, SpanKind::Client, Cause::Parent(caller), || {
            format!("{} {upstream}", self.method)
        });
        span.describe(|| {
            [
                KeyValue::new(semconv::HTTP_METHOD, self.method.to_string()),
                KeyValue::new(semconv::PEER, upstream.to_string()),
            ]
        });
        if let Some(trace) = span.traceparent().and_then(|trace| HeaderValue::from_str(&trace).ok()) {
            self.headers.insert(TRACEPARENT, trace);
        }
        span
    }

    /// Speaks for whoever holds this access token.
    #[must_use]
    pub fn bearer(mut self, token: &str) -> Self {
        if let Ok(mut value) = HeaderValue::from_str(&format!("Bearer {token}")) {
            value.set_sensitive(true);
            self.headers.insert(header::AUTHORIZATION, value);
        }
        self
    }

    /// Sets a header; a value that cannot be one is left out.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
        self
    }

    /// Sends this value as JSON.
    pub fn json<T: Serialize>(mut self, body: &T) -> Result<Self, serde_json::Error> {
        self.body = serde_json::to_vec(body)?.into();
        Ok(self.header(header::CONTENT_TYPE, "application/json"))
    }
}

impl Answer {
    /// The body, read as JSON.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, CallError> {
        serde_json::from_slice(&self.body).map_err(|source| CallError::Broken {
            upstream: Arc::clone(&self.upstream),
            source: source.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Metrics,
        breaker::{Breakers, Policy, State},
    };
    use axum::{Json, Router, routing::get};
    use serde_json::{Value, json};
    use std::{
        future::pending,
        sync::{
            atomic::{AtomicU32, Ordering},
            mpsc,
        },
        time::Instant as RealInstant,
    };
    use tokio::{
        net::TcpListener,
        task::spawn_blocking,
        time::{Instant, advance, pause, sleep},
    };

    /// Paused time that stands still while sockets are waited for, until it is told to move: the runtime does not move
    /// it by itself while a blocking task runs. Ends when the sender is dropped.
    fn hold_time() -> mpsc::Sender<()> {
        pause();
        let (hold, released) = mpsc::channel();
        spawn_blocking(move || released.recv_timeout(Duration::from_mins(1)));
        hold
    }

    async fn serve(router: Router) -> Locate {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Arc::new(move || Some(url.clone()))
    }

    fn client(locate: Locate) -> Client {
        let breakers = Breakers::new(Policy::default(), &Metrics::new());
        Client::new("users", locate, breakers.of("users"), None).unwrap()
    }

    #[tokio::test]
    async fn carries_the_ids_and_the_token_and_reads_the_answer() {
        let echo = get(async |headers: HeaderMap| {
            let of = |name: &str| headers[name].to_str().unwrap().to_owned();
            Json(json!([of("x-correlation-id"), of("traceparent"), of("authorization")]))
        });
        let client = client(serve(Router::new().route("/users/1", echo)).await);
        let call =
            Call::get("/users/1").within(&Correlation("cart-7".into()), &TraceParent("00-1-2-01".into()));
        let answer = client.send(call.bearer("secret")).await.unwrap();
        let body: Value = answer.json().unwrap();
        assert_eq!(body, json!(["cart-7", "00-1-2-01", "Bearer secret"]));
        assert!(matches!(answer.json::<u32>(), Err(CallError::Broken { .. })));
    }

    #[tokio::test]
    async fn a_call_ends_after_three_seconds() {
        let slow = get(async || sleep(Duration::from_secs(4)).await);
        let client = client(serve(Router::new().route("/slow", slow)).await);
        client.send(Call::get("/")).await.unwrap_err();

        pause();
        let started = Instant::now();
        let error = client.send(Call::get("/slow")).await.unwrap_err();
        let took = started.elapsed();
        assert!(matches!(error, CallError::Timeout { after: TIMEOUT, .. }) && error.is_outage(), "{error}");
        assert!(took.abs_diff(TIMEOUT) < Duration::from_millis(200), "{took:?}");
    }

    #[tokio::test]
    async fn after_ten_failures_of_twenty_nobody_calls_for_thirty_seconds_and_then_once() {
        let hits = Arc::new(AtomicU32::new(0));
        let seen = hits.clone();
        let flaky = get(async move || match seen.fetch_add(1, Ordering::SeqCst) {
            hit @ 0..20 if hit < 10 => StatusCode::NOT_FOUND,
            10..20 => StatusCode::INTERNAL_SERVER_ERROR,
            _ => pending().await,
        });
        let client = client(serve(Router::new().route("/", flaky)).await);
        let hold = hold_time();
        for call in 0..20 {
            let Err(CallError::Status { status, .. }) = client.send(Call::get("/")).await else { panic!() };
            assert_eq!(status, if call < 10 { 404 } else { 500 });
        }
        for _ in 0..2 {
            let started = RealInstant::now();
            let error = client.send(Call::get("/")).await.unwrap_err();
            assert!(matches!(error, CallError::Open { .. }), "{error}");
            assert!(started.elapsed() < Duration::from_millis(10));
            advance(Duration::from_millis(29_999)).await;
        }
        assert_eq!(hits.load(Ordering::SeqCst), 20, "the upstream was left alone");
        // Of many that come now, one gets through, and until it ends nobody else.
        let calls: Vec<_> = (0..10)
            .map(|_| {
                tokio::spawn({
                    let client = client.clone();
                    async move { client.send(Call::get("/")).await }
                })
            })
            .collect();
        while hits.load(Ordering::SeqCst) == 20 {
            tokio::task::yield_now().await;
        }
        // Timers have a grain of a millisecond.
        advance(TIMEOUT + Duration::from_millis(1)).await;
        let mut timeouts = 0;
        drop(hold);
        for call in calls {
            match call.await.unwrap().unwrap_err() {
                CallError::Timeout { .. } => timeouts += 1,
                CallError::Open { .. } => {}
                other => panic!("{other}"),
            }
        }
        assert_eq!((timeouts, hits.load(Ordering::SeqCst)), (1, 21));
        assert_eq!(client.breaker.status().state, State::Open);
    }

    #[tokio::test]
    async fn what_is_not_there_is_told_apart() {
        let nowhere = client(Arc::new(|| None));
        assert!(matches!(nowhere.send(Call::get("/")).await, Err(CallError::NoInstance { .. })));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let refused = client(Arc::new(move || Some(url.clone())));
        assert!(matches!(refused.send(Call::get("/")).await, Err(CallError::Connect { .. })));
    }
}
