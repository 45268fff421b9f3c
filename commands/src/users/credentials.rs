//! Passwords: hashed with argon2id, kept in a bucket of the users service, and in no other place.

use argon2::{Argon2, PasswordHasher, PasswordVerifier};
use aws_lc_rs::{error::Unspecified, rand};
use events::UserId;
use nats::{Bucket, BucketConfig, BucketError, Connection, TopologyError};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use service::Problem;
use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::spawn_blocking,
    time::timeout,
};

/// Characters of a password: long enough that it cannot be guessed, short enough that hashing it takes no time of its own.
const LENGTH: std::ops::RangeInclusive<usize> = 12..=128;
/// How long somebody waits for one of the places where passwords are hashed.
const PATIENCE: Duration = Duration::from_secs(5);

/// A password as it was typed. Never printed, never written; overwritten in memory when it is dropped.
#[derive(Clone, Debug)]
pub(super) struct Password(SecretString);

impl<'de> Deserialize<'de> for Password {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Not serde's own words for what is no text: they would repeat it in the answer.
        match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::String(text) => Ok(Self(text.into())),
            _ => Err(D::Error::custom("a password is a text")),
        }
    }
}

impl Password {
    /// Refuses what is too short or too long to be set; `field` is where it was sent.
    pub(super) fn check(&self, field: &'static str) -> Result<(), Problem> {
        if LENGTH.contains(&self.0.expose_secret().chars().count()) {
            return Ok(());
        }
        let detail = format!("A password has {} to {} characters.", LENGTH.start(), LENGTH.end());
        Err(Problem::invalid("password-invalid", field, detail))
    }

    fn hash(&self) -> Result<String, CredentialError> {
        let mut salt = [0; 16];
        rand::fill(&mut salt)?;
        let hash = hasher().hash_password_with_salt(self.0.expose_secret().as_bytes(), &salt)?;
        Ok(hash.to_string())
    }

    fn matches(&self, hash: &str) -> bool {
        hasher().verify_password(self.0.expose_secret().as_bytes(), hash).is_ok()
    }
}

/// argon2id with 19 MiB, 2 passes and 1 lane: the defaults of the crate, and what OWASP recommends
/// (<https://cheatsheetseries.owasp.org/cheatsheets/Password_Storage_Cheat_Sheet.html>).
fn hasher() -> Argon2<'static> {
    Argon2::default()
}

/// The hash of no password, with the same parameters as every other: what is compared where there is no user, so that the
/// answer takes as long.
static NOBODY: LazyLock<String> = LazyLock::new(|| {
    let hash = hasher().hash_password_with_salt(b"", &[0; 16]);
    hash.map(|hash| hash.to_string()).unwrap_or_default()
});

/// What is kept of a password.
#[derive(Serialize, Deserialize)]
struct Credential {
    /// In PHC form, which names its parameters.
    hash: String,
}

/// Why a password could be neither set nor compared.
#[derive(Debug, thiserror::Error)]
pub(super) enum CredentialError {
    /// The bucket cannot be reached.
    #[error(transparent)]
    Away(#[from] BucketError),
    /// There are no random numbers for a salt.
    #[error("there are no random numbers")]
    Random(#[from] Unspecified),
    /// It cannot be hashed.
    #[error("a password cannot be hashed: {0}")]
    Hash(#[from] argon2::password_hash::Error),
    /// Hashing it panicked, which was logged.
    #[error("hashing a password failed")]
    Task(#[from] tokio::task::JoinError),
}

/// A password that was the right one.
pub(super) struct Verified(u64);

/// The right to hash one password: it takes 19 MiB and a processor for tens of milliseconds.
pub(super) struct Place(OwnedSemaphorePermit);

/// The passwords of all users. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Credentials {
    bucket: Bucket,
    /// As many as there are processors: more would only make everybody slower, and take memory.
    places: Arc<Semaphore>,
}

/// How the bucket has to be.
pub(super) fn config(replicas: usize) -> BucketConfig {
    let (name, description) = ("CREDENTIALS", "Hashes of passwords (argon2id)");
    BucketConfig { name, description, max_age: Duration::ZERO, replicas }
}

impl Credentials {
    /// Opens the bucket.
    pub(super) async fn open(connection: &Connection, replicas: usize) -> Result<Self, TopologyError> {
        let places = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            bucket: Bucket::ensure(connection, &config(replicas)).await?,
            places: Arc::new(Semaphore::new(places)),
        })
    }

    /// Waits for a place to hash a password, not for ever.
    pub(super) async fn place(&self) -> Result<Place, Problem> {
        match timeout(PATIENCE, Arc::clone(&self.places).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(Place(permit)),
            _ => Err(Problem::unavailable("busy", "Too many passwords are being checked at this moment.", 1)),
        }
    }

    /// Sets the first password of a user; says whether there was none.
    pub(super) async fn set_first(
        &self,
        user: UserId,
        password: Password,
        place: Place,
    ) -> Result<bool, CredentialError> {
        let hash = hashing(place, move || password.hash()).await??;
        Ok(self.bucket.create(&user.to_string(), &Credential { hash }, None).await?.is_some())
    }

    /// Sets another password in place of the one that was verified; says whether it was still that one.
    pub(super) async fn set(
        &self,
        user: UserId,
        password: Password,
        verified: Verified,
        place: Place,
    ) -> Result<bool, CredentialError> {
        let hash = hashing(place, move || password.hash()).await??;
        let written = self.bucket.update(&user.to_string(), &Credential { hash }, verified.0, None).await?;
        Ok(written.is_some())
    }

    /// Compares with the user's password; `None` where it is another. It takes as long where there is no user.
    pub(super) async fn verify(
        &self,
        user: Option<UserId>,
        password: Password,
        place: Place,
    ) -> Result<Option<Verified>, CredentialError> {
        // Nobody has the smallest of all ids.
        let key = user.map_or_else(uuid::Uuid::nil, UserId::uuid).to_string();
        let kept = self.bucket.get::<Credential>(&key).await?;
        let known = kept.as_ref().filter(|_| user.is_some()).map(|kept| Verified(kept.revision));
        let matches =
            hashing(place, move || password.matches(kept.as_ref().map_or(&NOBODY, |kept| &kept.value.hash)));
        let matches = matches.await?;
        Ok(known.filter(|_| matches))
    }

    /// Forgets the password of a user.
    pub(super) async fn remove(&self, user: UserId) -> Result<(), BucketError> {
        self.bucket.remove(&user.to_string()).await
    }
}

/// Hashes where it holds up nobody, and gives the place back.
async fn hashing<T: Send + 'static>(
    Place(permit): Place,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, tokio::task::JoinError> {
    spawn_blocking(move || {
        let outcome = work();
        drop(permit);
        outcome
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(text: &str) -> Password {
        serde_json::from_value(text.into()).unwrap()
    }

    #[test]
    fn a_hash_is_argon2id_as_owasp_asks_and_never_the_same() {
        let typed = password("correct horse battery");
        let (one, two) = (typed.hash().unwrap(), typed.hash().unwrap());
        assert!(one.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{one}");
        assert_eq!(NOBODY.split('$').nth(3), one.split('$').nth(3), "takes as long");
        assert_ne!(one, two);
        assert!(typed.matches(&one) && !password("correct horse batterx").matches(&one));
        assert!(!password("").matches("") && !typed.matches("nonsense"));
    }

    #[test]
    fn what_is_no_password_is_not_repeated() {
        for (text, fits) in [
            ("x".repeat(11), false),
            ("ä".repeat(12), true),
            ("x".repeat(128), true),
            ("x".repeat(129), false),
        ] {
            assert_eq!(password(&text).check("password").is_ok(), fits, "{text}");
        }
        let error = serde_json::from_str::<Password>("12345678901234").unwrap_err().to_string();
        assert!(!error.contains("1234"), "{error}");
        assert!(!format!("{:?}", password("correct horse battery")).contains("horse"));
    }
}
