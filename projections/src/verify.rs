//! Folding the log again: a fresh database from the streams, and the comparison with the one that serves.

use crate::{
    Progress, ProjectionMetrics, View,
    database::{Database, DatabaseError, Difference, Storage},
    generations::{Catalogue, Own},
    projector::{Beside, Projector, Standing},
};
use events::{Position, Subject};
use nats::Policy;
use service::{Clock, Metrics};
use std::{
    path::Path,
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Why a read model could not be built.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// The database refused.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The streams could not be read to the end.
    #[error("the read model was built up to {reached} only: {why}")]
    Stuck {
        /// How far it came.
        reached: String,
        /// What is in the way.
        why: String,
    },
}

/// A read model built from the streams.
#[derive(Debug)]
pub struct Rebuilt {
    /// Where it is.
    pub database: Database,
    /// Messages read, those passed over included.
    pub events: u64,
    /// From the first to the last.
    pub elapsed: Duration,
}

/// Builds the read model in a place of its own, from `since` on, where that is said, up to these positions. A place that
/// holds a part already is continued.
pub async fn rebuild(
    view: &'static View,
    connection: &nats::Connection,
    storage: &Storage,
    since: &[Position],
    until: &[Position],
) -> Result<Rebuilt, RebuildError> {
    fold(view, connection, storage, (since, until), None, |_, _| ()).await
}

/// An event that cannot be read stops the reading; beside other tables it is passed over as it is there.
async fn fold(
    view: &'static View,
    connection: &nats::Connection,
    storage: &Storage,
    (since, until): (&[Position], &[Position]),
    beside: Option<Arc<Beside>>,
    watched: impl FnOnce(u64, watch::Receiver<Progress>),
) -> Result<Rebuilt, RebuildError> {
    let database = Database::build(storage, view, 1, since).await?;
    let checkpoints = database.writer().await?.checkpoints().await?;
    let (sender, progress) = watch::channel(Progress::new(&checkpoints));
    watched(until.iter().map(|end| end.sequence).sum(), progress.clone());
    let projector = Projector {
        view,
        connection: connection.clone(),
        parking: None,
        policy: Policy::default(),
        beside,
        database: database.clone(),
        progress: sender,
        bound: Some(Arc::from(until)),
        told: None,
        only: None,
        standing: Standing::default(),
        metrics: ProjectionMetrics::new(&Metrics::new()),
        clock: Clock::system(),
    };
    let started = Instant::now();
    let outcome = projector.session(&CancellationToken::new()).await;
    let (reached, done) = {
        let progress = progress.borrow();
        (progress.clone(), until.iter().all(|end| progress.has(*end).unwrap_or(true)))
    };
    if !done {
        let faults = reached.streams.iter().filter_map(|stream| stream.fault.clone());
        let why = faults.chain(outcome.err().map(|error| error.to_string())).collect::<Vec<_>>().join("; ");
        return Err(RebuildError::Stuck { reached: reached.to_string(), why });
    }
    database.writer().await?.finish().await?;
    let elapsed = started.elapsed();
    let before: u64 = checkpoints.iter().map(|at| at.sequence).sum();
    let after: u64 = reached.streams.iter().map(|stream| stream.position.sequence).sum();
    Ok(Rebuilt { database, events: after - before, elapsed })
}

/// The tables that serve, for reading; `None` where there are none. Nothing is made or changed. An error where they are those
/// of another version of the program, which this one cannot judge.
pub async fn live(storage: &Storage, view: &'static View) -> Result<Option<Database>, DatabaseError> {
    // To look into a file that is not there would make it.
    if let Storage::Sqlite(folder) = storage
        && !folder.join(format!("{}.sqlite", view.name)).exists()
    {
        return Ok(None);
    }
    let Some((_, text)) = storage.shelf(view.name).await?.load().await? else { return Ok(None) };
    let catalogue = Catalogue::read(&text)?;
    let Some(live) = catalogue.live().map(|live| &live.shown) else { return Ok(None) };
    if live.model != Own::of(view).model {
        let (other, own) = (live.version, view.version);
        let why =
            format!("another program built them: version {other} of the tables, and this one has {own}");
        return Err(DatabaseError::new("judge the tables that serve", why));
    }
    Database::open(storage, view, live.number).await.map(Some)
}

/// What the comparison of a read model with the log has found.
#[derive(Debug)]
pub struct Compared {
    /// Up to where both were folded.
    pub checkpoints: Vec<Position>,
    /// Where the tables begin, in the streams in which they do not begin at the first event.
    pub since: Vec<Position>,
    /// Messages that were read again.
    pub events: u64,
    /// Rows that differ, the way they should be.
    pub differences: Vec<Difference>,
    /// Aggregates whose later events are not in the tables, because one of them could not be read.
    pub waiting: Vec<Subject>,
    /// Events that could not be read and are in neither, because the policy or an operator said so.
    pub left_out: Vec<Position>,
}

/// Folds the streams again into a scratch folder, up to where `live` is, and says where the two differ: nowhere, unless
/// something is wrong. `live` may go on meanwhile; what is compared is its state at one moment.
pub async fn verify(
    view: &'static View,
    connection: &nats::Connection,
    live: &Database,
    scratch: &Path,
) -> Result<Vec<Difference>, RebuildError> {
    Ok(compare(view, connection, live, scratch, |_, _| ()).await?.differences)
}

/// The same, and more about it. `watched` is given how far the reading is.
pub async fn compare(
    view: &'static View,
    connection: &nats::Connection,
    live: &Database,
    scratch: &Path,
    watched: impl FnOnce(u64, watch::Receiver<Progress>),
) -> Result<Compared, RebuildError> {
    let mut moment = live.moment().await?;
    let (checkpoints, since) = (moment.checkpoints().to_vec(), moment.since().await?);
    let scratch = Storage::Sqlite(scratch.to_owned());
    let parked = moment.parked().await?;
    let waiting = parked.iter().map(|parked| (parked.subject.clone(), parked.sequence)).collect();
    let beside = Arc::new(Beside { waiting, ..Beside::default() });
    let bounds = (&*since, &*checkpoints);
    let fresh = fold(view, connection, &scratch, bounds, Some(Arc::clone(&beside)), watched).await?;
    let mut folded = fresh.database.moment().await?;
    let differences = moment.differences(&mut folded).await?;
    let waiting = parked.into_iter().chain(folded.parked().await?).map(|parked| parked.subject).collect();
    drop(folded);
    fresh.database.close().await;
    let left_out = beside.left_out.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect();
    Ok(Compared { checkpoints, since, events: fresh.events, differences, waiting, left_out })
}
