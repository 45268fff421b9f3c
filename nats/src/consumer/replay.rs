//! Brings parked messages back when an operator asks for it: the one that failed, then what waits behind it, in order.
//!
//! What operators ask for is a fact in the stream of operations, delivered to a durable consumer of its own. So it is not
//! forgotten when a process dies half-way: the fact comes again, to whichever process there is, and the record says how
//! far the last one came. Two that work on the same key at once see it when they note what they have done.

use super::{Consumer, Durable, Handler, Manner, Policy, Retry, worker::Worker};
use crate::{DeadLetter, Recorded, bucket::Kept, parking::Cause};
use events::{
    Context, DeadLetterId, Fact, Subject,
    ops::{DeadLetterDiscarded, DeadLetterEvent, DeadLetterRetried},
};
use std::{sync::Arc, time::Duration};

/// What operators ask of every consumer that parks.
pub const ASKED_BY_OPERATORS: &[&str] = &["deadletter.retried", "deadletter.discarded"];

/// Times that a message which is itself to blame is tried when it is brought back. Whoever asked for it is waiting.
const TRIES: u32 = 2;

/// The worker that brings back what `main` has parked.
pub(super) fn worker(main: &Arc<Worker>) -> Arc<Worker> {
    let consumer = Consumer {
        context: Context::Ops,
        durable: Durable::new(&main.consumer.durable, main.consumer.context).for_operators().name,
        interests: ASKED_BY_OPERATORS,
        only: None,
        lag: Duration::ZERO,
        manner: Manner::React,
        policy: Policy::Retry,
        ..main.consumer.clone()
    };
    let replaying = Arc::clone(main);
    let handler: Handler = Arc::new(move |recorded| {
        let main = Arc::clone(&replaying);
        Box::pin(async move { answer(&main, &recorded).await })
    });
    Arc::new(Worker::new(consumer, handler, main.stop.clone()))
}

/// What an operator asks for.
struct Request {
    id: DeadLetterId,
    /// The message that had failed when he asked.
    sequence: u64,
    /// Whether it is given up.
    discard: bool,
}

async fn answer(main: &Worker, recorded: &Recorded) -> Result<&'static str, Retry> {
    let (request, consumer) = match &recorded.fact {
        Fact::DeadLetter(DeadLetterEvent::Retried(fact)) => {
            let DeadLetterRetried { dead_letter_id: id, consumer, sequence } = fact;
            (Request { id: *id, sequence: *sequence, discard: false }, consumer)
        }
        Fact::DeadLetter(DeadLetterEvent::Discarded(fact)) => {
            let DeadLetterDiscarded { dead_letter_id: id, consumer, sequence, .. } = fact;
            (Request { id: *id, sequence: *sequence, discard: true }, consumer)
        }
        _ => return Ok("ignored"),
    };
    if *consumer != main.consumer.durable {
        return Ok("ignored");
    }
    let cause = Cause {
        correlation: Some(recorded.envelope.correlation.clone()),
        causation: Some(recorded.envelope.id.uuid()),
        ..Cause::of(main.consumer.service, None)
    };
    replay(main, &request, &cause).await
}

/// Handles what waits, one message after the other, until nothing does or one fails.
async fn replay(main: &Worker, request: &Request, cause: &Cause) -> Result<&'static str, Retry> {
    let (parking, durable) = (&main.consumer.parking, main.consumer.durable.as_str());
    let mut through = request.sequence;
    loop {
        if main.stop.is_cancelled() {
            return Err(Retry::world("stopping"));
        }
        let known = main.parked.get(request.id);
        let Some(kept) = parking.get(durable, request.id).await? else {
            if let Some(known) = known {
                main.parked.forget(request.id, known.revision);
            }
            // Perhaps by somebody who died before he could say so.
            parking.say_resolved(request.id, durable, through, cause).await?;
            return Ok("resolved");
        };
        main.parked.note(&kept);
        let letter = &kept.value;
        if letter.failure.sequence != request.sequence {
            // Asked for a message that is no longer the one that holds the others up.
            parking.confirm_parked(letter, cause).await?;
            return Ok("superseded");
        }
        through = letter.through;
        if request.discard && letter.done < request.sequence {
            parking.advance(kept, request.sequence).await?;
            continue;
        }
        if let Some(outcome) = step(main, kept, cause).await? {
            return Ok(outcome);
        }
    }
}

/// Handles the next message that waits; `Some` when one failed.
async fn step(main: &Worker, kept: Kept<DeadLetter>, cause: &Cause) -> Result<Option<&'static str>, Retry> {
    let parking = &main.consumer.parking;
    let letter = &kept.value;
    let behind = main.behind(&letter.failure.subject, letter.done).await.map_err(Retry::world)?;
    let Some((sequence, message)) = behind.filter(|(sequence, _)| *sequence <= letter.through) else {
        if let Some(revision) = parking.release(&kept).await? {
            main.parked.forget(letter.id, revision);
        }
        return Ok(None);
    };
    let message = match message {
        Ok(message) if !main.wants(&message) => {
            parking.advance(kept, sequence).await?;
            return Ok(None);
        }
        message => message,
    };
    if let Ok(message) = &message {
        message.ripe().await;
    }
    let mut tries = 0;
    let error = loop {
        tries += 1;
        let result = match &message {
            Ok(message) => main.try_once(message).await.0,
            Err(error) => Err(Retry::message(error)),
        };
        match result {
            Ok(_) => {
                parking.advance(kept, sequence).await?;
                return Ok(None);
            }
            // Until the world is back; who gives up what failed need not wait for that. What stands behind that one is tried
            // for as long as it takes: nobody else would.
            Err(Retry::World(why))
                if letter.done < letter.failure.sequence && is_given_up(main, letter).await? =>
            {
                tracing::info!(durable = main.consumer.durable, id = %letter.id, why, "given up meanwhile");
                return Ok(Some("superseded"));
            }
            Err(error @ Retry::World(_)) => return Err(error),
            Err(error) if tries == TRIES => break error,
            Err(_) => {}
        }
    };
    main.consumer.metrics.failed(&main.consumer.durable, error.cause());
    let again = letter.failure.sequence == sequence;
    let attempts = tries + if again { letter.failure.attempts } else { 0 };
    let (subject, message) = (letter.failure.subject.clone(), message.ok());
    let failure = main.failure(&subject, sequence, message.as_ref(), error.to_string(), attempts);
    let (durable, id, error) = (&main.consumer.durable, letter.id, failure.error.clone());
    if let Some(kept) = parking.park_again(kept, failure, cause).await? {
        main.parked.note(&kept);
        tracing::error!(durable, %id, subject, sequence, attempts, error, "message parked again");
        return Ok(Some("parked again"));
    }
    Ok(None)
}

/// Whether the last thing that was asked of a message is to give it up.
async fn is_given_up(main: &Worker, letter: &DeadLetter) -> Result<bool, Retry> {
    let Some(subject) = Subject::parse(&letter.failure.subject) else { return Ok(false) };
    let asked = main.consumer.parking.asked(&main.consumer.durable, &subject).await?;
    Ok(asked.is_some_and(|asked| asked.discard == Some(letter.failure.sequence)))
}
