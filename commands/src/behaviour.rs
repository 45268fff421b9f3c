//! How the behaviour of a simulated outside world is written: `slow:200ms`.

use service::config::Span;
use std::time::Duration;

/// Why a text is no behaviour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {0}")]
pub struct ParseError(pub(crate) &'static str);

/// The delay in `slow:<duration>`.
pub(crate) fn slow(text: &str) -> Option<Duration> {
    let Span(delay) = text.strip_prefix("slow:")?.parse().ok()?;
    Some(delay)
}
