//! One line per request, whatever becomes of it. Alone in its process: the log belongs to all of one.

#![expect(clippy::unwrap_used, reason = "a helper of a test that unwraps is a test that fails")]

#[expect(dead_code, reason = "shared with the suite, which needs more of it")]
#[path = "../suite/rig.rs"]
mod rig;

use rig::{Echo, Rig, raw, read_until, until};
use serde_json::Value;
use service::auth::Role;
use std::{
    io,
    sync::{Arc, Mutex},
};
use tokio::{io::AsyncWriteExt, net::TcpStream};
use uuid::Uuid;

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Lines {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    /// The access lines of one request.
    fn of(&self, correlation: &str) -> Vec<Value> {
        let lines = self.text();
        let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter(|line| line["target"] == "access" && line["correlationId"] == correlation).collect()
    }

    /// The one line of a request, once it is there.
    async fn one(&self, correlation: &str) -> Value {
        until(correlation, async || !self.of(correlation).is_empty()).await;
        let mut lines = self.of(correlation);
        assert_eq!(lines.len(), 1, "{lines:?}");
        lines.remove(0)
    }
}

fn route(path: &str, service: &str, auth: &str) -> String {
    format!(
        "[[routes]]\npath = '{path}'\nservice = '{service}'\nmethods = ['GET', 'POST']\nlimit = 'default'\n\
         timeout = '3s'\nbody = '1KiB'\nretry = true\nstreaming = true\nauth = '{auth}'\n"
    )
}

/// A service that begins an answer, goes on when it is told to, and ends it then.
async fn slow() -> std::net::SocketAddr {
    raw(async |mut stream: TcpStream| {
        let head = read_until(&mut stream, "\r\n\r\n").await;
        if head.contains("/silent") {
            rig::read_to_end(&mut stream).await;
            return;
        }
        if head.contains("/socket") {
            let answer = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nhello";
            stream.write_all(answer).await.unwrap();
            rig::read_to_end(&mut stream).await;
            return;
        }
        let answer = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n7\r\ndata: 1\r\n";
        stream.write_all(answer).await.unwrap();
        if head.contains("/endless") {
            rig::read_to_end(&mut stream).await;
        } else {
            stream.write_all(b"0\r\n\r\n").await.unwrap();
        }
    })
    .await
}

#[tokio::test]
async fn every_request_has_one_line_that_says_what_became_of_it() {
    let lines = Lines::default();
    let sink = lines.clone();
    let subscriber = tracing_subscriber::fmt().json().flatten_event(true).with_writer(move || sink.clone());
    tracing::subscriber::set_global_default(subscriber.finish()).unwrap();
    let echo = Echo::start().await;
    let config = "[limits.default]\nquota = 1000\nwindow = '15m'\n".to_owned()
        + &route("/api/orders", "orders", "required").replace("auth", "role = 'customer'\nauth")
        + &route("/api/slow", "slow", "public")
        + &route("/api/nobody", "nobody", "public");
    let rig = Rig::start(&config, &[("orders", echo.address), ("slow", slow().await)]).await;
    let user = Uuid::from_u128(7);
    let token = rig.issuer.bearer(user, Role::Customer);

    let sent = [
        ("authorization", &*token),
        ("x-correlation-id", "c-ok"),
        ("x-request-id", "r-ok"),
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    ];
    let answer =
        rig.ask("POST", "/api/orders/order-of-ada?email=ada@example.com", &sent, "{\"secret\":1}").await;
    assert_eq!(answer.status, 200);
    let line = lines.one("c-ok").await;
    assert_eq!(
        (&line["method"], &line["route"], &line["status"]),
        (&"POST".into(), &"/api/orders".into(), &200.into())
    );
    assert_eq!((&line["aborted"], &line["attempts"]), (&false.into(), &1.into()));
    assert_eq!((&line["bytesIn"], &line["bytesOut"]), (&12.into(), &answer.text.len().into()));
    assert_eq!(
        (&line["principal"], &line["limit"], &line["breaker"]),
        (&user.to_string().into(), &"passed".into(), &"closed".into())
    );
    assert_eq!(
        (&line["requestId"], &line["traceId"]),
        (&"r-ok".into(), &"4bf92f3577b34da6a3ce929d0e0e4736".into())
    );
    assert!(line["ms"].is_f64() && line["upstream"].as_str().unwrap().parse::<Uuid>().is_ok(), "{line}");

    for (path, id, status) in [
        ("/api/orders", "c-401", 401),
        ("/api/nothing", "c-404", 404),
        ("/api/nobody", "c-503", 503),
        ("/api/%2e%2e/orders", "c-400", 400),
    ] {
        assert_eq!(rig.ask("GET", path, &[("x-correlation-id", id)], "").await.status, status);
        let line = lines.one(id).await;
        assert_eq!(
            (&line["status"], &line["aborted"], &line["principal"]),
            (&status.into(), &false.into(), &Value::Null)
        );
    }
    let refused = rig.send(b"GET /api/orders HTTP/1.1\nhost: x\n\n").await;
    let refused = rig::Answer::read(&refused);
    assert_eq!(lines.one(&refused.headers["x-correlation-id"]).await["status"], 400);

    // Clients that go away: before the answer, in the middle of it, and not at all.
    for (path, id, until_there, status, aborted) in [
        ("silent", "c-silent", None, 499, true),
        ("endless", "c-endless", Some("data: 1"), 200, true),
        ("short", "c-short", Some("0\r\n\r\n"), 200, false),
        ("socket", "c-socket", Some("hello"), 101, false),
    ] {
        let mut client = rig.connect().await;
        let upgrade = if path == "socket" { "connection: upgrade\r\nupgrade: websocket\r\n" } else { "" };
        let head =
            format!("GET /api/slow/{path} HTTP/1.1\r\nhost: x\r\n{upgrade}x-correlation-id: {id}\r\n\r\n");
        client.write_all(head.as_bytes()).await.unwrap();
        match until_there {
            Some(text) => drop(read_until(&mut client, text).await),
            None => {
                until("it is in flight", async || {
                    rig.metric("waybill_gateway_connections ").await == Some(2.0)
                })
                .await;
            }
        }
        drop(client);
        let line = lines.one(id).await;
        assert_eq!((&line["status"], &line["aborted"]), (&status.into(), &aborted.into()), "{line}");
        let sent = line["bytesOut"].as_u64().unwrap();
        assert_eq!(
            sent,
            match status {
                499 => 0,
                101 => 5,
                _ => 7,
            },
            "{line}"
        );
    }
    let text = lines.text();
    for secret in [&token[7..], "order-of-ada", "ada@example.com", "secret"] {
        assert!(!text.contains(secret), "{secret}");
    }
}
