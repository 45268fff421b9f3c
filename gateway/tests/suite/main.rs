//! The gateway as its clients and its services see it: through real sockets.

#![expect(clippy::unwrap_used, reason = "a helper of a test that unwraps is a test that fails")]

mod auth;
mod drain;
mod instances;
mod proxy;
mod reload;
mod rig;
mod smuggling;
mod streams;
