//! Contexts, streams, subjects and positions: every name on the wire is spelled here and nowhere else.

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{borrow::Cow, fmt, str::FromStr, sync::Arc};

/// A bounded context: it owns one stream, and one service owns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Context {
    /// Orders and what becomes of them.
    Orders,
    /// Products, stock and reservations.
    Inventory,
    /// Accounts and payments.
    Payments,
    /// Fraud assessments.
    Fraud,
    /// Shipments.
    Shipping,
    /// Notifications and what became of them.
    Notifications,
    /// Users and the e-mail addresses they are known by.
    Users,
    /// Processes that carry orders through, holds that expire, and timers.
    Fulfilment,
    /// What consumers could not handle, and what operators did about it.
    Ops,
}

impl Context {
    /// Every context.
    pub const ALL: [Self; 9] = [
        Self::Orders,
        Self::Inventory,
        Self::Payments,
        Self::Fraud,
        Self::Shipping,
        Self::Notifications,
        Self::Users,
        Self::Fulfilment,
        Self::Ops,
    ];

    /// The token in subjects: `evt.<context>.…`.
    pub const fn token(self) -> &'static str {
        match self {
            Self::Orders => "orders",
            Self::Inventory => "inventory",
            Self::Payments => "payments",
            Self::Fraud => "fraud",
            Self::Shipping => "shipping",
            Self::Notifications => "notifications",
            Self::Users => "users",
            Self::Fulfilment => "fulfilment",
            Self::Ops => "ops",
        }
    }

    /// The stream that holds the context's facts.
    pub const fn stream(self) -> &'static str {
        match self {
            Self::Orders => "ORDERS",
            Self::Inventory => "INVENTORY",
            Self::Payments => "PAYMENTS",
            Self::Fraud => "FRAUD",
            Self::Shipping => "SHIPPING",
            Self::Notifications => "NOTIFICATIONS",
            Self::Users => "USERS",
            Self::Fulfilment => "FULFILMENT",
            Self::Ops => "OPS",
        }
    }

    /// The subjects of the context's facts.
    pub fn filter(self) -> String {
        format!("evt.{}.>", self.token())
    }

    /// Whether its stream keeps timers beside the facts, so that both are recorded together or not at all.
    pub const fn has_timers(self) -> bool {
        matches!(self, Self::Fulfilment)
    }

    /// The subject that keeps a timer until its time has come: one per timer, the newest replaces the one before.
    pub fn timer(self, id: impl fmt::Display, name: &str) -> String {
        format!("timer.{}.{id}.{name}", self.token())
    }

    /// The subject of what stands in for a message that is gone, while a copy of the stream is put back.
    pub fn gap(self) -> String {
        format!("evt.{}.import.gap", self.token())
    }

    /// The subjects of all its timers.
    pub fn timers(self) -> String {
        self.timer("*", "*")
    }

    /// The context that owns a stream.
    pub fn of_stream(stream: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|context| context.stream() == stream)
    }
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.token())
    }
}

/// A kind of aggregate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Aggregate {
    /// An order.
    Order,
    /// A product of the catalogue: its name and price.
    Product,
    /// The stock of one SKU.
    Item,
    /// What one order holds of the stock.
    Reservation,
    /// An account.
    Account,
    /// The payment of one order.
    Payment,
    /// The fraud assessment of one payment.
    Assessment,
    /// The shipment of one order.
    Shipment,
    /// What somebody is told of one event on one channel.
    Notification,
    /// A user.
    User,
    /// An e-mail address: whose it is.
    Email,
    /// The process that carries one order through.
    Process,
    /// How long the stock of one order is held unpaid.
    Hold,
    /// The timers of one order.
    Timer,
    /// The messages of one aggregate that one consumer could not handle.
    DeadLetter,
    /// The read model of one service.
    Projection,
}

impl Aggregate {
    /// Every kind of aggregate.
    pub const ALL: [Self; 16] = [
        Self::Order,
        Self::Product,
        Self::Item,
        Self::Reservation,
        Self::Account,
        Self::Payment,
        Self::Assessment,
        Self::Shipment,
        Self::Notification,
        Self::User,
        Self::Email,
        Self::Process,
        Self::Hold,
        Self::Timer,
        Self::DeadLetter,
        Self::Projection,
    ];

    /// The context whose stream holds it.
    pub const fn context(self) -> Context {
        match self {
            Self::Order => Context::Orders,
            Self::Product | Self::Item | Self::Reservation => Context::Inventory,
            Self::Account | Self::Payment => Context::Payments,
            Self::Assessment => Context::Fraud,
            Self::Shipment => Context::Shipping,
            Self::Notification => Context::Notifications,
            Self::User | Self::Email => Context::Users,
            Self::Process | Self::Hold | Self::Timer => Context::Fulfilment,
            Self::DeadLetter | Self::Projection => Context::Ops,
        }
    }

    /// Whether there is one of its kind per order, named by the order's id.
    pub const fn is_of_an_order(self) -> bool {
        !matches!(
            self,
            Self::Product
                | Self::Item
                | Self::Account
                | Self::Notification
                | Self::User
                | Self::Email
                | Self::DeadLetter
                | Self::Projection
        )
    }

    /// The token in subjects: `evt.<context>.<aggregate>.<id>`.
    pub const fn token(self) -> &'static str {
        match self {
            Self::Order => "order",
            Self::Product => "product",
            Self::Item => "item",
            Self::Reservation => "reservation",
            Self::Account => "account",
            Self::Payment => "payment",
            Self::Assessment => "assessment",
            Self::Shipment => "shipment",
            Self::Notification => "notification",
            Self::User => "user",
            Self::Email => "email",
            Self::Process => "process",
            Self::Hold => "hold",
            Self::Timer => "timer",
            Self::DeadLetter => "deadletter",
            Self::Projection => "projection",
        }
    }

    /// The subjects of every aggregate of this kind.
    pub fn filter(self) -> String {
        format!("evt.{}.{}.*", self.context().token(), self.token())
    }

    /// The one literal subject of an aggregate. `id` is a UUID, a [`crate::Sku`], an
    /// [`EmailHash`](crate::users::EmailHash) or a [`NotificationId`](crate::notifications::NotificationId): one token.
    pub fn subject(self, id: impl fmt::Display) -> Subject {
        let (context, aggregate) = (self.context().token(), self.token());
        Subject { aggregate: self, text: format!("evt.{context}.{aggregate}.{id}").into() }
    }
}

/// The subject of one aggregate: `evt.<context>.<aggregate>.<id>`. The type of an event is in a header, not here:
/// checks of literal subjects are safe on replicated streams, checks of wildcards are not (ADR 1). Cheap to clone.
#[derive(Clone)]
pub struct Subject {
    aggregate: Aggregate,
    text: Arc<str>,
}

impl Subject {
    /// The whole subject.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Which kind of aggregate.
    pub fn aggregate(&self) -> Aggregate {
        self.aggregate
    }

    /// The context, hence the stream.
    pub fn context(&self) -> Context {
        self.aggregate.context()
    }

    /// The aggregate's id: the last token.
    pub fn id(&self) -> &str {
        self.text.rsplit_once('.').map_or(&self.text, |(_, id)| id)
    }

    /// The order it belongs to, where there is exactly one.
    pub fn order_id(&self) -> Option<&str> {
        self.aggregate.is_of_an_order().then(|| self.id())
    }

    /// What the aggregate is called: its kind and its id, such as `order/0199d3a8-…`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.aggregate.token(), self.id())
    }

    /// Reads what an aggregate is called; `None` where there is no such kind, or the id is more than one token.
    pub fn of_name(name: &str) -> Option<Self> {
        let (kind, id) = name.split_once('/')?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        let one = !id.is_empty() && id.bytes().all(plain);
        let aggregate = Aggregate::ALL.into_iter().find(|aggregate| aggregate.token() == kind)?;
        one.then(|| aggregate.subject(id))
    }

    /// Reads a subject; `None` for one that is no aggregate's.
    pub fn parse(text: &str) -> Option<Self> {
        let mut tokens = text.split('.');
        let (evt, context, aggregate) = (tokens.next()?, tokens.next()?, tokens.next()?);
        let id = tokens.next()?;
        if evt != "evt" || id.is_empty() || tokens.next().is_some() {
            return None;
        }
        let known = |a: &Aggregate| a.token() == aggregate && a.context().token() == context;
        let aggregate = Aggregate::ALL.into_iter().find(known)?;
        Some(Self { aggregate, text: text.into() })
    }
}

impl PartialEq for Subject {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Subject {}

impl std::hash::Hash for Subject {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A place in the log: a stream and a sequence in it. Written `ORDERS:42`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Whose stream.
    pub context: Context,
    /// Sequence in the stream, from 1.
    pub sequence: u64,
}

/// Why a text is no position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a position is a stream and a sequence, such as ORDERS:42")]
pub struct PositionError;

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.context.stream(), self.sequence)
    }
}

impl FromStr for Position {
    type Err = PositionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (stream, sequence) = text.split_once(':').ok_or(PositionError)?;
        let context = Context::of_stream(stream).ok_or(PositionError)?;
        let sequence = sequence.parse().map_err(|_| PositionError)?;
        Ok(Self { context, sequence })
    }
}

/// A place in the log.
#[derive(Serialize, Deserialize, JsonSchema)]
struct PositionBody<'a> {
    /// The stream.
    #[serde(borrow)]
    stream: Cow<'a, str>,
    /// The sequence in the stream.
    sequence: u64,
}

impl JsonSchema for Position {
    fn schema_name() -> Cow<'static, str> {
        "Position".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        PositionBody::json_schema(generator)
    }
}

impl Serialize for Position {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        PositionBody { stream: self.context.stream().into(), sequence: self.sequence }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Position {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let body = PositionBody::deserialize(deserializer)?;
        let context =
            Context::of_stream(&body.stream).ok_or_else(|| serde::de::Error::custom(PositionError))?;
        Ok(Self { context, sequence: body.sequence })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_read_back() {
        for aggregate in Aggregate::ALL {
            let subject = aggregate.subject("A-1");
            assert_eq!(Subject::parse(subject.as_str()).map(|s| s.aggregate()), Some(aggregate));
            assert_eq!(subject.id(), "A-1");
            assert!(subject.as_str().starts_with(aggregate.context().filter().trim_end_matches('>')));
        }
        for bad in ["", "evt.orders.order", "evt.orders.order.", "evt.orders.item.x", "evt.orders.order.a.b"]
        {
            assert!(Subject::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn names_of_aggregates_read_back() {
        for aggregate in Aggregate::ALL {
            let subject = aggregate.subject("A-1_b");
            assert_eq!(Subject::of_name(&subject.name()), Some(subject));
        }
        for bad in ["", "order", "order/", "cart/1", "order/a.b", "order/*", "order/a/b"] {
            assert_eq!(Subject::of_name(bad), None, "{bad}");
        }
    }

    #[test]
    fn positions_read_back() {
        let position = Position { context: Context::Payments, sequence: 7 };
        assert_eq!(position.to_string().parse(), Ok(position));
        for bad in ["", "ORDERS", "orders:1", "ORDERS:-1", "ORDERS:x", "NOPE:1"] {
            assert_eq!(bad.parse::<Position>(), Err(PositionError), "{bad}");
        }
    }
}
