//! # events: what happened
//!
//! The vocabulary every other crate speaks. Pure: no I/O, no clock, no async runtime.
//!
//! - [`ids`], [`sku`], [`money`], [`personal`]: values that cannot be built wrong
//! - [`subject`], [`feed`]: contexts, streams and subjects, spelled once
//! - [`envelope`]: CloudEvents 1.0 attributes carried in message headers
//! - [`fact`]: the catalogue of every fact, encoding, decoding; [`upcast`]: old versions made new; [`schema`]: their shapes
//! - one file of facts per context: [`orders`], [`inventory`], [`payments`], [`fraud`], [`shipping`],
//!   [`notifications`], [`users`], [`fulfilment`], [`ops`]

pub mod envelope;
pub mod fact;
pub mod feed;
pub mod fraud;
pub mod fulfilment;
pub mod ids;
pub mod inventory;
pub mod money;
pub mod notifications;
pub mod ops;
pub mod orders;
pub mod payments;
pub mod personal;
pub mod schema;
pub mod shipping;
pub mod sku;
pub mod subject;
mod text;
pub mod upcast;
pub mod users;

pub use envelope::{Actor, CorrelationId, Envelope, Metadata};
pub use fact::{DecodeError, DomainEvent, Fact, FactType};
pub use ids::{AccountId, CommandId, DeadLetterId, EventId, OrderId, UserId};
pub use money::{Currency, Money, MoneyError};
pub use personal::{Address, DataKey, OpenError, Personal};
pub use sku::{Sku, SkuError};
pub use subject::{Aggregate, Context, Position, Subject};
