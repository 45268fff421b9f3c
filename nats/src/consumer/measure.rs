//! Asks the server how far a consumer is, also while nothing is delivered: who has as many messages in hand as he may have is
//! sent no more, and would never hear how many wait behind them.

use super::Consumer;
use async_nats::jetstream::consumer::{Info, PullConsumer};
use std::time::Duration;

/// How often it is asked: one request per consumer and process.
const EVERY: Duration = Duration::from_secs(5);

impl Consumer {
    /// Shows at once how far the consumer was when it was opened, and from then on how far it is. Ends never.
    pub(super) async fn measure(&self, opened: &PullConsumer) {
        self.show(opened.cached_info());
        loop {
            tokio::time::sleep(EVERY).await;
            match opened.get_info().await {
                Ok(info) => self.show(&info),
                // Whoever takes messages notices what is lost, and takes it up again.
                Err(error) => {
                    tracing::debug!(durable = self.durable, %error, "how far it is cannot be asked");
                }
            }
        }
    }

    fn show(&self, info: &Info) {
        self.metrics.lag(&self.durable, info.num_pending);
        self.metrics.in_flight(&self.durable, info.num_ack_pending);
    }
}
