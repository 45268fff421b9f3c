//! The HTTP command API over a real nats-server, as a client sees it. One server per test, each with a few stories.

#![expect(clippy::unwrap_used, reason = "a helper of a test that unwraps is a test that fails")]

mod answers;
mod asking;
mod documentation;
mod faults;
mod idempotency;
mod outage;
mod shop;
mod users;
