//! The contract of the log: what was ever recorded stays readable, and its description is true.
//!
//! - `golden/<type>/<version>.json`: a body as recorded, one per version. Never rewritten.
//! - `schemas/<type>/<version>.json`: JSON Schemas; the newest versions are generated from the types.
//! - `released/<type>/<version>.json`: the schemas as they came onto main, whose promises are kept.
//! - `docs/events.md`: the catalogue for people, generated from the schemas.

// Marked as tests once more, so that clippy knows their helpers for what they are.
#[cfg(test)]
mod catalogue;
#[cfg(test)]
mod files;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod released;
#[cfg(test)]
mod round_trip;
#[cfg(test)]
mod schemas;
