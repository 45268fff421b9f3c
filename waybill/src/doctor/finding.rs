//! What was found, for people and for programs.

use serde::Serialize;
use std::{
    fmt::Write as _,
    io::{self, Write},
};

/// What a check is about. The names never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Area {
    /// The servers themselves.
    Nats,
    /// Nodes, and the copies on them.
    Cluster,
    /// Streams and buckets.
    Streams,
    /// Who reacts.
    Consumers,
    /// Whether what was acknowledged is on disk.
    Durability,
    /// Where read models are.
    Databases,
    /// Whether read models say what is recorded.
    Projections,
    /// Clocks.
    Clocks,
    /// Room.
    Disk,
    /// Keys, certificates, and files that hold secrets.
    Credentials,
}

/// Something that is wrong, or that could not be known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// What the check is about.
    pub(super) area: Area,
    /// Of what: a stream, a node, a file.
    pub(super) of: String,
    /// What is wrong with it, or what is not known.
    pub(super) what: String,
    /// What to do.
    pub(super) todo: String,
}

/// Everything that was looked at.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    /// What is wrong.
    findings: Vec<Finding>,
    /// What could not be known.
    unknown: Vec<Finding>,
    /// What is well, in short.
    fine: Vec<Fine>,
}

/// Something that is as it has to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Fine {
    area: Area,
    of: String,
    what: String,
}

impl Report {
    /// Notes what is wrong.
    pub(super) fn find(
        &mut self,
        area: Area,
        of: impl Into<String>,
        what: impl Into<String>,
        todo: impl Into<String>,
    ) {
        self.findings.push(Finding { area, of: of.into(), what: what.into(), todo: todo.into() });
    }

    /// Notes what could not be known, and where to look.
    pub(super) fn leave_open(
        &mut self,
        area: Area,
        of: impl Into<String>,
        what: impl Into<String>,
        todo: impl Into<String>,
    ) {
        self.unknown.push(Finding { area, of: of.into(), what: what.into(), todo: todo.into() });
    }

    /// Notes what is well.
    pub(super) fn praise(&mut self, area: Area, of: impl Into<String>, what: impl Into<String>) {
        self.fine.push(Fine { area, of: of.into(), what: what.into() });
    }

    /// How many things are wrong.
    pub(super) fn findings(&self) -> usize {
        self.findings.len()
    }

    pub(super) fn print(&mut self, json: bool) -> io::Result<()> {
        self.findings.sort_by_key(|finding| finding.area);
        self.unknown.sort_by_key(|finding| finding.area);
        self.fine.sort_by_key(|fine| fine.area);
        let text = if json { serde_json::to_string_pretty(self)? + "\n" } else { self.text() };
        io::stdout().lock().write_all(text.as_bytes())
    }

    fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        for Fine { area, of, what } in &self.fine {
            let _ = writeln!(out, "  {:12} {of}: {what}", name(*area));
        }
        for (title, findings) in [("not known", &self.unknown), ("wrong", &self.findings)] {
            if !findings.is_empty() {
                let _ = writeln!(out, "\n{title}:");
            }
            for Finding { area, of, what, todo } in findings {
                let _ = writeln!(out, "  {:12} {of}: {what}\n  {:12}   -> {todo}", name(*area), "");
            }
        }
        if self.findings.is_empty() {
            out.push_str("\nnothing is wrong\n");
        }
        out
    }
}

fn name(area: Area) -> String {
    format!("{area:?}").to_lowercase()
}
