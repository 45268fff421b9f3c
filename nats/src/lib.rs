//! # nats: how it is kept
//!
//! The only crate that knows NATS. Steps 3 (append), 4 (stream) and the delivery of 5 (react) and 6 (project).
//!
//! - [`server`]: finds, fetches, starts and supervises a nats-server
//! - [`Connection`], [`Access`], [`topology`]: a connection, and as whom; streams and buckets as data, ensured at start
//! - [`rights`], [`Layout`]: who may do what, and the server configuration that is made of it
//! - [`EventStore`]: append and load, every outcome told apart; `committer` shares one fsync among many appends
//! - `timers`: facts that the server records when their time has come, armed and cancelled with the facts they belong to
//! - [`Reader`]: bounded or following reads of one stream; [`Relay`]: copies elsewhere; [`shown`]: without personal data
//! - [`Consumer`]: durable, supervised reactions
//! - [`Parking`]: what consumers could not handle, and what waits behind it
//! - [`ReadModels`]: how read models stand, and what operators ask of them
//! - [`Bucket`]: values under keys, changed by compare-and-set and watched
//! - [`KeyRing`], [`MasterKey`]: the keys of personal data, and what destroys them
//! - [`examine`]: how a server and what it keeps stand, for whoever looks for what is wrong
//! - [`raw`], [`restore`]: streams as they stand, read for checks and copies, and put back
//! - [`Quota`], [`Ledger`]: how many of something are left in a window; what became of a client's idempotency key
//! - [`ChangeFeed`]: changed rows of read models, for whoever follows them
//! - [`Registration`], [`Registry`]: instances of services, kept known by heartbeats
//! - [`baseline`]: what the wire alone costs, for measurements

mod access;
mod accounts;
pub mod baseline;
mod bucket;
mod causes;
mod committer;
mod connection;
mod consumer;
pub mod examine;
mod feed;
mod keyring;
mod ledger;
mod load;
mod message;
mod metrics;
mod parking;
mod publish;
mod quota;
pub mod raw;
mod read_models;
mod redact;
mod registry;
mod relay;
mod replay;
pub mod restore;
pub mod rights;
pub mod server;
mod snapshot;
mod store;
mod streams;
mod timers;
pub mod topology;
mod url;

pub use access::{Access, Refusals, SHARED_API, Seed, SeedError, inbox};
pub use accounts::{Layout, Permissions, SYSTEM};
pub use bucket::{Bucket, BucketConfig, BucketError, Change, Kept};
pub use causes::is_of_nats;
pub use connection::{ConnectError, Connection};
pub use consumer::{
    ASKED_BY_OPERATORS, Consumer, ConsumerError, ConsumerMetrics, Durable, Handler, Manner, Policies, Policy,
    PolicyError, Retry,
};
pub use feed::{ChangeFeed, FeedError, FeedHead, FeedNews, FeedOptions, FeedRow, FeedTail, Told};
pub use keyring::{
    KeyError, KeyRing, KeyRingError, MasterKey, MasterKeyError, PERSONAL_KEYS, UnwrapError, erased_mark,
    fits, nonce,
};
pub use ledger::{Claim, Ledger, LedgerError, Outcome, Ticket};
pub use load::{History, LoadError, Tail};
pub use message::{Message, MessageError, Recorded};
pub use metrics::StoreMetrics;
pub use parking::{Asked, DeadLetter, Parking, ParkingError};
pub use publish::{AppendError, Appended, Write};
pub use quota::{Ask, Known, Lease, Quota, QuotaKey, QuotaTerms, Recall, Recalls};
pub use raw::{Raw, RawError, RawReader};
pub use read_models::{Build, Generation, ReadModel, ReadModels, ReadModelsError, Refused, Requests, State};
pub use redact::shown;
pub use registry::{Instance, InstanceId, Registration, Registry, RegistryOptions};
pub use relay::{Prefix, PrefixError, Relay, RelayError};
pub use replay::{Filter, From, Reader, ReplayError, Until, last_sequence};
pub use snapshot::Snapshot;
pub use store::{Durability, EventStore, StoreOptions};
pub use streams::{StreamState, message_at};
pub use timers::LEAD as TIMER_LEAD;
pub use topology::TopologyError;
pub use url::NatsUrl;
