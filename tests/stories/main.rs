//! What a user can rely on, told on real processes.

#![expect(clippy::unwrap_used, reason = "a helper of a test that unwraps is a test that fails")]
#![expect(clippy::large_futures, reason = "tests have room for their futures")]

mod access;
mod again;
mod asyncapi;
mod cluster;
mod contention;
mod crash;
mod customers;
mod dead_letters;
mod dev;
mod discovery;
mod drill;
mod edge;
mod gateway;
mod notifications;
mod order;
mod outage;
mod personal;
mod postgres;
mod refusals;
mod replay;
mod saga;
mod schemathesis;
mod subscriptions;
mod trace;
mod undo;
mod users;
mod verify;
