//! A database is lost, and comes back from a copy that is older than the log, with the commands of docs/operations.md: what has
//! happened since is in it soon, once, and nobody is told anything that he knows.

use events::Position;
use nats::{Filter, From, Reader, Until};
use projections::{
    View,
    database::{Cluster, Database, Storage},
};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    process::{Child, Command, Stdio},
    time::Duration,
};
use waybill::{
    api::{Api, Cart},
    system::Service,
};
use waybill_tests::{ReadModels, Serve, World, eventually, run, settled};

const SOON: Duration = Duration::from_secs(30);

/// A program of PostgreSQL, run to its end.
fn program(name: &str, arguments: &[&str]) {
    let mut program = Command::new(Cluster::programs().unwrap().join(name));
    let done = program.args(arguments).output().unwrap();
    assert!(done.status.success(), "{name}: {}", String::from_utf8_lossy(&done.stderr));
}

/// All services, of which orders are a process of their own, with a database on a server of their own.
struct Shop {
    world: World,
    server: Cluster,
    orders: Serve,
    /// The database of orders.
    url: String,
    api: Api,
    cart: Cart,
    placed: usize,
}

/// An empty database, with the command that says so: where it is.
async fn made(server: &Cluster) -> String {
    let admin = server.url("postgres");
    let (code, said) = run(&["provision-databases", "orders", "--admin-url", &admin]).await.unwrap();
    assert_eq!(code, Some(0), "{said}");
    let url = said.lines().find_map(|line| line.strip_prefix("WAYBILL_DATABASE_URL_ORDERS='")).unwrap();
    url.trim_end_matches('\'').to_owned()
}

/// Starts orders on this database, under this name.
async fn serving(world: &World, name: &str, url: &str) -> (Serve, Api) {
    let orders = Serve::with(world, "orders", name, &["--database-url", url]).unwrap();
    let mut urls = world.api.urls();
    urls.insert("orders".to_owned(), format!("http://{}", orders.address().await));
    let api = Api::at(urls).with_tokens(world.api.tokens().unwrap().clone());
    (orders, api)
}

impl Shop {
    async fn open() -> Self {
        let others: Vec<_> = Service::ALL.into_iter().filter(|service| *service != Service::Orders).collect();
        let world = World::of(ReadModels::OnSqlite, &others, |_| ()).await.unwrap();
        let server = Cluster::start(&["fsync=off"]).unwrap();
        let url = made(&server).await;
        let (orders, api) = serving(&world, "orders", &url).await;
        api.wait_ready(SOON).await.unwrap();
        api.stock_product("p", ("TEA", "Tea", 450), 1000).await.unwrap();
        let user_id = api.register("u").await.unwrap();
        let (account_id, _) = api.open_account("a", user_id, 1_000_000).await.unwrap();
        let items = vec![("TEA".to_owned(), 1)];
        let cart = Cart { user_id, account_id, items, country: "DE".to_owned() };
        Self { world, server, orders, url, api, cart, placed: 0 }
    }

    /// Places so many orders, every third of which cannot be sent and is undone.
    async fn place(&mut self, count: usize) {
        let nowhere = Cart { country: "AQ".to_owned(), ..self.cart.clone() };
        for number in self.placed..self.placed + count {
            let cart = if number % 3 == 2 { &nowhere } else { &self.cart };
            let placed = self.api.place(&format!("o{number}"), cart, &[]).await.unwrap();
            placed.expect(202, "an order").unwrap();
        }
        self.placed += count;
    }

    async fn settled(&self) {
        let audit = settled(&self.world.connect().await.unwrap(), &self.api).await.unwrap();
        let failed = self.placed / 3;
        assert_eq!(audit.ends(), [("completed", self.placed - failed), ("failed", failed)].into());
    }

    /// What a client is told who goes on behind `last`, or begins; none where he is asked to come again.
    async fn follow(&self, last: Option<&str>) -> Option<Told> {
        let token = self.api.tokens().unwrap().operator().await.unwrap();
        let path = self.api.url(Service::Orders, "/orders/stream?until=live&limit=100");
        let asked = self.api.http().get(path).bearer_auth(token);
        let asked = if let Some(last) = last { asked.header("Last-Event-ID", last) } else { asked };
        let answer = asked.send().await.unwrap();
        if answer.status() == 503 {
            return None;
        }
        assert_eq!(answer.status(), 200);
        Some(Told::read(&answer.text().await.unwrap()))
    }

    /// Events of each stream that the tables of orders are made of, behind these positions.
    async fn behind(&self, checkpoints: &[Position]) -> usize {
        let (connection, view) = (self.world.connect().await.unwrap(), View::of("orders").unwrap());
        let mut count = 0;
        for position in checkpoints {
            let from = From::Sequence(position.sequence + 1);
            let reader = Reader::open(&connection, position.context, from, Until::End, Filter::default());
            let mut reader = reader.await.unwrap();
            loop {
                let batch = reader.next_batch(500).await.unwrap();
                if batch.is_empty() {
                    break;
                }
                let counts = batch.iter().filter(|one| view.aggregates.contains(&one.subject.aggregate()));
                count += counts.count();
            }
        }
        count
    }

    /// Up to where the tables in a database are, while no service works on them.
    async fn checkpoints(&self) -> Vec<Position> {
        let storage = Storage::Postgres(self.url.parse().unwrap());
        let database = Database::open(&storage, View::of("orders").unwrap(), 1).await.unwrap();
        database.moment().await.unwrap().checkpoints().to_vec()
    }

    /// How many events this process has written into tables.
    async fn applied(&self) -> usize {
        let page = self.api.http().get(self.api.url(Service::Orders, "/metrics")).send().await.unwrap();
        let page = page.text().await.unwrap();
        let name = r#"waybill_projection_batch_events_sum{projection="orders"} "#;
        let sum = page.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("0");
        sum.split('.').next().unwrap().parse().unwrap()
    }

    async fn is_ready(&self) -> bool {
        let answer = self.api.http().get(self.api.url(Service::Orders, "/ready")).send().await;
        answer.is_ok_and(|answer| answer.status() == 200)
    }
}

/// What a client was told, up to where it was all.
struct Told {
    /// The names of events, each once.
    names: Vec<String>,
    orders: Vec<Value>,
    last: String,
}

impl Told {
    fn read(text: &str) -> Self {
        let mut told = Self { names: Vec::new(), orders: Vec::new(), last: String::new() };
        for block in text.split("\n\n") {
            let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name));
            if let Some(id) = field("id: ") {
                id.clone_into(&mut told.last);
            }
            let Some((name, data)) = field("event: ").zip(field("data: ")) else { continue };
            let data: Value = serde_json::from_str(data).unwrap();
            match name {
                "snapshot" => told.orders.extend(data["items"].as_array().unwrap().iter().cloned()),
                "change" => told.orders.push(data),
                _ => {}
            }
            if !told.names.iter().any(|known| known == name) {
                told.names.push(name.to_owned());
            }
        }
        told
    }

    /// Each order as it was told last, and how often it was.
    fn by_order(&self) -> BTreeMap<String, (usize, &Value)> {
        let mut all = BTreeMap::new();
        for order in &self.orders {
            let (count, last) = all.entry(order["id"].to_string()).or_insert((0, order));
            (*count, *last) = (*count + 1, order);
        }
        all
    }
}

/// A lock on a table, so that nobody writes there; those who read do not notice.
struct Stopped(Child);

impl Stopped {
    async fn now(server: &Cluster, table: &str) -> Self {
        let url = server.url("waybill_orders");
        let sql = format!("BEGIN; LOCK TABLE {table} IN EXCLUSIVE MODE; SELECT pg_sleep(600)");
        let mut psql = Command::new(Cluster::programs().unwrap().join("psql"));
        let psql = psql.args(["--no-psqlrc", "-qtA", &url, "-c", &sql]).stdout(Stdio::null());
        let stopped = Self(psql.spawn().unwrap());
        let held = "SELECT EXISTS (SELECT FROM pg_locks WHERE mode = 'ExclusiveLock' AND granted AND relation IS NOT NULL)";
        eventually("nobody writes", SOON, async || (server.sql(&url, held).ok()? == "t").then_some(())).await;
        stopped
    }

    fn go_on(mut self, server: &Cluster) {
        let sleeping =
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'BEGIN; LOCK%'";
        server.sql(&server.url("postgres"), sleeping).unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_database_comes_back_from_an_older_copy_and_catches_up() {
    let mut shop = Box::pin(Shop::open()).await;
    let dump = shop.world.config.data.with_file_name("orders.dump");
    let dump = dump.to_str().unwrap().to_owned();
    // A copy is made while orders are on their way.
    shop.place(6).await;
    let copying = {
        let (url, dump) = (shop.url.clone(), dump.clone());
        tokio::task::spawn_blocking(move || program("pg_dump", &["--format=custom", "--file", &dump, &url]))
    };
    shop.place(6).await;
    copying.await.unwrap();
    shop.place(6).await;
    shop.settled().await;
    let seen = shop.follow(None).await.unwrap();
    assert_eq!((&seen.names[..], seen.orders.len()), (&["snapshot".to_owned(), "live".to_owned()][..], 18));

    // It is lost, under the hands of the service: that is not ready, and takes commands.
    shop.server.sql(&shop.server.url("postgres"), "DROP DATABASE waybill_orders WITH (FORCE)").unwrap();
    eventually("it is not ready", SOON, async || (!shop.is_ready().await).then_some(())).await;
    shop.place(6).await;
    assert!(!shop.orders.has_ended());
    shop.orders.terminate().unwrap();
    assert!(shop.orders.ended().await.unwrap().success());

    // As the page says.
    shop.url = made(&shop.server).await;
    program(
        "pg_restore",
        &["--no-owner", "--no-privileges", "--exit-on-error", "--dbname", &shop.url, &dump],
    );
    let copied = shop.checkpoints().await;
    assert!(shop.behind(&copied).await > 0 && copied.iter().any(|one| one.sequence > 0), "{copied:?}");

    // While it has yet to catch up nobody is shown less than was told before.
    let stopped = Stopped::now(&shop.server, "orders_1.orders").await;
    (shop.orders, shop.api) = serving(&shop.world, "again", &shop.url).await;
    assert!(shop.follow(None).await.is_none() && shop.follow(Some(&seen.last)).await.is_none());
    stopped.go_on(&shop.server);
    shop.settled().await;
    assert_eq!(shop.applied().await, shop.behind(&copied).await, "each once");
    let verify = ["verify", "orders", "--nats-url", &shop.world.config.nats_url, "--database-url", &shop.url];
    let (code, said) = run(&verify).await.unwrap();
    assert!(code == Some(0) && said.contains("everything agrees"), "{said}");

    // Who goes on where he was hears of the new ones only, and of each as it is.
    let missed = shop.follow(Some(&seen.last)).await.unwrap();
    assert_eq!(missed.names, ["change", "live"]);
    let (seen, missed) = (seen.by_order(), missed.by_order());
    assert!(missed.len() == 6 && missed.keys().all(|order| !seen.contains_key(order)), "{missed:?}");
    let now = shop.follow(None).await.unwrap();
    for (order, (_, last)) in now.by_order() {
        let (count, told) = missed.get(&order).or_else(|| seen.get(&order)).unwrap();
        assert_eq!((*count, *told), (1, last));
    }
    assert!(shop.world.stop().await);
}
