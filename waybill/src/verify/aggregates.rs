//! One aggregate after the other through the whole log: versions, guards, and tails that lead back.
//!
//! Of each aggregate only its version and the places of its last events are kept, about a hundred bytes.

use super::finding::{Findings, Kind};
use crate::cut::Batch;
use events::{Aggregate, Position, envelope::header};
use nats::{Message, Tail};
use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash},
};

/// The sequence that the subject's last message had to have.
const EXPECT: &str = "Nats-Expected-Last-Subject-Sequence";
const TAIL: &str = "Waybill-Tail";
/// A tail that was cut; whoever needs it searches.
const CUT: &str = "?";
/// A tail is never longer.
const LONGEST_TAIL: usize = 128;

/// What is known of one aggregate.
#[derive(Debug, Default)]
struct Known {
    version: u64,
    /// Its last events: those since its last snapshot, with the one the snapshot ends with. The last one is the newest.
    since: Vec<u64>,
}

/// What is known of all of them.
#[derive(Debug, Default)]
pub(super) struct Aggregates {
    /// By a digest of the subject: the subjects themselves would take half of the memory.
    known: HashMap<u128, Known, foldhash::fast::FixedState>,
    /// Where the batch began that a stream's last message belongs to.
    batches: HashMap<&'static str, (String, u64)>,
    /// Tails that were cut. Nothing is wrong with them.
    pub(super) cut_tails: u64,
}

/// 128 bits of a text: no two of some million are the same.
pub(super) fn digest(text: impl Hash) -> u128 {
    let [low, high] = [7, 11].map(|seed| foldhash::fast::FixedState::with_seed(seed).hash_one(&text));
    u128::from(low) | u128::from(high) << 64
}

impl Aggregates {
    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.known.len()
    }

    /// Looks at the next event.
    pub(super) fn check(&mut self, event: &Message, batch: Option<&Batch>, findings: &mut Findings) {
        let first_of_batch = self.batch(event.position, batch);
        if event.subject.aggregate() == Aggregate::Timer {
            // Recorded by the server: it is not counted, and nothing guards it.
            return;
        }
        let known = self.known.entry(digest(event.subject.as_str())).or_default();
        let last = known.since.last().copied().unwrap_or(0);
        version(known, event, findings);
        guard(event, last, last >= first_of_batch && last > 0, findings);
        self.cut_tails += u64::from(tail(known, event, findings));
    }

    /// Where the batch of this message began; behind it where there is none.
    fn batch(&mut self, position: Position, batch: Option<&Batch>) -> u64 {
        let stream = position.context.stream();
        let Some(batch) = batch else {
            self.batches.remove(stream);
            return u64::MAX;
        };
        match self.batches.get(stream) {
            Some((id, first)) if *id == batch.id => *first,
            _ => {
                self.batches.insert(stream, (batch.id.clone(), position.sequence));
                position.sequence
            }
        }
    }
}

fn version(known: &mut Known, event: &Message, findings: &mut Findings) {
    // A header that is no number is told by the check of the headers.
    let Some(version) = event.header(header::SEQUENCE).and_then(|text| text.parse::<u64>().ok()) else {
        known.version += 1;
        return;
    };
    let expected = known.version + 1;
    if version != expected {
        let subject = &event.subject;
        findings.add(
            Kind::Version,
            event.position,
            format!("version {version} of {subject}, expected {expected}"),
        );
    }
    known.version = version;
}

/// The server checks a guard when an event is recorded; the first event of an aggregate in a batch carries it.
fn guard(event: &Message, last: u64, may_be_absent: bool, findings: &mut Findings) {
    let subject = &event.subject;
    match event.header(EXPECT).map(str::parse::<u64>) {
        Some(Ok(guard)) if guard == last => {}
        Some(Ok(guard)) => {
            let what =
                format!("guarded by {guard}, but the last event of {subject} before it stands at {last}");
            findings.add(Kind::Guard, event.position, what);
        }
        Some(Err(_)) => findings.add(Kind::Guard, event.position, format!("{EXPECT} is no sequence")),
        None if may_be_absent => {}
        None => findings.add(Kind::Guard, event.position, "recorded without a guard"),
    }
}

/// Says whether the tail is a cut one.
fn tail(known: &mut Known, event: &Message, findings: &mut Findings) -> bool {
    let (own, text) = (event.position.sequence, event.header(TAIL));
    let before = known.version.saturating_sub(1);
    if text.is_none() && before == 0 {
        known.since = vec![own];
        return false;
    }
    let tail = Tail::parse(text, event.header(header::SEQUENCE), own);
    if tail.broken {
        if text != Some(CUT) {
            let what = if text.is_none() { "is missing" } else { "cannot be read" };
            findings.add(Kind::Tail, event.position, format!("{TAIL} {what}"));
        }
        if known.since.len() > LONGEST_TAIL {
            known.since.remove(0);
        }
        known.since.push(own);
        return text == Some(CUT);
    }
    let (have, said) = (known.since.len(), tail.since.len());
    let shared = have.min(said);
    let same = known.since[have - shared..] == tail.since[said - shared..];
    let ascending = tail.since.is_sorted() && tail.since.first().is_none_or(|first| *first > tail.snapshot);
    let whole = if said < have {
        // The snapshot ends with the event before those that are named.
        known.since[have - said - 1] == tail.snapshot
    } else {
        said as u64 == before && tail.snapshot == 0 || (said as u64) < before && tail.snapshot > 0
    };
    if !(same && ascending && whole) {
        let subject = &event.subject;
        findings.add(
            Kind::Tail,
            event.position,
            format!("{TAIL} does not name the events of {subject} before it"),
        );
    }
    let forgotten = have.saturating_sub(said + 1);
    known.since.drain(..forgotten);
    known.since.push(own);
    false
}
