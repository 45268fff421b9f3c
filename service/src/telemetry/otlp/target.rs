//! Where telemetry goes, by the environment variables of the OpenTelemetry specification.
//!
//! <https://opentelemetry.io/docs/specs/otel/protocol/exporter/>

use super::secured::Secured;
use crate::config::Settings;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri, uri::PathAndQuery};
use std::{str::FromStr, time::Duration};

/// What can be exported.
#[derive(Clone, Copy, Debug)]
pub(in crate::telemetry) enum Signal {
    Traces,
    Metrics,
    Logs,
}

impl Signal {
    /// Its name in paths and in the log.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Traces => "traces",
            Self::Metrics => "metrics",
            Self::Logs => "logs",
        }
    }

    /// The call of gRPC that takes it.
    pub(super) fn method(self) -> PathAndQuery {
        PathAndQuery::from_static(match self {
            Self::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
            Self::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
            Self::Logs => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
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
pub(super) struct Headers(pub(super) HeaderMap);

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
pub(in crate::telemetry) struct Target {
    pub(super) signal: Signal,
    pub(super) protocol: Protocol,
    pub(super) endpoint: Uri,
    /// Where the endpoint asks for TLS.
    pub(super) secured: Option<Secured>,
    pub(super) headers: Headers,
    pub(super) timeout: Duration,
}

impl Target {
    /// Where a signal goes by the settings; `None` where nothing is asked for.
    pub(in crate::telemetry) fn read(signal: Signal, settings: &mut Settings) -> Option<Self> {
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
        let secured = match endpoint.scheme_str() {
            Some("http") => None,
            Some("https") => Some(Secured::read(&upper, settings)?),
            _ => {
                settings.faults().add(&key, "expected http://HOST:PORT or https://HOST:PORT");
                return None;
            }
        };
        let timeout = Duration::from_millis(timeout.unwrap_or(10_000));
        Some(Self { signal, protocol, endpoint, secured, headers: headers.unwrap_or_default(), timeout })
    }
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
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317"),
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

    #[test]
    fn what_a_collector_is_believed_by_is_read_as_the_specification_says() {
        const SECURED: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector:4318");
        let wrong = &[
            SECURED,
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/no/such/ca.pem"),
            ("OTEL_EXPORTER_OTLP_LOGS_CERTIFICATE", "/no/such/logs.pem"),
            ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "/no/such/own.pem"),
        ];
        let faults = read(Signal::Traces, wrong).unwrap_err();
        for named in
            ["OTEL_EXPORTER_OTLP_CERTIFICATE: /no/such/ca.pem", "OTEL_EXPORTER_OTLP_CLIENT_KEY: is missing"]
        {
            assert!(faults.contains(named), "{faults}");
        }
        let faults = read(Signal::Logs, wrong).unwrap_err();
        assert!(faults.contains("OTEL_EXPORTER_OTLP_LOGS_CERTIFICATE: /no/such/logs.pem"), "{faults}");
        let plain = &[BASE, ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/no/such/ca.pem")];
        assert!(read(Signal::Traces, plain).unwrap().unwrap().secured.is_none(), "nobody is asked for one");
    }
}
