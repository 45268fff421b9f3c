//! Access tokens: JWT signed with Ed25519 keys, whose public halves are published as a key set.

mod keys;
mod ring;

pub(super) use keys::config;
pub use keys::{Keys, OpenError, SIGNING_KEYS, TokenError};

use jiff::{SignedDuration, Timestamp};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use service::{
    Clock,
    auth::{Claims, Role},
};
use std::time::Duration;
use uuid::Uuid;

/// How long an access token is valid, unless another time is asked for.
pub const ACCESS: Duration = Duration::from_mins(15);
/// The longest time for which a token is issued: so long a key stays published after it has signed for the last time.
pub const MAX_LIFETIME: Duration = Duration::from_hours(24);

/// Issues access tokens. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Issuer {
    keys: Keys,
    clock: Clock,
}

/// A token, and when it ends.
#[derive(Clone)]
pub struct Issued {
    /// The token: whoever has it is believed. Never printed by anything but `waybill token`.
    pub token: String,
    /// From when it is no longer valid.
    pub expires: Timestamp,
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Issued(expires {})", self.expires)
    }
}

impl Issuer {
    /// An issuer that signs with these keys.
    pub fn new(keys: Keys, clock: Clock) -> Self {
        Self { keys, clock }
    }

    /// The keys it signs with.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// A token named `id` for `user`, who may do what `roles` may. Valid for `lifetime`, at most [`MAX_LIFETIME`].
    pub async fn issue(
        &self,
        user: Uuid,
        roles: Vec<Role>,
        id: Uuid,
        lifetime: Duration,
    ) -> Result<Issued, TokenError> {
        let (now, lifetime) = (self.clock.now(), lifetime.min(MAX_LIFETIME));
        // A day at most: no duration of that size is out of range.
        let lifetime = SignedDuration::try_from(lifetime).unwrap_or(SignedDuration::ZERO);
        let (kid, key) = self.keys.signing(now).await?;
        let claims = Claims::new(user, roles, id, now, lifetime);
        let header = Header { kid: Some(kid), ..Header::new(Algorithm::EdDSA) };
        let token = jsonwebtoken::encode(&header, &claims, &EncodingKey::from_ed_der(&key))?;
        let expires = Timestamp::from_second(claims.exp).unwrap_or(Timestamp::MAX);
        Ok(Issued { token, expires })
    }
}
