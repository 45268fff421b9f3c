//! The stories of `stories`, told once more with read models on PostgreSQL: a server for each, on it a database and a role for
//! each service.
//!
//! Told once only, because the database has no part in it:
//! - `backup`, `drill`: the log is copied and put back, and with it read models that are files
//! - `gateway`, `tls`: the way to a service, whatever it answers
//! - `certificates`, `compose`, `postgres`, `restored`, `rolling`: these are on PostgreSQL as they are

#![expect(clippy::unwrap_used, reason = "a helper of a test that unwraps is a test that fails")]

use waybill_tests::ReadModels;

/// Where the read models of every story are.
const READ_MODELS: ReadModels = ReadModels::OnPostgres;

#[path = "../stories"]
mod stories {
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
    mod doctor;
    mod edge;
    mod failure_stories;
    mod followers;
    mod notifications;
    mod operators;
    mod order;
    mod outage;
    mod personal;
    mod rebuild;
    mod refusals;
    mod replay;
    mod saga;
    mod schemathesis;
    mod secured;
    mod subscriptions;
    mod trace;
    mod undo;
    mod users;
    mod verify;
}
