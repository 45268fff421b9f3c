//! Lanes: messages of one aggregate one after the other, of different aggregates side by side.

use events::Subject;
use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Queues by aggregate. A lane exists while a task works in it.
pub(super) struct Lanes<T> {
    lanes: Mutex<HashMap<Subject, Lane<T>>>,
}

struct Lane<T> {
    queue: VecDeque<(u64, T)>,
    /// Sequence of the message being handled.
    current: u64,
}

impl<T> Default for Lanes<T> {
    fn default() -> Self {
        Self { lanes: Mutex::default() }
    }
}

impl<T> Lanes<T> {
    /// Puts a message into its lane; whether the lane is new and needs a task. A message that is in the lane already,
    /// delivered again, is left out.
    pub(super) fn enter(&self, key: &Subject, sequence: u64, message: T) -> bool {
        let mut lanes = self.lock();
        let new = !lanes.contains_key(key);
        let lane = lanes.entry(key.clone()).or_insert_with(|| Lane { queue: VecDeque::new(), current: 0 });
        let known = lane.current == sequence || lane.queue.iter().any(|(queued, _)| *queued == sequence);
        if !known {
            // A redelivered older message goes before the newer ones that wait.
            let behind = lane.queue.partition_point(|(queued, _)| *queued < sequence);
            lane.queue.insert(behind, (sequence, message));
        }
        new
    }

    /// The next message of a lane; without one the lane ends.
    pub(super) fn next(&self, key: &Subject) -> Option<T> {
        let mut lanes = self.lock();
        let lane = lanes.get_mut(key)?;
        if let Some((sequence, message)) = lane.queue.pop_front() {
            lane.current = sequence;
            return Some(message);
        }
        lanes.remove(key);
        None
    }

    /// How many messages wait in a lane, and the sequence of the last one.
    pub(super) fn waiting(&self, key: &Subject) -> (usize, Option<u64>) {
        let lanes = self.lock();
        let queue = lanes.get(key).map(|lane| &lane.queue);
        (queue.map_or(0, VecDeque::len), queue.and_then(|queue| queue.back()).map(|(sequence, _)| *sequence))
    }

    /// Shows every message that waits in a lane.
    pub(super) fn each(&self, key: &Subject, see: impl FnMut(&T)) {
        if let Some(lane) = self.lock().get(key) {
            lane.queue.iter().map(|(_, message)| message).for_each(see);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Subject, Lane<T>>> {
        // Every statement leaves the map valid.
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use events::Aggregate;

    #[test]
    fn a_lane_keeps_order_and_leaves_out_repetitions() {
        let lanes = Lanes::default();
        let key = Aggregate::Order.subject("a");
        assert!(lanes.enter(&key, 5, "five"));
        assert_eq!(lanes.next(&key), Some("five"));
        assert!(!lanes.enter(&key, 5, "five again, while it is handled"));
        assert!(!lanes.enter(&key, 9, "nine"));
        assert!(!lanes.enter(&key, 7, "seven, delivered late"));
        assert!(!lanes.enter(&key, 9, "nine again"));
        assert_eq!(lanes.waiting(&key), (2, Some(9)));
        let mut seen = Vec::new();
        lanes.each(&key, |message| seen.push(*message));
        assert_eq!(seen, ["seven, delivered late", "nine"]);
        assert_eq!(lanes.next(&key), Some("seven, delivered late"));
        assert_eq!(lanes.next(&key), Some("nine"));
        assert_eq!(lanes.next(&key), None);
        assert!(lanes.enter(&key, 9, "after the lane ended it is a lane again"));
    }
}
