//! commands

mod aggregate;
mod decision;
#[cfg(test)]
mod fixtures;
pub mod inventory;
pub mod orders;
mod refusal;

pub use aggregate::Aggregate;
pub use decision::{AnyKey, Decision, Key, Stop};
pub use refusal::Refusal;
