//! An OpenTelemetry collector that only remembers, over HTTP or gRPC.

use axum::{Router, body::Bytes, extract::State, http::StatusCode, routing::post};
use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::{
            ExportLogsServiceRequest, ExportLogsServiceResponse,
            logs_service_server::{LogsService, LogsServiceServer},
        },
        metrics::v1::{
            ExportMetricsServiceRequest, ExportMetricsServiceResponse,
            metrics_service_server::{MetricsService, MetricsServiceServer},
        },
        trace::v1::{
            ExportTraceServiceRequest, ExportTraceServiceResponse,
            trace_service_server::{TraceService, TraceServiceServer},
        },
    },
    common::v1::{AnyValue, KeyValue, any_value},
    resource::v1::Resource,
    trace::v1::{self, status::StatusCode as SpanStatus},
};
use prost::Message;
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::{net::TcpListener, task::JoinHandle};
use tonic::{
    Request, Response, Status,
    transport::{Server, server::TcpIncoming},
};

type Attributes = BTreeMap<String, String>;

/// A span as it was received.
#[derive(Clone, Debug)]
pub struct CollectedSpan {
    /// `service.name` of its resource.
    pub service: String,
    /// Its name.
    pub name: String,
    /// Its trace, in hex.
    pub trace: String,
    /// Its id, in hex.
    pub id: String,
    /// The id of its parent, in the same trace; empty without one.
    pub parent: String,
    /// Traces and spans that it points to.
    pub links: Vec<(String, String)>,
    /// What is said of it, numbers as text.
    pub attributes: Attributes,
    /// Whether its status is OK or ERROR, and the message; `None` where it is not set.
    pub status: Option<Result<(), String>>,
}

/// A log record as it was received.
#[derive(Clone, Debug)]
pub struct CollectedLog {
    /// `service.name` of its resource.
    pub service: String,
    /// The message.
    pub body: String,
    /// The trace it belongs to, in hex; empty without one.
    pub trace: String,
    /// What else it says.
    pub attributes: Attributes,
}

#[derive(Default)]
struct Received {
    spans: Vec<CollectedSpan>,
    logs: Vec<CollectedLog>,
    /// Services and names.
    metrics: BTreeSet<(String, String)>,
}

/// Listens until it is dropped.
pub struct Collector {
    /// Where it listens.
    pub url: String,
    memory: Memory,
    task: JoinHandle<()>,
}

#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Received>>);

impl Collector {
    /// OTLP over HTTP, in binary protobuf.
    pub async fn http() -> io::Result<Self> {
        let memory = Memory::default();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let router = Router::new()
            .route(
                "/v1/traces",
                post(async |State(memory), body| accept(body, |sent| Memory::traces(&memory, sent))),
            )
            .route(
                "/v1/logs",
                post(async |State(memory), body| accept(body, |sent| Memory::logs(&memory, sent))),
            )
            .route(
                "/v1/metrics",
                post(async |State(memory), body| accept(body, |sent| Memory::metrics(&memory, sent))),
            )
            .with_state(memory.clone());
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap_or_default() });
        Ok(Self { url, memory, task })
    }

    /// OTLP over gRPC.
    pub fn grpc() -> io::Result<Self> {
        let memory = Memory::default();
        let incoming = TcpIncoming::bind(([127, 0, 0, 1], 0).into())?;
        let url = format!("http://{}", incoming.local_addr()?);
        let server = Server::builder()
            .add_service(TraceServiceServer::new(memory.clone()))
            .add_service(LogsServiceServer::new(memory.clone()))
            .add_service(MetricsServiceServer::new(memory.clone()))
            .serve_with_incoming(incoming);
        let task = tokio::spawn(async move { server.await.unwrap_or_default() });
        Ok(Self { url, memory, task })
    }

    /// The spans received so far.
    pub fn spans(&self) -> Vec<CollectedSpan> {
        self.memory.lock().spans.clone()
    }

    /// The log records received so far.
    pub fn logs(&self) -> Vec<CollectedLog> {
        self.memory.lock().logs.clone()
    }

    /// The metrics received so far, each as its service and its name.
    pub fn metrics(&self) -> BTreeSet<(String, String)> {
        self.memory.lock().metrics.clone()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Reads a body as the protocol has it.
fn accept<T: Message + Default>(body: Bytes, remember: impl FnOnce(T)) -> StatusCode {
    match T::decode(body) {
        Ok(sent) => {
            remember(sent);
            StatusCode::OK
        }
        Err(_) => StatusCode::BAD_REQUEST,
    }
}

impl Memory {
    fn lock(&self) -> MutexGuard<'_, Received> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn traces(&self, sent: ExportTraceServiceRequest) {
        for of in sent.resource_spans {
            let service = service(of.resource.as_ref());
            let spans = of.scope_spans.into_iter().flat_map(|scope| scope.spans);
            self.lock().spans.extend(spans.map(|span| collected(&service, span)));
        }
    }

    fn logs(&self, sent: ExportLogsServiceRequest) {
        for of in sent.resource_logs {
            let service = service(of.resource.as_ref());
            let records = of.scope_logs.into_iter().flat_map(|scope| scope.log_records);
            self.lock().logs.extend(records.map(|record| CollectedLog {
                service: service.clone(),
                body: record.body.as_ref().map(text).unwrap_or_default(),
                trace: hex(&record.trace_id),
                attributes: attributes(&record.attributes),
            }));
        }
    }

    fn metrics(&self, sent: ExportMetricsServiceRequest) {
        for of in sent.resource_metrics {
            let service = service(of.resource.as_ref());
            let metrics = of.scope_metrics.into_iter().flat_map(|scope| scope.metrics);
            self.lock().metrics.extend(metrics.map(|metric| (service.clone(), metric.name)));
        }
    }
}

fn collected(service: &str, span: v1::Span) -> CollectedSpan {
    let status = span.status.unwrap_or_default();
    CollectedSpan {
        service: service.to_owned(),
        name: span.name,
        trace: hex(&span.trace_id),
        id: hex(&span.span_id),
        parent: hex(&span.parent_span_id),
        links: span.links.iter().map(|link| (hex(&link.trace_id), hex(&link.span_id))).collect(),
        attributes: attributes(&span.attributes),
        status: match SpanStatus::try_from(status.code) {
            Ok(SpanStatus::Ok) => Some(Ok(())),
            Ok(SpanStatus::Error) => Some(Err(status.message)),
            _ => None,
        },
    }
}

fn service(resource: Option<&Resource>) -> String {
    let attributes = resource.map(|resource| attributes(&resource.attributes)).unwrap_or_default();
    attributes.get("service.name").cloned().unwrap_or_default()
}

fn attributes(attributes: &[KeyValue]) -> Attributes {
    let one = |of: &KeyValue| (of.key.clone(), of.value.as_ref().map(text).unwrap_or_default());
    attributes.iter().map(one).collect()
}

fn text(value: &AnyValue) -> String {
    match &value.value {
        Some(any_value::Value::StringValue(text)) => text.clone(),
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        Some(any_value::Value::DoubleValue(number)) => number.to_string(),
        Some(any_value::Value::BoolValue(yes)) => yes.to_string(),
        other => format!("{other:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
}

#[tonic::async_trait]
impl TraceService for Memory {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.traces(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl LogsService for Memory {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        Self::logs(self, request.into_inner());
        Ok(Response::new(ExportLogsServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Memory {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        Self::metrics(self, request.into_inner());
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}
