//! Facts folded into tables of their own, in memory: what the queries would have answered then.

use super::{
    Thing,
    log::{Log, Told, first_of},
};
use crate::{
    Changes, Projections,
    database::{Database, Writer},
};
use axum::http::StatusCode;
use events::{Context, Position, Subject};
use jiff::Timestamp;
use service::{Clock, Problem};
use std::collections::{BTreeMap, HashSet};

/// Facts of one transaction.
const BATCH: usize = 2000;

/// Facts that are folded at most: what that costs stands in docs/replay.md.
const MOST: usize = 20_000;

/// Tables with a part of the facts of one thing.
pub(super) struct Fold {
    projections: Projections,
    thing: &'static Thing,
    database: Database,
    writer: Writer,
    changes: Changes,
    waiting: usize,
    owners: HashSet<Subject>,
    told: usize,
    /// Version of the thing: of the last fact of its own.
    version: u64,
    /// Since when the last fact counts.
    time: Option<Timestamp>,
    positions: BTreeMap<Context, u64>,
}

impl Fold {
    /// Empty tables.
    pub(super) async fn new(projections: &Projections, thing: &'static Thing) -> Result<Self, Problem> {
        let (database, writer) = Database::scratch(projections.view()).await?;
        Ok(Self {
            projections: projections.clone(),
            thing,
            database,
            writer,
            changes: Changes::default(),
            waiting: 0,
            owners: HashSet::new(),
            told: 0,
            version: 0,
            time: None,
            positions: BTreeMap::new(),
        })
    }

    /// Takes facts as long as they are wanted. Answers since when the first one counts that is not.
    pub(super) async fn take_while(
        &mut self,
        log: &mut Log,
        wanted: impl Fn(&Told) -> bool,
    ) -> Result<Option<Timestamp>, Problem> {
        while let Some(next) = log.peek().await? {
            if !wanted(next) {
                return Ok(Some(next.at));
            }
            if self.told == MOST {
                return Err(too_long());
            }
            if let Some(told) = log.take() {
                self.take(&told).await?;
            }
        }
        Ok(None)
    }

    /// Takes one fact.
    pub(super) async fn take(&mut self, told: &Told) -> Result<(), Problem> {
        let recorded = &told.recorded;
        let (project, connection) = (self.projections.view().project, self.projections.connection());
        if let Some(owner) = self.thing.owner.and_then(|owner| owner(&recorded.fact))
            && self.owners.insert(owner.clone())
            && let Some(first) = first_of(connection, &owner).await?
        {
            project(&first, &mut self.changes);
        }
        project(recorded, &mut self.changes);
        self.told += 1;
        self.waiting += 1;
        self.time = Some(told.at);
        self.positions.insert(recorded.position.context, recorded.position.sequence);
        if recorded.subject.aggregate() == self.thing.aggregate {
            self.version = recorded.envelope.version;
        }
        if self.waiting == BATCH { self.commit().await } else { Ok(()) }
    }

    /// Has the tables show what was taken.
    pub(super) async fn commit(&mut self) -> Result<(), Problem> {
        self.waiting = 0;
        self.writer.commit(std::mem::take(&mut self.changes), &[]).await?;
        Ok(())
    }

    /// What answers queries from the tables, at this time.
    pub(super) fn tables(&self, clock: Clock) -> Projections {
        self.projections.over(self.database.clone(), clock)
    }

    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn time(&self) -> Option<Timestamp> {
        self.time
    }

    /// Up to where in each stream facts were taken.
    pub(super) fn positions(&self) -> impl Iterator<Item = Position> {
        self.positions.iter().map(|(&context, &sequence)| Position { context, sequence })
    }
}

fn too_long() -> Problem {
    let detail = format!("More than {MOST} events would have to be folded for this.");
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "history-too-long", detail)
}
