//! commands

mod aggregate;
mod behaviour;
#[cfg(test)]
mod choreography;
mod decision;
mod environment;
mod executor;
#[cfg(test)]
mod fixtures;
pub mod fraud;
mod http;
pub mod inventory;
pub mod orders;
pub mod payments;
mod reactor;
mod refusal;
pub mod shipping;

pub use aggregate::Aggregate;
pub use behaviour::ParseError;
pub use decision::{AnyKey, Decision, Key, Stop};
pub use environment::{BuildError, Environment, WriteSide};
pub use executor::{ExecuteError, Executor, ExecutorMetrics, Receipt};
pub use refusal::Refusal;
