//! Read models on PostgreSQL: who may read what, and who works when somebody is killed.

use projections::{
    View,
    database::{Database, Storage},
};
use std::{process::Output, time::Duration};
use tokio::process::Command;
use waybill::{
    api::{Api, Cart},
    system::Service,
};
use waybill_tests::{Cluster, Process, ReadModels, Serve, World, eventually};

/// Far more than a takeover takes.
const SOON: Duration = Duration::from_secs(20);

/// Asks this instance for orders, and the world for everything else.
fn at(world: &World, orders: &str) -> Api {
    let mut urls = world.api.urls();
    urls.insert(Service::Orders.name().to_owned(), orders.to_owned());
    Api::at(urls).with_tokens(world.api.tokens().unwrap().clone())
}

async fn waybill(arguments: &[&str], env: &[(&str, &str)]) -> Output {
    Command::new(Process::executable()).args(arguments).envs(env.iter().copied()).output().await.unwrap()
}

/// What the command prints is what a service needs, and no service gets at the data of another one.
#[tokio::test(flavor = "multi_thread")]
async fn the_role_of_a_service_cannot_read_what_is_another_ones() {
    let cluster = Cluster::start();
    let admin = cluster.url("postgres");
    let made = waybill(&["provision-databases", "orders", "users"], &[("WAYBILL_POSTGRES", &admin)]).await;
    let printed = String::from_utf8(made.stdout).unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let url = |variable: &str| {
        let line = printed.lines().find_map(|line| line.strip_prefix(variable)?.strip_prefix('=')).unwrap();
        line.trim_matches('\'').to_owned()
    };
    let (orders, users) = (url("WAYBILL_DATABASE_URL_ORDERS"), url("WAYBILL_DATABASE_URL_USERS"));
    for (service, url) in [("orders", &orders), ("users", &users)] {
        let storage = Storage::Postgres(url.parse().unwrap());
        Database::open(&storage, View::of(service).unwrap(), 1).await.unwrap();
        cluster.try_sql(url, &format!("SELECT * FROM {service}_1.{service}")).unwrap();
    }
    // Its role and password, the other one's database.
    let foreign = orders.replace("/waybill_orders?", "/waybill_users?");
    let refused = cluster.try_sql(&foreign, "SELECT * FROM users_1.users").unwrap_err();
    assert!(refused.contains("permission denied for database"), "{refused}");
    let storage = Storage::Postgres(foreign.parse().unwrap());
    assert!(Database::open(&storage, View::of("users").unwrap(), 1).await.is_err());
    // Even where somebody lets it connect.
    cluster.sql("postgres", "GRANT CONNECT ON DATABASE waybill_users TO waybill_orders");
    let refused = cluster.try_sql(&foreign, "SELECT * FROM users_1.users").unwrap_err();
    assert!(refused.contains("permission denied for schema"), "{refused}");
    for forbidden in ["CREATE ROLE r", "CREATE DATABASE d", "CREATE TABLE public.t ()"] {
        let refused = cluster.try_sql(&orders, forbidden).unwrap_err();
        assert!(refused.contains("permission denied"), "{forbidden}: {refused}");
    }

    // Nothing that is said shows a password.
    let wrong = orders.replace("waybill_orders:", "waybill_orders:not");
    let world = World::of(ReadModels::OnSqlite, &[], |_| ()).await.unwrap();
    let key = world.config.master_key.to_base64();
    let env = [("WAYBILL_DATABASE_URL", wrong.as_str()), ("WAYBILL_MASTER_KEY", key.as_str())];
    let serving = ["serve", "orders", "--port", "0", "--nats-url", &world.config.nats_url];
    let failed = waybill(&serving, &env).await;
    let said =
        format!("{}{}", String::from_utf8_lossy(&failed.stdout), String::from_utf8_lossy(&failed.stderr));
    assert!(!failed.status.success() && said.contains("password authentication failed"), "{said}");
    let help = waybill(&["serve", "--help"], &env).await;
    let help = String::from_utf8(help.stdout).unwrap();
    let password = wrong.split(':').nth(2).unwrap().split('@').next().unwrap();
    assert!(
        help.contains("--database-url") && !help.contains(password) && !said.contains(password),
        "{said}"
    );
}

/// Two instances of a service on one database: one projects. Killed, the other one goes on within seconds.
#[tokio::test(flavor = "multi_thread")]
async fn another_instance_takes_over_when_the_one_that_projects_is_killed() {
    let others: Vec<_> = Service::ALL.into_iter().filter(|service| *service != Service::Orders).collect();
    let world = World::of(ReadModels::OnPostgres, &others, |_| ()).await.unwrap();
    let instance = async |name| {
        let serve = Serve::start(&world, "orders", name).unwrap();
        let address = serve.address().await;
        (serve, format!("http://{address}"))
    };
    let (mut first, at_first) = instance("one").await;
    let says = |serve: &Serve, what: &str| serve.log().iter().any(|line| line["message"] == what);
    let (second, at_second) = instance("two").await;
    eventually("the second one stands by", SOON, async || {
        says(&second, "another projector works: standing by").then_some(())
    })
    .await;
    let api = at(&world, &at_first);
    let user_id = api.register("u").await.unwrap();
    let stocked = api.stock_product("p", ("PEN", "Pen", 10), 1000).await.unwrap();
    let (account_id, _) = api.open_account("a", user_id, 100_000).await.unwrap();
    let cart = Cart { user_id, account_id, items: vec![("PEN".to_owned(), 1)], country: "DE".to_owned() };
    let after = stocked.position().unwrap();
    let placed = api.place("o1", &cart, &[after]).await.unwrap().expect(202, "an order").unwrap();
    // Who stands by answers with what the other one wrote.
    let (id, position) = (placed.id().unwrap(), placed.position().unwrap());
    let asked = api.http().get(format!("{at_second}/orders/{id}?after={position}"));
    assert_eq!(api.send_as_operator(asked).await.unwrap().status, 200);

    first.kill().await.unwrap();
    let api = at(&world, &at_second);
    let placed = api.place("o2", &cart, &[]).await.unwrap().expect(202, "an order").unwrap();
    let (id, position) = (placed.id().unwrap(), placed.position().unwrap());
    let answer = eventually("the second one has it", SOON, async || {
        let asked = api.http().get(format!("{at_second}/orders/{id}?after={position}"));
        api.send_as_operator(asked).await.ok().filter(|answer| answer.status == 200)
    })
    .await;
    assert_eq!(answer.body["id"], id.to_string());
    assert!(says(&second, "nobody else projects: taking over"));
    let connection = world.connect().await.unwrap();
    let view = View::of("orders").unwrap();
    let live = Database::open(&world.storage(Service::Orders), view, 1).await.unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let differences = projections::verify(view, &connection, &live, scratch.path()).await.unwrap();
    assert_eq!(differences, []);
}
