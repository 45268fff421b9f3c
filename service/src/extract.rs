//! Request parts, read strictly: whatever is wrong becomes a [`Problem`] that names where.

use crate::Problem;
use axum::{
    extract::{
        FromRequest, FromRequestParts, Request,
        path::{self, ErrorKind},
        rejection::{PathRejection, QueryRejection},
    },
    http::{StatusCode, header, request::Parts},
};
use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use serde::de::DeserializeOwned;
use std::error::Error;

/// The largest body that is accepted, in bytes: 1 MiB.
pub const MAX_BODY: usize = 1024 * 1024;

/// How much of a body is read to its end before the refusal is sent. A client that is still sending when the connection
/// closes sees a reset connection and never the reason.
const MAX_DISCARDED: usize = 16 * MAX_BODY;

/// A JSON body. Declare `T` with `deny_unknown_fields`.
///
/// 415 when it is not declared as JSON, 413 above [`MAX_BODY`], 400 when it is not UTF-8 or not JSON, 422 when a field is
/// missing, unknown or of the wrong type.
#[derive(Clone, Copy, Debug)]
pub struct Body<T>(pub T);

/// Parameters in the path. 400 names the one that cannot be read.
#[derive(Clone, Copy, Debug)]
pub struct Path<T>(pub T);

/// Parameters in the query. 400 names the one that cannot be read.
#[derive(Clone, Copy, Debug)]
pub struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let body = read(body).await?;
        if !is_json(&parts) {
            return Err(Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported-media-type",
                "Send the body as JSON, with 'Content-Type: application/json'.",
            ));
        }
        parse(&body).map(Self)
    }
}

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match path::Path::from_request_parts(parts, state).await {
            Ok(path::Path(value)) => Ok(Self(value)),
            Err(rejection) => Err(path_problem(parts, state, rejection).await),
        }
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let query = axum::extract::Query::from_request_parts(parts, state).await;
        query.map(|axum::extract::Query(value)| Self(value)).map_err(|rejection| query_problem(&rejection))
    }
}

/// The whole body. The usual one arrives as one piece and is not copied.
async fn read(body: axum::body::Body) -> Result<Bytes, Problem> {
    let mut pieces = body.into_data_stream();
    let mut next = async || {
        let broken = |_| Problem::bad_request("incomplete-body", "The body ended before it was complete.");
        pieces.try_next().await.map_err(broken)
    };
    let Some(first) = next().await? else { return Ok(Bytes::new()) };
    let Some(second) = next().await? else { return accept(first) };

    let mut total = first.len() + second.len();
    let mut whole = BytesMut::from(first);
    whole.extend_from_slice(&second);
    while let Some(piece) = next().await? {
        total += piece.len();
        if total <= MAX_BODY {
            whole.extend_from_slice(&piece);
        } else if total > MAX_DISCARDED {
            break;
        }
    }
    if total > MAX_BODY { Err(too_large()) } else { Ok(whole.freeze()) }
}

fn accept(body: Bytes) -> Result<Bytes, Problem> {
    if body.len() > MAX_BODY { Err(too_large()) } else { Ok(body) }
}

fn too_large() -> Problem {
    let detail = format!("The body is larger than {MAX_BODY} bytes.");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", detail)
}

/// `application/json` or any `application/...+json`, whatever the case and the parameters.
fn is_json(parts: &Parts) -> bool {
    let declared = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let kind = declared.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    let starts = |prefix: &str| kind.get(..prefix.len()).is_some_and(|k| k.eq_ignore_ascii_case(prefix));
    let suffixed = kind.rsplit_once('+').is_some_and(|(_, suffix)| suffix.eq_ignore_ascii_case("json"));
    kind.eq_ignore_ascii_case("application/json") || (starts("application/") && suffixed)
}

/// Parses at full speed; only a body that fails is parsed again to learn where.
fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let text = std::str::from_utf8(body).map_err(|error| {
        let detail = format!("The body is not UTF-8: see byte {}.", error.valid_up_to());
        Problem::bad_request("not-utf-8", detail)
    })?;
    serde_json::from_str(text).map_err(|error| {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        match serde_path_to_error::deserialize::<_, T>(&mut deserializer) {
            Err(located) if located.inner().is_data() => {
                invalid_body(&located.path().to_string(), &reason(located.inner()))
            }
            _ => Problem::bad_request("malformed-json", format!("The body is not JSON: {error}.")),
        }
    })
}

/// The reason without the position: the field tells more.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let position = format!(" at line {} column {}", error.line(), error.column());
    text.strip_suffix(&position).unwrap_or(&text).to_owned()
}

fn invalid_body(path: &str, reason: &str) -> Problem {
    let field = locate(path, reason);
    let problem = Problem::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        "invalid-body",
        format!("The body cannot be accepted: {reason}."),
    );
    if field.is_empty() { problem } else { problem.with_field(field) }
}

/// The path of the field at fault. For a missing, unknown or repeated field serde knows the path of the object, and the
/// field's name only in the text.
fn locate(path: &str, reason: &str) -> String {
    let path = if path == "." { "" } else { path };
    let named = ["missing field `", "unknown field `", "duplicate field `"]
        .iter()
        .find_map(|start| reason.strip_prefix(start))
        .and_then(|rest| rest.split('`').next());
    // A missing field is never in the path, even where the object around it has the same name.
    let missing = reason.starts_with("missing field `");
    match named {
        Some(name) if path.is_empty() => name.to_owned(),
        Some(name) if missing || path.rsplit('.').next() != Some(name) => format!("{path}.{name}"),
        _ => path.to_owned(),
    }
}

async fn path_problem<S: Send + Sync>(parts: &mut Parts, state: &S, rejection: PathRejection) -> Problem {
    let PathRejection::FailedToDeserializePathParams(error) = rejection else {
        return Problem::internal();
    };
    let (name, detail) = match error.into_kind() {
        ErrorKind::ParseErrorAtKey { key, value, expected_type } => (key, not_a(&value, expected_type)),
        ErrorKind::DeserializeError { key, value, message } => (key, format!("'{value}': {message}.")),
        ErrorKind::InvalidUtf8InPathParam { key } => (key, "It is not UTF-8.".to_owned()),
        ErrorKind::ParseErrorAtIndex { index, value, expected_type } => {
            (parameter(parts, state, index).await, not_a(&value, expected_type))
        }
        ErrorKind::ParseError { value, expected_type } => {
            (parameter(parts, state, 0).await, not_a(&value, expected_type))
        }
        ErrorKind::Message(message) => (parameter(parts, state, 0).await, format!("{message}.")),
        // Wrong number of parameters and types that no path can hold: the handler and its route disagree.
        _ => return Problem::internal(),
    };
    let problem = Problem::bad_request("invalid-path", format!("The path cannot be read. {detail}"));
    if name.is_empty() { problem } else { problem.with_field(name) }
}

fn not_a(value: &str, expected: &str) -> String {
    format!("'{value}' is not a {expected}.")
}

/// The name of a parameter of the route, by its place.
async fn parameter<S: Send + Sync>(parts: &mut Parts, state: &S, index: usize) -> String {
    let parameters = path::RawPathParams::from_request_parts(parts, state).await;
    parameters.ok().and_then(|all| all.iter().nth(index).map(|(name, _)| name.to_owned())).unwrap_or_default()
}

fn query_problem(rejection: &QueryRejection) -> Problem {
    let mut cause: Option<&(dyn Error + 'static)> = Some(rejection);
    while let Some(error) = cause {
        if let Some(located) = error.downcast_ref::<serde_path_to_error::Error<serde::de::value::Error>>() {
            let reason = located.inner().to_string();
            let field = locate(&located.path().to_string(), &reason);
            let problem =
                Problem::bad_request("invalid-query", format!("The query cannot be read: {reason}."));
            return if field.is_empty() { problem } else { problem.with_field(field) };
        }
        cause = error.source();
    }
    Problem::bad_request("invalid-query", "The query cannot be read.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{
        Router,
        body::Body as RawBody,
        response::Response,
        routing::{get, post},
    };
    use serde::Deserialize;
    use serde_json::Value;
    use tower::ServiceExt;
    use uuid::Uuid;

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Order {
        items: Vec<Item>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Item {
        sku: String,
        quantity: u32,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Page {
        limit: Option<u32>,
    }

    fn app() -> Router {
        Router::new()
            .route(
                "/orders",
                post(async |Body(order): Body<Order>| {
                    order
                        .items
                        .into_iter()
                        .map(|item| format!("{}x{}", item.quantity, item.sku))
                        .collect::<Vec<_>>()
                        .concat()
                })
                .get(async |Query(page): Query<Page>| page.limit.unwrap_or(20).to_string()),
            )
            .route("/orders/{id}", get(async |Path(id): Path<Uuid>| id.to_string()))
            .route("/pages/{order}/{page}", get(async |Path((_, page)): Path<(String, u8)>| page.to_string()))
    }

    async fn send(request: Request) -> (u16, String) {
        let response: Response = app().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn post_body(kind: &str, body: impl Into<RawBody>) -> (u16, String) {
        send(Request::post("/orders").header("content-type", kind).body(body.into()).unwrap()).await
    }

    /// Status, slug, field and detail of the problem that `body` gets.
    async fn refuse(kind: &str, body: impl Into<RawBody>) -> (u16, String, String, String) {
        problem(post_body(kind, body).await)
    }

    fn problem((status, body): (u16, String)) -> (u16, String, String, String) {
        let body: Value =
            serde_json::from_str(&body).unwrap_or_else(|_| panic!("no problem but {status} {body}"));
        let text = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
        assert_eq!(body["status"], status);
        (status, text("type").replace("/problems/", ""), text("field"), text("detail"))
    }

    #[tokio::test]
    async fn reads_json_however_it_is_declared_and_cut() {
        let json = r#"{"items":[{"sku":"TEA","quantity":2}]}"#;
        for kind in ["application/json", "Application/JSON; charset=utf-8", "application/vnd.order+json"] {
            assert_eq!(post_body(kind, json).await, (200, "2xTEA".to_owned()), "{kind}");
        }
        let pieces = json.as_bytes().chunks(7).map(|piece| Ok::<_, std::io::Error>(piece.to_vec()));
        let pieces = RawBody::from_stream(futures::stream::iter(pieces.collect::<Vec<_>>()));
        assert_eq!(post_body("application/json", pieces).await, (200, "2xTEA".to_owned()));
    }

    #[tokio::test]
    async fn names_the_field_at_fault() {
        for (body, field, reason) in [
            (r#"{"items":[{"sku":"A","quantity":-1}]}"#, "items[0].quantity", "invalid value: integer `-1`"),
            (r#"{"items":[{"sku":"A","quantity":1.5}]}"#, "items[0].quantity", "floating point `1.5`"),
            (
                r#"{"items":[{"sku":"A","quantity":99999999999}]}"#,
                "items[0].quantity",
                "integer `99999999999`",
            ),
            (r#"{"items":[{"sku":"A","quantity":1},{"sku":7}]}"#, "items[1].sku", "expected a string"),
            (r#"{"items":[{"sku":"A"}]}"#, "items[0].quantity", "missing field"),
            (r#"{"items":[{"sku":"A","price":3}]}"#, "items[0].price", "unknown field"),
            (r#"{"items":[{"sku":"A","sku":"B"}]}"#, "items[0].sku", "duplicate field"),
            (r#"{"items":[],"coupon":"X"}"#, "coupon", "unknown field"),
            ("{}", "items", "missing field"),
            ("[1]", "[0]", "invalid type"),
            ("7", "", "invalid type"),
        ] {
            let (status, slug, named, detail) = refuse("application/json", body).await;
            assert_eq!((status, &*slug, &*named), (422, "invalid-body", field), "{body}: {detail}");
            assert!(detail.contains(reason) && !detail.contains("column"), "{body}: {detail}");
        }
    }

    #[tokio::test]
    async fn refuses_what_is_not_json_with_its_place() {
        for body in ["", "{", r#"{"items":[}"#, r#"{"items":[]}{}"#, r#"{"items": nul}"#] {
            let (status, slug, _, detail) = refuse("application/json", body).await;
            assert_eq!((status, &*slug), (400, "malformed-json"), "{body}");
            assert!(detail.contains("line 1 column"), "{body}: {detail}");
        }
        let deep = "[".repeat(100_000);
        assert_eq!(refuse("application/json", deep).await.0, 422, "the type is wrong before the depth is");
        let (status, slug, _, detail) = refuse("application/json", &b"{\"items\":\"\xff\"}"[..]).await;
        assert_eq!((status, &*slug), (400, "not-utf-8"));
        assert!(detail.contains("byte 10"), "{detail}");
        for kind in ["text/plain", "text/json", "application/jsonp", "multipart/form-data+jso", ""] {
            assert_eq!(refuse(kind, "{}").await.0, 415, "{kind}");
        }
    }

    #[tokio::test]
    async fn refuses_a_body_above_the_limit_whole_or_in_pieces() {
        let accepted = format!("{}{{\"items\":[]}}", " ".repeat(MAX_BODY - 12));
        assert_eq!(accepted.len(), MAX_BODY);
        assert_eq!(post_body("application/json", accepted.clone()).await.0, 200);
        assert_eq!(refuse("application/json", format!("{accepted} ")).await.0, 413);
        let pieces = (0..33).map(|_| Ok::<_, std::io::Error>(vec![b' '; 65_536]));
        let (status, slug, ..) =
            refuse("application/json", RawBody::from_stream(futures::stream::iter(pieces))).await;
        assert_eq!((status, &*slug), (413, "body-too-large"));
        let broken = [Ok(vec![b'{']), Err(std::io::Error::other("reset"))];
        let broken = RawBody::from_stream(futures::stream::iter(broken));
        assert_eq!(refuse("application/json", broken).await.1, "incomplete-body");
    }

    #[tokio::test]
    async fn names_the_parameter_at_fault() {
        let ask = async |path: &str| send(Request::get(path).body(RawBody::empty()).unwrap()).await;
        let id = "0198c2f0-0000-7000-8000-000000000001";
        assert_eq!(ask(&format!("/orders/{id}")).await, (200, id.to_owned()));
        assert_eq!(ask("/pages/x/7").await, (200, "7".to_owned()));
        assert_eq!(ask("/orders?limit=5").await, (200, "5".to_owned()));
        assert_eq!(ask("/orders").await, (200, "20".to_owned()));
        for (path, slug, field) in [
            ("/orders/seven", "invalid-path", "id"),
            ("/orders/%ff", "invalid-path", "id"),
            ("/pages/x/700", "invalid-path", "page"),
            ("/pages/%ff/7", "invalid-path", "order"),
            ("/orders?limit=many", "invalid-query", "limit"),
            ("/orders?limit=-1", "invalid-query", "limit"),
            ("/orders?limit=1&limit=2", "invalid-query", "limit"),
            ("/orders?colour=red", "invalid-query", "colour"),
        ] {
            let (status, found, named, detail) = problem(ask(path).await);
            assert_eq!((status, &*found, &*named), (400, slug, field), "{path}: {detail}");
        }
    }
}
