//! Log lines that say which request or reaction they belong to.

use super::Scope;
use std::fmt::{self, Write};
use tracing::{Event, Subscriber};
use tracing_subscriber::{
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

/// Adds service, correlation id and trace id of the scope to what `format` writes of an event.
pub(super) struct InScope<F> {
    pub(super) format: F,
    /// Whether `format` writes JSON objects.
    pub(super) json: bool,
}

impl<S, N, F> FormatEvent<S, N> for InScope<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let written = Scope::with(|scope| {
            let mut line = String::with_capacity(512);
            self.format.format_event(context, Writer::new(&mut line), event)?;
            self.complete(&mut line, scope, event);
            writer.write_str(&line)
        });
        written.unwrap_or_else(|| self.format.format_event(context, writer.by_ref(), event))
    }
}

impl<F> InScope<F> {
    fn complete(&self, line: &mut String, scope: &Scope, event: &Event<'_>) {
        let end = if self.json { "}\n" } else { "\n" };
        line.truncate(line.strip_suffix(end).map_or(line.len(), str::len));
        let known = event.metadata().fields();
        let said = [
            ("service", Some(scope.service)),
            ("correlationId", Some(&*scope.correlation)),
            ("traceId", scope.trace_id()),
        ];
        for (name, value) in said {
            // The event may say it itself.
            let Some(value) = value.filter(|_| known.field(name).is_none()) else { continue };
            // Writing into a string cannot fail.
            let _ = if self.json {
                write!(line, ",\"{name}\":{}", serde_json::Value::from(value))
            } else {
                write!(line, " {name}={value}")
            };
        }
        line.push_str(end);
    }
}
