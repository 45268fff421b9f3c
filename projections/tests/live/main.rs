//! Live answers over real connections: what clients are told is what the log says, whatever is cut on the way.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![expect(clippy::large_futures, reason = "tests have room for their futures")]

#[path = "../../examples/apply/flows.rs"]
mod flows;
#[expect(unreachable_pub, dead_code, reason = "shared with the end-to-end tests, which use all of it")]
#[path = "../../../tests/src/postgres.rs"]
mod postgres;
#[path = "../../src/testing/streams.rs"]
mod streams;

mod access;
mod client;
mod cuts;
mod on_postgres;
mod proxy;
mod rebuilt;
mod rig;
mod seams;
mod socket;
mod stream;

use projections::database::Cluster as Started;
