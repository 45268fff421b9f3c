//! A quota that several processes share: of what may happen so often within a window, each takes leases, so that not
//! every single one costs a round trip, and together they give out exactly the quota.
//!
//! One record per key holds when the window ends, how much of the quota has been taken, and which members may hold
//! some of that unspent. Every change is a compare-and-set, so what is taken is never more than the quota. A member
//! that finds nothing left asks those members for what they have not spent ([`Quota::recall`]) before it gives up, so
//! it is never less either, as long as they answer. The records are in memory and end with their windows: who loses
//! them knows at least what it has taken itself, and begins a new record with that.

use crate::{Bucket, BucketError, Connection, TopologyError, bucket::Kept};
use async_nats::{
    Subject, Subscriber,
    jetstream::{kv, stream::StorageType},
};
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{sync::Arc, time::Duration};

/// How many, and how long a window is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaTerms {
    /// How many in a window.
    pub quota: u32,
    /// From its first one on.
    pub window: Duration,
}

/// What is counted together: a digest, the same in every process. Of a million keys two are the same with a
/// probability of 3 in 100 million, and nobody can choose whose key he shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QuotaKey(u64);

impl QuotaKey {
    /// The key of these parts.
    pub fn new(parts: &[&[u8]]) -> Self {
        let mut digest = Sha256::new();
        for part in parts {
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part);
        }
        let digest: [u8; 32] = digest.finalize().into();
        Self(digest.iter().take(8).fold(0, |key, byte| key << 8 | u64::from(*byte)))
    }

    /// As a number, evenly spread.
    pub fn number(self) -> u64 {
        self.0
    }
}

/// What a member knows of a window that has not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// When it ends: milliseconds since 1970.
    pub ends: i64,
    /// How much was taken by all, as far as this member knows, itself included.
    pub taken: u32,
    /// How much of that it took alone, while the record could not be reached.
    pub alone: u32,
    /// The revision of the record, while this member is the only one that may hold anything.
    pub sole: Option<u64>,
}

/// A member asks for a lease.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// Of what.
    pub key: QuotaKey,
    /// How much of it there is.
    pub terms: QuotaTerms,
    /// What is known already.
    pub known: Option<Known>,
    /// Members that did not answer a recall: they are asked no more, and what they hold is theirs.
    pub gone: &'a [String],
    /// Milliseconds since 1970.
    pub now: i64,
}

/// What a member was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// When the window ends: milliseconds since 1970.
    pub ends: i64,
    /// How much it may spend until then. Nothing: all is taken.
    pub granted: u32,
    /// How much is left for everybody.
    pub left: u32,
    /// The revision of the record, if no other member may hold anything.
    pub sole: Option<u64>,
    /// The other members that may hold something unspent.
    pub others: Vec<String>,
}

/// The record of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// When its window ends: milliseconds since 1970.
    ends: i64,
    /// How much of the quota has been taken.
    taken: u32,
    /// Who may hold some of it unspent.
    holders: Vec<String>,
}

impl Record {
    /// The record of the window that `ask` belongs to.
    fn current(kept: Option<&Self>, ask: &Ask<'_>) -> Self {
        let kept = kept.filter(|record| record.ends > ask.now);
        let known = ask.known.filter(|known| known.ends > ask.now);
        match (kept, known) {
            (Some(record), known) => {
                let alone = known.map_or(0, |known| known.alone);
                // Alone, several took more than there is: what one gives back then is not there for others.
                let taken = record.taken.saturating_add(alone);
                Self { taken, ..record.clone() }
            }
            // Lost, or never written: what this member knows is all there is.
            (None, Some(known)) => Self { ends: known.ends, taken: known.taken, holders: Vec::new() },
            (None, None) => {
                let window = i64::try_from(ask.terms.window.as_millis()).unwrap_or(i64::MAX);
                Self { ends: ask.now.saturating_add(window), taken: 0, holders: Vec::new() }
            }
        }
    }

    /// Takes a share for `member`: as much again as was taken so far, at most a quarter of what is left, at least one.
    /// So who comes once leaves nothing behind, who comes often costs few round trips, and the last ones go one by one.
    fn lease(&mut self, member: &str, quota: u32) -> u32 {
        let left = quota.saturating_sub(self.taken);
        let share = self.taken.min(left / 4).max(1).min(left);
        self.taken += share;
        if share > 0 && !self.holders.iter().any(|holder| holder == member) {
            self.holders.push(member.to_owned());
        }
        share
    }

    fn give_back(&mut self, member: &str, unspent: u32) {
        self.taken = self.taken.saturating_sub(unspent);
        self.holders.retain(|holder| holder != member);
    }
}

/// A member of those who share quotas. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Quota {
    connection: Connection,
    replicas: usize,
    bucket: Bucket,
    member: Arc<str>,
}

/// The bucket of the records.
pub(crate) const BUCKET: &str = "QUOTAS";

/// How often a lease is tried when others are faster. Each time one of them got something, so only a storm gets there.
const ATTEMPTS: usize = 50;

/// How long a member has to answer a recall.
const RECALL: Duration = Duration::from_secs(2);

/// A record outlives its window by this, so that clocks that differ a little do not begin a window early.
const LINGER: Duration = Duration::from_secs(2);

impl Quota {
    /// Joins, under a new name. What comes out of [`Recalls`] must be answered.
    pub async fn join(connection: &Connection, replicas: usize) -> Result<(Self, Recalls), TopologyError> {
        let bucket = open(connection, replicas).await?;
        let member = format!("{:010x}", fastrand::u64(..1 << 40));
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| TopologyError::Request {
            action: "listen to",
            name: format!("recalls of {}", config(replicas).bucket),
            source,
        };
        let subject = recall_subject(&member);
        let recalls = connection.client.subscribe(subject).await.map_err(|error| failed(error.into()))?;
        // The server knows of it before anybody is told this name.
        connection.client.flush().await.map_err(|error| failed(error.into()))?;
        let quota = Self { connection: connection.clone(), replicas, bucket, member: member.into() };
        Ok((quota, Recalls { connection: connection.clone(), recalls }))
    }

    /// Whether the records can be reached, as far as the connection knows.
    pub fn is_connected(&self) -> bool {
        self.connection.is_connected()
    }

    /// Changes whenever the connection was made anew. Revisions known from before mean nothing then: the server may
    /// have lost the records and count from one again.
    pub fn generation(&self) -> u64 {
        *self.connection.connected.borrow()
    }

    /// Makes the bucket where there is none.
    pub async fn provide(connection: &Connection, replicas: usize) -> Result<(), TopologyError> {
        open(connection, replicas).await.map(drop)
    }

    /// Makes the bucket again where the server has lost it.
    pub async fn restore(&self) -> Result<(), TopologyError> {
        open(&self.connection, self.replicas).await.map(drop)
    }

    /// Takes what it can get, for this member.
    pub async fn lease(&self, ask: &Ask<'_>) -> Result<Lease, BucketError> {
        let bucket = &self.bucket;
        let key = name(ask.key);
        let mut kept = self.remembered(ask);
        if ask.known.is_some() && kept.is_none() {
            kept = bucket.get(&key).await?;
        }
        for attempt in 0..ATTEMPTS {
            let mut record = Record::current(kept.as_ref().map(|kept| &kept.value), ask);
            record.holders.retain(|holder| !ask.gone.contains(holder));
            let granted = record.lease(&self.member, ask.terms.quota);
            let lifetime = Some(lifetime(&record, ask.now));
            let revision = match &kept {
                Some(kept) if kept.value == record => Some(kept.revision),
                Some(kept) => bucket.write(&key, &record, Some(kept.revision), lifetime).await?,
                // The first time nobody is expected to have been there, not even a marker of an ended lifetime.
                None if attempt == 0 => bucket.write(&key, &record, Some(0), lifetime).await?,
                None => bucket.create(&key, &record, lifetime).await?,
            };
            if let Some(revision) = revision {
                return Ok(self.lease_of(record, granted, revision, ask.terms.quota));
            }
            kept = bucket.get(&key).await?;
        }
        Err(bucket.away("too many others change the same record"))
    }

    /// The record as this member left it: nobody else has reason to change it while nobody else holds anything, and if
    /// somebody has, the revision is another.
    fn remembered(&self, ask: &Ask<'_>) -> Option<Kept<Record>> {
        let known = ask.known?;
        let revision = known.sole?;
        let holders = vec![self.member.to_string()];
        Some(Kept { value: Record { ends: known.ends, taken: known.taken, holders }, revision })
    }

    fn lease_of(&self, record: Record, granted: u32, revision: u64, quota: u32) -> Lease {
        let left = quota.saturating_sub(record.taken);
        let sole = (*record.holders == [&*self.member]).then_some(revision);
        let others = record.holders.into_iter().filter(|holder| **holder != *self.member).collect();
        Lease { ends: record.ends, granted, left, sole, others }
    }

    /// Gives back what this member has not spent of the window that ends then, and holds nothing of it any more. Not
    /// where the record does not say that this member holds something: it may not count what is given back either.
    pub async fn give_back(
        &self,
        key: QuotaKey,
        ends: i64,
        unspent: u32,
        now: i64,
    ) -> Result<bool, BucketError> {
        let bucket = &self.bucket;
        let key = name(key);
        for _ in 0..ATTEMPTS {
            let Some(kept) = bucket.get::<Record>(&key).await? else { return Ok(false) };
            let mut record = kept.value;
            if record.ends != ends || !record.holders.iter().any(|holder| **holder == *self.member) {
                return Ok(false);
            }
            record.give_back(&self.member, unspent);
            let lifetime = Some(lifetime(&record, now));
            if bucket.write(&key, &record, Some(kept.revision), lifetime).await?.is_some() {
                return Ok(true);
            }
        }
        Err(bucket.away("too many others change the same record"))
    }

    /// Asks a member to give back what it has not spent. Says whether it answered, after it did so.
    pub async fn recall(&self, member: &str, key: QuotaKey, ends: i64) -> bool {
        let Ok(body) = serde_json::to_vec(&Wanted { key: key.0, ends }) else { return false };
        let answer = self.connection.client.request(recall_subject(member), body.into());
        matches!(tokio::time::timeout(RECALL, answer).await, Ok(Ok(_)))
    }
}

/// What others want back from this member.
#[derive(Debug)]
pub struct Recalls {
    connection: Connection,
    recalls: Subscriber,
}

/// Somebody wants back what is unspent of a window. Give it back, then say so.
#[derive(Debug)]
pub struct Recall {
    /// Of what.
    pub key: QuotaKey,
    /// The window that ends then: milliseconds since 1970.
    pub ends: i64,
    reply: Subject,
    connection: Connection,
}

#[derive(Serialize, Deserialize)]
struct Wanted {
    key: u64,
    ends: i64,
}

impl Recalls {
    /// The next one; none when the connection is closed for good.
    pub async fn next(&mut self) -> Option<Recall> {
        loop {
            let message = self.recalls.next().await?;
            let wanted = serde_json::from_slice::<Wanted>(&message.payload);
            if let (Ok(wanted), Some(reply)) = (wanted, message.reply) {
                let connection = self.connection.clone();
                return Some(Recall { key: QuotaKey(wanted.key), ends: wanted.ends, reply, connection });
            }
        }
    }
}

impl Recall {
    /// It has been given back.
    pub async fn done(self) {
        if let Err(error) = self.connection.client.publish(self.reply, bytes::Bytes::new()).await {
            tracing::warn!(%error, "a recall is not answered");
        }
    }
}

pub(crate) fn config(replicas: usize) -> kv::Config {
    kv::Config {
        bucket: BUCKET.to_owned(),
        description: "What is taken of quotas; ends with their windows".to_owned(),
        history: 1,
        // What is lost with the server is only a count, and a write to disk per new client would be slow.
        storage: StorageType::Memory,
        max_bytes: MAX_BYTES,
        num_replicas: replicas,
        // Nobody watches: the shortest that there is.
        limit_markers: Some(Duration::from_secs(1)),
        ..kv::Config::default()
    }
}

/// Room for about a million and a half records: whoever comes from so many addresses shall not fill the server's memory.
const MAX_BYTES: i64 = 256 << 20;

async fn open(connection: &Connection, replicas: usize) -> Result<Bucket, TopologyError> {
    Bucket::open(connection, config(replicas)).await
}

fn name(key: QuotaKey) -> String {
    format!("{:016x}", key.0)
}

pub(crate) fn recall_subject(member: &str) -> String {
    format!("quota.recall.{member}")
}

/// How long a record is kept: whole seconds.
fn lifetime(record: &Record, now: i64) -> Duration {
    let rest = u64::try_from(record.ends.saturating_sub(now)).unwrap_or(0);
    Duration::from_secs(rest.div_ceil(1000)) + LINGER
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    const QUOTA: u32 = 100;

    fn ask(known: Option<Known>, now: i64) -> Ask<'static> {
        let terms = QuotaTerms { quota: QUOTA, window: Duration::from_secs(10) };
        Ask { key: QuotaKey::new(&[b"x"]), terms, known, gone: &[], now }
    }

    fn record(ends: i64, taken: u32) -> Record {
        Record { ends, taken, holders: Vec::new() }
    }

    #[test]
    fn keys_are_told_apart_by_their_parts() {
        assert_eq!(QuotaKey::new(&[b"ab", b"c"]), QuotaKey::new(&[b"ab", b"c"]));
        assert_ne!(QuotaKey::new(&[b"ab", b"c"]), QuotaKey::new(&[b"a", b"bc"]));
        // Gateways of different versions have to agree on it.
        assert_eq!(name(QuotaKey::new(&[b"x"])), "028f0df5b8596fbc");
    }

    #[test]
    fn a_window_is_the_recorded_one_else_the_known_one_else_a_new_one() {
        let known = Some(Known { ends: 5_000, taken: 7, alone: 3, sole: None });
        assert_eq!(Record::current(None, &ask(None, 1_000)), record(11_000, 0));
        assert_eq!(
            Record::current(Some(&record(1_000, 9)), &ask(None, 1_000)),
            record(11_000, 0),
            "it ended"
        );
        assert_eq!(Record::current(Some(&record(1_001, 9)), &ask(None, 1_000)), record(1_001, 9));
        assert_eq!(Record::current(None, &ask(known, 1_000)), record(5_000, 7), "it was lost");
        assert_eq!(Record::current(Some(&record(900, 9)), &ask(known, 1_000)), record(5_000, 7));
        assert_eq!(
            Record::current(Some(&record(6_000, 9)), &ask(known, 1_000)),
            record(6_000, 12),
            "it is told"
        );
        assert_eq!(
            Record::current(Some(&record(6_000, 9)), &ask(known, 5_000)),
            record(6_000, 9),
            "too late"
        );
        assert_eq!(Record::current(Some(&record(6_000, 99)), &ask(known, 1_000)), record(6_000, 102));
    }

    #[test]
    fn leases_grow_with_what_was_taken_and_shrink_with_what_is_left() {
        let mut record = record(1, 0);
        let leases: Vec<_> =
            std::iter::repeat_with(|| record.lease("a", QUOTA)).take_while(|lease| *lease > 0).collect();
        assert_eq!(leases, [1, 1, 2, 4, 8, 16, 17, 12, 9, 7, 5, 4, 3, 2, 2, 1, 1, 1, 1, 1, 1, 1]);
        assert_eq!(record.holders, ["a"]);
    }

    #[test]
    fn a_record_lives_a_little_longer_than_its_window() {
        assert_eq!(lifetime(&record(10_001, 0), 1_000), Duration::from_secs(10) + LINGER);
        assert_eq!(lifetime(&record(1_000, 0), 10_000), LINGER);
    }

    proptest! {
        /// Whatever members take, spend and give back in whatever order: never more than the quota is spent, and whoever
        /// has called back what others hold finds something unless all of it is spent.
        #[test]
        fn what_is_spent_is_never_more_than_the_quota_and_in_the_end_all_of_it(
            steps in vec((0..3_usize, 0..4_u8), 0..400),
        ) {
            let names = ["a", "b", "c"];
            let mut record = record(1, 0);
            let (mut own, mut spent) = ([0_u32; 3], 0);
            for (member, step) in steps {
                match step {
                    0 => {
                        record.give_back(names[member], own[member]);
                        own[member] = 0;
                    }
                    1 => own[member] += record.lease(names[member], QUOTA),
                    _ if own[member] > 0 => {
                        own[member] -= 1;
                        spent += 1;
                    }
                    _ => {}
                }
                prop_assert_eq!(record.taken, spent + own.iter().sum::<u32>());
                prop_assert!(record.taken <= QUOTA);
                for (member, name) in names.iter().enumerate() {
                    prop_assert!(own[member] == 0 || record.holders.iter().any(|holder| holder == name));
                }
            }
            for (member, name) in names.iter().enumerate() {
                record.give_back(name, own[member]);
            }
            prop_assert_eq!(record.lease("a", QUOTA) > 0, spent < QUOTA);
        }
    }
}
