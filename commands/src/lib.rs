//! commands

mod aggregate;
mod decision;
mod refusal;

pub use aggregate::Aggregate;
pub use decision::{AnyKey, Decision, Key};
pub use refusal::Refusal;
