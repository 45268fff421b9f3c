//! From spans, log records and metrics to OTLP requests: one resource for each service, also where one process runs
//! several.

use super::{
    logs::{Logs, PROCESS},
    metrics::Meters,
    otlp::{Sender, Signal, Target},
    semconv, span,
};
use crate::{
    Clock,
    config::{Faults, Settings},
};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_proto::{
    tonic::collector::{logs::v1::ExportLogsServiceRequest, trace::v1::ExportTraceServiceRequest},
    transform::{
        common::tonic::ResourceAttributesWithSchema, logs::tonic::group_logs_by_resource_and_scope,
        trace::tonic::group_spans_by_resource_and_scope,
    },
};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    logs::{LogBatch, LogExporter, SdkLogRecord, SdkLoggerProvider},
    trace::{SdkTracerProvider, SpanData, SpanExporter},
};
use std::{collections::BTreeMap, fmt, time::Duration};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

/// How long the process waits at its end until what it recorded is sent, at most.
const FLUSH: Duration = Duration::from_secs(3);

/// What is exported, while the process runs.
#[derive(Default)]
pub(super) struct Export {
    spans: Option<SdkTracerProvider>,
    logs: Option<SdkLoggerProvider>,
    meters: Option<Meters>,
    last: CancellationToken,
}

/// What the resources of all services have in common.
#[derive(Clone)]
pub(super) struct Resources {
    instance: String,
}

impl Resources {
    /// The resource of a service.
    pub(super) fn of(&self, service: &str) -> ResourceAttributesWithSchema {
        let own = [
            KeyValue::new(semconv::SERVICE_NAME, service.to_owned()),
            KeyValue::new(semconv::SERVICE_NAMESPACE, PROCESS),
            KeyValue::new(semconv::SERVICE_INSTANCE, self.instance.clone()),
            KeyValue::new(semconv::SERVICE_VERSION, env!("CARGO_PKG_VERSION")),
        ];
        (&Resource::builder().with_attributes(own).build()).into()
    }
}

impl Export {
    /// Begins to export what the settings ask for; usually nothing. Spans are made from now on.
    pub(super) fn start(mut settings: Settings, runtime: &Handle) -> Result<Self, Faults> {
        let mut read = |signal| Target::read(signal, &mut settings);
        let (traces, metrics, logs) = (read(Signal::Traces), read(Signal::Metrics), read(Signal::Logs));
        let interval = settings.optional("OTEL_METRIC_EXPORT_INTERVAL").unwrap_or(60_000);
        settings.finish(Some(()))?;

        let last = CancellationToken::new();
        let sender = |target| Sender::new(target, runtime, last.clone());
        let resources = Resources { instance: Clock::system().uuid().to_string() };
        let [traces, metrics, logs] = [traces, metrics, logs].map(|target| target.map(sender).transpose());
        let spans = traces?.map(|sender| {
            let exporter = Spans { sender, resources: resources.clone() };
            SdkTracerProvider::builder().with_batch_exporter(exporter).build()
        });
        if let Some(spans) = &spans {
            span::set_provider(spans.clone());
        }
        let logs = logs?.map(|sender| {
            let exporter = LogRecords { sender, resources: resources.clone() };
            SdkLoggerProvider::builder().with_batch_exporter(exporter).build()
        });
        let interval = Duration::from_millis(interval);
        let meters = metrics?.map(|sender| Meters::start(sender, resources, interval, runtime));
        Ok(Self { spans, logs, meters, last })
    }

    /// What hands log lines over, where they are exported.
    pub(super) fn log_layer(&self) -> Option<Logs> {
        self.logs.clone().map(Logs)
    }

    /// Sends what is still here, and ends. Takes no longer than the deadline; not to be called by a task.
    pub(super) fn stop(self, runtime: &Handle) {
        self.last.cancel();
        // What cannot be sent any more is lost: it was said when the export began to fail.
        let meters = self.meters.map(|meters| runtime.spawn(meters.flush()));
        if let Some(spans) = self.spans {
            let _ = spans.shutdown_with_timeout(FLUSH);
        }
        if let Some(logs) = self.logs {
            let _ = logs.shutdown_with_timeout(FLUSH);
        }
        if let Some(meters) = meters {
            let _ = runtime.block_on(async { tokio::time::timeout(FLUSH, meters).await });
        }
    }
}

/// The service that a span or log record is of: the name of its scope.
fn by_service<T>(
    items: impl Iterator<Item = T>,
    scope: impl Fn(&T) -> &InstrumentationScope,
) -> BTreeMap<String, Vec<T>> {
    let mut services: BTreeMap<String, Vec<T>> = BTreeMap::new();
    for item in items {
        let name = scope(&item).name();
        match services.get_mut(name) {
            Some(known) => known.push(item),
            None => drop(services.insert(name.to_owned(), vec![item])),
        }
    }
    services
}

struct Spans {
    sender: Sender,
    resources: Resources,
}

impl SpanExporter for Spans {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let services = by_service(batch.into_iter(), |span| &span.instrumentation_scope);
        let resource_spans = services
            .into_iter()
            .flat_map(|(service, spans)| {
                group_spans_by_resource_and_scope(spans, &self.resources.of(&service))
            })
            .collect();
        self.sender.send(ExportTraceServiceRequest { resource_spans }).await
    }
}

impl fmt::Debug for Spans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Spans")
    }
}

struct LogRecords {
    sender: Sender,
    resources: Resources,
}

impl LogExporter for LogRecords {
    async fn export(&self, batch: LogBatch<'_>) -> OTelSdkResult {
        let services: BTreeMap<_, Vec<(&SdkLogRecord, &InstrumentationScope)>> =
            by_service(batch.iter(), |(_, scope)| scope);
        let resource_logs = services
            .into_iter()
            .flat_map(|(service, records)| {
                group_logs_by_resource_and_scope(&LogBatch::new(&records), &self.resources.of(&service))
            })
            .collect();
        self.sender.send(ExportLogsServiceRequest { resource_logs }).await
    }
}

impl fmt::Debug for LogRecords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogRecords")
    }
}
