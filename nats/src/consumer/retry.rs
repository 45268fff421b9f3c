//! Why a message could not be handled now: because of the world, or because of what it says.

use crate::{AppendError, BucketError, KeyError, LoadError, ParkingError};
use events::DecodeError;
use std::fmt::Display;

/// Why a message could not be handled now. It is tried again.
#[derive(Debug, thiserror::Error)]
pub enum Retry {
    /// Something that it needs cannot be reached, or gave no answer: a service, NATS, a carrier. That says nothing of
    /// the message, so it is tried until the world is back, and uses up none of its attempts.
    #[error("{0}")]
    World(String),
    /// The message, as far as anybody can tell: it would fail with everybody there. It has so many attempts as its
    /// consumer's [`Policy`](crate::Policy) says.
    #[error("{0}")]
    Message(String),
}

impl Retry {
    /// The world is to blame.
    pub fn world(why: impl Display) -> Self {
        Self::World(why.to_string())
    }

    /// The message is to blame.
    pub fn message(why: impl Display) -> Self {
        Self::Message(why.to_string())
    }

    /// Who is to blame, in a word.
    pub(super) fn cause(&self) -> &'static str {
        match self {
            Self::World(_) => "world",
            Self::Message(_) => "message",
        }
    }
}

impl From<LoadError> for Retry {
    fn from(error: LoadError) -> Self {
        Self::from(&error)
    }
}

impl From<&LoadError> for Retry {
    fn from(error: &LoadError) -> Self {
        match error {
            LoadError::Unavailable { .. } => Self::world(error),
            LoadError::Foreign { .. } => Self::message(error),
        }
    }
}

impl From<BucketError> for Retry {
    fn from(error: BucketError) -> Self {
        match error {
            BucketError::Away { .. } => Self::world(error),
            BucketError::Unreadable { .. } => Self::message(error),
        }
    }
}

impl From<KeyError> for Retry {
    fn from(error: KeyError) -> Self {
        Self::from(&error)
    }
}

impl From<&KeyError> for Retry {
    fn from(error: &KeyError) -> Self {
        match error {
            KeyError::Away(BucketError::Away { .. }) => Self::world(error),
            KeyError::Away(BucketError::Unreadable { .. })
            | KeyError::Erased(_)
            | KeyError::Unwrap(_)
            | KeyError::Open(_) => Self::message(error),
        }
    }
}

impl From<AppendError> for Retry {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Conflict | AppendError::Unavailable(_) | AppendError::Unknown => Self::world(error),
            AppendError::TooLarge { .. } | AppendError::Refused { .. } => Self::message(error),
        }
    }
}

impl From<ParkingError> for Retry {
    fn from(error: ParkingError) -> Self {
        match error {
            ParkingError::Bucket(error) => error.into(),
            ParkingError::Append(error) => error.into(),
            ParkingError::Load(error) => error.into(),
        }
    }
}

impl From<DecodeError> for Retry {
    fn from(error: DecodeError) -> Self {
        Self::message(error)
    }
}
