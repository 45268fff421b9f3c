//! Durable reactions to one stream. Step 5 of the flow.
//!
//! - Messages of one aggregate are handled in order, in a lane of their own; lanes run side by side.
//! - A message is acknowledged only after its handler is done, or after it is recorded that it waits; what was not
//!   acknowledged comes again, so handlers must not mind repetitions. Several processes share the work of one durable
//!   consumer.
//! - A handler that fails is tried again with exponential backoff and jitter. Its lane waits, all others go on. What fails
//!   because the world is away is tried until it is back ([`Retry`]). What fails because of the message has so many
//!   attempts; then its [`Policy`] says what becomes of it: usually the aggregate is parked ([`crate::Parking`]).
//!   Where the world outside is told, a message that cannot be told now goes back to the server, which delivers it again
//!   later ([`Manner`]).
//! - Operators bring parked messages back: `replay` follows what they ask for in the stream of operations.
//! - Lost connections, missed heartbeats and deleted consumers are repaired for as long as it takes.

mod lanes;
mod measure;
mod metrics;
mod parked;
mod policy;
mod replay;
mod retry;
mod standing;
mod trace;
mod worker;

use crate::{Connection, Parking, Recorded, replay::facts};
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull};
use events::{Aggregate, Context};
use futures::future::BoxFuture;
pub use metrics::ConsumerMetrics;
pub use policy::{Policies, Policy, PolicyError};
pub use replay::ASKED_BY_OPERATORS;
pub use retry::Retry;
pub(crate) use standing::weaknesses;
use std::{sync::Arc, time::Duration, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use worker::Worker;

/// Messages handled at the same time, over all processes. More wait in the stream.
const IN_FLIGHT: i64 = 1024;
/// The same for what the world outside is told: what waits for its next attempt counts, perhaps for days.
const IN_DELIVERY: i64 = 4096;
/// How long the server waits for an acknowledgement before it delivers again, perhaps to another process: so long does
/// stand still what a killed process had taken.
pub(crate) const ACK_WAIT: Duration = Duration::from_secs(4);
const HEARTBEAT: Duration = Duration::from_secs(5);
/// How long whoever stops may take to write what he has said.
const PARTING: Duration = Duration::from_secs(1);
const FIRST_RETRY: Duration = Duration::from_millis(50);
/// Longest pause between two tries. Meanwhile the server is told that the message is being handled.
const LAST_RETRY: Duration = Duration::from_secs(10);

/// What handles a message: the outcome in a word for the log, or why it has to be tried again.
pub type Handler = Arc<dyn Fn(Recorded) -> BoxFuture<'static, Result<&'static str, Retry>> + Send + Sync>;

/// What a consumer does with messages that fail, and where it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// With the first event of the stream. What fails is tried again in its lane, and what comes behind it waits.
    React,
    /// With what comes after the consumer was first made ([`Consumer::ensure`]): nobody is told of what is long past.
    /// What the world does not take goes back to the server, which delivers it again after a while, also when this process
    /// is gone; what comes behind it does not wait, and nobody but the handler gives it up. The while doubles from `first`
    /// to `last`.
    Tell {
        /// Before the second attempt.
        first: Duration,
        /// At most.
        last: Duration,
    },
}

type Lost = Box<dyn std::error::Error + Send + Sync>;

/// Why a consumer cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("the consumer {durable} cannot be made")]
pub struct ConsumerError {
    durable: String,
    source: Lost,
}

/// A durable consumer as the server keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Durable {
    /// Its name, for ever.
    pub name: String,
    /// Whose stream.
    pub context: Context,
    /// Only the facts of these aggregates.
    pub only: Option<Aggregate>,
    /// Whether the world outside is told: it begins with what comes after it was made.
    pub tells: bool,
}

impl Durable {
    /// One that reacts to a whole stream.
    pub fn new(name: impl Into<String>, context: Context) -> Self {
        Self { name: name.into(), context, only: None, tells: false }
    }

    /// The one that hears what operators ask of this one.
    #[must_use]
    pub fn for_operators(&self) -> Self {
        Self::new(format!("{}-ops", self.name), Context::Ops)
    }

    /// Makes it where there is none.
    pub async fn ensure(&self, connection: &Connection) -> Result<(), ConsumerError> {
        let made = self.open(connection).await;
        made.map(|_| ()).map_err(|source| ConsumerError { durable: self.name.clone(), source })
    }

    async fn open(&self, connection: &Connection) -> Result<PullConsumer, Lost> {
        let stream = connection.jetstream.get_stream_no_info(self.context.stream()).await?;
        if !connection.makes() {
            return stream.get_consumer(&self.name).await;
        }
        let (deliver_policy, max_ack_pending) =
            if self.tells { (DeliverPolicy::New, IN_DELIVERY) } else { (DeliverPolicy::All, IN_FLIGHT) };
        let config = pull::Config {
            durable_name: Some(self.name.clone()),
            deliver_policy,
            ack_policy: AckPolicy::Explicit,
            ack_wait: ACK_WAIT,
            max_ack_pending,
            filter_subject: self.only.map_or_else(|| facts(self.context), Aggregate::filter),
            ..pull::Config::default()
        };
        Ok(stream.get_or_create_consumer(&self.name, config).await?)
    }
}

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
    /// Only the facts of these aggregates are asked for; others of the stream never come here. Worth it where they are
    /// rare: the server searches for them.
    pub only: Option<Aggregate>,
    /// How old a fact has to be before it is handled. What is younger waits in the stream, and nothing behind it is missed:
    /// facts are stored in the order of their time.
    pub lag: Duration,
    /// What it does with messages that fail, and where it begins.
    pub manner: Manner,
    /// What it does about a message that it cannot handle.
    pub policy: Policy,
    /// Where it parks what it cannot handle.
    pub parking: Parking,
    /// Where to count.
    pub metrics: ConsumerMetrics,
}

impl Consumer {
    /// Makes the consumer on the server where there is none. Otherwise it is made by [`Self::run`], some time later.
    pub async fn ensure(&self) -> Result<(), ConsumerError> {
        self.open()
            .await
            .map(|_| ())
            .map_err(|source| ConsumerError { durable: self.durable.clone(), source })
    }

    async fn open(&self) -> Result<PullConsumer, Lost> {
        let (name, tells) = (self.durable.clone(), matches!(self.manner, Manner::Tell { .. }));
        Durable { name, context: self.context, only: self.only, tells }.open(&self.connection).await
    }

    /// Lets the server forget that somebody asked for messages here. It looks whether he is still there when it is asked how
    /// far the consumer is; otherwise only when it has a message for him, and puts that behind all the others that are to be
    /// delivered again (nats-server 2.15, `loopAndGatherMsgs`): the first one handed back would come last.
    async fn leave(&self) {
        let Consumer { connection, context, durable, .. } = self;
        let asked = async {
            let stream = connection.jetstream.get_stream_no_info(context.stream()).await?;
            stream.consumer_info(durable).await.map(|_| ()).map_err(Lost::from)
        };
        match tokio::time::timeout(PARTING, asked).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(durable, %error, "what is handed back may come out of order"),
            Err(_) => tracing::debug!(durable, "no answer: what is handed back may come out of order"),
        }
    }

    /// Handles messages until `stop`; then finishes what is being handled and hands the rest back, which comes at once to
    /// whoever else there is.
    pub async fn run(self, handler: Handler, stop: CancellationToken) {
        let tasks = TaskTracker::new();
        let connection = self.connection.clone();
        let worker = Arc::new(Worker::new(self, handler, stop));
        if worker.parks() {
            let following = Arc::clone(&worker);
            tasks.spawn(async move { following.parked.follow(&following.stop).await });
            tasks.spawn(supervise(replay::worker(&worker)));
        }
        supervise(worker).await;
        tasks.close();
        tasks.wait().await;
        // The process may end now, or the connection, and with it what was acknowledged and handed back but not written.
        if connection.is_connected() {
            let _ = tokio::time::timeout(PARTING, connection.client.flush()).await;
        }
    }
}

/// Takes messages until the process stops, whatever is lost meanwhile.
async fn supervise(worker: Arc<Worker>) {
    let (tasks, stop) = (TaskTracker::new(), worker.stop.clone());
    let mut pause = FIRST_RETRY;
    while !stop.is_cancelled() {
        let started = Instant::now();
        let result = tokio::select! {
            result = worker.consume(&tasks) => result,
            () = stop.cancelled() => break,
        };
        if started.elapsed() > HEARTBEAT {
            pause = FIRST_RETRY;
        }
        let durable = worker.consumer.durable.as_str();
        tracing::warn!(durable, error = ?result.err(), "consumer lost, taking it up again");
        tokio::select! {
            () = tokio::time::sleep(jittered(pause)) => pause = (pause * 2).min(LAST_RETRY),
            () = stop.cancelled() => {}
        }
    }
    if !tasks.is_empty() {
        worker.consumer.leave().await;
    }
    worker.closed.cancel();
    tasks.close();
    tasks.wait().await;
}

fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + fastrand::f64() / 2.0)
}

/// How long to wait after so many attempts: twice as long each time.
fn backoff(first: Duration, last: Duration, attempts: i64) -> Duration {
    let doublings = attempts.saturating_sub(1).clamp(0, 31);
    first.saturating_mul(1 << doublings).min(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_waits_twice_as_long_after_each_attempt() {
        let (first, last) = (Duration::from_secs(5), Duration::from_hours(6));
        let waits: Vec<_> = (1..=14).map(|attempts| backoff(first, last, attempts).as_secs()).collect();
        assert_eq!(waits[..4], [5, 10, 20, 40]);
        assert_eq!(waits[12..], [20_480, 21_600]);
        assert_eq!(backoff(first, last, i64::MAX), last);
        assert_eq!(backoff(first, last, 0), first);
    }
}
