//! What can be wrong, and what was found.

use serde::Serialize;
use std::{collections::BTreeMap, fmt};

/// What can be wrong. The names never change; docs/verify.md says what each means and what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// Messages are missing from a stream.
    Gap,
    /// A message stands where no event of Waybill does.
    Foreign,
    /// A header is missing, malformed, or says something else than it must.
    Header,
    /// The versions of an aggregate are not counted from 1 without a gap.
    Version,
    /// The guard of an event is not the place of the aggregate's last one.
    Guard,
    /// `Waybill-Tail` points to other messages than the aggregate's.
    Tail,
    /// A timer is none.
    Timer,
    /// An event id, or a command, was recorded twice.
    Repeated,
    /// An event id does not belong to its command.
    Id,
    /// What caused an event is not in the log.
    Cause,
    /// An event has another correlation id than what caused it.
    Correlation,
    /// A type or a version that this program does not know.
    Type,
    /// A body that this program cannot read.
    Body,
    /// Stock or balances are not the sums of what happened.
    Sum,
    /// An order ended twice, or with something neither done nor undone.
    Order,
    /// A read model does not say what the log says.
    Row,
    /// A read model cannot be compared.
    Model,
}

impl Kind {
    /// Its name.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Gap => "gap",
            Self::Foreign => "foreign",
            Self::Header => "header",
            Self::Version => "version",
            Self::Guard => "guard",
            Self::Tail => "tail",
            Self::Timer => "timer",
            Self::Repeated => "repeated",
            Self::Id => "id",
            Self::Cause => "cause",
            Self::Correlation => "correlation",
            Self::Type => "type",
            Self::Body => "body",
            Self::Sum => "sum",
            Self::Order => "order",
            Self::Row => "row",
            Self::Model => "model",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// Of which kind.
    pub(crate) kind: Kind,
    /// Where: `ORDERS:42`, or a row of a read model.
    pub(crate) at: String,
    /// What is wrong, without anything personal.
    pub(crate) what: String,
}

/// Findings of one kind that are told at most: more say nothing more.
const TOLD: u64 = 1000;

/// Everything that is wrong.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// Those that are told.
    pub(crate) told: Vec<Finding>,
    /// How many there are of each kind.
    pub(crate) counts: BTreeMap<Kind, u64>,
}

impl Findings {
    /// Adds one.
    pub(crate) fn add(&mut self, kind: Kind, at: impl fmt::Display, what: impl Into<String>) {
        let count = self.counts.entry(kind).or_default();
        *count += 1;
        if *count <= TOLD {
            self.told.push(Finding { kind, at: at.to_string(), what: what.into() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Kind; 17] = [
        Kind::Gap,
        Kind::Foreign,
        Kind::Header,
        Kind::Version,
        Kind::Guard,
        Kind::Tail,
        Kind::Timer,
        Kind::Repeated,
        Kind::Id,
        Kind::Cause,
        Kind::Correlation,
        Kind::Type,
        Kind::Body,
        Kind::Sum,
        Kind::Order,
        Kind::Row,
        Kind::Model,
    ];

    #[test]
    fn every_kind_is_documented_under_its_name() {
        let page = include_str!("../../../docs/verify.md");
        for kind in ALL {
            assert!(page.contains(&format!("\n| `{kind}` |")), "docs/verify.md says nothing of {kind}");
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
        }
    }

    #[test]
    fn all_are_counted_and_some_are_told() {
        let mut findings = Findings::default();
        for number in 0..TOLD + 5 {
            findings.add(Kind::Gap, number, "");
        }
        assert_eq!((findings.told.len() as u64, findings.counts[&Kind::Gap]), (TOLD, TOLD + 5));
    }
}
