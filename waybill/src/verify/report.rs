//! What was found, for people and for programs.

use super::{
    finding::{Finding, Findings, Kind},
    gate::Version,
    log::{LogCheck, Parts, StreamCheck},
    tables::TablesCheck,
};
use jiff::Timestamp;
use serde::Serialize;
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{self, Write},
    str::FromStr,
};

/// Findings of one kind that a table shows.
const SHOWN: usize = 20;

/// The form of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Table,
    Json,
}

impl FromStr for Format {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "table" => Ok(Self::Table),
            "json" => Ok(Self::Json),
            _ => Err("expected table or json"),
        }
    }
}

/// Everything that was found.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    /// Whether nothing is wrong.
    agrees: bool,
    /// The moment of the log that was looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<Timestamp>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    streams: BTreeMap<&'static str, StreamCheck>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aggregates: Option<Aggregates>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    types: BTreeMap<String, BTreeMap<u32, Version>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    read_models: BTreeMap<&'static str, TablesCheck>,
    findings: Vec<Finding>,
    counts: BTreeMap<Kind, u64>,
}

/// What there is in the log beside its messages.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Aggregates {
    count: usize,
    /// Tails that were cut: found again by a search.
    cut_tails: u64,
    orders: usize,
    /// Orders that had not ended.
    orders_under_way: usize,
    /// How the others ended.
    ends: BTreeMap<&'static str, usize>,
}

impl Report {
    /// Takes what was found in the log.
    pub(super) fn log(&mut self, check: LogCheck, at: Timestamp, under_way: usize, parts: Parts) {
        self.at = (at > Timestamp::MIN).then_some(at);
        self.streams = check.streams;
        if parts.log {
            self.aggregates = Some(Aggregates {
                count: check.aggregates.count(),
                cut_tails: check.aggregates.cut_tails,
                orders: check.audit.orders(),
                orders_under_way: under_way,
                ends: check.audit.ends(),
            });
        }
        for ((kind, version), found) in check.gate.versions {
            self.types.entry(kind).or_default().insert(version, found);
        }
        self.add(check.findings);
    }

    /// Takes what was compared of a read model.
    pub(super) fn tables(&mut self, service: &'static str, checked: Option<TablesCheck>) {
        self.read_models.extend(checked.map(|checked| (service, checked)));
    }

    /// Takes more findings.
    pub(super) fn add(&mut self, findings: Findings) {
        self.findings.extend(findings.told);
        for (kind, count) in findings.counts {
            *self.counts.entry(kind).or_default() += count;
        }
        self.agrees = self.counts.is_empty();
    }

    /// How many things are wrong.
    pub(super) fn findings(&self) -> u64 {
        self.counts.values().sum()
    }

    pub(super) fn print(&self, format: Format) -> io::Result<()> {
        let text = match format {
            Format::Json => serde_json::to_string_pretty(self)? + "\n",
            Format::Table => self.table(),
        };
        io::stdout().lock().write_all(text.as_bytes())
    }

    fn table(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        if let Some(at) = self.at {
            let _ = writeln!(out, "log at {at:.3}");
        }
        for (name, stream) in &self.streams {
            let StreamCheck { last, events, timers, timers_gone, .. } = stream;
            let timers = match timers + timers_gone {
                0 => String::new(),
                _ => format!(", {timers} timers, {timers_gone} gone"),
            };
            let _ = writeln!(out, "  {name:14} up to {last:>9}  {events:>9} events{timers}");
        }
        if let Some(all) = &self.aggregates {
            let ends: Vec<_> = all.ends.iter().map(|(end, count)| format!("{count} {end}")).collect();
            let Aggregates { count, orders, orders_under_way, .. } = all;
            let _ = writeln!(
                out,
                "  {count} aggregates; {orders} orders: {}; {orders_under_way} under way",
                if ends.is_empty() { "none ended".to_owned() } else { ends.join(", ") }
            );
        }
        self.types(&mut out);
        for (service, checked) in &self.read_models {
            let TablesCheck { at, since, events, rows, waiting, left_out } = checked;
            let _ = write!(out, "read model of {service} at {}: {events} messages folded", at.join(", "));
            if !since.is_empty() {
                let _ = write!(out, ", built since {}", since.join(", "));
            }
            if !waiting.is_empty() {
                let _ = write!(out, ", {} aggregates wait", waiting.len());
            }
            if !left_out.is_empty() {
                let _ = write!(out, ", without {}, skipped or discarded", left_out.join(", "));
            }
            let _ = writeln!(
                out,
                ", {}",
                if *rows == 0 { "agrees".to_owned() } else { format!("{rows} rows differ") }
            );
        }
        self.list(&mut out);
        out
    }

    fn types(&self, out: &mut String) {
        for (kind, versions) in &self.types {
            for (version, found) in versions {
                let Version { events, unreadable, shapes, unknown_fields, .. } = found;
                let _ = write!(out, "  {kind:34} {version}  {events:>9} events, {} shapes", shapes.len());
                if *unreadable > 0 {
                    let _ = write!(out, ", {unreadable} CANNOT BE READ");
                }
                for (field, count) in unknown_fields {
                    let _ = write!(out, "; {field} is not in the schema ({count} events)");
                }
                out.push('\n');
            }
        }
    }

    fn list(&self, out: &mut String) {
        for (kind, count) in &self.counts {
            let of_kind: Vec<_> = self.findings.iter().filter(|finding| finding.kind == *kind).collect();
            for Finding { kind, at, what } in of_kind.iter().take(SHOWN) {
                let _ = writeln!(out, "{kind:12} {at}: {what}");
            }
            let more = *count - of_kind.len().min(SHOWN) as u64;
            if more > 0 {
                let _ = writeln!(out, "{kind:12} and {more} more");
            }
        }
        let total = self.findings();
        let _ = match total {
            0 => writeln!(out, "everything agrees"),
            _ => writeln!(out, "{total} findings"),
        };
    }
}
