//! TLS between everything: an order runs through a gateway that speaks it to services that ask for certificates; whoever has
//! none, or one of somebody else, is refused and told why.

mod telemetry;

use crate::READ_MODELS;
use axum::{Json, Router, routing::get};
use nats::{Instance, InstanceId, Registration, Registry, RegistryOptions};
use reqwest::{Certificate, Client, Identity as Shown};
use serde_json::{Value, json};
use service::{
    Clock,
    tls::{ClientTls, Identity, Listener, ServerTls, Tls, authorities, certificates, key},
};
use std::{
    fs,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tempfile::TempDir;
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
};
use waybill::{
    api::Cart,
    system::{Config, Service},
};
use waybill_tests::{Serve, World, eventually, run};

const SOON: Duration = Duration::from_secs(30);
const ROUTES: &str = include_str!("../../gateway/routes.toml");

/// Certificates of one authority.
struct Certificates(TempDir);

impl Certificates {
    async fn make() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (code, said) = run(&["dev-certs", "--out", dir.path().to_str().unwrap()]).await.unwrap();
        assert_eq!(code, Some(0), "{said}");
        Self(dir)
    }

    fn file(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    /// Mutual TLS with the certificate of one role, for services in this process.
    fn mutual(&self, role: &str) -> Tls {
        let chain = certificates(&self.path(&format!("{role}.pem"))).unwrap();
        let identity = Arc::new(Identity::new(chain, key(&self.path(&format!("{role}.key"))).unwrap()));
        let roots = authorities(&self.path("ca.pem")).unwrap();
        let listen = ServerTls::new(&identity, Some(roots.clone())).unwrap();
        Tls { listen: Some(listen), call: Some(ClientTls::new(roots, Some(identity)).unwrap()) }
    }

    /// Flags by which a process calls as a role, and listens as it.
    fn as_role(&self, role: &str) -> Vec<String> {
        let of = |end: &str| self.file(&format!("{role}.{end}"));
        let ca = self.file("ca.pem");
        ["--tls-ca", &ca, "--tls-cert", &of("pem"), "--tls-key", &of("key"), "--tls-client-ca", &ca]
            .map(str::to_owned)
            .to_vec()
    }

    /// Those by which a gateway speaks TLS to its clients too.
    fn edge(&self) -> Vec<String> {
        let own = ["--gateway-cert", &self.file("gateway.pem"), "--gateway-key", &self.file("gateway.key")];
        self.as_role("gateway").into_iter().chain(own.map(str::to_owned)).collect()
    }

    /// Who believes this authority, and shows no certificate unless it is that of a role.
    fn client(&self, role: Option<&str>) -> Client {
        let ca = fs::read(self.path("ca.pem")).unwrap();
        let builder = Client::builder().no_proxy().timeout(SOON);
        let builder = builder.tls_certs_only([Certificate::from_pem(&ca).unwrap()]);
        let builder = match role {
            Some(role) => {
                let read = |end: &str| fs::read(self.path(&format!("{role}.{end}"))).unwrap();
                builder.identity(Shown::from_pem(&[read("pem"), read("key")].concat()).unwrap())
            }
            None => builder,
        };
        builder.build().unwrap()
    }
}

/// All services in this process, with mutual TLS.
async fn world(certificates: &Certificates) -> World {
    let tls = certificates.mutual("all");
    World::with(READ_MODELS, |config| config.tls = tls).await.unwrap()
}

/// A gateway process that notices soon what is wrong with instances.
async fn gateway(world: &World, name: &str, flags: &[String]) -> (Serve, SocketAddr) {
    let file = world.config.data.with_file_name("gateway.toml");
    fs::write(&file, format!("[health]\nevery = \"200ms\"\nfall = 1\n{ROUTES}")).unwrap();
    let config = ["--gateway-config".to_owned(), file.to_str().unwrap().to_owned()];
    let process = Serve::with(world, "gateway", name, &[&config, flags].concat()).unwrap();
    let address = process.address().await;
    (process, address)
}

/// Waits until the log of a process has a line that says this.
async fn says(process: &Serve, what: &str) {
    eventually(what, SOON, async || {
        process.log().iter().any(|line| line.to_string().contains(what)).then_some(())
    })
    .await;
}

/// What is wrong with a connection, in the words of the library.
fn why(error: &reqwest::Error) -> String {
    service::tls::fault(error).unwrap_or_else(|| format!("{error:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_runs_through_a_gateway_and_services_that_speak_tls() {
    let certificates = Certificates::make().await;
    let world = world(&certificates).await;
    let (edge, address) = gateway(&world, "edge", &certificates.edge()).await;
    // One more of orders, as a process of its own with the certificate of orders.
    let orders = Serve::with(&world, "orders", "orders-2", &certificates.as_role("orders")).unwrap();
    let direct = orders.address().await;
    // Who connects and says nothing holds up nobody, here and there.
    let (_silent, _mute) =
        (TcpStream::connect(address).await.unwrap(), TcpStream::connect(direct).await.unwrap());

    let client = certificates.client(None);
    let token = world.api.tokens().unwrap().operator().await.unwrap();
    let ask = async |path: &str| {
        let asked = client.get(format!("https://localhost:{}{path}", address.port())).bearer_auth(&token);
        let answer = asked.send().await.ok()?;
        let status = answer.status().as_u16();
        Some((status, answer.json::<Value>().await.unwrap_or_default()))
    };
    eventually("both instances of orders are well", SOON, async || {
        let (_, instances) = ask("/api/ops/instances").await?;
        let well = |one: &&Value| one["service"] == "orders" && one["healthy"] == true;
        (instances.as_array()?.iter().filter(well).count() == 2).then_some(())
    })
    .await;

    // Through all of it: the gateway asks services, orders ask users, and everything settles.
    let stocked = world.api.stock_product("p", ("TEA", "Tea", 450), 30).await.unwrap();
    let user_id = world.api.register("u").await.unwrap();
    let (account_id, opened) = world.api.open_account("a", user_id, 10_000).await.unwrap();
    let items = vec![("TEA".to_owned(), 2)];
    let cart = Cart { user_id, account_id, items, country: "DE".to_owned() };
    let after = format!("{},{}", stocked.position().unwrap(), opened.position().unwrap());
    let customer = world.api.tokens().unwrap().customer(user_id).await.unwrap();
    for number in 0..4 {
        let placed = client
            .post(format!("https://127.0.0.1:{}/api/orders", address.port()))
            .bearer_auth(&customer)
            .header("Idempotency-Key", format!("o-{number}"))
            .header("Waybill-Position", &after)
            .json(&cart.body());
        let placed = placed.send().await.unwrap();
        assert_eq!(placed.status().as_u16(), 202, "{}", placed.text().await.unwrap());
        let placed: Value = placed.json().await.unwrap();
        let path = format!("/api/orders/{}", placed["id"].as_str().unwrap());
        let order = eventually("the order is carried out", SOON, async || {
            let (status, order) = ask(&path).await?;
            (status == 200 && order["status"] == "completed").then_some(order)
        })
        .await;
        assert_eq!(order["userSnapshot"]["stale"], false, "orders could ask users: {order}");
    }

    // Plain HTTP is not spoken where TLS is; what there was to say is said in TLS.
    assert!(client.get(format!("http://{address}/health")).send().await.is_err());
    // How each is, for what starts containers.
    let port = direct.port().to_string();
    let health = |flags: &[&str]| {
        let line = [&["health", "--ready", "--port", &port], flags].concat();
        line.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let own = certificates.as_role("orders");
    let own: Vec<_> = own[..6].iter().map(String::as_str).collect();
    let ready = health(&own);
    eventually("it is ready", SOON, async || {
        let (code, _) = run(&ready.iter().map(String::as_str).collect::<Vec<_>>()).await.ok()?;
        (code == Some(0)).then_some(())
    })
    .await;
    // What it counts, too: so a canary is asked from inside its pod.
    let url = format!("https://127.0.0.1:{port}");
    let counts = [&["health", "--metrics", "--port", &port], &own[..]].concat();
    let (code, said) = run(&counts).await.unwrap();
    assert!(code == Some(0) && said.contains("waybill_commands_total{outcome=\"recorded\"}"), "{said}");
    let bare = ["health", "--url", &url, "--tls-ca", &certificates.file("ca.pem")];
    // With TLS 1.3 that is said when the connection stands, and may come when it is given up already.
    eventually("who shows no certificate is told so", SOON, async || {
        let (code, said) = run(&bare).await.unwrap();
        assert_eq!(code, Some(1), "{said}");
        said.contains("it asks for a certificate, and none was shown").then_some(())
    })
    .await;
    drop((edge, orders));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_shows_no_certificate_or_one_of_somebody_else_is_refused_and_told_why() {
    let (certificates, others) = (Certificates::make().await, Certificates::make().await);
    let world = world(&certificates).await;
    let (_, inventory) =
        world.system.as_ref().unwrap().addresses().iter().find(|(of, _)| **of == Service::Inventory).unwrap();
    let url = format!("https://127.0.0.1:{}/health", inventory.port());
    let health = async |client: Client| client.get(&url).send().await;

    assert_eq!(health(certificates.client(Some("gateway"))).await.unwrap().status(), 200);
    // Each time it is refused. In TLS 1.3 the reason comes behind the handshake: a client that is about to send may find
    // the connection gone before it has read why.
    let refused = async |client: &dyn Fn() -> Client, reason: &str| {
        eventually(reason, SOON, async || {
            let error = health(client()).await.unwrap_err();
            (why(&error) == reason).then_some(())
        })
        .await;
    };
    refused(&|| certificates.client(None), "it asks for a certificate, and none was shown").await;
    let foreign = "its certificate is signed by somebody who is not believed";
    refused(&|| others.client(Some("gateway")), foreign).await;
    // One that it believes shows a certificate that somebody else has signed.
    let mixed = tempfile::tempdir().unwrap();
    fs::copy(certificates.path("ca.pem"), mixed.path().join("ca.pem")).unwrap();
    for end in ["pem", "key"] {
        let name = format!("gateway.{end}");
        fs::copy(others.path(&name), mixed.path().join(&name)).unwrap();
    }
    let mixed = Certificates(mixed);
    refused(&|| mixed.client(Some("gateway")), "it does not accept the certificate that was shown").await;
    // Whoever speaks plainly is hung up on.
    let mut plain = TcpStream::connect(inventory).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut plain, b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!String::from_utf8_lossy(&answer).contains("HTTP/1.1"), "{answer:?}");

    // The same of gateways: with another authority, without a certificate, and with nothing that is said of TLS.
    let (wrong, at) = gateway(&world, "wrong", &others.as_role("gateway")).await;
    says(&wrong, "its certificate is signed by somebody who is not believed").await;
    let asked = Client::new().get(format!("http://{at}/api/products/TEA")).send().await.unwrap();
    assert_eq!(asked.status(), 503);
    let bare = ["--tls-ca".to_owned(), certificates.file("ca.pem")];
    let (bare, _) = gateway(&world, "bare", &bare).await;
    says(&bare, "it asks for a certificate, and none was shown").await;
    let (open, at) = gateway(&world, "open", &[]).await;
    says(&open, "it speaks TLS, and nothing says whose certificates to believe: --tls-ca").await;
    assert_eq!(
        Client::new().get(format!("http://{at}/api/products/TEA")).send().await.unwrap().status(),
        503
    );
}

/// Answers everything, and counts it, with the certificate of one service, known as those that are named.
struct Answering {
    heard: Arc<AtomicU32>,
    _known: Vec<Registration>,
}

impl Answering {
    async fn start(world: &World, listen: Option<ServerTls>, known_as: &[&str]) -> Self {
        let heard = Arc::new(AtomicU32::new(0));
        let counter = Arc::clone(&heard);
        let answer = async move || {
            counter.fetch_add(1, Ordering::SeqCst);
            Json(json!({ "erased": false }))
        };
        // Whoever checks its health is not counted.
        let router = Router::new().route("/health", get(async || ())).fallback(answer);
        let scheme = if listen.is_some() { "https" } else { "http" };
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("{scheme}://{}", tcp.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(Listener::new(tcp, listen), router).await });
        let connection = world.connect().await.unwrap();
        let mut known = Vec::new();
        for service in known_as {
            let clock = Clock::system();
            let instance = Instance {
                service: (*service).to_owned(),
                id: InstanceId(clock.uuid()),
                url: url.clone(),
                version: "1".to_owned(),
                started: clock.now(),
            };
            let options = RegistryOptions::default();
            known.push(Registration::start(&connection, instance, options).await.unwrap());
        }
        Self { heard, _known: known }
    }

    fn heard(&self) -> u32 {
        self.heard.load(Ordering::SeqCst)
    }
}

/// A gateway that looks after the health of an instance once, and believes in it all the same.
async fn trustful(world: &World, name: &str, flags: &[String]) -> (Serve, SocketAddr) {
    let file = world.config.data.with_file_name(format!("{name}.toml"));
    fs::write(&file, format!("[health]\nevery = \"1h\"\nfall = 2\n{ROUTES}")).unwrap();
    let config = ["--gateway-config".to_owned(), file.to_str().unwrap().to_owned()];
    let process = Serve::with(world, "gateway", name, &[&config, flags].concat()).unwrap();
    let address = process.address().await;
    (process, address)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_the_certificate_of_another_service_cannot_answer_in_its_place() {
    let certificates = Certificates::make().await;
    let tls = certificates.mutual("users");
    let world = World::of(READ_MODELS, &[Service::Users], |config| config.tls = tls).await.unwrap();
    // It is the inventory, and says that it is orders and shipping too.
    let shown = certificates.mutual("inventory").listen;
    let impostor = Answering::start(&world, shown, &["inventory", "orders", "shipping"]).await;
    let (edge, address) = trustful(&world, "edge", &certificates.as_role("gateway")).await;
    let token = world.api.tokens().unwrap().operator().await.unwrap();
    let ask = async |path: &str| {
        let asked = Client::new().get(format!("http://{address}{path}")).bearer_auth(&token);
        asked.send().await.unwrap().status().as_u16()
    };
    let answers = async |path: &str, status: u16| {
        eventually("it is known", SOON, async || (ask(path).await == status).then_some(())).await;
    };
    answers("/api/products/TEA", 200).await;
    let heard = impostor.heard();
    // Also where there is a connection to this address that somebody else has opened: nobody answered, and nobody could.
    let others = ["/api/orders/1", "/api/shipments/1"];
    for path in others {
        answers(path, 502).await;
    }
    for path in others {
        let status = ask(path).await;
        assert!([502, 503].contains(&status), "{path}: {status}");
    }
    assert_eq!(impostor.heard(), heard, "it was asked for what is not its own");
    assert_eq!(ask("/api/products/TEA").await, 200);
    assert_eq!(impostor.heard(), heard + 1);
    // One that asks for its health again says what is wrong.
    let (watchful, _) = gateway(&world, "watchful", &certificates.as_role("gateway")).await;
    says(&watchful, "its certificate is for another name").await;
    drop(edge);
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_ask_nobody_for_users_who_is_not_the_users_service() {
    let certificates = Certificates::make().await;
    let tls = certificates.mutual("orders");
    let changed = |config: &mut Config| {
        config.tls = tls;
        // However often an impostor was called before the right one is known, the breaker stays closed.
        config.users_calls.breaker.minimum = u32::MAX;
    };
    let world = World::of(READ_MODELS, &[Service::Orders], changed).await.unwrap();
    let plain = Answering::start(&world, None, &["users"]).await;
    let impostor = Answering::start(&world, certificates.mutual("inventory").listen, &["users"]).await;
    let connection = world.connect().await.unwrap();
    let registry = Registry::watch(&connection, RegistryOptions::default()).await.unwrap();
    eventually("both are known", SOON, async || (registry.instances("users").len() == 2).then_some(())).await;
    let items = vec![("TEA".to_owned(), 1)];
    let (user_id, account_id) = (Clock::system().uuid(), Clock::system().uuid());
    let cart = Cart { user_id, account_id, items, country: "DE".to_owned() };
    let place = async || {
        let key = Clock::system().uuid().to_string();
        // Nobody has such a product; who the customer is was asked before.
        assert_ne!(world.api.place(&key, &cart, &[]).await.unwrap().status, 202);
    };
    for _ in 0..5 {
        place().await;
    }
    assert_eq!((plain.heard(), impostor.heard()), (0, 0));
    // Whoever it is has the certificate of users, and so is.
    let users = Answering::start(&world, certificates.mutual("users").listen, &["users"]).await;
    eventually("the users service is asked", SOON, async || {
        place().await;
        (users.heard() > 0).then_some(())
    })
    .await;
    assert_eq!((plain.heard(), impostor.heard()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_speaks_plain_http_is_called_only_where_tls_is_optional() {
    let certificates = Certificates::make().await;
    let tls = certificates.mutual("orders");
    let world = World::of(READ_MODELS, &[], |config| config.tls = tls).await.unwrap();
    let plain = Answering::start(&world, None, &["inventory"]).await;
    let flags = certificates.as_role("gateway");
    let (strict, address) = trustful(&world, "strict", &flags).await;
    says(&strict, "it does not speak TLS, and without nobody is called: --tls-optional").await;
    let ask = async |address: SocketAddr| {
        let asked = Client::new().get(format!("http://{address}/api/products/TEA")).send().await;
        asked.unwrap().status().as_u16()
    };
    assert_eq!((ask(address).await, plain.heard()), (503, 0));

    let flags = [&flags[..], &["--tls-optional".to_owned()]].concat();
    let (open, address) = trustful(&world, "open", &flags).await;
    says(&open, "TLS is optional").await;
    eventually("it is asked", SOON, async || (ask(address).await == 200).then_some(())).await;
    assert!(plain.heard() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_certificates_is_said_all_at_once_at_the_start() {
    let certificates = Certificates::make().await;
    let at = |name: &str| certificates.file(name);
    let (ca, cert, key) = (at("none.pem"), at("orders.pem"), at("users.key"));
    let own = at("gateway.pem");
    let line = [
        "serve",
        "all",
        "--nats-url",
        "nats://127.0.0.1:1",
        "--tls-ca",
        &ca,
        "--tls-cert",
        &cert,
        "--tls-key",
        &key,
        "--gateway-cert",
        &own,
        "--advertise",
        "http://here",
    ];
    let (code, said) = run(&line).await.unwrap();
    assert_eq!(code, Some(64), "{said}");
    for fault in
        ["--tls-ca: ", "--tls-cert: the key is not that of the certificate", "--gateway-key: is missing"]
    {
        assert!(said.contains(fault), "{fault} is missing in {said}");
    }
    let file = Path::new(&ca).with_file_name("w.toml");
    let key = at("orders.key");
    let text =
        json!({ "tls-ca": at("ca.pem"), "tls-cert": cert, "tls-key": key, "advertise": "http://here" });
    let keys = text.as_object().unwrap().iter().map(|(name, value)| format!("{name} = {value}\n"));
    fs::write(&file, format!("[serve]\n{}", keys.collect::<String>())).unwrap();
    let (code, said) = run(&["config", "--check", file.to_str().unwrap()]).await.unwrap();
    assert!(code == Some(64) && said.contains("serve.advertise: the services listen with TLS"), "{said}");
}

/// Waits until a process has read its certificates again so many times.
async fn renewed(process: &Serve, times: usize) {
    eventually("the certificates are read again", SOON, async || {
        let read = |line: &Value| line["message"] == "the certificates have been read again";
        (process.log().iter().filter(|line| read(line)).count() >= times).then_some(())
    })
    .await;
}

/// As operators change an authority: first both are believed, then everybody shows a certificate of the new one, then the
/// old one is believed no more. Nothing is started again.
#[tokio::test(flavor = "multi_thread")]
async fn certificates_and_who_signs_them_are_changed_while_everything_runs() {
    let (old, new) = (Certificates::make().await, Certificates::make().await);
    let world = World::of(READ_MODELS, &[], |_| ()).await.unwrap();
    let used = Certificates::make().await;
    let put = |name: &str, text: String| fs::write(used.path(name), text).unwrap();
    let read = |of: &Certificates, name: &str| fs::read_to_string(of.path(name)).unwrap();
    let shows = |of: &Certificates| {
        for role in ["inventory", "gateway"] {
            for end in ["pem", "key"] {
                put(&format!("{role}.{end}"), read(of, &format!("{role}.{end}")));
            }
        }
    };
    put("ca.pem", read(&old, "ca.pem"));
    shows(&old);
    let mut first = Serve::with(&world, "inventory", "one", &used.as_role("inventory")).unwrap();
    let (edge, address) = gateway(&world, "edge", &used.edge()).await;
    let place = first.address().await;
    // Each time a new connection.
    let inside = async |of: &Certificates| {
        let asked = of.client(Some("operator")).get(format!("https://{place}/health")).send().await;
        asked.map(|answer| answer.status().as_u16()).map_err(|error| why(&error))
    };
    let outside = async |of: &Certificates| {
        let asked = of.client(None).get(format!("https://{address}/api/products/TEA")).send().await;
        asked.map(|answer| answer.status().as_u16()).map_err(|error| why(&error))
    };
    let answers = async |of: &Certificates| {
        eventually("both answer", SOON, async || {
            // There is no such product, which the inventory has said.
            (inside(of).await == Ok(200) && outside(of).await == Ok(404)).then_some(())
        })
        .await;
    };
    answers(&old).await;
    assert!(inside(&new).await.is_err() && outside(&new).await.is_err());

    put("ca.pem", [read(&old, "ca.pem"), read(&new, "ca.pem")].concat());
    renewed(&first, 1).await;
    renewed(&edge, 1).await;
    answers(&old).await;
    shows(&new);
    answers(&new).await;
    put("ca.pem", read(&new, "ca.pem"));
    eventually("the old ones are believed no more", SOON, async || inside(&old).await.err()).await;
    assert!(outside(&old).await.is_err());
    // Another instance knows the new ones only: it is called with what the gateway has read, and believed by that.
    let second = Serve::with(&world, "inventory", "two", &used.as_role("inventory")).unwrap();
    second.address().await;
    first.terminate().unwrap();
    assert!(first.ended().await.unwrap().success());
    eventually("the other instance is called", SOON, async || (outside(&new).await == Ok(404)).then_some(()))
        .await;

    // What does not fit together changes nothing, also when it is asked for.
    put("inventory.key", read(&old, "inventory.key"));
    second.hang_up().unwrap();
    says(&second, "the certificates do not fit together, the old ones stay").await;
    assert_eq!(outside(&new).await, Ok(404));
    put("inventory.key", read(&new, "inventory.key"));
    renewed(&second, 1).await;
}
