//! The catalogue of facts: which types exist, at which version, and how they are written and read.

use crate::{
    Aggregate,
    fraud::AssessmentEvent,
    fulfilment::{HoldEvent, ProcessEvent, TimerEvent},
    inventory::{ItemEvent, ProductEvent, ReservationEvent},
    notifications::NotificationEvent,
    ops::{DeadLetterEvent, ProjectionEvent},
    orders::OrderEvent,
    payments::{AccountEvent, PaymentEvent},
    shipping::ShipmentEvent,
    upcast,
    users::{EmailEvent, UserEvent},
};
use schemars::Schema;
use std::borrow::Cow;

/// A type of fact at its newest version.
#[derive(Debug)]
pub struct FactType {
    /// `ce-type`, such as `order.created`.
    pub name: &'static str,
    /// Newest version of its schema, from 1. Older ones are read through [`upcast`].
    pub version: u32,
    /// JSON Schema of the newest version.
    pub schema: fn() -> Schema,
}

impl FactType {
    /// Every type of fact.
    pub fn all() -> impl Iterator<Item = &'static FactType> {
        Aggregate::ALL.into_iter().flat_map(Self::of)
    }

    /// The types of fact that happen to a kind of aggregate.
    pub const fn of(aggregate: Aggregate) -> &'static [FactType] {
        match aggregate {
            Aggregate::Order => OrderEvent::TYPES,
            Aggregate::Product => ProductEvent::TYPES,
            Aggregate::Item => ItemEvent::TYPES,
            Aggregate::Reservation => ReservationEvent::TYPES,
            Aggregate::Account => AccountEvent::TYPES,
            Aggregate::Payment => PaymentEvent::TYPES,
            Aggregate::Assessment => AssessmentEvent::TYPES,
            Aggregate::Shipment => ShipmentEvent::TYPES,
            Aggregate::Notification => NotificationEvent::TYPES,
            Aggregate::User => UserEvent::TYPES,
            Aggregate::Email => EmailEvent::TYPES,
            Aggregate::Process => ProcessEvent::TYPES,
            Aggregate::Hold => HoldEvent::TYPES,
            Aggregate::Timer => TimerEvent::TYPES,
            Aggregate::DeadLetter => DeadLetterEvent::TYPES,
            Aggregate::Projection => ProjectionEvent::TYPES,
        }
    }

    /// A type's name without an allocation where the type is known.
    pub(crate) fn interned(name: &str) -> Cow<'static, str> {
        let known = Self::all().find(|fact| fact.name == name);
        known.map_or_else(|| Cow::Owned(name.to_owned()), |fact| Cow::Borrowed(fact.name))
    }
}

/// Why a recorded event cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// A header is missing or not of its form.
    #[error("header {0} is missing or malformed")]
    Header(&'static str),
    /// No such type is known.
    #[error("unknown event type {0}")]
    Type(String),
    /// Recorded by newer code, or a version without an upcaster.
    #[error("{kind} has no version {version}")]
    Version {
        /// Type of the event.
        kind: &'static str,
        /// Recorded version.
        version: u32,
    },
    /// The body is not of the type's shape.
    #[error("the body is no {kind}")]
    Body {
        /// Type of the event.
        kind: &'static str,
        /// What serde says.
        source: serde_json::Error,
    },
}

/// The facts of one aggregate.
pub trait DomainEvent: Sized + Clone + Send + Sync + 'static {
    /// Their types.
    const TYPES: &'static [FactType];

    /// This fact's type.
    fn fact_type(&self) -> &'static FactType;

    /// The body: the fact's data as JSON.
    fn to_json(&self) -> Vec<u8>;

    /// Reads a body of any version ever recorded.
    fn from_json(kind: &str, version: u32, body: &[u8]) -> Result<Self, DecodeError>;
}

/// Writes one body.
#[expect(
    clippy::expect_used,
    reason = "facts are structs of texts, integers and lists, which JSON can always hold"
)]
pub(crate) fn write(data: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(data).expect("a fact is always JSON")
}

/// Reads one body as `T`, through the upcasters where it is an older version.
pub(crate) fn read<T: serde::de::DeserializeOwned>(
    kind: &'static str,
    newest: u32,
    version: u32,
    body: &[u8],
) -> Result<T, DecodeError> {
    let malformed = |source| DecodeError::Body { kind, source };
    if version == newest {
        return serde_json::from_slice(body).map_err(malformed);
    }
    if version == 0 || version > newest {
        return Err(DecodeError::Version { kind, version });
    }
    let old = serde_json::from_slice(body).map_err(malformed)?;
    let new = upcast::upcast(kind, version, newest, old)?;
    serde_json::from_value(new).map_err(malformed)
}

/// Declares the facts of one aggregate: an enum, its types, and how each is written and read.
macro_rules! facts {
    ($(#[$doc:meta])* $name:ident { $($(#[$fact_doc:meta])* $fact:ident($data:ident) = $kind:literal $version:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub enum $name {
            $($(#[$fact_doc])* $fact($data)),+
        }

        impl crate::DomainEvent for $name {
            const TYPES: &'static [crate::FactType] = &[
                $(crate::FactType { name: $kind, version: $version, schema: || schemars::schema_for!($data) }),+
            ];

            fn fact_type(&self) -> &'static crate::FactType {
                // The variants again, without data: their order is that of TYPES, so each one's number is its index.
                enum Index { $($fact),+ }
                let index = match self { $(Self::$fact(_) => Index::$fact),+ };
                &Self::TYPES[index as usize]
            }

            fn to_json(&self) -> Vec<u8> {
                match self { $(Self::$fact(data) => crate::fact::write(data)),+ }
            }

            fn from_json(kind: &str, version: u32, body: &[u8]) -> Result<Self, crate::DecodeError> {
                match kind {
                    $($kind => crate::fact::read($kind, $version, version, body).map(Self::$fact),)+
                    other => Err(crate::DecodeError::Type(other.to_owned())),
                }
            }
        }

        $(impl From<$data> for $name {
            fn from(data: $data) -> Self {
                Self::$fact(data)
            }
        })+
    };
}
pub(crate) use facts;

/// Any fact of any context: what consumers of whole streams read.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    /// Of an order.
    Order(OrderEvent),
    /// Of a product.
    Product(ProductEvent),
    /// Of the stock of a SKU.
    Item(ItemEvent),
    /// Of a reservation.
    Reservation(ReservationEvent),
    /// Of an account.
    Account(AccountEvent),
    /// Of a payment.
    Payment(PaymentEvent),
    /// Of a fraud assessment.
    Assessment(AssessmentEvent),
    /// Of a shipment.
    Shipment(ShipmentEvent),
    /// Of a notification.
    Notification(NotificationEvent),
    /// Of a user.
    User(UserEvent),
    /// Of an e-mail address.
    Email(EmailEvent),
    /// Of a process.
    Process(ProcessEvent),
    /// Of a hold.
    Hold(HoldEvent),
    /// Of a timer.
    Timer(TimerEvent),
    /// Of messages that could not be handled.
    DeadLetter(DeadLetterEvent),
    /// Of a read model.
    Projection(ProjectionEvent),
}

impl Fact {
    /// Reads a body of any type and version ever recorded.
    pub fn from_json(
        aggregate: Aggregate,
        kind: &str,
        version: u32,
        body: &[u8],
    ) -> Result<Self, DecodeError> {
        Ok(match aggregate {
            Aggregate::Order => Self::Order(OrderEvent::from_json(kind, version, body)?),
            Aggregate::Product => Self::Product(ProductEvent::from_json(kind, version, body)?),
            Aggregate::Item => Self::Item(ItemEvent::from_json(kind, version, body)?),
            Aggregate::Reservation => Self::Reservation(ReservationEvent::from_json(kind, version, body)?),
            Aggregate::Account => Self::Account(AccountEvent::from_json(kind, version, body)?),
            Aggregate::Payment => Self::Payment(PaymentEvent::from_json(kind, version, body)?),
            Aggregate::Assessment => Self::Assessment(AssessmentEvent::from_json(kind, version, body)?),
            Aggregate::Shipment => Self::Shipment(ShipmentEvent::from_json(kind, version, body)?),
            Aggregate::Notification => Self::Notification(NotificationEvent::from_json(kind, version, body)?),
            Aggregate::User => Self::User(UserEvent::from_json(kind, version, body)?),
            Aggregate::Email => Self::Email(EmailEvent::from_json(kind, version, body)?),
            Aggregate::Process => Self::Process(ProcessEvent::from_json(kind, version, body)?),
            Aggregate::Hold => Self::Hold(HoldEvent::from_json(kind, version, body)?),
            Aggregate::Timer => Self::Timer(TimerEvent::from_json(kind, version, body)?),
            Aggregate::DeadLetter => Self::DeadLetter(DeadLetterEvent::from_json(kind, version, body)?),
            Aggregate::Projection => Self::Projection(ProjectionEvent::from_json(kind, version, body)?),
        })
    }
}
