//! The spans of a batch: one for each of its events, in the trace that recorded it, with the times of the batch. Nothing of
//! it exists where nothing is exported.

use super::source::Chunk;
use crate::View;
use service::telemetry::{Cause, KeyValue, Span, SpanKind, is_long_ago, is_tracing, semconv};
use std::time::Duration;

/// A batch is in the tables, `took` after it was begun. What was recorded long ago gets no span: a read model that is
/// built again would repeat every trace there ever was.
pub(super) fn committed(view: &View, batch: &[Chunk], took: Duration) {
    if !is_tracing() {
        return;
    }
    let events: usize = batch.iter().map(|chunk| chunk.events.len()).sum();
    let events = i64::try_from(events).unwrap_or(i64::MAX);
    for recorded in batch.iter().flat_map(|chunk| &chunk.events) {
        let Some(traceparent) = &recorded.envelope.traceparent else { continue };
        if is_long_ago(recorded.stored) {
            continue;
        }
        let (stream, cause) = (recorded.position.context.stream(), Cause::Parent(Some(traceparent)));
        let span =
            Span::started_ago(took, view.name, SpanKind::Consumer, cause, || format!("project {stream}"));
        span.describe(|| {
            [
                KeyValue::new(semconv::MESSAGING_SYSTEM, semconv::NATS),
                KeyValue::new(semconv::MESSAGING_DESTINATION, stream),
                KeyValue::new(semconv::MESSAGING_OPERATION, "project"),
                KeyValue::new(semconv::MESSAGING_OPERATION_TYPE, "process"),
                KeyValue::new(semconv::MESSAGING_ID, recorded.envelope.id.to_string()),
                KeyValue::new(semconv::MESSAGING_COUNT, events),
                KeyValue::new(semconv::EVENT_TYPE, recorded.envelope.kind.to_string()),
                KeyValue::new(semconv::EVENT_SUBJECT, recorded.envelope.subject.to_string()),
                KeyValue::new(semconv::PROJECTION, view.name),
            ]
        });
        span.succeed();
    }
}
