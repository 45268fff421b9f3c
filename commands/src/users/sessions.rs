//! Sessions: what a login begins, each use of its refresh token continues, and a logout ends.
//!
//! A refresh token names a user, a session and how often it was refreshed, and carries a digest of that under a key
//! derived from the master key. So nothing that is kept can be stolen and used, a forged token is nobody's, and an old
//! one is recognised for what it is: it was stolen, or its successor was, and the session ends.

use aws_lc_rs::hmac;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use events::UserId;
use jiff::{SignedDuration, Timestamp};
use nats::{Bucket, BucketConfig, BucketError, Connection, Kept, TopologyError};
use serde::{Deserialize, Serialize};
use service::Clock;
use std::{collections::BTreeMap, time::Duration};
use uuid::Uuid;

/// How long a session lasts, however often it is refreshed.
pub(super) const LASTS: Duration = Duration::from_hours(30 * 24);
/// Sessions that one user may have; the next one ends the oldest.
pub(super) const MAX_SESSIONS: usize = 20;
/// How many refreshes back an access token is still recognised as its session's. It lives 15 minutes.
const RECOGNISED: u32 = 16;
/// Says at sight what a leaked token is.
const PREFIX: &str = "wbr_";

/// The sessions of all users. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Sessions {
    bucket: Bucket,
    key: hmac::Key,
    clock: Clock,
}

/// A session at one refresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Session {
    pub(super) user: UserId,
    id: Uuid,
    refreshed: u32,
}

/// What is kept of a user: the sessions by id.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Open(BTreeMap<Uuid, Entry>);

/// What is kept of a session.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Entry {
    refreshed: u32,
    ends: Timestamp,
}

/// What became of a refresh token.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refreshed {
    /// The session goes on.
    Continued(Session),
    /// The token was used before: its session is over.
    Reused(UserId),
    /// It is no token, or its session is over.
    Unknown,
}

impl Session {
    /// The id of the access token that belongs to this refresh.
    pub(super) fn access(&self) -> Uuid {
        Uuid::new_v5(&self.id, &self.refreshed.to_be_bytes())
    }
}

impl Open {
    /// Without those that have ended.
    fn at(mut self, now: Timestamp) -> Self {
        self.0.retain(|_, entry| entry.ends > now);
        self
    }

    /// One more; the oldest make room for it.
    fn begin(&mut self, id: Uuid, ends: Timestamp) {
        while self.0.len() >= MAX_SESSIONS {
            let oldest = self.0.iter().min_by_key(|(_, entry)| entry.ends).map(|(id, _)| *id);
            let Some(oldest) = oldest else { break };
            self.0.remove(&oldest);
        }
        self.0.insert(id, Entry { refreshed: 0, ends });
    }

    /// What a refresh by `session`'s token comes to.
    fn refresh(&mut self, session: Session) -> Refreshed {
        let Session { user, id, refreshed } = session;
        match self.0.get_mut(&id) {
            None => Refreshed::Unknown,
            Some(entry) if entry.refreshed == refreshed => {
                entry.refreshed += 1;
                Refreshed::Continued(Session { refreshed: entry.refreshed, ..session })
            }
            Some(_) => {
                self.0.remove(&id);
                Refreshed::Reused(user)
            }
        }
    }

    /// The session whose access token this is.
    fn of_access(&self, user: UserId, token: Uuid) -> Option<Uuid> {
        let is_of = |(id, entry): (&Uuid, &Entry)| {
            let of = |refreshed| Session { user, id: *id, refreshed }.access() == token;
            (entry.refreshed.saturating_sub(RECOGNISED)..=entry.refreshed).any(of).then_some(*id)
        };
        self.0.iter().find_map(is_of)
    }
}

/// How the bucket has to be.
pub(super) fn config(replicas: usize) -> BucketConfig {
    let (name, description) = ("SESSIONS", "Sessions of users; nothing in it is a token");
    BucketConfig { name, description, max_age: LASTS, replicas }
}

impl Sessions {
    /// Opens the bucket; refresh tokens are digested with `key`.
    pub(super) async fn open(
        connection: &Connection,
        key: hmac::Key,
        replicas: usize,
        clock: Clock,
    ) -> Result<Self, TopologyError> {
        Ok(Self { bucket: Bucket::ensure(connection, &config(replicas)).await?, key, clock })
    }

    /// A session begins.
    pub(super) async fn begin(&self, user: UserId) -> Result<Session, BucketError> {
        let (id, ends) = (self.clock.uuid(), self.clock.now() + lasts());
        self.change(user, |open| open.begin(id, ends)).await?;
        Ok(Session { user, id, refreshed: 0 })
    }

    /// Whose refresh token it is; `None` where nobody here wrote it.
    pub(super) fn user(&self, token: &str) -> Option<UserId> {
        self.read(token).map(|session| session.user)
    }

    /// The session of a refresh token goes on, once; used again, the token ends it.
    pub(super) async fn refresh(&self, token: &str) -> Result<Refreshed, BucketError> {
        let Some(session) = self.read(token) else { return Ok(Refreshed::Unknown) };
        self.change(session.user, |open| open.refresh(session)).await
    }

    /// The session of a refresh token ends, whether the token was used or not.
    pub(super) async fn end(&self, token: &str) -> Result<(), BucketError> {
        let Some(session) = self.read(token) else { return Ok(()) };
        self.change(session.user, |open| open.0.remove(&session.id)).await.map(|_| ())
    }

    /// The session of an access token ends.
    pub(super) async fn end_of_access(&self, user: UserId, token: Uuid) -> Result<(), BucketError> {
        let end = |open: &mut Open| {
            if let Some(id) = open.of_access(user, token) {
                open.0.remove(&id);
            }
        };
        self.change(user, end).await
    }

    /// Every session of a user ends.
    pub(super) async fn end_all(&self, user: UserId) -> Result<(), BucketError> {
        self.bucket.remove(&user.to_string()).await
    }

    /// The refresh token of a session.
    pub(super) fn token(&self, session: Session) -> String {
        let named = named(session);
        let digest = hmac::sign(&self.key, &named);
        PREFIX.to_owned() + &BASE64_URL_SAFE_NO_PAD.encode([&named[..], digest.as_ref()].concat())
    }

    /// The session that a refresh token names; `None` where nobody here wrote it.
    fn read(&self, token: &str) -> Option<Session> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(token.strip_prefix(PREFIX)?).ok()?;
        let (named, digest) = bytes.split_first_chunk::<36>()?;
        hmac::verify(&self.key, named, digest).ok()?;
        let (user, rest) = named.split_first_chunk()?;
        let (id, refreshed) = rest.split_first_chunk()?;
        Some(Session {
            user: UserId::new(Uuid::from_bytes(*user)),
            id: Uuid::from_bytes(*id),
            refreshed: u32::from_be_bytes(refreshed.try_into().ok()?),
        })
    }

    /// Changes what is kept of a user by compare-and-set, until nobody else was faster.
    async fn change<T>(&self, user: UserId, change: impl Fn(&mut Open) -> T) -> Result<T, BucketError> {
        let key = user.to_string();
        loop {
            let (open, revision) = match self.bucket.get::<Open>(&key).await? {
                Some(Kept { value, revision }) => (value, Some(revision)),
                None => (Open::default(), None),
            };
            let mut open = open.at(self.clock.now());
            let outcome = change(&mut open);
            let written = match revision {
                Some(revision) => self.bucket.update(&key, &open, revision, Some(LASTS)).await?,
                // Nothing is written where there is nothing to say.
                None if open.0.is_empty() => return Ok(outcome),
                None => self.bucket.create(&key, &open, Some(LASTS)).await?,
            };
            if written.is_some() {
                return Ok(outcome);
            }
        }
    }
}

fn lasts() -> SignedDuration {
    SignedDuration::from_secs(LASTS.as_secs().cast_signed())
}

/// What a refresh token says, without the digest.
fn named(session: Session) -> [u8; 36] {
    let mut bytes = [0; 36];
    bytes[..16].copy_from_slice(session.user.uuid().as_bytes());
    bytes[16..32].copy_from_slice(session.id.as_bytes());
    bytes[32..].copy_from_slice(&session.refreshed.to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::user;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn open(count: usize) -> (Open, Vec<Session>) {
        let mut open = Open::default();
        let session = |n: usize| Session { user: user(1), id: Uuid::from_u128(n as u128), refreshed: 0 };
        let sessions: Vec<_> = (0..count).map(session).collect();
        for (second, session) in (100..).zip(&sessions) {
            open.begin(session.id, at(second));
        }
        (open, sessions)
    }

    #[test]
    fn a_token_refreshes_once_and_used_again_ends_its_session_alone() {
        let (mut open, sessions) = open(2);
        let Refreshed::Continued(next) = open.refresh(sessions[0]) else { panic!("it goes on") };
        let Refreshed::Continued(last) = open.refresh(next) else { panic!("it goes on") };
        assert_eq!(open.refresh(next), Refreshed::Reused(user(1)));
        assert_eq!(open.refresh(last), Refreshed::Unknown, "the thief has nothing either");
        assert!(matches!(open.refresh(sessions[1]), Refreshed::Continued(_)));
    }

    #[test]
    fn sessions_are_bounded_in_number_and_time() {
        let (open, sessions) = open(MAX_SESSIONS + 1);
        assert_eq!(open.0.len(), MAX_SESSIONS);
        assert!(!open.0.contains_key(&sessions[0].id), "the oldest made room");
        let later = open.at(at(102));
        assert!(!later.0.contains_key(&sessions[2].id) && later.0.contains_key(&sessions[3].id));
    }

    #[test]
    fn an_access_token_is_recognised_as_its_sessions() {
        let (mut open, sessions) = open(3);
        let Refreshed::Continued(next) = open.refresh(sessions[1]) else { panic!("it goes on") };
        for session in [sessions[1], next] {
            assert_eq!(open.of_access(user(1), session.access()), Some(sessions[1].id));
        }
        assert_eq!(open.of_access(user(1), Uuid::nil()), None);
    }
}
