//! Answers without an end, and other protocols.

use crate::rig::{OPEN, Rig, raw, read_until, soon, until};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};

/// A service of server-sent events: one for each time it is told to.
pub(crate) async fn events() -> (std::net::SocketAddr, mpsc::UnboundedSender<&'static str>) {
    let (tell, told) = mpsc::unbounded_channel();
    let told = std::sync::Arc::new(tokio::sync::Mutex::new(told));
    let address = raw(move |mut stream: TcpStream| {
        let told = told.clone();
        async move {
            read_until(&mut stream, "\r\n\r\n").await;
            let head =
                b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
            stream.write_all(head).await.unwrap();
            while let Some(event) = told.lock().await.recv().await {
                let text = format!("data: {event}\n\n");
                let chunk = format!("{:x}\r\n{text}\r\n", text.len());
                if stream.write_all(chunk.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    (address, tell)
}

/// A service that speaks another protocol after the upgrade: it says everything twice.
async fn twice() -> std::net::SocketAddr {
    raw(async |mut stream: TcpStream| {
        let head = read_until(&mut stream, "\r\n\r\n").await;
        assert!(head.contains("upgrade: websocket") && head.contains("sec-websocket-key: abc"), "{head}");
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: xyz\r\n\r\nhello;";
        stream.write_all(answer).await.unwrap();
        let mut buffer = [0; 1024];
        while let Ok(length @ 1..) = stream.read(&mut buffer).await {
            for _ in 0..2 {
                stream.write_all(&buffer[..length]).await.unwrap();
            }
        }
    })
    .await
}

pub(crate) const UPGRADE: &str = "GET /api/orders/live HTTP/1.1\r\nhost: x\r\nconnection: keep-alive, Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: abc\r\n\r\n";

#[tokio::test]
async fn events_arrive_as_they_happen_for_longer_than_a_request_may_take() {
    let (address, tell) = events().await;
    let config = OPEN.replace("\"3s\"", "\"200ms\"");
    let rig = Rig::start(&config, &[("orders", address)]).await;
    let mut client = rig.connect().await;
    client.write_all(b"GET /api/orders/stream HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let head = read_until(&mut client, "\r\n\r\n").await;
    assert!(head.contains("content-type: text/event-stream"), "{head}");
    let started = std::time::Instant::now();
    for event in ["one", "two", "three"] {
        // Each only after the one before it has arrived; together they take longer than the route's time-out.
        until("time has passed", async || started.elapsed().as_millis() > 150).await;
        tell.send(event).unwrap();
        read_until(&mut client, &format!("data: {event}\n\n")).await;
    }
    until("the time-out is over", async || started.elapsed().as_millis() > 600).await;
    tell.send("four").unwrap();
    read_until(&mut client, "data: four\n\n").await;
}

#[tokio::test]
async fn a_websocket_is_a_pair_of_connections_once_it_is_granted() {
    let rig = Rig::start(OPEN, &[("orders", twice().await)]).await;
    let mut client = rig.connect().await;
    client.write_all(UPGRADE.as_bytes()).await.unwrap();
    let head = read_until(&mut client, "hello;").await;
    assert!(head.starts_with("HTTP/1.1 101 ") && head.contains("sec-websocket-accept: xyz"), "{head}");
    // Bytes that would be no request, in both directions.
    client.write_all(b"\0\n\xff ping;").await.unwrap();
    let text = read_until(&mut client, "ping;\0\n").await;
    assert!(text.contains("ping;"), "{text}");
    client.shutdown().await.unwrap();
    let mut rest = Vec::new();
    soon("both ends are closed", client.read_to_end(&mut rest)).await.unwrap();
    let line = "waybill_gateway_requests_total{route=\"/api/orders\",method=\"GET\",status=\"101\"} ";
    until("it is counted", async || rig.metric(line).await == Some(1.0)).await;
}

#[tokio::test]
async fn a_route_that_does_not_stream_grants_no_upgrade() {
    let address = raw(async |mut stream: TcpStream| {
        let head = read_until(&mut stream, "\r\n\r\n").await;
        assert!(!head.contains("upgrade"), "{head}");
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno").await.unwrap();
    })
    .await;
    let config = OPEN.replace("streaming = true", "streaming = false");
    let rig = Rig::start(&config, &[("orders", address)]).await;
    let answer = rig.send(UPGRADE.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("connection: close"), "{answer}");
}

/// A connection counts as open, and keeps its place, whatever it carries.
#[tokio::test]
async fn a_websocket_keeps_its_place_among_the_connections() {
    let config = format!("{OPEN}\n[connections]\nmost = 2");
    let rig = Rig::start(&config, &[("orders", twice().await)]).await;
    let open = async || rig.metric("waybill_gateway_connections ").await;
    let mut socket = rig.connect().await;
    socket.write_all(UPGRADE.as_bytes()).await.unwrap();
    read_until(&mut socket, "hello;").await;
    assert_eq!(open().await, Some(2.0), "itself, and the one that asks");
    let mut second = rig.connect().await;
    second.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    read_until(&mut second, "200 OK").await;
    // There is no place for a third one.
    let mut third = rig.connect().await;
    third.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut byte = [0];
    let early = tokio::time::timeout(std::time::Duration::from_millis(200), third.read(&mut byte)).await;
    assert!(early.is_err(), "it is served");
    drop(socket);
    read_until(&mut third, "200 OK").await;
}
