//! Spans: what took how long, and because of what. Nothing, at the cost of one atomic load, where nothing is exported.

use crate::Clock;
use jiff::{SignedDuration, Timestamp};
use opentelemetry::{
    Context,
    trace::{
        Link, SpanBuilder, SpanContext, SpanId, Status, TraceContextExt, TraceFlags, TraceId, TraceState,
        Tracer, TracerProvider,
    },
};
pub use opentelemetry::{KeyValue, trace::SpanKind};
use opentelemetry_sdk::trace::SdkTracerProvider;
use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

/// Set once, when the process starts to export.
static PROVIDER: OnceLock<SdkTracerProvider> = OnceLock::new();

/// How old an event may be when it is worked on, to belong to the trace it was recorded in. A trace that goes on for
/// hours is one that nobody can read.
const SAME_TRACE: SignedDuration = SignedDuration::from_mins(1);

/// A span that is under way; nothing where nothing is exported. Clones are the same span, which ends with the last one
/// of them at the latest.
#[derive(Clone, Default)]
pub struct Span(Option<Context>);

/// Because of what a span is there: a W3C `traceparent`, if any is known.
#[derive(Clone, Copy, Debug)]
pub enum Cause<'a> {
    /// It goes on with this trace.
    Parent(Option<&'a str>),
    /// It begins a trace and points to this one.
    Link(Option<&'a str>),
}

impl<'a> Cause<'a> {
    /// An event that was recorded at this time: its trace goes on, unless it was long ago.
    pub fn event(traceparent: Option<&'a str>, recorded: Timestamp) -> Self {
        if is_long_ago(recorded) { Self::Link(traceparent) } else { Self::Parent(traceparent) }
    }
}

/// Whether what was recorded at this time is too old for its trace to go on.
pub fn is_long_ago(recorded: Timestamp) -> bool {
    Clock::system().now().duration_since(recorded) > SAME_TRACE
}

/// Whether spans are exported at all.
pub fn is_tracing() -> bool {
    PROVIDER.get().is_some()
}

pub(super) fn set_provider(provider: SdkTracerProvider) {
    // There is one log of the process, and so one set-up.
    let _ = PROVIDER.set(provider);
}

impl Span {
    /// Begins a span of a service. The name is only asked for when it is needed.
    pub fn start(
        service: &'static str,
        kind: SpanKind,
        cause: Cause<'_>,
        name: impl FnOnce() -> String,
    ) -> Self {
        match PROVIDER.get() {
            Some(provider) => Self::begin(provider, service, kind, cause, Duration::ZERO, name()),
            None => Self(None),
        }
    }

    /// A span that has been under way for some time.
    pub fn started_ago(
        ago: Duration,
        service: &'static str,
        kind: SpanKind,
        cause: Cause<'_>,
        name: impl FnOnce() -> String,
    ) -> Self {
        match PROVIDER.get() {
            Some(provider) => Self::begin(provider, service, kind, cause, ago, name()),
            None => Self(None),
        }
    }

    fn begin(
        provider: &SdkTracerProvider,
        service: &'static str,
        kind: SpanKind,
        cause: Cause<'_>,
        ago: Duration,
        name: String,
    ) -> Self {
        let now = opentelemetry::time::now();
        let mut builder = SpanBuilder::from_name(name).with_kind(kind);
        builder.start_time = Some(now.checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH));
        let mut parent = Context::new();
        match cause {
            Cause::Parent(of) => {
                if let Some(of) = of.and_then(remote) {
                    parent = parent.with_remote_span_context(of);
                }
            }
            Cause::Link(to) => builder.links = to.and_then(remote).map(|to| vec![Link::new(to, vec![], 0)]),
        }
        // The name of the scope is that of the service: the exporter makes its resource of it.
        let span = Context::new().with_span(provider.tracer(service).build_with_context(builder, &parent));
        // After the end of the export spans are empty.
        Self(span.span().span_context().is_valid().then_some(span))
    }

    /// Whether it will be exported: not where it is nothing, nor where the sampler left its trace out.
    pub fn is_recording(&self) -> bool {
        self.0.as_ref().is_some_and(|context| context.span().is_recording())
    }

    /// Says more about it. The attributes are only asked for when they are needed.
    pub fn describe<const N: usize>(&self, attributes: impl FnOnce() -> [KeyValue; N]) {
        if let Some(context) = self.0.as_ref().filter(|context| context.span().is_recording()) {
            context.span().set_attributes(attributes());
        }
    }

    /// Names it anew, once more is known of what it is.
    pub fn rename(&self, name: impl FnOnce() -> String) {
        if let Some(context) = self.0.as_ref().filter(|context| context.span().is_recording()) {
            context.span().update_name(name());
        }
    }

    /// It went well.
    pub fn succeed(&self) {
        if let Some(context) = &self.0 {
            context.span().set_status(Status::Ok);
        }
    }

    /// It failed; the message says why, without secrets and personal data.
    pub fn fail(&self, why: impl FnOnce() -> String) {
        if let Some(context) = &self.0 {
            context.span().set_status(Status::error(why()));
        }
    }

    /// Ends it now, whoever else has it.
    pub fn end(&self) {
        if let Some(context) = &self.0 {
            context.span().end();
        }
    }

    /// Its W3C trace context, for those who work because of it.
    pub fn traceparent(&self) -> Option<Arc<str>> {
        let context = self.0.as_ref()?;
        let span = context.span();
        let of = span.span_context();
        let flags = of.trace_flags().to_u8();
        Some(format!("00-{}-{}-{flags:02x}", of.trace_id(), of.span_id()).into())
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Span({})", self.traceparent().as_deref().unwrap_or("nothing"))
    }
}

/// `00-<32 hex>-<16 hex>-<2 hex>` in lower case, with neither id all zeros.
pub(crate) fn is_traceparent(text: &str) -> bool {
    let hex = |part: &str, length| {
        part.len() == length && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let id = |part: &str, length| hex(part, length) && part.bytes().any(|b| b != b'0');
    let mut parts = text.split('-');
    let mut next = || parts.next().unwrap_or_default();
    next() == "00" && id(next(), 32) && id(next(), 16) && hex(next(), 2) && parts.next().is_none()
}

/// The span that a `traceparent` names.
pub(super) fn remote(traceparent: &str) -> Option<SpanContext> {
    let mut parts = Some(traceparent).filter(|text| is_traceparent(text))?.split('-').skip(1);
    let trace = TraceId::from_hex(parts.next()?).ok()?;
    let span = SpanId::from_hex(parts.next()?).ok()?;
    let flags = TraceFlags::new(u8::from_str_radix(parts.next()?, 16).ok()?);
    Some(SpanContext::new(trace, span, flags, true, TraceState::NONE))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_span_is_nothing_where_nothing_is_exported() {
        let span = Span::start("orders", SpanKind::Internal, Cause::Parent(Some(TRACE)), || unreachable!());
        span.describe::<0>(|| unreachable!());
        span.fail(|| unreachable!());
        assert_eq!((span.traceparent(), span.is_recording(), is_tracing()), (None, false, false));
    }

    #[test]
    fn a_trace_context_is_read_as_it_is_written() {
        let context = remote(TRACE).unwrap();
        assert_eq!(context.trace_id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(context.span_id().to_string(), "00f067aa0ba902b7");
        assert!(context.is_sampled() && context.is_remote());
        assert!(remote("00-0-0-01").is_none() && remote(&TRACE.to_uppercase()).is_none());
    }

    #[test]
    fn an_old_event_is_pointed_to_and_not_gone_on_with() {
        let now = Clock::system().now();
        assert!(matches!(Cause::event(Some(TRACE), now), Cause::Parent(Some(TRACE))));
        let long_ago = now - SignedDuration::from_mins(2);
        assert!(matches!(Cause::event(Some(TRACE), long_ago), Cause::Link(Some(TRACE))));
    }
}
