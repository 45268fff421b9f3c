//! commands

mod aggregate;
mod decision;
mod executor;
#[cfg(test)]
mod fixtures;
pub mod orders;
mod refusal;

pub use aggregate::Aggregate;
pub use decision::{AnyKey, Decision, Key, Stop};
pub use executor::{ExecuteError, Executor, ExecutorMetrics, Receipt};
pub use refusal::Refusal;
