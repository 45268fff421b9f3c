//! Operations: what operators do about messages that a consumer could not handle, and about read models.

mod dead_letter;
mod http;
mod projection;
mod projections;

pub use dead_letter::{Asked, DeadLetter, DeadLetterCommand, DeadLetterRejection, Open};
pub use projection::{Projection, ProjectionCommand};

use crate::environment::{Build, BuildError, WriteSide};
use nats::ReadModels;

/// The write side of operations. Consumers and projectors carry out what it records.
pub(crate) async fn write_side(build: Build) -> Result<WriteSide, BuildError> {
    let (store, clock) = (build.executor.store().clone(), build.clock.clone());
    let models = ReadModels::open(&build.connection, store, clock, build.replicas).await?;
    let http = http::routes(build.api(), build.parking.clone(), build.connection.clone());
    let http = http.merge(projections::routes(build.api(), models));
    Ok(build.quiet(http))
}
