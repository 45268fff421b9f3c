//! `waybill serve gateway` as a process of its own: what operators do to it, and what its clients notice.

use crate::READ_MODELS;
use reqwest::{Client, header::HeaderMap};
use serde_json::{Value, json};
use std::{fs, io, net::SocketAddr, path::Path, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use waybill::system::Service;
use waybill_tests::{Serve, World, eventually};

const SOON: Duration = Duration::from_secs(30);

const ROUTES: &str = include_str!("../../gateway/routes.toml");

/// A gateway process, and who asks it.
struct Gateway {
    process: Serve,
    address: SocketAddr,
    client: Client,
}

impl Gateway {
    async fn start(world: &World, flags: &[&str]) -> Self {
        let process = Serve::with(world, "gateway", "edge", flags).unwrap();
        let address = process.address().await;
        Self { process, address, client: Client::builder().no_proxy().build().unwrap() }
    }

    async fn follow(world: &World, file: &Path) -> Self {
        Self::start(world, &["--gateway-config", file.to_str().unwrap()]).await
    }

    async fn get(&self, path: &str) -> reqwest::Result<(u16, HeaderMap, String)> {
        let answer = self.client.get(format!("http://{}{path}", self.address)).send().await?;
        Ok((answer.status().as_u16(), answer.headers().clone(), answer.text().await?))
    }

    /// How often the configuration was read again, with this outcome.
    async fn reloads(&self, outcome: &str) -> u32 {
        let (_, _, page) = self.get("/metrics").await.unwrap();
        let line = format!("waybill_gateway_reloads_total{{outcome=\"{outcome}\"}} ");
        page.lines().find_map(|found| found.strip_prefix(&line)?.parse().ok()).unwrap_or_default()
    }

    /// The limit that is told to whoever asks for a product.
    async fn policy(&self) -> String {
        let (_, headers, _) = self.get("/api/products/NONE").await.unwrap();
        headers["ratelimit-policy"].to_str().unwrap().to_owned()
    }

    /// Waits until the inventory is known to it.
    async fn serves(&self) {
        eventually("the inventory answers through the gateway", SOON, async || {
            (self.get("/api/products/NONE").await.unwrap().0 == 404).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_hangup_reads_the_table_again_and_a_faulty_one_changes_nothing() {
    let world = World::of(READ_MODELS, &[Service::Inventory], |_| ()).await.unwrap();
    let file = world.config.data.with_file_name("gateway.toml");
    fs::write(&file, ROUTES).unwrap();
    let gateway = Gateway::follow(&world, &file).await;
    assert_eq!(gateway.policy().await, "\"default\";q=100;w=900");
    // A file that has not changed is read again because of the hangup and of nothing else.
    gateway.process.hang_up().unwrap();
    eventually("the hangup is heard", SOON, async || (gateway.reloads("taken").await == 1).then_some(()))
        .await;
    fs::write(&file, ROUTES.replace("quota = 100\n", "quota = 77\n")).unwrap();
    gateway.process.hang_up().unwrap();
    eventually("the new table counts", SOON, async || {
        (gateway.policy().await == "\"default\";q=77;w=900").then_some(())
    })
    .await;

    fs::write(&file, ROUTES.replace("auth = \"public\"", "auth = \"sometimes\"")).unwrap();
    gateway.process.hang_up().unwrap();
    eventually("the fault is counted", SOON, async || (gateway.reloads("refused").await > 0).then_some(()))
        .await;
    assert_eq!(gateway.policy().await, "\"default\";q=77;w=900", "the old table stays");
    let log = gateway.process.log();
    let said = log.iter().find(|line| line["level"] == "ERROR").unwrap();
    assert!(said["why"].as_str().unwrap().contains("auth: is public or required"), "{said}");
}

#[tokio::test]
async fn without_a_file_a_hangup_ends_nothing() {
    let world = World::of(READ_MODELS, &[Service::Inventory], |_| ()).await.unwrap();
    let mut gateway = Gateway::start(&world, &[]).await;
    gateway.process.hang_up().unwrap();
    eventually("it says that there is nothing to read", SOON, async || {
        let said = |line: &Value| {
            line["message"].as_str().is_some_and(|text| text.contains("nothing to read again"))
        };
        gateway.process.log().iter().any(said).then_some(())
    })
    .await;
    assert_eq!(gateway.get("/health").await.unwrap().0, 200);
    gateway.process.terminate().unwrap();
    assert!(gateway.process.ended().await.unwrap().success());
}

#[tokio::test]
async fn a_gateway_that_is_asked_to_stop_finishes_what_has_begun_and_takes_nothing_new() {
    let world = World::of(READ_MODELS, &[Service::Users, Service::Inventory], |_| ()).await.unwrap();
    let file = world.config.data.with_file_name("gateway.toml");
    // Time enough, however slow the machine is.
    let routes = ROUTES.replace("timeout = \"3s\"", "timeout = \"20s\"");
    fs::write(&file, format!("[connections]\nleave = \"500ms\"\ndrain = \"20s\"\n{routes}")).unwrap();
    let mut gateway = Gateway::follow(&world, &file).await;
    gateway.serves().await;
    assert_eq!(gateway.get("/ready").await.unwrap().0, 200);
    // A request that has begun and whose end is still to be sent.
    let token = world.api.tokens().unwrap().operator().await.unwrap();
    eventually("it has the keys of tokens", SOON, async || {
        let asked =
            gateway.client.get(format!("http://{}/api/inventory/NONE", gateway.address)).bearer_auth(&token);
        (asked.send().await.unwrap().status() == 404).then_some(())
    })
    .await;
    let product =
        json!({ "sku": "TEA", "name": "Tea", "price": { "amount": 450, "currency": "EUR" } }).to_string();
    let (first, rest) = product.split_at(10);
    let mut begun = TcpStream::connect(gateway.address).await.unwrap();
    let head = format!(
        "POST /api/products HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{first}",
        product.len()
    );
    begun.write_all(head.as_bytes()).await.unwrap();

    gateway.process.terminate().unwrap();
    eventually("it says that it leaves", SOON, async || {
        let (status, _, text) = gateway.get("/ready").await.ok()?;
        (status == 503 && text.contains("stopping")).then_some(())
    })
    .await;
    eventually("nothing new is taken", SOON, async || {
        let refused = TcpStream::connect(gateway.address).await.err()?;
        (refused.kind() == io::ErrorKind::ConnectionRefused).then_some(())
    })
    .await;
    begun.write_all(rest.as_bytes()).await.unwrap();
    let mut answer = String::new();
    begun.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 201 ") && answer.contains("connection: close"), "{answer}");
    assert!(gateway.process.ended().await.unwrap().success());
}

#[tokio::test]
async fn a_user_with_all_that_is_his_is_one_call() {
    let world = World::of(READ_MODELS, &[Service::Users], |_| ()).await.unwrap();
    let gateway = Gateway::start(&world, &[]).await;
    let user = world.api.register("include").await.unwrap();
    let token = world.api.tokens().unwrap().customer(user).await.unwrap();
    let url = format!("http://{}/api/users/{user}?include=preferences,subscriptions", gateway.address);
    let (mut asked, mut id) = (0, String::new());
    let body = eventually("the user is there", SOON, async || {
        (asked, id) = (asked + 1, format!("include-{asked}"));
        let request = gateway.client.get(&url).bearer_auth(&token).header("x-correlation-id", &id);
        let answer = request.send().await.unwrap();
        if answer.status() == 200 { answer.json::<Value>().await.ok() } else { None }
    })
    .await;
    assert_eq!(body["id"], user.to_string());
    assert!(body["preferences"].is_object() && body["subscriptions"].is_array(), "{body}");
    // One line of the request, which says that one instance was asked once.
    let lines = eventually("the access line is written", SOON, async || {
        let lines: Vec<_> = gateway.process.log();
        let lines: Vec<_> = lines
            .into_iter()
            .filter(|line| line["target"] == "access" && line["correlationId"] == *id)
            .collect();
        (!lines.is_empty()).then_some(lines)
    })
    .await;
    assert_eq!((lines.len(), &lines[0]["attempts"]), (1, &1.into()), "{lines:?}");
    assert!(lines[0]["upstream"].is_string(), "{lines:?}");
}
