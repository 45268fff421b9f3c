//! # commands: the write side
//!
//! Steps 1 (command), 2 (decide), 3 (append) and the deciding half of 5 (react). It meets `projections` in the stream only.
//!
//! - [`Aggregate`]: pure decide and evolve; [`Decision`]: one decision over several aggregates; [`Refusal`]: why not
//! - [`Executor`]: the only write path: lanes, cache, append, again on conflict
//! - one folder per context: [`orders`], [`inventory`], [`payments`], [`shipping`], [`notifications`], [`users`], each with a file per aggregate,
//!   `react` (fact to effect, pure), `reactor` (carries effects out) and `http` (its endpoints); and [`fraud`]
//! - [`fulfilment`]: the saga, which asks each service in turn, and holds that expire
//! - [`ops`]: what operators do about messages that a consumer could not handle
//! - `http`, `address`: what the endpoints share, with idempotency keys; `reactor`: what the reactors share
//! - [`reactions`]: every durable consumer, as data
//! - [`WriteSide`], [`Environment`]: the front door: one service's endpoints and reactions, put together
//! - `choreography`: tests of all contexts together, in any order, with repetitions and deaths

mod address;
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
pub mod fulfilment;
mod http;
pub mod inventory;
pub mod notifications;
pub mod ops;
pub mod orders;
pub mod payments;
pub mod reactions;
mod reactor;
mod refusal;
pub mod shipping;
pub mod users;

pub use aggregate::Aggregate;
pub use behaviour::ParseError;
pub use decision::{AnyKey, Decision, Key, Stop};
pub use environment::{BuildError, Environment, WriteSide};
pub use executor::{ExecuteError, Executor, ExecutorMetrics, Receipt};
pub use refusal::Refusal;
