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
    /// Rows that have changed, each with how many of the moves had come when it changed last.
    pub(super) rows: BTreeMap<(&'static str, Key), usize>,
    /// What of the streams these rows are made of, in the order of the commits.
    pub(super) moves: Vec<Move>,
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
        work.moves.extend(moves);
        // What no move tells is covered by none.
        let behind = if moves.is_empty() { usize::MAX } else { work.moves.len() };
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
        let earlier = before.moves.len();
        work.rows.values_mut().for_each(|behind| *behind = behind.saturating_add(earlier));
        work.change(before.rows);
        work.moves.splice(..0, before.moves);
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

    /// The rows that are not told with `told`: whoever told as much has told those that changed up to there.
    pub(super) fn untold(&self, told: &[Position]) -> Rows {
        let covered = |step: &&Move| step.to <= sequence(told, step.context);
        let covered = self.moves.iter().take_while(covered).count();
        self.rows.iter().filter(|(_, behind)| **behind > covered).map(|(row, _)| row.clone()).collect()
    }

    fn forget(&mut self) {
        (self.anew, self.since) = (true, None);
        self.rows.clear();
        self.moves.clear();
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
        assert_eq!(work.untold(&[at(4)]), rows(&[1, 2, 3]), "a commit is told as a whole");
        assert_eq!(work.untold(&[at(5)]), rows(&[2, 3]));
        assert_eq!(work.untold(&[at(7)]), rows(&[]));
    }

    #[test]
    fn what_was_given_back_comes_before_what_came_meanwhile() {
        let pending = Pending::default();
        commit(&pending, 0, 5, &[1, 2]);
        let work = pending.take(Instant::now()).unwrap();
        commit(&pending, 5, 7, &[2, 3]);
        pending.give_back(work);
        let work = pending.take(Instant::now()).unwrap();
        assert_eq!(work.moves.iter().map(|step| step.to).collect::<Vec<_>>(), [5, 7]);
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
