//! What `docker-compose.yml` starts, as processes: no container engine is needed to see that its commands, variables, files, secrets
//! and health checks fit together.

use nats::{Access, Connection};
use projections::database::Cluster;
use service::{
    Clock,
    tls::{ClientTls, Identity, authorities, certificates, key},
};
use std::{
    collections::BTreeMap, fs, os::unix::fs::PermissionsExt, process::Command, sync::Arc, time::Duration,
};
use waybill::{
    access::{NatsAccess, OPERATOR},
    api::{Api, Cart, Tokens},
    system::Service,
};
use waybill_tests::{Compose, eventually, settled};

const SOON: Duration = Duration::from_secs(30);

/// What a database answers whom a URL names.
fn ask(url: &str, sql: &str) -> Result<String, String> {
    let mut psql = Command::new(Cluster::programs().unwrap().join("psql"));
    let asked = psql.args(["--no-psqlrc", "-qtA", url, "-c", sql]).output().unwrap();
    let said = |text: &[u8]| String::from_utf8_lossy(text).trim().to_owned();
    if asked.status.success() { Ok(said(&asked.stdout)) } else { Err(said(&asked.stderr)) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_lets_in_only_its_own_service_with_its_certificate_and_its_password() {
    let mut compose = Compose::read(".env").await.unwrap();
    compose.start("orders-db").unwrap();
    compose.is_healthy("orders-db").await;
    // Who looks after its health does not fill its log.
    let refusals = |compose: &mut Compose| compose.log("orders-db").matches("FATAL").count();
    let before = refusals(&mut compose);
    compose.is_healthy("orders-db").await;
    assert_eq!(refusals(&mut compose), before, "{}", compose.log("orders-db"));

    // As the service is told, with files that psql takes: it wants a key that is its own.
    for role in ["orders", "users"] {
        let key = compose.secret(&format!("tls/{role}.key"));
        fs::set_permissions(key, fs::Permissions::from_mode(0o600)).unwrap();
    }
    let told = fs::read_to_string(compose.secret("orders-database-url")).unwrap();
    let mut url = told.replace("orders-db:5432", &compose.place("orders-db", 5432));
    for (secret, file) in [("tls-ca", "ca.pem"), ("tls-certificate", "orders.pem"), ("tls-key", "orders.key")]
    {
        let file = compose.secret(&format!("tls/{file}"));
        url = url.replace(&format!("/run/secrets/{secret}"), file.to_str().unwrap());
    }
    let who = "SELECT current_user, client_dn FROM pg_stat_ssl WHERE pid = pg_backend_pid() AND ssl";
    assert_eq!(ask(&url, who).unwrap(), "orders|/CN=orders");

    let (plain, shown) = url.split_once('?').unwrap();
    let (server, _) = shown.split_once("&sslcert").unwrap();
    let password = fs::read_to_string(compose.secret("orders-database-password")).unwrap();
    for (other, refused) in [
        (format!("{plain}?sslmode=disable"), "no encryption"),
        (format!("{plain}?{server}"), "requires a valid client certificate"),
        (url.replace("tls/orders.", "tls/users."), "authentication failed"),
        (url.replace(&password, "guessed"), "password authentication failed"),
        (url.replace("/orders?", "/postgres?"), "no pg_hba.conf entry"),
        (url.replace("//orders:", "//postgres:"), "no pg_hba.conf entry"),
    ] {
        let said = ask(&other, "SELECT 1").unwrap_err();
        assert!(said.contains(refused), "{other}: {said}");
    }
    // Whom it refuses for another name it tells no more; its log does.
    let log = compose.log("orders-db");
    assert!(log.contains("CN mismatch"), "{log}");
    compose.down().await.unwrap();
}

/// How the operator comes to NATS, and asks services: with the key and the certificate that the script has made.
struct Operator {
    connection: Connection,
    tokens: Tokens,
    /// Asks services themselves.
    direct: Api,
    tls: ClientTls,
}

impl Operator {
    async fn of(compose: &mut Compose, places: BTreeMap<String, String>) -> Self {
        let shown = ["pem", "key"].map(|end| compose.secret(&format!("tls/{OPERATOR}.{end}")));
        let ca = compose.secret("tls/ca.pem");
        let [certificate, private] = shown.clone();
        let common =
            Access { ca: Some(ca.clone()), certificate: Some((certificate, private)), ..Access::default() };
        let access = NatsAccess::of_folder(&common, &compose.secret("nats/seeds"), [OPERATOR]).unwrap();
        let nats_url = compose.variable("gateway", "WAYBILL_NATS_URL");
        let master = fs::read_to_string(compose.secret("master-key")).unwrap().parse().unwrap();
        let access = access.of(OPERATOR);
        let tokens = Tokens::open_as(&nats_url, access, &master, &Clock::system()).await.unwrap();
        let connection = Connection::connect_as(&nats_url, "test", access).await.unwrap();
        let identity = Identity::new(certificates(&shown[0]).unwrap(), key(&shown[1]).unwrap());
        let tls = ClientTls::new(authorities(&ca).unwrap(), Some(Arc::new(identity))).unwrap();
        let direct = Api::at(places).with_tls(&tls).unwrap();
        Self { connection, direct: direct.with_tokens(tokens.clone()), tokens, tls }
    }
}

/// An order is placed through the gateway at this URL, as clients do, and carried out; services are at `places`.
async fn an_order_runs(compose: &mut Compose, gateway: &str, places: BTreeMap<String, String>) -> Operator {
    let operator = Operator::of(compose, places).await;
    let urls = Service::ALL.map(|service| (service.name().to_owned(), format!("{gateway}/api")));
    let api = Api::at(urls.into()).with_tls(&operator.tls).unwrap().with_tokens(operator.tokens.clone());
    // A gateway that has just begun is told of services, and of the keys of tokens, by and by.
    eventually("the gateway knows every service", SOON, async || {
        let known = api.get(Service::Operations, "/ops/instances").await.unwrap().body;
        let well = |service: &Service| {
            let mut known = known.as_array().into_iter().flatten();
            known.any(|one| one["service"] == service.name() && one["healthy"] == true)
        };
        if Service::ALL.iter().all(well) {
            return Some(());
        }
        // Who asks is counted: not at once again.
        tokio::time::sleep(Duration::from_secs(1)).await;
        None
    })
    .await;
    let stocked = api.stock_product("p", ("TEA", "Tea", 450), 30).await.unwrap();
    let user_id = api.register("u").await.unwrap();
    let (account_id, opened) = api.open_account("a", user_id, 10_000).await.unwrap();
    let cart = Cart { user_id, account_id, items: vec![("TEA".to_owned(), 2)], country: "DE".to_owned() };
    let after = [stocked.position().unwrap(), opened.position().unwrap()];
    let placed = api.place("o", &cart, &after).await.unwrap().expect(202, "an order").unwrap();
    let audit = settled(&operator.connection, &operator.direct).await.unwrap();
    assert_eq!(audit.ends(), BTreeMap::from([("completed", 1)]));
    let order = api.order(placed.id().unwrap()).await.unwrap().body;
    assert_eq!(order["status"], "completed", "{order}");
    assert_eq!(order["userSnapshot"]["stale"], false, "orders could ask users: {order}");
    read_models_are_kept(compose);
    operator
}

/// Each in its own database, by who has come with TLS and a certificate of its name.
fn read_models_are_kept(compose: &mut Compose) {
    for service in Service::ALL.into_iter().filter(|service| *service != Service::Operations) {
        // From inside the container, as an operator may.
        let [place, port] = ["PGHOST", "PGPORT"].map(|name| compose.variable(&format!("{service}-db"), name));
        let inside = format!("postgres:///{service}?host={place}&port={port}&user=postgres");
        let known = "SELECT count(*) FROM pg_namespace WHERE nspname = 'waybill'";
        assert_eq!(ask(&inside, known).unwrap(), "1", "{service}");
        let shown = "SELECT DISTINCT usename, client_dn FROM pg_stat_activity JOIN pg_stat_ssl USING (pid) \
                     WHERE client_addr IS NOT NULL";
        assert_eq!(ask(&inside, shown).unwrap(), format!("{service}|/CN={service}"));
    }
}

/// Everything that compose starts with the variables of a file carries out an order, and stops when it is asked to.
async fn compose_runs(variables: &str, nodes: &[&str]) {
    let mut compose = Compose::read(variables).await.unwrap();
    compose.up().await.unwrap();
    let url = |service: Service| {
        (service.name().to_owned(), format!("https://{}", compose.published(service.port())))
    };
    let places = Service::ALL.map(url).into();
    // In plain HTTP, on this machine.
    let gateway = format!("http://{}", compose.published(8080));
    let operator = Box::pin(an_order_runs(&mut compose, &gateway, places)).await;
    // The nodes of the file hold what was recorded, all of them.
    for node in nodes {
        let monitor = format!("http://{}/jsz?streams=true&accounts=true", compose.place(node, 8222));
        let kept = operator.direct.http().get(monitor).send().await.unwrap().text().await.unwrap();
        assert!(kept.contains("\"ORDERS\""), "{node} keeps no orders: {kept}");
    }
    drop(operator);
    compose.down().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_starts_carries_out_an_order() {
    Box::pin(compose_runs(".env", &["nats-1", "nats-2", "nats-3"])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn so_it_does_with_one_node_of_nats() {
    Box::pin(compose_runs("deploy/compose/single.env", &["nats"])).await;
}

/// The manifests, as far as they go without a cluster: NATS, databases and secrets are those of compose.
#[tokio::test(flavor = "multi_thread")]
async fn the_pods_of_kubernetes_carry_out_an_order_with_their_variables_and_secrets() {
    let mut compose = Compose::pods("deploy/kubernetes/waybill-tls.yaml").await.unwrap();
    compose.up().await.unwrap();
    let url = |service: Service| {
        (service.name().to_owned(), format!("https://{}", compose.place(&format!("{service}-service"), 3000)))
    };
    let places = Service::ALL.map(url).into();
    let gateway = format!("https://{}", compose.place("gateway", 3000));
    drop(Box::pin(an_order_runs(&mut compose, &gateway, places)).await);
    compose.down().await.unwrap();
}
