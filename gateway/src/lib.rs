//! # gateway: the edge
//!
//! Where clients come in: knows routes, never orders.
//!
//! - [`Config`], [`Routes`]: one TOML file, validated as a whole, exchanged while requests pass
//! - [`run`]: connections, accepted, guarded against requests that can be read in two ways, and drained
//! - `layers`: what happens to every request, in order, in one function
//! - `client_address`: who is at the other end, behind proxies that are trusted
//! - [`Limiter`]: so many requests per window and client, counted across all gateways
//! - [`Upstreams`]: which instance of a service is asked; `proxy`: how, and how often; `connect`: with TLS or without
//! - `access`: one line per request; `openapi`: one document of all services

mod access;
mod client_address;
mod config;
mod connect;
mod cors;
mod gateway;
mod guard;
mod layers;
mod limit;
mod metrics;
mod openapi;
mod path;
mod patience;
mod proxy;
mod reload;
mod section;
mod server;
mod table;
mod upstream;

pub use config::Config;
pub use connect::Dialer;
pub use gateway::{Gateway, Parts};
pub use limit::{LimitKey, LimitMetrics, LimitPolicy, LimitSettings, Limiter};
pub use reload::Reload;
pub use server::run;
pub use table::{Auth, Match, Route, Routes};
pub use upstream::{Failure, Pick, UpstreamPolicy, Upstreams};
