//! How a gateway stops.

use crate::{
    rig::{OPEN, Rig, raw, read_to_end, read_until, soon, until},
    streams::{UPGRADE, events},
};
use std::sync::Arc;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{Semaphore, mpsc},
};

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
    // An end, and not a connection that breaks; before it, when to come again.
    let rest = read_to_end(&mut client).await;
    let retry =
        rest.split("\r\n").find_map(|line| line.strip_prefix("retry: ")).unwrap_or_else(|| panic!("{rest}"));
    assert!((500..1500).contains(&retry.trim().parse::<u32>().unwrap()), "{rest}");
    assert!(rest.ends_with("\n\n\r\n0\r\n\r\n"), "{rest:?}");
    assert!(soon("it has stopped", rig.running).await.unwrap().unwrap());
}

/// Nothing is added in the middle of an event, and to what is compressed.
#[tokio::test]
async fn an_event_that_is_cut_stays_cut() {
    for (kind, sent) in [("", "data: half\n"), ("content-encoding: gzip\r\n", "whole\n\n")] {
        let address = raw(move |mut stream: TcpStream| async move {
            read_until(&mut stream, "\r\n\r\n").await;
            let length = sent.len();
            let answer = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n{kind}transfer-encoding: chunked\r\n\r\n{length:x}\r\n{sent}\r\n"
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
            read_to_end(&mut stream).await;
        })
        .await;
        let rig = Rig::start(OPEN, &[("orders", address)]).await;
        let mut client = in_flight(&rig, "/api/orders/stream").await;
        read_until(&mut client, sent).await;
        rig.shutdown.cancel();
        let rest = read_to_end(&mut client).await;
        assert!(rest.ends_with("0\r\n\r\n") && !rest.contains("retry"), "{rest:?}");
        assert!(soon("it has stopped", rig.running).await.unwrap().unwrap());
    }
}

/// A service of `WebSocket` that sends half a frame, the rest of it when it is let, and answers a Close.
async fn sockets() -> (std::net::SocketAddr, Arc<Semaphore>, mpsc::UnboundedReceiver<Vec<u8>>) {
    let (gate, (told, closes)) = (Arc::new(Semaphore::new(0)), mpsc::unbounded_channel());
    let opened = Arc::clone(&gate);
    let address = raw(move |mut stream: TcpStream| {
        let (opened, told) = (Arc::clone(&opened), told.clone());
        async move {
            read_until(&mut stream, "\r\n\r\n").await;
            let head =
                b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
            stream.write_all(head).await.unwrap();
            stream.write_all(b"\x81\x08half").await.unwrap();
            opened.acquire().await.unwrap().forget();
            stream.write_all(b"rest").await.unwrap();
            let mut close = vec![0; 8];
            stream.read_exact(&mut close).await.unwrap();
            told.send(close).unwrap();
            stream.write_all(b"\x88\x02\x03\xf4").await.unwrap();
        }
    })
    .await;
    (address, gate, closes)
}

#[tokio::test]
async fn a_websocket_is_told_to_come_again_between_two_frames() {
    let (address, gate, mut closes) = sockets().await;
    let rig = Rig::start(OPEN, &[("orders", address)]).await;
    let mut client = rig.connect().await;
    client.write_all(UPGRADE.as_bytes()).await.unwrap();
    read_until(&mut client, "half").await;
    rig.shutdown.cancel();
    until("it stops", async || TcpStream::connect(rig.address).await.is_err()).await;
    gate.add_permits(1);
    // The frame to its end, then a Close that says 1012, and nothing in between.
    let mut rest = [0; 8];
    soon("the Close", client.read_exact(&mut rest)).await.unwrap();
    assert_eq!(rest, *b"rest\x88\x02\x03\xf4");
    // The client's answer reaches the service; what that says then concerns nobody.
    let answer = b"\x88\x82\0\0\0\0\x03\xf4";
    client.write_all(answer).await.unwrap();
    assert_eq!(soon("the service hears of it", closes.recv()).await.unwrap(), answer);
    assert_eq!(read_to_end(&mut client).await, "");
    assert!(soon("it has stopped", rig.running).await.unwrap().unwrap());
}

#[tokio::test]
async fn a_websocket_that_does_not_close_is_cut() {
    let (address, _gate, _closes) = sockets().await;
    let rig = Rig::start(OPEN, &[("orders", address)]).await;
    let mut client = rig.connect().await;
    client.write_all(UPGRADE.as_bytes()).await.unwrap();
    read_until(&mut client, "half").await;
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
