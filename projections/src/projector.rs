//! Step 6, project: from the streams of a service into its tables.
//!
//! A task per stream reads and decodes ahead into one bounded channel. The projector takes what is ready, never waits for
//! more, and writes it in one transaction together with the checkpoints: at low load an event is in the tables at once,
//! at high load thousands share a commit. Whatever goes wrong, nothing is skipped: the projector starts again from the
//! checkpoints. An event that cannot be read is parked, with what comes later of its aggregate, unless its policy is
//! another: see `parked`.

mod parked;
mod source;
mod standby;
mod trace;

use crate::{
    Changes, Progress, View,
    database::{Commit, Database, DatabaseError, Move, Past, Writer},
    metrics::{Projection, ProjectionMetrics},
    telling::{Announcer, Rows},
};
use events::{Position, Subject};
use nats::{Parking, Policy, ReplayError};
use parked::Waiting;
use service::Clock;
use source::{Chunk, Source};
use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// Events of one transaction at most, give or take a chunk. Half as many cost a tenth of the rate, twice as many give none.
const BATCH: usize = 4000;

/// Messages read ahead, over all streams: the next batch, while one is written.
const AHEAD: usize = BATCH;

/// How often the database is asked whether it is there, and how long it may take to answer.
const BEAT: Duration = Duration::from_secs(1);
const ANSWER: Duration = Duration::from_secs(5);

const FIRST_RETRY: Duration = Duration::from_millis(50);
const LAST_RETRY: Duration = Duration::from_secs(5);

/// Keeps the tables of one service up to date. Any number may work on the same tables: each commit has one winner.
#[derive(Clone)]
pub(crate) struct Projector {
    pub(crate) view: &'static View,
    pub(crate) connection: nats::Connection,
    /// Where operators see what cannot be read. Without it such an event stops its stream.
    pub(crate) parking: Option<Parking>,
    /// What is done about an event that cannot be read.
    pub(crate) policy: Policy,
    /// What it is compared with, where it is: then what cannot be read waits without operators being told.
    pub(crate) beside: Option<Arc<Beside>>,
    pub(crate) database: Database,
    pub(crate) progress: watch::Sender<Progress>,
    /// How far to go in each stream; without a bound it follows for ever.
    pub(crate) bound: Option<Arc<[Position]>>,
    /// The one table that is written, where the others have it all already.
    pub(crate) only: Option<&'static str>,
    pub(crate) standing: Standing,
    /// Who tells others what has changed.
    pub(crate) told: Option<Announcer>,
    pub(crate) metrics: ProjectionMetrics,
    pub(crate) clock: Clock,
}

/// Tables that others are compared with, which the same events have made.
#[derive(Debug, Default)]
pub(crate) struct Beside {
    /// The aggregates that wait in them, and since which event.
    pub(crate) waiting: HashMap<Subject, u64>,
    /// Events that are not in them, by a policy or because an operator said so.
    pub(crate) left_out: Mutex<BTreeSet<Position>>,
}

/// What the generation is that a projector writes to, for as long as a session lasts: whether others are told what
/// becomes of its rows, or it is muted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Standing {
    /// It serves. Only then operators are told what waits, and subscribers what has changed.
    pub(crate) live: bool,
    /// Told when commits are refused because another generation takes over.
    pub(crate) closed: Arc<Notify>,
}

/// Why a projector has to start again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Interruption {
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// What operators ask for cannot be read, or what was done cannot be told.
    #[error("the stream of operations cannot be reached")]
    Operations(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// What waits cannot be read.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// Another projector brought back what waited.
    #[error("another projector was faster")]
    Overtaken,
    /// Another generation takes over.
    #[error("the tables are closed")]
    Closed,
    /// One table cannot be built beside others that have what it lacks.
    #[error("{0} cannot be read: build all tables")]
    Unreadable(Position),
    /// The database does not answer.
    #[error("the database does not answer")]
    Silent,
    /// The tables were emptied under us.
    #[error("a checkpoint went back")]
    WentBack,
}

impl Projector {
    /// Runs until it is stopped, whatever happens.
    pub(crate) async fn run(self, token: CancellationToken) {
        let mut retry = FIRST_RETRY;
        while !token.is_cancelled() {
            let before = self.progress.borrow().to_string();
            match self.session(&token).await {
                Ok(()) => break,
                Err(Interruption::Closed) => {
                    self.standing.closed.notify_one();
                    let _ = token.run_until_cancelled(tokio::time::sleep(FIRST_RETRY)).await;
                    continue;
                }
                Err(error) => {
                    let cause =
                        std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                    tracing::error!(projection = self.view.name, %error, cause, "projecting again");
                    self.progress.send_modify(|progress| progress.fault = Some(format!("{error}: {cause}")));
                    self.metrics.failed(self.view.name, "commit");
                }
            }
            // Whoever got somewhere before it failed is not hopeless.
            retry = if self.progress.borrow().to_string() == before { retry } else { FIRST_RETRY };
            let _ = token.run_until_cancelled(tokio::time::sleep(retry)).await;
            retry = (retry * 2).min(LAST_RETRY);
        }
    }

    /// From the checkpoints on, until the shutdown, the bound or a failure.
    pub(crate) async fn session(&self, token: &CancellationToken) -> Result<(), Interruption> {
        let mut writer = self.database.writer().await?;
        if self.standing.live && !self.stand_by(&mut writer, token).await? {
            return Ok(());
        }
        let checkpoints = writer.checkpoints().await?;
        self.publish(&checkpoints);
        if let Some(told) = &self.told {
            told.found(&checkpoints);
        }
        let mut waiting = Waiting::default();
        self.tidy(&mut writer, &mut waiting).await?;
        let (asked, mut asking) = mpsc::channel(1);
        let listens = self.parking.is_some() && self.only.is_none();
        let listening = listens.then(|| parked::listen(self.connection.clone(), asked));
        let _listener = listening.map(|listening| AbortOnDropHandle::new(tokio::spawn(listening)));
        let (sender, mut chunks) = source::ahead(AHEAD);
        // Readers end with this session, and a session whose readers have all reached their bound ends with them.
        let _readers: Vec<_> = checkpoints
            .iter()
            .map(|&from| {
                let source = Source::new(self.clone(), from, sender.clone());
                AbortOnDropHandle::new(tokio::spawn(source.run()))
            })
            .collect();
        drop(sender);
        let mut beat = tokio::time::interval(BEAT);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            if self.standing.live {
                self.metrics.parked(self.view.name, waiting.count());
            }
            let first = tokio::select! {
                () = token.cancelled() => return Ok(()),
                _ = beat.tick() => {
                    // A database that is lost is noticed when there is nothing to write, too.
                    let asked = tokio::time::timeout(ANSWER, writer.checkpoints()).await;
                    asked.map_err(|_| Interruption::Silent)??;
                    continue;
                }
                Some(()) = asking.recv() => {
                    self.announce(&mut waiting).await;
                    self.bring_back(&mut writer, &mut waiting).await?;
                    continue;
                }
                first = chunks.next(), if !self.stands_still(&waiting) => first,
            };
            let Some(first) = first else { return Ok(()) };
            let mut batch = vec![first];
            let mut events = batch[0].events.len();
            while events < BATCH
                && let Some(chunk) = chunks.ready()
            {
                events += chunk.events.len();
                batch.push(chunk);
            }
            self.apply(&mut writer, &mut waiting, batch).await?;
            self.announce(&mut waiting).await;
        }
    }

    /// Writes a batch. Where another projector was faster, what it did is left out and the rest is written.
    async fn apply(
        &self,
        writer: &mut Writer,
        waiting: &mut Waiting,
        mut batch: Vec<Chunk>,
    ) -> Result<(), Interruption> {
        let projection = Projection { projection: self.view.name };
        self.pass_over_given_up(waiting, &mut batch).await?;
        loop {
            let started = Instant::now();
            let (changes, moves, past) = self.project(waiting, &mut batch);
            if moves.is_empty() {
                return Ok(());
            }
            if let Some(parked) = past.parked.first().filter(|_| self.only.is_some()) {
                let (context, sequence) = (parked.subject.context(), parked.sequence);
                return Err(Interruption::Unreadable(Position { context, sequence }));
            }
            let rows = self.told.as_ref().map(|told| told.rows(&changes));
            self.say_skipped(waiting, &batch).await?;
            if writer.commit_past(changes, &moves, &past).await? == Commit::Done {
                for parked in &past.parked {
                    let (projection, subject) = (self.view.name, &parked.subject);
                    let (sequence, error) = (parked.sequence, &parked.error);
                    tracing::error!(projection, %subject, sequence, error, "event parked");
                }
                let events: usize = batch.iter().map(|chunk| chunk.events.len()).sum();
                #[expect(clippy::cast_precision_loss, reason = "a batch holds thousands of events")]
                self.metrics.batch_events.get_or_create(&projection).observe(events as f64);
                let took = started.elapsed();
                self.metrics.commit_seconds.get_or_create(&projection).observe(took.as_secs_f64());
                trace::committed(self.view, &batch, took);
                self.committed(&batch);
                self.tell(&moves, rows);
                return Ok(());
            }
            if writer.is_closed().await? {
                return Err(Interruption::Closed);
            }
            self.metrics.failed(self.view.name, "lost");
            let checkpoints = writer.checkpoints().await?;
            if let Some(told) = &self.told {
                told.found(&checkpoints);
            }
            waiting.load(writer).await?;
            if !past.held.is_empty() {
                // Perhaps that was it, with every checkpoint where it was.
                return Err(Interruption::Overtaken);
            }
            let known = |now: &Position| self.progress.borrow().has(*now) == Some(true);
            if checkpoints.iter().all(known) {
                return Err(Interruption::WentBack);
            }
            self.publish(&checkpoints);
        }
    }

    /// What a batch changes, how far it moves the checkpoints, and what it passes over.
    fn project(&self, waiting: &mut Waiting, batch: &mut [Chunk]) -> (Changes, Vec<Move>, Past) {
        let (mut changes, mut past) = (Changes::default(), Past::default());
        let mut moves: Vec<Move> = Vec::new();
        let progress = self.progress.borrow();
        for chunk in batch {
            let Position { context, sequence: to } = chunk.last;
            let at = progress.stream(context).map_or(0, |stream| stream.position.sequence);
            chunk.skip_to(at);
            let waits = chunk.unreadable.iter().filter(|_| !self.skips());
            let known: Vec<_> = waits.filter_map(|unreadable| waiting.park(unreadable)).collect();
            for recorded in &chunk.events {
                let subject = &recorded.subject;
                if !waiting.holds(subject, recorded.position.sequence) {
                    (self.view.project)(recorded, &mut changes);
                } else if ![&past.parked, &known]
                    .iter()
                    .any(|all| all.iter().any(|one| one.subject == *subject))
                {
                    past.held.insert(subject.clone());
                }
            }
            past.parked.extend(known);
            match moves.iter_mut().find(|step| step.context == context) {
                Some(step) => step.to = to,
                None if to > at => moves.push(Move { context, from: at, to }),
                None => {}
            }
        }
        if let Some(table) = self.only {
            changes.keep(table);
        }
        (changes, moves, past)
    }

    fn committed(&self, batch: &[Chunk]) {
        self.progress.send_modify(|progress| {
            for chunk in batch {
                let Some(stream) = progress.stream_mut(chunk.last.context) else { continue };
                stream.position = stream.position.max(chunk.last);
                let behind = stream.end.is_some_and(|end| end > chunk.last.sequence);
                stream.behind_since = behind.then_some(chunk.stored);
            }
        });
    }

    /// Others are told what was committed.
    fn tell(&self, moves: &[Move], rows: Option<Rows>) {
        let Some((told, rows)) = self.told.as_ref().zip(rows) else { return };
        let left = self.progress.borrow().streams.iter().map(crate::StreamProgress::lag).sum();
        told.committed(moves, rows, left);
    }

    /// What is in the tables, as they say themselves: the database is there.
    fn publish(&self, checkpoints: &[Position]) {
        self.progress.send_modify(|progress| {
            progress.fault = None;
            for &checkpoint in checkpoints {
                if let Some(stream) = progress.stream_mut(checkpoint.context) {
                    stream.position = checkpoint;
                }
            }
        });
    }
}
