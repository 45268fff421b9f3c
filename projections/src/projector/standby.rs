//! Of several projectors on one database one works; the others wait until it is gone, and follow how far it is.

use super::{ANSWER, Interruption, Projector};
use crate::database::Writer;
use nats::{Filter, From, Reader, Until};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// How often the others ask. Who waits for a position at one of them waits so much longer at most.
const PAUSE: Duration = Duration::from_millis(50);

/// How often they look how far the streams are.
const LOOK: Duration = Duration::from_secs(1);

impl Projector {
    /// Waits until nobody else projects into the tables; false when that was still so at the shutdown.
    pub(super) async fn stand_by(
        &self,
        writer: &mut Writer,
        token: &CancellationToken,
    ) -> Result<bool, Interruption> {
        let mut looked: Option<Instant> = None;
        while !timeout(ANSWER, writer.lead()).await.map_err(|_| Interruption::Silent)?? {
            if looked.is_none() {
                tracing::info!(projection = self.view.name, "another projector works: standing by");
            }
            let checkpoints = timeout(ANSWER, writer.checkpoints()).await;
            self.publish(&checkpoints.map_err(|_| Interruption::Silent)??);
            if looked.is_none_or(|looked| looked.elapsed() >= LOOK) {
                self.look().await?;
                looked = Some(Instant::now());
            }
            if token.run_until_cancelled(sleep(PAUSE)).await.is_none() {
                return Ok(false);
            }
        }
        if looked.is_some() {
            tracing::info!(projection = self.view.name, "nobody else projects: taking over");
        }
        Ok(true)
    }

    /// Notes how far the streams are, and since when the one who works has been behind.
    async fn look(&self) -> Result<(), Interruption> {
        let before = self.progress.borrow().clone();
        for stream in &before.streams {
            let (context, at) = (stream.position.context, stream.position.sequence);
            let end =
                Reader::open(&self.connection, context, From::Now, Until::End, Filter::default()).await?;
            let end = end.end().unwrap_or(0);
            let behind = stream.end.is_some_and(|known| known > at);
            let now = self.clock.now();
            self.progress.send_if_modified(|progress| {
                if let Some(stream) = progress.stream_mut(context) {
                    // What was known a moment ago, and is not there yet, is late since then.
                    stream.behind_since = behind.then(|| stream.behind_since.unwrap_or(now));
                    stream.end = if behind { stream.end } else { Some(end) };
                }
                false
            });
        }
        Ok(())
    }
}
