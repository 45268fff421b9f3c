//! The log itself, for operators: what the streams hold, event by event, and what caused what. Personal data are never
//! shown here: to open them takes the master key, and `waybill replay --reveal`.

mod chain;
mod document;
mod queries;

pub use document::EventDocument;
pub(crate) use queries::away;

use utoipa_axum::router::OpenApiRouter;

/// Answers questions about the streams.
#[derive(Clone, Debug)]
pub struct Streams {
    connection: nats::Connection,
}

impl Streams {
    /// Reads through `connection`.
    pub const fn new(connection: nats::Connection) -> Self {
        Self { connection }
    }

    /// The queries, documented.
    pub fn router(&self) -> OpenApiRouter {
        queries::routes().with_state(self.clone())
    }
}
