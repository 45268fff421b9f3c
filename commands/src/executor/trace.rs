//! The spans of a command: one from asking to the answer, in it one for each append, whose context its events carry.
//! Nothing of it exists where nothing is exported.

use super::{
    ExecuteError, Job, Receipt,
    plan::{Outcome, Plan},
};
use crate::{AnyKey, decision::Decided};
use events::{Context, Metadata};
use service::telemetry::{Cause, KeyValue, Span, SpanKind, is_tracing, semconv};

/// The spans of a command that is under way.
#[derive(Default)]
pub(super) struct Trace {
    command: Span,
    /// Of the last append; dropped with the command, it ends.
    append: Span,
}

impl Trace {
    /// A command is asked; what it does belongs to its span.
    pub(super) fn start(context: Context, keys: &[AnyKey], metadata: &mut Metadata) -> Self {
        let cause = Cause::Parent(metadata.traceparent.as_deref());
        let command = Span::start(context.token(), SpanKind::Internal, cause, || {
            let mut kinds: Vec<_> = keys.iter().map(|key| key.subject.aggregate().token()).collect();
            kinds.dedup();
            format!("execute {}", kinds.join("+"))
        });
        command.describe(|| [KeyValue::new(semconv::CORRELATION, metadata.correlation.to_string())]);
        if let Some(own) = command.traceparent() {
            metadata.traceparent = Some(own);
        }
        Self { command, append: Span::default() }
    }

    /// The span of the command.
    pub(super) fn command(&self) -> Span {
        self.command.clone()
    }
}

/// What was decided is about to be appended: its events go with the spans of the append. A fact that says that something
/// failed makes its span one that failed.
pub(super) fn appending(context: Context, jobs: &mut [Job], plan: &Plan) {
    if !is_tracing() {
        return;
    }
    for (job, outcome) in jobs.iter_mut().zip(&plan.outcomes) {
        let Outcome::Decided(range) = outcome else { continue };
        let decided = &plan.decided[range.clone()];
        if decided.is_empty() || !job.trace.command.is_recording() {
            continue;
        }
        let command = job.trace.command.traceparent();
        let (stream, count) = (context.stream(), i64::try_from(decided.len()).unwrap_or(i64::MAX));
        let append =
            Span::start(context.token(), SpanKind::Producer, Cause::Parent(command.as_deref()), || {
                format!("publish {stream}")
            });
        append.describe(|| {
            let kinds: Vec<_> = decided.iter().map(|decided| decided.fact.name).collect();
            [
                KeyValue::new(semconv::MESSAGING_SYSTEM, semconv::NATS),
                KeyValue::new(semconv::MESSAGING_DESTINATION, stream),
                KeyValue::new(semconv::MESSAGING_OPERATION, "publish"),
                KeyValue::new(semconv::MESSAGING_OPERATION_TYPE, "send"),
                KeyValue::new(semconv::MESSAGING_COUNT, count),
                KeyValue::new(semconv::EVENT_TYPE, kinds.join(",")),
            ]
        });
        if let Some(why) = decided.iter().find_map(Decided::failure) {
            append.fail(|| why);
        }
        job.metadata.traceparent = append.traceparent();
        job.trace.append = append;
    }
}

/// What became of a command.
pub(super) fn finish(command: &Span, result: &Result<Receipt, ExecuteError>) {
    let outcome = match result {
        Ok(Receipt { replayed: true, .. }) => "replayed",
        Ok(Receipt { events: 0, .. }) => "unchanged",
        Ok(_) => "recorded",
        Err(ExecuteError::Refused(_)) => "refused",
        Err(_) => "failed",
    };
    command.describe(|| [KeyValue::new(semconv::OUTCOME, outcome)]);
    match result {
        Ok(_) => command.succeed(),
        Err(error) => command.fail(|| error.to_string()),
    }
}
