//! What one consumer could not handle of one aggregate. Consumers record that it waits and that it is resolved; operators
//! ask here for what is to become of it.

use crate::{Aggregate, Refusal};
use events::{
    DeadLetterId,
    ops::{
        DeadLetterDiscarded, DeadLetterEvent, DeadLetterResolved, DeadLetterRetried, Failure, MessageParked,
    },
};
use serde::{Deserialize, Serialize};

/// Characters of a reason.
const MAX_REASON: usize = 500;

/// The aggregate.
#[derive(Debug)]
pub struct DeadLetter;

/// What was asked of the consumer and is not done yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Asked {
    /// Try it again.
    Retry,
    /// Give it up.
    Discard,
}

/// A message that waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Open {
    /// What operators call it.
    pub id: DeadLetterId,
    /// Who could not handle it.
    pub consumer: String,
    /// Its sequence in its stream.
    pub sequence: u64,
    /// What was asked.
    pub asked: Option<Asked>,
}

/// What can be asked of a dead letter.
#[derive(Clone, Debug)]
pub enum DeadLetterCommand {
    /// Try it again, then what waits behind it.
    Retry,
    /// Give it up, and go on with what waits behind it.
    Discard {
        /// Why.
        reason: String,
    },
}

/// Why a dead letter can refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeadLetterRejection {
    /// Nothing waits under this name.
    #[error("nothing waits under this name: it was resolved, or never was")]
    Unknown,
    /// No reason, or too long a one.
    #[error("a reason has 1 to {MAX_REASON} characters")]
    Reason,
}

impl From<DeadLetterRejection> for Refusal {
    fn from(rejection: DeadLetterRejection) -> Self {
        let detail = rejection.to_string();
        match rejection {
            DeadLetterRejection::Unknown => Self::not_found("dead-letter-not-found", detail),
            DeadLetterRejection::Reason => Self::invalid("reason-invalid", "reason", detail),
        }
    }
}

impl Aggregate for DeadLetter {
    const KIND: events::Aggregate = events::Aggregate::DeadLetter;
    const SCHEMA: &'static str = "deadletter/1";
    type State = Option<Open>;
    type Command = DeadLetterCommand;
    type Event = DeadLetterEvent;
    type Rejection = DeadLetterRejection;

    fn decide(
        state: &Self::State,
        command: DeadLetterCommand,
    ) -> Result<Vec<DeadLetterEvent>, DeadLetterRejection> {
        if let DeadLetterCommand::Discard { reason } = &command
            && (reason.trim().is_empty() || reason.chars().count() > MAX_REASON)
        {
            return Err(DeadLetterRejection::Reason);
        }
        let Some(Open { id, consumer, sequence, asked }) = state.clone() else {
            return Err(DeadLetterRejection::Unknown);
        };
        Ok(match (asked, command) {
            (None, DeadLetterCommand::Retry) => {
                vec![DeadLetterRetried { dead_letter_id: id, consumer, sequence }.into()]
            }
            (None | Some(Asked::Retry), DeadLetterCommand::Discard { reason }) => {
                vec![DeadLetterDiscarded { dead_letter_id: id, consumer, sequence, reason }.into()]
            }
            // The consumer has heard it, or will.
            (Some(_), _) => vec![],
        })
    }

    fn evolve(state: Self::State, event: &DeadLetterEvent) -> Self::State {
        let asked = |asked| state.clone().map(|open| Open { asked: Some(asked), ..open });
        match event {
            DeadLetterEvent::Parked(MessageParked { dead_letter_id: id, failure, .. }) => {
                let Failure { consumer, sequence, .. } = failure.clone();
                Some(Open { id: *id, consumer, sequence, asked: None })
            }
            DeadLetterEvent::Retried(_) => asked(Asked::Retry),
            DeadLetterEvent::Discarded(_) => asked(Asked::Discard),
            DeadLetterEvent::Resolved(DeadLetterResolved { .. }) => None,
            DeadLetterEvent::Skipped(_) => state,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::testing::given;
    use events::ops::{Holds, MessageSkipped};

    const CONSUMER: &str = "shipping-payments";

    fn id() -> DeadLetterId {
        DeadLetterId::of(CONSUMER, "evt.payments.payment.1")
    }

    fn failure(sequence: u64) -> Failure {
        Failure {
            consumer: CONSUMER.to_owned(),
            stream: "PAYMENTS".to_owned(),
            sequence,
            subject: "evt.payments.payment.1".to_owned(),
            event_type: None,
            error: "no".to_owned(),
            fingerprint: "f".to_owned(),
            attempts: 3,
            handler_version: "1".to_owned(),
        }
    }

    fn parked(sequence: u64) -> DeadLetterEvent {
        let holds = Holds::Aggregate;
        MessageParked { dead_letter_id: id(), failure: failure(sequence), holds }.into()
    }

    fn retried(sequence: u64) -> DeadLetterEvent {
        DeadLetterRetried { dead_letter_id: id(), consumer: CONSUMER.to_owned(), sequence }.into()
    }

    fn discarded(sequence: u64, reason: &str) -> DeadLetterEvent {
        let (consumer, reason) = (CONSUMER.to_owned(), reason.to_owned());
        DeadLetterDiscarded { dead_letter_id: id(), consumer, sequence, reason }.into()
    }

    fn resolved() -> DeadLetterEvent {
        DeadLetterResolved { dead_letter_id: id(), consumer: CONSUMER.to_owned(), through: 9 }.into()
    }

    fn discard(reason: &str) -> DeadLetterCommand {
        DeadLetterCommand::Discard { reason: reason.to_owned() }
    }

    #[test]
    fn what_waits_is_asked_for_once_until_it_fails_again() {
        let retry = || DeadLetterCommand::Retry;
        given::<DeadLetter>([parked(4)]).when(retry()).then([retried(4)]);
        given::<DeadLetter>([parked(4), retried(4)]).when(retry()).then_nothing();
        given::<DeadLetter>([parked(4), retried(4), parked(7)]).when(retry()).then([retried(7)]);
        given::<DeadLetter>([parked(4), retried(4)]).when(discard("no")).then([discarded(4, "no")]);
        given::<DeadLetter>([parked(4), discarded(4, "no")]).when(retry()).then_nothing();
        given::<DeadLetter>([parked(4), discarded(4, "no")]).when(discard("no")).then_nothing();
    }

    #[test]
    fn what_does_not_wait_cannot_be_asked_for() {
        let skipped = MessageSkipped { dead_letter_id: id(), failure: failure(4) };
        for history in [vec![], vec![parked(4), retried(4), resolved()], vec![skipped.into()]] {
            let refused = given::<DeadLetter>(history)
                .when(DeadLetterCommand::Retry)
                .then_refused("dead-letter-not-found");
            assert_eq!(refused.status, 404);
        }
        for reason in [" ", &"x".repeat(501)] {
            let refused =
                given::<DeadLetter>([parked(4)]).when(discard(reason)).then_refused("reason-invalid");
            assert_eq!(refused.field.as_deref(), Some("reason"));
        }
    }
}
