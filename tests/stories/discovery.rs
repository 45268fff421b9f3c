//! Instances come, leave and are killed, and whoever asks does not notice.

use gateway::{Failure, UpstreamPolicy, Upstreams};
use nats::{InstanceId, Registry, RegistryOptions};
use service::{Clock, Metrics};
use std::{collections::BTreeSet, time::Duration};
use tokio::{net::TcpListener, time::Instant};
use waybill::{
    api::{Api, Tokens},
    edge::{Edge, EdgeConfig},
    system::Service,
};
use waybill_tests::{Serve, World, eventually};

const SOON: Duration = Duration::from_mins(1);

/// Asks for a service as a gateway does.
struct Caller {
    upstreams: Upstreams,
    registry: Registry,
    http: reqwest::Client,
}

impl Caller {
    async fn of(world: &World) -> Self {
        let connection = world.connect().await.unwrap();
        let registry = Registry::watch(&connection, RegistryOptions::default()).await.unwrap();
        let policy = UpstreamPolicy::default();
        let upstreams = Upstreams::start(registry.clone(), policy, Clock::system(), &Metrics::new());
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(3)).build().unwrap();
        Self { upstreams, registry, http }
    }

    /// A request that can be repeated, with one repetition elsewhere. Says who answered.
    async fn ask(&self, attempts: usize) -> Option<InstanceId> {
        let mut tried = Vec::new();
        for _ in 0..attempts {
            let pick = self.upstreams.pick("inventory", &tried).ok()?;
            let id = pick.instance.id;
            match self.http.get(format!("http://{}/health", pick.authority)).send().await {
                Ok(answer) => {
                    pick.succeeded(answer.status().as_u16());
                    return Some(id);
                }
                Err(error) if error.is_connect() => pick.failed(Failure::Connect),
                Err(_) => pick.failed(Failure::Reset),
            }
            tried.push(id);
        }
        None
    }

    /// Waits until so many instances answer.
    async fn answered_by(&self, count: usize) -> BTreeSet<InstanceId> {
        eventually("that many instances answer", SOON, async || {
            let mut seen = BTreeSet::new();
            for _ in 0..20 {
                seen.extend(self.ask(1).await);
            }
            (seen.len() == count).then_some(seen)
        })
        .await
    }
}

#[tokio::test]
async fn an_instance_that_is_killed_fails_no_request_that_can_be_repeated() {
    let world = World::start().await.unwrap();
    let caller = Caller::of(&world).await;
    let first = caller.answered_by(1).await;
    let mut second = Serve::start(&world, "inventory", "second").unwrap();
    let both = caller.answered_by(2).await;

    second.kill().await.unwrap();
    let killed = Instant::now();
    let mut asked = 0;
    let known = async |caller: &Caller| caller.registry.instances("inventory").len();
    while known(&caller).await == 2 {
        assert!(caller.ask(2).await.is_some_and(|id| first.contains(&id)), "request {asked} failed");
        asked += 1;
        let lifetime = RegistryOptions::default().lifetime;
        assert!(killed.elapsed() < lifetime + Duration::from_secs(3), "it is still known");
    }
    assert!(asked > 100, "only {asked} requests were made");
    assert!(both.is_superset(&first));
    assert_eq!(caller.answered_by(1).await, first);
}

#[tokio::test]
async fn an_instance_that_leaves_fails_no_request_at_all() {
    let world = World::start().await.unwrap();
    let caller = Caller::of(&world).await;
    let first = caller.answered_by(1).await;
    let (second, _) = world.another("second", &[Service::Inventory]).await.unwrap();
    caller.answered_by(2).await;
    let mut leaving = std::pin::pin!(second.stop());
    loop {
        tokio::select! {
            biased;
            finished = &mut leaving => break assert!(finished),
            answer = caller.ask(1) => assert!(answer.is_some(), "a request failed"),
        }
    }
    assert_eq!(caller.answered_by(1).await, first);
}

/// A path of every service that it answers to an operator, whatever there is.
const ASKED: [(Service, &str); 6] = [
    (Service::Users, "/users/00000000-0000-0000-0000-000000000007"),
    (Service::Orders, "/orders/00000000-0000-0000-0000-000000000007"),
    (Service::Payments, "/payments/00000000-0000-0000-0000-000000000007"),
    (Service::Inventory, "/products/NONE"),
    (Service::Shipping, "/shipments/00000000-0000-0000-0000-000000000007"),
    (Service::Fulfilment, "/ops/sagas/00000000-0000-0000-0000-000000000007"),
];

#[tokio::test]
async fn whichever_service_is_killed_the_gateway_says_so_in_time_and_recovers() {
    let mut world = World::start().await.unwrap();
    assert!(world.stop().await);
    let mut processes: Vec<_> = ASKED
        .iter()
        .map(|(service, _)| Serve::start(&world, service.name(), service.name()).unwrap())
        .collect();
    let routes = include_str!("../../gateway/routes.toml").replace("quota = 100", "quota = 100000");
    // Half a minute for every service would be minutes.
    let routes = format!("[breaker]\nopen = \"2s\"\n\n{routes}");
    let file = world.config.data.with_file_name("routes.toml");
    std::fs::write(&file, routes).unwrap();
    let edge = EdgeConfig {
        nats_url: world.config.nats_url.clone(),
        replicas: 1,
        file: Some(file),
        clock: Clock::system(),
    };
    let edge = Edge::start(&edge, TcpListener::bind("127.0.0.1:0").await.unwrap()).await.unwrap();
    let url = format!("http://{}/api", edge.address());
    let urls = Service::ALL.map(|service| (service.name().to_owned(), url.clone()));
    let tokens =
        Tokens::open(&world.config.nats_url, &world.config.master_key, &Clock::system()).await.unwrap();
    let api = Api::at(urls.into()).with_tokens(tokens);
    let answers = async |(service, path): (Service, &str)| {
        eventually("the service answers through the gateway", SOON, async || {
            (api.get(service, path).await.unwrap().status == 404).then_some(())
        })
        .await;
    };
    for asked in ASKED {
        answers(asked).await;
    }

    for (index, (service, path)) in ASKED.into_iter().enumerate() {
        processes[index].kill().await.unwrap();
        // Until its breaker opens.
        for _ in 0..15 {
            let asked = Instant::now();
            let answer = api.get(service, path).await.unwrap();
            assert!([502, 503, 504].contains(&answer.status), "{service}: {} {}", answer.status, answer.body);
            assert!(answer.body["type"].is_string(), "{service}: {}", answer.body);
            assert_eq!(answer.headers.contains_key("retry-after"), answer.status == 503);
            assert!(asked.elapsed() < Duration::from_secs(4), "{service}: {:?}", asked.elapsed());
        }
        for (other, path) in ASKED.into_iter().filter(|(other, _)| *other != service) {
            assert_eq!(api.get(other, path).await.unwrap().status, 404, "{other} while {service} is away");
        }
        let again = format!("{service}-again");
        processes[index] = Serve::start(&world, service.name(), &again).unwrap();
        answers((service, path)).await;
    }
    edge.stop().await;
}
