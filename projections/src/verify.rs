//! Folding the log again: a fresh database from the streams, and the comparison with the one that serves.

use crate::{
    Progress, ProjectionMetrics, View,
    database::{Database, DatabaseError, Difference, Storage},
    projector::{Projector, Standing},
};
use events::Position;
use service::Metrics;
use std::{path::Path, sync::Arc, time::Duration, time::Instant};
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

/// Builds the read model in a place of its own, from `since` on, where that is said, up to these positions. A place that holds a part already is continued.
pub async fn rebuild(
    view: &'static View,
    connection: &nats::Connection,
    storage: &Storage,
    since: &[Position],
    until: &[Position],
) -> Result<Rebuilt, RebuildError> {
    let database = Database::build(storage, view, 1, since).await?;
    let checkpoints = database.writer().await?.checkpoints().await?;
    let (sender, progress) = watch::channel(Progress::new(&checkpoints));
    let projector = Projector {
        view,
        connection: connection.clone(),
        parking: None,
        database: database.clone(),
        progress: sender,
        bound: Some(Arc::from(until)),
        only: None,
        standing: Standing::default(),
        told: None,
        metrics: ProjectionMetrics::new(&Metrics::new()),
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

/// Folds the streams again into a scratch folder, up to where `live` is, and says where the two differ: nowhere, unless
/// something is wrong. `live` may go on meanwhile; what is compared is its state at one moment.
pub async fn verify(
    view: &'static View,
    connection: &nats::Connection,
    live: &Database,
    scratch: &Path,
) -> Result<Vec<Difference>, RebuildError> {
    let mut moment = live.moment().await?;
    let since = moment.since().await?;
    let scratch = Storage::Sqlite(scratch.to_owned());
    let fresh = rebuild(view, connection, &scratch, &since, moment.checkpoints()).await?;
    let differences = moment.differences(&mut fresh.database.moment().await?).await?;
    fresh.database.close().await;
    Ok(differences)
}
