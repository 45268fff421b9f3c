//! Every part is replaced while orders are placed: by the same version, and by another one, then also such that have to be undone,
//! with both workflows. Nobody notices.
//!
//! `WAYBILL_PREVIOUS` names an executable of the version before (`deploy/ci/previous` makes one): without it nothing is run beside
//! another version. `WAYBILL_ROLLING_RATE` says how many orders are placed in a second, and `WAYBILL_ROLLING_EXECUTABLE` who
//! serves them, for figures.

use futures::future::join_all;
use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{sync::watch, task::JoinSet, time::Instant};
use uuid::Uuid;
use waybill::{
    api::{Answer, Api, Cart, Tokens},
    failure::Failure,
    system::Service,
};
use waybill_tests::{Process, ReadModels, Serve, World, eventually, run, settled};

const SOON: Duration = Duration::from_mins(2);
/// Orders in a second, unless the environment says otherwise: what a slow machine bears in a debug build.
const RATE: u32 = 10;

/// Who consumes what is new before who writes it, and the gateway last: docs/operations.md, upgrades.
const ONE_BY_ONE: [Service; 8] = [
    Service::Notifications,
    Service::Operations,
    Service::Shipping,
    Service::Payments,
    Service::Inventory,
    Service::Fulfilment,
    Service::Orders,
    Service::Users,
];

/// Everything as processes of their own, against one NATS and one PostgreSQL server.
struct Fleet {
    world: World,
    services: Vec<(Service, Serve)>,
    gateway: Serve,
    /// Where clients come in, as the address of a service on Kubernetes: whichever gateway is behind it.
    entrance: Entrance,
    /// Who carries an order that does not say it.
    workflow: &'static str,
    started: usize,
}

type Entrance = Arc<Mutex<Api>>;

fn api(entrance: &Entrance) -> Api {
    entrance.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

impl Fleet {
    async fn start(executable: &Path, workflow: &'static str) -> Self {
        let world = World::of(ReadModels::OnPostgres, &[], |_| ()).await.unwrap();
        let routes = include_str!("../../gateway/routes.toml").replace("quota = 100\n", "quota = 1000000\n");
        fs::write(world.config.data.with_file_name("routes.toml"), routes).unwrap();
        let services: Vec<_> = Service::ALL
            .into_iter()
            .map(|service| (service, serve(&world, executable, (service, service.name()), workflow)))
            .collect();
        let gateway = front(&world, executable, "gateway");
        let entrance = Arc::new(Mutex::new(entrance(&world, &gateway).await));
        let fleet = Self { world, services, gateway, entrance, workflow, started: 0 };
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
        let new = serve(&self.world, executable, (service, &name), self.workflow);
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

    /// Whether nothing was lost: everything that must hold does, every order has ended as it should, and the read models say
    /// what the log says.
    async fn verify(&self, orders: &[Promised]) {
        let api = api(&self.entrance);
        let audit = settled(&self.world.connect().await.unwrap(), &api).await.unwrap();
        let mut ends = BTreeMap::new();
        for promised in orders {
            *ends.entry(promised.status).or_default() += 1;
            let order = api.order(promised.order).await.unwrap().body;
            let ended = (order["status"].as_str(), order["reason"].as_str());
            assert_eq!(ended, (Some(promised.status), promised.reason), "{order}");
        }
        println!("orders ended: {ends:?}");
        assert_eq!(audit.ends(), ends);
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

fn serve(world: &World, executable: &Path, (service, name): (Service, &str), workflow: &str) -> Serve {
    let flags = if service == Service::Orders { vec!["--workflow", workflow] } else { Vec::new() };
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

/// What is to become of an order.
#[derive(Clone, Copy, Debug)]
enum Fate {
    /// It is paid and sent.
    Completed,
    /// There is not enough money: what is held for it is released.
    Unpaid,
    /// Nobody brings it there: it is paid back too.
    Undeliverable,
    /// Its customer takes it back once he has looked at it so many times, or comes too late.
    TakenBack(usize),
}

/// An order to place, and what is to become of it.
#[derive(Clone, Debug)]
struct Kind {
    cart: Cart,
    fate: Fate,
    /// Who carries it, where it says so.
    workflow: Option<&'static str>,
}

/// How an order that was accepted has to end.
#[derive(Clone, Debug)]
struct Promised {
    order: Uuid,
    status: &'static str,
    reason: Option<&'static str>,
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
    said: Result<Promised, String>,
    /// From when it was to be placed until it was answered.
    took: Duration,
    due: Instant,
}

impl Load {
    fn start(entrance: &Entrance, kinds: Vec<Kind>, rate: u32) -> Self {
        let (count, placed) = watch::channel(0);
        let (stop, stopped) = watch::channel(false);
        let entrance = Arc::clone(entrance);
        let task = tokio::spawn(async move {
            let mut every = tokio::time::interval(Duration::from_secs(1) / rate);
            let mut under_way = JoinSet::new();
            let mut all = Vec::new();
            for number in 0_usize.. {
                let due = every.tick().await;
                if *stopped.borrow() {
                    break;
                }
                let (entrance, kind) = (Arc::clone(&entrance), kinds[number % kinds.len()].clone());
                under_way
                    .spawn(async move { place(&entrance, &format!("rolling-{number}"), &kind, due).await });
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
    async fn end(self) -> Vec<Promised> {
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
        all.into_iter().filter_map(|one| one.said.ok()).collect()
    }
}

async fn place(entrance: &Entrance, key: &str, kind: &Kind, due: Instant) -> Placed {
    let answer = send(&api(entrance), key, kind).await;
    let took = due.elapsed();
    let said = match answer {
        Ok(answer) if answer.status == 202 => answer.id().map_err(|error| error.to_string()),
        Ok(answer) => Err(format!("{} {}", answer.status, answer.body)),
        Err(error) => Err(format!("{error:?}")),
    };
    // Meanwhile there may be another gateway.
    let said = match said {
        Ok(order) => promise(&api(entrance), key, kind.fate, order).await,
        Err(refused) => Err(refused),
    };
    let read = api(entrance).get(Service::Inventory, "/products").await;
    let said = match read {
        Ok(answer) if answer.status == 200 => said,
        Ok(answer) => Err(format!("products: {} {}", answer.status, answer.body)),
        Err(error) => Err(format!("products: {error:?}")),
    };
    Placed { said, took, due }
}

async fn send(api: &Api, key: &str, Kind { cart, workflow, .. }: &Kind) -> Result<Answer, Failure> {
    let mut body = cart.body();
    if let Some(workflow) = workflow {
        body["workflow"] = (*workflow).into();
    }
    let request = api.http().post(api.url(Service::Orders, "/orders")).header("Idempotency-Key", key);
    api.send_as(cart.user_id, request.json(&body)).await
}

/// How an order has to end that was accepted, once its customer has said all that he has to say.
async fn promise(api: &Api, key: &str, fate: Fate, order: Uuid) -> Result<Promised, String> {
    let (status, reason) = match fate {
        Fate::Completed => ("completed", None),
        Fate::Unpaid => ("failed", Some("insufficient_funds")),
        Fate::Undeliverable => ("failed", Some("carrier_refused")),
        Fate::TakenBack(looks) => take_back(api, key, order, looks).await?,
    };
    Ok(Promised { order, status, reason })
}

/// Cancels an order after so many looks at it: how it ends.
async fn take_back(
    api: &Api,
    key: &str,
    order: Uuid,
    looks: usize,
) -> Result<(&'static str, Option<&'static str>), String> {
    for _ in 0..looks {
        match api.order(order).await {
            // It may not be in the read model yet.
            Ok(answer) if [200, 404].contains(&answer.status) => {}
            Ok(answer) => return Err(format!("order: {} {}", answer.status, answer.body)),
            Err(error) => return Err(format!("order: {error:?}")),
        }
    }
    match api.cancel(&format!("back-{key}"), order).await {
        Ok(answer) if answer.status == 202 => Ok(("cancelled", Some("order_cancelled"))),
        Ok(answer) if answer.status == 409 => Ok(("completed", None)),
        Ok(answer) => Err(format!("cancel: {} {}", answer.status, answer.body)),
        Err(error) => Err(format!("cancel: {error:?}")),
    }
}

/// A customer who can pay for all of it, and one who cannot: what they order.
async fn customers(fleet: &Fleet) -> ([Cart; 2], Promised) {
    let api = api(&fleet.entrance);
    let stocked = api.stock_product("p", ("TEA", "Tea", 1), 1_000_000).await.unwrap();
    let mut carts = Vec::new();
    let mut after = vec![stocked.position().unwrap().to_owned()];
    for (name, money) in [("ada", 100_000_000), ("bob", 0)] {
        let user_id = api.register(name).await.unwrap();
        let (account_id, opened) = api.open_account(name, user_id, money).await.unwrap();
        after.push(opened.position().unwrap().to_owned());
        let items = vec![("TEA".to_owned(), 1)];
        carts.push(Cart { user_id, account_id, items, country: "DE".to_owned() });
    }
    let after: Vec<_> = after.iter().map(String::as_str).collect();
    // Who places orders has seen all of this from here on.
    let first = api.place("first", &carts[0], &after).await.unwrap();
    let order = first.expect(202, "the first order").unwrap().id().unwrap();
    (carts.try_into().unwrap(), Promised { order, status: "completed", reason: None })
}

fn rate() -> u32 {
    env::var("WAYBILL_ROLLING_RATE").map_or(RATE, |text| text.parse().unwrap())
}

fn executable() -> PathBuf {
    env::var_os("WAYBILL_ROLLING_EXECUTABLE").map_or_else(Process::executable, PathBuf::from)
}

/// Orders of every kind, with both workflows in turn.
fn mixed([pays, poor]: &[Cart; 2], workflows: [Option<&'static str>; 2]) -> Vec<Kind> {
    let nowhere = Cart { country: "AQ".to_owned(), ..pays.clone() };
    let all = [
        (pays, Fate::Completed),
        (poor, Fate::Unpaid),
        (&nowhere, Fate::Undeliverable),
        (pays, Fate::TakenBack(0)),
        (pays, Fate::TakenBack(5)),
    ];
    let kinds = all
        .into_iter()
        .flat_map(|(cart, fate)| workflows.map(|workflow| Kind { cart: cart.clone(), fate, workflow }));
    kinds.collect()
}

/// Replaces every part of `before` by `after`, one after the other, while orders are placed of the kinds that there are for two
/// customers.
async fn roll(
    (before, after): (&Path, &Path),
    workflow: &'static str,
    kinds: impl FnOnce(&[Cart; 2]) -> Vec<Kind>,
) {
    let mut fleet = Fleet::start(before, workflow).await;
    let (carts, first) = customers(&fleet).await;
    let load = Load::start(&fleet.entrance, kinds(&carts), rate());
    load.more().await;
    for service in ONE_BY_ONE {
        fleet.replace(service, after, &load).await;
    }
    fleet.replace_gateway(after, &load).await;
    let orders = [load.end().await, vec![first]].concat();
    fleet.tell_memory();
    fleet.verify(&orders).await;
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_part_is_restarted_under_load_and_no_request_fails() {
    let executable = executable();
    let plain =
        |[pays, _]: &[Cart; 2]| vec![Kind { cart: pays.clone(), fate: Fate::Completed, workflow: None }];
    Box::pin(roll((&executable, &executable), "choreography", plain)).await;
}

/// With orders that have to be undone, in each of the places where that can happen, and carried in either way.
#[tokio::test(flavor = "multi_thread")]
async fn a_version_runs_beside_the_one_before_and_nothing_is_lost() {
    let Some(previous) = env::var_os("WAYBILL_PREVIOUS").filter(|path| !path.is_empty()) else {
        eprintln!("WAYBILL_PREVIOUS names no executable of the version before: deploy/ci/previous makes one");
        return;
    };
    let previous = PathBuf::from(previous);
    assert!(previous.is_file(), "WAYBILL_PREVIOUS: {} is no file", previous.display());
    let kinds = |carts: &[Cart; 2]| mixed(carts, [None, Some("choreography")]);
    Box::pin(roll((&previous, &executable()), "orchestration", kinds)).await;
}
