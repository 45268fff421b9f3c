//! One event on one line, and the running hash over all of them.

use crate::failure::{Failure, because};
use aws_lc_rs::digest::{Context, SHA256};
use base64::{Engine, prelude::BASE64_STANDARD};
use jiff::Timestamp;
use nats::{Raw, restore::BATCH};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::{borrow::Cow, fmt::Write, str::FromStr};

/// A line of a segment.
#[derive(Serialize, Deserialize)]
struct Line<'a> {
    sequence: u64,
    stored: Timestamp,
    #[serde(borrow)]
    subject: Cow<'a, str>,
    headers: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    /// The body, where it is JSON on one line, byte for byte.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
    /// The body, where it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
}

/// Writes a message as one line.
pub(super) fn write(raw: &Raw, to: &mut Vec<u8>) -> Result<(), Failure> {
    let headers = raw.headers().into_iter().map(|(name, value)| (name.into(), value.into())).collect();
    let json =
        std::str::from_utf8(raw.body()).ok().and_then(|text| serde_json::from_str::<&RawValue>(text).ok());
    // What stands around it would be lost, and a line break would end the line.
    let data = json.filter(|json| json.get().len() == raw.body().len() && !json.get().contains('\n'));
    let base64 = data.is_none().then(|| BASE64_STANDARD.encode(raw.body()));
    let subject = raw.subject.as_str().into();
    let line = Line { sequence: raw.sequence, stored: raw.stored, subject, headers, data, base64 };
    serde_json::to_writer(&mut *to, &line)?;
    to.push(b'\n');
    Ok(())
}

/// Reads a line.
pub(super) fn read(text: &str) -> Result<Raw, Failure> {
    let line: Line<'_> = serde_json::from_str(text).map_err(because("a line is no event"))?;
    let body = match (line.data, line.base64) {
        (Some(data), None) => data.get().as_bytes().to_vec(),
        (None, Some(base64)) => BASE64_STANDARD.decode(base64).map_err(because("a body is no base64"))?,
        _ => return Err("a line has no body, or two".into()),
    };
    let headers: Vec<_> =
        line.headers.into_iter().map(|(name, value)| (name.into_owned(), value.into_owned())).collect();
    let raw = Raw::new(line.sequence, line.subject.into_owned(), line.stored, &headers, body.into());
    raw.ok_or_else(|| "a header of a line can be none".into())
}

/// A key of a bucket and its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) key: String,
    /// In base64.
    pub(crate) value: String,
}

/// The running hash over the events of a stream: of the one before and of the event. It does not cover when they were
/// stored, nor how they were sent together, which are other ones in a stream that was put back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Chain([u8; 32]);

impl Chain {
    /// Counts one more event in.
    pub(crate) fn push(&mut self, raw: &Raw) {
        let mut hash = Context::new(&SHA256);
        hash.update(&self.0);
        hash.update(&Self::of(raw).0);
        self.0 = finished(hash);
    }

    /// The hash.
    pub(super) const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Of one event alone.
    pub(crate) fn of(raw: &Raw) -> Self {
        let mut hash = Context::new(&SHA256);
        let mut part = |bytes: &[u8]| {
            hash.update(&(bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        };
        part(&raw.sequence.to_be_bytes());
        part(raw.subject.as_bytes());
        for (name, value) in raw.headers() {
            if name != BATCH && !name.starts_with("Nats-Batch-") {
                part(name.as_bytes());
                part(value.as_bytes());
            }
        }
        part(raw.body());
        Self(finished(hash))
    }
}

fn finished(hash: Context) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(hash.finish().as_ref());
    bytes
}

/// Bytes in hex.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

impl Serialize for Chain {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex(&self.0))
    }
}

impl<'de> Deserialize<'de> for Chain {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl FromStr for Chain {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = "expected a SHA-256 in hex";
        let mut bytes = [0; 32];
        if text.len() != 64 || !text.is_ascii() {
            return Err(wrong);
        }
        for (place, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[place * 2..place * 2 + 2], 16).map_err(|_| wrong)?;
        }
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(sequence: u64, body: &str, batch: &str) -> Raw {
        let headers = [("Nats-Msg-Id", "1"), (BATCH, batch), ("Twice", "b"), ("Twice", "a")];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Raw::new(
            sequence,
            "evt.orders.order.1".to_owned(),
            Timestamp::UNIX_EPOCH,
            &headers,
            body.to_owned().into(),
        )
        .unwrap()
    }

    #[test]
    fn a_line_holds_every_byte() {
        for body in [
            "{\"a\":1}",
            " {\"a\": 1.50}  ",
            "{\n}",
            "",
            "no json",
            "\u{0}\"",
            "{\"b\":1,\"a\":1e400}",
            "[]\n",
        ] {
            let before = raw(7, body, "x;1");
            let mut line = Vec::new();
            write(&before, &mut line).unwrap();
            assert_eq!(line.split(|byte| *byte == b'\n').count(), 2, "{body:?}");
            let after = read(std::str::from_utf8(&line).unwrap()).unwrap();
            assert_eq!((after.body(), after.headers(), &after), (before.body(), before.headers(), &before));
        }
        assert!(read("{}").is_err() && read("").is_err());
    }

    #[test]
    fn a_chain_changes_with_everything_that_is_recorded_and_nothing_else() {
        let of = |sequence, body, batch| Chain::of(&raw(sequence, body, batch));
        assert_eq!(of(1, "{}", "x;1"), of(1, "{}", "y;2"), "how it was sent is no part of it");
        assert_ne!(of(1, "{}", ""), of(2, "{}", ""));
        assert_ne!(of(1, "{}", ""), of(1, "{} ", ""));
        let (mut one, mut two) = (Chain::default(), Chain::default());
        for (first, second) in [(1, 2), (2, 1)] {
            one.push(&raw(first, "{}", ""));
            two.push(&raw(second, "{}", ""));
        }
        assert_ne!(one, two);
        let text = serde_json::to_string(&one).unwrap();
        assert_eq!(serde_json::from_str::<Chain>(&text).unwrap(), one);
        assert!("12".parse::<Chain>().is_err() && "x".repeat(64).parse::<Chain>().is_err());
    }
}
