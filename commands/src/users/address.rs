//! E-mail addresses: one form for each, and the digest that stands for it in the log.

use aws_lc_rs::hmac;
use email_address::{EmailAddress, Options};
use events::users::EmailHash;
use serde::Serialize;
use service::Problem;

/// Characters of an address (RFC 5321, section 4.5.3.1.3, without the angle brackets).
const MAX_ADDRESS: usize = 254;

/// An e-mail address. Personal data: never printed.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Address {
    written: String,
}

impl Address {
    /// Reads an address: `local@domain.tld`, without a display name.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let written = text.trim();
        let options = Options::default().with_required_tld().without_display_text().without_domain_literal();
        let fits = written.chars().count() <= MAX_ADDRESS;
        let valid = fits && EmailAddress::parse_with_options(written, options).is_ok();
        valid.then(|| Self { written: written.to_owned() })
    }

    /// Reads an address from a field of a request.
    pub(super) fn of_field(text: &str) -> Result<Self, Problem> {
        let refused = || Problem::invalid("email-invalid", "email", "This is no e-mail address.");
        Self::parse(text).ok_or_else(refused)
    }

    /// As its owner writes it.
    pub(super) fn written(&self) -> &str {
        &self.written
    }
}

/// Turns addresses into digests. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Digester(hmac::Key);

impl Digester {
    /// Under this key, which nobody knows who can read the log.
    pub(super) const fn new(key: hmac::Key) -> Self {
        Self(key)
    }

    /// Stands for an address, however it is written. Mail servers may tell capital letters apart; people do not.
    pub(super) fn email(&self, address: &Address) -> EmailHash {
        self.of(address.written.to_lowercase().as_bytes())
    }

    /// Stands for an address that is none: attempts on it are counted like any others.
    pub(super) fn no_email(&self, text: &str) -> EmailHash {
        self.of(text.as_bytes())
    }

    /// Stands for a request: what is remembered of it reveals no personal data.
    pub(super) fn request(&self, request: &impl Serialize) -> String {
        // Requests were read from JSON and always serialize.
        self.digest(&serde_json::to_vec(request).unwrap_or_default())
    }

    fn digest(&self, bytes: &[u8]) -> String {
        hex(hmac::sign(&self.0, bytes).as_ref())
    }

    #[expect(clippy::expect_used, reason = "64 hexadecimal digits are what a digest is")]
    fn of(&self, bytes: &[u8]) -> EmailHash {
        self.digest(bytes).parse().expect("a digest of 32 bytes")
    }
}

/// Bytes in lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_from_what_is_none() {
        for good in
            ["ada@example.com", " Ada.Lovelace+tea@Example.co.uk ", "o'hara@example.org", "ä@exämple.de"]
        {
            assert!(Address::parse(good).is_some(), "{good}");
        }
        let long = format!("{}@example.com", "x".repeat(250));
        for bad in [
            "",
            "ada",
            "ada@",
            "@example.com",
            "ada@localhost",
            "ada@[127.0.0.1]",
            "Ada <ada@example.com>",
            "a b@example.com",
            &long,
        ] {
            assert!(Address::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn an_address_has_one_digest_however_it_is_written() {
        let digester = |key: u8| Digester::new(hmac::Key::new(hmac::HMAC_SHA256, &[key; 32]));
        let digest = |key, text: &str| digester(key).email(&Address::parse(text).unwrap());
        assert_eq!(digest(1, "Ada@Example.COM "), digest(1, "ada@example.com"));
        assert_ne!(digest(1, "ada@example.com"), digest(1, "bob@example.com"));
        assert_ne!(digest(1, "ada@example.com"), digest(2, "ada@example.com"), "nobody can compute it");
    }
}
