//! What a user can rely on, told on real processes, with read models on SQLite. `stories_on_postgresql` tells it once more.

#![expect(clippy::unwrap_used, reason = "a helper of a test that unwraps is a test that fails")]

use waybill_tests::ReadModels;

/// Where the read models of every story are.
const READ_MODELS: ReadModels = ReadModels::OnSqlite;

mod access;
mod again;
mod asyncapi;
mod backup;
mod certificates;
mod cluster;
mod compose;
mod contention;
mod crash;
mod customers;
mod dead_letters;
mod dev;
mod discovery;
mod doctor;
mod drill;
mod edge;
mod failure_stories;
mod followers;
mod gateway;
mod notifications;
mod operators;
mod order;
mod outage;
mod personal;
mod postgres;
mod rebuild;
mod refusals;
mod replay;
mod restored;
mod rolling;
mod saga;
mod schemathesis;
mod secured;
mod subscriptions;
mod tls;
mod trace;
mod undo;
mod users;
mod verify;
