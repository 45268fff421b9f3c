//! Which instance of a service is asked.
//!
//! The registry says which instances there are. Of those that are healthy and not ejected, [`Upstreams::pick`] looks at
//! two by chance and takes the one with fewer requests in flight. A circuit breaker per service is asked last, once per
//! call: an instance that does not answer is ejected, and only where no other answers either has the service failed.
//!
//! - `check`: every instance is asked for its health now and then
//! - `member`: what is known of an instance, and when it is ejected for a while
//! - `ops`: what operators see of it; `policy`: its settings

mod check;
mod member;
mod ops;
pub(crate) mod policy;

use crate::connect::{Address, Connector, Dialer};
use arc_swap::ArcSwap;
use axum::{
    Router,
    body::Body,
    http::{HeaderMap, StatusCode, header::RETRY_AFTER},
};
pub(crate) use check::CheckPolicy;
use hyper_util::client::legacy::Client;
pub(crate) use member::EjectionPolicy;
pub(crate) use member::InFlight;
use member::{Member, Verdict};
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
    pub(crate) breaker: breaker::Policy,
    /// How the health of instances is asked for.
    pub(crate) check: CheckPolicy,
    /// When an instance is left out because of its answers.
    pub(crate) ejection: EjectionPolicy,
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
    dialer: Dialer,
    _stop: DropGuard,
}

/// A service with its instances at one moment.
#[derive(Debug)]
struct Service {
    name: String,
    breaker: Breaker,
    /// What it is called with, for as long as there are instances.
    client: Client<Connector, Body>,
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
    pub(crate) address: Address,
    service: Arc<Service>,
    member: InFlight,
    permit: Permit,
    ejection: EjectionPolicy,
    counters: ops::Counters,
}

/// A call that an instance did not answer: another one may.
#[derive(Debug)]
#[must_use = "ask another instance, or give it up"]
pub struct Unanswered {
    service: Arc<Service>,
    permit: Permit,
}

impl Upstreams {
    /// Follows the registry and checks what it names, until the last clone is gone. Instances that `dialer` does not call
    /// are ignored.
    pub fn start(
        registry: Registry,
        policy: UpstreamPolicy,
        dialer: Dialer,
        clock: Clock,
        metrics: &Metrics,
    ) -> Self {
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared {
            policy,
            clock,
            breakers: Breakers::new(policy.breaker, metrics),
            counters: ops::Counters::register(metrics),
            services: ArcSwap::default(),
            dialer,
            _stop: stop.clone().drop_guard(),
        });
        shared.take_over(&registry.all());
        ops::show_instances(metrics, &shared);
        tokio::spawn(stop.run_until_cancelled_owned(follow(registry, Arc::downgrade(&shared))));
        Self(shared)
    }

    /// Chooses an instance of a service.
    pub fn pick(&self, service: &str) -> Result<Pick, NoUpstream> {
        let services = self.0.services.load();
        let service = services.get(service).ok_or(NoUpstream::NoInstance)?;
        let member = service.choose(&[]).ok_or(NoUpstream::NoInstance)?;
        let open = |open: breaker::Open| NoUpstream::Open { retry_after: open.retry_after };
        let permit = service.breaker.acquire().map_err(open)?;
        Ok(self.picked(service, member, permit))
    }

    /// Chooses another instance for a call, none of those that were `tried`. Where there is none the service has failed.
    pub fn another(&self, call: Unanswered, tried: &[InstanceId]) -> Option<Pick> {
        let services = self.0.services.load();
        let service = services.get(&*call.service.name);
        if let Some((service, member)) = service.and_then(|service| Some((service, service.choose(tried)?))) {
            return Some(self.picked(service, member, call.permit));
        }
        call.give_up();
        None
    }

    fn picked(&self, service: &Arc<Service>, member: &Arc<Member>, permit: Permit) -> Pick {
        Pick {
            instance: Arc::clone(&member.instance),
            address: member.address.clone(),
            service: Arc::clone(service),
            member: InFlight::enter(member),
            permit,
            ejection: self.0.policy.ejection,
            counters: self.0.counters.clone(),
        }
    }

    /// Where an instance of a service is and what to call it with, for what nobody waits for: it asks no breaker and
    /// tells none.
    pub(crate) fn any(&self, service: &str) -> Option<(Address, Client<Connector, Body>)> {
        let services = self.0.services.load();
        let service = services.get(service)?;
        Some((service.choose(&[])?.address.clone(), service.client.clone()))
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
                None => match self.dialer.address(&instance.url) {
                    Ok(address) => self.begin(Member::new(instance, address)),
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
            // Its connections stay.
            let before = known.get(&name).map(|service| service.client.clone());
            let client = before.unwrap_or_else(|| self.dialer.client(&name));
            (name.clone(), Arc::new(Service { name, breaker, client, members }))
        });
        self.services.store(Arc::new(named.collect()));
    }

    /// From now on it is checked, until it is forgotten.
    fn begin(&self, member: Member) -> Arc<Member> {
        let member = Arc::new(member);
        let client = self.dialer.unkept(&member.instance.service);
        let (policy, clock) = (self.policy.check, self.clock.clone());
        let counters = self.counters.clone();
        tokio::spawn(check::keep_checking(Arc::downgrade(&member), policy, clock, counters, client));
        member
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
    fn may_eject(&self, percent: u32, now: Instant) -> bool {
        let ejected = self.members.iter().filter(|member| member.is_ejected(now)).count();
        (ejected + 1) * 100 <= self.members.len() * percent as usize
    }
}

impl Pick {
    /// What it is called with.
    pub(crate) fn client(&self) -> &Client<Connector, Body> {
        &self.service.client
    }

    /// It began to answer, and is busy with it until what this gives is dropped. 503 that says when to come back is no
    /// failure: the instance lives, and clients can ask for what is not there yet on purpose.
    pub(crate) fn answered(self, status: StatusCode, headers: &HeaderMap) -> InFlight {
        let later = status == StatusCode::SERVICE_UNAVAILABLE && headers.contains_key(RETRY_AFTER);
        self.settle(if later { StatusCode::OK } else { status }.as_u16())
    }

    /// It answered with this status, to the end. 5xx are failures, 4xx are not.
    pub fn succeeded(self, status: u16) {
        drop(self.settle(status));
    }

    fn settle(self, status: u16) -> InFlight {
        if status < 500 {
            self.member.member().answered();
            self.permit.succeeded();
            self.member
        } else {
            self.fail()
        }
    }

    /// It did not answer. The breaker hears nothing of that yet.
    pub fn failed(self, failure: Failure) -> Unanswered {
        // Nobody is there: it was killed, and the registry does not know yet.
        if failure == Failure::Connect {
            self.member.member().refused(self.ejection, Instant::now());
        }
        self.blame();
        Unanswered { service: self.service, permit: self.permit }
    }

    fn fail(self) -> InFlight {
        self.blame();
        self.permit.failed();
        self.member
    }

    fn blame(&self) {
        let now = Instant::now();
        let may_eject = || self.service.may_eject(self.ejection.percent, now);
        if self.member.member().failed(self.ejection, now, may_eject) {
            self.counters.ejected(&self.instance.service);
        }
    }
}

impl Unanswered {
    /// Nobody else is asked: the service has failed.
    pub fn give_up(self) {
        self.permit.failed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{
        body::{Body, to_bytes},
        http::Request,
        routing::get,
    };
    use jiff::Timestamp;
    use serde_json::Value;
    use std::{
        future::pending,
        sync::atomic::{AtomicU16, AtomicU32, Ordering},
    };
    use tokio::{net::TcpListener, sync::watch, time::advance};
    use tower::ServiceExt;
    use uuid::Uuid;

    /// Checks that never come again after the first: for tests of everything else.
    const ONCE: CheckPolicy = CheckPolicy {
        every: Duration::from_hours(10_000),
        timeout: Duration::from_secs(2),
        rise: 1,
        fall: 2,
    };
    const POLICY: UpstreamPolicy = UpstreamPolicy {
        breaker: breaker::Policy {
            window: Duration::from_secs(10),
            minimum: 10,
            error_percent: 50,
            open_for: Duration::from_secs(30),
        },
        check: ONCE,
        ejection: EjectionPolicy {
            failures: 5,
            base: Duration::from_secs(30),
            percent: 50,
            refused: Duration::from_secs(5),
        },
    };

    fn instance(id: u128, url: impl Into<String>) -> Instance {
        Instance {
            service: "orders".to_owned(),
            id: InstanceId(Uuid::from_u128(id)),
            url: url.into(),
            version: "1".to_owned(),
            started: Timestamp::UNIX_EPOCH,
        }
    }

    /// Upstreams of instances that the test names.
    struct Scene {
        upstreams: Upstreams,
        named: watch::Sender<Arc<[Instance]>>,
        metrics: Metrics,
    }

    impl Scene {
        fn of(instances: &[Instance], policy: UpstreamPolicy) -> Self {
            let (named, known) = watch::channel(instances.into());
            let metrics = Metrics::new();
            let registry = Registry::named_by(known);
            let dialer = Dialer::new(&crate::Config::standard(), None).unwrap();
            let upstreams = Upstreams::start(registry, policy, dialer, Clock::system(), &metrics);
            Self { upstreams, named, metrics }
        }

        /// So many instances where nobody listens.
        fn of_many(count: u128, policy: UpstreamPolicy) -> Self {
            let instances: Vec<_> = (1..=count).map(|id| instance(id, "http://127.0.0.1:9")).collect();
            Self::of(&instances, policy)
        }

        fn pick(&self) -> Pick {
            self.upstreams.pick("orders").unwrap()
        }

        /// A pick of this instance.
        fn pick_of(&self, id: u128) -> Pick {
            let wanted = |pick: &Pick| pick.instance.id.0.as_u128() == id;
            (0..10_000).map(|_| self.pick()).find(wanted).unwrap()
        }

        /// Who is picked, of a hundred.
        fn picked(&self) -> Vec<u128> {
            let mut picked: Vec<_> = (0..100).map(|_| self.pick().instance.id.0.as_u128()).collect();
            picked.sort_unstable();
            picked.dedup();
            picked
        }

        /// Waits until exactly these are picked.
        async fn picks(&self, expected: &[u128]) {
            let wait = async {
                while self.picked() != expected {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            let waited = tokio::time::timeout(Duration::from_secs(20), wait).await;
            waited.unwrap_or_else(|_| panic!("{:?} are picked, not {expected:?}", self.picked()));
        }

        async fn ops(&self, path: &str) -> Value {
            let request = Request::get(path).body(Body::empty()).unwrap();
            let response = self.upstreams.routes().oneshot(request).await.unwrap();
            serde_json::from_slice(&to_bytes(response.into_body(), usize::MAX).await.unwrap()).unwrap()
        }
    }

    async fn serve(router: Router) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        url
    }

    #[tokio::test]
    async fn calls_under_way_are_spread_and_those_that_ended_are_forgotten() {
        let scene = Scene::of_many(3, POLICY);
        let picks: Vec<_> = (0..300).map(|_| scene.pick()).collect();
        for id in 1..=3 {
            let share = picks.iter().filter(|pick| pick.instance.id.0.as_u128() == id).count();
            assert!((80..=120).contains(&share), "{id} has {share} of 300");
        }
        let listed = scene.ops("/ops/instances").await;
        let listed = listed.as_array().unwrap();
        assert_eq!(listed.iter().map(|one| one["inFlight"].as_u64().unwrap()).sum::<u64>(), 300);
        drop(picks);
        let listed = scene.ops("/ops/instances").await;
        assert!(listed.as_array().unwrap().iter().all(|one| one["inFlight"] == 0), "{listed}");
    }

    /// The less busy of two: chance alone would spread ten like this in one of four cases, and twenty times never.
    #[tokio::test]
    async fn of_two_instances_the_less_busy_one_is_taken() {
        for _ in 0..20 {
            let scene = Scene::of_many(2, POLICY);
            let picks: Vec<_> = (0..10).map(|_| scene.pick()).collect();
            let first = picks.iter().filter(|pick| pick.instance.id.0.as_u128() == 1).count();
            assert_eq!(first, 5);
            // An answer that has only begun still keeps its instance busy.
            let (ones, others): (Vec<_>, Vec<_>) =
                picks.into_iter().partition(|pick| pick.instance.id.0.as_u128() == 1);
            drop(others);
            let begun: Vec<_> =
                ones.into_iter().map(|pick| pick.answered(StatusCode::OK, &HeaderMap::new())).collect();
            let next: Vec<_> = (0..5).map(|_| scene.pick()).collect();
            assert!(next.iter().all(|pick| pick.instance.id.0.as_u128() == 2));
            drop(begun);
            assert_eq!(scene.pick().instance.id.0.as_u128(), 1);
        }
    }

    #[tokio::test]
    async fn instances_come_and_go_without_a_restart() {
        let scene = Scene::of_many(1, POLICY);
        assert_eq!(scene.picked(), [1]);
        let both = [instance(1, "http://127.0.0.1:9"), instance(2, "http://127.0.0.1:9")];
        scene.named.send_replace(both.as_slice().into());
        scene.picks(&[1, 2]).await;
        scene.named.send_replace(both[1..].into());
        scene.picks(&[2]).await;
        scene.named.send_replace([instance(3, "ftp://x"), instance(4, "http://x/y")].as_slice().into());
        while scene.upstreams.pick("orders").is_ok() {
            tokio::task::yield_now().await;
        }
        assert_eq!(scene.upstreams.pick("users").unwrap_err(), NoUpstream::NoInstance);
    }

    #[tokio::test]
    async fn nobody_is_tried_twice() {
        let scene = Scene::of_many(2, POLICY);
        let pick = scene.pick();
        let first = pick.instance.id;
        let pick = scene.upstreams.another(pick.failed(Failure::Reset), &[first]).unwrap();
        let second = pick.instance.id;
        assert_ne!(first, second);
        assert!(scene.upstreams.another(pick.failed(Failure::Reset), &[first, second]).is_none());
        let breaker = &scene.ops("/ops/breakers").await[0];
        assert_eq!((&breaker["calls"], &breaker["failures"]), (&1.into(), &1.into()), "one call, not two");
    }

    /// One of two is dead, and nobody knows yet: every call ends well at the other.
    #[tokio::test]
    async fn calls_that_another_instance_answers_open_no_breaker() {
        let scene = Scene::of_many(2, POLICY);
        let picks: Vec<_> = (0..40).map(|_| scene.pick()).collect();
        for pick in picks.into_iter().filter(|pick| pick.instance.id.0.as_u128() == 1) {
            let tried = [pick.instance.id];
            scene.upstreams.another(pick.failed(Failure::Reset), &tried).unwrap().succeeded(200);
        }
        let breaker = &scene.ops("/ops/breakers").await[0];
        assert_eq!((&breaker["state"], &breaker["failures"]), (&"closed".into(), &0.into()));
    }

    #[tokio::test]
    async fn a_failing_or_hanging_health_check_takes_an_instance_out_and_a_good_one_back() {
        let status = Arc::new(AtomicU16::new(500));
        let answered = status.clone();
        let health = async move || StatusCode::from_u16(answered.load(Ordering::SeqCst)).unwrap();
        let failing = serve(Router::new().route("/health", get(health))).await;
        let hanging = serve(Router::new().route("/health", get(async || pending::<()>().await))).await;
        let checks = Arc::new(AtomicU32::new(0));
        let seen = checks.clone();
        let count = async move || _ = seen.fetch_add(1, Ordering::SeqCst);
        let well = serve(Router::new().route("/health", get(count))).await;
        let instances = [instance(1, failing), instance(2, hanging), instance(3, well)];
        let every = Duration::from_millis(20);
        let check = CheckPolicy { every, timeout: Duration::from_secs(1), ..CheckPolicy::default() };
        let scene = Scene::of(&instances, UpstreamPolicy { check, ..POLICY });
        assert_eq!(scene.picked(), [1, 2, 3]);

        scene.picks(&[2, 3]).await;
        let before = checks.load(Ordering::SeqCst);
        scene.picks(&[3]).await;
        let meanwhile = checks.load(Ordering::SeqCst) - before;
        assert!(meanwhile > 10, "the hanging one delayed the others, who were asked {meanwhile} times");
        let listed = scene.ops("/ops/instances").await;
        assert_eq!(listed[0]["healthy"], false);
        assert_eq!(listed[0]["fault"], "it answers 500 Internal Server Error");
        assert_eq!(listed[1]["fault"], "no answer in time");
        assert!(listed[2]["lastCheck"].is_string() && listed[2]["healthy"] == true, "{listed}");
        let page = scene.metrics.render();
        let gauge = r#"waybill_upstream_instances{service="orders",condition="unhealthy"} 2"#;
        assert!(page.contains(gauge), "{page}");

        status.store(204, Ordering::SeqCst);
        scene.picks(&[1, 3]).await;
        // Elsewhere is not here.
        status.store(302, Ordering::SeqCst);
        scene.picks(&[3]).await;
    }

    #[tokio::test(start_paused = true)]
    async fn five_failures_in_a_row_eject_for_thirty_seconds() {
        let policy = breaker::Policy { minimum: 1000, ..POLICY.breaker };
        let scene = Scene::of_many(2, UpstreamPolicy { breaker: policy, ..POLICY });
        for _ in 0..4 {
            scene.pick_of(1).succeeded(500);
        }
        scene.pick_of(1).succeeded(404);
        for _ in 0..4 {
            scene.pick_of(1).failed(Failure::Timeout).give_up();
        }
        assert_eq!(scene.picked(), [1, 2], "never five in a row");
        scene.pick_of(1).succeeded(503);
        assert_eq!(scene.picked(), [2]);
        let tried = scene.pick();
        let tried_id = tried.instance.id;
        let other = scene.upstreams.another(tried.failed(Failure::Reset), &[tried_id]).unwrap();
        assert_eq!(other.instance.id.0.as_u128(), 1, "better an ejected one than none");
        drop(other);
        for _ in 0..20 {
            scene.pick_of(2).failed(Failure::Reset).give_up();
        }
        assert_eq!(scene.picked(), [2], "not more than half");
        advance(Duration::from_secs(30)).await;
        assert_eq!(scene.picked(), [1, 2]);
        for _ in 0..5 {
            scene.pick_of(1).succeeded(500);
        }
        advance(Duration::from_secs(59)).await;
        assert_eq!(scene.picked(), [2], "twice as long, so soon after the first time");
        advance(Duration::from_secs(1)).await;
        assert_eq!(scene.picked(), [1, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_refuses_a_connection_is_left_alone_at_once_and_the_last_is_tried_all_the_same() {
        let policy = breaker::Policy { minimum: 1000, ..POLICY.breaker };
        let scene = Scene::of_many(3, UpstreamPolicy { breaker: policy, ..POLICY });
        scene.pick_of(1).failed(Failure::Connect).give_up();
        assert_eq!(scene.picked(), [2, 3]);
        scene.pick_of(2).failed(Failure::Connect).give_up();
        assert_eq!(scene.picked(), [3]);
        scene.pick_of(3).failed(Failure::Connect).give_up();
        assert_eq!(scene.picked(), [1, 2, 3]);
        scene.pick_of(1).succeeded(200);
        advance(Duration::from_secs(5)).await;
        assert_eq!(scene.picked(), [1, 2, 3]);
    }

    #[tokio::test]
    async fn an_instance_that_asks_to_come_back_has_not_failed() {
        let scene = Scene::of_many(1, POLICY);
        let headers = HeaderMap::from_iter([(RETRY_AFTER, "1".parse().unwrap())]);
        for _ in 0..20 {
            drop(scene.pick().answered(StatusCode::SERVICE_UNAVAILABLE, &headers));
        }
        for _ in 0..20 {
            drop(scene.pick().answered(StatusCode::SERVICE_UNAVAILABLE, &HeaderMap::new()));
        }
        assert_eq!(scene.ops("/ops/breakers").await[0]["failures"], 20, "of those without it, each");
        scene.upstreams.pick("orders").unwrap_err();
    }

    #[tokio::test(start_paused = true)]
    async fn ten_failures_of_twenty_open_the_breaker_and_one_probe_closes_it() {
        let scene = Scene::of_many(1, POLICY);
        for call in 0..20 {
            scene.pick().succeeded(if call < 10 { 404 } else { 500 });
        }
        let open = scene.upstreams.pick("orders").unwrap_err();
        assert_eq!(open, NoUpstream::Open { retry_after: Duration::from_secs(30) });
        assert_eq!(scene.ops("/ops/breakers").await[0]["state"], "open");
        advance(Duration::from_secs(30)).await;
        let probe = scene.pick();
        assert!(matches!(scene.upstreams.pick("orders"), Err(NoUpstream::Open { .. })));
        probe.succeeded(200);
        scene.pick().succeeded(200);
        assert_eq!(scene.ops("/ops/breakers").await[0]["state"], "closed");
    }
}
