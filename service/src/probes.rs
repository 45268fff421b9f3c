//! What an operator asks a process: does it live, can it serve, how is it doing.

use crate::{Metrics, http::json};
use axum::{
    Router,
    http::{StatusCode, header},
    routing::get,
};
use serde_json::{Map, Value, json as value};
use std::sync::Arc;

/// Asks one thing that is needed to serve; the error says what is wrong with it. Answers at once: it must not wait.
pub type Check = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// The routes `/health` (the process lives), `/ready` (it can serve) and `/metrics`.
#[derive(Clone)]
pub struct Probes {
    metrics: Metrics,
    details: Map<String, Value>,
    checks: Vec<(&'static str, Check)>,
}

impl Probes {
    /// Probes that show `details` (version, durability, ...) in `/health`, and are ready until a check says otherwise.
    pub fn new(metrics: Metrics, details: Map<String, Value>) -> Self {
        Self { metrics, details, checks: Vec::new() }
    }

    /// Adds what must be well for the process to be ready.
    #[must_use]
    pub fn check(mut self, name: &'static str, check: Check) -> Self {
        self.checks.push((name, check));
        self
    }

    /// Whether all is well that was added so far, as `/ready` says it.
    pub fn ready(&self) -> Check {
        let checks: Vec<_> = self.checks.iter().map(|(_, check)| Arc::clone(check)).collect();
        Arc::new(move || checks.iter().try_for_each(|check| check()))
    }

    /// The three routes.
    pub fn routes(self) -> Router {
        let Self { metrics, mut details, checks } = self;
        details.insert("status".to_owned(), "alive".into());
        let health = Value::Object(details);
        let checks: Arc<[_]> = checks.into();
        Router::new()
            .route("/health", get(async move || json(StatusCode::OK, &health)))
            .route("/ready", get(async move || ready(&checks)))
            .route(
                "/metrics",
                get(async move || {
                    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                    ([(header::CONTENT_TYPE, kind)], metrics.render())
                }),
            )
    }
}

fn ready(checks: &[(&'static str, Check)]) -> axum::response::Response {
    let mut status = StatusCode::OK;
    let mut results = Map::new();
    for (name, check) in checks {
        let result = check().map_or_else(
            |reason| {
                status = StatusCode::SERVICE_UNAVAILABLE;
                reason
            },
            |()| "ok".to_owned(),
        );
        results.insert((*name).to_owned(), result.into());
    }
    let word = if status == StatusCode::OK { "ready" } else { "not ready" };
    json(status, &value!({ "status": word, "checks": results }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{body::Body, extract::Request};
    use std::sync::atomic::{AtomicBool, Ordering};
    use tower::ServiceExt;

    async fn ask(router: &Router, path: &str) -> (u16, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn readiness_follows_the_checks_and_health_does_not() {
        let connected = Arc::new(AtomicBool::new(false));
        let seen = connected.clone();
        let details = Map::from_iter([("durability".to_owned(), "always".into())]);
        let probes = Probes::new(Metrics::new(), details).check("disk", Arc::new(|| Ok(()))).check(
            "nats",
            Arc::new(move || if seen.load(Ordering::Relaxed) { Ok(()) } else { Err("no connection".into()) }),
        );
        let (ready, router) = (probes.ready(), probes.routes());
        let (status, body) = ask(&router, "/ready").await;
        assert_eq!((status, ready()), (503, Err("no connection".to_owned())));
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(
            body,
            value!({ "status": "not ready", "checks": { "disk": "ok", "nats": "no connection" } })
        );
        let (status, body) = ask(&router, "/health").await;
        assert_eq!((status, &*body), (200, r#"{"durability":"always","status":"alive"}"#));

        connected.store(true, Ordering::Relaxed);
        assert_eq!((ask(&router, "/ready").await.0, ready()), (200, Ok(())));
        assert_eq!(ask(&router, "/metrics").await, (200, "# EOF\n".to_owned()));
    }
}
