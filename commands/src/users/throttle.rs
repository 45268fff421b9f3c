//! How often somebody may try to log in: counted per account and per client address, for all processes together.

use super::address::hex;
use axum::http::StatusCode;
use events::users::EmailHash;
use jiff::{SignedDuration, Timestamp};
use nats::{Bucket, BucketConfig, BucketError, Connection, Kept, TopologyError};
use serde::{Deserialize, Serialize};
use service::{Clock, Problem, origin::network_of};
use std::{net::IpAddr, time::Duration};

/// How long attempts are remembered, from the first one.
pub(super) const WINDOW: Duration = Duration::from_mins(15);
/// Attempts on one account; a success forgets them.
pub(super) const PER_ACCOUNT: u32 = 10;
/// Attempts from one address. More than one account may be behind it.
pub(super) const PER_ADDRESS: u32 = 100;
/// Tries to count while others count the same: more than that at once is no person.
const TRIES: u32 = 20;

/// What is counted. An account is named by its e-mail address, whether there is one or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// Attempts on one account.
    Account(EmailHash),
    /// Attempts from one client.
    Client(IpAddr),
}

impl Source {
    fn key(&self) -> String {
        match self {
            Self::Account(hash) => format!("account.{hash}"),
            Self::Client(address) => match network_of(*address) {
                IpAddr::V4(address) => format!("client.{}", hex(&address.octets())),
                IpAddr::V6(network) => format!("client.{}", hex(&network.octets()[..8])),
            },
        }
    }

    const fn limit(&self) -> u32 {
        match self {
            Self::Account(_) => PER_ACCOUNT,
            Self::Client(_) => PER_ADDRESS,
        }
    }
}

/// Attempts within one window.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Attempts {
    count: u32,
    since: Timestamp,
}

impl Attempts {
    /// One more attempt; an error says how long to wait where there were too many.
    fn another(before: Option<Self>, now: Timestamp, limit: u32) -> Result<Self, SignedDuration> {
        let window = SignedDuration::from_secs(WINDOW.as_secs().cast_signed());
        match before {
            Some(Self { count, since }) if now.duration_since(since) < window => {
                if count >= limit {
                    return Err(window - now.duration_since(since));
                }
                Ok(Self { count: count + 1, since })
            }
            _ => Ok(Self { count: 1, since: now }),
        }
    }
}

/// Counts attempts. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Throttle {
    bucket: Bucket,
    clock: Clock,
}

/// How the bucket has to be.
pub(super) fn config(replicas: usize) -> BucketConfig {
    let (name, description) = ("LOGIN_ATTEMPTS", "How often somebody tried to log in");
    BucketConfig { name, description, max_age: WINDOW, replicas }
}

impl Throttle {
    /// Opens the bucket.
    pub(super) async fn open(
        connection: &Connection,
        replicas: usize,
        clock: Clock,
    ) -> Result<Self, TopologyError> {
        Ok(Self { bucket: Bucket::ensure(connection, &config(replicas)).await?, clock })
    }

    /// Counts an attempt before it is made, so that many at once are no more than one after the other. The outer error
    /// is that nobody can count; the inner one refuses.
    pub(super) async fn admit(&self, source: &Source) -> Result<Result<(), Problem>, BucketError> {
        let key = source.key();
        for _ in 0..TRIES {
            let (before, revision) = match self.bucket.get::<Attempts>(&key).await? {
                Some(Kept { value, revision }) => (Some(value), Some(revision)),
                None => (None, None),
            };
            let attempts = match Attempts::another(before, self.clock.now(), source.limit()) {
                Ok(attempts) => attempts,
                Err(wait) => return Ok(Err(too_many(wait))),
            };
            let written = match revision {
                Some(revision) => self.bucket.update(&key, &attempts, revision, Some(WINDOW)).await?,
                None => self.bucket.create(&key, &attempts, Some(WINDOW)).await?,
            };
            if written.is_some() {
                return Ok(Ok(()));
            }
        }
        Ok(Err(too_many(SignedDuration::from_secs(1))))
    }

    /// Forgets the attempts: one of them succeeded.
    pub(super) async fn forget(&self, source: &Source) -> Result<(), BucketError> {
        self.bucket.remove(&source.key()).await
    }
}

fn too_many(wait: SignedDuration) -> Problem {
    // Rounded up: whoever comes back then is let in.
    let seconds = u32::try_from(wait.as_secs() + 1).unwrap_or(u32::MAX);
    let detail = "Too many attempts to log in. Wait, then try again.";
    Problem::new(StatusCode::TOO_MANY_REQUESTS, "too-many-attempts", detail).with_retry_after(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn attempts_count_within_a_window_from_the_first() {
        let mut attempts = None;
        for n in 0..3 {
            attempts = Some(Attempts::another(attempts, at(n * 100), 3).unwrap());
        }
        assert_eq!(Attempts::another(attempts, at(300), 3).unwrap_err().as_secs(), 600);
        assert_eq!(Attempts::another(attempts, at(899), 3).unwrap_err().as_secs(), 1);
        assert_eq!(Attempts::another(attempts, at(900), 3).unwrap().count, 1);
    }

    #[test]
    fn a_network_of_ipv6_is_one_client() {
        let key = |text: &str| Source::Client(text.parse().unwrap()).key();
        assert_eq!(key("2001:db8::1"), key("2001:db8::ffff:1"));
        assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
        assert_ne!(key("10.0.0.1"), key("10.0.0.2"));
    }
}
