//! What a process tells about itself: log lines to standard error, and, where OpenTelemetry is asked for, traces, metrics
//! and logs over OTLP.
//!
//! - [`init`] sets both up; without `OTEL_EXPORTER_OTLP_ENDPOINT` nothing of OpenTelemetry exists, and a [`Span`] costs an
//!   atomic load
//! - [`Span`]: what took how long, because of what; [`semconv`]: how things are called
//! - [`Scope`]: what the work under way belongs to, for log lines and for whoever is asked next

pub mod semconv;

mod export;
mod format;
mod logs;
mod metrics;
mod otlp;
mod scope;
mod span;

use crate::config::{Faults, Settings};
use export::Export;
use format::InScope;
pub use logs::PROCESS;
pub use metrics::export_metrics;
pub use scope::{Scope, current_span, spawn};
pub(crate) use span::is_traceparent;
pub use span::{Cause, KeyValue, Span, SpanKind, is_long_ago, is_tracing};
use std::{io::IsTerminal, panic, str::FromStr};
use tokio::runtime::Handle;
use tracing_subscriber::{EnvFilter, Layer, filter, layer::SubscriberExt, util::SubscriberInitExt};

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object per line, for machines.
    Json,
    /// For people, in colour on a terminal.
    Pretty,
}

impl FromStr for LogFormat {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "json" => Ok(Self::Json),
            "pretty" => Ok(Self::Pretty),
            _ => Err("expected json or pretty"),
        }
    }
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter does not parse.
    #[error("the log filter is not valid; an example of one that is: 'info,http=warn'")]
    Filter(#[from] filter::ParseError),
    /// What is asked of OpenTelemetry is not possible.
    #[error(transparent)]
    Settings(#[from] Faults),
    /// Something else has taken the log of this process.
    #[error("logging is already set up")]
    Taken(#[from] tracing_subscriber::util::TryInitError),
}

/// What was set up. Stop it before the process ends, or what was not sent yet is lost.
#[must_use]
pub struct Telemetry(Export, Handle);

/// Whether this is a filter, such as `info,http=warn`.
pub fn check(filter: &str) -> Result<(), TelemetryError> {
    EnvFilter::try_new(filter)?;
    Ok(())
}

/// Sends the log of this process to standard error, as far as `filter` lets through (`info,http=warn`), and panics into
/// the log. Exports telemetry as `settings` ask for it, on this runtime.
pub fn init(
    format: LogFormat,
    filter: &str,
    settings: Settings,
    runtime: &Handle,
) -> Result<Telemetry, TelemetryError> {
    let filter = EnvFilter::try_new(filter)?;
    let export = Export::start(settings, runtime)?;
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let layer = match format {
        LogFormat::Json => {
            let layer = layer.json().flatten_event(true).with_span_list(false);
            layer.map_event_format(|format| InScope { format, json: true }).boxed()
        }
        LogFormat::Pretty => {
            let ansi = std::io::stderr().is_terminal();
            let layer = layer.with_ansi(ansi);
            layer.map_event_format(|format| InScope { format: format.with_ansi(ansi), json: false }).boxed()
        }
    };
    tracing_subscriber::registry().with(filter).with(layer).with(export.log_layer()).try_init()?;
    panic::set_hook(Box::new(|panic| {
        let location = panic.location().map(ToString::to_string).unwrap_or_default();
        let backtrace = std::backtrace::Backtrace::capture();
        tracing::error!(location, %backtrace, "panic: {}", panic.payload_as_str().unwrap_or("(no text)"));
    }));
    Ok(Telemetry(export, runtime.clone()))
}

impl Telemetry {
    /// Sends what was not sent yet, for a few seconds at most. Not to be called by a task.
    pub fn stop(self) {
        self.0.stop(&self.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn init(filter: &str, endpoint: &'static str) -> Result<Telemetry, TelemetryError> {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let asked = move |key: &str| (key == "OTEL_EXPORTER_OTLP_ENDPOINT").then(|| endpoint.into());
        super::init(LogFormat::Json, filter, Settings::from_fn(asked), runtime.handle())
    }

    #[test]
    fn refuses_what_cannot_be_set_up() {
        assert!(matches!(init("http=loudly", ""), Err(TelemetryError::Filter(_))));
        assert!(matches!(init("info", "ftp://collector"), Err(TelemetryError::Settings(_))));
    }
}
