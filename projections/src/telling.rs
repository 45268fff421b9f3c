//! After the commit: changed rows go to the change feed, for whoever follows (step 9).
//!
//! The projector says what it has changed and goes on. A task reads these rows as they are now and tells them, with a mark
//! that says up to where everything is told: never more than is committed. What a projector committed that died before it
//! told is found by comparing the mark with the checkpoints: the facts between them are projected once more, into nothing,
//! to learn which rows they changed. So whoever goes from mark to mark has seen every row that changed (ADR 23).

mod covered;
mod pending;
mod rows;

use crate::{
    Changes, FeedMetrics, Outlet, View,
    database::{DatabaseError, Move},
    generations::Serving,
    metrics::Projection,
};
use covered::{Gap, advance};
use events::Position;
use nats::{ChangeFeed, Connection, FeedError, FeedHead, Filter, From, Reader, ReplayError, Until};
pub(crate) use pending::Rows;
use pending::{Pending, Work};
use service::Shutdown;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::{Notify, watch};

/// So many events behind the log nothing is told: followers are told to look again when that is over.
const FAR: u64 = 10_000;
/// How long whoever was faster may take to tell what he has committed.
const GRACE: Duration = Duration::from_secs(1);
const FIRST_RETRY: Duration = Duration::from_millis(50);
const LAST_RETRY: Duration = Duration::from_secs(5);

/// What a projector tells of its commits. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Announcer {
    view: &'static View,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    pending: Pending,
    wake: Notify,
}

impl Announcer {
    /// The rows of a batch that followers hear of; to be asked before it is committed.
    pub(crate) fn rows(&self, changes: &Changes) -> Rows {
        if self.shared.pending.is_far() {
            return Rows::new();
        }
        let fed = |table: &str| self.view.fed().any(|one| one.name == table);
        changes
            .keys()
            .filter(|(table, _)| fed(table.name))
            .map(|(table, key)| (table.name, key.clone()))
            .collect()
    }

    /// These rows are committed, with these moves of the checkpoints; so many events are left to be read.
    pub(crate) fn committed(&self, moves: &[Move], rows: Rows, left: u64) {
        self.shared.pending.committed(moves, rows, left > FAR);
        self.shared.wake.notify_one();
    }

    /// The checkpoints are here, moved by whomever: everything up to them has to be told, soon.
    pub(crate) fn found(&self, checkpoints: &[Position]) {
        self.shared.pending.found(checkpoints, Instant::now() + GRACE);
        self.shared.wake.notify_one();
    }
}

/// Tells the rows that announcers name.
pub(crate) struct Teller {
    view: &'static View,
    feed: ChangeFeed,
    /// Facts are read here once more.
    connection: Connection,
    serving: watch::Receiver<Serving>,
    metrics: FeedMetrics,
    shared: Arc<Shared>,
}

/// Why nothing could be told.
#[derive(Debug, thiserror::Error)]
enum Interruption {
    #[error(transparent)]
    Feed(#[from] FeedError),
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error(transparent)]
    Replay(#[from] ReplayError),
}

impl Teller {
    /// Somebody who tells, and how projectors reach him.
    pub(crate) fn new(
        view: &'static View,
        outlet: &Outlet,
        connection: &Connection,
        serving: watch::Receiver<Serving>,
    ) -> (Self, Announcer) {
        let shared = Arc::<Shared>::default();
        let announcer = Announcer { view, shared: Arc::clone(&shared) };
        let Outlet { feed, metrics } = outlet.clone();
        (Self { view, feed, connection: connection.clone(), serving, metrics, shared }, announcer)
    }

    /// Tells until the shutdown, whatever happens.
    pub(crate) async fn run(self, shutdown: Shutdown) {
        let token = shutdown.token();
        let (mut head, mut retry) = (None, FIRST_RETRY);
        while !token.is_cancelled() {
            // Before the first checkpoint is known, and while it is far behind, there is as good as nothing.
            let Some(work) = self.shared.pending.take(Instant::now()) else {
                let _ = token.run_until_cancelled(self.shared.wake.notified()).await;
                continue;
            };
            let (rows, since) = (work.rows.len(), work.since);
            let told = self.tell(&work, &mut head).await;
            let Err(error) = told else {
                retry = FIRST_RETRY;
                if rows > 0 {
                    let projection = Projection { projection: self.view.name };
                    let took = since.map_or(0.0, |since| since.elapsed().as_secs_f64());
                    self.metrics.tell_seconds.get_or_create(&projection).observe(took);
                }
                self.metrics.pending(self.view.name, self.shared.pending.len());
                let connected = self.feed.connected_anew();
                tokio::select! {
                    () = token.cancelled() => {}
                    () = self.shared.wake.notified() => {}
                    () = self.shared.pending.due() => {}
                    // A feed that was lost with its server begins at once: its followers wait for that.
                    () = connected => head = None,
                }
                continue;
            };
            self.shared.pending.give_back(work);
            head = None;
            if matches!(error, Interruption::Feed(FeedError::Overtaken)) {
                continue;
            }
            let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            tracing::warn!(projection = self.view.name, %error, cause, "changed rows are told later");
            let _ = token.run_until_cancelled(tokio::time::sleep(retry)).await;
            retry = (retry * 2).min(LAST_RETRY);
        }
    }

    /// Tells what there is to tell. `head` is how far the feed is, where that is known.
    async fn tell(&self, work: &Work, head: &mut Option<FeedHead>) -> Result<(), Interruption> {
        let now = match head.take() {
            Some(known) => known,
            None => self.feed.head().await?,
        };
        let Some(told) = now.position.as_deref().filter(|_| !work.anew).map(read) else {
            return self.begin(work, &now, head).await;
        };
        let (reached, gaps) = advance(&told, work);
        if reached == told && !work.must {
            // Somebody else has told it.
            *head = Some(now);
            return Ok(());
        }
        if gaps.iter().map(Gap::length).sum::<u64>() > FAR {
            return self.begin(work, &now, head).await;
        }
        let mut keys = work.untold(&told);
        for gap in gaps {
            self.learn(gap, &mut keys).await?;
        }
        let database = self.serving.borrow().database.clone();
        let rows = rows::read(self.view, &database, &keys).await?;
        match self.feed.tell(&now, rows, &write(&reached)).await {
            Ok(next) => {
                *head = Some(next);
                Ok(())
            }
            Err(FeedError::Full) => self.begin(work, &self.feed.head().await?, head).await,
            Err(error) => Err(error.into()),
        }
    }

    /// The feed begins anew where the tables are.
    async fn begin(
        &self,
        work: &Work,
        now: &FeedHead,
        head: &mut Option<FeedHead>,
    ) -> Result<(), Interruption> {
        tracing::info!(projection = self.view.name, at = write(&work.at), "the change feed begins anew");
        *head = Some(self.feed.begin(now, &write(&work.at)).await?);
        Ok(())
    }

    /// Which rows the facts of a gap have changed.
    async fn learn(&self, gap: Gap, keys: &mut Rows) -> Result<(), Interruption> {
        tracing::info!(projection = self.view.name, ?gap, "telling what somebody else has committed");
        let (from, mut changes) = (From::Sequence(gap.from + 1), Changes::default());
        let filter = Filter::default();
        let mut reader = Reader::open(&self.connection, gap.context, from, Until::End, filter).await?;
        'reading: loop {
            let batch = reader.next_batch(500).await?;
            if batch.is_empty() {
                break;
            }
            for message in batch {
                if message.position.sequence > gap.to {
                    break 'reading;
                }
                if self.view.aggregates.contains(&message.subject.aggregate())
                    // What cannot be read has changed nothing.
                    && let Ok(recorded) = message.record()
                {
                    (self.view.project)(&recorded, &mut changes);
                }
            }
        }
        let announcer = Announcer { view: self.view, shared: Arc::clone(&self.shared) };
        keys.extend(announcer.rows(&changes));
        Ok(())
    }
}

/// Positions as a mark says them.
pub(crate) fn read(text: &str) -> Vec<Position> {
    text.split(',').filter_map(|one| one.trim().parse().ok()).collect()
}

pub(crate) fn write(positions: &[Position]) -> String {
    positions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
