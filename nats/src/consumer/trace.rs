//! The span of a reaction, and what its log lines belong to.

use super::{Consumer, Retry};
use crate::Recorded;
use service::telemetry::{Cause, KeyValue, Scope, Span, SpanKind, semconv};
use std::sync::Arc;

/// Begins to react to an event. What comes of it belongs to the span of the reaction: the event's trace context becomes
/// that of the span.
pub(super) fn scope(consumer: &Consumer, recorded: &mut Recorded) -> Scope {
    let stream = consumer.context.stream();
    let cause = Cause::event(recorded.envelope.traceparent.as_deref(), recorded.stored);
    let span = Span::start(consumer.service, SpanKind::Consumer, cause, || format!("process {stream}"));
    span.describe(|| {
        [
            KeyValue::new(semconv::MESSAGING_SYSTEM, semconv::NATS),
            KeyValue::new(semconv::MESSAGING_DESTINATION, stream),
            KeyValue::new(semconv::MESSAGING_OPERATION, "process"),
            KeyValue::new(semconv::MESSAGING_OPERATION_TYPE, "process"),
            KeyValue::new(semconv::MESSAGING_CONSUMER, consumer.durable.clone()),
            KeyValue::new(semconv::MESSAGING_ID, recorded.envelope.id.to_string()),
            KeyValue::new(semconv::EVENT_TYPE, recorded.envelope.kind.to_string()),
            KeyValue::new(semconv::EVENT_SUBJECT, recorded.envelope.subject.to_string()),
            KeyValue::new(semconv::CORRELATION, recorded.envelope.correlation.to_string()),
        ]
    });
    if let Some(own) = span.traceparent() {
        recorded.envelope.traceparent = Some(own);
    }
    Scope {
        service: consumer.service,
        correlation: Arc::from(recorded.envelope.correlation.clone()),
        traceparent: recorded.envelope.traceparent.clone(),
        span,
    }
}

/// What became of it.
pub(super) fn finish(span: &Span, result: &Result<&'static str, Retry>) {
    match result {
        Ok(outcome) => {
            span.describe(|| [KeyValue::new(semconv::OUTCOME, *outcome)]);
            span.succeed();
        }
        Err(retry) => span.fail(|| retry.to_string()),
    }
    span.end();
}
