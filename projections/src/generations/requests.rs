//! What operators ask of a read model, carried out once by whichever process hears it first.

use super::{Shared, catalogue::Wanted};
use crate::database::DatabaseError;
use events::{Position, ops::ProjectionEvent};
use jiff::Timestamp;
use nats::{Filter, From, ReadModels, ReadModelsError, Reader, Refused, ReplayError, Until};
use std::{sync::Arc, time::Duration};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// Pause before something that failed is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// Why a request is not carried out now.
#[derive(Debug, thiserror::Error)]
enum Later {
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error(transparent)]
    Asked(#[from] ReadModelsError),
    #[error(transparent)]
    Replay(#[from] ReplayError),
}

/// Carries out what is asked, in order, for ever.
pub(super) async fn follow(shared: Arc<Shared>, token: CancellationToken) {
    let Some(models) = &shared.feed.read_models else { return };
    let following = async {
        loop {
            if let Err(error) = read(&shared, models).await {
                tracing::warn!(projection = shared.view.name, %error, "requests are read again");
            }
            sleep(AGAIN).await;
        }
    };
    token.run_until_cancelled(following).await;
}

async fn read(shared: &Shared, models: &ReadModels) -> Result<(), Later> {
    let asked = shared.load().await?.1.asked;
    let mut requests = models.requests(shared.view.name, asked).await?;
    loop {
        let (sequence, event) = requests.next().await?;
        carry_out(shared, sequence, event).await?;
        shared.nudge.notify_one();
    }
}

async fn carry_out(shared: &Shared, sequence: u64, event: ProjectionEvent) -> Result<(), Later> {
    let (now, own) = (shared.clock.now(), &shared.own);
    let mut wanted = Wanted::default();
    if let ProjectionEvent::RebuildRequested(request) = &event {
        let since = match request.from_time {
            Some(time) => at(shared, time).await?,
            None => request.from.clone(),
        };
        wanted = Wanted { table: request.model.clone(), since, asked: Some(sequence) };
    }
    let foreign = wanted.since.iter().find(|from| !shared.view.contexts().any(|own| own == from.context));
    let foreign = foreign.map(|from| format!("it is not made of stream {}", from.context.stream()));
    let (outcome, _) = shared
        .change(|all, _| {
            // Each program does what is asked of its own tables.
            let ours = all.live().is_some_and(|live| live.shown.model == own.model);
            if all.asked >= sequence || !ours {
                return Ok(());
            }
            all.asked = sequence;
            let outcome = match &event {
                ProjectionEvent::RebuildRequested(_) => match &foreign {
                    Some(why) => Err(why.clone()),
                    None => all.begin(own, wanted.clone(), now).map(|_| ()),
                },
                ProjectionEvent::RebuildCancelled(_) => all.cancel(),
                ProjectionEvent::RollbackRequested(_) => all.roll_back(own, sequence),
                ProjectionEvent::DropRequested(_) => all.drop_kept(),
                ProjectionEvent::Switched(_) => Ok(()),
            };
            if let Err(why) = &outcome {
                all.refused = Some(Refused { asked: sequence, why: why.clone() });
            }
            outcome
        })
        .await?;
    if let Err(why) = outcome {
        tracing::warn!(projection = shared.view.name, sequence, why, "a request is refused");
    }
    Ok(())
}

/// The first event of each stream that was stored at this time or later.
async fn at(shared: &Shared, time: Timestamp) -> Result<Vec<Position>, ReplayError> {
    let mut since = Vec::new();
    for context in shared.view.contexts() {
        let connection = &shared.feed.connection;
        let last = nats::last_sequence(connection, context).await?;
        let mut reader =
            Reader::open(connection, context, From::Time(time), Until::End, Filter::default()).await?;
        let first = reader.next_batch(1).await?.first().map(|message| message.position.sequence);
        since.push(Position { context, sequence: first.unwrap_or(last + 1) });
    }
    Ok(since)
}
