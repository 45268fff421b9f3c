//! # gateway: the edge
//!
//! Where clients come in: knows routes, never orders.
//!
//! - [`Config`], [`Routes`]: one TOML file, validated as a whole, exchanged while requests pass
//! - [`run`]: connections, accepted, guarded against requests that can be read in two ways, and drained
//! - `layers`: what happens to every request, in order, in one function
//! - [`ClientAddress`]: who is at the other end, behind proxies that are trusted
//! - [`Limiter`]: so many requests per window and client, counted across all gateways
//! - [`Upstreams`]: which instance of a service is asked; `proxy`: how, and how often
//! - `access`: one line per request; `openapi`: one document of all services

mod access;
mod client_address;
mod config;
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

pub use client_address::{ClientAddress, ForwardedHeader};
pub use config::{Config, Connections};
pub use gateway::{Gateway, Parts};
pub use limit::{Decision, LimitKey, LimitMetrics, LimitPolicy, LimitSettings, Limiter, PolicyError};
pub use server::run;
pub use table::{Auth, Match, Pattern, Route, Routes};
pub use upstream::{CheckPolicy, EjectionPolicy, Failure, NoUpstream, Pick, UpstreamPolicy, Upstreams};
