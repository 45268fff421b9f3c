//! The envelope of an event: CloudEvents 1.0 in binary mode, one attribute per message header.
//!
//! <https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/nats-protocol-binding.md>, with the
//! extensions correlation, causation, command, actor and sequence, and W3C `traceparent`.

use crate::{CommandId, DecodeError, EventId, FactType};
use jiff::{Timestamp, fmt::temporal::DateTimePrinter};
use serde::Serialize;
use std::{borrow::Cow, fmt, str::FromStr, sync::Arc};
use uuid::Uuid;

/// Header names, spelled once.
pub mod header {
    /// Event id, for the server's duplicate window.
    pub const MSG_ID: &str = "Nats-Msg-Id";
    /// CloudEvents version, always `1.0`.
    pub const SPEC_VERSION: &str = "ce-specversion";
    /// Event id.
    pub const ID: &str = "ce-id";
    /// Type of the event, such as `order.created`.
    pub const TYPE: &str = "ce-type";
    /// Who recorded it: `/waybill/<context>`.
    pub const SOURCE: &str = "ce-source";
    /// Id of the aggregate.
    pub const SUBJECT: &str = "ce-subject";
    /// RFC 3339 time of the decision, UTC.
    pub const TIME: &str = "ce-time";
    /// `/schemas/<type>/<version>`.
    pub const DATA_SCHEMA: &str = "ce-dataschema";
    /// Media type of the body, always `application/json`.
    pub const CONTENT_TYPE: &str = "content-type";
    /// One id for everything that follows from one request.
    pub const CORRELATION: &str = "ce-correlationid";
    /// The event or command that caused this event.
    pub const CAUSATION: &str = "ce-causationid";
    /// The command that recorded it.
    pub const COMMAND: &str = "ce-commandid";
    /// Who asked for it.
    pub const ACTOR: &str = "ce-actor";
    /// Version of the aggregate after this event, from 1.
    pub const SEQUENCE: &str = "ce-sequence";
    /// W3C trace context.
    pub const TRACEPARENT: &str = "traceparent";

    /// In a copy that a replay made: where the event stands, such as `ORDERS:42`. No event has it.
    pub const REPLAYED_FROM: &str = "Waybill-Replayed-From";
    /// In such a copy: when the event was stored, RFC 3339.
    pub const REPLAYED_STORED: &str = "Waybill-Replayed-Stored";

    /// Those that every event has.
    pub const ALWAYS: [&str; 14] = [
        MSG_ID,
        SPEC_VERSION,
        ID,
        TYPE,
        SOURCE,
        SUBJECT,
        TIME,
        DATA_SCHEMA,
        CONTENT_TYPE,
        CORRELATION,
        CAUSATION,
        COMMAND,
        ACTOR,
        SEQUENCE,
    ];
}

/// One id for everything that follows from one request: 1 to 128 visible ASCII characters. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, Serialize)]
pub struct CorrelationId(Arc<str>);

/// Why a text is no correlation id or actor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected 1 to 128 visible ASCII characters")]
pub struct TokenError;

fn token(text: &str) -> Result<&str, TokenError> {
    let fits = (1..=128).contains(&text.len());
    if fits && text.bytes().all(|b| b.is_ascii_graphic()) { Ok(text) } else { Err(TokenError) }
}

impl CorrelationId {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for CorrelationId {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        token(text).map(|text| Self(text.into()))
    }
}

impl From<Uuid> for CorrelationId {
    fn from(id: Uuid) -> Self {
        Self(id.to_string().into())
    }
}

impl From<CorrelationId> for Arc<str> {
    fn from(id: CorrelationId) -> Self {
        id.0
    }
}

impl fmt::Display for CorrelationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for CorrelationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CorrelationId({})", self.0)
    }
}

/// Who asked for something: `client`, `user:<id>`, `operator:<id>`, `service:<name>`. Never a name: events stay for
/// ever. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Actor(Cow<'static, str>);

impl Actor {
    /// Somebody who came over HTTP without saying who.
    pub const CLIENT: Self = Self(Cow::Borrowed("client"));

    /// An actor known when the program is written.
    pub const fn service(name: &'static str) -> Self {
        Self(Cow::Borrowed(name))
    }

    /// Somebody who is known by an id: a user, an operator.
    pub fn known(kind: &'static str, id: Uuid) -> Self {
        Self(Cow::Owned(format!("{kind}:{id}")))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Actor {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        token(text).map(|text| Self(Cow::Owned(text.to_owned())))
    }
}

/// Where a command comes from: what its events carry besides their data.
#[derive(Clone, Debug)]
pub struct Metadata {
    /// The command.
    pub command: CommandId,
    /// One id for everything that follows from one request.
    pub correlation: CorrelationId,
    /// The event that caused the command; the command itself where a client did.
    pub causation: Uuid,
    /// Who asked for it.
    pub actor: Actor,
    /// W3C trace context of the request, passed on.
    pub traceparent: Option<Arc<str>>,
}

impl Metadata {
    /// Of a command that answers an event: same correlation and trace, caused by the event.
    pub fn caused_by(event: &Envelope, reactor: &'static str) -> Self {
        Self {
            command: CommandId::from_event(event.id, reactor),
            correlation: event.correlation.clone(),
            causation: event.id.uuid(),
            actor: Actor::service(reactor),
            traceparent: event.traceparent.clone(),
        }
    }
}

/// Everything known of an event but its data.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Envelope {
    /// Id of the event.
    pub id: EventId,
    /// Type, such as `order.created`.
    #[serde(rename = "type")]
    pub kind: Cow<'static, str>,
    /// Version of the type's schema, from 1.
    pub schema: u32,
    /// Id of the aggregate.
    pub subject: Arc<str>,
    /// When it was decided, UTC.
    pub time: Timestamp,
    /// One id for everything that follows from one request.
    pub correlation: CorrelationId,
    /// The event or command that caused it.
    pub causation: Uuid,
    /// The command that recorded it.
    pub command: CommandId,
    /// Who asked for it.
    pub actor: Actor,
    /// Version of the aggregate after this event, from 1.
    pub version: u64,
    /// W3C trace context.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<Arc<str>>,
}

impl Envelope {
    /// Of a fact that a command records as `version` of its aggregate.
    pub fn new(
        fact: &'static FactType,
        subject: &crate::Subject,
        version: u64,
        index: usize,
        time: Timestamp,
        from: &Metadata,
    ) -> Self {
        Self {
            id: EventId::of_command(from.command, index),
            kind: Cow::Borrowed(fact.name),
            schema: fact.version,
            subject: subject.id().into(),
            time,
            correlation: from.correlation.clone(),
            causation: from.causation,
            command: from.command,
            actor: from.actor.clone(),
            version,
            traceparent: from.traceparent.clone(),
        }
    }

    /// Of the fact that a timer will be at `at`, armed together with this event: an event of its own, caused by it.
    #[must_use]
    pub fn of_timer(&self, fact: &'static FactType, subject: &crate::Subject, at: Timestamp) -> Self {
        Self {
            id: EventId::new(self.command.derive(&format!("timer {}", self.id))),
            kind: Cow::Borrowed(fact.name),
            schema: fact.version,
            subject: subject.id().into(),
            time: at,
            causation: self.id.uuid(),
            ..self.clone()
        }
    }

    /// Gives every header to `put`; `context` names the source.
    pub fn write_headers(&self, context: crate::Context, mut put: impl FnMut(&'static str, String)) {
        let id = hyphenated(self.id.uuid());
        put(header::MSG_ID, id.clone());
        put(header::SPEC_VERSION, "1.0".to_owned());
        put(header::ID, id);
        put(header::TYPE, self.kind.as_ref().to_owned());
        put(header::SOURCE, ["/waybill/", context.token()].concat());
        put(header::SUBJECT, self.subject.as_ref().to_owned());
        put(header::TIME, microseconds(self.time));
        put(header::DATA_SCHEMA, crate::schema::path(&self.kind, self.schema));
        put(header::CONTENT_TYPE, "application/json".to_owned());
        put(header::CORRELATION, self.correlation.as_str().to_owned());
        put(header::CAUSATION, hyphenated(self.causation));
        put(header::COMMAND, hyphenated(self.command.uuid()));
        put(header::ACTOR, self.actor.as_str().to_owned());
        put(header::SEQUENCE, self.version.to_string());
        if let Some(traceparent) = &self.traceparent {
            put(header::TRACEPARENT, traceparent.as_ref().to_owned());
        }
    }

    /// Reads the envelope from headers; the error names the header at fault.
    pub fn read_headers<'a>(get: impl Fn(&'static str) -> Option<&'a str>) -> Result<Self, DecodeError> {
        let need = |name| get(name).ok_or(DecodeError::Header(name));
        let schema = need(header::DATA_SCHEMA)?.rsplit('/').next().unwrap_or_default();
        Ok(Self {
            id: parsed(header::ID, need(header::ID)?)?,
            kind: FactType::interned(need(header::TYPE)?),
            schema: parsed(header::DATA_SCHEMA, schema)?,
            subject: need(header::SUBJECT)?.into(),
            time: parsed(header::TIME, need(header::TIME)?)?,
            correlation: parsed(header::CORRELATION, need(header::CORRELATION)?)?,
            causation: parsed(header::CAUSATION, need(header::CAUSATION)?)?,
            command: parsed(header::COMMAND, need(header::COMMAND)?)?,
            actor: parsed(header::ACTOR, need(header::ACTOR)?)?,
            version: parsed(header::SEQUENCE, need(header::SEQUENCE)?)?,
            traceparent: get(header::TRACEPARENT).map(Into::into),
        })
    }
}

fn parsed<T: FromStr>(name: &'static str, text: &str) -> Result<T, DecodeError> {
    text.parse().map_err(|_| DecodeError::Header(name))
}

// Headers are written for every event, and the `Display` of these two costs several times the text: so they are written
// straight into a buffer.

fn hyphenated(id: Uuid) -> String {
    id.hyphenated().encode_lower(&mut Uuid::encode_buffer()).to_owned()
}

fn microseconds(time: Timestamp) -> String {
    const RFC3339: DateTimePrinter = DateTimePrinter::new().precision(Some(6));
    let mut text = String::with_capacity("1970-01-01T00:00:00.000000Z".len());
    // Writing into a string cannot fail; were it to, the reader would name the empty header.
    let _ = RFC3339.print_timestamp(&time, &mut text);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Aggregate, Context, DomainEvent, orders::OrderEvent};
    use std::collections::HashMap;

    fn headers() -> HashMap<&'static str, String> {
        let from = Metadata {
            command: CommandId::new(Uuid::from_u128(1)),
            correlation: "c-1".parse().unwrap(),
            causation: Uuid::from_u128(2),
            actor: Actor::CLIENT,
            traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
        };
        let subject = Aggregate::Order.subject(Uuid::from_u128(3));
        let envelope = Envelope::new(&OrderEvent::TYPES[0], &subject, 1, 0, Timestamp::UNIX_EPOCH, &from);
        let mut headers = HashMap::new();
        envelope.write_headers(Context::Orders, |name, value| {
            headers.insert(name, value);
        });
        headers
    }

    #[test]
    fn an_envelope_reads_back_from_its_headers() {
        let headers = headers();
        let read = Envelope::read_headers(|name| headers.get(name).map(String::as_str)).unwrap();
        let mut again = HashMap::new();
        read.write_headers(Context::Orders, |name, value| {
            again.insert(name, value);
        });
        assert_eq!(headers, again);
        assert_eq!(headers[header::DATA_SCHEMA], "/schemas/order.created/2");
        assert_eq!(headers[header::TIME], "1970-01-01T00:00:00.000000Z");
    }

    #[test]
    fn a_missing_or_broken_header_is_named() {
        for name in [header::ID, header::TYPE, header::TIME, header::SEQUENCE, header::COMMAND] {
            let mut headers = headers();
            headers.remove(name);
            let read = |headers: &HashMap<&'static str, String>| {
                Envelope::read_headers(|name| headers.get(name).map(String::as_str)).unwrap_err()
            };
            assert_eq!(read(&headers).to_string(), DecodeError::Header(name).to_string());
        }
    }

    #[test]
    fn tokens_refuse_what_would_break_a_header() {
        for bad in ["", "a b", "a\r\nb", "ä", &"x".repeat(129)] {
            assert!(bad.parse::<CorrelationId>().is_err(), "{bad:?}");
        }
    }
}
