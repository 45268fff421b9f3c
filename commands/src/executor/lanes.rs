//! Lanes: who may run now, who waits for whom, and what is cached. Synchronous, under one short lock.
//!
//! A flight holds its aggregates from admission to landing. A job starts when none of its aggregates is held and no
//! earlier job waits for one of them, so jobs on one aggregate keep their order and none starves. When a flight
//! lands, the jobs that waited for it start together, as few flights as possible: jobs that share an aggregate
//! share a flight.

use super::{Job, entry::Entry};
use events::Subject;
use foldhash::fast::RandomState;
use lru::LruCache;
use std::{
    collections::{HashMap, HashSet, VecDeque},
    num::NonZeroUsize,
};

/// Every command looks its aggregates up several times: the hash of the standard library costs several times as much.
type Subjects = HashSet<Subject, RandomState>;

pub(super) struct Lanes {
    pub(super) cache: LruCache<Subject, Entry>,
    held: Subjects,
    waiting: VecDeque<Job>,
    /// How many waiting jobs want an aggregate.
    wanted: HashMap<Subject, usize, RandomState>,
}

pub(super) enum Admission {
    /// It holds its aggregates and flies now.
    Start(Box<Job>),
    /// It waits; the flight that lands last before it takes it along.
    Queued,
}

impl Lanes {
    pub(super) fn new(capacity: NonZeroUsize) -> Self {
        Self {
            cache: LruCache::new(capacity),
            held: Subjects::default(),
            waiting: VecDeque::new(),
            wanted: HashMap::default(),
        }
    }

    pub(super) fn forget(&mut self) {
        self.cache.clear();
    }

    pub(super) fn admit(&mut self, job: Job) -> Admission {
        let taken =
            |key: &crate::AnyKey| self.held.contains(&key.subject) || self.wanted.contains_key(&key.subject);
        if job.keys.iter().any(taken) {
            self.wait(job);
            return Admission::Queued;
        }
        self.held.extend(job.keys.iter().map(|key| key.subject.clone()));
        Admission::Start(Box::new(job))
    }

    /// Holds one more aggregate for a flight; whether it was free.
    pub(super) fn hold(&mut self, subject: &Subject) -> bool {
        !self.wanted.contains_key(subject) && self.held.insert(subject.clone())
    }

    /// Puts a job behind all that wait.
    pub(super) fn wait(&mut self, job: Job) {
        self.want(&job);
        self.waiting.push_back(job);
    }

    /// Puts jobs back before all that wait, in their order: they were admitted before.
    pub(super) fn put_back(&mut self, jobs: Vec<Job>) {
        for job in jobs.into_iter().rev() {
            self.want(&job);
            self.waiting.push_front(job);
        }
    }

    /// Lets go of a flight's aggregates; returns the flights that can start now and already hold theirs.
    pub(super) fn land(&mut self, held: &[Subject]) -> Vec<Vec<Job>> {
        for subject in held {
            self.held.remove(subject);
        }
        if self.waiting.is_empty() {
            return Vec::new();
        }
        let mut blocked = Subjects::default();
        let mut flights: Vec<Vec<Job>> = Vec::new();
        let mut flight_of: HashMap<Subject, usize> = HashMap::new();
        for job in std::mem::take(&mut self.waiting) {
            let stuck =
                |key: &crate::AnyKey| self.held.contains(&key.subject) || blocked.contains(&key.subject);
            if job.keys.iter().any(stuck) {
                blocked.extend(job.keys.iter().map(|key| key.subject.clone()));
                self.waiting.push_back(job);
                continue;
            }
            let shares = job.keys.iter().any(|key| flight_of.contains_key(&key.subject));
            if job.alone && shares {
                blocked.extend(job.keys.iter().map(|key| key.subject.clone()));
                self.waiting.push_back(job);
                continue;
            }
            self.unwant(&job);
            if job.alone {
                blocked.extend(job.keys.iter().map(|key| key.subject.clone()));
            }
            join_flight(&mut flights, &mut flight_of, job);
        }
        flights.retain(|flight| !flight.is_empty());
        self.held.extend(flight_of.into_keys());
        flights
    }

    fn want(&mut self, job: &Job) {
        for key in &job.keys {
            *self.wanted.entry(key.subject.clone()).or_default() += 1;
        }
    }

    fn unwant(&mut self, job: &Job) {
        for key in &job.keys {
            if let Some(count) = self.wanted.get_mut(&key.subject) {
                *count -= 1;
                if *count == 0 {
                    self.wanted.remove(&key.subject);
                }
            }
        }
    }
}

/// Adds a job to the flight that holds one of its aggregates; joins flights where it touches several.
fn join_flight(flights: &mut Vec<Vec<Job>>, flight_of: &mut HashMap<Subject, usize>, job: Job) {
    let mut touched: Vec<usize> =
        job.keys.iter().filter_map(|key| flight_of.get(&key.subject).copied()).collect();
    touched.sort_unstable();
    touched.dedup();
    let target = touched.first().copied().unwrap_or_else(|| {
        flights.push(Vec::new());
        flights.len() - 1
    });
    for other in touched.into_iter().skip(1) {
        let jobs = std::mem::take(&mut flights[other]);
        flights[target].extend(jobs);
        for index in flight_of.values_mut().filter(|index| **index == other) {
            *index = target;
        }
    }
    for key in &job.keys {
        flight_of.insert(key.subject.clone(), target);
    }
    flights[target].push(job);
}
