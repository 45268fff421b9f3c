//! How events are printed: a table for people, JSON lines and CloudEvents for programs.

use super::cloud_event::cloud_event;
use nats::{KeyRing, Message, shown};
use projections::EventDocument;
use serde_json::Value;
use std::{
    io::{self, BufWriter, Write},
    str::FromStr,
};

/// The form of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Output {
    /// A line of columns.
    Table,
    /// A line of JSON: everything that is known of it.
    Json,
    /// A line of JSON, in the format of CloudEvents.
    CloudEvents,
}

impl FromStr for Output {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "table" => Ok(Self::Table),
            "json" => Ok(Self::Json),
            "cloudevents" => Ok(Self::CloudEvents),
            _ => Err("expected table, json or cloudevents"),
        }
    }
}

/// Prints events.
pub(super) struct Printer {
    output: Output,
    /// Opens personal data, where that is asked for.
    keys: Option<KeyRing>,
    /// Whether the head of the table is still to be printed.
    head: bool,
    to: BufWriter<Box<dyn Write + Send>>,
}

impl Printer {
    pub(super) fn new(output: Output, keys: Option<KeyRing>, to: Box<dyn Write + Send>) -> Self {
        Self { output, keys, head: output == Output::Table, to: BufWriter::new(to) }
    }

    /// An event as it is to be printed.
    pub(super) async fn line(&self, message: &Message) -> String {
        let keys = self.keys.as_ref();
        match self.output {
            Output::Table => table(message),
            Output::Json => {
                let document = EventDocument::of(message, keys).await;
                // A document of texts, numbers and JSON is always JSON.
                serde_json::to_string(&document).unwrap_or_default()
            }
            Output::CloudEvents => {
                let data = match serde_json::from_slice(message.body()) {
                    Ok(data) => shown(message.kind(), data, keys).await,
                    Err(_) => Value::Null,
                };
                cloud_event(message, data).to_string()
            }
        }
    }

    /// Prints what [`line`](Self::line) gave.
    pub(super) fn print(&mut self, line: &str) -> io::Result<()> {
        if std::mem::take(&mut self.head) {
            let head = ["STORED", "POSITION", "TYPE", "AGGREGATE", "VERSION", "ACTOR", "CORRELATION"];
            writeln!(self.to, "{}", row(head))?;
        }
        writeln!(self.to, "{line}")
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

fn table(message: &Message) -> String {
    let envelope = match message.envelope() {
        Ok(envelope) => envelope,
        Err(error) => return format!("{} is no event: {error}", message.position),
    };
    let (stored, position) = (format!("{:.3}", message.stored), message.position.to_string());
    let (aggregate, version) = (message.subject.name(), envelope.version.to_string());
    let (actor, correlation) = (envelope.actor.as_str(), envelope.correlation.as_str());
    row([&stored, &position, &envelope.kind, &aggregate, &version, actor, correlation])
}

fn row(cells: [&str; 7]) -> String {
    let [stored, position, kind, aggregate, version, actor, correlation] = cells;
    format!("{stored:24}  {position:>14}  {kind:28}  {aggregate:48}  {version:>7}  {actor:20}  {correlation}")
}
