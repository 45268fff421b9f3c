//! OTLP: where telemetry goes, by the environment variables of the OpenTelemetry specification, and how it gets there.
//!
//! <https://opentelemetry.io/docs/specs/otel/protocol/exporter/>

use crate::config::Settings;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri, header, uri::PathAndQuery};
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use prost::Message;
use std::{
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{runtime::Handle, time::Instant};
use tokio_util::sync::CancellationToken;
use tonic::{Code, client::Grpc, metadata::MetadataMap, transport::Channel};
use tonic_prost::ProstCodec;

/// The first pause after a refusal that may pass; each next one is twice as long.
const FIRST_RETRY: Duration = Duration::from_millis(500);

/// What can be exported.
#[derive(Clone, Copy, Debug)]
pub(super) enum Signal {
    Traces,
    Metrics,
    Logs,
}

impl Signal {
    fn name(self) -> &'static str {
        match self {
            Self::Traces => "traces",
            Self::Metrics => "metrics",
            Self::Logs => "logs",
        }
    }

    fn method(self) -> PathAndQuery {
        PathAndQuery::from_static(match self {
            Self::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
            Self::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
            Self::Logs => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Grpc,
    HttpProtobuf,
}

impl FromStr for Protocol {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "grpc" => Ok(Self::Grpc),
            "http/protobuf" => Ok(Self::HttpProtobuf),
            _ => Err("expected grpc or http/protobuf"),
        }
    }
}

/// `api-key=secret,tenant=a%20b`.
#[derive(Clone, Debug, Default)]
struct Headers(HeaderMap);

impl FromStr for Headers {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let one = |pair: &str| {
            let (name, value) = pair.split_once('=')?;
            let mut value = HeaderValue::try_from(unescaped(value.trim())?).ok()?;
            value.set_sensitive(true);
            Some((HeaderName::from_str(name.trim()).ok()?, value))
        };
        let pairs = text.split(',').filter(|pair| !pair.trim().is_empty()).map(one);
        pairs.collect::<Option<_>>().map(Self).ok_or("expected name=value,..")
    }
}

/// Text in which bytes may be written as `%20`.
fn unescaped(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(part.get(..2)?, 16).ok()?);
        bytes.extend(&part.as_bytes()[2..]);
    }
    String::from_utf8(bytes).ok()
}

/// Where one signal goes.
#[derive(Clone, Debug)]
pub(super) struct Target {
    signal: Signal,
    protocol: Protocol,
    endpoint: Uri,
    headers: Headers,
    timeout: Duration,
}

impl Target {
    /// Where a signal goes by the settings; `None` where nothing is asked for.
    pub(super) fn read(signal: Signal, settings: &mut Settings) -> Option<Self> {
        let upper = signal.name().to_uppercase();
        let disabled: Option<bool> = settings.optional("OTEL_SDK_DISABLED");
        let exporter: Option<String> = settings.optional(&format!("OTEL_{upper}_EXPORTER"));
        if disabled == Some(true) || exporter.as_deref() == Some("none") {
            return None;
        }
        let own = |name: &str| format!("OTEL_EXPORTER_OTLP_{upper}_{name}");
        let shared = |name: &str| format!("OTEL_EXPORTER_OTLP_{name}");
        let protocol = settings.optional(&own("PROTOCOL")).or_else(|| settings.optional(&shared("PROTOCOL")));
        let headers = settings.optional(&own("HEADERS")).or_else(|| settings.optional(&shared("HEADERS")));
        let timeout = settings.optional(&own("TIMEOUT")).or_else(|| settings.optional(&shared("TIMEOUT")));
        let protocol = protocol.unwrap_or(Protocol::HttpProtobuf);
        let (key, endpoint) = if let Some(endpoint) = settings.optional::<Uri>(&own("ENDPOINT")) {
            // Used as it is, while the shared one is a base.
            (own("ENDPOINT"), endpoint)
        } else {
            let base = settings.optional::<Uri>(&shared("ENDPOINT"))?;
            let path = if protocol == Protocol::Grpc { "" } else { &format!("/v1/{}", signal.name()) };
            let whole = format!("{}{path}", base.to_string().trim_end_matches('/'));
            (shared("ENDPOINT"), whole.parse().unwrap_or(base))
        };
        if endpoint.scheme_str() != Some("http") {
            settings
                .faults()
                .add(&key, "expected http://HOST:PORT; a collector beside this process can add TLS");
        }
        let timeout = Duration::from_millis(timeout.unwrap_or(10_000));
        Some(Self { signal, protocol, endpoint, headers: headers.unwrap_or_default(), timeout })
    }
}

enum Transport {
    Grpc(Channel),
    Http(reqwest::Client),
}

/// Sends one signal to its target. Cheap to clone.
#[derive(Clone)]
pub(super) struct Sender(Arc<Inner>);

struct Inner {
    target: Target,
    transport: Transport,
    runtime: Handle,
    /// Whether the last attempt failed: an outage is logged once.
    failing: AtomicBool,
    /// Cancelled when the process ends: then nothing is tried again.
    last: CancellationToken,
}

/// Why a request was not accepted.
struct Refused {
    why: String,
    /// Whether the same request may be accepted later.
    passing: bool,
}

impl Sender {
    /// To this target; what it needs runs on this runtime. Once `last` is cancelled nothing is tried again.
    pub(super) fn new(target: Target, runtime: &Handle, last: CancellationToken) -> Self {
        let _inside = runtime.enter();
        let transport = match target.protocol {
            Protocol::Grpc => Transport::Grpc(Channel::builder(target.endpoint.clone()).connect_lazy()),
            Protocol::HttpProtobuf => Transport::Http(reqwest::Client::new()),
        };
        Self(Arc::new(Inner { target, transport, runtime: runtime.clone(), failing: false.into(), last }))
    }

    /// Sends a request and waits for the answer, wherever it is called: the work is done on the runtime.
    pub(super) async fn send(&self, request: impl Message + Clone + 'static) -> OTelSdkResult {
        let inner = Arc::clone(&self.0);
        let sent = self.0.runtime.spawn(async move { inner.send(request).await }).await;
        sent.unwrap_or_else(|_| Err("the runtime has ended".to_owned()))
            .map_err(OTelSdkError::InternalFailure)
    }
}

impl Inner {
    async fn send(&self, request: impl Message + Clone + 'static) -> Result<(), String> {
        let result = self.send_within(request).await;
        let (signal, endpoint) = (self.target.signal.name(), &self.target.endpoint);
        let failed = self.failing.swap(result.is_err(), Ordering::Relaxed);
        match &result {
            Err(error) if !failed => {
                tracing::warn!(signal, %endpoint, error, "telemetry is not exported; what is recorded until it can be is lost");
            }
            Ok(()) if failed => tracing::info!(signal, %endpoint, "telemetry is exported again"),
            _ => {}
        }
        result
    }

    /// Tries until the time-out.
    async fn send_within(&self, request: impl Message + Clone + 'static) -> Result<(), String> {
        let deadline = Instant::now() + self.target.timeout;
        let mut pause = FIRST_RETRY;
        loop {
            let refused = match tokio::time::timeout_at(deadline, self.attempt(request.clone())).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(refused)) => refused,
                Err(_) => return Err(format!("no answer within {:?}", self.target.timeout)),
            };
            let jittered = pause.mul_f64(0.5 + fastrand::f64() / 2.0);
            if !refused.passing || Instant::now() + jittered >= deadline {
                return Err(refused.why);
            }
            // At the end of the process it is said at once why there is no next attempt, while that can still be said.
            if self.last.run_until_cancelled(tokio::time::sleep(jittered)).await.is_none() {
                return Err(refused.why);
            }
            pause *= 2;
        }
    }

    async fn attempt(&self, message: impl Message + 'static) -> Result<(), Refused> {
        let headers = self.target.headers.0.clone();
        match &self.transport {
            Transport::Grpc(channel) => {
                let mut client = Grpc::new(channel.clone());
                let unready = |error| Refused { why: format!("{error}"), passing: true };
                client.ready().await.map_err(unready)?;
                let mut request = tonic::Request::new(message);
                *request.metadata_mut() = MetadataMap::from_headers(headers);
                // What the answer says is of no use: it has no field that would be needed.
                let codec = ProstCodec::<_, ()>::default();
                let answer = client.unary(request, self.target.signal.method(), codec).await;
                answer.map(drop).map_err(|status| Refused {
                    why: format!("{:?} {}", status.code(), status.message()),
                    passing: is_passing(status.code()),
                })
            }
            Transport::Http(client) => {
                let request = client.post(self.target.endpoint.to_string()).headers(headers);
                let request = request.header(header::CONTENT_TYPE, "application/x-protobuf");
                let answer = request.body(message.encode_to_vec()).send().await;
                let status = answer.map_err(|error| Refused { why: whole(&error), passing: true })?.status();
                if status.is_success() {
                    return Ok(());
                }
                Err(Refused { why: status.to_string(), passing: matches!(status.as_u16(), 429 | 502..=504) })
            }
        }
    }
}

/// The codes that the specification says may pass.
fn is_passing(code: Code) -> bool {
    matches!(
        code,
        Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss
    )
}

/// An error with everything that caused it.
fn whole(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(signal: Signal, pairs: &'static [(&str, &str)]) -> Result<Option<Target>, String> {
        let mut settings = Settings::from_fn(|key| {
            pairs.iter().find(|(known, _)| *known == key).map(|(_, value)| value.into())
        });
        let target = Target::read(signal, &mut settings);
        settings.finish(Some(target)).map_err(|faults| faults.to_string())
    }

    const BASE: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");

    #[test]
    fn nothing_is_exported_unless_it_is_asked_for() {
        assert!(read(Signal::Traces, &[("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]).unwrap().is_none());
        assert!(read(Signal::Logs, &[BASE, ("OTEL_LOGS_EXPORTER", "none")]).unwrap().is_none());
        assert!(read(Signal::Logs, &[BASE, ("OTEL_SDK_DISABLED", "true")]).unwrap().is_none());
    }

    #[test]
    fn the_environment_is_read_as_the_specification_says() {
        let base = &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318/base/")];
        let target = read(Signal::Logs, base).unwrap().unwrap();
        assert_eq!(target.protocol, Protocol::HttpProtobuf, "the default of the specification");
        assert_eq!(target.endpoint.to_string(), "http://collector:4318/base/v1/logs");
        assert_eq!(target.timeout, Duration::from_secs(10));

        let mixed = &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://traces:4317"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=a%20b, tenant=1"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "500"),
        ];
        let traces = read(Signal::Traces, mixed).unwrap().unwrap();
        assert_eq!((traces.protocol, traces.endpoint.host()), (Protocol::Grpc, Some("traces")));
        assert_eq!(
            (&traces.headers.0["api-key"], &traces.headers.0["tenant"]),
            (&"a b".parse().unwrap(), &"1".parse().unwrap())
        );
        assert_eq!(traces.timeout, Duration::from_millis(500));
        let metrics = read(Signal::Metrics, mixed).unwrap().unwrap();
        assert_eq!(metrics.endpoint.to_string(), "http://collector:4318/v1/metrics");
    }

    #[test]
    fn every_fault_is_named_and_no_header_is_shown() {
        let wrong = &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "s3cret"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
        ];
        let faults = read(Signal::Traces, wrong).unwrap_err();
        for name in ["ENDPOINT", "PROTOCOL", "HEADERS", "TIMEOUT"] {
            assert!(faults.contains(&format!("OTEL_EXPORTER_OTLP_{name}: ")), "{faults}");
        }
        assert!(!faults.contains("s3cret"));
    }
}
