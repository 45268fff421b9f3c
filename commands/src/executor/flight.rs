//! One flight: jobs that share aggregates, decided one after the other and appended as one.

use super::{
    ExecuteError, Inner, Job, Receipt,
    entry::Entry,
    lanes::Lanes,
    plan::{Outcome, Plan},
    timers::Timers,
    trace,
};
use crate::{AnyKey, Decision, Stop, decision::Slot};
use events::{Envelope, Position, Subject};
use futures::future::try_join_all;
use nats::{AppendError, Appended, LoadError, Snapshot, Write};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// Conflicts after which a command gives up; with the pauses between them about a second.
const ATTEMPTS: u32 = 12;
/// Longest pause after a conflict.
const LONGEST_PAUSE: Duration = Duration::from_millis(200);
/// Events of one flight. What is decided beyond goes into the next one.
const EVENTS: usize = 256;
/// Events since the last snapshot after which the next one is written: the longest normal load.
const SNAPSHOT_EVERY: usize = 32;

pub(super) struct Flight {
    inner: Arc<Inner>,
    jobs: Vec<Job>,
    held: Vec<Subject>,
    landed: bool,
}

impl Flight {
    /// A flight of jobs whose keys the lanes hold for it.
    pub(super) fn new(inner: Arc<Inner>, jobs: Vec<Job>) -> Self {
        let held = jobs.iter().flat_map(|job| &job.keys).map(|key| key.subject.clone()).collect();
        Self { inner, jobs, held, landed: false }
    }

    /// Decides and appends until it stands, answers every job and lets the next ones start.
    pub(super) async fn run(mut self) {
        if let Err(error) = self.fly().await {
            if matches!(error, ExecuteError::Append(AppendError::Unknown)) {
                self.forget();
            }
            if self.jobs.len() > 1 && may_be_of_one(&error) {
                self.part();
            }
            for job in self.jobs.drain(..) {
                // Whoever asked may have gone away.
                let _ = job.reply.send(Err(error.clone()));
            }
        }
        self.land();
    }

    async fn fly(&mut self) -> Result<(), ExecuteError> {
        let mut conflicts = 0;
        while !self.jobs.is_empty() {
            let mut plan = self.decide();
            if !plan.read.is_empty() {
                // In a box, here and below: it is rare, and would make the future of every command several times as large.
                Box::pin(self.read(std::mem::take(&mut plan.read))).await?;
                continue;
            }
            if plan.decided.is_empty() {
                self.answer(&plan, 0);
                break;
            }
            trace::appending(self.inner.context, &mut self.jobs, &plan);
            let sent = Instant::now();
            match self.inner.store.append(self.writes(&mut plan)).await {
                Ok(Appended { first, duplicate: false }) => {
                    self.record(&plan, first, sent);
                    self.answer(&plan, first);
                }
                Ok(Appended { first, .. }) => self.stands(&plan, first),
                Err(AppendError::Conflict) if conflicts < ATTEMPTS => {
                    conflicts += 1;
                    self.inner.metrics.conflict();
                    tokio::time::sleep(pause(conflicts)).await;
                    let keys = self.jobs.iter().flat_map(|job| job.keys.clone()).collect();
                    Box::pin(self.read(keys)).await?;
                }
                Err(AppendError::Conflict) => return Err(ExecuteError::Contended),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// An earlier attempt stands, of this process or of another one, perhaps decided on another state: it is read when
    /// it is needed.
    fn stands(&mut self, plan: &Plan, first: u64) {
        self.forget();
        if self.jobs.len() > 1 {
            // What one of them recorded says nothing of the others' answers: each finds its own events.
            self.part();
            return;
        }
        let sequence = first + plan.decided.len() as u64 - 1;
        let position = Position { context: self.inner.context, sequence };
        for job in self.jobs.drain(..) {
            let _ = job.reply.send(Ok(Receipt { position, events: 0, replayed: true }));
        }
    }

    /// Lets each job fly for itself.
    fn part(&mut self) {
        let alone = self.jobs.drain(..).map(|job| Job { alone: true, ..job }).collect();
        self.inner.lock().put_back(alone);
    }

    /// Runs every job once against the cached states, each seeing what the ones before it decided.
    fn decide(&mut self) -> Plan {
        let mut decision = Decision::default();
        let mut plan = Plan { time: self.inner.clock.now(), ..Plan::default() };
        let jobs = std::mem::take(&mut self.jobs);
        self.jobs.reserve_exact(jobs.len());
        plan.outcomes.reserve_exact(jobs.len());
        let mut jobs = jobs.into_iter();
        while let Some(mut job) = jobs.next() {
            if decision.decided.len() >= EVENTS {
                self.inner.lock().put_back(std::iter::once(job).chain(jobs).collect());
                break;
            }
            match self.decide_one(&mut job, &mut decision, &mut plan) {
                Some(outcome) => {
                    plan.outcomes.push(outcome);
                    self.jobs.push(job);
                }
                None => self.inner.lock().wait(job),
            }
        }
        self.doubt(&decision, &mut plan.read);
        (plan.slots, plan.decided) = decision.into_parts();
        plan
    }

    /// `None`: the job needs an aggregate that another flight holds, and has to wait. It is decided without the lock:
    /// what the flight holds nobody else changes.
    fn decide_one(&mut self, job: &mut Job, decision: &mut Decision, plan: &mut Plan) -> Option<Outcome> {
        loop {
            if let Some(outcome) = self.take_seats(job, decision, plan) {
                return Some(outcome);
            }
            if let Some(range) = plan.decided_before(&self.jobs, job, decision) {
                return Some(Outcome::Repeated(range));
            }
            let start = decision.decided.len();
            let needs = match decision.attempt(|decision| (job.run)(decision)) {
                Ok(()) => return Some(Outcome::Decided(start..decision.decided.len())),
                Err(Stop::Refused(refusal)) => return Some(Outcome::Refused(refusal)),
                Err(Stop::Needs(keys)) => keys,
            };
            let free = self.hold(&needs);
            job.keys.extend(needs);
            if !free {
                return None;
            }
        }
    }

    /// Puts a job's aggregates into the decision. An outcome where there is nothing to decide: something must be read
    /// first, or the command was carried out before.
    fn take_seats(&self, job: &Job, decision: &mut Decision, plan: &mut Plan) -> Option<Outcome> {
        let mut lanes = self.inner.lock();
        plan.read.extend(job.keys.iter().filter(|key| !seat(key, &mut lanes, decision)).cloned());
        if !plan.read.is_empty() {
            // Everything is decided again once it is read.
            return Some(Outcome::Decided(0..0));
        }
        let done = |key: &AnyKey| lanes.cache.peek(&key.subject)?.outcome_of(job.metadata.command);
        job.keys.iter().filter_map(done).max().map(Outcome::Replayed)
    }

    /// Holds more aggregates; whether all of them were free.
    fn hold(&mut self, keys: &[AnyKey]) -> bool {
        let mut lanes = self.inner.lock();
        let mut free = true;
        for key in keys {
            let held = self.held.contains(&key.subject);
            if !held && lanes.hold(&key.subject) {
                self.held.push(key.subject.clone());
            } else {
                free &= held;
            }
        }
        free
    }

    /// What a decision only read is not guarded by the append. It must have been looked at since the command was
    /// asked, or somebody who was told of a change could see it ignored.
    fn doubt(&self, decision: &Decision, read: &mut Vec<AnyKey>) {
        let Some(newest) = self.jobs.iter().map(|job| job.asked).max() else { return };
        let keys = self.jobs.iter().flat_map(|job| &job.keys);
        let mut only_read = keys.filter(|key| !decision.has_written(&key.subject)).peekable();
        if !read.is_empty() || only_read.peek().is_none() {
            return;
        }
        let lanes = self.inner.lock();
        for key in only_read {
            let trusted = |entry: &Entry| entry.verified.is_some_and(|verified| verified >= newest);
            let fresh = lanes.cache.peek(&key.subject).is_some_and(trusted);
            if !fresh && read.iter().all(|doubted| doubted.subject != key.subject) {
                read.push(key.clone());
            }
        }
    }

    /// Brings these aggregates up to date.
    async fn read(&self, keys: Vec<AnyKey>) -> Result<(), ExecuteError> {
        if !self.inner.store.is_connected() {
            return Err(AppendError::Unavailable("not connected".to_owned()).into());
        }
        try_join_all(keys.iter().map(|key| self.read_one(key))).await?;
        Ok(())
    }

    async fn read_one(&self, key: &AnyKey) -> Result<(), ExecuteError> {
        let asked = Instant::now();
        let cached = self.inner.lock().cache.peek(&key.subject).map(|entry| entry.sequence);
        if let Some(cached) = cached {
            let last = self.inner.store.last(&key.subject).await.map_err(Arc::new)?;
            if last.map_or(0, |message| message.position.sequence) == cached {
                if let Some(entry) = self.inner.lock().cache.get_mut(&key.subject) {
                    entry.verified = Some(asked);
                }
                return Ok(());
            }
        }
        let entry = self.inner.load(key, asked).await?;
        self.inner.lock().cache.put(key.subject.clone(), entry);
        Ok(())
    }

    /// The decided events as messages: the first one of every aggregate carries its guard.
    fn writes(&self, plan: &mut Plan) -> Vec<Write> {
        let mut standing: Vec<Vec<usize>> = vec![Vec::new(); plan.slots.len()];
        let (mut writes, mut timers) = (Vec::with_capacity(plan.decided.len()), Timers::default());
        for (job, outcome) in self.jobs.iter().zip(&plan.outcomes) {
            let Outcome::Decided(range) = outcome else { continue };
            for (index, at) in range.clone().enumerate() {
                let decided = &mut plan.decided[at];
                let (slot, before) = (&plan.slots[decided.slot], &mut standing[decided.slot]);
                let distances: Vec<usize> = before.iter().map(|earlier| at - earlier).collect();
                let expect = before.is_empty().then_some(slot.sequence);
                before.push(at);
                let (fact, version) = (decided.fact, decided.version);
                let envelope = Envelope::new(fact, &slot.subject, version, index, plan.time, &job.metadata);
                timers.note(writes.len(), decided.timer.take(), &envelope);
                let body = std::mem::take(&mut decided.body);
                writes.push(Write::new(&slot.subject, expect, &envelope, slot.tail.header(&distances), body));
            }
        }
        timers.set(writes)
    }

    /// Takes what was appended into the cache.
    fn record(&self, plan: &Plan, first: u64, sent: Instant) {
        let mut freeze = Vec::new();
        let mut lanes = self.inner.lock();
        for (job, outcome) in self.jobs.iter().zip(&plan.outcomes) {
            let Outcome::Decided(range) = outcome else { continue };
            for at in range.clone() {
                let slot = &plan.slots[plan.decided[at].slot];
                // Its seat made it the most recently used one; to say so again would touch its neighbours' memory.
                let Some(entry) = lanes.cache.peek_mut(&slot.subject) else { continue };
                // Of an aggregate with several events the state after all of them, as often.
                entry.state = slot.state.clone();
                entry.version = slot.version;
                entry.sequence = first + at as u64;
                entry.tail.push(entry.sequence);
                entry.remember(job.metadata.command, first + range.end as u64 - 1);
                // Not now: somebody may have changed it since the server looked.
                entry.verified = Some(sent);
                if entry.tail.since.len() >= SNAPSHOT_EVERY && !entry.freezing {
                    entry.freezing = true;
                    freeze.push(slot.subject.clone());
                }
            }
        }
        drop(lanes);
        for subject in freeze {
            tokio::spawn(freeze_state(Arc::clone(&self.inner), subject));
        }
    }

    fn answer(&mut self, plan: &Plan, first: u64) {
        let context = self.inner.context;
        for (job, outcome) in self.jobs.drain(..).zip(&plan.outcomes) {
            let receipt = |sequence, events, replayed| {
                Ok(Receipt { position: Position { context, sequence }, events, replayed })
            };
            let result = match outcome {
                Outcome::Decided(range) if range.is_empty() => {
                    // A position is one of the service's own stream.
                    let own = |slot: &usize| plan.slots[*slot].subject.context() == context;
                    let of_job =
                        |slot: &usize| job.keys.iter().any(|key| key.subject == plan.slots[*slot].subject);
                    let seen = (0..plan.slots.len()).filter(own).filter(of_job);
                    let last = seen.map(|slot| plan.seen(slot, range.start, first)).max();
                    receipt(last.unwrap_or(0), 0, false)
                }
                Outcome::Decided(range) => receipt(first + range.end as u64 - 1, range.len(), false),
                Outcome::Replayed(sequence) => receipt(*sequence, 0, true),
                Outcome::Repeated(range) => receipt(first + range.end as u64 - 1, 0, true),
                Outcome::Refused(refusal) => Err(refusal.clone().into()),
            };
            // Whoever asked may have gone away.
            let _ = job.reply.send(result);
        }
    }

    /// Drops the cached states of everything it holds.
    fn forget(&self) {
        let mut lanes = self.inner.lock();
        for subject in &self.held {
            lanes.cache.pop(subject);
        }
    }

    fn land(&mut self) {
        self.landed = true;
        let next = self.inner.lock().land(&self.held);
        self.inner.depart(next);
    }
}

impl Drop for Flight {
    /// Whoever asked went away in the middle (a closed HTTP connection): nobody knows what the append did.
    fn drop(&mut self) {
        if !self.landed {
            self.forget();
            self.land();
        }
    }
}

/// Whether an error may be the fault of one job in a flight.
fn may_be_of_one(error: &ExecuteError) -> bool {
    match error {
        ExecuteError::Append(AppendError::TooLarge { .. } | AppendError::Refused { .. })
        | ExecuteError::Unreadable { .. } => true,
        ExecuteError::Load(error) => matches!(**error, LoadError::Foreign { .. }),
        _ => false,
    }
}

/// Puts an aggregate into the decision; whether its state is known.
fn seat(key: &AnyKey, lanes: &mut Lanes, decision: &mut Decision) -> bool {
    if decision.has(&key.subject) {
        return true;
    }
    let entry = if key.likely_new {
        lanes.cache.get_or_insert(key.subject.clone(), || Entry::absent(key.codec, None))
    } else {
        let Some(entry) = lanes.cache.get(&key.subject) else { return false };
        entry
    };
    decision.seat(Slot {
        subject: key.subject.clone(),
        state: entry.state.clone(),
        version: entry.version,
        sequence: entry.sequence,
        tail: entry.tail.clone(),
    });
    true
}

/// Exponential, with full jitter, so that two processes do not meet again and again.
fn pause(conflicts: u32) -> Duration {
    let ceiling = Duration::from_millis(1 << conflicts.min(8)).min(LONGEST_PAUSE);
    ceiling.mul_f64(fastrand::f64())
}

/// Writes a snapshot of an aggregate, so that its tail stays short.
async fn freeze_state(inner: Arc<Inner>, subject: Subject) {
    let taken = inner.lock().cache.peek(&subject).and_then(|entry| {
        let state = String::from_utf8((entry.codec.freeze)(&entry.state)?).ok()?;
        Some(Snapshot {
            schema: entry.codec.schema.to_owned(),
            sequence: entry.sequence,
            version: entry.version,
            commands: entry.commands.iter().copied().collect(),
            state: serde_json::value::RawValue::from_string(state).ok()?,
        })
    });
    let Some(snapshot) = taken else { return };
    let kept = inner.store.save_snapshot(&subject, &snapshot).await;
    if let Some(entry) = inner.lock().cache.peek_mut(&subject) {
        entry.freezing = false;
        if kept {
            entry.tail.rebase(snapshot.sequence);
        }
    }
}
