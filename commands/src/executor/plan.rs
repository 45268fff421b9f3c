//! What a flight's jobs decided, before it is appended.

use super::Job;
use crate::{
    AnyKey, Decision, Refusal,
    decision::{Decided, Slot},
};
use jiff::Timestamp;
use std::ops::Range;

/// What one pass over the jobs decided.
#[derive(Default)]
pub(super) struct Plan {
    /// Aggregates that must be read (again) before anything is decided for good.
    pub(super) read: Vec<AnyKey>,
    /// What each job did, in the order of the jobs.
    pub(super) outcomes: Vec<Outcome>,
    pub(super) decided: Vec<Decided>,
    /// The aggregates with their states afterwards.
    pub(super) slots: Vec<Slot>,
    pub(super) time: Timestamp,
}

pub(super) enum Outcome {
    /// These of the decided events; none where nothing needed to change.
    Decided(Range<usize>),
    /// Carried out before; its last event stands here.
    Replayed(u64),
    /// The same command is in this flight already and decided these.
    Repeated(Range<usize>),
    Refused(Refusal),
}

impl Plan {
    /// Sequence of an aggregate's last event as the job saw it that came after `before` decided events.
    pub(super) fn seen(&self, slot: usize, before: usize, first: u64) -> u64 {
        let decided = self.decided[..before].iter().rposition(|decided| decided.slot == slot);
        decided.map_or(self.slots[slot].sequence, |at| first + at as u64)
    }

    /// What the same command, asked twice at once, decided earlier in this pass; `jobs` are those that were decided.
    pub(super) fn decided_before(
        &self,
        jobs: &[Job],
        job: &Job,
        decision: &Decision,
    ) -> Option<Range<usize>> {
        let concerns = |at: usize| job.keys.iter().any(|key| key.subject == *decision.subject_of(at));
        let earlier = jobs.iter().zip(&self.outcomes);
        let mut same = earlier.filter(|(earlier, _)| earlier.metadata.command == job.metadata.command);
        same.find_map(|(_, outcome)| match outcome {
            Outcome::Decided(range) => range.clone().any(concerns).then(|| range.clone()),
            _ => None,
        })
    }
}
