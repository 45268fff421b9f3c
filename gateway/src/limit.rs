//! So many requests per window and client, counted exactly across all gateways.
//!
//! A window is fixed: it begins with the first request of a client and ends its time later. The count is kept in
//! records that all gateways share ([`nats::Quota`]). A gateway takes leases from it and admits from its lease by a
//! look into its table; when nothing is left it calls back what other gateways have not spent, and only then refuses.
//! So together they admit the quota, never more, and never less while those that hold a lease answer.
//!
//! While the records cannot be reached a gateway counts alone: it lets every client have what is left as it knows, and
//! tells the record later.

mod decision;
mod lease;
mod metrics;
mod policy;
mod reach;
mod table;

pub(crate) use decision::Decision;
pub use metrics::LimitMetrics;
pub use policy::{LimitKey, LimitPolicy};

use lease::Leases;
use nats::{Connection, TopologyError};
use service::Clock;
use std::{sync::Arc, time::Duration};
use table::{Look, Verdict};
use tokio::task::AbortHandle;

/// How the limiter is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitSettings {
    /// Clients that are remembered; each takes 32 bytes.
    pub capacity: usize,
    /// Copies of the shared records: 1 on one machine, 3 on a cluster.
    pub replicas: usize,
}

impl Default for LimitSettings {
    /// Half a million clients in a window of 15 minutes are six hundred new ones in a second. All of them together take 17
    /// MiB, so that a gateway stays under 64 whoever comes.
    fn default() -> Self {
        Self { capacity: 1 << 19, replicas: 1 }
    }
}

/// Decides whether requests may pass. Cheap to clone; ends with its last clone.
#[derive(Clone, Debug)]
pub struct Limiter {
    clock: Clock,
    leases: Arc<Leases>,
    _answering: Arc<Answering>,
}

/// The task that answers recalls.
#[derive(Debug)]
struct Answering(AbortHandle);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Limiter {
    /// Joins the gateways that count together.
    pub async fn start(
        connection: &Connection,
        clock: Clock,
        settings: LimitSettings,
        metrics: LimitMetrics,
    ) -> Result<Self, TopologyError> {
        let (quota, recalls) = nats::Quota::join(connection, settings.replicas).await?;
        let leases = Arc::new(Leases::new(quota, clock.clone(), settings.capacity, metrics));
        let answering = tokio::spawn(Arc::clone(&leases).answer(recalls)).abort_handle();
        Ok(Self { clock, leases, _answering: Arc::new(Answering(answering)) })
    }

    /// Whether a request of this client may pass. Counts it if so.
    ///
    /// Almost always a look into a table; else a round trip to the records, which goes on when the caller does not
    /// wait for it.
    pub async fn check(&self, policy: &LimitPolicy, client: &LimitKey) -> Decision {
        let key = policy.key(client);
        loop {
            let now = self.now();
            let look = self.leases.spend(key, now);
            if look.verdict != Verdict::Ask {
                return decide(policy, look, now);
            }
            if let Some(alone) = self.leases.ask(key, policy.terms()).await {
                return decide(policy, alone, self.now());
            }
        }
    }

    /// How a request of this client would be refused, as far as this gateway knows by itself. Counts nothing.
    pub(crate) fn exhausted(&self, policy: &LimitPolicy, client: &LimitKey) -> Option<Decision> {
        let now = self.now();
        Some(decide(policy, self.leases.spent(policy.key(client), now)?, now))
    }

    /// Gives back what is unspent, for other gateways: the last act of a gateway that stops. Says how many leases are
    /// lost because the deadline came first.
    pub async fn release(&self, deadline: Duration) -> usize {
        self.leases.release(deadline).await
    }

    fn now(&self) -> i64 {
        self.clock.now().as_millisecond()
    }
}

fn decide(policy: &LimitPolicy, look: Look, now: i64) -> Decision {
    let reset = u64::try_from(look.ends.saturating_sub(now)).unwrap_or(0);
    Decision {
        allowed: look.verdict == Verdict::Admitted,
        remaining: look.remaining.min(policy.quota()),
        // Never more than the window, even when the clock that began it is ahead of this one.
        reset: Duration::from_millis(reset).min(policy.window()),
        policy: policy.clone(),
    }
}
