//! What became of notifications: one per fact that somebody is told of and channel on which he is told.

use crate::{EventId, OrderId, Position, UserId, fact::facts, text, users::texts};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{borrow::Cow, fmt, str::FromStr, sync::Arc};

facts! {
    /// What happened to a notification.
    NotificationEvent {
        /// It was handed over.
        Sent(NotificationSent) = "notification.sent" 1,
        /// It was given up.
        Failed(NotificationFailed) = "notification.failed" 1,
        /// An operator wants it to be sent again.
        RedeliveryRequested(NotificationRedeliveryRequested) = "notification.redelivery.requested" 1,
    }
}

texts! {
    /// A channel: `email`, or `webhook-` and the name of an endpoint. 1 to 64 of `a-z 0-9 -`. Cheap to clone.
    ChannelName, ChannelNameError = "a channel is 1 to 64 of a-z 0-9 -", "^[a-z0-9-]{1,64}$", |text| {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        (1..=64).contains(&text.len()) && text.bytes().all(allowed)
    };
}

/// Names a notification: `<event>_<channel>`, one token of a subject.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NotificationId {
    /// What is told.
    pub event: EventId,
    /// On which channel.
    pub channel: ChannelName,
}

/// Why a text names no notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a notification is the id of an event, _ and a channel, such as 018f3f5e-0000-7000-8000-000000000001_email"
)]
pub struct NotificationIdError;

impl fmt::Display for NotificationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}", self.event, self.channel)
    }
}

impl FromStr for NotificationId {
    type Err = NotificationIdError;

    fn from_str(text: &str) -> Result<Self, NotificationIdError> {
        let (event, channel) = text.split_once('_').ok_or(NotificationIdError)?;
        let (read, channel) = (event.parse::<EventId>(), channel.parse());
        // A UUID has other forms than the one that stands in subjects.
        let event_id = read.ok().filter(|id| id.to_string() == event).ok_or(NotificationIdError)?;
        Ok(Self { event: event_id, channel: channel.map_err(|_| NotificationIdError)? })
    }
}

impl<'de> Deserialize<'de> for NotificationId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text::parsed(deserializer, "NotificationId")
    }
}

/// What a notification is about. No personal data: the recipient is looked up when it is sent, and kept nowhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Notice {
    /// The fact that is told.
    pub event_id: EventId,
    /// Its type, such as `order.completed`.
    pub event_type: String,
    /// Where it stands.
    pub source: Position,
    /// How it is told.
    pub channel: ChannelName,
    /// Who is told, or of whose order is told.
    pub user_id: UserId,
    /// The order.
    pub order_id: OrderId,
    /// 1 for the first time, one more each time an operator wants it to be sent again.
    pub delivery: u32,
}

impl Notice {
    /// The notification it is part of.
    pub fn id(&self) -> NotificationId {
        NotificationId { event: self.event_id, channel: self.channel.clone() }
    }
}

/// It was handed over: a mail server or an endpoint has accepted it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NotificationSent {
    /// What it is about.
    #[serde(flatten)]
    pub notice: Notice,
    /// What the other side answered: a status of HTTP or a code of SMTP. Missing for the outbox folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<u16>,
}

/// Why a notification is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The other side said that it will never accept it, such as a mail server that does not know the recipient.
    Refused,
    /// The recipient is none, such as an e-mail address that cannot be written to.
    Recipient,
    /// It could not be handed over as long as it was worth trying.
    Expired,
}

/// It was given up. Nothing of the other side's words is kept: they may name the recipient.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NotificationFailed {
    /// What it is about.
    #[serde(flatten)]
    pub notice: Notice,
    /// Why.
    pub reason: Fault,
    /// What the other side answered, if it did: a status of HTTP or a code of SMTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<u16>,
}

/// An operator wants it to be sent again. `delivery` numbers the one that is wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NotificationRedeliveryRequested {
    /// What it is about.
    #[serde(flatten)]
    pub notice: Notice,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notification_is_one_token_and_reads_back() {
        let text = "018f3f5e-0000-7000-8000-000000000001_webhook-erp";
        let id: NotificationId = text.parse().unwrap();
        assert_eq!((id.channel.as_str(), id.to_string().as_str()), ("webhook-erp", text));
        for bad in [
            "",
            "_email",
            "x_email",
            "018f3f5e-0000-7000-8000-000000000001",
            "018F3F5E-0000-7000-8000-000000000001_email",
            "018f3f5e-0000-7000-8000-000000000001_",
            "018f3f5e-0000-7000-8000-000000000001_a.b",
            "018f3f5e-0000-7000-8000-000000000001_*",
        ] {
            assert_eq!(bad.parse::<NotificationId>(), Err(NotificationIdError), "{bad}");
        }
    }
}
