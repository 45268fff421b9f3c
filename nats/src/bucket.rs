//! A bucket of JSON values under keys: the last value per key, changed by compare-and-set, watched, with a lifetime per
//! key where it is asked for.
//!
//! What is kept here is state, not history: sessions, keys, instances of services. Facts belong in a stream.

use crate::{Connection, TopologyError, topology};
use async_nats::{
    HeaderMap, HeaderValue, header,
    jetstream::{
        self, ErrorCode,
        context::{PublishError, PublishErrorKind},
        kv::{self, Operation},
        message::PublishMessage,
        stream::LastRawMessageErrorKind,
    },
};
use futures::{Stream, StreamExt, TryStreamExt};
use serde::{Serialize, de::DeserializeOwned};
use service::crash_point;
use std::{error::Error as _, time::Duration};

/// Keys that are read or written at the same time, where it is done with many.
pub(crate) const AT_ONCE: usize = 64;

/// What a bucket promises.
#[derive(Clone, Debug)]
pub struct BucketConfig {
    /// Its name: upper case and underscores.
    pub name: &'static str,
    /// What it is for.
    pub description: &'static str,
    /// How long a value is kept after it was written; zero is for ever.
    pub max_age: Duration,
    /// Copies: 1 on one machine, 3 on a cluster.
    pub replicas: usize,
}

/// Values under keys. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Bucket {
    connection: Connection,
    store: kv::Store,
}

/// A value with the revision that a change of it must name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept<T> {
    /// The value.
    pub value: T,
    /// Which one it is.
    pub revision: u64,
}

/// What a watcher is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change<T> {
    /// The key has this value now.
    Put {
        /// The key.
        key: String,
        /// Its value.
        value: T,
    },
    /// The key is gone: removed, or its lifetime has ended.
    Gone {
        /// The key.
        key: String,
    },
}

/// Why a bucket did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum BucketError {
    /// It cannot be reached. A write may have been stored all the same.
    #[error("the bucket {bucket} cannot be reached")]
    Away {
        /// Which one.
        bucket: String,
        /// What the client says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// What it holds is not what was put there.
    #[error("the value of {key} in the bucket {bucket} cannot be read")]
    Unreadable {
        /// Which bucket.
        bucket: String,
        /// Which key.
        key: String,
        /// Why.
        source: serde_json::Error,
    },
}

impl Bucket {
    /// Opens a bucket, which is created where it is missing and refused where it keeps less than it has to.
    pub async fn ensure(connection: &Connection, config: &BucketConfig) -> Result<Self, TopologyError> {
        let want = kv::Config {
            bucket: config.name.to_owned(),
            description: config.description.to_owned(),
            history: 1,
            max_age: config.max_age,
            num_replicas: config.replicas,
            // Lets a key have a lifetime, and tells watchers of its end.
            limit_markers: Some(MARKER),
            ..kv::Config::default()
        };
        Self::open(connection, want).await
    }

    /// Opens a bucket that is not like the others.
    pub(crate) async fn open(connection: &Connection, want: kv::Config) -> Result<Self, TopologyError> {
        let store = topology::ensure_bucket(connection, want).await?;
        Ok(Self { connection: connection.clone(), store })
    }

    /// The value of a key.
    pub async fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<Kept<T>>, BucketError> {
        let entry = self.store.entry(key).await.map_err(|error| self.away(error))?;
        match entry.filter(|entry| entry.operation == Operation::Put) {
            Some(entry) => {
                let value = self.decode(key, &entry.value)?;
                Ok(Some(Kept { value, revision: entry.revision }))
            }
            None => Ok(None),
        }
    }

    /// The value of a key as the leader of the bucket has it. Any copy may answer [`get`](Self::get), and one that is
    /// behind would say that there is no value yet.
    pub(crate) async fn newest<T: DeserializeOwned>(
        &self,
        key: &str,
    ) -> Result<Option<Kept<T>>, BucketError> {
        let subject = format!("$KV.{}.{key}", self.store.name);
        let message = match self.store.stream.get_last_raw_message_by_subject(&subject).await {
            Ok(message) => message,
            Err(error) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => return Ok(None),
            Err(error) => return Err(self.away(error)),
        };
        if is_gone(&message.headers) {
            return Ok(None);
        }
        Ok(Some(Kept { value: self.decode(key, &message.payload)?, revision: message.sequence }))
    }

    /// Sets a key, whatever it was. Gives the revision.
    pub async fn put<T: Serialize>(
        &self,
        key: &str,
        value: &T,
        lifetime: Option<Duration>,
    ) -> Result<u64, BucketError> {
        match self.write(key, value, None, lifetime).await? {
            Some(revision) => Ok(revision),
            None => Err(self.away("an unconditional write met a condition")),
        }
    }

    /// Sets a key that has no value yet; `None` where it has one.
    pub async fn create<T: Serialize>(
        &self,
        key: &str,
        value: &T,
        lifetime: Option<Duration>,
    ) -> Result<Option<u64>, BucketError> {
        if let Some(revision) = self.write(key, value, Some(0), lifetime).await? {
            return Ok(Some(revision));
        }
        // What was removed leaves a marker, which has a revision.
        let entry = self.store.entry(key).await.map_err(|error| self.away(error))?;
        match entry {
            Some(entry) if entry.operation != Operation::Put => {
                self.write(key, value, Some(entry.revision), lifetime).await
            }
            _ => Ok(None),
        }
    }

    /// Replaces the value that has this revision; `None` where the key has changed since.
    pub async fn update<T: Serialize>(
        &self,
        key: &str,
        value: &T,
        revision: u64,
        lifetime: Option<Duration>,
    ) -> Result<Option<u64>, BucketError> {
        self.write(key, value, Some(revision), lifetime).await
    }

    /// Removes a key and its value.
    pub async fn remove(&self, key: &str) -> Result<(), BucketError> {
        crash_point("bucket.before", &self.store.name);
        let purged = self.store.purge(key).await;
        crash_point("bucket.after", &self.store.name);
        purged.map_err(|error| self.away(error))
    }

    /// Removes the value that has this revision. Gives the revision of its removal; `None` where the key has changed since.
    pub(crate) async fn remove_at(&self, key: &str, revision: u64) -> Result<Option<u64>, BucketError> {
        let mut headers = HeaderMap::new();
        headers.insert("KV-Operation", "DEL");
        headers.insert(header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, HeaderValue::from(revision));
        // The marker is for watchers, who are told of it at once.
        let message = PublishMessage::build().headers(headers).ttl(MARKER);
        self.send(key, message).await
    }

    /// The keys that begin with `prefix`, which is whole tokens with their dots, at this moment; and some that are gone.
    pub(crate) async fn keys(&self, prefix: &str) -> Result<Vec<String>, BucketError> {
        // Without a consumer: a bucket that is asked often would have thousands.
        let before = format!("$KV.{}.", self.store.name);
        let filter = format!("{before}{prefix}>");
        let found = self.store.stream.info_with_subjects(filter).await.map_err(|error| self.away(error))?;
        let found: Vec<_> = found.try_collect().await.map_err(|error| self.away(error))?;
        let key = |(subject, _): &(String, usize)| Some(subject.strip_prefix(&before)?.to_owned());
        Ok(found.iter().filter_map(key).collect())
    }

    /// The keys that fit `filter`, with value and revision, as they are and as they change. Gone keys have no value.
    pub(crate) async fn follow<T: DeserializeOwned>(
        &self,
        filter: &str,
    ) -> Result<impl Stream<Item = Result<(String, Option<T>, u64), BucketError>> + Send + use<T>, BucketError>
    {
        let watch = self.store.watch_with_history(filter).await.map_err(|error| self.away(error))?;
        let this = self.clone();
        Ok(watch.map(move |entry| {
            let entry = entry.map_err(|error| this.away(error))?;
            let put = entry.operation == Operation::Put;
            let value = put.then(|| this.decode(&entry.key, &entry.value)).transpose()?;
            Ok((entry.key, value, entry.revision))
        }))
    }

    /// Every key and value at this moment, then every change; ends when the connection is closed for good. A value that
    /// cannot be read is an error of its own and does not end it.
    pub async fn watch<T: DeserializeOwned>(
        &self,
    ) -> Result<impl Stream<Item = Result<Change<T>, BucketError>> + Send + use<T>, BucketError> {
        let watch = self.store.watch_with_history(">").await.map_err(|error| self.away(error))?;
        Ok(self.decoded(watch))
    }

    /// Every change from now on; otherwise like [`watch`](Self::watch).
    pub async fn changes<T: DeserializeOwned>(
        &self,
    ) -> Result<impl Stream<Item = Result<Change<T>, BucketError>> + Send + use<T>, BucketError> {
        let watch = self.store.watch(">").await.map_err(|error| self.away(error))?;
        Ok(self.decoded(watch))
    }

    fn decoded<T: DeserializeOwned>(
        &self,
        watch: kv::Watch,
    ) -> impl Stream<Item = Result<Change<T>, BucketError>> + Send + use<T> {
        let this = self.clone();
        watch.map(move |entry| {
            let entry = entry.map_err(|error| this.away(error))?;
            let key = entry.key;
            match entry.operation {
                Operation::Put => Ok(Change::Put { value: this.decode(&key, &entry.value)?, key }),
                Operation::Delete | Operation::Purge => Ok(Change::Gone { key }),
            }
        })
    }

    /// Writes; `None` where the condition does not hold.
    pub(crate) async fn write<T: Serialize>(
        &self,
        key: &str,
        value: &T,
        revision: Option<u64>,
        lifetime: Option<Duration>,
    ) -> Result<Option<u64>, BucketError> {
        let body = serde_json::to_vec(value).map_err(|error| self.away(error))?;
        let mut headers = HeaderMap::new();
        if let Some(revision) = revision {
            headers.insert(header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, HeaderValue::from(revision));
        }
        let mut message = PublishMessage::build().headers(headers).payload(body.into());
        if let Some(lifetime) = lifetime {
            message = message.ttl(lifetime);
        }
        self.send(key, message).await
    }

    /// Sends a write; `None` where its condition does not hold.
    async fn send(&self, key: &str, message: PublishMessage) -> Result<Option<u64>, BucketError> {
        let subject = format!("$KV.{}.{key}", self.store.name);
        crash_point("bucket.before", &self.store.name);
        let sent = self.connection.jetstream.send_publish(subject, message).await;
        let stored = match sent {
            Ok(answer) => answer.await,
            Err(error) => Err(error),
        };
        crash_point("bucket.after", &self.store.name);
        match stored {
            Ok(stored) => Ok(Some(stored.sequence)),
            Err(error) if is_conflict(&error) => Ok(None),
            Err(error) => Err(self.away(error)),
        }
    }

    fn decode<T: DeserializeOwned>(&self, key: &str, bytes: &[u8]) -> Result<T, BucketError> {
        serde_json::from_slice(bytes).map_err(|source| BucketError::Unreadable {
            bucket: self.store.name.clone(),
            key: key.to_owned(),
            source,
        })
    }

    pub(crate) fn away(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> BucketError {
        BucketError::Away { bucket: self.store.name.clone(), source: source.into() }
    }
}

/// Whether a message of a bucket says that its key has no value: removed by us, or by the server at the end of its lifetime.
pub(crate) fn is_gone(headers: &HeaderMap) -> bool {
    ["KV-Operation", "Nats-Marker-Reason"].iter().any(|name| headers.get(*name).is_some())
}

/// Whether another write was first. On a cluster one that is still in flight is told by a code that the client does not
/// know.
fn is_conflict(error: &PublishError) -> bool {
    let code = || error.source()?.downcast_ref::<jetstream::Error>().map(jetstream::Error::error_code);
    error.kind() == PublishErrorKind::WrongLastSequence
        || code() == Some(ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT)
}

/// How long the marker of an ended lifetime is kept for watchers. One second is the least the server takes.
const MARKER: Duration = Duration::from_mins(1);
