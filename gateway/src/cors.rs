//! Which pages of other origins may use the API from a browser. Off unless configured.

use crate::section::Section;
use axum::{
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, header},
};
use service::config::Span;
use std::{convert::Infallible, time::Duration};
use tower::{Layer, ServiceExt, service_fn};
use tower_http::cors::CorsLayer;

/// What pages may read beside the body, unless said otherwise.
const EXPOSED: [&str; 9] = [
    "etag",
    "location",
    "ratelimit",
    "ratelimit-policy",
    "retry-after",
    "waybill-position",
    "idempotent-replayed",
    "x-correlation-id",
    "x-request-id",
];

/// What pages may send, unless said otherwise.
const ALLOWED: [&str; 8] = [
    "authorization",
    "content-type",
    "idempotency-key",
    "if-match",
    "last-event-id",
    "traceparent",
    "waybill-position",
    "x-correlation-id",
];

/// Reads the table `cors`.
pub(crate) fn read(mut section: Section<'_>) -> CorsLayer {
    let origins = section.required::<Vec<String>>("origins").unwrap_or_default();
    let credentials = section.optional("credentials").unwrap_or(false);
    let Span(max_age) = section.optional("max-age").unwrap_or(Span(Duration::from_mins(10)));
    let mut values = Vec::new();
    for origin in &origins {
        let scheme = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
        match origin.parse::<HeaderValue>() {
            Ok(value) if scheme.is_some_and(|host| !host.is_empty() && !host.contains('/')) => {
                values.push(value);
            }
            _ => section.fault("origins", format!("'{origin}' is no origin such as https://shop.example")),
        }
    }
    if origins.is_empty() {
        section.fault("origins", "there is none; leave the table out to allow no other origin");
    }
    section.finish();
    let methods = [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
    CorsLayer::new()
        .allow_origin(values)
        .allow_methods(methods)
        .allow_headers(ALLOWED.map(HeaderName::from_static))
        .expose_headers(EXPOSED.map(HeaderName::from_static))
        .allow_credentials(credentials)
        .max_age(max_age)
}

/// Tells the browser what it may do; gives the whole answer where that is all it asked for (a preflight).
pub(crate) async fn answer<B>(
    layer: Option<&CorsLayer>,
    request: &Request<B>,
    told: &mut HeaderMap,
) -> Option<Response<Body>> {
    let layer = layer?;
    let asks = request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let preflight = request.method() == Method::OPTIONS && asks;
    let mut head = Request::new(());
    if preflight {
        *head.method_mut() = Method::OPTIONS;
    }
    *head.headers_mut() = request.headers().clone();
    let nothing = service_fn(async |_| Ok::<_, Infallible>(Response::new(Body::empty())));
    match layer.layer(nothing).oneshot(head).await {
        Ok(response) => told.extend(response.into_parts().0.headers),
        Err(never) => match never {},
    }
    preflight.then(|| Response::new(Body::empty()))
}
