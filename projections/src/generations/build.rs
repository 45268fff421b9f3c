//! Builds one generation: reads it up to the end of the log, makes its indexes, and switches to it. Whatever kills it, the
//! next attempt goes on from the checkpoints.
//!
//! A switch first closes the live generation, whose commits are refused from then on, then reads up to where that stands,
//! and then says in the catalogue that the new one serves. So nobody who follows the catalogue ever sees less than before.

use super::{Shared, catalogue::Entry, catalogue::Lease};
use crate::{
    Progress, StreamProgress,
    database::{Database, DatabaseError},
    projector::{Interruption, Projector, Standing},
    table::Table,
};
use events::{Position, ops::ProjectionSwitched};
use nats::Build;
use service::crash_point;
use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// How often a build says how far it is.
const BEAT: Duration = Duration::from_secs(1);
/// Events that may be missing when the live generation is closed: they are read while nothing is committed to it.
const NEAR: u64 = 1000;
/// How long that may take; the switch is tried again later.
const SWITCH: Duration = Duration::from_secs(5);
/// The rate is that of the last so many beats.
const BEATS: usize = 10;
/// Pause before reading again what could not be read, and before looking again how far another has read.
const AGAIN: Duration = Duration::from_millis(100);

/// Builds one generation.
pub(super) struct Builder {
    shared: Arc<Shared>,
    entry: Entry,
    /// The lease of somebody who says nothing any more.
    seen: Option<Lease>,
    stop: CancellationToken,
    /// When so many events were read.
    rates: VecDeque<(Instant, u64)>,
    fault: Option<String>,
}

/// Why a build ends before it is done.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// It is called off, somebody else's, or the process stops.
    #[error("it is not ours any more")]
    Gone,
}

impl Builder {
    pub(super) fn new(
        shared: Arc<Shared>,
        entry: Entry,
        seen: Option<Lease>,
        stop: CancellationToken,
    ) -> Self {
        Self { shared, entry, seen, stop, rates: VecDeque::new(), fault: None }
    }

    /// Builds until it serves. False where it has to be tried again.
    pub(super) async fn run(mut self) -> bool {
        let (projection, generation) = (self.shared.view.name, self.entry.shown.number);
        let outcome = self.build().await;
        self.shared.nudge.notify_one();
        match outcome {
            Ok(()) => tracing::info!(projection, generation, "built"),
            Err(Ended::Gone) => tracing::info!(projection, generation, "no longer built here"),
            Err(Ended::Database(error)) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                tracing::error!(projection, generation, %error, cause, "building again");
                return false;
            }
        }
        true
    }

    async fn build(&mut self) -> Result<(), Ended> {
        let shared = Arc::clone(&self.shared);
        let (number, view) = (self.entry.shown.number, shared.view);
        self.say("waiting", &[], 0).await?;
        let slot = loop {
            tokio::select! {
                slot = shared.feed.rebuilds.0.acquire() => break slot,
                () = sleep(BEAT) => self.say("waiting", &[], 0).await?,
            }
        };
        // The slots are never closed.
        let _slot = slot.map_err(|_| Ended::Gone)?;
        let since = self.entry.shown.since.clone();
        let opening = async {
            let database = Database::build(&shared.storage, view, number, &since).await?;
            // One that served before was closed when another took its place.
            shared.storage.reopen(view.name, number, None).await?;
            Ok(database)
        };
        let database = self.beside("waiting", opening).await?;
        tracing::info!(projection = view.name, generation = number, "building");
        let only = self.copy(&database).await?;
        if let (Some(only), Some(copied)) = (only, self.entry.copied.clone()) {
            while !self.read(&database, "reading", Some(&copied), Some(only)).await? {}
        }
        loop {
            self.read(&database, "reading", None, None).await?;
            self.finish(&database).await?;
            // Indexes take their time: what came meanwhile is read before anything is closed.
            self.read(&database, "reading", None, None).await?;
            if self.switch(&database).await? {
                return Ok(());
            }
        }
    }

    /// Where one table is built: has all others copied. Gives the table, unless it is as far as they are.
    async fn copy(&mut self, database: &Database) -> Result<Option<&'static str>, Ended> {
        let Some(name) = self.entry.shown.table.clone() else { return Ok(None) };
        let shared = Arc::clone(&self.shared);
        let (one, others): (Vec<&'static Table>, Vec<_>) =
            shared.view.tables.iter().copied().partition(|table| table.name == name);
        if self.entry.copied.is_none() {
            let (_, catalogue) = shared.load().await?;
            let live = catalogue.live().ok_or(Ended::Gone)?.shown.number;
            let copying = async { Ok(database.writer().await?.copy(&shared.storage, live, &others).await?) };
            let copied = self.beside("copying", copying).await?;
            let number = self.entry.shown.number;
            shared.change(|all, _| all.copied(number, copied.clone())).await?;
            self.entry.copied = Some(copied);
        }
        let checkpoints = database.writer().await?.checkpoints().await?;
        let done = reached(&checkpoints, self.entry.copied.as_deref().unwrap_or_default());
        Ok(one.first().map(|table| table.name).filter(|_| !done))
    }

    /// Makes the indexes.
    async fn finish(&mut self, database: &Database) -> Result<(), Ended> {
        let finishing = async { Ok(database.writer().await?.finish().await?) };
        self.beside("indexing", finishing).await
    }

    /// Does something that takes long and cannot be interrupted, and goes on to say that it is done. Whoever says nothing for a
    /// while loses the build to another process; on a machine with too much to do also a connection takes that long, and two
    /// processes would take it from each other for ever.
    async fn beside<T>(
        &mut self,
        stage: &str,
        doing: impl Future<Output = Result<T, Ended>>,
    ) -> Result<T, Ended> {
        let mut doing = std::pin::pin!(doing);
        loop {
            tokio::select! {
                done = &mut doing => return done,
                () = sleep(BEAT) => self.say(stage, &[], 0).await?,
            }
        }
    }

    /// Reads up to the bound, or until next to nothing is missing. False where that has to be tried again.
    async fn read(
        &mut self,
        database: &Database,
        stage: &str,
        bound: Option<&[Position]>,
        only: Option<&'static str>,
    ) -> Result<bool, Ended> {
        if self.serves() {
            return self.wait(database, bound).await;
        }
        let looking = async { Ok(database.writer().await?.checkpoints().await?) };
        let checkpoints = self.beside(stage, looking).await?;
        let progress = watch::Sender::new(Progress::new(&checkpoints));
        let (seen, mut watching) = (progress.subscribe(), progress.subscribe());
        let bound: Option<Arc<[Position]>> = bound.map(Arc::from);
        let projector = self.shared.projector(database.clone(), progress, Standing::default());
        let projector = Projector { bound: bound.clone(), only, ..projector };
        let stop = self.stop.child_token();
        let mut session = Box::pin(projector.session(&stop));
        let mut said = Instant::now();
        let outcome = loop {
            let next = BEAT.saturating_sub(said.elapsed());
            tokio::select! {
                outcome = &mut session => break Some(outcome),
                () = async { drop(watching.wait_for(near).await) }, if bound.is_none() => break None,
                () = sleep(next) => {
                    said = Instant::now();
                    let now = seen.borrow().clone();
                    if let Err(gone) = self.say_progress(stage, &now, bound.as_deref()).await {
                        let _ = end(&stop, session.as_mut()).await;
                        return Err(gone);
                    }
                }
            }
        };
        let outcome = match outcome {
            Some(outcome) => outcome,
            None => end(&stop, session.as_mut()).await,
        };
        if self.stop.is_cancelled() {
            return Err(Ended::Gone);
        }
        let now = seen.borrow().clone();
        if let Err(error) = outcome {
            self.fault = Some(error.to_string());
            tracing::warn!(projection = self.shared.view.name, %error, "building again");
            sleep(AGAIN).await;
        }
        self.say_progress(stage, &now, bound.as_deref()).await?;
        let at: Vec<_> = now.streams.iter().map(|stream| stream.position).collect();
        Ok(bound.map_or_else(|| near(&now), |bound| reached(&at, &bound)))
    }

    /// Whether this generation serves already, and is kept up to date for that.
    fn serves(&self) -> bool {
        let serving = self.shared.serving.borrow();
        serving.ready && serving.generation == self.entry.shown.number
    }

    /// Waits until another has read far enough.
    async fn wait(&mut self, database: &Database, bound: Option<&[Position]>) -> Result<bool, Ended> {
        let mut writer = database.writer().await?;
        let mut said = Instant::now();
        loop {
            let now = self.shared.progress.borrow().clone();
            let far = match bound {
                Some(bound) => reached(&writer.checkpoints().await?, bound),
                None => near(&now),
            };
            if far {
                return Ok(true);
            }
            if said.elapsed() > BEAT {
                said = Instant::now();
                self.say_progress("reading", &now, bound).await?;
            }
            if self.stop.run_until_cancelled(sleep(AGAIN)).await.is_none() {
                return Err(Ended::Gone);
            }
        }
    }

    /// Takes the place of the live generation. False where that has to be tried again.
    async fn switch(&mut self, database: &Database) -> Result<bool, Ended> {
        let shared = Arc::clone(&self.shared);
        let (number, me, service) = (self.entry.shown.number, shared.process, shared.view.name);
        let (token, catalogue) =
            shared.change(|all, fresh| all.close(number, me, fresh).then_some(fresh)).await?;
        let token = token.ok_or(Ended::Gone)?;
        let live = catalogue.live().ok_or(Ended::Gone)?.shown.number;
        crash_point("rebuild.closing", service);
        let mark = shared.storage.close(service, live, token).await?;
        crash_point("rebuild.closed", service);
        let mine: Vec<_> = shared.view.contexts().collect();
        let until: Vec<_> = mark.iter().filter(|at| mine.contains(&at.context)).copied().collect();
        let reading = timeout(SWITCH, self.read(database, "switching", Some(&until), None)).await;
        let previous = match reading {
            Ok(Ok(true)) => {
                let now = shared.clock.now();
                shared.change(|all, _| all.switch(number, token, mark.clone(), now)).await?.0
            }
            _ => None,
        };
        crash_point("rebuild.switched", service);
        let Some(previous) = previous else {
            // Where somebody has opened it already, that changes nothing.
            shared.change(|all, _| all.reopen(token)).await?;
            shared.storage.reopen(service, live, Some(token)).await?;
            return if matches!(reading, Ok(Err(_))) { Err(Ended::Gone) } else { Ok(false) };
        };
        tracing::info!(projection = service, generation = number, previous, "another generation serves");
        if let Some(models) = shared.feed.read_models.clone() {
            let switched =
                ProjectionSwitched { service: service.to_owned(), generation: number, previous, mark };
            tokio::spawn(async move {
                if let Err(error) = models.say_switched(switched).await {
                    tracing::warn!(projection = service, %error, "the switch is not recorded");
                }
            });
        }
        Ok(true)
    }

    /// Says how far it is.
    async fn say_progress(
        &mut self,
        stage: &str,
        now: &Progress,
        bound: Option<&[Position]>,
    ) -> Result<(), Ended> {
        let end = |stream: &StreamProgress| match bound {
            Some(bound) => sequence(bound, stream.position),
            None => stream.end.unwrap_or(0).max(stream.position.sequence),
        };
        let total = now.streams.iter().map(|stream| end(stream) - self.begins(stream.position)).sum();
        if let Some(fault) = now.streams.iter().find_map(|stream| stream.fault.clone()) {
            self.fault = Some(fault);
        }
        let at: Vec<_> = now.streams.iter().map(|stream| stream.position).collect();
        self.say(stage, &at, total).await
    }

    /// Everything before the first event of a stream, which is never read.
    fn begins(&self, of: Position) -> u64 {
        sequence(&self.entry.shown.since, of).saturating_sub(1)
    }

    /// Goes on to hold the build, and says how far it is.
    async fn say(&mut self, stage: &str, at: &[Position], total: u64) -> Result<(), Ended> {
        let events = at.iter().map(|at| at.sequence.saturating_sub(self.begins(*at))).sum();
        if !at.is_empty() {
            self.rates.push_back((Instant::now(), events));
        }
        if self.rates.len() > BEATS {
            self.rates.pop_front();
        }
        let per_second = rate(&self.rates);
        let (stage, positions, fault) = (stage.to_owned(), at.to_vec(), self.fault.take());
        let build = Build { stage, positions, events, total: total.max(events), per_second, fault };
        let (number, me) = (self.entry.shown.number, self.shared.process);
        let seen = self.seen;
        let held = self.shared.change(|all, _| all.hold(number, me, seen, Some(build.clone()))).await?;
        self.seen = None;
        let (held, catalogue) = held;
        let builds = catalogue.find(number).is_some_and(|entry| entry.shown.state == nats::State::Building);
        if held && builds && !self.stop.is_cancelled() { Ok(()) } else { Err(Ended::Gone) }
    }
}

/// Ends a session, and waits until it has ended.
async fn end(
    stop: &CancellationToken,
    session: impl Future<Output = Result<(), Interruption>>,
) -> Result<(), Interruption> {
    stop.cancel();
    session.await
}

/// Events per second, from the first to the last of these beats; none where there is but one.
fn rate(beats: &VecDeque<(Instant, u64)>) -> u64 {
    match (beats.front(), beats.back()) {
        (Some((from, before)), Some((to, after))) if to > from => {
            let millis = (*to - *from).as_millis().max(1);
            u64::try_from(u128::from(after.saturating_sub(*before)) * 1000 / millis).unwrap_or(0)
        }
        _ => 0,
    }
}

/// The sequence of a stream among positions.
fn sequence(positions: &[Position], of: Position) -> u64 {
    positions.iter().find(|one| one.context == of.context).map_or(0, |one| one.sequence)
}

/// Whether these positions are as far as those.
fn reached(at: &[Position], bound: &[Position]) -> bool {
    bound.iter().all(|bound| sequence(at, *bound) >= bound.sequence)
}

/// Whether next to nothing is missing.
fn near(progress: &Progress) -> bool {
    progress.streams.iter().all(|stream| stream.end.is_some() && stream.lag() < NEAR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_beats_that_are_kept() {
        let start = Instant::now();
        let beats = |beats: &[(u64, u64)]| {
            rate(&beats.iter().map(|(at, events)| (start + Duration::from_millis(*at), *events)).collect())
        };
        assert_eq!(beats(&[]), 0);
        assert_eq!(beats(&[(0, 500)]), 0, "what was read before it was looked at is no rate");
        assert_eq!(beats(&[(0, 500), (500, 1500)]), 2000);
        assert_eq!(beats(&[(0, 500), (1000, 9000), (4000, 2500)]), 500, "from the first to the last");
        assert_eq!(beats(&[(0, 500), (1000, 500)]), 0);
        assert_eq!(beats(&[(0, 500), (1000, 400)]), 0, "never less than nothing");
    }
}
