//! The executor against a real nats-server: many callers, several processes, lost answers, callers that go away.

#![expect(clippy::unwrap_used, reason = "a test that meets an error has failed")]
#![expect(clippy::large_futures, reason = "tests have room for their futures")]

mod cold;
mod groups;
mod races;
mod repeated;
mod rig;
