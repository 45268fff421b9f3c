//! Live answers over real connections: what clients are told is what the log says, whatever is cut on the way.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![expect(clippy::large_futures, reason = "tests have room for their futures")]

#[path = "../../examples/apply/flows.rs"]
mod flows;

mod access;
mod client;
mod cuts;
mod proxy;
mod rig;
mod seams;
mod socket;
mod stream;
