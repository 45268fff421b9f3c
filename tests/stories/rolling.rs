//! Every part is replaced while orders are placed: by the same version, and by another one. Nobody notices.
//!
//! `WAYBILL_PREVIOUS` names an executable of the version before (`deploy/ci/previous` makes one): without it nothing is run beside
//! another version. `WAYBILL_ROLLING_RATE` says how many orders are placed in a second, and `WAYBILL_ROLLING_EXECUTABLE` who
//! serves them, for figures.

use futures::future::join_all;
use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{sync::watch, task::JoinSet, time::Instant};
use uuid::Uuid;
use waybill::{
    api::{Api, Cart, Tokens},
    system::Service,
};
use waybill_tests::{Process, ReadModels, Serve, World, eventually, run, settled};

const SOON: Duration = Duration::from_mins(2);
/// Orders in a second, unless the environment says otherwise: what a slow machine bears in a debug build.
const RATE: u32 = 10;

/// Everything as processes of their own, against one NATS and one PostgreSQL server.
struct Fleet {
    world: World,
    services: Vec<(Service, Serve)>,
    gateway: Serve,
    /// Where clients come in, as the address of a service on Kubernetes: whichever gateway is behind it.
    entrance: Entrance,
    started: usize,
}

type Entrance = Arc<Mutex<Api>>;

fn api(entrance: &Entrance) -> Api {
    entrance.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

impl Fleet {
    async fn start(executable: &Path) -> Self {
        let world = World::of(ReadModels::OnPostgres, &[], |_| ()).await.unwrap();
        let routes = include_str!("../../gateway/routes.toml").replace("quota = 100\n", "quota = 1000000\n");
        fs::write(world.config.data.with_file_name("routes.toml"), routes).unwrap();
        let services: Vec<_> = Service::ALL
            .into_iter()
            .map(|service| (service, serve(&world, executable, service, service.name())))
            .collect();
        let gateway = front(&world, executable, "gateway");
        let entrance = Arc::new(Mutex::new(entrance(&world, &gateway).await));
        let fleet = Self { world, services, gateway, entrance, started: 0 };
        for service in Service::ALL {
            fleet.known(service, 1).await;
        }
        fleet
    }

    /// Waits until the gateway knows so many instances of a service.
    async fn known(&self, service: Service, count: usize) {
        eventually(&format!("{count} instances of {service} are known"), SOON, async || {
            let api = api(&self.entrance);
            let answer = api.get(service, "/ops/instances").await;
            let listed = answer.ok()?.body;
            let of = listed.as_array()?.iter().filter(|one| one["service"] == service.name()).count();
            (of == count).then_some(())
        })
        .await;
    }

    /// Puts an instance beside that of a service, lets both work for a while, and stops the first.
    async fn replace(&mut self, service: Service, executable: &Path, load: &Load) {
        self.started += 1;
        let name = format!("{service}-{}", self.started);
        let new = serve(&self.world, executable, service, &name);
        self.known(service, 2).await;
        load.more().await;
        let (_, running) = self.services.iter_mut().find(|(known, _)| *known == service).unwrap();
        let mut old = std::mem::replace(running, new);
        old.terminate().unwrap();
        assert!(old.ended().await.unwrap().success(), "{service} ends well");
        self.known(service, 1).await;
        load.more().await;
    }

    /// The same for the gateway: clients are sent to the new one for a while before the old one stops.
    async fn replace_gateway(&mut self, executable: &Path, load: &Load) {
        self.started += 1;
        let new = front(&self.world, executable, &format!("gateway-{}", self.started));
        let to = entrance(&self.world, &new).await;
        *self.entrance.lock().unwrap_or_else(PoisonError::into_inner) = to;
        for service in Service::ALL {
            self.known(service, 1).await;
        }
        load.more().await;
        let mut old = std::mem::replace(&mut self.gateway, new);
        old.terminate().unwrap();
        assert!(old.ended().await.unwrap().success(), "the gateway ends well");
        load.more().await;
    }

    /// Whether nothing was lost: everything that must hold does, and the read models say what the log says.
    async fn verify(&self, orders: usize) {
        let audit = settled(&self.world.connect().await.unwrap(), &api(&self.entrance)).await.unwrap();
        assert_eq!(audit.ends(), [("completed", orders)].into());
        let read_models = self.world.read_models();
        let words = ["verify", "--nats-url", &self.world.config.nats_url].into_iter();
        let words: Vec<_> = words.chain(read_models.iter().map(String::as_str)).collect();
        let (code, said) = run(&words).await.unwrap();
        assert!(code == Some(0) && said.contains("everything agrees"), "{said}");
    }

    /// Prints the most memory that each process had, where the system tells.
    fn tell_memory(&self) {
        let named = self.services.iter().map(|(service, serve)| (service.name(), serve));
        let told: Vec<_> = named
            .chain([("gateway", &self.gateway)])
            .filter_map(|(name, serve)| Some(format!("{name} {} MiB", serve.peak_mib()?)))
            .collect();
        println!("memory: {}", told.join(", "));
    }

    /// Ends all of it in good order.
    async fn stop(mut self) {
        let all = self.services.iter_mut().map(|(_, serve)| serve).chain([&mut self.gateway]);
        let ended = join_all(all.map(async |serve| {
            serve.terminate().unwrap();
            serve.ended().await.unwrap().success()
        }));
        assert!(ended.await.into_iter().all(|well| well));
    }
}

fn serve(world: &World, executable: &Path, service: Service, name: &str) -> Serve {
    let flags: [&str; 0] = [];
    Serve::by(executable, world, service.name(), name, (&flags, &[])).unwrap()
}

fn front(world: &World, executable: &Path, name: &str) -> Serve {
    let routes = world.config.data.with_file_name("routes.toml");
    let flags = ["--gateway-config", routes.to_str().unwrap()];
    Serve::by(executable, world, "gateway", name, (&flags, &[])).unwrap()
}

/// What asks through a gateway, once every service answers through it.
async fn entrance(world: &World, gateway: &Serve) -> Api {
    let at = format!("http://{}/api", gateway.address().await);
    let urls = Service::ALL.map(|service| (service.name().to_owned(), at.clone()));
    let config = &world.config;
    let tokens = Tokens::open(&config.nats_url, &config.master_key, &config.clock).await.unwrap();
    let api = Api::at(urls.into()).with_tokens(tokens);
    eventually("the gateway has the keys of tokens", SOON, async || {
        let answer = api.get(Service::Operations, "/ops/instances").await.ok()?;
        (answer.status == 200).then_some(())
    })
    .await;
    api
}

/// Orders that are placed at a rate, each once.
struct Load {
    rate: u32,
    began: Instant,
    placed: watch::Receiver<usize>,
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<Vec<Placed>>,
}

/// What became of an attempt to place an order, and to look for products right after.
struct Placed {
    said: Result<Uuid, String>,
    /// From when it was to be placed until it was answered.
    took: Duration,
    due: Instant,
}

impl Load {
    fn start(entrance: &Entrance, cart: &Cart, rate: u32) -> Self {
        let (count, placed) = watch::channel(0);
        let (stop, stopped) = watch::channel(false);
        let (entrance, cart) = (Arc::clone(entrance), cart.clone());
        let task = tokio::spawn(async move {
            let mut every = tokio::time::interval(Duration::from_secs(1) / rate);
            let mut under_way = JoinSet::new();
            let mut all = Vec::new();
            for number in 0_usize.. {
                let due = every.tick().await;
                if *stopped.borrow() {
                    break;
                }
                let (entrance, cart) = (Arc::clone(&entrance), cart.clone());
                under_way
                    .spawn(async move { place(&entrance, &format!("rolling-{number}"), &cart, due).await });
                while let Some(done) = under_way.try_join_next() {
                    all.push(done.unwrap());
                    count.send_replace(all.len());
                }
            }
            all.extend(under_way.join_all().await);
            all
        });
        Self { rate, began: Instant::now(), placed, stop, task }
    }

    /// Waits until as many more orders are placed as in a second.
    async fn more(&self) {
        let (mut placed, until) = (self.placed.clone(), *self.placed.borrow() + self.rate as usize);
        tokio::time::timeout(SOON, placed.wait_for(|count| *count >= until)).await.unwrap().unwrap();
    }

    /// Places no more. Every order was accepted at the first attempt, or the test fails. Prints how long it took.
    async fn end(self) -> usize {
        self.stop.send_replace(true);
        let all = self.task.await.unwrap();
        let (rate, began) = (self.rate, self.began);
        let failed: Vec<_> =
            all.iter().filter_map(|one| Some((one.due - began, one.said.as_ref().err()?))).collect();
        assert!(failed.is_empty(), "{} of {} requests failed: {failed:#?}", failed.len(), all.len());
        let mut took: Vec<_> = all.iter().map(|one| one.took).collect();
        took.sort();
        let quantile = |percent: usize| took[(took.len() - 1) * percent / 100];
        println!(
            "{} orders at {rate}/s, none failed: p50 {:?}, p99 {:?}, longest {:?}",
            all.len(),
            quantile(50),
            quantile(99),
            quantile(100)
        );
        all.len()
    }
}

async fn place(entrance: &Entrance, key: &str, cart: &Cart, due: Instant) -> Placed {
    let answer = api(entrance).place(key, cart, &[]).await;
    let took = due.elapsed();
    let said = match answer {
        Ok(answer) if answer.status == 202 => answer.id().map_err(|error| error.to_string()),
        Ok(answer) => Err(format!("{} {}", answer.status, answer.body)),
        Err(error) => Err(format!("{error:?}")),
    };
    // Meanwhile there may be another gateway.
    let read = api(entrance).get(Service::Inventory, "/products").await;
    let said = match read {
        Ok(answer) if answer.status == 200 => said,
        Ok(answer) => Err(format!("products: {} {}", answer.status, answer.body)),
        Err(error) => Err(format!("products: {error:?}")),
    };
    Placed { said, took, due }
}

/// A customer who can pay for all of it.
async fn customer(fleet: &Fleet) -> Cart {
    let api = api(&fleet.entrance);
    let stocked = api.stock_product("p", ("TEA", "Tea", 1), 1_000_000).await.unwrap();
    let user_id = api.register("ada").await.unwrap();
    let (account_id, opened) = api.open_account("a", user_id, 100_000_000).await.unwrap();
    let cart = Cart { user_id, account_id, items: vec![("TEA".to_owned(), 1)], country: "DE".to_owned() };
    let after = [&stocked, &opened].map(|answer| answer.position().unwrap());
    api.place("first", &cart, &after).await.unwrap().expect(202, "the first order").unwrap();
    cart
}

fn rate() -> u32 {
    env::var("WAYBILL_ROLLING_RATE").map_or(RATE, |text| text.parse().unwrap())
}

fn executable() -> PathBuf {
    env::var_os("WAYBILL_ROLLING_EXECUTABLE").map_or_else(Process::executable, PathBuf::from)
}

/// Replaces every part of `before` by `after`, one after the other, while orders are placed.
async fn roll(before: &Path, after: &Path) {
    let mut fleet = Fleet::start(before).await;
    let cart = customer(&fleet).await;
    let load = Load::start(&fleet.entrance, &cart, rate());
    load.more().await;
    for service in Service::ALL {
        fleet.replace(service, after, &load).await;
    }
    fleet.replace_gateway(after, &load).await;
    let orders = load.end().await;
    fleet.tell_memory();
    fleet.verify(orders + 1).await;
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_part_is_restarted_under_load_and_no_request_fails() {
    Box::pin(roll(&executable(), &executable())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_runs_beside_the_one_before_and_nothing_is_lost() {
    let Some(previous) = env::var_os("WAYBILL_PREVIOUS").filter(|path| !path.is_empty()) else {
        eprintln!("WAYBILL_PREVIOUS names no executable of the version before: deploy/ci/previous makes one");
        return;
    };
    let previous = PathBuf::from(previous);
    assert!(previous.is_file(), "WAYBILL_PREVIOUS: {} is no file", previous.display());
    Box::pin(roll(&previous, &executable())).await;
}
