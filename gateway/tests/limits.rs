//! Several gateways and one real nats-server: together they admit the quota, never more and never less.

#![expect(clippy::unwrap_used, reason = "a test that meets an error has failed")]

use futures::future::join_all;
use gateway::{LimitKey, LimitMetrics, LimitPolicy, LimitSettings, Limiter};
use jiff::Timestamp;
use nats::{
    Connection, Durability,
    server::{Binary, Config, Server},
};
use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config as Cases, TestRunner},
};
use service::{Clock, Metrics};
use std::time::Duration;
use tempfile::TempDir;

/// Far more than anything here takes: only a hang gets there.
const DEADLINE: Duration = Duration::from_mins(1);

const WINDOW: Duration = Duration::from_mins(15);

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, wait).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

struct Rig {
    server: Server,
    clock: Clock,
    _folder: TempDir,
}

impl Rig {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let binary = Binary::locate(None).await.unwrap();
        let config =
            Config { durability: Durability::Interval, ..Config::new(binary, folder.path().join("nats")) };
        let server = Server::start(config).await.unwrap();
        Self { server, clock: Clock::manual(Timestamp::UNIX_EPOCH), _folder: folder }
    }

    async fn gateway(&self) -> Gateway {
        self.gateway_for(1 << 10).await
    }

    async fn gateway_for(&self, capacity: usize) -> Gateway {
        let connection = Connection::connect(&self.server.url(), "gateway").await.unwrap();
        let metrics = LimitMetrics::default();
        let page = Metrics::new();
        metrics.register(&page);
        let settings = LimitSettings { capacity, replicas: 1 };
        let limiter = Limiter::start(&connection, self.clock.clone(), settings, metrics).await.unwrap();
        Gateway { limiter, connection, page }
    }

    async fn gateways(&self) -> [Gateway; 3] {
        [self.gateway().await, self.gateway().await, self.gateway().await]
    }

    /// Somebody who was never here.
    fn client(&self) -> LimitKey {
        LimitKey::Principal(self.clock.uuid())
    }
}

struct Gateway {
    limiter: Limiter,
    connection: Connection,
    page: Metrics,
}

impl Gateway {
    async fn admits(&self, policy: &LimitPolicy, client: &LimitKey) -> bool {
        let decision = tokio::time::timeout(DEADLINE, self.limiter.check(policy, client)).await.unwrap();
        assert!(decision.remaining < policy.quota() && decision.reset <= policy.window(), "{decision:?}");
        decision.allowed
    }

    /// How many of so many requests, one after the other, pass.
    async fn admitted(&self, policy: &LimitPolicy, client: &LimitKey, asked: usize) -> usize {
        let mut admitted = 0;
        for _ in 0..asked {
            admitted += usize::from(self.admits(policy, client).await);
        }
        admitted
    }

    fn metric(&self, line: &str) -> u64 {
        let page = self.page.render();
        let found = page.lines().find_map(|text| text.strip_prefix(line)?.trim().parse().ok());
        found.unwrap_or_else(|| panic!("{line} is missing in {page}"))
    }
}

fn policy(quota: u32) -> LimitPolicy {
    LimitPolicy::new("default", quota, WINDOW).unwrap()
}

/// Any quota, any order, any number at the same time, any gateway: what is admitted is what is asked for, up to the
/// quota.
#[test]
fn three_gateways_together_admit_exactly_the_quota() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (rig, gateways) = runtime.block_on(async {
        let rig = Rig::start().await;
        let gateways = rig.gateways().await;
        (rig, gateways)
    });
    let together = vec(0..3_usize, 1..12);
    let strategy = (1..130_u32, vec(together, 1..40));
    let mut runner = TestRunner::new(Cases { cases: 60, failure_persistence: None, ..Cases::default() });
    let outcome = runner.run(&strategy, |(quota, groups)| {
        runtime.block_on(async {
            let (policy, client) = (policy(quota), rig.client());
            let (mut asked, mut admitted) = (0, 0);
            for group in groups {
                let answers = group.iter().map(|&index| gateways[index].admits(&policy, &client));
                admitted += join_all(answers).await.into_iter().filter(|admitted| *admitted).count();
                asked += group.len();
                prop_assert_eq!(admitted, asked.min(quota as usize), "after {} requests", asked);
            }
            Ok(())
        })
    });
    outcome.unwrap();
    runtime.block_on(async {
        for gateway in &gateways {
            assert_eq!(gateway.metric("waybill_limit_lost_total"), 0);
            assert_eq!(gateway.metric("waybill_limit_alone_total"), 0);
        }
        rig.server.stop().await;
    });
}

/// A storm at all gateways, many clients at once, in a table far too small for them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_in_a_full_table_is_counted_exactly() {
    let rig = Rig::start().await;
    let gateways = [rig.gateway_for(16).await, rig.gateway_for(16).await, rig.gateway_for(16).await];
    let policy = policy(20);
    let clients: Vec<_> = (0..50).map(|_| rig.client()).collect();
    let mut requests: Vec<_> = (0..3 * 50 * 10).collect();
    fastrand::shuffle(&mut requests);
    let mut admitted = vec![0; clients.len()];
    for some in requests.chunks(40) {
        let answers = some.iter().map(async |request| {
            let client = request / 3 % 50;
            (client, gateways[request % 3].admits(&policy, &clients[client]).await)
        });
        for (client, yes) in join_all(answers).await {
            admitted[client] += u32::from(yes);
        }
    }
    assert!(admitted.iter().all(|admitted| *admitted == 20), "{admitted:?}");
}

#[tokio::test]
async fn a_window_begins_with_the_first_request_and_ends_on_time() {
    let rig = Rig::start().await;
    let [a, b, _] = rig.gateways().await;
    let (policy, client) = (policy(100), rig.client());
    let first = a.limiter.check(&policy, &client).await;
    assert_eq!((first.remaining, first.reset), (99, WINDOW));
    rig.clock.advance(Duration::from_millis(899_999));
    assert_eq!(b.admitted(&policy, &client, 100).await, 99);
    let refused = a.limiter.check(&policy, &client).await;
    assert_eq!((refused.allowed, refused.remaining), (false, 0));
    assert_eq!(refused.reset, Duration::from_millis(1));
    rig.clock.advance(Duration::from_millis(1));
    // Each of them had refused it; neither does any more, and they count together again.
    assert!(a.admits(&policy, &client).await);
    assert_eq!(b.admitted(&policy, &client, 100).await, 99);
    assert!(!a.admits(&policy, &client).await);
}

/// Almost every request is a look into a table; so is every one of those that are refused.
#[tokio::test]
async fn few_requests_cost_a_round_trip() {
    let rig = Rig::start().await;
    let [a, ..] = rig.gateways().await;
    let client = rig.client();
    assert_eq!(a.admitted(&policy(100_000), &client, 2_000).await, 2_000);
    let leases = a.metric("waybill_limit_leases_total{outcome=\"granted\"}");
    assert!(leases <= 12, "{leases}");
    let (policy, client) = (policy(100), rig.client());
    assert_eq!(a.admitted(&policy, &client, 1_000).await, 100);
    let leases = a.metric("waybill_limit_leases_total{outcome=\"granted\"}") - leases;
    assert!(leases <= 25, "{leases}");
    assert_eq!(a.metric("waybill_limit_leases_total{outcome=\"empty\"}"), 1);
}

/// What a gateway has leased dies with it: never more than was admitted so far, nor than a quarter of the rest.
#[tokio::test]
async fn a_dead_gateway_takes_its_lease_with_it_and_no_more() {
    let rig = Rig::start().await;
    let [a, b, c] = rig.gateways().await;
    let (policy, client) = (policy(100), rig.client());
    assert_eq!(a.admitted(&policy, &client, 17).await, 17);
    drop(a);
    let rest = b.admitted(&policy, &client, 100).await + c.admitted(&policy, &client, 100).await;
    assert!((83 - 17..=83).contains(&rest), "{rest}");
    assert_eq!(b.metric("waybill_limit_recalls_total{outcome=\"unanswered\"}"), 1);
    assert_eq!(c.admitted(&policy, &client, 50).await, 0, "it is asked once");
}

#[tokio::test]
async fn a_gateway_that_stops_gives_its_leases_back() {
    let rig = Rig::start().await;
    let [a, b, _] = rig.gateways().await;
    let policy = policy(100);
    let clients: Vec<_> = (0..20).map(|_| rig.client()).collect();
    for client in &clients {
        assert_eq!(a.admitted(&policy, client, 17).await, 17);
    }
    assert_eq!(a.limiter.release(DEADLINE).await, 0);
    drop(a);
    for client in &clients {
        assert_eq!(b.admitted(&policy, client, 100).await, 83);
    }
    assert_eq!(b.metric("waybill_limit_lost_total"), 0);
}

/// A request that its client gives up on loses nothing that was leased for it.
#[tokio::test]
async fn an_aborted_request_loses_nothing() {
    let rig = Rig::start().await;
    let [a, b, _] = rig.gateways().await;
    let (policy, client) = (policy(100), rig.client());
    let mut admitted = 0;
    for round in 0..60 {
        let gateway = if round % 2 == 0 { &a } else { &b };
        let check = gateway.limiter.check(&policy, &client);
        // Polled once: it is sent, and nobody waits for it.
        if let Ok(decision) = tokio::time::timeout(Duration::ZERO, check).await {
            admitted += usize::from(decision.allowed);
        }
    }
    admitted += a.admitted(&policy, &client, 60).await + b.admitted(&policy, &client, 100).await;
    assert_eq!(admitted, 100);
}

/// Without NATS every gateway counts alone to the quota; afterwards it tells what it admitted.
#[tokio::test]
async fn while_nats_is_away_each_counts_alone_and_tells_it_later() {
    let rig = Rig::start().await;
    let [a, b, _] = rig.gateways().await;
    let (policy, known, new, late) = (policy(100), rig.client(), rig.client(), rig.client());
    assert_eq!(a.admitted(&policy, &known, 40).await, 40);
    rig.server.pause();
    assert_eq!(a.admitted(&policy, &known, 100).await, 60, "it goes on where it was");
    assert_eq!(a.admitted(&policy, &new, 30).await, 30);
    assert_eq!(b.admitted(&policy, &new, 200).await, 100, "alone it knows of nobody else");
    assert_eq!(a.metric("waybill_limit_is_alone"), 1);
    assert!(a.metric("waybill_limit_alone_total") >= 30);
    rig.server.resume();
    for gateway in [&a, &b] {
        until("counting together", async || {
            gateway.admits(&policy, &rig.client()).await;
            gateway.metric("waybill_limit_is_alone") == 0
        })
        .await;
    }
    assert_eq!(a.admitted(&policy, &known, 10).await + b.admitted(&policy, &known, 10).await, 0);
    assert!(a.admits(&policy, &new).await, "it had admitted 30 of these, and knows of no others");
    assert!(!b.admits(&policy, &new).await, "it tells of its 100");
    assert_eq!(a.admitted(&policy, &late, 100).await, 100);
    assert!(!b.admits(&policy, &late).await);
}

/// The records are in memory. A server that starts again has lost them; the gateways have not.
#[tokio::test]
async fn a_server_that_lost_the_records_gives_nobody_a_fresh_start() {
    let rig = Rig::start().await;
    let [a, b, _] = rig.gateways().await;
    let (policy, client, limited) = (policy(100), rig.client(), rig.client());
    assert_eq!(a.admitted(&policy, &client, 50).await, 50);
    assert_eq!(a.admitted(&policy, &limited, 101).await, 100);
    rig.server.kill().await;
    until("both connected again", async || a.connection.is_connected() && b.connection.is_connected()).await;
    // A new client makes them notice.
    for gateway in [&a, &b] {
        until("counting together", async || {
            gateway.admits(&policy, &rig.client()).await;
            gateway.metric("waybill_limit_is_alone") == 0
        })
        .await;
    }
    assert_eq!(a.admitted(&policy, &client, 100).await, 50);
    assert_eq!(b.admitted(&policy, &client, 100).await, 0, "it was told");
    assert_eq!(a.admitted(&policy, &limited, 100).await, 0);
}
