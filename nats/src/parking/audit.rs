//! What was parked, passed over and resolved, as facts in the stream of operations.

use super::{DeadLetter, Parking, ParkingError, said};
use crate::{AppendError, LoadError, Message, Write};
use events::{
    Actor, Aggregate, CommandId, CorrelationId, DeadLetterId, DomainEvent, Envelope, Fact, Metadata, Subject,
    envelope::header,
    ops::{DeadLetterEvent, DeadLetterResolved, Failure, MessageParked, MessageSkipped},
};
use uuid::Uuid;

/// Somebody else may be first again and again; this often nobody is.
const TRIES: usize = 16;

/// On whose behalf something is recorded, and what caused it.
#[derive(Clone, Debug)]
pub(crate) struct Cause {
    /// `service:<name>`.
    pub(crate) service: Actor,
    pub(crate) correlation: Option<CorrelationId>,
    pub(crate) causation: Option<Uuid>,
}

impl Cause {
    /// A message that cannot be handled. It need not be readable.
    pub(crate) fn of(service: &str, message: Option<&Message>) -> Self {
        let header = |name| message.and_then(|message| message.header(name));
        Self {
            // The names of services are tokens.
            service: format!("service:{service}").parse().unwrap_or(Actor::CLIENT),
            correlation: header(header::CORRELATION).and_then(|text| text.parse().ok()),
            causation: header(header::ID).and_then(|text| text.parse().ok()),
        }
    }
}

impl Parking {
    /// Says that a message was parked.
    pub(super) async fn say_parked(&self, letter: &DeadLetter, cause: &Cause) -> Result<(), ParkingError> {
        let DeadLetter { id, failure, holds, .. } = letter.clone();
        self.say(id, MessageParked { dead_letter_id: id, failure, holds }.into(), cause).await
    }

    /// Says that a message was parked, unless that is known: whoever parked it may have died before he could say so.
    pub(crate) async fn confirm_parked(
        &self,
        letter: &DeadLetter,
        cause: &Cause,
    ) -> Result<(), ParkingError> {
        let last = self.store.last(&Aggregate::DeadLetter.subject(letter.id)).await?;
        let known = last.is_some_and(|last| waiting_for(&last) == Some(letter.failure.sequence));
        if known { Ok(()) } else { self.say_parked(letter, cause).await }
    }

    /// Says that a message was passed over, unless that is known: whoever said so may have died before he passed it, and
    /// others behind it.
    pub(crate) async fn say_skipped(&self, failure: Failure, cause: &Cause) -> Result<(), ParkingError> {
        let id = DeadLetterId::of(&failure.consumer, &failure.subject);
        self.say(id, MessageSkipped { dead_letter_id: id, failure }.into(), cause).await
    }

    /// Says that nothing waits any more.
    pub(crate) async fn say_resolved(
        &self,
        id: DeadLetterId,
        consumer: &str,
        through: u64,
        cause: &Cause,
    ) -> Result<(), ParkingError> {
        let resolved = DeadLetterResolved { dead_letter_id: id, consumer: consumer.to_owned(), through };
        self.say(id, resolved.into(), cause).await
    }

    /// Records a fact, unless it is known already.
    async fn say(&self, id: DeadLetterId, event: DeadLetterEvent, cause: &Cause) -> Result<(), ParkingError> {
        let subject = Aggregate::DeadLetter.subject(id);
        let mut tries = 0;
        loop {
            let last = self.store.last(&subject).await?;
            if let Some(last) = &last
                && self.is_said(id, &subject, last, &event).await?
            {
                return Ok(());
            }
            let version = last.as_ref().and_then(|last| last.header(header::SEQUENCE)?.parse().ok());
            let version = version.unwrap_or(0_u64) + 1;
            // Of the place in the history, so that a fact that is said again later is another one.
            let command = CommandId::from_key(&id.to_string(), &version.to_string());
            let metadata = Metadata {
                command,
                correlation: cause.correlation.clone().unwrap_or_else(|| command.uuid().into()),
                causation: cause.causation.unwrap_or_else(|| command.uuid()),
                actor: cause.service.clone(),
                traceparent: None,
            };
            let envelope =
                Envelope::new(event.fact_type(), &subject, version, 0, self.clock.now(), &metadata);
            let guard = last.map_or(0, |last| last.position.sequence);
            // A few facts in a lifetime: loads may take the way without a tail.
            let tail = (version > 1).then(|| "?".to_owned());
            let write = Write::new(&subject, Some(guard), &envelope, tail, event.to_json());
            tries += 1;
            match self.store.append(vec![write]).await {
                Err(AppendError::Conflict) if tries < TRIES => {}
                Err(error) => return Err(error.into()),
                Ok(appended) => {
                    if let DeadLetterEvent::Skipped(skipped) = &event {
                        let mut all = self.histories.0.lock().await;
                        said::of(&mut all, id).said(skipped.failure.sequence, guard, appended.first);
                    }
                    return Ok(());
                }
            }
        }
    }

    /// Whether a fact is the last one of its dead letter, or, where messages are passed over, any of them: two processes
    /// may pass those of one aggregate in another order than they came, and then what was said last is of another one.
    /// Of the history only what is new is read.
    async fn is_said(
        &self,
        id: DeadLetterId,
        subject: &Subject,
        last: &Message,
        event: &DeadLetterEvent,
    ) -> Result<bool, ParkingError> {
        if says(last, event) {
            return Ok(true);
        }
        let DeadLetterEvent::Skipped(skipped) = event else { return Ok(false) };
        let mut all = self.histories.0.lock().await;
        let history = said::of(&mut all, id);
        if history.through < last.position.sequence {
            for fact in self.store.since(subject, history.through + 1).await? {
                history.hear(&fact);
            }
        }
        if history.through < last.position.sequence {
            // Another node answered than the one that had the last fact.
            let (subject, detail) = (subject.clone(), "a copy of the stream is behind".to_owned());
            return Err(LoadError::Unavailable { subject, detail }.into());
        }
        Ok(history.has(skipped.failure.sequence))
    }
}

/// Which message waits after this fact.
fn waiting_for(last: &Message) -> Option<u64> {
    match last.fact() {
        Ok(Fact::DeadLetter(DeadLetterEvent::Parked(fact))) => Some(fact.failure.sequence),
        Ok(Fact::DeadLetter(DeadLetterEvent::Retried(fact))) => Some(fact.sequence),
        Ok(Fact::DeadLetter(DeadLetterEvent::Discarded(fact))) => Some(fact.sequence),
        _ => None,
    }
}

/// Whether a message says the same: the same kind of fact about the same message.
fn says(last: &Message, event: &DeadLetterEvent) -> bool {
    let Ok(Fact::DeadLetter(last)) = last.fact() else { return false };
    match (last, event) {
        (DeadLetterEvent::Parked(last), DeadLetterEvent::Parked(event)) => {
            last.failure.sequence == event.failure.sequence
        }
        (DeadLetterEvent::Skipped(last), DeadLetterEvent::Skipped(event)) => {
            last.failure.sequence == event.failure.sequence
        }
        (DeadLetterEvent::Resolved(_), DeadLetterEvent::Resolved(_)) => true,
        _ => false,
    }
}
