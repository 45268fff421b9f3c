//! Log lines as OpenTelemetry log records, of the service and in the trace that they belong to.

use super::{Scope, semconv, span::remote};
use opentelemetry::logs::{AnyValue, LogRecord, Logger, LoggerProvider, Severity};
use opentelemetry_sdk::logs::{SdkLogRecord, SdkLoggerProvider};
use std::fmt;
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::layer::{Context, Layer};

/// The service of what belongs to none.
pub const PROCESS: &str = "waybill";

/// What the export itself is made of: its lines would make new lines for ever.
const OWN: [&str; 6] = ["h2", "hyper", "hyper_util", "reqwest", "tonic", "tower"];

/// Hands every line to the batches of the exporter.
pub(super) struct Logs(pub(super) SdkLoggerProvider);

impl<S: Subscriber> Layer<S> for Logs {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let target = event.metadata().target();
        if OWN.contains(&target.split("::").next().unwrap_or_default()) {
            return;
        }
        let scope = Scope::current();
        let logger = self.0.logger(scope.as_ref().map_or(PROCESS, |scope| scope.service));
        let mut record = logger.create_log_record();
        record.set_timestamp(opentelemetry::time::now());
        record.set_target(target);
        record.set_severity_text(event.metadata().level().as_str());
        record.set_severity_number(severity(*event.metadata().level()));
        event.record(&mut Fields(&mut record));
        if let Some(scope) = scope {
            if event.metadata().fields().field("correlationId").is_none() {
                record.add_attribute("correlationId", scope.correlation.to_string());
            }
            if let Some(span) = scope.traceparent.as_deref().and_then(remote) {
                record.set_trace_context(span.trace_id(), span.span_id(), Some(span.trace_flags()));
            }
        }
        logger.emit(record);
    }
}

fn severity(level: Level) -> Severity {
    match level {
        Level::ERROR => Severity::Error,
        Level::WARN => Severity::Warn,
        Level::INFO => Severity::Info,
        Level::DEBUG => Severity::Debug,
        Level::TRACE => Severity::Trace,
    }
}

struct Fields<'a>(&'a mut SdkLogRecord);

impl Fields<'_> {
    fn put(&mut self, field: &Field, value: impl Into<AnyValue>) {
        match field.name() {
            "message" => self.0.set_body(value.into()),
            // A service that names itself; the one of the scope is in the resource.
            "service" => self.0.add_attribute(semconv::SERVICE_NAME, value),
            name => self.0.add_attribute(name, value),
        }
    }
}

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.to_owned());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        match i64::try_from(value) {
            Ok(value) => self.put(field, value),
            Err(_) => self.put(field, value.to_string()),
        }
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }
}
