//! Which instance of a service is asked.
//!
//! The registry says which instances there are. Of those that are healthy and not ejected, [`Upstreams::pick`] looks at
//! two by chance and takes the one with fewer requests in flight. A circuit breaker per service is asked last.
//!
//! - `check`: every instance is asked for its health now and then
//! - `member`: what is known of an instance, and when it is ejected for a while
//! - `ops`: what operators see of it

mod check;
mod member;
mod ops;

use arc_swap::ArcSwap;
use axum::{Router, http::uri::Authority};
pub use check::CheckPolicy;
pub use member::EjectionPolicy;
use member::{InFlight, Member, Verdict};
use nats::{Instance, InstanceId, Registry};
use service::{
    Clock, Metrics,
    breaker::{self, Breaker, Breakers, Permit},
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

/// How instances are chosen, checked and left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UpstreamPolicy {
    /// When a service is not called at all.
    pub breaker: breaker::Policy,
    /// How the health of instances is asked for.
    pub check: CheckPolicy,
    /// When an instance is left out because of its answers.
    pub ejection: EjectionPolicy,
}

/// The instances of all services. Cheap to clone; clones share them.
#[derive(Clone, Debug)]
pub struct Upstreams(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    policy: UpstreamPolicy,
    clock: Clock,
    breakers: Breakers,
    counters: ops::Counters,
    services: ArcSwap<BTreeMap<String, Arc<Service>>>,
    _stop: DropGuard,
}

/// A service with its instances at one moment.
#[derive(Debug)]
struct Service {
    breaker: Breaker,
    members: Vec<Arc<Member>>,
}

/// Why nobody can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoUpstream {
    /// There is no healthy instance, or all were tried.
    #[error("no instance is available")]
    NoInstance,
    /// The service has failed too often.
    #[error("the circuit breaker is open")]
    Open {
        /// When it may be asked again.
        retry_after: Duration,
    },
}

/// How a call failed without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No connection: nothing was sent.
    Connect,
    /// No answer in time.
    Timeout,
    /// The connection broke before the answer.
    Reset,
}

/// An instance to be called once. Dropped without a word, the call counts as cancelled: as if it had not been made.
#[derive(Debug)]
#[must_use = "say how the call ended"]
pub struct Pick {
    /// Who it is.
    pub instance: Arc<Instance>,
    /// Where it is.
    pub authority: Authority,
    service: Arc<Service>,
    member: InFlight,
    permit: Permit,
    ejection: EjectionPolicy,
    counters: ops::Counters,
}

impl Upstreams {
    /// Follows the registry and checks what it names, until the last clone is gone.
    pub fn start(registry: Registry, policy: UpstreamPolicy, clock: Clock, metrics: &Metrics) -> Self {
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared {
            policy,
            clock,
            breakers: Breakers::new(policy.breaker, metrics),
            counters: ops::Counters::register(metrics),
            services: ArcSwap::default(),
            _stop: stop.clone().drop_guard(),
        });
        shared.take_over(&registry.all());
        ops::show_instances(metrics, &shared);
        tokio::spawn(stop.run_until_cancelled_owned(follow(registry, Arc::downgrade(&shared))));
        Self(shared)
    }

    /// Chooses an instance of a service, none of those that were `tried`.
    pub fn pick(&self, service: &str, tried: &[InstanceId]) -> Result<Pick, NoUpstream> {
        let services = self.0.services.load();
        let service = services.get(service).ok_or(NoUpstream::NoInstance)?;
        let member = service.choose(tried).ok_or(NoUpstream::NoInstance)?;
        let open = |open: breaker::Open| NoUpstream::Open { retry_after: open.retry_after };
        let permit = service.breaker.acquire().map_err(open)?;
        Ok(Pick {
            instance: Arc::clone(&member.instance),
            authority: member.authority.clone(),
            service: Arc::clone(service),
            member: InFlight::enter(member),
            permit,
            ejection: self.0.policy.ejection,
            counters: self.0.counters.clone(),
        })
    }

    /// `GET /ops/instances` and `GET /ops/breakers`, for operators.
    pub fn routes(&self) -> Router {
        ops::routes(&self.0).merge(self.0.breakers.routes())
    }
}

/// Takes over what the registry says whenever it changes.
async fn follow(mut registry: Registry, shared: Weak<Shared>) {
    while registry.changed().await {
        let Some(shared) = shared.upgrade() else { return };
        shared.take_over(&registry.all());
    }
}

impl Shared {
    /// Keeps what is known of instances that stay, forgets those that have gone, and begins to check new ones.
    fn take_over(&self, instances: &[Instance]) {
        let known = self.services.load();
        let mut services: BTreeMap<String, Vec<Arc<Member>>> = BTreeMap::new();
        for instance in instances {
            let mut before = known.get(&instance.service).into_iter().flat_map(|service| &service.members);
            let member = match before.find(|member| *member.instance == *instance) {
                Some(member) => Arc::clone(member),
                None => match Member::new(instance) {
                    Ok(member) => {
                        let member = Arc::new(member);
                        let (policy, clock) = (self.policy.check, self.clock.clone());
                        tokio::spawn(check::keep_checking(
                            Arc::downgrade(&member),
                            policy,
                            clock,
                            self.counters.clone(),
                        ));
                        member
                    }
                    Err(why) => {
                        let (service, url) = (&*instance.service, &*instance.url);
                        tracing::warn!(service, url, why, "an instance is ignored");
                        continue;
                    }
                },
            };
            services.entry(instance.service.clone()).or_default().push(member);
        }
        let named = services.into_iter().map(|(name, members)| {
            let breaker = self.breakers.of(&name);
            (name, Arc::new(Service { breaker, members }))
        });
        self.services.store(Arc::new(named.collect()));
    }
}

impl Service {
    /// The less busy of two that are healthy and not ejected. Where all are ejected, ejections do not count: it is better
    /// to try than to give up.
    fn choose(&self, tried: &[InstanceId]) -> Option<&Arc<Member>> {
        let now = Instant::now();
        let untried = self.members.iter().filter(|member| !tried.contains(&member.instance.id));
        let (mut fit, mut ejected) = (Vec::new(), Vec::new());
        for member in untried {
            match member.verdict(now) {
                Verdict::Fit => fit.push(member),
                Verdict::Ejected => ejected.push(member),
                Verdict::Unhealthy => {}
            }
        }
        let candidates = if fit.is_empty() { ejected } else { fit };
        let (first, others) = match candidates.len() {
            0 => return None,
            1 => return candidates.first().copied(),
            count => (fastrand::usize(..count), count - 1),
        };
        let second = (first + 1 + fastrand::usize(..others)) % candidates.len();
        let (first, second) = (candidates[first], candidates[second]);
        Some(if second.in_flight() < first.in_flight() { second } else { first })
    }

    /// Whether one more may be ejected because of its answers.
    fn may_eject(&self, percent: usize, now: Instant) -> bool {
        let ejected = self.members.iter().filter(|member| member.is_ejected(now)).count();
        (ejected + 1) * 100 <= self.members.len() * percent
    }
}

impl Pick {
    /// It answered with this status. 5xx are failures, 4xx are not.
    pub fn succeeded(self, status: u16) {
        if status < 500 {
            self.member.member().answered();
            self.permit.succeeded();
        } else {
            self.fail();
        }
    }

    /// It did not answer.
    pub fn failed(self, failure: Failure) {
        // Nobody is there: it was killed, and the registry does not know yet.
        if failure == Failure::Connect {
            self.member.member().refused(self.ejection, Instant::now());
        }
        self.fail();
    }

    fn fail(self) {
        let now = Instant::now();
        let may_eject = || self.service.may_eject(self.ejection.percent, now);
        if self.member.member().failed(self.ejection, now, may_eject) {
            self.counters.ejected(&self.instance.service);
        }
        self.permit.failed();
    }
}
