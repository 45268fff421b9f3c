//! # nats: how it is kept
//!
//! The only crate that knows NATS. Steps 3 (append), 4 (stream) and the delivery of 5 (react) and 6 (project).
//!
//! - [`server`]: finds, fetches, starts and supervises a nats-server
//! - [`Connection`], [`topology`]: a connection; streams and buckets as data, ensured at start
//! - [`EventStore`]: append and load, every outcome told apart; `committer` shares one fsync among many appends
//! - `timers`: facts that the server records when their time has come, armed and cancelled with the facts they belong to
//! - [`Reader`]: bounded or following reads of one stream; [`Consumer`]: durable, supervised reactions
//! - [`Parking`]: what consumers could not handle, and what waits behind it
//! - [`ReadModels`]: how read models stand, and what operators ask of them
//! - [`Bucket`]: values under keys, changed by compare-and-set and watched
//! - [`KeyRing`], [`MasterKey`]: the keys of personal data, and what destroys them
//! - [`Quota`]: how many of something are left in a window, shared among processes
//! - [`Ledger`]: what became of a client's idempotency key
//! - [`ChangeFeed`]: changed rows of read models, for whoever follows them
//! - [`Registration`], [`Registry`]: instances of services, kept known by heartbeats
//! - [`baseline`]: what the wire alone costs, for measurements

pub mod baseline;
mod bucket;
mod committer;
mod connection;
mod consumer;
mod feed;
mod keyring;
mod ledger;
mod load;
mod message;
mod metrics;
mod parking;
mod publish;
mod quota;
mod read_models;
mod registry;
mod replay;
pub mod server;
mod snapshot;
mod store;
mod timers;
pub mod topology;

pub use bucket::{Bucket, BucketConfig, BucketError, Change, Kept};
pub use connection::{ConnectError, Connection};
pub use consumer::{
    Consumer, ConsumerError, ConsumerMetrics, Handler, Manner, Policies, Policy, PolicyError, Retry,
};
pub use feed::{ChangeFeed, FeedError, FeedHead, FeedNews, FeedOptions, FeedRow, FeedTail, Told};
pub use keyring::{KeyError, KeyRing, KeyRingError, MasterKey, MasterKeyError, UnwrapError, nonce};
pub use ledger::{Claim, Ledger, LedgerError, Outcome, Ticket};
pub use load::{History, LoadError, Tail};
pub use message::{Message, MessageError, Recorded};
pub use metrics::StoreMetrics;
pub use parking::{Asked, DeadLetter, Parking, ParkingError};
pub use publish::{AppendError, Appended, Write};
pub use quota::{Ask, Known, Lease, Quota, QuotaKey, QuotaTerms, Recall, Recalls};
pub use read_models::{Build, Generation, ReadModel, ReadModels, ReadModelsError, Refused, Requests, State};
pub use registry::{Instance, InstanceId, Registration, Registry, RegistryOptions};
pub use replay::{Filter, From, Reader, ReplayError, Until, last_sequence};
pub use snapshot::Snapshot;
pub use store::{Durability, EventStore, StoreOptions};
pub use topology::TopologyError;
