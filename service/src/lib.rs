//! # service: what makes a process
//!
//! What every Waybill process needs whatever it does: it knows neither events nor NATS.
//!
//! - [`Clock`]: the only source of time and of new identifiers
//! - [`Problem`]: every error of every API, as problem+json; [`extract`]: request parts, read strictly
//! - [`auth`]: who sends a request, by access token; [`origin`]: from where
//! - [`http`]: the layers around every route, and serving with a drain
//! - [`client`], [`breaker`]: calls of other services, and when to stop calling; [`tls`]: who both sides are
//! - [`Metrics`], [`Probes`]: `/metrics`, `/health`, `/ready`
//! - [`Shutdown`], [`signal`]: stopping in phases; [`telemetry`]: logs; [`config`]: settings and their faults

pub mod auth;
pub mod breaker;
pub mod client;
pub mod config;
pub mod extract;
pub mod http;
pub mod origin;
pub mod telemetry;
pub mod tls;

mod clock;
mod crash;
mod metrics;
mod probes;
mod problem;
mod shutdown;

pub use self::http::{Correlation, TraceParent};
pub use clock::Clock;
pub use crash::crash_point;
pub use metrics::Metrics;
pub use probes::{Check, Probes};
pub use problem::{FieldError, Problem};
pub use shutdown::{Shutdown, signal};
