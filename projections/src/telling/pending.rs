//! What is committed and not told yet.

use super::covered::sequence;
use crate::{database::Move, table::Key};
use events::Position;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

/// Rows by table and key.
pub(crate) type Rows = BTreeSet<(&'static str, Key)>;

/// Rows that wait at most: with more of them the feed begins anew, instead of memory that grows.
const MOST: usize = 50_000;

#[derive(Debug, Default)]
pub(super) struct Pending(Mutex<Work>);

/// What there is to tell.
#[derive(Clone, Debug, Default)]
pub(super) struct Work {
    /// Rows that have changed, each with how many of the commits had come when it changed last.
    pub(super) rows: BTreeMap<(&'static str, Key), usize>,
    /// What of the streams these rows are made of, commit by commit.
    pub(super) commits: Vec<Vec<Move>>,
    /// Where the checkpoints are, as far as it is known.
    pub(super) at: Vec<Position>,
    /// Where they were found by somebody who did not move them, who has to tell until then.
    pub(super) found: Option<(Instant, Vec<Position>)>,
    /// Since when something waits.
    pub(super) since: Option<Instant>,
    /// Whether rows were changed that no move tells.
    pub(super) must: bool,
    /// Whether not everything is here any more.
    pub(super) anew: bool,
    /// Whether the tables are far behind the log.
    pub(super) far: bool,
}

impl Pending {
    fn lock(&self) -> MutexGuard<'_, Work> {
        // Every statement leaves it valid.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn committed(&self, moves: &[Move], rows: Rows, far: bool) {
        let mut work = self.lock();
        for step in moves {
            work.reach(Position { context: step.context, sequence: step.to });
        }
        work.far = far;
        if far {
            work.forget();
            return;
        }
        work.since.get_or_insert_with(Instant::now);
        work.must |= moves.is_empty() && !rows.is_empty();
        if !moves.is_empty() {
            work.commits.push(moves.to_vec());
        }
        // What no move tells is covered by none.
        let behind = if moves.is_empty() { usize::MAX } else { work.commits.len() };
        work.change(rows.into_iter().map(|row| (row, behind)));
        if work.rows.len() > MOST {
            work.forget();
        }
    }

    pub(super) fn found(&self, checkpoints: &[Position], until: Instant) {
        let mut work = self.lock();
        // The first time there is nobody to wait for.
        let until = if work.at.is_empty() { Instant::now() } else { until };
        for &position in checkpoints {
            work.reach(position);
        }
        let until = work.found.take().map_or(until, |(before, _)| before.min(until));
        work.found = Some((until, checkpoints.to_vec()));
    }

    /// Takes what is to be told now; None where that has to wait.
    pub(super) fn take(&self, now: Instant) -> Option<Work> {
        let mut work = self.lock();
        if work.at.is_empty() || work.far {
            return None;
        }
        let found = work.found.take_if(|(until, _)| *until <= now);
        let taken = std::mem::take(&mut *work);
        work.at.clone_from(&taken.at);
        work.found.clone_from(&taken.found);
        Some(Work { found, ..taken })
    }

    /// Puts back what could not be told.
    pub(super) fn give_back(&self, before: Work) {
        let mut work = self.lock();
        let earlier = before.commits.len();
        work.rows.values_mut().for_each(|behind| *behind = behind.saturating_add(earlier));
        work.change(before.rows);
        work.commits.splice(..0, before.commits);
        work.found = before.found.or_else(|| work.found.take());
        work.since = before.since.or(work.since);
        work.must |= before.must;
        work.anew |= before.anew;
        if work.rows.len() > MOST {
            work.forget();
        }
    }

    /// Resolves when what was found has to be looked at.
    pub(super) async fn due(&self) {
        let until = self.lock().found.as_ref().map(|(until, _)| *until);
        match until {
            Some(until) => tokio::time::sleep_until(until.into()).await,
            None => std::future::pending().await,
        }
    }

    pub(super) fn is_far(&self) -> bool {
        self.lock().far
    }

    pub(super) fn len(&self) -> usize {
        self.lock().rows.len()
    }
}

impl Work {
    /// A checkpoint is here, or further.
    fn reach(&mut self, position: Position) {
        match self.at.iter_mut().find(|one| one.context == position.context) {
            Some(known) => *known = (*known).max(position),
            None => self.at.push(position),
        }
    }

    /// Rows have changed behind so many moves.
    fn change(&mut self, rows: impl IntoIterator<Item = ((&'static str, Key), usize)>) {
        for (row, behind) in rows {
            let known = self.rows.entry(row).or_default();
            *known = behind.max(*known);
        }
    }

    /// How many of the commits are told with `told`, all of each.
    fn covered(&self, told: &[Position]) -> usize {
        let covered = |commit: &&Vec<Move>| commit.iter().all(|step| step.to <= sequence(told, step.context));
        self.commits.iter().take_while(covered).count()
    }

    /// Whether `told` ends within a commit, as where tables were put back from a copy, or others are told of too: which of its rows
    /// are told nobody knows here, only the facts say it.
    pub(super) fn is_torn(&self, told: &[Position]) -> bool {
        let mut left = self.commits[self.covered(told)..].iter().flatten();
        left.any(|step| step.from < sequence(told, step.context))
    }

    /// The rows that are not told with `told`: whoever told as much has told those that changed up to there. Of commits that
    /// are torn none.
    pub(super) fn untold(&self, told: &[Position]) -> Rows {
        let covered = if self.is_torn(told) { usize::MAX - 1 } else { self.covered(told) };
        self.rows.iter().filter(|(_, behind)| **behind > covered).map(|(row, _)| row.clone()).collect()
    }

    fn forget(&mut self) {
        (self.anew, self.since) = (true, None);
        self.rows.clear();
        self.commits.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Value;
    use events::Context;

    const fn at(sequence: u64) -> Position {
        Position { context: Context::Orders, sequence }
    }

    fn row(id: i64) -> (&'static str, Key) {
        ("orders", Key(vec![Value::Int(id)]))
    }

    fn rows(ids: &[i64]) -> Rows {
        ids.iter().map(|id| row(*id)).collect()
    }

    fn commit(pending: &Pending, from: u64, to: u64, ids: &[i64]) {
        pending.committed(&[Move { context: Context::Orders, from, to }], rows(ids), false);
    }

    /// Another instance has told the first commit, or both, before this one comes to it.
    #[test]
    fn what_another_has_told_is_not_told_again() {
        let pending = Pending::default();
        commit(&pending, 0, 5, &[1, 2]);
        commit(&pending, 5, 7, &[2, 3]);
        let work = pending.take(Instant::now()).unwrap();
        assert_eq!(work.untold(&[]), rows(&[1, 2, 3]));
        assert!(work.is_torn(&[at(4)]) && work.untold(&[at(4)]).is_empty(), "the facts say which");
        assert_eq!(work.untold(&[at(5)]), rows(&[2, 3]));
        assert_eq!(work.untold(&[at(7)]), rows(&[]));
    }

    /// Of one commit the moves of one stream are told, and those of the other are not.
    #[test]
    fn a_commit_is_torn_in_any_of_its_streams() {
        let pending = Pending::default();
        let payments = |sequence| Position { context: Context::Payments, sequence };
        let moves = [
            Move { context: Context::Orders, from: 5, to: 7 },
            Move { context: Context::Payments, from: 8, to: 9 },
        ];
        pending.committed(&moves, rows(&[1]), false);
        let work = pending.take(Instant::now()).unwrap();
        for (told, torn) in [((5, 8), false), ((7, 9), false), ((7, 8), true), ((6, 8), true), ((5, 9), true)]
        {
            assert_eq!(work.is_torn(&[at(told.0), payments(told.1)]), torn, "{told:?}");
        }
    }

    #[test]
    fn what_was_given_back_comes_before_what_came_meanwhile() {
        let pending = Pending::default();
        commit(&pending, 0, 5, &[1, 2]);
        let work = pending.take(Instant::now()).unwrap();
        commit(&pending, 5, 7, &[2, 3]);
        pending.give_back(work);
        let work = pending.take(Instant::now()).unwrap();
        assert_eq!(work.commits.iter().flatten().map(|step| step.to).collect::<Vec<_>>(), [5, 7]);
        assert_eq!(work.untold(&[at(5)]), rows(&[2, 3]));
        assert_eq!(work.untold(&[at(7)]), rows(&[]));
    }

    #[test]
    fn rows_that_no_move_tells_are_always_told() {
        let pending = Pending::default();
        commit(&pending, 0, 5, &[1]);
        pending.committed(&[], rows(&[2]), false);
        commit(&pending, 5, 7, &[3]);
        let work = pending.take(Instant::now()).unwrap();
        assert!(work.must);
        assert_eq!(work.untold(&[at(7)]), rows(&[2]));
    }
}
