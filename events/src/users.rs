//! What happens to users, and to the e-mail addresses they are known by.
//!
//! Names and addresses are personal: sealed under a key of the user ([`Personal`]). Passwords are in no fact.

use crate::{Address, Currency, Personal, UserId, fact::facts, text};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{borrow::Cow, fmt, str::FromStr, sync::Arc};

facts! {
    /// What happened to a user.
    UserEvent {
        /// Somebody registered.
        Created(UserCreated) = "user.created" 1,
        /// The name, the e-mail address or the postal addresses changed.
        ProfileUpdated(UserProfileUpdated) = "user.profile.updated" 1,
        /// The preferences changed.
        PreferencesUpdated(UserPreferencesUpdated) = "user.preferences.updated" 1,
        /// The user wants to hear of a topic.
        Subscribed(UserSubscribed) = "user.subscribed" 1,
        /// The user no longer wants to hear of a topic.
        Unsubscribed(UserUnsubscribed) = "user.unsubscribed" 1,
        /// An admin changed what the user may do.
        RolesChanged(UserRolesChanged) = "user.roles.changed" 1,
        /// The user is forgotten.
        Erased(UserErased) = "user.erased" 1,
    }
}

facts! {
    /// What happened to an e-mail address.
    EmailEvent {
        /// It is a user's, and nobody else's.
        Claimed(EmailClaimed) = "email.claimed" 1,
        /// It is nobody's again.
        Released(EmailReleased) = "email.released" 1,
    }
}

/// What somebody may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Sees and orders for himself.
    Customer,
    /// Sees and acts for everybody.
    Operator,
    /// An operator who also says who may do what.
    Admin,
}

/// How a user wants to be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Channel {
    /// By e-mail.
    Email,
    /// By text message.
    Sms,
    /// On the devices.
    Push,
}

/// What a user prefers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Preferences {
    /// Language, a BCP 47 tag such as `de-AT`.
    pub language: String,
    /// Ways to be reached, each at most once.
    pub channels: Vec<Channel>,
    /// Currency in which prices are shown, where one is preferred.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub currency: Option<Currency>,
}

impl Default for Preferences {
    /// English, by e-mail.
    fn default() -> Self {
        Self { language: "en".to_owned(), channels: vec![Channel::Email], currency: None }
    }
}

/// Somebody registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UserCreated {
    /// The user.
    pub user_id: UserId,
    /// What the user is called.
    pub name: Personal<String>,
    /// The e-mail address.
    pub email: Personal<String>,
    /// Which `email` aggregate guards it.
    pub email_hash: EmailHash,
    /// What the user prefers.
    pub preferences: Preferences,
    /// What the user may do.
    pub roles: Vec<Role>,
}

/// The name, the e-mail address or the postal addresses changed; what is missing did not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UserProfileUpdated {
    /// The user.
    pub user_id: UserId,
    /// The new name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Personal<String>>,
    /// The new e-mail address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<Personal<String>>,
    /// Which `email` aggregate guards the new address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email_hash: Option<EmailHash>,
    /// All postal addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addresses: Option<Personal<Vec<Address>>>,
}

/// The preferences changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UserPreferencesUpdated {
    /// The user.
    pub user_id: UserId,
    /// All of them.
    pub preferences: Preferences,
}

/// The user wants to hear of a topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UserSubscribed {
    /// The user.
    pub user_id: UserId,
    /// Of what.
    pub topic: Topic,
}

/// The user no longer wants to hear of a topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UserUnsubscribed {
    /// The user.
    pub user_id: UserId,
    /// Of what.
    pub topic: Topic,
}

/// An admin changed what the user may do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UserRolesChanged {
    /// The user.
    pub user_id: UserId,
    /// All of them, at least one.
    pub roles: Vec<Role>,
}

/// The user is forgotten: the key of everything personal is destroyed, and read models drop what they know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UserErased {
    /// The user.
    pub user_id: UserId,
    /// What the user was subscribed to until now.
    pub topics: Vec<Topic>,
}

/// An e-mail address is a user's, and nobody else's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EmailClaimed {
    /// The address.
    pub email_hash: EmailHash,
    /// Whose.
    pub user_id: UserId,
}

/// An e-mail address is nobody's again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EmailReleased {
    /// The address.
    pub email_hash: EmailHash,
    /// Whose it was.
    pub user_id: UserId,
}

/// Declares a checked text: its form, what an error says of it, and the pattern of its schema.
macro_rules! texts {
    ($($(#[$doc:meta])* $name:ident, $error:ident = $what:literal, $pattern:literal, $fits:expr);+ $(;)?) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        #[doc = concat!("Why a text is no [`", stringify!($name), "`].")]
        #[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
        #[error($what)]
        pub struct $error;

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = $error;

            fn from_str(text: &str) -> Result<Self, $error> {
                let fits: fn(&str) -> bool = $fits;
                if fits(text) { Ok(Self(text.into())) } else { Err($error) }
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                text::parsed(deserializer, stringify!($name))
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "pattern": $pattern })
            }
        }
    )+};
}

pub(crate) use texts;

texts! {
    /// A topic that users subscribe to: 1 to 64 of `a-z 0-9 _ -`. Cheap to clone.
    Topic, TopicError = "a topic is 1 to 64 of a-z 0-9 _ -", "^[a-z0-9_-]{1,64}$", |text| {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
        (1..=64).contains(&text.len()) && text.bytes().all(allowed)
    };

    /// Stands for an e-mail address without revealing it: a keyed digest (HMAC-SHA256) of 64 hexadecimal digits, which
    /// is one token of a subject. Cheap to clone.
    EmailHash, EmailHashError = "the digest of an e-mail address is 64 of 0-9 a-f", "^[0-9a-f]{64}$",
        |text| text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_and_digests_are_checked_wherever_they_come_from() {
        for good in ["a", "order-updates", "news-2026_1", &"x".repeat(64)] {
            assert_eq!(good.parse::<Topic>().unwrap().as_str(), good);
        }
        for bad in ["", "News", "a b", "a/b", "a.b", "ä", "*", ">", &"x".repeat(65)] {
            assert!(bad.parse::<Topic>().is_err(), "{bad}");
            assert!(serde_json::from_value::<Topic>(bad.into()).is_err(), "{bad}");
        }
        assert!("0f".repeat(32).parse::<EmailHash>().is_ok());
        for bad in ["", "0f", &"0F".repeat(32), &"0g".repeat(32), &"0f".repeat(33)] {
            assert!(bad.parse::<EmailHash>().is_err(), "{bad}");
        }
    }
}
