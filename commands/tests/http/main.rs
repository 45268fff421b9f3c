//! The HTTP command API over a real nats-server, as a client sees it. One server per test, each with a few stories.

mod answers;
mod documentation;
mod faults;
mod idempotency;
mod outage;
mod shop;
