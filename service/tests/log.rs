//! The access log. Alone in its process: tracing remembers for all threads whether anybody listens to a line, so a
//! test beside it that listens to none could silence it.

use axum::{Router, body::Body, extract::Path, http::Request, routing::get};
use serde_json::Value;
use service::{Clock, Metrics, http::layers};
use std::{
    io,
    sync::{Arc, Mutex},
};
use tower::ServiceExt;

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.lock().map_err(|_| io::ErrorKind::Other)?.extend_from_slice(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn one_line_per_request_with_the_route_and_not_the_path() {
    let lines = Lines::default();
    let sink = lines.clone();
    let subscriber = tracing_subscriber::fmt().json().flatten_event(true).with_writer(move || sink.clone());
    tracing::subscriber::set_global_default(subscriber.finish()).unwrap();
    let router = Router::new().route("/echo/{id}", get(|Path(id): Path<String>| async move { id }));
    let request = Request::get("/echo/secret").header("x-correlation-id", "c-9").body(Body::empty()).unwrap();
    layers("test", router, Clock::system(), &Metrics::new()).oneshot(request).await.unwrap();

    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    let line: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(line["target"], "http");
    assert_eq!(line["route"], "/echo/{id}");
    assert_eq!((&line["method"], &line["status"]), (&"GET".into(), &200.into()));
    assert_eq!(line["correlationId"], "c-9");
    assert!(line["ms"].is_f64() && !text.contains("secret"), "{text}");
}
