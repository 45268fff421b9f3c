//! The store, the reader, the consumer and the topology against real nats-servers that are killed, paused and lied to.

#![expect(clippy::unwrap_used, reason = "a test that meets an error has failed")]
#![expect(clippy::large_futures, reason = "tests have room for their futures")]

mod append;
mod away;
mod bucket;
mod consumer;
mod feed;
mod keyring;
mod load;
mod parking;
mod parking_model;
mod quota;
mod reader;
mod registry;
mod restore;
mod rig;
mod timers;
mod topology;
