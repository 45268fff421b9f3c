//! # gateway: the edge
//!
//! Where clients come in: knows routes, never orders.
//!
//! - [`ClientAddress`]: who is at the other end, behind proxies that are trusted
//! - [`Limiter`]: so many requests per window and client, counted across all gateways

mod client_address;
mod limit;

pub use client_address::{ClientAddress, ForwardedHeader};
pub use limit::{Decision, LimitKey, LimitMetrics, LimitPolicy, LimitSettings, Limiter, PolicyError};
