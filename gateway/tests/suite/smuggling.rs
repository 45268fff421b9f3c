//! Requests that two readers frame differently: refused, and never seen by a service.

use crate::rig::{Answer, Echo, OPEN, Rig, answers, raw, read_to_end, read_until, soon};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{io::AsyncWriteExt, net::TcpStream};

const INNER: &str = "GET /api/orders/smuggled HTTP/1.1\r\nhost: x\r\n\r\n";

/// Heads and bodies with what is hidden in them.
fn corpus() -> Vec<String> {
    let post = "POST /api/orders HTTP/1.1\r\nhost: x\r\n";
    let hidden = format!("0\r\n\r\n{INNER}");
    let length = hidden.len();
    vec![
        // CL.TE and TE.CL.
        format!("{post}content-length: {length}\r\ntransfer-encoding: chunked\r\n\r\n{hidden}"),
        format!("{post}transfer-encoding: chunked\r\ncontent-length: {length}\r\n\r\n{hidden}"),
        format!("{post}content-length: 0\r\ntransfer-encoding: chunked\r\n\r\n{hidden}"),
        // TE.TE, with one that only some recognise.
        format!("{post}transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n{hidden}"),
        format!("{post}transfer-encoding: xchunked\r\ncontent-length: {length}\r\n\r\n{hidden}"),
        format!("{post}transfer-encoding : chunked\r\ncontent-length: {length}\r\n\r\n{hidden}"),
        format!("{post}transfer-encoding:\u{b}chunked\r\n\r\n{hidden}"),
        format!("{post}transfer-encoding: chunked, identity\r\n\r\n{hidden}"),
        format!("{post}transfer-encoding: gzip, chunked\r\n\r\n{hidden}"),
        format!("{post}x: y\r\n transfer-encoding: chunked\r\n\r\n{hidden}"),
        format!("{post}x: y\ntransfer-encoding: chunked\r\n\r\n{hidden}"),
        format!("{post}x: y\rtransfer-encoding: chunked\r\n\r\n{hidden}"),
        // Two lengths, and lengths that are none.
        format!("{post}content-length: 0\r\ncontent-length: {length}\r\n\r\n{hidden}"),
        format!("{post}content-length: {length}\r\ncontent-length: {length}\r\n\r\n{hidden}"),
        format!("{post}content-length: 0, {length}\r\n\r\n{hidden}"),
        format!("{post}content-length: +{length}\r\n\r\n{hidden}"),
        format!("{post}content-length: 0x{length:x}\r\n\r\n{hidden}"),
        format!("{post}content-length : {length}\r\n\r\n{hidden}"),
        // Lines that end in one character.
        format!("POST /api/orders HTTP/1.1\nhost: x\ncontent-length: {length}\n\n{hidden}"),
        format!("{post}x: y\n\r\n{hidden}"),
        // A header over two lines.
        format!("{post}x: y\r\n\tz\r\n\r\n{hidden}"),
        // Other forms of the target, other hosts.
        "GET http://evil.example/api/orders HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(),
        "GET * HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(),
        "OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(),
        "CONNECT evil.example:443 HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(),
        "GET evil.example:80/api/orders HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(),
        "GET /api/orders HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n".to_owned(),
        "GET /api/orders HTTP/1.1\r\n\r\n".to_owned(),
        // Request lines.
        "GET  /api/orders HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(),
        "GET /api/orders HTTP/1.1 \r\nhost: x\r\n\r\n".to_owned(),
        "GET /api/orders\r\n\r\n".to_owned(),
        "GET /api/orders HTTP/0.9\r\nhost: x\r\n\r\n".to_owned(),
        "GET /api/orders HTTP/2.0\r\nhost: x\r\n\r\n".to_owned(),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        "GET /api/orders\\..\\x HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(),
        "GET /api/orders\0 HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(),
        "GET /api/orders HTTP/1.1\r\nhost: x\r\nx: a\0b\r\n\r\n".to_owned(),
        "\0GET /api/orders HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(),
        // Chunks in an older version of the protocol.
        format!("POST /api/orders HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n{hidden}"),
        // Bodies on requests to upgrade.
        format!(
            "GET /api/orders HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\ncontent-length: {length}\r\n\r\n{hidden}"
        ),
        format!(
            "GET /api/orders HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\ntransfer-encoding: chunked\r\n\r\n{hidden}"
        ),
    ]
}

#[tokio::test]
async fn the_corpus_is_refused_and_no_service_sees_it() {
    let orders = Echo::start().await;
    let rig = Rig::start(OPEN, &[("orders", orders.address)]).await;
    for attack in corpus() {
        let answer = rig.send(attack.as_bytes()).await;
        assert_eq!(answers(&answer), 1, "{attack:?}: {answer}");
        let answer = Answer::read(&answer);
        assert_eq!((answer.status, &*answer.problem()), (400, "malformed-request"), "{attack:?}");
        assert_eq!(answer.headers["connection"], "close", "{attack:?}");
    }
    assert!(orders.seen().is_empty(), "{:?}", orders.seen());
}

/// However the bytes are cut and whatever came before them on the connection.
#[tokio::test]
async fn the_corpus_is_refused_behind_an_honest_request_and_byte_by_byte() {
    let orders = Echo::start().await;
    let rig = Rig::start(OPEN, &[("orders", orders.address)]).await;
    let honest = "POST /api/orders/honest HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}";
    let attacks = corpus();
    for attack in &attacks {
        let text = rig.send(format!("{honest}{attack}").as_bytes()).await;
        assert!(text.starts_with("HTTP/1.1 200 "), "{attack:?}: {text}");
        assert_eq!(answers(&text), 2, "{attack:?}: {text}");
        assert!(text.contains("HTTP/1.1 400 "), "{attack:?}: {text}");
    }
    let mut client = rig.connect().await;
    client.set_nodelay(true).unwrap();
    for byte in format!("{honest}{}", attacks[0]).as_bytes() {
        // The gateway closes before the last byte.
        let _ = client.write_all(&[*byte]).await;
    }
    let text = read_to_end(&mut client).await;
    assert_eq!(answers(&text), 2, "{text}");
    let seen = orders.seen();
    assert_eq!(seen.len(), attacks.len() + 1);
    assert!(seen.iter().all(|seen| seen.path == "/orders/honest"), "{seen:?}");
}

#[tokio::test]
async fn chunks_that_cannot_be_read_never_become_a_request() {
    let orders = Echo::start().await;
    let rig = Rig::start(OPEN, &[("orders", orders.address)]).await;
    let post = "POST /api/orders HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
    for body in [
        "0\r\nx: y\r\n\r\n",
        "0\n\n",
        "1\r\nab\r\n0\r\n\r\n",
        "0x0\r\n\r\n",
        "-0\r\n\r\n",
        "1;\n0\r\n\r\n",
        "1 \r\na\r\n0\r\n\r\n",
    ] {
        let text = rig.send(format!("{post}{body}{INNER}").as_bytes()).await;
        assert_eq!(answers(&text), 1, "{body:?}: {text}");
        assert_eq!(Answer::read(&text).problem(), "incomplete-body", "{body:?}");
    }
    assert!(orders.seen().iter().all(|seen| seen.path != "/orders/smuggled"), "{:?}", orders.seen());
}

/// What comes after a request to upgrade is neither sent on nor read as a request, until the upgrade is granted.
#[tokio::test]
async fn nothing_passes_before_an_upgrade_is_granted() {
    let bytes = Arc::new(Mutex::new(String::new()));
    let heard = Arc::clone(&bytes);
    let address = raw(move |mut stream: TcpStream| {
        let heard = Arc::clone(&heard);
        async move {
            let text = read_until(&mut stream, "\r\n\r\n").await;
            heard.lock().unwrap().push_str(&text);
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno").await.unwrap();
            let rest = read_to_end(&mut stream).await;
            heard.lock().unwrap().push_str(&rest);
        }
    })
    .await;
    let rig = Rig::start(OPEN, &[("orders", address)]).await;
    let upgrade = "GET /api/orders HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";
    let text = rig.send(format!("{upgrade}{INNER}").as_bytes()).await;
    assert_eq!(answers(&text), 1, "{text}");
    let answer = Answer::read(&text);
    assert_eq!((answer.status, &*answer.headers["connection"]), (200, "close"));
    let heard = bytes.lock().unwrap().clone();
    assert_eq!(heard.matches("HTTP/1.1").count(), 1, "{heard}");
    assert!(!heard.contains("smuggled"), "{heard}");
}

#[tokio::test]
async fn a_head_has_a_size_and_a_time() {
    let orders = Echo::start().await;
    let config = format!("{OPEN}\n[connections]\nhead = \"200ms\"\nhead-size = \"2KiB\"\nidle = \"600ms\"");
    let rig = Rig::start(&config, &[("orders", orders.address)]).await;
    let padded = |length| {
        format!(
            "GET /api/orders HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx: {}\r\n\r\n",
            "y".repeat(length)
        )
    };
    assert_eq!(Answer::read(&rig.send(padded(1000).as_bytes()).await).status, 200);
    for long in [
        padded(2100),
        "GET /".to_owned() + &"a".repeat(5000),
        format!("GET / HTTP/1.1\r\n{}", "a: b\r\n".repeat(400)),
    ] {
        let answer = Answer::read(&rig.send(long.as_bytes()).await);
        assert_eq!((answer.status, &*answer.problem()), (431, "head-too-large"));
    }
    let many = format!("GET /api/orders HTTP/1.1\r\nhost: x{}\r\n\r\n", "\r\na: b".repeat(101));
    assert_eq!(Answer::read(&rig.send(many.as_bytes()).await).status, 431);

    // Whoever sends a head drop by drop, or nothing at all, does not hold a connection.
    let answer = Answer::read(&rig.send(b"GET /api/orders HTTP/1.1\r\nhost").await);
    assert_eq!((answer.status, &*answer.problem()), (408, "request-timeout"));
    let mut idle = rig.connect().await;
    assert_eq!(soon("an idle connection is closed", read_to_end(&mut idle)).await, "");
    let mut kept = rig.connect().await;
    kept.write_all(b"GET /api/orders HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let text = tokio::time::timeout(Duration::from_secs(10), read_to_end(&mut kept)).await.unwrap();
    assert_eq!(answers(&text), 1, "{text}");
}
