//! What takes the messages of one consumer and handles them, lane by lane.

use super::{
    Consumer, FIRST_RETRY, HEARTBEAT, Handler, LAST_RETRY, Lost, Manner, Policy, Retry, backoff, jittered,
    lanes::Lanes, parked::Parked, trace,
};
use crate::{
    Message, MessageError, ParkingError, Recorded,
    bucket::Kept,
    parking::{Cause, Failed},
};
use async_nats::jetstream::{AckKind, Message as Delivered};
use events::{DeadLetterId, ops::Failure};
use futures::{FutureExt, StreamExt};
use service::{crash_point, telemetry::Scope};
use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How often the server is told that a message is still being handled, and those of its aggregate that wait behind it.
const PROGRESS: Duration = Duration::from_secs(1);
/// So many messages of one aggregate may wait unacknowledged behind one that fails. More than a consumer may have in
/// flight over all aggregates would let the consumer stand still, so whoever holds up so many is parked before its attempts are used up.
const HELD_UP: usize = 64;
/// Tries that even such an aggregate has.
const FEWEST: u32 = 3;

/// What has become of a message.
enum Settled {
    /// It is handled, or recorded that it waits or was given up.
    Done,
    /// The server shall deliver it again after a while.
    Later { first: Duration, last: Duration },
    /// Nothing, and the process stops: another one shall have it at once.
    Left,
}

/// Why an attempt has settled nothing.
enum Stuck {
    /// Its handler could not be done with it.
    Handling(Retry),
    /// It cannot be recorded that it waits or was given up.
    Parking(Retry),
}

impl From<ParkingError> for Stuck {
    fn from(error: ParkingError) -> Self {
        Self::Parking(error.into())
    }
}

/// What the tasks of one consumer share.
pub(super) struct Worker {
    pub(super) consumer: Consumer,
    handler: Handler,
    lanes: Lanes<(Message, Delivered)>,
    pub(super) parked: Parked,
    pub(super) stop: CancellationToken,
    /// Nothing is taken any more, so that what is handed back does not come here again.
    pub(super) closed: CancellationToken,
}

impl Worker {
    pub(super) fn new(consumer: Consumer, handler: Handler, stop: CancellationToken) -> Self {
        let parked = Parked::new(consumer.parking.clone(), &consumer.durable, consumer.metrics.clone());
        let closed = CancellationToken::new();
        Self { consumer, handler, lanes: Lanes::default(), parked, stop, closed }
    }

    /// Whether anything can be parked here.
    pub(super) fn parks(&self) -> bool {
        self.consumer.policy != Policy::Retry
    }

    /// Takes messages until the consumer or the connection is lost.
    pub(super) async fn consume(self: &Arc<Self>, tasks: &TaskTracker) -> Result<(), Lost> {
        let mut connected = self.consumer.connection.connected.clone();
        connected.mark_unchanged();
        if self.parks() {
            self.parked.load().await?;
        }
        let opened = self.consumer.open().await?;
        let taking = async {
            let mut messages = opened.stream().heartbeat(HEARTBEAT).messages().await?;
            while let Some(message) = messages.next().await {
                // Who was away may have missed what others parked.
                if self.parks() && connected.has_changed()? {
                    connected.mark_unchanged();
                    self.parked.load().await?;
                }
                let message = message?;
                if !self.consumer.lag.is_zero() {
                    self.ripen(&message).await?;
                }
                self.receive(message, tasks).await?;
            }
            Ok(())
        };
        tokio::select! {
            lost = taking => lost,
            () = self.consumer.measure(&opened) => Ok(()),
        }
    }

    /// Waits until a message is as old as it has to be; the next ones are younger.
    async fn ripen(&self, delivered: &Delivered) -> Result<(), Lost> {
        let stored = delivered.info()?.published.unix_timestamp_nanos();
        let age = self.consumer.parking.now().as_nanosecond() - stored;
        let left = i128::try_from(self.consumer.lag.as_nanos())? - age;
        if let Ok(left) = u64::try_from(left) {
            tokio::time::sleep(Duration::from_nanos(left)).await;
        }
        Ok(())
    }

    async fn receive(self: &Arc<Self>, mut delivered: Delivered, tasks: &TaskTracker) -> Result<(), Lost> {
        let message = match Message::delivered(&mut delivered) {
            Ok(message) => message,
            Err(error) => return self.refuse(&delivered, &error).await,
        };
        self.consumer.metrics.lag(&self.consumer.durable, message.pending);
        // Without a type nobody can say that it is of no interest: it is poisoned, and stays to be seen.
        if !self.wants(&message) {
            return self.acknowledge(&delivered).await;
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

    /// Whether a message is handled here.
    pub(super) fn wants(&self, message: &Message) -> bool {
        message.kind().is_empty() || self.consumer.interests.contains(&message.kind())
    }

    /// Nobody's event: trying again would not help.
    async fn refuse(&self, delivered: &Delivered, error: &MessageError) -> Result<(), Lost> {
        self.consumer.metrics.failed(&self.consumer.durable, "message");
        tracing::error!(subject = %delivered.subject, %error, "a message is no event");
        let sequence = delivered.info()?.stream_sequence;
        let failure = self.failure(&delivered.subject, sequence, None, error.to_string(), 1);
        self.give_up(failure, None).await?;
        self.acknowledge(delivered).await
    }

    async fn acknowledge(&self, delivered: &Delivered) -> Result<(), Lost> {
        crash_point("acknowledge.before", &self.consumer.durable);
        let acknowledged = delivered.ack().await;
        crash_point("acknowledge.after", &self.consumer.durable);
        acknowledged
    }

    /// Handles one message until it is done, parked, or the process stops.
    async fn handle(&self, message: Message, delivered: Delivered) {
        let alive = async {
            loop {
                tokio::time::sleep(PROGRESS).await;
                let _ = delivered.ack_with(AckKind::Progress).await;
                let mut waiting = Vec::new();
                self.lanes.each(&message.subject, |(_, delivered)| waiting.push(delivered.clone()));
                for delivered in waiting {
                    let _ = delivered.ack_with(AckKind::Progress).await;
                }
            }
        };
        let settled = tokio::select! {
            settled = self.settle(&message) => settled,
            () = alive => Settled::Left,
        };
        match settled {
            Settled::Done => {
                // A lost acknowledgement only means that the message comes again.
                let _ = self.acknowledge(&delivered).await;
            }
            Settled::Later { first, last } => {
                let attempts = delivered.info().map_or(1, |info| info.delivered);
                self.hand_back(&delivered, Some(jittered(backoff(first, last, attempts)))).await;
            }
            Settled::Left => {
                // What waits behind it in its lane goes after it, so that they come in order to whoever is next.
                self.closed.cancelled().await;
                self.hand_back(&delivered, None).await;
            }
        }
    }

    /// Lets the server deliver a message again: after a while, or at once.
    async fn hand_back(&self, delivered: &Delivered, delay: Option<Duration>) {
        crash_point("hand.back.before", &self.consumer.durable);
        // Where this is lost it comes again after the acknowledgement was waited for.
        let _ = delivered.ack_with(AckKind::Nak(delay)).await;
        crash_point("hand.back.after", &self.consumer.durable);
    }

    /// Tries until the message is done with, or as often as the consumer's manner is.
    async fn settle(&self, message: &Message) -> Settled {
        // Also while the process stops, a third of a second: what is handed back is due, and nobody holds it again.
        message.ripe().await;
        let started = Instant::now();
        let (mut pause, mut attempts) = (FIRST_RETRY, 0);
        while !self.stop.is_cancelled() {
            match self.attempt(message, started, &mut attempts).await {
                Ok(()) => return Settled::Done,
                Err(stuck) => {
                    if let Some(later) = self.later(message, &stuck, attempts) {
                        return later;
                    }
                }
            }
            tokio::select! {
                () = tokio::time::sleep(jittered(pause)) => pause = (pause * 2).min(LAST_RETRY),
                () = self.stop.cancelled() => {}
            }
        }
        Settled::Left
    }

    /// Whether a message goes back to the server after an attempt. What cannot even be parked does for as long as there is:
    /// in its lane it would be told again and again, and hold up what comes behind it.
    fn later(&self, message: &Message, stuck: &Stuck, attempts: u32) -> Option<Settled> {
        let (Stuck::Handling(error) | Stuck::Parking(error)) = stuck;
        let (durable, cause) = (self.consumer.durable.as_str(), error.cause());
        tracing::warn!(durable, ?message, attempts, cause, %error, "reaction failed, trying again");
        let Manner::Tell { first, last } = self.consumer.manner else { return None };
        match stuck {
            Stuck::Handling(Retry::World(_)) | Stuck::Parking(Retry::World(_)) => {
                Some(Settled::Later { first, last })
            }
            Stuck::Parking(Retry::Message(_)) => Some(Settled::Later { first: last, last }),
            Stuck::Handling(Retry::Message(_)) => (!self.parks()).then_some(Settled::Later { first, last }),
        }
    }

    /// One attempt to be done with a message: it is handled, or waits, or is given up.
    async fn attempt(&self, message: &Message, started: Instant, attempts: &mut u32) -> Result<(), Stuck> {
        if self.stop.run_until_cancelled(self.parked.flowing()).await.is_none() {
            return Err(Stuck::Handling(Retry::world("stopping")));
        }
        if self.waits(message).await? {
            return Ok(());
        }
        let (result, scope) = self.try_once(message).await;
        let error = match result {
            Ok(outcome) => {
                within(scope, || self.log(message, outcome, started));
                return Ok(());
            }
            Err(error) => error,
        };
        self.consumer.metrics.failed(&self.consumer.durable, error.cause());
        // Without NATS everything fails, which says nothing of the message; and neither does a world that is away.
        if !self.consumer.connection.is_connected() || matches!(error, Retry::World(_)) {
            return Err(Stuck::Handling(error));
        }
        *attempts += 1;
        let held_up = self.lanes.waiting(&message.subject).0 > HELD_UP && *attempts >= FEWEST;
        // What cannot be read now cannot be read later.
        let hopeless = scope.is_none();
        let used_up = held_up || self.consumer.policy.gives_up(*attempts);
        if self.parks() && (hopeless || used_up) {
            let (subject, sequence) = (message.subject.as_str(), message.position.sequence);
            let failure = self.failure(subject, sequence, Some(message), error.to_string(), *attempts);
            self.give_up(failure, Some(message)).await?;
            return Ok(());
        }
        Err(Stuck::Handling(error))
    }

    /// Whether a message waits behind one that is parked; if so, that is recorded.
    async fn waits(&self, message: &Message) -> Result<bool, ParkingError> {
        let (durable, sequence) = (&self.consumer.durable, message.position.sequence);
        let id = DeadLetterId::of(durable, message.subject.as_str());
        let Some(Kept { value: known, revision }) = self.parked.get(id) else { return Ok(false) };
        if known.covers(sequence) {
            if known.failure.sequence == sequence {
                let cause = Cause::of(self.consumer.service, Some(message));
                self.consumer.parking.confirm_parked(&known, &cause).await?;
            }
            return Ok(true);
        }
        if sequence < known.failure.sequence {
            return Ok(false);
        }
        // Those behind it are recorded with it.
        let through = self.lanes.waiting(&message.subject).1.map_or(sequence, |last| last.max(sequence));
        if let Some(kept) = self.consumer.parking.set_aside(durable, id, through).await? {
            self.parked.note(&kept);
            return Ok(kept.value.covers(sequence));
        }
        self.parked.forget(id, revision);
        Ok(false)
    }

    /// Does what the policy says of a message that cannot be handled.
    async fn give_up(&self, failure: Failure, message: Option<&Message>) -> Result<(), ParkingError> {
        let (durable, parking) = (self.consumer.durable.as_str(), &self.consumer.parking);
        let Failure { stream, sequence, subject, error, attempts, fingerprint, .. } = failure.clone();
        let cause = Cause::of(self.consumer.service, message);
        if matches!(self.consumer.policy, Policy::Skip(_)) {
            parking.say_skipped(failure, &cause).await?;
            tracing::error!(
                durable,
                stream,
                sequence,
                subject,
                attempts,
                fingerprint,
                error,
                "message skipped"
            );
            return Ok(());
        }
        let kept = parking.park(failure, self.consumer.policy.holds(), &cause).await?;
        let id = kept.value.id;
        self.parked.note(&kept);
        tracing::error!(durable, %id, stream, sequence, subject, attempts, fingerprint, error, "message parked");
        Ok(())
    }

    pub(super) fn failure(
        &self,
        subject: &str,
        sequence: u64,
        message: Option<&Message>,
        error: String,
        attempts: u32,
    ) -> Failure {
        let (consumer, stream) = (self.consumer.durable.as_str(), self.consumer.context.stream());
        let kind = message.map(Message::kind).filter(|kind| !kind.is_empty());
        Failed { consumer, stream, sequence, subject, kind, error, attempts }.into()
    }

    /// One try; with a scope where the message could be read.
    pub(super) async fn try_once(&self, message: &Message) -> (Result<&'static str, Retry>, Option<Scope>) {
        match message.record() {
            Ok(recorded) => self.react(recorded).await,
            Err(error) => (Err(Retry::message(error)), None),
        }
    }

    /// Calls the handler in a span and a scope of its own.
    async fn react(&self, mut recorded: Recorded) -> (Result<&'static str, Retry>, Option<Scope>) {
        let scope = trace::scope(&self.consumer, &mut recorded);
        // A panic would end the lane's task and leave its messages waiting, unseen by anybody.
        let handling = AssertUnwindSafe(async { (self.handler)(recorded).await }).catch_unwind();
        let result = scope.clone().run(handling).await;
        let result = result.unwrap_or_else(|_| Err(Retry::message("the handler panicked")));
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

    /// The next message of a subject behind a sequence, as the leader of the stream has it: a copy that is behind would say
    /// that there is none.
    pub(super) async fn behind(&self, subject: &str, sequence: u64) -> Result<Option<Behind>, Lost> {
        use async_nats::jetstream::stream::LastRawMessageErrorKind as Kind;
        let Consumer { connection, context, .. } = &self.consumer;
        let stream = connection.jetstream.get_stream_no_info(context.stream()).await?;
        match stream.raw_message_builder().sequence(sequence + 1).next_by_subject(subject).send().await {
            Ok(found) => Ok(Some((found.sequence, Message::stored(found)))),
            Err(error) if matches!(error.kind(), Kind::NoMessageFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// A message with its sequence, which even one has that is no event.
pub(super) type Behind = (u64, Result<Message, MessageError>);

/// Says something that belongs to a reaction, where it is known which.
fn within(scope: Option<Scope>, say: impl FnOnce()) {
    match scope {
        Some(scope) => scope.enter(say),
        None => say(),
    }
}
