//! The keys that sign access tokens: kept in a bucket, private halves wrapped by the master key, replaced in time.

use super::ring::{Ring, RingKey};
use aws_lc_rs::{
    error::{KeyRejected, Unspecified},
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jiff::Timestamp;
use nats::{Bucket, BucketConfig, BucketError, Connection, MasterKey, TopologyError};
use serde_json::json;
use service::Clock;
use std::{sync::Arc, time::Duration};
use zeroize::Zeroizing;

/// The bucket.
pub const SIGNING_KEYS: &str = "SIGNING_KEYS";
/// The one entry of the bucket: all keys change together or not at all.
const ENTRY: &str = "ring";
/// How often somebody looks whether a key is due.
const TEND: Duration = Duration::from_mins(10);

/// The keys of the tokens' issuer. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Keys {
    bucket: Bucket,
    master: Arc<MasterKey>,
}

/// Why no token can be issued.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The keys cannot be reached.
    #[error("the signing keys cannot be reached")]
    Away(#[from] BucketError),
    /// Nobody made a key.
    #[error("there is no signing key yet")]
    Missing,
    /// The master key is not the one under which they were wrapped.
    #[error("the signing keys do not open with this master key")]
    Locked(#[source] nats::UnwrapError),
    /// A key cannot be used.
    #[error("a signing key cannot be used")]
    Key(#[from] KeyRejected),
    /// No key can be made.
    #[error("no signing key can be made")]
    Random(#[from] Unspecified),
    /// The token cannot be signed.
    #[error("a token cannot be signed")]
    Sign(#[from] jsonwebtoken::errors::Error),
}

/// How the bucket has to be.
pub(in crate::users) fn config(replicas: usize) -> BucketConfig {
    let (name, description) = (SIGNING_KEYS, "Keys that sign access tokens, wrapped by the master key");
    BucketConfig { name, description, max_age: Duration::ZERO, replicas }
}

impl Keys {
    /// Opens the bucket, and makes the first key where there is none.
    pub async fn open(
        connection: &Connection,
        master: &MasterKey,
        replicas: usize,
        clock: &Clock,
    ) -> Result<Self, OpenError> {
        let keys = Self::consult(connection, master, replicas).await?;
        keys.tend(clock).await?;
        Ok(keys)
    }

    /// Opens the bucket for whoever checks tokens, or signs them, and does not look after the keys.
    pub async fn consult(
        connection: &Connection,
        master: &MasterKey,
        replicas: usize,
    ) -> Result<Self, OpenError> {
        let bucket = Bucket::ensure(connection, &config(replicas)).await?;
        Ok(Self { bucket, master: Arc::new(master.clone()) })
    }

    /// Opens it in either way: whoever may not make streams does not look after the keys either.
    pub async fn open_as(
        connection: &Connection,
        master: &MasterKey,
        replicas: usize,
        clock: &Clock,
    ) -> Result<Self, OpenError> {
        if connection.makes() {
            return Self::open(connection, master, replicas, clock).await;
        }
        Self::consult(connection, master, replicas).await
    }

    /// Publishes the next key where it is due, and drops those that checked their last token. Any number of processes
    /// may do this at once.
    pub async fn tend(&self, clock: &Clock) -> Result<(), TokenError> {
        loop {
            let now = clock.now();
            let (ring, revision) = match self.bucket.get::<Ring>(ENTRY).await? {
                Some(kept) => (kept.value, Some(kept.revision)),
                None => (Ring::default(), None),
            };
            let mut next = Ring { keys: ring.published(now).to_vec() };
            if let Some(from) = ring.due(now) {
                next.keys.push(self.generate(clock, from)?);
            }
            if next == ring {
                return Ok(());
            }
            let written = match revision {
                Some(revision) => self.bucket.update(ENTRY, &next, revision, None).await?,
                None => self.bucket.create(ENTRY, &next, None).await?,
            };
            // Where somebody else was faster, its keys are looked at.
            if written.is_some() {
                tracing::info!(published = next.keys.len(), "signing keys changed");
                return Ok(());
            }
        }
    }

    /// Tends the keys for ever.
    pub(crate) async fn keep(self, clock: Clock) {
        loop {
            if let Err(error) = self.tend(&clock).await {
                tracing::warn!(%error, "the signing keys cannot be looked after");
            }
            tokio::time::sleep(TEND).await;
        }
    }

    /// The public keys as a JSON Web Key Set (RFC 7517).
    pub async fn jwks(&self, now: Timestamp) -> Result<String, TokenError> {
        let ring = self.ring().await?;
        let key = |key: &RingKey| json!({ "kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": key.kid, "x": key.public });
        Ok(json!({ "keys": ring.published(now).iter().map(key).collect::<Vec<_>>() }).to_string())
    }

    /// The name and the private half (PKCS#8) of the key that signs.
    pub(super) async fn signing(&self, now: Timestamp) -> Result<(String, Zeroizing<Vec<u8>>), TokenError> {
        let ring = self.ring().await?;
        let RingKey { kid, wrapped, .. } = ring.signing(now).ok_or(TokenError::Missing)?;
        let private = self.master.unwrap(wrapped, &context(kid)).map_err(TokenError::Locked)?;
        Ok((kid.clone(), private))
    }

    async fn ring(&self) -> Result<Ring, TokenError> {
        // Read every time, which costs less than the signature, so that no process signs with a key that others have
        // already retired.
        Ok(self.bucket.get(ENTRY).await?.ok_or(TokenError::Missing)?.value)
    }

    fn generate(&self, clock: &Clock, from: Timestamp) -> Result<RingKey, TokenError> {
        let private = Ed25519KeyPair::generate_pkcs8v1(&SystemRandom::new())?;
        let pair = Ed25519KeyPair::from_pkcs8(private.as_ref())?;
        let kid = clock.uuid().to_string();
        let public = BASE64_URL_SAFE_NO_PAD.encode(pair.public_key());
        let wrapped = self.master.wrap(private.as_ref(), &context(&kid));
        Ok(RingKey { kid, public, wrapped, from })
    }
}

/// Binds a wrapped key to its name.
fn context(kid: &str) -> String {
    format!("signing-key {kid}")
}

/// Why the keys cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The bucket is not as it has to be.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// No key can be made, or read.
    #[error(transparent)]
    Token(#[from] TokenError),
}
