//! What a consumer does about a message that it cannot handle, as data.

use events::ops::Holds;
use std::{fmt, num::NonZeroU32, str::FromStr};

/// What a consumer does about a message that it cannot handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Tries for ever. The messages of its aggregate wait, unacknowledged; when too many do, the consumer stands still.
    Retry,
    /// Tries so often, then parks it. Later messages of its aggregate queue behind it, all others go on.
    Park(NonZeroU32),
    /// Tries so often, then parks it and stands still until an operator has seen to it.
    Pause(NonZeroU32),
    /// Tries so often, then passes over it, and says so in the stream of operations.
    Skip(NonZeroU32),
}

/// With the pauses between them about half a minute.
const ATTEMPTS: NonZeroU32 = NonZeroU32::new(12).unwrap();

impl Default for Policy {
    fn default() -> Self {
        Self::Park(ATTEMPTS)
    }
}

impl Policy {
    /// Whether that was the last try.
    pub(super) fn gives_up(self, attempts: u32) -> bool {
        match self {
            Self::Retry => false,
            Self::Park(most) | Self::Pause(most) | Self::Skip(most) => attempts >= most.get(),
        }
    }

    /// What a parked message holds up.
    pub fn holds(self) -> Holds {
        if matches!(self, Self::Pause(_)) { Holds::Consumer } else { Holds::Aggregate }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Retry => f.write_str("retry"),
            Self::Park(attempts) => write!(f, "park:{attempts}"),
            Self::Pause(attempts) => write!(f, "pause:{attempts}"),
            Self::Skip(attempts) => write!(f, "skip:{attempts}"),
        }
    }
}

/// Why a text is no policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected retry, park:<attempts>, pause:<attempts> or skip:<attempts>, after a consumer's name and = where it is for one"
)]
pub struct PolicyError;

impl FromStr for Policy {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let (word, attempts) = text.split_once(':').map_or((text, None), |(word, n)| (word, Some(n)));
        let attempts = attempts.map(str::parse).transpose().map_err(|_| PolicyError)?;
        match (word, attempts) {
            ("retry", None) => Ok(Self::Retry),
            ("park", attempts) => Ok(Self::Park(attempts.unwrap_or(ATTEMPTS))),
            ("pause", attempts) => Ok(Self::Pause(attempts.unwrap_or(ATTEMPTS))),
            ("skip", attempts) => Ok(Self::Skip(attempts.unwrap_or(ATTEMPTS))),
            _ => Err(PolicyError),
        }
    }
}

/// The policies of all consumers. Written `park:12,shipping-payments=retry`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policies {
    usual: Policy,
    of: Vec<(String, Policy)>,
}

impl Policies {
    /// The consumers that have a policy of their own, by their durable names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.of.iter().map(|(name, _)| name.as_str())
    }

    /// The policy of a consumer, by its durable name.
    pub fn of(&self, durable: &str) -> Policy {
        self.of.iter().find(|(name, _)| name == durable).map_or(self.usual, |(_, policy)| *policy)
    }
}

impl FromStr for Policies {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let mut policies = Self::default();
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            match word.split_once('=') {
                Some((name, policy)) => policies.of.push((name.to_owned(), policy.parse()?)),
                None => policies.usual = word.parse()?,
            }
        }
        Ok(policies)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_consumer_has_its_own_policy_or_the_usual_one() {
        let policies: Policies = "pause:3, a-b=retry,a-c=skip:1,a-d=park".parse().unwrap();
        for (durable, policy) in
            [("a-b", "retry"), ("a-c", "skip:1"), ("a-d", "park:12"), ("other", "pause:3")]
        {
            assert_eq!(policies.of(durable).to_string(), policy);
        }
        assert_eq!(Policies::default(), "".parse().unwrap());
        for bad in ["park:0", "retry:3", "drop", "a-b=", "park:x"] {
            assert_eq!(bad.parse::<Policies>(), Err(PolicyError), "{bad}");
        }
    }

    #[test]
    fn only_the_last_try_gives_up() {
        let policy: Policy = "park:3".parse().unwrap();
        assert_eq!([1, 2, 3, 4].map(|attempts| policy.gives_up(attempts)), [false, false, true, true]);
        assert!(!Policy::Retry.gives_up(u32::MAX));
    }
}
