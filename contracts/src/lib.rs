//! # contracts: what consumers ask of providers, as Pact files
//!
//! - [`agree`]: a pact as a consumer's test made it, against the file in `pacts/`
//! - [`messages`]: what each service reads of the events of the others
//! - [`Provider`]: a running `waybill dev`; [`States`]: brings it into the states that pacts speak of
//! - [`Log`]: gives the verifier the events that were recorded; [`Spoiled`]: answers in which a field has another name
//! - [`verify`]: holds a provider to the pacts that consumers have with it
//!
//! `cargo build -p waybill` in the workspace, then `cargo test` here; docs/contracts.md says the rest.

mod log;
pub mod messages;
mod pacts;
mod provider;
mod spoiled;
mod states;
mod verification;

pub use log::Log;
pub use pacts::{agree, files, pact_file};
pub use provider::{Answer, Provider};
pub use spoiled::Spoiled;
pub use states::States;
pub use verification::{Ports, verify};
