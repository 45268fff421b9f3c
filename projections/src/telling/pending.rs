//! What is committed and not told yet.

use crate::{database::Move, table::Key};
use events::Position;
use std::{
    collections::BTreeSet,
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
    /// Rows that have changed.
    pub(super) rows: Rows,
    /// What of the streams these rows are made of.
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
        work.rows.extend(rows);
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
        work.rows.extend(before.rows);
        work.moves = before.moves.into_iter().chain(std::mem::take(&mut work.moves)).collect();
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

    fn forget(&mut self) {
        (self.anew, self.since) = (true, None);
        self.rows.clear();
        self.moves.clear();
    }
}
