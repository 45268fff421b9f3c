//! Leases from the shared records: asked for when a client's own count is empty, given back when others ask for them.

use super::{
    LimitMetrics,
    reach::{Reach, Try},
    table::{Held, Look, Table, Verdict},
};
use futures::{StreamExt, future::join_all, stream};
use nats::{Ask, BucketError, Lease, Quota, QuotaKey, QuotaTerms, Recalls};
use service::Clock;
use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{Mutex, MutexGuard},
    time::timeout,
};

/// The leases of one gateway.
#[derive(Debug)]
pub(super) struct Leases {
    quota: Quota,
    clock: Clock,
    table: Table,
    reach: Reach,
    /// One request at a time asks for a client; the others wait and take what it brings.
    asking: Stripes,
    /// What is leased or given back for a client changes the record and the table as one. Never held while another
    /// gateway is asked for something: it may be asking this one.
    changing: Stripes,
    generation: AtomicU64,
    metrics: LimitMetrics,
}

/// The records did not answer in time.
type Away = Box<dyn Error + Send + Sync>;

/// How long the records have to answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often other gateways are asked for the same client. They get something each time, so only a storm gets there.
const ROUNDS: usize = 50;

/// How many leases are given back at the same time when a gateway stops.
const RELEASING: usize = 64;

impl Leases {
    pub(super) fn new(quota: Quota, clock: Clock, capacity: usize, metrics: LimitMetrics) -> Self {
        Self {
            generation: AtomicU64::new(quota.generation()),
            quota,
            clock,
            table: Table::new(capacity),
            reach: Reach::new(metrics.clone()),
            asking: Stripes::new(),
            changing: Stripes::new(),
            metrics,
        }
    }

    /// Spends one of what is leased.
    pub(super) fn spend(&self, key: QuotaKey, now: i64) -> Look {
        self.table.spend(key, now)
    }

    /// How things stand with a client that has nothing left.
    pub(super) fn spent(&self, key: QuotaKey, now: i64) -> Option<Look> {
        self.table.spent(key, now)
    }

    /// Asks for a lease. Gives a decision when the records cannot be reached; else look again.
    pub(super) async fn ask(self: &Arc<Self>, key: QuotaKey, terms: QuotaTerms) -> Option<Look> {
        if !self.quota.is_connected() {
            self.reach.away(&"not connected");
            return Some(self.spend_alone(key, terms));
        }
        // A task of its own: what is leased must arrive, even if the client goes away meanwhile.
        let this = Arc::clone(self);
        let brought = tokio::spawn(async move { this.bring(key, terms).await }).await;
        brought.unwrap_or_else(|_| Some(self.spend_alone(key, terms)))
    }

    async fn bring(&self, key: QuotaKey, terms: QuotaTerms) -> Option<Look> {
        let _asking = self.asking.lock(key).await;
        if !self.table.needs_lease(key, self.now()) {
            return None;
        }
        match self.try_to_bring(key, terms).await {
            Ok(true) => {
                self.reach.back();
                None
            }
            Ok(false) => Some(self.spend_alone(key, terms)),
            Err(error) => {
                self.reach.away(&error);
                self.metrics.lease("away");
                Some(self.spend_alone(key, terms))
            }
        }
    }

    /// Says whether it was tried at all.
    async fn try_to_bring(&self, key: QuotaKey, terms: QuotaTerms) -> Result<bool, Away> {
        let generation = self.quota.generation();
        let anew = match self.reach.may_try() {
            Try::No => return Ok(false),
            Try::Again => true,
            Try::Yes => generation != self.generation.load(Ordering::Acquire),
        };
        if anew {
            timeout(PATIENCE, self.quota.restore()).await??;
            self.table.forget_revisions();
            self.generation.store(generation, Ordering::Release);
        }
        let mut gone = Vec::new();
        for round in 0.. {
            let lease = self.lease(key, terms, &gone).await?;
            if lease.granted > 0 || lease.others.is_empty() {
                break;
            }
            let recalls = lease.others.iter().map(|other| self.quota.recall(other, key, lease.ends));
            for (other, answered) in lease.others.iter().zip(join_all(recalls).await) {
                self.metrics.recall(if answered { "answered" } else { "unanswered" });
                if !answered || round >= ROUNDS {
                    gone.push(other.clone());
                }
            }
        }
        Ok(true)
    }

    async fn lease(&self, key: QuotaKey, terms: QuotaTerms, gone: &[String]) -> Result<Lease, Away> {
        let changing = self.changing.lock(key).await;
        let now = self.now();
        let known = self.table.known(key, terms.quota, now);
        let ask = Ask { key, terms, known, gone, now };
        let lease = timeout(PATIENCE, self.quota.lease(&ask)).await??;
        let evicted = self.table.grant(key, &lease, now);
        drop(changing);
        self.metrics.lease(if lease.granted > 0 { "granted" } else { "empty" });
        if let Some(evicted) = evicted {
            self.give_back(evicted).await;
        }
        Ok(lease)
    }

    /// Gives back what is unspent of a client's window. Says whether the record has it again.
    async fn give_back(&self, held: Held) -> bool {
        let _changing = self.changing.lock(held.key).await;
        let unspent = self.table.surrender(held);
        let given = self.quota.give_back(held.key, held.ends, unspent, self.now());
        let given: Result<bool, Away> = match timeout(PATIENCE, given).await {
            Ok(given) => given.map_err(BucketError::into),
            Err(late) => Err(late.into()),
        };
        // What may have been given back is not spent: it would be twice.
        match given {
            Ok(true) => true,
            Ok(false) => {
                self.metrics.lost.inc_by(unspent.into());
                true
            }
            Err(error) => {
                tracing::warn!(error, unspent, "a lease is not given back");
                self.metrics.lost.inc_by(unspent.into());
                false
            }
        }
    }

    /// Answers other gateways that have nothing left for a client.
    pub(super) async fn answer(self: Arc<Self>, mut recalls: Recalls) {
        while let Some(recall) = recalls.next().await {
            let this = Arc::clone(&self);
            tokio::spawn(async move {
                // Who gets no answer does not ask again, and refuses what nobody else can admit.
                if this.give_back(Held { key: recall.key, ends: recall.ends }).await {
                    recall.done().await;
                }
            });
        }
    }

    /// Gives everything back, within `deadline`. Says how many leases were not.
    pub(super) async fn release(&self, deadline: Duration) -> usize {
        let held = self.table.held(self.now());
        let kept = AtomicUsize::new(held.len());
        let all = stream::iter(held).for_each_concurrent(RELEASING, async |held| {
            if self.give_back(held).await {
                kept.fetch_sub(1, Ordering::Relaxed);
            }
        });
        // What is late is counted below.
        let _ = timeout(deadline, all).await;
        kept.into_inner()
    }

    /// Counts alone: what is left, as far as this gateway knows.
    fn spend_alone(&self, key: QuotaKey, terms: QuotaTerms) -> Look {
        let now = self.now();
        let window = i64::try_from(terms.window.as_millis()).unwrap_or(i64::MAX);
        let fresh = Look { verdict: Verdict::Ask, remaining: terms.quota, ends: now.saturating_add(window) };
        self.metrics.alone.inc();
        let (look, lost) = self.table.spend_alone(key, fresh, now);
        self.metrics.lost.inc_by(lost.into());
        look
    }

    fn now(&self) -> i64 {
        self.clock.now().as_millisecond()
    }
}

/// Locks for keys: as many as requests that wait for NATS at the same time, more or less.
#[derive(Debug)]
struct Stripes(Box<[Mutex<()>]>);

impl Stripes {
    fn new() -> Self {
        Self(std::iter::repeat_with(Mutex::default).take(1024).collect())
    }

    async fn lock(&self, key: QuotaKey) -> MutexGuard<'_, ()> {
        let index = usize::try_from(key.number() % 1024).unwrap_or_default();
        self.0[index].lock().await
    }
}
