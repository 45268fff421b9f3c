//! Logs: structured, to standard error.

use std::{io::IsTerminal, panic, str::FromStr};
use tracing_subscriber::{EnvFilter, filter, layer::SubscriberExt, util::SubscriberInitExt};

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
    /// Something else has taken the log of this process.
    #[error("logging is already set up")]
    Taken(#[from] tracing_subscriber::util::TryInitError),
}

/// Sends the log of this process to standard error, as far as `filter` lets through (`info,http=warn`), and panics into
/// the log.
pub fn init(format: LogFormat, filter: &str) -> Result<(), TelemetryError> {
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let registry = tracing_subscriber::registry().with(EnvFilter::try_new(filter)?);
    match format {
        LogFormat::Json => {
            registry.with(layer.json().flatten_event(true).with_span_list(false)).try_init()?;
        }
        LogFormat::Pretty => {
            registry.with(layer.with_ansi(std::io::stderr().is_terminal())).try_init()?;
        }
    }
    panic::set_hook(Box::new(|panic| {
        let location = panic.location().map(ToString::to_string).unwrap_or_default();
        let backtrace = std::backtrace::Backtrace::capture();
        tracing::error!(location, %backtrace, "panic: {}", panic.payload_as_str().unwrap_or("(no text)"));
    }));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_a_filter_that_does_not_parse() {
        assert!(matches!(init(LogFormat::Json, "http=loudly"), Err(TelemetryError::Filter(_))));
    }
}
