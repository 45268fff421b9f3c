//! One recorded event as it comes from a stream, decoded only as far as it is asked to be.

use async_nats::{HeaderMap, jetstream::message::StreamMessage};
use bytes::Bytes;
use events::{DecodeError, Envelope, Fact, Position, Subject, envelope::header};
use jiff::Timestamp;
use std::{fmt, time::Instant};

/// A message of a stream.
#[derive(Clone)]
pub struct Message {
    /// Where it stands.
    pub position: Position,
    /// The aggregate it belongs to.
    pub subject: Subject,
    /// When the server stored it.
    pub stored: Timestamp,
    /// How many messages the consumer has still before it; 0 at the end of the stream.
    pub pending: u64,
    /// How many messages the consumer had delivered with it; 0 where it came otherwise.
    pub(crate) number: u64,
    /// When it came to this process.
    pub(crate) received: Instant,
    /// Whether the consumer had delivered it before, to this process or another one.
    pub(crate) again: bool,
    headers: HeaderMap,
    body: Bytes,
}

/// An event with everything that is known of it.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// Where it stands.
    pub position: Position,
    /// The aggregate it belongs to.
    pub subject: Subject,
    /// When the server stored it.
    pub stored: Timestamp,
    /// Its attributes.
    pub envelope: Envelope,
    /// Its data.
    pub fact: Fact,
}

/// Why a message is no event of ours.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct MessageError(&'static str);

impl MessageError {
    /// It stands where no event does.
    pub(crate) const fn subject() -> Self {
        Self("not an event subject")
    }
}

impl Message {
    /// From what is known of it already.
    pub(crate) fn from_parts(
        position: Position,
        subject: Subject,
        stored: Timestamp,
        headers: HeaderMap,
        body: Bytes,
    ) -> Self {
        Self {
            position,
            subject,
            stored,
            pending: 0,
            number: 0,
            received: Instant::now(),
            again: false,
            headers,
            body,
        }
    }

    /// From a consumer's delivery, out of which headers and body are taken.
    pub(crate) fn delivered(message: &mut async_nats::jetstream::Message) -> Result<Self, MessageError> {
        let info =
            message.info().map_err(|_| MessageError("no delivery information in the reply subject"))?;
        let subject = Subject::parse(&message.subject).ok_or(MessageError::subject())?;
        let stored = Timestamp::from_nanosecond(info.published.unix_timestamp_nanos());
        Ok(Self {
            position: Position { context: subject.context(), sequence: info.stream_sequence },
            subject,
            stored: stored.map_err(|_| MessageError("the stored time is out of range"))?,
            pending: info.pending,
            number: info.consumer_sequence,
            received: Instant::now(),
            again: info.delivered > 1,
            headers: message.message.headers.take().unwrap_or_default(),
            body: std::mem::take(&mut message.message.payload),
        })
    }

    /// From the answer to a direct get.
    pub(crate) fn direct(message: async_nats::Message) -> Result<Self, MessageError> {
        let headers = message.headers.ok_or(MessageError("no headers in the answer"))?;
        let get = |name: &str| headers.get(name).map(async_nats::HeaderValue::as_str);
        let subject = get("Nats-Subject").and_then(Subject::parse).ok_or(MessageError::subject())?;
        let sequence = get("Nats-Sequence").and_then(|text| text.parse().ok());
        let stored = get("Nats-Time-Stamp").and_then(|text| text.parse().ok());
        Ok(Self {
            position: Position {
                context: subject.context(),
                sequence: sequence.ok_or(MessageError("no sequence in the answer"))?,
            },
            subject,
            stored: stored.ok_or(MessageError("no time in the answer"))?,
            pending: 0,
            number: 0,
            received: Instant::now(),
            again: false,
            headers,
            body: message.payload,
        })
    }

    /// From a get by sequence or subject.
    pub(crate) fn stored(message: StreamMessage) -> Result<Self, MessageError> {
        let subject = Subject::parse(&message.subject).ok_or(MessageError::subject())?;
        let stored = Timestamp::from_nanosecond(message.time.unix_timestamp_nanos());
        Ok(Self {
            position: Position { context: subject.context(), sequence: message.sequence },
            subject,
            stored: stored.map_err(|_| MessageError("the stored time is out of range"))?,
            pending: 0,
            number: 0,
            received: Instant::now(),
            again: false,
            headers: message.headers,
            body: message.payload,
        })
    }

    /// A header, if it is there.
    pub fn header(&self, name: &'static str) -> Option<&str> {
        // A static name is looked up without a copy.
        let name = async_nats::HeaderName::from_static(name);
        self.headers.get(name).map(async_nats::HeaderValue::as_str)
    }

    /// Every header.
    pub(crate) fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// The event's type, such as `order.created`; empty when the header is missing.
    pub fn kind(&self) -> &str {
        self.header(header::TYPE).unwrap_or_default()
    }

    /// The event's data as it was recorded.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The event's attributes.
    pub fn envelope(&self) -> Result<Envelope, DecodeError> {
        // Nearly all of them are asked for: comparing names costs a fraction of hashing each.
        let all = self.headers.iter().filter_map(|(name, values)| Some((name.as_ref(), values.first()?)));
        let all: Vec<(&str, &async_nats::HeaderValue)> = all.collect();
        let get = |name| all.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str());
        Envelope::read_headers(get)
    }

    /// The event's data, through the upcasters where it is old.
    pub fn fact(&self) -> Result<Fact, DecodeError> {
        Fact::from_json(self.subject.aggregate(), self.kind(), self.schema()?, &self.body)
    }

    /// Version of the body's schema.
    pub fn schema(&self) -> Result<u32, DecodeError> {
        let schema = self.header(header::DATA_SCHEMA).and_then(|text| text.rsplit('/').next()?.parse().ok());
        schema.ok_or(DecodeError::Header(header::DATA_SCHEMA))
    }

    /// Attributes and data.
    pub fn record(&self) -> Result<Recorded, DecodeError> {
        let (subject, envelope) = (self.subject.clone(), self.envelope()?);
        let fact = Fact::from_json(subject.aggregate(), &envelope.kind, envelope.schema, &self.body)?;
        Ok(Recorded { position: self.position, subject, stored: self.stored, envelope, fact })
    }
}

impl fmt::Debug for Message {
    // The body may hold personal data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} at {}", self.kind(), self.subject, self.position)
    }
}
