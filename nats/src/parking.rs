//! Parked keys: messages that a consumer could not handle, and what waits behind them. See docs/dead-letters.md.
//!
//! One record per consumer and subject, in a bucket, changed by compare-and-set only. It holds pointers: the message that
//! failed, up to where everything was handled (`done`) and the last message that was set aside (`through`). What waits is
//! what the subject holds between the two, so however much waits, the record stays small, and it cannot be out of order.
//!
//! A record is removed only at the revision at which everything up to `through` is handled. So a message that any revision
//! of a record covers is handled in its turn, and may be acknowledged at once.

mod audit;
mod fingerprint;
mod notice;
mod said;

use crate::{
    AppendError, Bucket, BucketConfig, BucketError, Connection, EventStore, Filter, From, LoadError, Message,
    Reader, ReplayError, TopologyError, Until,
    bucket::{AT_ONCE, Kept},
    rights::PARKED,
};
pub(crate) use audit::Cause;
use events::{
    Context, DeadLetterId,
    ops::{Failure, Holds},
};
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
pub use notice::Asked;
use said::Histories;
use serde::{Deserialize, Serialize};
use service::Clock;
use std::time::Duration;

/// What one consumer has parked of one subject.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetter {
    /// What operators call it.
    pub id: DeadLetterId,
    /// The message that could not be handled, and why.
    pub failure: Failure,
    /// What it holds up.
    pub holds: Holds,
    /// When the key was parked.
    pub since: Timestamp,
    /// When the message failed the last time.
    pub failed: Timestamp,
    /// Everything of the subject up to this sequence was handled or given up.
    pub done: u64,
    /// Sequence of the last message that was set aside.
    pub through: u64,
}

impl DeadLetter {
    /// Whether a message is among those that wait, or waited.
    pub(crate) fn covers(&self, sequence: u64) -> bool {
        (self.failure.sequence.min(self.done + 1)..=self.through).contains(&sequence)
    }

    /// The messages that wait, the one that failed included: at most so many.
    pub async fn waiting(&self, connection: &Connection, most: usize) -> Result<Vec<Message>, ReplayError> {
        let Some(context) = Context::of_stream(&self.failure.stream) else { return Ok(vec![]) };
        let filter = Filter { subject: Some(self.failure.subject.clone()), ..Filter::default() };
        let from = From::Sequence(self.failure.sequence.max(self.done + 1));
        let mut reader = Reader::open(connection, context, from, Until::End, filter).await?;
        let mut waiting = Vec::new();
        while waiting.len() < most {
            let batch = reader.next_batch(most - waiting.len()).await?;
            let before = waiting.len();
            waiting.extend(batch.into_iter().take_while(|message| message.position.sequence <= self.through));
            if waiting.len() == before {
                break;
            }
        }
        Ok(waiting)
    }

    /// Whether a message waited and was handled since.
    fn was_brought_back(&self, sequence: u64) -> bool {
        (self.failure.sequence..=self.done).contains(&sequence)
    }

    /// With another failure of the same subject. The older one is the one that is retried; what stands behind it waits.
    fn joined(self, failure: Failure, now: Timestamp) -> Self {
        let through = self.through.max(failure.sequence);
        if self.was_brought_back(failure.sequence) {
            return self;
        }
        if failure.sequence > self.failure.sequence {
            return Self { through, ..self };
        }
        // Older than all that wait: two processes had them under way. What was brought back since is so once more.
        let done = failure.sequence.saturating_sub(1);
        Self { failure, failed: now, done, through, ..self }
    }
}

/// Why something was not parked, set aside or brought back.
#[derive(Debug, thiserror::Error)]
pub enum ParkingError {
    /// The records cannot be reached.
    #[error("the records of parked messages cannot be reached")]
    Bucket(#[from] BucketError),
    /// What was done cannot be recorded.
    #[error("the stream of operations cannot be written")]
    Append(#[from] AppendError),
    /// What was done cannot be looked up.
    #[error("the stream of operations cannot be read")]
    Load(#[from] LoadError),
}

/// The records of every consumer. Cheap to clone.
#[derive(Clone)]
pub struct Parking {
    pub(crate) bucket: Bucket,
    store: EventStore,
    clock: Clock,
    histories: Histories,
}

/// A failure, before it is known what it is called.
pub(crate) struct Failed<'a> {
    /// Who could not handle it.
    pub(crate) consumer: &'a str,
    /// Which message.
    pub(crate) stream: &'a str,
    pub(crate) sequence: u64,
    pub(crate) subject: &'a str,
    pub(crate) kind: Option<&'a str>,
    pub(crate) error: String,
    pub(crate) attempts: u32,
}

impl std::convert::From<Failed<'_>> for Failure {
    fn from(failed: Failed<'_>) -> Self {
        let Failed { consumer, stream, sequence, subject, kind, error, attempts } = failed;
        Self {
            consumer: consumer.to_owned(),
            stream: stream.to_owned(),
            sequence,
            subject: subject.to_owned(),
            event_type: kind.map(ToOwned::to_owned),
            fingerprint: fingerprint::fingerprint(consumer, kind, &error),
            error,
            attempts,
            handler_version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// How the bucket has to be.
pub(crate) fn config(replicas: usize) -> BucketConfig {
    let (name, description) = (PARKED, "Messages that wait because they could not be handled");
    BucketConfig { name, description, max_age: Duration::ZERO, replicas }
}

/// Where a record is.
pub(crate) fn key(consumer: &str, id: DeadLetterId) -> String {
    format!("{consumer}.{id}")
}

impl Parking {
    /// The time.
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Opens the records, which are created where they are missing. What is done is recorded in `store`.
    pub async fn open(
        connection: &Connection,
        store: EventStore,
        clock: Clock,
        replicas: usize,
    ) -> Result<Self, TopologyError> {
        Ok(Self {
            bucket: Bucket::ensure(connection, &config(replicas)).await?,
            store,
            clock,
            histories: Histories::default(),
        })
    }

    /// Everything that is parked at this moment, the oldest first.
    pub async fn all(&self) -> Result<Vec<DeadLetter>, BucketError> {
        let mut all: Vec<_> = self.of("").await?.into_iter().map(|kept| kept.value).collect();
        all.sort_by_key(|letter| (letter.since, letter.id));
        Ok(all)
    }

    /// What is parked under the keys that begin with `prefix`.
    pub(crate) async fn of(&self, prefix: &str) -> Result<Vec<Kept<DeadLetter>>, BucketError> {
        let keys = self.bucket.keys(prefix).await?;
        let bucket = &self.bucket;
        let read = keys.into_iter().map(|key| async move { bucket.newest(&key).await });
        // However many are parked: the leader answers each, and everybody asks when it comes back.
        let found = stream::iter(read).buffer_unordered(AT_ONCE);
        found.try_filter_map(async |kept| Ok(kept)).try_collect().await
    }

    /// What a consumer has parked under this name.
    pub async fn get(
        &self,
        consumer: &str,
        id: DeadLetterId,
    ) -> Result<Option<Kept<DeadLetter>>, BucketError> {
        self.bucket.newest(&key(consumer, id)).await
    }

    /// Parks the key of a message that failed, and says so in the stream of operations. Done again it has no other effect.
    pub(crate) async fn park(
        &self,
        failure: Failure,
        holds: Holds,
        cause: &Cause,
    ) -> Result<Kept<DeadLetter>, ParkingError> {
        let id = DeadLetterId::of(&failure.consumer, &failure.subject);
        let (key, now) = (key(&failure.consumer, id), self.clock.now());
        let (kept, joined) = loop {
            let Some(Kept { value, revision }) = self.bucket.newest::<DeadLetter>(&key).await? else {
                let (done, through) = (failure.sequence.saturating_sub(1), failure.sequence);
                let (since, failed) = (now, now);
                let value = DeadLetter { id, failure: failure.clone(), holds, since, failed, done, through };
                match self.bucket.create(&key, &value, None).await? {
                    Some(revision) => break (Kept { value, revision }, true),
                    None => continue,
                }
            };
            let older = failure.sequence <= value.failure.sequence;
            let joined = older && !value.was_brought_back(failure.sequence);
            let value = value.joined(failure.clone(), now);
            if let Some(revision) = self.bucket.update(&key, &value, revision, None).await? {
                break (Kept { value, revision }, joined);
            }
        };
        if joined {
            self.confirm_parked(&kept.value, cause).await?;
        }
        Ok(kept)
    }

    /// Sees to it that everything up to `through` waits behind what is parked. `None`: nothing is parked any more.
    pub(crate) async fn set_aside(
        &self,
        consumer: &str,
        id: DeadLetterId,
        through: u64,
    ) -> Result<Option<Kept<DeadLetter>>, BucketError> {
        let key = key(consumer, id);
        loop {
            let Some(Kept { value, revision }) = self.bucket.newest::<DeadLetter>(&key).await? else {
                return Ok(None);
            };
            if value.through >= through {
                return Ok(Some(Kept { value, revision }));
            }
            let value = DeadLetter { through, ..value };
            if let Some(revision) = self.bucket.update(&key, &value, revision, None).await? {
                return Ok(Some(Kept { value, revision }));
            }
        }
    }

    /// Notes that everything up to `done` was handled. `None`: the record has changed since.
    pub(crate) async fn advance(
        &self,
        kept: Kept<DeadLetter>,
        done: u64,
    ) -> Result<Option<Kept<DeadLetter>>, BucketError> {
        let value = DeadLetter { done, ..kept.value };
        let key = key(&value.failure.consumer, value.id);
        let revision = self.bucket.update(&key, &value, kept.revision, None).await?;
        Ok(revision.map(|revision| Kept { value, revision }))
    }

    /// Notes that a message failed while what waited was brought back. `None`: the record has changed since.
    pub(crate) async fn park_again(
        &self,
        kept: Kept<DeadLetter>,
        failure: Failure,
        cause: &Cause,
    ) -> Result<Option<Kept<DeadLetter>>, ParkingError> {
        let value = DeadLetter { failure, failed: self.clock.now(), ..kept.value };
        let key = key(&value.failure.consumer, value.id);
        let Some(revision) = self.bucket.update(&key, &value, kept.revision, None).await? else {
            return Ok(None);
        };
        self.say_parked(&value, cause).await?;
        Ok(Some(Kept { value, revision }))
    }

    /// Lets the key flow again: nothing waits. Gives the revision at which it does. `None`: the record has changed since.
    pub(crate) async fn release(&self, kept: &Kept<DeadLetter>) -> Result<Option<u64>, BucketError> {
        let letter = &kept.value;
        self.bucket.remove_at(&key(&letter.failure.consumer, letter.id), kept.revision).await
    }
}

#[cfg(test)]
pub(crate) use tests::letter;

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(sequence: u64) -> Failure {
        let (consumer, stream, subject) = ("a-b", "ORDERS", "evt.orders.order.1");
        let error = "no".to_owned();
        Failed { consumer, stream, sequence, subject, kind: None, error, attempts: 1 }.into()
    }

    pub(crate) fn letter(sequence: u64, done: u64, through: u64) -> DeadLetter {
        let (failure, now) = (failure(sequence), Timestamp::UNIX_EPOCH);
        let id = DeadLetterId::of("a-b", &failure.subject);
        DeadLetter { id, failure, holds: Holds::Aggregate, since: now, failed: now, done, through }
    }

    #[test]
    fn the_oldest_failure_is_the_one_that_is_retried_and_nothing_is_left_out() {
        let now = Timestamp::UNIX_EPOCH;
        for (before, joins, after) in [
            (letter(5, 4, 5), 7, letter(5, 4, 7)),
            (letter(5, 4, 9), 7, letter(5, 4, 9)),
            (letter(5, 4, 9), 3, letter(3, 2, 9)),
            // Five was handled meanwhile, and six fails.
            (letter(5, 5, 9), 6, letter(5, 5, 9)),
            (letter(5, 6, 9), 5, letter(5, 6, 9)),
            (letter(5, 6, 9), 3, letter(3, 2, 9)),
        ] {
            let joined = before.clone().joined(failure(joins), now);
            assert_eq!(joined, after);
            assert!(joined.covers(joins) || joins <= joined.done);
            assert!((before.done + 1..=before.through).all(|sequence| joined.covers(sequence)));
        }
    }
}
