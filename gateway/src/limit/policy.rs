//! What a client may do, and which client it is.

use axum::http::HeaderValue;
use nats::{QuotaKey, QuotaTerms};
use service::origin::network_of;
use std::{net::IpAddr, sync::Arc, time::Duration};
use uuid::Uuid;

/// So many requests per window and client. Cheap to clone.
///
/// A changed quota or window begins a count of its own: what was admitted under the old terms is not held against
/// the new ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitPolicy(Arc<Inner>);

#[derive(Debug, PartialEq, Eq)]
struct Inner {
    name: String,
    terms: QuotaTerms,
    header: HeaderValue,
}

/// Why a policy cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// The name stands in a header.
    #[error("the name of a limit is 1 to 64 letters, digits, hyphens and underscores")]
    Name,
    /// Nothing would ever be admitted.
    #[error("a quota is at least 1")]
    Quota,
    /// The bucket keeps nothing longer than [`MAX_WINDOW`].
    #[error("a window is whole seconds, at least 1 and at most 86400 (a day)")]
    Window,
}

/// The longest window.
const MAX_WINDOW: Duration = Duration::from_hours(24);

impl LimitPolicy {
    /// `quota` requests per `window`, from the first one on.
    pub fn new(name: &str, quota: u32, window: Duration) -> Result<Self, PolicyError> {
        let letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if name.is_empty() || name.len() > 64 || !name.bytes().all(letter) {
            return Err(PolicyError::Name);
        }
        if quota == 0 {
            return Err(PolicyError::Quota);
        }
        if window.is_zero() || window > MAX_WINDOW || window.subsec_nanos() != 0 {
            return Err(PolicyError::Window);
        }
        let header = format!("\"{name}\";q={quota};w={}", window.as_secs());
        let header = HeaderValue::try_from(header).map_err(|_| PolicyError::Name)?;
        let terms = QuotaTerms { quota, window };
        Ok(Self(Arc::new(Inner { name: name.to_owned(), terms, header })))
    }

    /// What clients see it called.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Requests per window.
    pub fn quota(&self) -> u32 {
        self.0.terms.quota
    }

    /// How long a window is, from its first request on.
    pub fn window(&self) -> Duration {
        self.0.terms.window
    }

    pub(super) fn terms(&self) -> QuotaTerms {
        self.0.terms
    }

    /// The value of `RateLimit-Policy`.
    pub(super) fn header(&self) -> HeaderValue {
        self.0.header.clone()
    }

    /// Under what the requests of `client` are counted.
    pub(super) fn key(&self, client: &LimitKey) -> QuotaKey {
        let terms = [self.quota().to_be_bytes().as_slice(), &self.window().as_secs().to_be_bytes()].concat();
        match client {
            LimitKey::Principal(user) => {
                QuotaKey::new(&[self.name().as_bytes(), &terms, b"p", user.as_bytes()])
            }
            LimitKey::Address(IpAddr::V4(address)) => {
                QuotaKey::new(&[self.name().as_bytes(), &terms, b"4", &address.octets()])
            }
            LimitKey::Address(IpAddr::V6(address)) => {
                QuotaKey::new(&[self.name().as_bytes(), &terms, b"6", &address.octets()])
            }
        }
    }
}

/// Whose requests are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LimitKey {
    /// Who has shown a token.
    Principal(Uuid),
    /// Who has not. Make it with [`LimitKey::address`].
    Address(IpAddr),
}

impl LimitKey {
    /// The key of an address. Of IPv6 the first 64 bits count, since a client is given all that share them.
    pub fn address(address: IpAddr) -> Self {
        Self::Address(network_of(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(address: &str) -> LimitKey {
        LimitKey::address(address.parse().unwrap())
    }

    #[test]
    fn clients_and_policies_are_counted_apart() {
        let policy =
            |name, quota, window| LimitPolicy::new(name, quota, Duration::from_secs(window)).unwrap();
        let user = Uuid::from_u128(7);
        let keys = [
            policy("a", 1, 1).key(&at("0.0.0.7")),
            policy("a", 1, 1).key(&at("0.0.0.8")),
            policy("a", 1, 1).key(&at("::7:0:0:0:0")),
            policy("a", 1, 1).key(&LimitKey::Principal(user)),
            policy("b", 1, 1).key(&at("0.0.0.7")),
            policy("a", 2, 1).key(&at("0.0.0.7")),
            policy("a", 1, 2).key(&at("0.0.0.7")),
        ];
        for (index, key) in keys.iter().enumerate() {
            assert!(!keys[..index].contains(key), "{index}");
        }
        assert_eq!(keys[0], policy("a", 1, 1).key(&at("0.0.0.7")));
    }

    #[test]
    fn a_policy_can_be_kept_and_be_written_into_a_header() {
        let policy = |name, quota, seconds| LimitPolicy::new(name, quota, Duration::from_secs(seconds));
        assert_eq!(policy("login", 5, 60).unwrap().header(), "\"login\";q=5;w=60");
        let long = "x".repeat(65);
        for name in ["", "a b", "a\"b", "ä", &long] {
            assert_eq!(policy(name, 5, 60), Err(PolicyError::Name), "{name}");
        }
        assert_eq!(policy("a", 0, 60), Err(PolicyError::Quota));
        assert_eq!(policy("a", 1, 0), Err(PolicyError::Window));
        assert_eq!(policy("a", 1, 86_401), Err(PolicyError::Window));
        assert_eq!(LimitPolicy::new("a", 1, Duration::from_millis(1500)), Err(PolicyError::Window));
    }
}
