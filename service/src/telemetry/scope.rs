//! What the work under way belongs to: kept beside the task, so that every log line can say it.

use super::Span;
use std::sync::Arc;
use tokio::task::{JoinHandle, futures::TaskLocalFuture};

/// The request or reaction that is being worked on. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Scope {
    /// The service that works.
    pub service: &'static str,
    /// Joins everything that one request caused.
    pub correlation: Arc<str>,
    /// W3C trace context to pass on: of the span, or of whoever asked where nothing is exported.
    pub traceparent: Option<Arc<str>>,
    /// The span of the work; none where nothing is exported.
    pub span: Span,
}

tokio::task_local! {
    static CURRENT: Scope;
}

impl Scope {
    /// The scope of this task, if it is in one. Tasks that it starts are in it only by [`spawn`].
    pub fn current() -> Option<Self> {
        CURRENT.try_with(Self::clone).ok()
    }

    /// Works in this scope.
    pub fn run<F: Future>(self, work: F) -> TaskLocalFuture<Self, F> {
        CURRENT.scope(self, work)
    }

    /// The same for work that does not wait.
    pub fn enter<T>(self, work: impl FnOnce() -> T) -> T {
        CURRENT.sync_scope(self, work)
    }

    /// Looks at the scope of this task without a copy.
    pub(super) fn with<T>(look: impl FnOnce(&Self) -> T) -> Option<T> {
        CURRENT.try_with(look).ok()
    }

    /// The trace, as 32 hex digits.
    pub fn trace_id(&self) -> Option<&str> {
        self.traceparent.as_deref()?.get(3..35)
    }
}

/// Starts a task that works in the scope of this one.
pub fn spawn<F>(work: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    match Scope::current() {
        Some(scope) => tokio::spawn(scope.run(work)),
        None => tokio::spawn(work),
    }
}

/// The span of this task; none where it is in no scope or nothing is exported.
pub fn current_span() -> Span {
    Scope::with(|scope| scope.span.clone()).unwrap_or_default()
}
