//! Typed identifiers: a UUID that knows what it names, so that an account id never passes for an order id.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};
use uuid::Uuid;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// Wraps an existing UUID.
            pub const fn new(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// The UUID behind the type.
            pub const fn uuid(self) -> Uuid {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    )+};
}

ids! {
    /// An order, and everything that belongs to it: its reservation, payment, assessment and shipment.
    OrderId,
    /// A customer.
    UserId,
    /// An account that orders are paid from.
    AccountId,
    /// One event. Also its `Nats-Msg-Id`.
    EventId,
    /// One command. Every event a command caused carries it, which is how a repeated command is recognised.
    CommandId,
    /// The messages of one aggregate that one consumer could not handle.
    DeadLetterId,
}

/// Name space of every identifier that Waybill derives (UUIDv5) instead of drawing it.
const DERIVED: Uuid = Uuid::from_u128(0x5a1f_7c0e_9d0b_4f6e_8a53_7761_7962_696c);

impl CommandId {
    /// The command a client names by its own key: the same scope and key give the same command.
    pub fn from_key(scope: &str, key: &str) -> Self {
        Self(Uuid::new_v5(&Uuid::new_v5(&DERIVED, scope.as_bytes()), key.as_bytes()))
    }

    /// The command with which `reactor` answers an event: a redelivered event gives the same command.
    pub fn from_event(event: EventId, reactor: &str) -> Self {
        Self(Uuid::new_v5(&event.0, reactor.as_bytes()))
    }

    /// An identifier for what this command creates: a repeated command names the same thing.
    pub fn derive(self, what: &str) -> Uuid {
        Uuid::new_v5(&self.0, what.as_bytes())
    }
}

impl DeadLetterId {
    /// What waits of one subject for one consumer: there is one at a time.
    pub fn of(consumer: &str, subject: &str) -> Self {
        Self(Uuid::new_v5(&Uuid::new_v5(&DERIVED, consumer.as_bytes()), subject.as_bytes()))
    }
}

impl EventId {
    /// The `index`-th event of a command: deciding again gives the same event the same id, so that the server's
    /// duplicate window recognises it.
    pub fn of_command(command: CommandId, index: usize) -> Self {
        Self(Uuid::new_v5(&command.0, &(index as u64).to_be_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_ids_are_stable_and_distinct() {
        let command = CommandId::from_key("POST /orders", "k-1");
        assert_eq!(command, CommandId::from_key("POST /orders", "k-1"));
        assert_ne!(command, CommandId::from_key("POST /accounts", "k-1"));
        assert_ne!(EventId::of_command(command, 0), EventId::of_command(command, 1));
        let event = EventId::of_command(command, 0);
        assert_ne!(CommandId::from_event(event, "inventory"), CommandId::from_event(event, "payments"));
    }

    #[test]
    fn an_id_is_its_uuid_in_json() {
        let id: OrderId = "018f3f5e-0000-7000-8000-000000000001".parse().unwrap();
        assert_eq!(serde_json::to_string(&id).unwrap(), "\"018f3f5e-0000-7000-8000-000000000001\"");
        assert!(serde_json::from_str::<OrderId>("\"nope\"").is_err());
    }
}
