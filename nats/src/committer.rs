//! Group commit: one committer per stream.
//!
//! With `sync_interval: always` nats-server syncs the disk once per message. Appends that wait at the same moment can
//! share one sync as one atomic batch, but a batch has a price of its own (a staging directory on R1). So the
//! committer publishes singly while few appends wait and groups what waits when many do; from how many on is learnt from
//! how long both take. Appends of several messages need a batch anyway and take along whatever waits beside them. It
//! never waits for more to come.
//!
//! Invariant: every append has the outcome it would have had alone. A batch that is rejected is taken apart; appends
//! that touch the same aggregate never share a batch, for the second would be checked against the state before the
//! first.

use crate::{
    AppendError, Connection, StoreMetrics,
    publish::{self, Answer, Write},
};
use events::Subject;
use futures::future::join_all;
use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// Messages in one batch. The server takes 1000; beyond a few hundred the rate no longer grows, the latency does.
pub(crate) const MAX_BATCH: usize = 512;

/// When to group.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy {
    /// Single publishes that cost as much as one batch, until that is measured; `usize::MAX`: never group for speed.
    pub(crate) singles: usize,
    /// Batches in flight at the same time.
    pub(crate) batches: usize,
}

/// Shares batches among the appends of one stream. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Committer {
    shared: Arc<Shared>,
}

struct Shared {
    connection: Connection,
    policy: Policy,
    timeout: Duration,
    metrics: StoreMetrics,
    state: Mutex<State>,
}

struct State {
    queue: VecDeque<Waiting>,
    /// Tasks that empty the queue.
    drivers: usize,
    /// Single publishes in flight.
    singles: usize,
    /// The last group was worth a batch, so the next one probably is.
    grouping: bool,
    costs: Costs,
}

/// What the disk makes a single publish and a batch cost, in seconds: moving averages, for a sync takes from 40 µs to
/// several milliseconds, depending on the disk and on who else uses it.
struct Costs {
    single: f64,
    batch: f64,
}

impl Costs {
    /// Weight of a new measurement.
    const WEIGHT: f64 = 1.0 / 16.0;

    fn new(policy: Policy) -> Self {
        let batch = 0.003;
        #[expect(clippy::cast_precision_loss, reason = "a small number, or one as good as infinite")]
        let singles = policy.singles as f64;
        Self { single: batch / singles, batch }
    }

    /// A single publish answered while `in_flight` of them shared the server, which stores one after the other.
    fn single(&mut self, latency: Duration, in_flight: usize) {
        #[expect(clippy::cast_precision_loss, reason = "a small number")]
        let cost = latency.as_secs_f64() / in_flight.max(1) as f64;
        self.single += (cost - self.single) * Self::WEIGHT;
    }

    fn batch(&mut self, latency: Duration) {
        self.batch += (latency.as_secs_f64() - self.batch) * Self::WEIGHT;
    }

    /// How many singles cost as much as one batch.
    fn break_even(&self) -> usize {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
        let singles = (self.batch / self.single).clamp(4.0, 64.0) as usize;
        singles
    }
}

struct Waiting {
    writes: Vec<Write>,
    since: Instant,
    reply: oneshot::Sender<Answer>,
}

impl State {
    fn new(policy: Policy) -> Self {
        let costs = Costs::new(policy);
        Self { queue: VecDeque::new(), drivers: 0, singles: 0, grouping: false, costs }
    }
}

enum Route {
    Direct(Vec<Write>),
    Queued(oneshot::Receiver<Answer>),
}

impl Committer {
    pub(crate) fn new(
        connection: &Connection,
        policy: Policy,
        timeout: Duration,
        metrics: &StoreMetrics,
    ) -> Self {
        let shared = Shared {
            connection: connection.clone(),
            policy,
            timeout,
            metrics: metrics.clone(),
            state: Mutex::new(State::new(policy)),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Appends all of `writes` or none of them.
    pub(crate) async fn append(&self, writes: Vec<Write>) -> Answer {
        match self.route(writes) {
            Route::Direct(writes) => self.shared.alone(writes).await,
            // The driver answers every append it took; only a runtime that shuts down drops one.
            Route::Queued(answer) => answer.await.unwrap_or(Answer::Silence),
        }
    }

    fn route(&self, writes: Vec<Write>) -> Route {
        let single = writes.len() == 1;
        if single && self.shared.never_groups() {
            return Route::Direct(writes);
        }
        let mut state = self.shared.lock();
        let calm = !state.grouping && state.queue.is_empty();
        if single && calm && state.singles < self.shared.break_even(&state) {
            return Route::Direct(writes);
        }
        let (reply, answer) = oneshot::channel();
        state.queue.push_back(Waiting { writes, since: Instant::now(), reply });
        if state.drivers < self.shared.policy.batches {
            state.drivers += 1;
            tokio::spawn(Arc::clone(&self.shared).drive());
        }
        Route::Queued(answer)
    }
}

/// Counts a single publish as in flight, also when its caller goes away.
struct Single<'a>(&'a Shared);

impl Drop for Single<'_> {
    fn drop(&mut self) {
        self.0.lock().singles -= 1;
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Counters and a queue: valid after every statement, so a panic elsewhere cannot have broken them.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Empties the queue, group by group.
    async fn drive(self: Arc<Self>) {
        while let Some(group) = self.next_group() {
            if self.worth_a_batch(&group) {
                self.commit(group).await;
                self.settle().await;
            } else {
                self.each_alone(group).await;
            }
        }
    }

    /// Lets those whom the batch answered ask again, as long as they do, so that they share the next one.
    async fn settle(&self) {
        let mut waiting = 0;
        loop {
            tokio::task::yield_now().await;
            let now = self.lock().queue.len();
            if now <= waiting || now >= MAX_BATCH {
                return;
            }
            waiting = now;
        }
    }

    /// Whether single messages are always published singly.
    fn never_groups(&self) -> bool {
        self.policy.singles == usize::MAX
    }

    /// From how many appends on a batch is cheaper than publishing singly.
    fn break_even(&self, state: &State) -> usize {
        if self.never_groups() { usize::MAX } else { state.costs.break_even() }
    }

    /// Publishes one message, and learns from how long it took.
    async fn single(&self, write: Write) -> Answer {
        if self.never_groups() {
            return publish::single(&self.connection, write, self.timeout).await;
        }
        let before = {
            let mut state = self.lock();
            state.singles += 1;
            state.singles
        };
        let _in_flight = Single(self);
        let start = Instant::now();
        let answer = publish::single(&self.connection, write, self.timeout).await;
        if matches!(answer, Answer::Stored { .. }) {
            let mut state = self.lock();
            let in_flight = usize::midpoint(before, state.singles);
            state.costs.single(start.elapsed(), in_flight);
        }
        answer
    }

    /// What waits, up to a batch full, without two appends of one aggregate. `None`: nothing waits, the driver ends.
    fn next_group(&self) -> Option<Vec<Waiting>> {
        let mut state = self.lock();
        let mut subjects: HashSet<Subject> = HashSet::new();
        let (mut group, mut later, mut count) = (Vec::new(), VecDeque::new(), 0);
        while let Some(waiting) = state.queue.pop_front() {
            // The server hangs, or cannot keep up: nobody waits longer for his turn than for an answer.
            if waiting.since.elapsed() > self.timeout {
                let late = AppendError::Unavailable("too much waits before it".to_owned());
                let _ = waiting.reply.send(Answer::Failed(late));
                continue;
            }
            let full = !group.is_empty() && count + waiting.writes.len() > MAX_BATCH;
            let clash = waiting.writes.iter().any(|write| subjects.contains(write.subject()));
            // A later append of the same aggregate must not overtake one that is put back.
            subjects.extend(waiting.writes.iter().map(|write| write.subject().clone()));
            if full || clash {
                later.push_back(waiting);
                if full {
                    break;
                }
            } else {
                count += waiting.writes.len();
                group.push(waiting);
            }
        }
        while let Some(waiting) = later.pop_back() {
            state.queue.push_front(waiting);
        }
        if group.is_empty() {
            state.drivers -= 1;
            state.grouping = false;
            return None;
        }
        state.grouping = group.len() >= self.break_even(&state);
        Some(group)
    }

    fn worth_a_batch(&self, group: &[Waiting]) -> bool {
        group.len() >= self.break_even(&self.lock()) || group.iter().any(|waiting| waiting.writes.len() > 1)
    }

    async fn each_alone(&self, group: Vec<Waiting>) {
        join_all(group.into_iter().map(|waiting| async move {
            let answer = self.alone(waiting.writes).await;
            // The caller may have gone away; its append stands all the same.
            let _ = waiting.reply.send(answer);
        }))
        .await;
    }

    /// One append for itself: a plain publish, or a batch of its own.
    async fn alone(&self, mut writes: Vec<Write>) -> Answer {
        match writes.pop() {
            Some(only) if writes.is_empty() => self.single(only).await,
            Some(last) => {
                writes.push(last);
                // In a box: nearly all appends are single messages, whose future would be as large.
                Box::pin(publish::batch(&self.connection, writes.iter(), self.timeout)).await
            }
            None => Answer::Stored { last: 0, duplicate: false },
        }
    }

    /// One batch for the whole group; taken apart while it is rejected.
    async fn commit(&self, group: Vec<Waiting>) {
        let mut groups = vec![group];
        while let Some(mut group) = groups.pop() {
            if group.len() < 2 {
                self.each_alone(group).await;
                continue;
            }
            let writes: Vec<&Write> = group.iter().flat_map(|waiting| &waiting.writes).collect();
            let count = writes.len();
            #[expect(clippy::cast_precision_loss, reason = "a batch has a few hundred messages")]
            self.metrics.batch_events.observe(count as f64);
            let start = Instant::now();
            match publish::batch(&self.connection, writes.into_iter(), self.timeout).await {
                Answer::Stored { last, .. } => {
                    self.lock().costs.batch(start.elapsed());
                    answer_stored(group, last, count);
                }
                Answer::Conflict
                | Answer::Repeated
                | Answer::Failed(AppendError::TooLarge { .. } | AppendError::Refused { .. }) => {
                    // Nobody says whose fault it is. Single messages are cheap alone; the others are halved.
                    let (singles, mut others): (Vec<_>, Vec<_>) =
                        group.drain(..).partition(|waiting| waiting.writes.len() == 1);
                    let second = others.split_off(others.len() / 2);
                    groups.extend([second, others].into_iter().filter(|half| !half.is_empty()));
                    self.each_alone(singles).await;
                }
                other => {
                    for waiting in group {
                        let _ = waiting.reply.send(other.clone());
                    }
                }
            }
        }
    }
}

/// A batch's sequences are contiguous and end with `last`.
fn answer_stored(group: Vec<Waiting>, last: u64, count: usize) {
    let mut stored = last.saturating_sub(count as u64);
    for waiting in group {
        stored += waiting.writes.len() as u64;
        let _ = waiting.reply.send(Answer::Stored { last: stored, duplicate: false });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_break_even_follows_the_disk() {
        let mut costs = Costs::new(Policy { singles: 48, batches: 1 });
        assert_eq!(costs.break_even(), 48);
        for _ in 0..100 {
            // A sync takes 3 ms: ten singles wait for each other, a batch syncs six times.
            costs.single(Duration::from_millis(30), 10);
            costs.batch(Duration::from_millis(18));
        }
        assert_eq!(costs.break_even(), 6);
        for _ in 0..100 {
            costs.single(Duration::from_millis(4), 64);
            costs.batch(Duration::from_millis(3));
        }
        assert!((44..=48).contains(&costs.break_even()), "{}", costs.break_even());
    }
}
