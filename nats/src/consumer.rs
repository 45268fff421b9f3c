//! Durable reactions to one stream. Step 5 of the flow.
//!
//! - Messages of one aggregate are handled in order, in a lane of their own; lanes run side by side.
//! - A message is acknowledged only after its handler is done; what was not acknowledged comes again, so handlers must
//!   not mind repetitions. Several processes share the work of one durable consumer.
//! - A handler that fails is tried again with exponential backoff and jitter. Its lane waits, all others go on.
//! - Lost connections, missed heartbeats and deleted consumers are repaired for as long as it takes.

mod lanes;
mod metrics;
mod trace;

use crate::{Connection, Message, Recorded, replay::facts};
use async_nats::jetstream::{
    AckKind, Message as Delivered,
    consumer::{AckPolicy, DeliverPolicy, pull},
};
use events::Context;
use futures::{FutureExt, StreamExt, future::BoxFuture};
use lanes::Lanes;
pub use metrics::ConsumerMetrics;
use service::telemetry::Scope;
use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Messages handled at the same time, over all processes. More wait in the stream.
const IN_FLIGHT: i64 = 1024;
/// How long the server waits for an acknowledgement before it delivers again, perhaps to another process.
const ACK_WAIT: Duration = Duration::from_secs(30);
const HEARTBEAT: Duration = Duration::from_secs(5);
const FIRST_RETRY: Duration = Duration::from_millis(50);
/// Longest pause between two tries; well under `ACK_WAIT`, so that progress is reported in time.
const LAST_RETRY: Duration = Duration::from_secs(10);

/// Why a message could not be handled now. It is tried again.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Retry(pub String);

/// What handles a message: the outcome in a word for the log, or why it has to be tried again.
pub type Handler = Arc<dyn Fn(Recorded) -> BoxFuture<'static, Result<&'static str, Retry>> + Send + Sync>;

/// A durable consumer of one stream.
#[derive(Clone)]
pub struct Consumer {
    /// Where it reads.
    pub connection: Connection,
    /// Who reacts.
    pub service: &'static str,
    /// Whose stream.
    pub context: Context,
    /// Its name on the server, for ever: `<service>-<stream>`. Another name would react to everything again.
    pub durable: String,
    /// Types that are handled; others are acknowledged unread.
    pub interests: &'static [&'static str],
    /// Where to count.
    pub metrics: ConsumerMetrics,
}

impl Consumer {
    /// Handles messages until `stop`; then finishes what is being handled and leaves the rest for later.
    pub async fn run(self, handler: Handler, stop: CancellationToken) {
        let tasks = TaskTracker::new();
        let shared =
            Arc::new(Worker { consumer: self, handler, lanes: Lanes::default(), stop: stop.clone() });
        let mut pause = FIRST_RETRY;
        while !stop.is_cancelled() {
            let started = Instant::now();
            let result = tokio::select! {
                result = shared.consume(&tasks) => result,
                () = stop.cancelled() => break,
            };
            if started.elapsed() > HEARTBEAT {
                pause = FIRST_RETRY;
            }
            let durable = shared.consumer.durable.as_str();
            tracing::warn!(durable, error = ?result.err(), "consumer lost, taking it up again");
            tokio::select! {
                () = tokio::time::sleep(jittered(pause)) => pause = (pause * 2).min(LAST_RETRY),
                () = stop.cancelled() => {}
            }
        }
        tasks.close();
        tasks.wait().await;
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What the tasks of one consumer share.
struct Worker {
    consumer: Consumer,
    handler: Handler,
    lanes: Lanes<(Message, Delivered)>,
    stop: CancellationToken,
}

impl Worker {
    /// Takes messages until the consumer is lost.
    async fn consume(self: &Arc<Self>, tasks: &TaskTracker) -> Result<(), Failure> {
        let Consumer { connection, context, durable, .. } = &self.consumer;
        let stream = connection.jetstream.get_stream_no_info(context.stream()).await?;
        let config = pull::Config {
            durable_name: Some(durable.clone()),
            deliver_policy: DeliverPolicy::All,
            ack_policy: AckPolicy::Explicit,
            ack_wait: ACK_WAIT,
            max_ack_pending: IN_FLIGHT,
            filter_subject: facts(*context),
            ..pull::Config::default()
        };
        let consumer = stream.get_or_create_consumer(durable, config).await?;
        let mut messages = consumer.stream().heartbeat(HEARTBEAT).messages().await?;
        while let Some(message) = messages.next().await {
            self.receive(message?, tasks).await?;
        }
        Ok(())
    }

    async fn receive(self: &Arc<Self>, mut delivered: Delivered, tasks: &TaskTracker) -> Result<(), Failure> {
        let message = match Message::delivered(&mut delivered) {
            Ok(message) => message,
            Err(error) => {
                // Nobody's event: it belongs to no aggregate, so nothing waits for it. Left for a human to see.
                tracing::error!(subject = %delivered.subject, %error, "a message is no event");
                self.consumer.metrics.failed(&self.consumer.durable);
                return Ok(());
            }
        };
        self.consumer.metrics.lag(&self.consumer.durable, message.pending);
        // Without a type nobody can say that it is of no interest: it is poisoned, and stays to be seen.
        if !message.kind().is_empty() && !self.consumer.interests.contains(&message.kind()) {
            delivered.ack().await?;
            return Ok(());
        }
        let (key, sequence) = (message.subject.clone(), message.position.sequence);
        if self.lanes.enter(&key, sequence, (message, delivered)) {
            let worker = Arc::clone(self);
            tasks.spawn(async move {
                while let Some((message, delivered)) = worker.lanes.next(&key) {
                    worker.handle(message, delivered).await;
                }
            });
        }
        Ok(())
    }

    /// Handles one message until it is done or the process stops.
    async fn handle(&self, message: Message, delivered: Delivered) {
        let started = Instant::now();
        let mut pause = FIRST_RETRY;
        while !self.stop.is_cancelled() {
            let (result, scope) = match message.record() {
                Ok(recorded) => self.react(recorded).await,
                Err(error) => (Err(Retry(error.to_string())), None),
            };
            match result {
                Ok(outcome) => {
                    within(scope, || self.log(&message, outcome, started));
                    // A lost acknowledgement only means that the message comes again.
                    let _ = delivered.ack().await;
                    return;
                }
                Err(retry) => {
                    let durable = self.consumer.durable.as_str();
                    within(scope, || {
                        tracing::warn!(durable, ?message, error = %retry, "reaction failed, trying again");
                    });
                    self.consumer.metrics.failed(durable);
                    let _ = delivered.ack_with(AckKind::Progress).await;
                }
            }
            tokio::select! {
                () = tokio::time::sleep(jittered(pause)) => pause = (pause * 2).min(LAST_RETRY),
                () = self.stop.cancelled() => {}
            }
        }
    }

    /// One attempt, in a span and a scope of its own.
    async fn react(&self, mut recorded: Recorded) -> (Result<&'static str, Retry>, Option<Scope>) {
        let scope = trace::scope(&self.consumer, &mut recorded);
        // A panic would end the lane's task and leave its messages waiting, unseen by anybody.
        let handling = AssertUnwindSafe(async { (self.handler)(recorded).await }).catch_unwind();
        let result = scope.clone().run(handling).await;
        let result = result.unwrap_or_else(|_| Err(Retry("the handler panicked".to_owned())));
        trace::finish(&scope.span, &result);
        (result, Some(scope))
    }

    fn log(&self, message: &Message, outcome: &'static str, started: Instant) {
        use events::envelope::header;
        let took = started.elapsed();
        self.consumer.metrics.handled(&self.consumer.durable, took);
        tracing::info!(
            target: "reaction",
            durable = self.consumer.durable,
            kind = message.kind(),
            id = message.subject.id(),
            orderId = message.subject.order_id(),
            correlationId = message.header(header::CORRELATION),
            outcome,
            millis = took.as_secs_f64() * 1000.0,
        );
    }
}

/// Says something that belongs to a reaction, where it is known which.
fn within(scope: Option<Scope>, say: impl FnOnce()) {
    match scope {
        Some(scope) => scope.enter(say),
        None => say(),
    }
}

fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + fastrand::f64() / 2.0)
}
