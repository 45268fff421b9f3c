//! The log itself, message by message, all streams in the order in which they were stored.

use super::{
    aggregates::Aggregates,
    chains::Chains,
    finding::{Findings, Kind},
    gate::Gate,
    headers,
};
use crate::{
    audit::Audit,
    cut::{Batch, Cut, Part},
    failure::Failure,
};
use events::{Context, Position, envelope::header};
use jiff::Timestamp;
use nats::{Connection, Raw, restore};
use serde::Serialize;
use std::{collections::BTreeMap, ops::RangeInclusive};

/// Which parts of the log are looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parts {
    /// Sequences, headers, aggregates, chains, sums.
    pub(super) log: bool,
    /// Types and shapes.
    pub(super) schema: bool,
}

/// What was found in one stream.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct StreamCheck {
    /// Sequence of the first message.
    pub(super) first: u64,
    /// Everything up to here was looked at.
    pub(super) last: u64,
    /// Events among it.
    pub(super) events: u64,
    /// Timers that stand.
    pub(super) timers: u64,
    /// Sequences where timers stood that have fired or were cancelled.
    pub(super) timers_gone: u64,
    /// Where timers stood that were armed by an import.
    #[serde(skip)]
    armed: Vec<RangeInclusive<u64>>,
    /// The batch of the last message.
    #[serde(skip)]
    batch: Option<Batch>,
}

/// Everything that is known of the log.
pub(super) struct LogCheck {
    parts: Parts,
    pub(super) findings: Findings,
    pub(super) streams: BTreeMap<&'static str, StreamCheck>,
    pub(super) aggregates: Aggregates,
    chains: Chains,
    pub(super) audit: Audit,
    pub(super) gate: Gate,
}

impl LogCheck {
    pub(super) fn new(parts: Parts) -> Self {
        Self {
            parts,
            findings: Findings::default(),
            streams: BTreeMap::new(),
            aggregates: Aggregates::default(),
            chains: Chains::default(),
            audit: Audit::default(),
            gate: Gate::default(),
        }
    }

    /// Notes what the server says of the streams.
    fn prepare(&mut self, cut: &Cut) {
        for (context, state) in &cut.streams {
            let stream = self.streams.entry(context.stream()).or_default();
            stream.armed = restore::armed(&state.config);
        }
    }

    /// Looks at the next message of a stream.
    pub(super) fn take(&mut self, context: Context, raw: Raw) {
        let (batch, sequence) = (Batch::of(&raw), raw.sequence);
        let stream = self.streams.entry(context.stream()).or_default();
        let expected = stream.last + 1;
        if sequence > expected {
            self.gap(context, expected..=sequence - 1, batch.as_ref());
        }
        let stream = self.streams.entry(context.stream()).or_default();
        if stream.first == 0 {
            stream.first = sequence;
        }
        (stream.last, stream.batch) = (sequence, batch.clone());
        if context.has_timers() && raw.subject.starts_with("timer.") {
            stream.timers += 1;
            self.timer(context, &raw);
            return;
        }
        stream.events += 1;
        let repeated = if self.parts.log { headers::repeated(&raw) } else { None };
        let position = Position { context, sequence };
        match raw.into_event() {
            Ok(event) if event.subject.context() == context => self.event(repeated, &event, batch.as_ref()),
            Ok(event) => self.foreign(position, event.subject.as_str()),
            Err(error) => self.foreign(position, &error.to_string()),
        }
    }

    fn foreign(&mut self, position: Position, what: &str) {
        self.findings.add(Kind::Foreign, position, format!("is no event of this stream: {what}"));
    }

    fn event(&mut self, repeated: Option<String>, event: &nats::Message, batch: Option<&Batch>) {
        let fact = event.fact();
        if self.parts.log {
            let (faults, envelope) = headers::check(repeated, event);
            for fault in faults {
                self.findings.add(Kind::Header, event.position, fault);
            }
            self.aggregates.check(event, batch, &mut self.findings);
            if let Some(envelope) = envelope {
                self.chains.check(event, &envelope, &mut self.findings);
            }
            if let Ok(fact) = &fact {
                self.audit.apply(fact);
                for sum in self.audit.take_faults() {
                    self.findings.add(Kind::Sum, event.position, sum);
                }
            }
        }
        if self.parts.schema {
            self.gate.check(event, &fact, &mut self.findings);
        }
    }

    /// Nothing but timers may be gone. They stand behind the facts of the batch that armed them, so something is missing
    /// there only where the message before it is not the end of its batch.
    fn gap(&mut self, context: Context, missing: RangeInclusive<u64>, behind: Option<&Batch>) {
        let stream = self.streams.entry(context.stream()).or_default();
        let count = missing.end() - missing.start() + 1;
        let of_batch = stream.batch.as_ref().is_some_and(|before| match behind {
            _ if before.is_last => false,
            Some(behind) if behind.id == before.id => behind.place == before.place + count + 1,
            _ => true,
        });
        let is_armed = missing.clone().all(|at| stream.armed.iter().any(|armed| armed.contains(&at)));
        if context.has_timers() && (of_batch || is_armed) {
            stream.timers_gone += count;
            return;
        }
        if self.parts.log {
            let (first, last) = missing.into_inner();
            let at = Position { context, sequence: first };
            self.findings.add(Kind::Gap, at, format!("{count} messages are missing, up to {last}"));
        }
    }

    fn timer(&mut self, context: Context, raw: &Raw) {
        let at = Position { context, sequence: raw.sequence };
        let target = raw.header("Nats-Schedule-Target").unwrap_or_default();
        let of = raw.subject.split('.').nth(2).unwrap_or_default();
        let due =
            raw.header("Nats-Schedule").and_then(|when| when.strip_prefix("@at ")?.parse::<Timestamp>().ok());
        let fits = events::Subject::parse(target).is_some_and(|to| to.context() == context && to.id() == of);
        if self.parts.log && (due.is_none() || !fits || raw.header(header::TYPE).is_none()) {
            self.findings.add(Kind::Timer, at, format!("{} is no timer of {context}", raw.subject));
        }
    }

    /// At the end of a stream.
    fn end(&mut self, context: Context, missing: Option<RangeInclusive<u64>>) {
        let known = self.streams.entry(context.stream()).or_default().last;
        // It was told before where the stream was looked at again.
        if let Some(missing) = missing.filter(|missing| *missing.end() > known) {
            let last = *missing.end();
            self.gap(context, missing, None);
            self.streams.entry(context.stream()).or_default().last = last;
        }
    }

    /// When there is nothing more to come.
    pub(super) fn finish(&mut self) {
        self.chains.finish(&mut self.findings);
    }
}

/// The streams, read together.
pub(super) struct Log {
    connection: Connection,
    parts: Vec<Part>,
    /// The moment up to which they are read.
    pub(super) cut: Cut,
}

impl Log {
    /// Everything there is at this moment.
    pub(super) async fn open(connection: &Connection, contexts: &[Context]) -> Result<Self, Failure> {
        let cut = Cut::now(connection, contexts).await?;
        let mut parts: Vec<_> = contexts.iter().map(|context| Part::new(connection, *context, 1)).collect();
        for part in &mut parts {
            part.extend(&cut);
        }
        Ok(Self { connection: connection.clone(), parts, cut })
    }

    /// How many messages there are.
    pub(super) fn messages(&self) -> u64 {
        self.cut.streams.iter().map(|(_, state)| state.messages).sum()
    }

    /// Hands over everything up to the cut, oldest first. `seen` is called after each.
    pub(super) async fn read(&mut self, check: &mut LogCheck, seen: impl Fn()) -> Result<(), Failure> {
        check.prepare(&self.cut);
        // Of each stream when its next message was stored; none at its end.
        let mut heads = Vec::with_capacity(self.parts.len());
        for part in &mut self.parts {
            heads.push(part.peek().await?);
        }
        loop {
            let oldest = heads.iter().enumerate().filter_map(|(place, head)| Some(((*head)?, place))).min();
            let Some((_, place)) = oldest else { break };
            let part = &mut self.parts[place];
            if let Some(raw) = part.take() {
                check.take(part.context, raw);
                seen();
            }
            heads[place] = part.peek().await?;
        }
        for part in &self.parts {
            check.end(part.context, part.missing_at_end());
        }
        Ok(())
    }

    /// The same up to a later moment: now.
    pub(super) async fn go_on(&mut self, check: &mut LogCheck) -> Result<(), Failure> {
        let contexts: Vec<_> = self.parts.iter().map(|part| part.context).collect();
        self.cut = Cut::now(&self.connection, &contexts).await?;
        for part in &mut self.parts {
            part.extend(&self.cut);
        }
        self.read(check, || ()).await
    }
}
