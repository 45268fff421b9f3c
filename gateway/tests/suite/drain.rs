//! How a gateway stops.

use crate::{
    rig::{OPEN, Rig, raw, read_to_end, read_until, soon, until},
    streams::{UPGRADE, events, twice},
};
use std::sync::Arc;
use tokio::{io::AsyncWriteExt, net::TcpStream, sync::Semaphore};

/// A service that answers when it is let.
async fn slow() -> (std::net::SocketAddr, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(0));
    let opened = Arc::clone(&gate);
    let address = raw(move |mut stream: TcpStream| {
        let opened = Arc::clone(&opened);
        async move {
            read_until(&mut stream, "\r\n\r\n").await;
            opened.acquire().await.unwrap().forget();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone").await.unwrap();
        }
    })
    .await;
    (address, gate)
}

async fn in_flight(rig: &Rig, path: &str) -> TcpStream {
    let mut client = rig.connect().await;
    client.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
    client
}

#[tokio::test]
async fn it_says_that_it_leaves_then_finishes_what_has_begun() {
    let (address, gate) = slow().await;
    let config = format!("{OPEN}\n[connections]\nleave = \"500ms\"");
    let rig = Rig::start(&config, &[("orders", address)]).await;
    assert_eq!(rig.get("/ready").await.status, 200);
    let mut idle = rig.connect().await;
    let mut client = in_flight(&rig, "/api/orders").await;
    rig.shutdown.cancel();
    // Connections are still taken, so that whoever distributes them can see that there is no more to come.
    until("it is not ready", async || {
        let answer = rig.get("/ready").await;
        answer.status == 503 && answer.json()["checks"]["gateway"] == "stopping"
    })
    .await;
    assert_eq!(rig.get("/health").await.status, 200);
    until("nothing new is taken", async || TcpStream::connect(rig.address).await.is_err()).await;
    assert_eq!(read_to_end(&mut idle).await, "", "an idle connection is closed");
    assert!(!rig.running.is_finished());
    gate.add_permits(1);
    let answer = read_to_end(&mut client).await;
    assert!(answer.ends_with("done") && answer.contains("connection: close"), "{answer}");
    assert!(soon("it has stopped", rig.running).await.unwrap().unwrap(), "everything was finished");
}

#[tokio::test]
async fn streams_end_so_that_clients_connect_elsewhere() {
    let (address, tell) = events().await;
    let rig = Rig::start(OPEN, &[("orders", address)]).await;
    let mut client = in_flight(&rig, "/api/orders/stream").await;
    tell.send("one").unwrap();
    read_until(&mut client, "data: one").await;
    rig.shutdown.cancel();
    // An end, and not a connection that breaks.
    assert!(read_to_end(&mut client).await.ends_with("0\r\n\r\n"));
    assert!(soon("it has stopped", rig.running).await.unwrap().unwrap());
}

#[tokio::test]
async fn other_protocols_end_too() {
    let rig = Rig::start(OPEN, &[("orders", twice().await)]).await;
    let mut client = rig.connect().await;
    client.write_all(UPGRADE.as_bytes()).await.unwrap();
    read_until(&mut client, "hello;").await;
    rig.shutdown.cancel();
    assert_eq!(read_to_end(&mut client).await, "");
    assert!(soon("it has stopped", rig.running).await.unwrap().unwrap());
}

#[tokio::test]
async fn a_deadline_ends_what_does_not_finish() {
    let (address, _gate) = slow().await;
    let config = format!("{OPEN}\n[connections]\ndrain = \"100ms\"");
    let rig = Rig::start(&config, &[("orders", address)]).await;
    let mut client = in_flight(&rig, "/api/orders").await;
    until("it is in flight", async || rig.metric("waybill_gateway_connections ").await == Some(2.0)).await;
    rig.shutdown.cancel();
    assert!(!soon("it has stopped", rig.running).await.unwrap().unwrap(), "not everything was finished");
    assert_eq!(read_to_end(&mut client).await, "");
}
