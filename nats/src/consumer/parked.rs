//! What one consumer knows of its parked keys: a copy of its records, kept up to date by watching them.
//!
//! The copy may be old. That costs nothing where a message is acknowledged because of it, for what a record once covered
//! is handled in its turn; whatever else changes a record compares and sets.

use super::{ConsumerMetrics, FIRST_RETRY, LAST_RETRY};
use crate::{BucketError, DeadLetter, Parking, bucket::Kept};
use events::{DeadLetterId, ops::Holds};
use futures::StreamExt;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The parked keys of one consumer.
pub(super) struct Parked {
    parking: Parking,
    durable: Arc<str>,
    metrics: ConsumerMetrics,
    known: Mutex<Known>,
    /// Whether the consumer has to stand still.
    paused: watch::Sender<bool>,
}

#[derive(Default)]
struct Known {
    /// With the revision at which each is known. What is gone is remembered, so that old news are recognised.
    letters: HashMap<DeadLetterId, (u64, Option<DeadLetter>)>,
    parked: usize,
    /// How many of them hold up the whole consumer.
    pausing: usize,
}

impl Known {
    /// Whether it is news. At one revision a record is gone after it was there.
    fn learn(&mut self, id: DeadLetterId, revision: u64, value: Option<DeadLetter>) -> bool {
        let old = |(newest, known): &(u64, Option<DeadLetter>)| {
            *newest > revision || (*newest == revision && known.is_none())
        };
        if self.letters.get(&id).is_some_and(old) {
            return false;
        }
        let pauses = |letter: &DeadLetter| usize::from(letter.holds == Holds::Consumer);
        if let Some(letter) = &value {
            self.parked += 1;
            self.pausing += pauses(letter);
        }
        if let Some((_, Some(before))) = self.letters.insert(id, (revision, value)) {
            self.parked -= 1;
            self.pausing -= pauses(&before);
        }
        true
    }
}

impl Parked {
    pub(super) fn new(parking: Parking, durable: &str, metrics: ConsumerMetrics) -> Self {
        let (known, paused) = (Mutex::default(), watch::Sender::new(false));
        Self { parking, durable: durable.into(), metrics, known, paused }
    }

    /// Reads every record. What is handled before this is done could overtake what waits.
    pub(super) async fn load(&self) -> Result<(), BucketError> {
        let found = self.parking.of(&format!("{}.", self.durable)).await?;
        for kept in &found {
            self.note(kept);
        }
        self.metrics.parked(&self.durable, self.lock().parked);
        Ok(())
    }

    /// Keeps the copy up to date until `stop`.
    pub(super) async fn follow(&self, stop: &CancellationToken) {
        let mut pause = FIRST_RETRY;
        while !stop.is_cancelled() {
            match stop.run_until_cancelled(self.watch()).await {
                None => return,
                Some(Ok(())) => pause = FIRST_RETRY,
                Some(Err(error)) => {
                    let durable = &*self.durable;
                    tracing::warn!(durable, %error, "parked keys are not followed, trying again");
                }
            }
            let _ = stop.run_until_cancelled(tokio::time::sleep(super::jittered(pause))).await;
            pause = (pause * 2).min(LAST_RETRY);
        }
    }

    async fn watch(&self) -> Result<(), BucketError> {
        let changes = self.parking.bucket.follow::<DeadLetter>(&format!("{}.*", self.durable)).await?;
        let mut changes = std::pin::pin!(changes);
        while let Some(change) = changes.next().await {
            let (key, value, revision) = change?;
            let id = key.rsplit_once('.').and_then(|(_, id)| id.parse().ok());
            if let Some(id) = id {
                self.learn(id, revision, value);
            }
        }
        Ok(())
    }

    /// What waits of a subject, as far as it is known.
    pub(super) fn get(&self, id: DeadLetterId) -> Option<Kept<DeadLetter>> {
        let known = self.lock();
        let (revision, value) = known.letters.get(&id)?;
        Some(Kept { value: value.clone()?, revision: *revision })
    }

    /// A record as it is now.
    pub(super) fn note(&self, kept: &Kept<DeadLetter>) {
        self.learn(kept.value.id, kept.revision, Some(kept.value.clone()));
    }

    /// A record is gone since this revision, or some later one. What was recorded behind it stays known: a key that is
    /// parked once more while the news of its release are on their way is parked.
    pub(super) fn forget(&self, id: DeadLetterId, revision: u64) {
        self.learn(id, revision, None);
    }

    fn learn(&self, id: DeadLetterId, revision: u64, value: Option<DeadLetter>) {
        let mut known = self.lock();
        if !known.learn(id, revision, value) {
            return;
        }
        let (count, paused) = (known.parked, known.pausing > 0);
        drop(known);
        self.metrics.parked(&self.durable, count);
        self.paused.send_if_modified(|before| std::mem::replace(before, paused) != paused);
    }

    /// Waits until the consumer need not stand still.
    pub(super) async fn flowing(&self) {
        let mut paused = self.paused.subscribe();
        // It ends with this.
        let _ = paused.wait_for(|paused| !paused).await;
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // Every statement leaves the map valid.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parking::letter;

    fn waits(known: &Known, id: DeadLetterId) -> bool {
        known.letters.get(&id).is_some_and(|(_, value)| value.is_some())
    }

    #[test]
    fn a_key_that_is_parked_once_more_is_parked_whatever_comes_late_of_its_release() {
        let (mut known, letter) = (Known::default(), letter(5, 4, 5));
        let id = letter.id;
        // Parked at 10, released at 11, parked again at 12: the news and what this process did itself in any order.
        let parked = (10, Some(letter.clone()));
        let released = [(11, None), (11, None), (10, None)];
        let again = (12, Some(letter));
        known.learn(id, parked.0, parked.1.clone());
        for at in 0..=released.len() {
            for (revision, value) in &released[..at] {
                known.learn(id, *revision, value.clone());
            }
            known.learn(id, again.0, again.1.clone());
            for (revision, value) in [&released[at..], std::slice::from_ref(&parked)].concat() {
                known.learn(id, revision, value);
            }
            assert!(waits(&known, id), "what of its release comes late lets it flow: {at}");
            assert_eq!((known.parked, known.letters.len()), (1, 1));
        }
    }

    #[test]
    fn what_is_gone_is_not_there_again_because_of_old_news() {
        let (mut known, letter) = (Known::default(), letter(5, 4, 5));
        let id = letter.id;
        assert!(known.learn(id, 10, Some(letter.clone())));
        assert!(known.learn(id, 10, None), "it was seen to be gone, at some revision behind");
        assert!(!known.learn(id, 10, Some(letter)));
        assert!(!waits(&known, id));
        assert_eq!(known.parked, 0);
    }
}
