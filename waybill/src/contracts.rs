//! What others may rely on, served by every service to everybody: the JSON Schema of every version of every fact, and the
//! AsyncAPI document of what is recorded and who reads it.
//!
//! All of it is known when the program is built. Answers carry an `ETag`, so that whoever asks again is told that nothing
//! has changed.

use axum::{
    body::Bytes,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use events::{Aggregate, FactType, schema};
use serde::Serialize;
use service::{Problem, extract::Path};
use std::{collections::BTreeMap, sync::LazyLock};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

/// Generated, and held to the types by a test (`tests/stories/asyncapi.rs`).
const ASYNCAPI: &str = include_str!("../../docs/asyncapi.json");

/// Long enough to spare requests, short enough that a new version is seen on the day it is deployed.
const CACHE_CONTROL: HeaderValue = HeaderValue::from_static("public, max-age=300");

/// The routes, and their documentation.
pub(crate) fn routes() -> OpenApiRouter {
    OpenApiRouter::new().routes(routes!(schemas)).routes(routes!(fact_schema)).routes(routes!(asyncapi))
}

/// What is answered at one path.
struct Document {
    kind: HeaderValue,
    etag: HeaderValue,
    body: Bytes,
}

impl Document {
    fn new(kind: &'static str, body: impl Into<Bytes>) -> Self {
        let body = body.into();
        // The same in every process that was built from the same types.
        let etag = format!("\"{}\"", Uuid::new_v5(&Uuid::NAMESPACE_URL, &body).simple());
        let etag = HeaderValue::try_from(etag).unwrap_or(HeaderValue::from_static("\"\""));
        Self { kind: HeaderValue::from_static(kind), etag, body }
    }

    /// The document, or that it is still the one which the client has (304).
    fn answer(&self, request: &HeaderMap) -> Response {
        let known = request.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
        let etag = self.etag.as_bytes();
        let same = |tag: &str| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag).as_bytes() == etag;
        let headers = [(header::ETAG, self.etag.clone()), (header::CACHE_CONTROL, CACHE_CONTROL)];
        if known.flat_map(|tags| tags.split(',')).any(|tag| same(tag.trim())) {
            return (StatusCode::NOT_MODIFIED, headers).into_response();
        }
        (headers, [(header::CONTENT_TYPE, self.kind.clone())], self.body.clone()).into_response()
    }
}

/// The schemas of one type of fact.
#[derive(Serialize, ToSchema)]
struct FactSchemas {
    /// `ce-type`.
    #[serde(rename = "type")]
    #[schema(example = "order.created")]
    kind: &'static str,
    /// The newest version.
    #[schema(example = 2)]
    version: u32,
    /// The stream that holds them.
    #[schema(example = "ORDERS")]
    stream: &'static str,
    /// The subjects that they are recorded on.
    #[schema(example = "evt.orders.order.*")]
    subjects: String,
    /// Where the schema of each version is found, from version 1 on.
    #[schema(example = json!(["/schemas/order.created/1", "/schemas/order.created/2"]))]
    schemas: Vec<String>,
}

/// The schemas of all facts.
#[derive(Serialize, ToSchema)]
struct SchemaIndex {
    /// By context, as docs/events.md has them.
    types: Vec<FactSchemas>,
}

impl SchemaIndex {
    fn of_facts() -> Self {
        let of = |aggregate: Aggregate, fact: &'static FactType| FactSchemas {
            kind: fact.name,
            version: fact.version,
            stream: aggregate.context().stream(),
            subjects: aggregate.filter(),
            schemas: (1..=fact.version).map(|version| schema::path(fact.name, version)).collect(),
        };
        let facts = Aggregate::ALL
            .into_iter()
            .flat_map(|aggregate| FactType::of(aggregate).iter().map(move |fact| (aggregate, fact)));
        Self { types: facts.map(|(aggregate, fact)| of(aggregate, fact)).collect() }
    }
}

static INDEX: LazyLock<Document> = LazyLock::new(|| {
    // A list of names is always JSON.
    let index = serde_json::to_vec(&SchemaIndex::of_facts()).unwrap_or_default();
    Document::new("application/json", index)
});

/// By type and version.
static SCHEMAS: LazyLock<BTreeMap<(&str, u32), Document>> = LazyLock::new(|| {
    let versions = FactType::all().flat_map(|fact| (1..=fact.version).map(move |version| (fact, version)));
    let schemas = versions.filter_map(|(fact, version)| {
        let schema = format!("{:#}\n", schema::of(fact, version)?);
        Some(((fact.name, version), Document::new("application/schema+json", schema)))
    });
    schemas.collect()
});

static CHANNELS: LazyLock<Document> = LazyLock::new(|| Document::new("application/json", ASYNCAPI));

/// There is no such schema.
#[derive(utoipa::IntoResponses)]
#[response(status = 404, content_type = "application/problem+json")]
#[expect(dead_code, reason = "documents an answer")]
struct Unknown(Problem);

/// The path cannot be read.
#[derive(utoipa::IntoResponses)]
#[response(status = 400, content_type = "application/problem+json")]
#[expect(dead_code, reason = "documents an answer")]
struct Unreadable(Problem);

/// Which facts there are, and where their schemas are found
///
/// Open to everybody.
#[utoipa::path(
    get, path = "/schemas", tag = "contracts",
    params(("If-None-Match" = Option<String>, Header, description = "An `ETag` that was answered before")),
    responses(
        (status = 200, body = SchemaIndex, headers(("ETag" = String, description = "Changes with the answer"))),
        (status = 304, description = "Nothing has changed"),
    )
)]
async fn schemas(request: HeaderMap) -> Response {
    INDEX.answer(&request)
}

/// The JSON Schema of one version of a fact
///
/// This is where `ce-dataschema` of an event leads. Open to everybody.
#[utoipa::path(
    get, path = "/schemas/{type}/{version}", tag = "contracts",
    params(
        ("type" = String, Path, description = "`ce-type`", example = "order.created"),
        ("version" = u32, Path, description = "From 1 to the newest", example = 2),
        ("If-None-Match" = Option<String>, Header, description = "An `ETag` that was answered before"),
    ),
    responses(
        (status = 200, body = Object, content_type = "application/schema+json",
            headers(("ETag" = String, description = "Changes with the answer"))),
        (status = 304, description = "Nothing has changed"),
        Unknown, Unreadable,
    )
)]
async fn fact_schema(
    Path((kind, version)): Path<(String, u32)>,
    request: HeaderMap,
) -> Result<Response, Problem> {
    let document = SCHEMAS.get(&(kind.as_str(), version)).ok_or_else(|| {
        let detail =
            format!("There is no version {version} of a fact '{kind}'. /schemas lists what there is.");
        Problem::not_found("unknown-schema", detail)
    })?;
    Ok(document.answer(&request))
}

/// Every subject of events and who records and reads what, as AsyncAPI 3.0
///
/// Open to everybody.
#[utoipa::path(
    get, path = "/asyncapi.json", tag = "contracts",
    params(("If-None-Match" = Option<String>, Header, description = "An `ETag` that was answered before")),
    responses(
        (status = 200, body = Object, headers(("ETag" = String, description = "Changes with the answer"))),
        (status = 304, description = "Nothing has changed"),
    )
)]
async fn asyncapi(request: HeaderMap) -> Response {
    CHANNELS.answer(&request)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(known: &[&'static str]) -> Response {
        let mut request = HeaderMap::new();
        for tags in known {
            request.append(header::IF_NONE_MATCH, HeaderValue::from_static(tags));
        }
        INDEX.answer(&request)
    }

    #[test]
    fn every_version_of_every_fact_has_a_document() {
        let versions: u32 = FactType::all().map(|fact| fact.version).sum();
        assert_eq!(SCHEMAS.len(), versions as usize);
        assert_eq!(SchemaIndex::of_facts().types.len(), FactType::all().count());
    }

    #[test]
    fn whoever_has_the_document_is_told_so() {
        let first = answered(&[]);
        assert_eq!(
            (first.status(), &first.headers()[header::CONTENT_TYPE]),
            (StatusCode::OK, &HeaderValue::from_static("application/json"))
        );
        let etag = first.headers()[header::ETAG].to_str().unwrap().to_owned();
        assert!(etag.len() == 34 && etag.starts_with('"') && etag.ends_with('"'), "{etag}");
        assert_eq!(answered(&["\"other\""]).status(), StatusCode::OK);
        for known in [format!("\"a\", W/{etag}"), etag.clone(), "*".to_owned()] {
            let mut request = HeaderMap::new();
            request.append(header::IF_NONE_MATCH, HeaderValue::from_static("\"b\""));
            request.append(header::IF_NONE_MATCH, HeaderValue::try_from(&known).unwrap());
            let again = INDEX.answer(&request);
            assert_eq!(again.status(), StatusCode::NOT_MODIFIED, "{known}");
            assert_eq!(again.headers()[header::ETAG], etag.as_str());
            assert!(!again.headers().contains_key(header::CONTENT_TYPE));
        }
    }
}
