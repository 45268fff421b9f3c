//! # The harness of the end-to-end tests
//!
//! - [`World`]: a nats-server and services in this process, started with the function that `waybill` uses
//! - [`Front`]: the gateway in front of a world
//! - [`Process`]: the real `waybill dev`, to be killed; [`Serve`]: single services; [`run`]: any other command; [`Trap`]: a
//!   place where one of them dies
//! - [`Subscriber`], [`request`]: a NATS client of its own, which shares no code with what it observes; [`Intruder`]: one with
//!   a key that he should not have
//! - [`Collector`]: receives what is exported over OTLP; [`Gate`]: TLS in front of such a one; [`MailServer`], [`Receiver`]: receive notifications
//! - [`ReadModels`]: which database a story is told on; [`Cluster`]: a PostgreSQL server; [`Compose`]: all that
//!   `docker-compose.yml` starts
//! - [`installed`], [`python`], [`node`]: packages of Python and of Node; [`yaml`]
//! - [`eventually`]: waiting for a condition, with a deadline; [`settled`]: waiting until all that must hold does
//!
//! Everything runs in temporary folders on ports that the system gives, and ends with the test.
//!
//! [`Process`] runs the executable that lies beside the tests in `target/<profile>/`. `cargo test --workspace` builds it,
//! because the crate `waybill` has an integration test, for which cargo builds its executables. Whoever runs these tests
//! alone builds it first: `cargo build -p waybill && cargo test -p waybill-tests`.

mod collector;
mod compose;
mod front;
mod gate;
mod intruder;
mod mail;
mod node;
mod postgres;
mod process;
mod python;
mod read_models;
mod receiver;
mod serve;
mod subscriber;
mod trap;
mod wait;
mod world;
pub mod yaml;

use projections::database::Cluster as Started;

pub use collector::{CollectedLog, CollectedSpan, Collector};
pub use compose::Compose;
pub use front::Front;
pub use gate::Gate;
pub use intruder::{Intruder, Refusal};
pub use mail::{MailServer, Received as ReceivedMail};
pub use node::node;
pub use postgres::Cluster;
pub use process::{Process, run};
pub use python::{installed, python};
pub use read_models::{Kept, ReadModels};
pub use receiver::{Behaviour as ReceiverBehaviour, Receiver, Request as ReceivedRequest};
pub use serve::Serve;
pub use subscriber::{Received, Subscriber, request};
pub use trap::{Trap, Verdict};
pub use wait::eventually;
pub use world::{World, settled, told};
