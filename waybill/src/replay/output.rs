//! How events are printed: a table for people, CloudEvents as JSON lines for programs.

use super::redact::shown;
use events::{DecodeError, Envelope};
use nats::{KeyRing, Message};
use serde_json::{Value, json};
use std::{
    io::{self, BufWriter, Write},
    str::FromStr,
};

/// The form of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Output {
    Table,
    Json,
}

impl FromStr for Output {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "table" => Ok(Self::Table),
            "json" => Ok(Self::Json),
            _ => Err("expected table or json"),
        }
    }
}

/// Prints events.
pub(super) struct Printer<W: Write> {
    output: Output,
    /// Opens personal data, where that is asked for.
    keys: Option<KeyRing>,
    /// Whether the head of the table is still to be printed.
    head: bool,
    to: BufWriter<W>,
}

impl<W: Write> Printer<W> {
    pub(super) fn new(output: Output, keys: Option<KeyRing>, to: W) -> Self {
        Self { output, keys, head: output == Output::Table, to: BufWriter::new(to) }
    }

    /// The data of an event as they are to be shown; null for a table, which shows none.
    pub(super) async fn data(&self, message: &Message) -> Value {
        match (self.output, serde_json::from_slice(message.body())) {
            (Output::Json, Ok(data)) => shown(message.kind(), data, self.keys.as_ref()).await,
            _ => Value::Null,
        }
    }

    /// Prints an event with what [`data`](Self::data) gave for it.
    pub(super) fn print(&mut self, message: &Message, data: Value) -> io::Result<()> {
        if std::mem::take(&mut self.head) {
            row(
                &mut self.to,
                ["STORED", "POSITION", "TYPE", "AGGREGATE", "VERSION", "ACTOR", "CORRELATION"],
            )?;
        }
        match (self.output, message.envelope()) {
            (Output::Json, envelope) => writeln!(self.to, "{}", cloud_event(message, envelope, data)),
            (Output::Table, Ok(envelope)) => {
                let aggregate = format!("{}/{}", message.subject.aggregate().token(), message.subject.id());
                let (stored, position) = (format!("{:.3}", message.stored), message.position.to_string());
                let version = envelope.version.to_string();
                let (actor, correlation) = (envelope.actor.as_str(), envelope.correlation.as_str());
                let kind = &envelope.kind;
                row(&mut self.to, [&stored, &position, kind, &aggregate, &version, actor, correlation])
            }
            (Output::Table, Err(error)) => writeln!(self.to, "{} is no event: {error}", message.position),
        }
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

fn row(to: &mut impl Write, cells: [&str; 7]) -> io::Result<()> {
    let [stored, position, kind, aggregate, version, actor, correlation] = cells;
    writeln!(
        to,
        "{stored:24}  {position:>14}  {kind:28}  {aggregate:48}  {version:>7}  {actor:20}  {correlation}"
    )
}

/// An event in the JSON format of CloudEvents, with where it stands.
fn cloud_event(message: &Message, envelope: Result<Envelope, DecodeError>, data: Value) -> Value {
    let mut event = json!({
        "stream": message.position.context.stream(),
        "streamsequence": message.position.sequence,
        "storedtime": message.stored,
        "natssubject": message.subject.as_str(),
    });
    event["data"] = data;
    match envelope {
        Ok(envelope) => envelope.write_headers(message.position.context, |name, value| {
            let attribute = match name {
                events::envelope::header::CONTENT_TYPE => "datacontenttype",
                events::envelope::header::MSG_ID => return,
                events::envelope::header::SEQUENCE => {
                    event["sequence"] = value.parse::<u64>().map_or(Value::Null, Value::from);
                    return;
                }
                name => name.strip_prefix("ce-").unwrap_or(name),
            };
            event[attribute] = value.into();
        }),
        Err(error) => event["error"] = error.to_string().into(),
    }
    event
}
