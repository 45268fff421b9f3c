//! Requests on their way to a service, and answers on their way back.

use crate::rig::{Answer, Echo, OPEN, Rig, nobody, raw, read_to_end, read_until, serve, soon, until};
use axum::{Router, body::Body, routing::get};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{io::AsyncWriteExt, net::TcpStream, sync::mpsc};

#[tokio::test]
async fn a_request_arrives_rewritten_and_with_its_origin() {
    let orders = Echo::start().await;
    let rig = Rig::start(OPEN, &[("orders", orders.address)]).await;
    let sent = [
        ("x-correlation-id", "c-1"),
        ("x-request-id", "r-1"),
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ("x-forwarded-for", "1.2.3.4"),
        ("x-real-ip", "1.2.3.4"),
        ("te", "trailers"),
        ("authorization", "Bearer passed-on"),
        ("content-type", "application/json"),
    ];
    let answer = rig.ask("POST", "/api/orders/7/cancel?reason=a%20b&x", &sent, "{\"a\":1}").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.json()["path"], "/orders/7/cancel?reason=a%20b&x");
    assert_eq!((&*answer.headers["x-correlation-id"], &*answer.headers["x-request-id"]), ("c-1", "r-1"));

    let seen = orders.seen().remove(0);
    assert_eq!((seen.method.as_str(), &*seen.body), ("POST", &b"{\"a\":1}"[..]));
    let header = |name: &str| seen.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    assert_eq!(header("host"), Some(orders.address.to_string()));
    assert_eq!(header("x-forwarded-for").as_deref(), Some("127.0.0.1"));
    assert_eq!(header("x-forwarded-host").as_deref(), Some("shop.example"));
    assert_eq!(header("x-forwarded-proto").as_deref(), Some("http"));
    assert_eq!(header("forwarded").as_deref(), Some("for=127.0.0.1;host=\"shop.example\";proto=http"));
    assert_eq!(
        (header("x-correlation-id").as_deref(), header("x-request-id").as_deref()),
        (Some("c-1"), Some("r-1"))
    );
    assert_eq!(header("traceparent").as_deref(), Some(sent[2].1));
    assert_eq!(header("authorization").as_deref(), Some("Bearer passed-on"));
    for gone in ["te", "x-real-ip"] {
        assert_eq!(header(gone), None, "{gone}");
    }
}

#[tokio::test]
async fn what_has_no_route_or_no_such_method_is_a_problem() {
    let orders = Echo::start().await;
    let rig = Rig::start(OPEN, &[("orders", orders.address)]).await;
    let answer = rig.get("/api/nothing").await;
    assert_eq!((answer.status, &*answer.problem()), (404, "no-such-route"));
    let answer = rig.ask("PATCH", "/api/orders/1", &[], "").await;
    assert_eq!((answer.status, &*answer.problem()), (405, "method-not-allowed"));
    assert_eq!(answer.headers["allow"], "GET, HEAD, POST, PUT, DELETE");
    let answer = rig.ask("GET", "/api/orders", &[("x-correlation-id", "two words")], "").await;
    assert_eq!((answer.status, &*answer.problem()), (400, "invalid-correlation-id"));
    for path in ["/api/%2e%2e/health", "/api//orders", "/api/orders/..", "/api/orders%2f1", "/api/orders/%00"]
    {
        let answer = rig.get(path).await;
        assert_eq!((answer.status, &*answer.problem()), (400, "ambiguous-path"), "{path}");
    }
    assert!(orders.seen().is_empty());
}

#[tokio::test]
async fn bodies_stream_both_ways() {
    // A service that answers each line of the request's body as it comes.
    let address = raw(async |mut stream: TcpStream| {
        read_until(&mut stream, "one").await;
        let answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nfirs\r\n";
        stream.write_all(answer).await.unwrap();
        read_until(&mut stream, "two").await;
        stream.write_all(b"4\r\nlast\r\n0\r\n\r\n").await.unwrap();
    })
    .await;
    let rig = Rig::start(OPEN, &[("orders", address)]).await;
    let mut client = rig.connect().await;
    client
        .write_all(b"POST /api/orders HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n")
        .await
        .unwrap();
    read_until(&mut client, "firs").await;
    client.write_all(b"3\r\ntwo\r\n0\r\n\r\n").await.unwrap();
    read_until(&mut client, "last").await;
}

#[tokio::test]
async fn a_body_above_the_limit_is_refused_however_it_is_sent() {
    let orders = Echo::start().await;
    let config = OPEN.replace("1MiB", "1KiB");
    let rig = Rig::start(&config, &[("orders", orders.address)]).await;
    assert_eq!(rig.ask("POST", "/api/orders", &[], &"x".repeat(1024)).await.status, 200);

    let answer = rig.ask("POST", "/api/orders", &[], &"x".repeat(1025)).await;
    assert_eq!((answer.status, &*answer.problem()), (413, "body-too-large"));
    let chunks = "100\r\n".to_owned() + &"x".repeat(256) + "\r\n";
    let request =
        "POST /api/orders HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
            .to_owned();
    let answer = Answer::read(&rig.send((request + &chunks.repeat(5) + "0\r\n\r\n").as_bytes()).await);
    assert_eq!((answer.status, &*answer.problem()), (413, "body-too-large"));
    assert_eq!(orders.seen().len(), 1);
}

#[tokio::test]
async fn another_instance_is_asked_where_that_is_safe() {
    let orders = Echo::start().await;
    let (resets, gone) = (Arc::new(AtomicUsize::new(0)), nobody().await);
    let count = Arc::clone(&resets);
    let reset = raw(move |mut stream: TcpStream| {
        let count = Arc::clone(&count);
        async move {
            read_until(&mut stream, "\r\n\r\n").await;
            count.fetch_add(1, Ordering::Relaxed);
        }
    })
    .await;
    let rig = Rig::start(OPEN, &[("orders", reset), ("orders", gone), ("orders", orders.address)]).await;
    // Until the first instance, which takes a request and does not answer, was asked by each of them.
    let asked = |times: usize| resets.load(Ordering::Relaxed) >= times;
    until("reads are repeated", async || {
        assert_eq!(rig.get("/api/orders/1").await.status, 200);
        asked(1)
    })
    .await;
    until("what is under a key is repeated", async || {
        assert_eq!(rig.ask("POST", "/api/orders", &[("idempotency-key", "k")], "{}").await.status, 200);
        asked(2)
    })
    .await;
    until("anything else is not", async || {
        let answer = rig.ask("POST", "/api/orders", &[], "{}").await;
        assert!(matches!(answer.status, 200 | 502), "{answer:?}");
        if answer.status == 502 {
            assert_eq!(answer.problem(), "bad-gateway");
        }
        answer.status == 502
    })
    .await;
    assert!(
        rig.metric("waybill_gateway_retries_total{service=\"orders\",outcome=\"sent\"} ").await.unwrap()
            >= 2.0
    );
}

#[tokio::test]
async fn who_is_away_slow_or_gone_has_a_status_each() {
    let slow = raw(async |mut stream: TcpStream| {
        read_to_end(&mut stream).await;
    })
    .await;
    let config = OPEN.replace("\"3s\"", "\"300ms\"");
    let rig = Rig::start(&config, &[("orders", slow)]).await;
    let started = Instant::now();
    let answer = rig.get("/api/orders").await;
    assert_eq!((answer.status, &*answer.problem()), (504, "gateway-timeout"));
    assert!((Duration::from_millis(300)..Duration::from_secs(3)).contains(&started.elapsed()));

    let rig = Rig::start(OPEN, &[("orders", nobody().await)]).await;
    let answer = rig.get("/api/orders").await;
    assert_eq!((answer.status, &*answer.problem()), (502, "bad-gateway"));

    let rig = Rig::start(OPEN, &[]).await;
    let answer = rig.get("/api/orders").await;
    assert_eq!((answer.status, &*answer.problem()), (503, "service-unavailable"));
    assert_eq!(answer.json()["detail"], "Service orders is not available");
    assert!(answer.headers["retry-after"].parse::<u32>().unwrap() >= 1);
}

#[tokio::test]
async fn a_client_that_is_slow_to_send_is_not_the_services_fault() {
    let orders = Echo::start().await;
    let config = OPEN.replace("\"3s\"", "\"300ms\"");
    let rig = Rig::start(&config, &[("orders", orders.address)]).await;
    for framing in ["content-length: 9", "content-length: 99999", "transfer-encoding: chunked"] {
        let request = format!("POST /api/orders HTTP/1.1\r\nhost: x\r\n{framing}\r\n\r\n1\r\nx\r\n");
        let answer = Answer::read(&rig.send(request.as_bytes()).await);
        assert_eq!((answer.status, &*answer.problem()), (408, "request-timeout"), "{framing}");
    }
}

#[tokio::test]
async fn an_answer_that_takes_too_long_breaks_off() {
    let endless = serve(Router::new().route(
        "/orders",
        get(async || {
            Body::from_stream(futures::stream::unfold((), async |()| {
                tokio::time::sleep(Duration::from_millis(20)).await;
                Some((Ok::<_, std::io::Error>("more"), ()))
            }))
        }),
    ))
    .await;
    let config = OPEN.replace("\"3s\"", "\"300ms\"");
    let rig = Rig::start(&config, &[("orders", endless)]).await;
    let raw = rig.send(b"GET /api/orders HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(raw.starts_with("HTTP/1.1 200") && !raw.ends_with("0\r\n\r\n"), "an end that is none: {raw}");
}

#[tokio::test]
async fn a_service_hears_when_the_client_goes_away() {
    let (told, mut ended) = mpsc::unbounded_channel();
    let address = raw(move |mut stream: TcpStream| {
        let told = told.clone();
        async move {
            read_until(&mut stream, "\r\n\r\n").await;
            told.send("asked").unwrap();
            read_to_end(&mut stream).await;
            told.send("gone").unwrap();
        }
    })
    .await;
    let rig = Rig::start(OPEN, &[("orders", address)]).await;
    let mut client = rig.connect().await;
    client.write_all(b"GET /api/orders HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert_eq!(soon("the request", ended.recv()).await, Some("asked"));
    drop(client);
    assert_eq!(soon("the end", ended.recv()).await, Some("gone"));
    let line = "waybill_gateway_requests_total{route=\"/api/orders\",method=\"GET\",status=\"499\"} ";
    until("it is counted", async || rig.metric(line).await == Some(1.0)).await;
}

#[tokio::test]
async fn answers_keep_their_length_and_connections_are_used_again() {
    let orders = Echo::start().await;
    let rig = Rig::start(OPEN, &[("orders", orders.address)]).await;
    let mut client = rig.connect().await;
    for _ in 0..3 {
        client.write_all(b"GET /api/orders/1 HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let answer = read_until(&mut client, "}").await;
        assert!(answer.contains("content-length: ") && !answer.contains("connection: close"), "{answer}");
    }
    client.write_all(b"HEAD /api/orders/1 HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let answer = read_until(&mut client, "\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn pages_of_other_origins_are_let_in_only_where_that_is_configured() {
    let orders = Echo::start().await;
    let page = [("origin", "https://shop.example"), ("access-control-request-method", "POST")];
    let closed = Rig::start(OPEN, &[("orders", orders.address)]).await;
    assert_eq!(closed.ask("OPTIONS", "/api/orders", &page, "").await.status, 405);
    let answer = closed.ask("GET", "/api/orders", &page[..1], "").await;
    assert!(!answer.headers.contains_key("access-control-allow-origin"), "{answer:?}");

    let config = format!("{OPEN}\n[cors]\norigins = [\"https://shop.example\"]");
    let rig = Rig::start(&config, &[("orders", orders.address)]).await;
    let answer = rig.ask("OPTIONS", "/api/orders", &page, "").await;
    assert_eq!(
        (answer.status, &*answer.headers["access-control-allow-origin"]),
        (200, "https://shop.example")
    );
    assert!(answer.headers["access-control-allow-methods"].contains("POST"), "{answer:?}");
    for name in ["authorization", "content-type", "idempotency-key", "if-match", "waybill-position"] {
        assert!(answer.headers["access-control-allow-headers"].contains(name), "{name}: {answer:?}");
    }
    let answer = rig.ask("GET", "/api/orders", &page[..1], "").await;
    assert_eq!(
        (answer.status, &*answer.headers["access-control-allow-origin"]),
        (200, "https://shop.example")
    );
    for name in ["etag", "location", "retry-after", "waybill-position", "x-correlation-id", "x-request-id"] {
        assert!(answer.headers["access-control-expose-headers"].contains(name), "{name}: {answer:?}");
    }
    let answer = rig.ask("GET", "/api/orders", &[("origin", "https://evil.example")], "").await;
    assert!(!answer.headers.contains_key("access-control-allow-origin"), "{answer:?}");
    assert!(orders.seen().iter().all(|seen| seen.method != "OPTIONS"));
}

#[tokio::test]
async fn a_small_answer_that_breaks_off_is_none() {
    let address = raw(async |mut stream: TcpStream| {
        read_until(&mut stream, "\r\n\r\n").await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf").await.unwrap();
    })
    .await;
    let rig = Rig::start(OPEN, &[("orders", address)]).await;
    let answer = rig.get("/api/orders").await;
    assert_eq!((answer.status, &*answer.problem()), (502, "bad-gateway"));
    let hanging = raw(async |mut stream: TcpStream| {
        read_until(&mut stream, "\r\n\r\n").await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf").await.unwrap();
        read_to_end(&mut stream).await;
    })
    .await;
    let rig = Rig::start(&OPEN.replace("\"3s\"", "\"300ms\""), &[("orders", hanging)]).await;
    let answer = rig.get("/api/orders").await;
    assert_eq!((answer.status, &*answer.problem()), (504, "gateway-timeout"));
}

/// What the gateway shows to operators.
const OPS: &str = r#"
    [[routes]]
    path = "/api/ops"
    service = "gateway"
    methods = "read"
    auth = "public"
    limit = "none"
    timeout = "3s"
    body = "0B"
    retry = false
    streaming = false
"#;

#[tokio::test]
async fn an_instance_is_busy_until_its_answer_has_ended() {
    let (go, gone) = (Arc::new(tokio::sync::Semaphore::new(0)), mpsc::unbounded_channel());
    let (gate, told) = (Arc::clone(&go), gone.0);
    let mut answered = gone.1;
    let address = raw(move |mut stream: TcpStream| {
        let (gate, told) = (Arc::clone(&gate), told.clone());
        async move {
            read_until(&mut stream, "\r\n\r\n").await;
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nfirs\r\n")
                .await
                .unwrap();
            told.send(()).unwrap();
            gate.acquire().await.unwrap().forget();
            stream.write_all(b"4\r\nlast\r\n0\r\n\r\n").await.unwrap();
        }
    })
    .await;
    let rig = Rig::start(&format!("{OPEN}{OPS}"), &[("orders", address)]).await;
    let busy = async || {
        let listed = rig.get("/api/ops/instances").await.json();
        let orders = listed.as_array().unwrap().iter().find(|one| one["service"] == "orders");
        orders.unwrap()["inFlight"].as_u64().unwrap()
    };
    assert_eq!(busy().await, 0);
    let mut client = rig.connect().await;
    client.write_all(b"GET /api/orders HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    soon("the answer has begun", answered.recv()).await.unwrap();
    read_until(&mut client, "firs").await;
    assert_eq!(busy().await, 1);
    go.add_permits(1);
    read_until(&mut client, "last").await;
    until("it is free again", async || busy().await == 0).await;
}

#[tokio::test]
async fn an_open_breaker_is_seen_by_clients_and_operators_and_closes_again() {
    let healthy = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let state = Arc::clone(&healthy);
    let answer = get(async move || {
        if state.load(Ordering::Relaxed) {
            axum::http::StatusCode::OK
        } else {
            axum::http::StatusCode::INTERNAL_SERVER_ERROR
        }
    });
    let orders = serve(Router::new().route("/orders", answer).route("/health", get(async || ""))).await;
    let policy = "[breaker]\nwindow = '10s'\nminimum = 4\nopen = '1500ms'\n[ejection]\nfailures = 1000\n";
    let rig = Rig::start(&format!("{policy}{OPEN}{OPS}"), &[("orders", orders)]).await;
    for _ in 0..4 {
        assert_eq!(rig.get("/api/orders").await.status, 500);
    }
    let opened = Instant::now();
    let answer = rig.get("/api/orders").await;
    assert_eq!((answer.status, &*answer.problem()), (503, "service-unavailable"));
    assert!((1..=2).contains(&answer.headers["retry-after"].parse::<u32>().unwrap()), "{answer:?}");
    assert_eq!(rig.metric("waybill_breaker_state{upstream=\"orders\"} ").await, Some(2.0));
    let listed = rig.get("/api/ops/breakers").await.json();
    let orders = listed.as_array().unwrap().iter().find(|one| one["upstream"] == "orders").unwrap();
    assert_eq!((&orders["state"], &orders["failures"]), (&"open".into(), &4.into()));
    healthy.store(true, Ordering::Relaxed);
    until("it lets one try and closes", async || rig.get("/api/orders").await.status == 200).await;
    assert!(opened.elapsed() >= Duration::from_millis(1400), "{:?}", opened.elapsed());
    assert_eq!(rig.metric("waybill_breaker_state{upstream=\"orders\"} ").await, Some(0.0));
}

#[tokio::test]
async fn services_describe_themselves_once_for_everybody_and_apart_from_their_breakers() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let broken = get(async move || {
        count.fetch_add(1, Ordering::Relaxed);
        axum::http::StatusCode::INTERNAL_SERVER_ERROR
    });
    let orders =
        serve(Router::new().route("/openapi.json", broken).route("/orders", get(async || "fine"))).await;
    let rig = Rig::start(&format!("[breaker]\nminimum = 1\n{OPEN}{OPS}"), &[("orders", orders)]).await;
    for _ in 0..50 {
        let answer = rig.get("/openapi.json").await;
        assert_eq!((answer.status, &*answer.headers["content-type"]), (200, "application/json"));
        assert_eq!(answer.json()["openapi"], "3.1.0");
    }
    // More often only where this took longer than a failure is remembered.
    assert!(asked.load(Ordering::Relaxed) <= 3, "{asked:?}");
    let listed = rig.get("/api/ops/breakers").await.json();
    let orders = listed.as_array().unwrap().iter().find(|one| one["upstream"] == "orders").unwrap();
    assert_eq!((&orders["state"], &orders["calls"]), (&"closed".into(), &0.into()));
    assert_eq!(rig.get("/api/orders").await.status, 200);
}
