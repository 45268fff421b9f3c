//! Which key signs, which keys are published, and when the next one is due. Pure: the time is an argument.
//!
//! ```text
//! key 1  |--- published, signs -----------------------|--- published ----|
//! key 2                              |- published ----|--- published, signs ---
//!                                    due: LEAD before  `from` of key 2   retired: RETIRE after it
//! ```

use super::MAX_LIFETIME;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// How long a key signs.
pub(super) const ROTATION: SignedDuration = SignedDuration::from_hours(30 * 24);
/// How long a key is published before it signs: by then whoever keeps a copy of the key set has read it again.
pub(super) const LEAD: SignedDuration = SignedDuration::from_hours(1);
/// How long a key is published after it has signed for the last time: until the last token has expired, and an hour for
/// clocks that disagree.
pub(super) const RETIRE: SignedDuration =
    SignedDuration::from_secs(MAX_LIFETIME.as_secs().cast_signed() + 3600);

/// The keys that are published, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ring {
    pub(super) keys: Vec<RingKey>,
}

/// One key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RingKey {
    /// Its name in tokens and in the key set.
    pub(super) kid: String,
    /// The public half: 32 bytes in base64url.
    pub(super) public: String,
    /// The private half, PKCS#8, wrapped by the master key.
    pub(super) wrapped: String,
    /// When it begins to sign.
    pub(super) from: Timestamp,
}

impl Ring {
    /// The key that signs.
    pub(super) fn signing(&self, now: Timestamp) -> Option<&RingKey> {
        // Where the clock of whoever made the first key is ahead, that key has to do.
        self.keys.iter().rfind(|key| key.from <= now).or_else(|| self.keys.first())
    }

    /// The keys that tokens are checked with.
    pub(super) fn published(&self, now: Timestamp) -> &[RingKey] {
        let retired = |next: &&RingKey| now.duration_since(next.from) >= RETIRE;
        let gone = self.keys.iter().skip(1).take_while(retired).count();
        &self.keys[gone..]
    }

    /// When the next key begins to sign, if it has to be published now.
    pub(super) fn due(&self, now: Timestamp) -> Option<Timestamp> {
        let Some(newest) = self.keys.last() else { return Some(now) };
        let age = now.duration_since(newest.from);
        // After a long sleep nobody has read a new key yet, so that the old one signs a little longer.
        (age >= ROTATION - LEAD).then(|| (newest.from + ROTATION).max(now + LEAD))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hours: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + hours * 3600).unwrap()
    }

    fn ring(from: &[i64]) -> Ring {
        let key = |hours: &i64| RingKey {
            kid: hours.to_string(),
            public: String::new(),
            wrapped: String::new(),
            from: at(*hours),
        };
        Ring { keys: from.iter().map(key).collect() }
    }

    #[test]
    fn the_first_key_signs_at_once() {
        assert_eq!(Ring::default().due(at(5)), Some(at(5)));
        assert!(Ring::default().signing(at(5)).is_none());
        assert_eq!(ring(&[5]).signing(at(4)).unwrap().kid, "5", "whatever another clock says");
    }

    #[test]
    fn a_key_is_published_before_it_signs_and_until_its_last_token_has_expired() {
        let month = 30 * 24;
        assert_eq!(ring(&[0]).due(at(month - 2)), None);
        assert_eq!(ring(&[0]).due(at(month - 1)), Some(at(month)));
        assert_eq!(ring(&[0]).due(at(month * 3)), Some(at(month * 3 + 1)));
        let ring = ring(&[0, month]);
        assert_eq!(ring.due(at(month)), None);
        let kids = |hours| {
            let published: Vec<_> = ring.published(at(hours)).iter().map(|key| key.kid.as_str()).collect();
            (ring.signing(at(hours)).unwrap().kid.clone(), published.join(" "))
        };
        assert_eq!(kids(month - 1), ("0".to_owned(), "0 720".to_owned()));
        assert_eq!(kids(month), ("720".to_owned(), "0 720".to_owned()));
        assert_eq!(kids(month + 24), ("720".to_owned(), "0 720".to_owned()));
        assert_eq!(kids(month + 25), ("720".to_owned(), "720".to_owned()));
    }
}
