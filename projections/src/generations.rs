//! Generations: complete sets of the tables of one read model, each with checkpoints of its own. One serves while the next
//! is built beside it; then the service switches, without a restart and without a step back. See docs/read-models.md.
//!
//! The catalogue says what there is. Every process follows it, and whoever may build does: the catalogue gives a build to
//! one process at a time, and to another when that one stands still.

mod build;
mod catalogue;
mod gauges;
mod requests;
#[cfg(test)]
mod tests;

use crate::{
    Feed, Progress, View,
    database::{Database, DatabaseError, Shelf, Storage},
    metrics::ProjectionMetrics,
    projector::{Projector, Standing},
    telling::Announcer,
};
use build::Builder;
pub(crate) use catalogue::{Catalogue, Own};
use catalogue::{Entry, Lease};
pub(crate) use gauges::Gauges;
use nats::{ReadModel, State};
use service::{Clock, Shutdown};
use std::{
    collections::HashMap,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::{Mutex, Notify, Semaphore, watch},
    task::JoinHandle,
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How often a process looks whether the catalogue has changed.
const TICK: Duration = Duration::from_millis(250);
/// How long it waits where it could not.
const AGAIN: Duration = Duration::from_secs(1);
/// How often it says that it still works on the generation that serves.
const BEAT: Duration = Duration::from_secs(2);
/// A build whose holder says nothing for so long is somebody else's.
const STALE: Duration = Duration::from_secs(3);
/// So long nobody keeps up the live generation before another program's takes its place.
const ABANDONED: Duration = Duration::from_secs(10);

/// How many generations a process builds at the same time, over all its services. Clones share the number.
#[derive(Clone, Debug)]
pub struct Rebuilds(Arc<Semaphore>);

impl Rebuilds {
    /// So many.
    pub fn at_most(count: usize) -> Self {
        Self(Arc::new(Semaphore::new(count)))
    }
}

/// Two: more share the same processors, disks and streams.
impl Default for Rebuilds {
    fn default() -> Self {
        Self::at_most(2)
    }
}

/// What queries are answered from.
#[derive(Clone, Debug)]
pub(crate) struct Serving {
    pub(crate) database: Database,
    pub(crate) generation: u32,
    /// Whether it may answer: not before it has caught up for the first time.
    pub(crate) ready: bool,
}

/// What the tasks of one service's read model share.
pub(crate) struct Shared {
    view: &'static View,
    own: Own,
    feed: Feed,
    storage: Storage,
    shelf: Mutex<Shelf>,
    clock: Clock,
    counters: ProjectionMetrics,
    /// Who works here, as the catalogue knows it.
    process: Uuid,
    serving: watch::Sender<Serving>,
    /// How far what serves is.
    progress: watch::Sender<Progress>,
    /// How everything stands, as it was seen last.
    known: watch::Sender<Option<ReadModel>>,
    /// Who tells others what has changed in what serves.
    told: Option<Announcer>,
    /// Told when there is something to do.
    nudge: Notify,
    /// Told when what serves takes no commits.
    closed: Arc<Notify>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Generations({})", self.view.name)
    }
}

/// The tasks of one service's read model.
#[derive(Default)]
struct Work {
    serving: Option<Task>,
    building: Option<Task>,
    /// Not before then a build that failed is begun again.
    pause: Option<Instant>,
    seen: HashMap<u32, (Lease, Instant)>,
    beat: Option<Instant>,
    /// Whether what serves takes no commits.
    closed: bool,
    told: Option<ReadModel>,
}

/// A task that works on a generation.
struct Task {
    generation: u32,
    live: bool,
    stop: CancellationToken,
    /// Whether it is done.
    handle: JoinHandle<bool>,
}

impl Task {
    async fn stop(self) {
        self.stop.cancel();
        let _ = self.handle.await;
    }
}

impl Shared {
    /// Finds out which generation serves, or begins the first one.
    pub(crate) async fn open(
        view: &'static View,
        feed: &Feed,
        storage: &Storage,
        clock: Clock,
        counters: ProjectionMetrics,
    ) -> Result<Self, DatabaseError> {
        let own = Own::of(view);
        let mut shelf = storage.shelf(view.name).await?;
        let catalogue = first(&mut shelf, view, &own, feed, storage, &clock).await?;
        let (database, generation, ready) = if let Some(number) = catalogue.serves(&own) {
            (Database::open(storage, view, number).await?, number, true)
        } else {
            let building = catalogue.building(&own);
            let building =
                building.ok_or_else(|| DatabaseError::new("serve the read model", "it is gone"))?;
            let (number, since) = (building.shown.number, &building.shown.since);
            (Database::build(storage, view, number, since).await?, number, false)
        };
        let checkpoints = database.writer().await?.checkpoints().await?;
        let shared = Self {
            view,
            own,
            feed: feed.clone(),
            storage: storage.clone(),
            shelf: Mutex::new(shelf),
            process: clock.uuid(),
            clock,
            counters,
            serving: watch::Sender::new(Serving { database, generation, ready }),
            progress: watch::Sender::new(Progress::new(&checkpoints)),
            known: watch::Sender::new(None),
            told: None,
            nudge: Notify::new(),
            closed: Arc::default(),
        };
        shared.show(&catalogue);
        Ok(shared)
    }

    /// Others are told what changes in what serves.
    pub(crate) fn tell_changes(&mut self, announcer: Announcer) {
        self.told = Some(announcer);
    }

    pub(crate) fn serving(&self) -> watch::Receiver<Serving> {
        self.serving.subscribe()
    }

    pub(crate) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    pub(crate) fn known(&self) -> watch::Receiver<Option<ReadModel>> {
        self.known.subscribe()
    }

    async fn load(&self) -> Result<(u64, Catalogue), DatabaseError> {
        match self.shelf.lock().await.load().await? {
            Some((revision, text)) => Ok((revision, Catalogue::read(&text)?)),
            None => Err(DatabaseError::new("read the catalogue of generations", "it is gone")),
        }
    }

    /// Changes the catalogue, by compare-and-set: decides again where somebody was faster. A number that was never given
    /// before comes with it.
    async fn change<T>(
        &self,
        decide: impl Fn(&mut Catalogue, u64) -> T,
    ) -> Result<(T, Catalogue), DatabaseError> {
        loop {
            let (revision, before) = self.load().await?;
            let mut after = before.clone();
            let outcome = decide(&mut after, revision + 1);
            if after == before || self.shelf.lock().await.swap(revision, &after.text()?).await? {
                return Ok((outcome, after));
            }
        }
    }

    /// Follows the catalogue, serves and builds until the shutdown.
    pub(crate) async fn run(self: Arc<Self>, shutdown: Shutdown) {
        let token = shutdown.token();
        if self.feed.read_models.is_some() {
            shutdown.spawn(requests::follow(Arc::clone(&self), token.clone()));
        }
        let mut work = Work::default();
        while !token.is_cancelled() {
            if let Err(error) = self.step(&mut work).await {
                let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                tracing::warn!(projection = self.view.name, %error, cause, "generations are looked at again");
                let _ = token.run_until_cancelled(sleep(AGAIN)).await;
            }
            tokio::select! {
                () = token.cancelled() => break,
                () = self.nudge.notified() => {}
                () = self.closed.notified() => work.closed = true,
                () = sleep(TICK) => {}
            }
        }
        for task in [work.building.take(), work.serving.take()].into_iter().flatten() {
            task.stop().await;
        }
    }

    /// Does what the catalogue wants.
    async fn step(self: &Arc<Self>, work: &mut Work) -> Result<(), DatabaseError> {
        let (_, catalogue) = self.load().await?;
        work.look(&catalogue);
        let alone = catalogue.live().is_some_and(|live| work.silent(live) > ABANDONED);
        let now = self.clock.now();
        let (ensured, catalogue) = self.change(|all, _| all.ensure(&self.own, false, alone, now)).await?;
        ensured?;
        self.serve(work, &catalogue).await?;
        self.mend(work, &catalogue).await?;
        self.keep_building(work, &catalogue).await;
        self.beat(work, &catalogue).await?;
        self.clean(work, &catalogue).await?;
        self.show(&catalogue);
        self.tell(work).await;
        Ok(())
    }

    /// Sees to it that queries are answered from the right generation, and that it is kept up to date.
    async fn serve(&self, work: &mut Work, catalogue: &Catalogue) -> Result<(), DatabaseError> {
        let Some(entry) = catalogue.serves(&self.own).and_then(|number| catalogue.find(number)) else {
            self.serving.send_if_modified(|serving| std::mem::take(&mut serving.ready));
            if let Some(task) = work.serving.take() {
                task.stop().await;
            }
            return Ok(());
        };
        let (number, live) = (entry.shown.number, entry.shown.state == State::Live);
        if work.serving.as_ref().is_some_and(|task| task.generation == number && task.live == live) {
            return Ok(());
        }
        let changed = {
            let serving = self.serving.borrow();
            !serving.ready || serving.generation != number
        };
        let database = if changed {
            Database::open(&self.storage, self.view, number).await?
        } else {
            self.serving.borrow().database.clone()
        };
        if let Some(task) = work.serving.take() {
            // Nothing of what it has committed is shown any more from here on.
            task.stop().await;
        }
        if changed {
            let checkpoints = database.writer().await?.checkpoints().await?;
            // First the tables, then how far they are: whoever is told of a position finds it in them.
            self.serving.send_replace(Serving {
                database: database.clone(),
                generation: number,
                ready: true,
            });
            self.progress.send_modify(|progress| progress.reset(&checkpoints));
            tracing::info!(projection = self.view.name, generation = number, "serving");
        }
        let closed = Arc::clone(&self.closed);
        let standing = Standing { live, closed };
        let projector = self.projector(database, self.progress.clone(), standing);
        let stop = CancellationToken::new();
        let token = stop.clone();
        let handle = tokio::spawn(async move {
            projector.run(token).await;
            true
        });
        work.serving = Some(Task { generation: number, live, stop, handle });
        Ok(())
    }

    fn projector(
        &self,
        database: Database,
        progress: watch::Sender<Progress>,
        standing: Standing,
    ) -> Projector {
        Projector {
            view: self.view,
            connection: self.feed.connection.clone(),
            parking: self.feed.parking.clone(),
            policy: self.feed.policy,
            beside: None,
            database,
            progress,
            bound: None,
            only: None,
            // What serves nobody, or only programs of before, says nothing.
            told: self.told.clone().filter(|_| standing.live),
            standing,
            metrics: self.counters.clone(),
            clock: self.clock.clone(),
        }
    }

    /// Opens what serves again, where it was closed for a switch that is off, or that another program has made.
    async fn mend(&self, work: &mut Work, catalogue: &Catalogue) -> Result<(), DatabaseError> {
        let Some(number) = work.serving.as_ref().map(|task| task.generation) else { return Ok(()) };
        if !std::mem::take(&mut work.closed) {
            return Ok(());
        }
        let Some(token) = self.storage.closed(self.view.name, number).await? else { return Ok(()) };
        // Looked at after the tables: who closes says so here first.
        let (_, now) = self.load().await?;
        let taking = now.generations.iter().find(|entry| entry.closing == Some(token));
        if let Some(taking) = taking {
            let silent =
                catalogue.find(taking.shown.number).map_or(Duration::ZERO, |entry| work.silent(entry));
            // Its own kind gets the chance to go on with it.
            if silent < STALE * 2 || !self.change(|all, _| all.reopen(token)).await?.0 {
                return Ok(());
            }
            tracing::warn!(projection = self.view.name, "a switch was not made in time: it is off");
        }
        if taking.is_some() || now.serves(&self.own) == Some(number) {
            self.storage.reopen(self.view.name, number, Some(token)).await?;
        }
        Ok(())
    }

    /// Begins, goes on with or ends a build, as the catalogue wants.
    async fn keep_building(self: &Arc<Self>, work: &mut Work, catalogue: &Catalogue) {
        let wanted = catalogue.building(&self.own);
        if let Some(task) = work.building.take() {
            let number = task.generation;
            if task.handle.is_finished() {
                let again = !task.handle.await.unwrap_or_default();
                work.pause = again.then(|| Instant::now() + STALE / 3);
            } else if wanted.is_some_and(|entry| entry.shown.number == number) {
                work.building = Some(task);
                return;
            } else {
                task.stop().await;
            }
        }
        let Some(entry) = wanted else { return };
        let free = entry.lease.is_none_or(|lease| lease.holder == self.process);
        let seen = entry.lease.filter(|_| work.silent(entry) > STALE);
        if (!free && seen.is_none()) || work.pause.is_some_and(|pause| Instant::now() < pause) {
            return;
        }
        let (stop, generation) = (CancellationToken::new(), entry.shown.number);
        let builder = Builder::new(Arc::clone(self), entry.clone(), seen, stop.clone());
        let handle = tokio::spawn(builder.run());
        work.building = Some(Task { generation, live: false, stop, handle });
    }

    /// Says that somebody works on the generation that serves.
    async fn beat(&self, work: &mut Work, catalogue: &Catalogue) -> Result<(), DatabaseError> {
        let Some(live) = catalogue.live().filter(|live| live.shown.model == self.own.model) else {
            return Ok(());
        };
        if work.beat.is_some_and(|last| last.elapsed() < BEAT) {
            return Ok(());
        }
        work.beat = Some(Instant::now());
        let seen = live.lease.filter(|_| work.silent(live) > STALE);
        let others = live.lease.is_some_and(|lease| lease.holder != self.process);
        if !others || seen.is_some() {
            self.change(|all, _| all.hold(live.shown.number, self.process, seen, None)).await?;
        }
        Ok(())
    }

    /// Removes the tables of what was dropped.
    async fn clean(&self, work: &Work, catalogue: &Catalogue) -> Result<(), DatabaseError> {
        for &number in &catalogue.dropped {
            let used = |task: &Option<Task>| task.as_ref().is_some_and(|task| task.generation == number);
            if used(&work.serving) || used(&work.building) {
                continue;
            }
            self.storage.remove(self.view.name, number).await?;
            self.change(|all, _| all.dropped.retain(|dropped| *dropped != number)).await?;
        }
        Ok(())
    }

    fn show(&self, catalogue: &Catalogue) {
        let model = ReadModel {
            service: self.view.name.to_owned(),
            models: self.view.tables.iter().map(|table| table.name.to_owned()).collect(),
            generations: catalogue.generations.iter().map(|entry| entry.shown.clone()).collect(),
            asked: catalogue.asked,
            refused: catalogue.refused.clone(),
        };
        self.known.send_if_modified(|known| {
            let changed = known.as_ref() != Some(&model);
            *known = Some(model);
            changed
        });
    }

    /// Tells operators how everything stands.
    async fn tell(&self, work: &mut Work) {
        let (Some(models), known) = (&self.feed.read_models, self.known.borrow().clone()) else { return };
        if work.told == known {
            return;
        }
        if let Some(model) = &known {
            match models.put(model).await {
                Ok(()) => work.told = known,
                Err(error) => tracing::debug!(projection = self.view.name, %error, "not shown to operators"),
            }
        }
    }
}

impl Work {
    /// Notes which beats are new.
    fn look(&mut self, catalogue: &Catalogue) {
        let now = Instant::now();
        self.seen.retain(|number, _| catalogue.find(*number).is_some());
        for entry in &catalogue.generations {
            let lease = entry.lease.unwrap_or(Lease { holder: Uuid::nil(), beat: 0 });
            let seen = self.seen.entry(entry.shown.number).or_insert((lease, now));
            if seen.0 != lease {
                *seen = (lease, now);
            }
        }
    }

    /// For how long nobody has said that he works on a generation.
    fn silent(&self, entry: &Entry) -> Duration {
        self.seen.get(&entry.shown.number).map_or(Duration::ZERO, |(_, since)| since.elapsed())
    }
}

/// The catalogue as it is, with a generation of this program's declaration; that of a service without one is begun.
async fn first(
    shelf: &mut Shelf,
    view: &'static View,
    own: &Own,
    feed: &Feed,
    storage: &Storage,
    clock: &Clock,
) -> Result<Catalogue, DatabaseError> {
    loop {
        let (revision, mut catalogue) = if let Some((revision, text)) = shelf.load().await? {
            (revision, Catalogue::read(&text)?)
        } else {
            // What was asked of tables that are gone is not asked of these.
            let asked = match &feed.read_models {
                Some(models) => models
                    .last(view.name)
                    .await
                    .map_err(|error| DatabaseError::new("begin the catalogue of generations", error))?,
                None => 0,
            };
            let now = clock.now();
            let begun = match storage.adopt(view).await? {
                Some(true) => Catalogue::first(own, 0, asked, now),
                Some(false) => Catalogue::first(&Own::before(), 0, asked, now),
                None => Catalogue::first(own, 1, asked, now),
            };
            (0, begun)
        };
        let before = catalogue.clone();
        catalogue.ensure(own, true, false, clock.now())?;
        if (revision > 0 && catalogue == before) || shelf.swap(revision, &catalogue.text()?).await? {
            return Ok(catalogue);
        }
    }
}
