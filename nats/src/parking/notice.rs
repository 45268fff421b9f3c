//! For those who park in a place of their own, such as read models: what operators see of it, and what they ask for.

use super::{Failed, Parking, ParkingError, audit::Cause};
use crate::Message;
use events::{
    Aggregate, DeadLetterId, Fact, Subject,
    ops::{DeadLetterEvent, Failure, Holds},
};

/// What an operator asked for last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Where that is recorded: sequence in the stream of operations.
    pub at: u64,
    /// Sequence of the message to give up, where that was asked for.
    pub discard: Option<u64>,
}

impl Parking {
    /// Shows operators that a message waits, and what it holds up; `again` where it failed after they had asked for it. Done
    /// again it has no other effect.
    pub async fn announce(
        &self,
        service: &str,
        consumer: &str,
        (message, error): (&Message, String),
        holds: Holds,
        again: bool,
    ) -> Result<(), ParkingError> {
        let cause = Cause::of(service, Some(message));
        let kept = self.park(failure(consumer, message, error), holds, &cause).await?;
        if again { self.say_parked(&kept.value, &cause).await } else { Ok(()) }
    }

    /// Says that a message is passed over. Said again it has no other effect.
    pub async fn skip(
        &self,
        service: &str,
        consumer: &str,
        message: &Message,
        error: String,
    ) -> Result<(), ParkingError> {
        self.say_skipped(failure(consumer, message, error), &Cause::of(service, Some(message))).await
    }

    /// Shows operators that nothing of a subject waits any more.
    pub async fn withdraw(
        &self,
        service: &str,
        consumer: &str,
        subject: &Subject,
    ) -> Result<(), ParkingError> {
        let id = DeadLetterId::of(consumer, subject.as_str());
        while let Some(kept) = self.get(consumer, id).await? {
            if self.release(&kept).await?.is_some() {
                let through = kept.value.through;
                return self.say_resolved(id, consumer, through, &Cause::of(service, None)).await;
            }
        }
        Ok(())
    }

    /// What was asked for last of what waits of a subject. That it was resolved counts too: by another instance, which
    /// heard first of what was asked.
    pub async fn asked(&self, consumer: &str, subject: &Subject) -> Result<Option<Asked>, ParkingError> {
        let id = DeadLetterId::of(consumer, subject.as_str());
        let last = self.store.last(&Aggregate::DeadLetter.subject(id)).await?;
        let asked = last.and_then(|last| {
            let at = last.position.sequence;
            match last.fact() {
                Ok(Fact::DeadLetter(DeadLetterEvent::Discarded(fact))) => {
                    Some(Asked { at, discard: Some(fact.sequence) })
                }
                Ok(Fact::DeadLetter(DeadLetterEvent::Retried(_) | DeadLetterEvent::Resolved(_))) => {
                    Some(Asked { at, discard: None })
                }
                _ => None,
            }
        });
        Ok(asked)
    }
}

fn failure(consumer: &str, message: &Message, error: String) -> Failure {
    let (subject, sequence) = (message.subject.as_str(), message.position.sequence);
    let stream = message.position.context.stream();
    let kind = Some(message.kind()).filter(|kind| !kind.is_empty());
    Failed { consumer, stream, sequence, subject, kind, error, attempts: 1 }.into()
}
