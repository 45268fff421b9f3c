//! Keys that wait: an event that cannot be read is parked, later events of its aggregate queue behind it, all others flow.
//!
//! The checkpoint goes past them in the same transaction that records them. What waits is what the stream holds of the
//! aggregate between the event that failed and the checkpoint. When an operator asks for it, all of it is applied in one
//! transaction with the end of its record: once, and in order.
//!
//! That is the usual policy. Another lets the stream stand still at such an event, lets everything stand still until an
//! operator has seen to it, or leaves the event out, which is said in the stream of operations.

use super::{
    Interruption, Projector,
    source::{Chunk, Unreadable},
};
use crate::{
    Changes,
    database::{Commit, Parked, Writer},
};
use events::{
    Aggregate, Context, DeadLetterId, Fact, Position, Subject,
    ops::{DeadLetterEvent, Holds, MessageSkipped},
};
use nats::{Asked, Filter, From, Message, Parking, Policy, Reader, ReplayError, Until};
use std::{
    collections::{HashMap, HashSet},
    sync::PoisonError,
};
use tokio::sync::mpsc;

/// Messages read at once when a key is brought back.
const BATCH: usize = 500;
const OPERATORS: [&str; 3] = ["deadletter.retried", "deadletter.discarded", "deadletter.resolved"];

/// What waits, as a session knows it.
#[derive(Default)]
pub(super) struct Waiting {
    /// From which sequence on the events of an aggregate wait.
    keys: HashMap<Subject, Parked>,
    /// Those that operators have not been shown.
    unseen: HashSet<Subject>,
}

impl Waiting {
    /// As the tables have it.
    pub(super) async fn load(&mut self, writer: &mut Writer) -> Result<(), Interruption> {
        self.keys =
            writer.parked().await?.into_iter().map(|parked| (parked.subject.clone(), parked)).collect();
        self.unseen = self.keys.keys().cloned().collect();
        Ok(())
    }

    /// Whether an event waits behind one that could not be read.
    pub(super) fn holds(&self, subject: &Subject, sequence: u64) -> bool {
        !self.keys.is_empty() && self.keys.get(subject).is_some_and(|parked| parked.sequence <= sequence)
    }

    /// An event cannot be read; whether nothing of its aggregate waited before.
    pub(super) fn park(&mut self, unreadable: &Unreadable) -> Option<Parked> {
        let Unreadable { message, error } = unreadable;
        if self.holds(&message.subject, message.position.sequence) {
            return None;
        }
        let (subject, sequence) = (message.subject.clone(), message.position.sequence);
        let parked = Parked { subject: subject.clone(), sequence, error: error.clone(), asked: 0 };
        self.unseen.insert(subject.clone());
        self.keys.insert(subject, parked.clone());
        Some(parked)
    }

    pub(super) fn count(&self) -> usize {
        self.keys.len()
    }
}

/// Tells when operators asked for something; the first time at once, for what was asked before.
pub(super) async fn listen(connection: nats::Connection, asked: mpsc::Sender<()>) {
    loop {
        let filter = Filter { kinds: OPERATORS.map(str::to_owned).to_vec(), ..Filter::default() };
        if let Ok(mut reader) =
            Reader::open(&connection, Context::Ops, From::Now, Until::Forever, filter).await
        {
            let _ = asked.try_send(());
            while reader.next_batch(BATCH).await.is_ok_and(|batch| !batch.is_empty()) {
                // One that waits already says the same.
                let _ = asked.try_send(());
            }
        }
        tokio::time::sleep(super::LAST_RETRY).await;
    }
}

impl Projector {
    /// What operators call this projection among the consumers.
    fn consumer(&self) -> String {
        format!("{}-projection", self.view.name)
    }

    /// Whether an event that cannot be read is passed, to wait or to be left out. Otherwise its stream stands still there. A
    /// generation that does not serve yet goes on, so that it will.
    pub(super) fn passes(&self) -> bool {
        let retries = self.standing.live && self.policy == Policy::Retry;
        self.beside.is_some() || (self.parking.is_some() && !retries)
    }

    /// Whether an event that cannot be read is left out, and what comes later of its aggregate is not.
    pub(super) fn skips(&self) -> bool {
        matches!(self.policy, Policy::Skip(_))
    }

    /// Whether nothing is written before operators have seen to what waits.
    pub(super) fn stands_still(&self, waiting: &Waiting) -> bool {
        self.standing.live && self.policy.holds() == Holds::Consumer && waiting.count() > 0
    }

    /// Says what a batch leaves out, before it does; a generation that does not serve yet, too, for it will not come there
    /// again.
    pub(super) async fn say_skipped(&self, waiting: &Waiting, batch: &[Chunk]) -> Result<(), Interruption> {
        let Some(parking) = self.parking.as_ref().filter(|_| self.skips()) else {
            return Ok(());
        };
        for Unreadable { message, error } in batch.iter().flat_map(|chunk| &chunk.unreadable) {
            let (subject, sequence) = (&message.subject, message.position.sequence);
            if waiting.holds(subject, sequence) {
                continue;
            }
            let said = parking.skip(self.view.name, &self.consumer(), message, error.clone()).await;
            said.map_err(|error| Interruption::Operations(error.into()))?;
            tracing::error!(projection = self.view.name, %subject, sequence, error, "event skipped");
        }
        Ok(())
    }

    /// Takes out what cannot be read and was given up for good: by the generation before, where these tables are built again,
    /// or by the tables that they are compared with. What waits behind another one was not.
    pub(super) async fn pass_over_given_up(
        &self,
        waiting: &Waiting,
        batch: &mut [Chunk],
    ) -> Result<(), Interruption> {
        let mut known: HashMap<Subject, HashSet<u64>> = HashMap::new();
        let unreadable = batch.iter().flat_map(|chunk| &chunk.unreadable);
        for Unreadable { message, .. } in unreadable {
            let subject = &message.subject;
            if !waiting.holds(subject, message.position.sequence) && !known.contains_key(subject) {
                // Seldom, and large.
                known.insert(subject.clone(), Box::pin(self.given_up(subject)).await?);
            }
        }
        let gone = |Unreadable { message, .. }: &Unreadable| {
            known.get(&message.subject).is_some_and(|gone| gone.contains(&message.position.sequence))
        };
        for chunk in batch {
            if let Some(beside) = &self.beside {
                let mut left_out = beside.left_out.lock().unwrap_or_else(PoisonError::into_inner);
                let gone = chunk.unreadable.iter().filter(|unreadable| gone(unreadable));
                left_out.extend(gone.map(|unreadable| unreadable.message.position));
            }
            chunk.unreadable.retain(|unreadable| !gone(unreadable));
        }
        Ok(())
    }

    /// What was given up of an aggregate for this projection: sequences in its stream. That is what operators have discarded.
    /// What was skipped by a policy counts only beside the tables that skipped it, for others may have another policy by now;
    /// and beside tables in which the aggregate waits, nothing from there on is given up yet.
    async fn given_up(&self, subject: &Subject) -> Result<HashSet<u64>, Interruption> {
        let consumer = self.consumer();
        let skips = self.beside.is_some();
        let waits = self.beside.as_ref().and_then(|beside| beside.waiting.get(subject));
        let letter = Aggregate::DeadLetter.subject(DeadLetterId::of(&consumer, subject.as_str()));
        let said = self.messages(&letter, 1, u64::MAX).await;
        let said = said.map_err(|error| Interruption::Operations(error.into()))?;
        let given_up = said.iter().filter_map(|said| match said.record().ok()?.fact {
            Fact::DeadLetter(DeadLetterEvent::Discarded(it)) if it.consumer == consumer => Some(it.sequence),
            Fact::DeadLetter(DeadLetterEvent::Skipped(MessageSkipped { failure: it, .. }))
                if skips && it.consumer == consumer =>
            {
                Some(it.sequence)
            }
            _ => None,
        });
        Ok(given_up.filter(|sequence| waits.is_none_or(|waits| sequence < waits)).collect())
    }

    /// Reads what waits. What operators are shown that does not is taken back: it waited in the generation before, which
    /// could not read it.
    pub(super) async fn tidy(&self, writer: &mut Writer, waiting: &mut Waiting) -> Result<(), Interruption> {
        // Before the tables are read: what is shown was in them first.
        let shown = match &self.parking {
            Some(parking) if self.standing.live => parking.all().await,
            _ => Ok(vec![]),
        };
        waiting.load(writer).await?;
        let shown = shown.map_err(|error| Interruption::Operations(error.into()))?;
        for letter in shown.iter().filter(|letter| letter.failure.consumer == self.consumer()) {
            let Some(subject) = Subject::parse(&letter.failure.subject) else { continue };
            if let (Some(parking), false) = (&self.parking, waiting.keys.contains_key(&subject)) {
                let said = parking.withdraw(self.view.name, &self.consumer(), &subject).await;
                said.map_err(|error| Interruption::Operations(error.into()))?;
            }
        }
        Ok(())
    }

    /// Shows operators what waits; what cannot be shown now is shown later. A generation that does not serve is muted.
    pub(super) async fn announce(&self, waiting: &mut Waiting) {
        let Some(parking) = self.parking.as_ref().filter(|_| self.standing.live) else { return };
        for subject in waiting.unseen.clone() {
            let Some(parked) = waiting.keys.get(&subject) else { continue };
            let (error, sequence) = (parked.error.clone(), parked.sequence);
            let message = self.messages(&subject, sequence, sequence).await;
            let Ok([message]) = message.as_deref() else { continue };
            let said = parking
                .announce(self.view.name, &self.consumer(), (message, error), self.policy.holds(), false)
                .await;
            match said {
                Ok(()) => waiting.unseen.remove(&subject),
                Err(error) => {
                    tracing::warn!(projection = self.view.name, %error, "operators are not shown what waits");
                    return;
                }
            };
        }
    }

    /// Does what operators have asked for since it was looked at the last time.
    pub(super) async fn bring_back(
        &self,
        writer: &mut Writer,
        waiting: &mut Waiting,
    ) -> Result<(), Interruption> {
        let Some(parking) = &self.parking else { return Ok(()) };
        for parked in waiting.keys.values().cloned().collect::<Vec<_>>() {
            let asked = parking.asked(&self.consumer(), &parked.subject).await;
            let asked = asked.map_err(|error| Interruption::Operations(error.into()))?;
            let Some(asked) = asked.filter(|asked| asked.at > parked.asked) else { continue };
            self.bring_back_one(writer, parking, &parked, asked).await?;
        }
        waiting.load(writer).await
    }

    async fn bring_back_one(
        &self,
        writer: &mut Writer,
        parking: &Parking,
        parked: &Parked,
        asked: Asked,
    ) -> Result<(), Interruption> {
        let context = parked.subject.context();
        let at = self.progress.borrow().stream(context).map_or(0, |stream| stream.position.sequence);
        let messages = self.messages(&parked.subject, parked.sequence, at).await?;
        let (mut changes, mut still) = (Changes::default(), None);
        for message in &messages {
            if asked.discard == Some(message.position.sequence) {
                continue;
            }
            match message.record() {
                Ok(recorded) => (self.view.project)(&recorded, &mut changes),
                Err(error) => {
                    let (sequence, error) = (message.position.sequence, error.to_string());
                    still = Some((message, Parked { sequence, error, asked: asked.at, ..parked.clone() }));
                    break;
                }
            }
        }
        let rows = self.told.as_ref().map(|told| told.rows(&changes));
        let after = still.as_ref().map(|(_, parked)| parked);
        let checkpoint = Position { context, sequence: at };
        if writer.bring_back(changes, checkpoint, parked, after).await? == Commit::Lost {
            // Another projector was faster: what it left is looked at again.
            return Err(Interruption::Overtaken);
        }
        self.tell(&[], rows);
        if !self.standing.live {
            return Ok(());
        }
        let (projection, subject, service) = (self.view.name, &parked.subject, self.view.name);
        let said = match still {
            None => {
                tracing::info!(projection, %subject, "what waited is in the tables");
                parking.withdraw(service, &self.consumer(), subject).await
            }
            Some((message, still)) => {
                tracing::error!(projection, %subject, error = still.error, "an event still cannot be read");
                parking
                    .announce(service, &self.consumer(), (message, still.error), self.policy.holds(), true)
                    .await
            }
        };
        said.map_err(|error| Interruption::Operations(error.into()))
    }

    /// The messages of an aggregate in a part of its stream.
    async fn messages(&self, subject: &Subject, from: u64, to: u64) -> Result<Vec<Message>, ReplayError> {
        let filter = Filter { subject: Some(subject.to_string()), ..Filter::default() };
        let context = subject.context();
        let mut reader =
            Reader::open(&self.connection, context, From::Sequence(from), Until::End, filter).await?;
        let mut messages = Vec::new();
        loop {
            let batch = reader.next_batch(BATCH).await?;
            let (read, before) = (batch.len(), messages.len());
            messages.extend(batch.into_iter().take_while(|message| message.position.sequence <= to));
            if read == 0 || messages.len() < before + read {
                return Ok(messages);
            }
        }
    }
}
