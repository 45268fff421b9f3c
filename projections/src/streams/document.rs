//! A recorded event as it is shown: by operations, and by `waybill replay --output json`.

use jiff::Timestamp;
use nats::{KeyRing, Message, shown};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

/// A recorded event. What cannot be read of it is missing, and `error` says why.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = RecordedEvent)]
pub struct EventDocument {
    /// The stream that holds it.
    #[schema(value_type = String, example = "ORDERS")]
    stream: &'static str,
    /// Its place there.
    sequence: u64,
    /// When it was stored.
    #[schema(value_type = String, format = DateTime)]
    stored_at: Timestamp,
    /// Its subject in NATS.
    #[schema(example = "evt.orders.order.018f3f5e-0000-7000-8000-000000000001")]
    subject: String,
    /// What it happened to.
    #[schema(example = "order/018f3f5e-0000-7000-8000-000000000001")]
    aggregate: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<Uuid>,
    #[serde(rename = "type")]
    #[schema(example = "order.created")]
    kind: String,
    /// Version of the shape of its data.
    #[serde(skip_serializing_if = "Option::is_none")]
    schema: Option<u32>,
    /// Version of the aggregate after it.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
    /// When it was decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    time: Option<Timestamp>,
    /// Who asked for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "service:orders")]
    actor: Option<String>,
    /// The same for everything that follows from one request.
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation: Option<String>,
    /// The event or command that caused it.
    #[serde(skip_serializing_if = "Option::is_none")]
    causation: Option<Uuid>,
    /// The command that recorded it.
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<Uuid>,
    /// W3C trace context.
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<String>,
    /// Its data as they were recorded. What is personal is shown as `{"redacted": true}`.
    #[schema(value_type = Object)]
    data: Value,
    /// Why it cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl EventDocument {
    /// Of a message. What is personal is opened with `keys`, and hidden without them.
    pub async fn of(message: &Message, keys: Option<&KeyRing>) -> Self {
        let (data, broken) = data(message, keys).await;
        let (envelope, error) = match message.envelope() {
            Ok(envelope) => (Some(envelope), broken),
            Err(error) => (None, Some(error.to_string())),
        };
        let envelope = envelope.as_ref();
        Self {
            stream: message.position.context.stream(),
            sequence: message.position.sequence,
            stored_at: message.stored,
            subject: message.subject.to_string(),
            aggregate: message.subject.name(),
            id: envelope.map(|of| of.id.uuid()),
            kind: message.kind().to_owned(),
            schema: envelope.map(|of| of.schema),
            version: envelope.map(|of| of.version),
            time: envelope.map(|of| of.time),
            actor: envelope.map(|of| of.actor.as_str().to_owned()),
            correlation: envelope.map(|of| of.correlation.to_string()),
            causation: envelope.map(|of| of.causation),
            command: envelope.map(|of| of.command.uuid()),
            traceparent: envelope.and_then(|of| of.traceparent.as_deref().map(str::to_owned)),
            data,
            error,
        }
    }
}

/// The data of a message as they are to be shown; null, and why, where they are no JSON.
async fn data(message: &Message, keys: Option<&KeyRing>) -> (Value, Option<String>) {
    match serde_json::from_slice(message.body()) {
        Ok(data) => (shown(message.kind(), data, keys).await, None),
        // Nothing of the body: it may be personal.
        Err(_) => (Value::Null, Some("the body is no JSON".to_owned())),
    }
}
