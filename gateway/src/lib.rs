//! # gateway: the edge
//!
//! Where clients come in: knows routes, never orders.
//!
//! - [`Config`], [`Routes`]: one TOML file, validated as a whole, exchanged while requests pass
//! - [`run`]: connections, accepted, guarded against requests that can be read in two ways, and drained
//! - `layers`: what happens to every request, in order, in one function
//! - [`limit`], [`client_address`]: how often one client may ask, and which client it is
//! - [`upstream`]: which instance of a service is asked; `proxy`: how, and how often
//! - `access`: one line per request; `openapi`: one document of all services

mod access;
mod config;
mod cors;
mod gateway;
mod guard;
mod layers;
mod metrics;
mod openapi;
mod path;
mod proxy;
mod reload;
mod section;
mod server;
mod table;

pub mod client_address;
pub mod limit;
pub mod upstream;

pub use config::{Config, Connections};
pub use gateway::{Gateway, Parts};
pub use openapi::merge;
pub use server::run;
pub use table::{Auth, Match, Pattern, Route, Routes};
