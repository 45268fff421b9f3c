//! The master key: wraps secrets, so that they can be kept where others may read.

use aws_lc_rs::hmac;
use base64::{Engine, prelude::BASE64_STANDARD};
use events::{DataKey, personal::NONCE};
use std::{fmt, str::FromStr};
use zeroize::Zeroizing;

/// The key that wraps all others. Comes from configuration and is kept nowhere else; without it nothing opens.
#[derive(Clone)]
pub struct MasterKey(DataKey);

/// A text is no master key. Does not repeat the text.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a master key is 32 bytes in base64")]
pub struct MasterKeyError;

/// What is wrapped does not open: another master key, another context, or a changed text.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("what was wrapped for {0} does not open with this master key")]
pub struct UnwrapError(String);

impl UnwrapError {
    /// About what was wrapped for this context.
    pub(super) fn new(context: impl Into<String>) -> Self {
        Self(context.into())
    }
}

impl MasterKey {
    /// A new one.
    pub fn generate() -> Self {
        Self(DataKey::new(random()))
    }

    /// The form in which it is configured. A secret.
    pub fn to_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(BASE64_STANDARD.encode(self.0.bytes()))
    }

    /// Encrypts a secret, to be kept where others may read. It opens only for the same `context`.
    pub fn wrap(&self, secret: &[u8], context: &str) -> String {
        BASE64_STANDARD.encode(self.0.encrypt(secret, context.as_bytes(), random()))
    }

    /// The secret that was wrapped for this context.
    pub fn unwrap(&self, wrapped: &str, context: &str) -> Result<Zeroizing<Vec<u8>>, UnwrapError> {
        let wrapped = BASE64_STANDARD.decode(wrapped).ok();
        let secret = wrapped.and_then(|wrapped| self.0.decrypt(&wrapped, context.as_bytes()));
        secret.ok_or_else(|| UnwrapError::new(context))
    }

    /// A key for another purpose: always the same, and says nothing of this one.
    pub fn derive(&self, purpose: &str) -> Zeroizing<[u8; 32]> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.0.bytes());
        let mut derived = Zeroizing::new([0; 32]);
        derived.copy_from_slice(hmac::sign(&key, purpose.as_bytes()).as_ref());
        derived
    }
}

impl FromStr for MasterKey {
    type Err = MasterKeyError;

    fn from_str(text: &str) -> Result<Self, MasterKeyError> {
        let bytes = BASE64_STANDARD.decode(text.trim()).map(Zeroizing::new).map_err(|_| MasterKeyError)?;
        bytes.as_slice().try_into().map(|bytes| Self(DataKey::new(bytes))).map_err(|_| MasterKeyError)
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(..)")
    }
}

/// Random bytes for keys and nonces.
#[expect(clippy::expect_used, reason = "a machine without randomness can keep nothing secret")]
pub(super) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).expect("the operating system gives randomness");
    bytes
}

/// A new nonce for [`Personal::seal`].
pub fn nonce() -> [u8; NONCE] {
    random()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_master_key_opens_what_it_wrapped_and_nothing_else() {
        let (master, other) = (MasterKey::generate(), MasterKey::generate());
        let wrapped = master.wrap(b"secret", "here");
        assert_ne!(wrapped, master.wrap(b"secret", "here"), "a nonce of its own each time");
        assert_eq!(&**master.unwrap(&wrapped, "here").unwrap(), b"secret");
        for refused in [master.unwrap(&wrapped, "there"), other.unwrap(&wrapped, "here")] {
            assert!(refused.unwrap_err().to_string().contains("here"));
        }
        assert!(master.unwrap("no base64!", "here").is_err() && master.unwrap("", "here").is_err());
    }

    #[test]
    fn a_master_key_is_read_as_it_was_written_and_never_printed() {
        let master = MasterKey::generate();
        let text = master.to_base64();
        let read: MasterKey = format!("{}\n", *text).parse().unwrap();
        assert_eq!(&**read.unwrap(&master.wrap(b"secret", ""), "").unwrap(), b"secret");
        assert_eq!(format!("{master:?}"), "MasterKey(..)");
        for bad in ["", "c2hvcnQ=", &text[1..], &format!("{}AAAA", *text)] {
            let error = bad.parse::<MasterKey>().unwrap_err();
            assert!(bad.is_empty() || !error.to_string().contains(bad), "{error}");
        }
    }
}
