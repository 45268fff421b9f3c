//! Operations: what operators do about messages that a consumer could not handle.

mod dead_letter;
mod http;

pub use dead_letter::{Asked, DeadLetter, DeadLetterCommand, DeadLetterRejection, Open};

use crate::environment::{Build, WriteSide};

/// The write side of operations. Consumers carry out what it records.
pub(crate) fn write_side(build: Build) -> WriteSide {
    let http = http::routes(build.api(), build.parking.clone(), build.connection.clone());
    build.quiet(http)
}
