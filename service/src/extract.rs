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
    let problem =
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid-body", format!("The body has a {reason}."));
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
    match named {
        Some(name) if path.is_empty() => name.to_owned(),
        Some(name) if !path.rsplit('.').next().is_some_and(|last| last == name) => format!("{path}.{name}"),
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
