//! Every error of every API: problem details for HTTP (RFC 9457).

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use std::{borrow::Cow, fmt, sync::Arc};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{RefOr, Schema},
};

/// An answer that is not success, as `application/problem+json`. One pointer, so that results stay small.
#[derive(Clone, Debug)]
pub struct Problem(Box<Document>);

/// What is wrong, for programs and for people.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Document {
    /// What kind of problem this is: `/problems/` and a stable name.
    #[serde(rename = "type")]
    #[schema(example = "/problems/invalid-body")]
    kind: String,
    /// The kind in words.
    #[schema(example = "Invalid body")]
    title: String,
    /// The HTTP status.
    #[schema(example = 422)]
    status: u16,
    /// What is wrong this time and what to do.
    detail: String,
    /// The part of the request at fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "items[0].sku")]
    field: Option<String>,
    /// All parts at fault, where there are several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    errors: Vec<FieldError>,
    /// Finds this request in the logs.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    correlation_id: Option<Arc<str>>,
    #[serde(skip)]
    retry_after: Option<u32>,
    #[serde(skip)]
    challenge: Option<HeaderValue>,
}

/// One part of the request at fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldError {
    /// Where, as a JSON path.
    #[schema(example = "items[0].sku")]
    pub field: String,
    /// What is wrong there.
    pub detail: String,
}

impl Problem {
    /// A problem named by `slug`, the last part of its `type`: lower case with hyphens, and never changed once published.
    pub fn new(status: StatusCode, slug: &'static str, detail: impl Into<String>) -> Self {
        Self(Box::new(Document {
            kind: format!("/problems/{slug}"),
            title: title(slug),
            status: status.as_u16(),
            detail: detail.into(),
            field: None,
            errors: Vec::new(),
            correlation_id: None,
            retry_after: None,
            challenge: None,
        }))
    }

    /// The request cannot be read (400).
    pub fn bad_request(slug: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, slug, detail)
    }

    /// What was asked for does not exist (404).
    pub fn not_found(slug: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, slug, detail)
    }

    /// The state of things forbids it (409).
    pub fn conflict(slug: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, slug, detail)
    }

    /// A field of the request cannot be accepted (422).
    pub fn invalid(slug: &'static str, field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, slug, detail).with_field(field)
    }

    /// Something needed is away for now (503); try again after so many seconds.
    pub fn unavailable(slug: &'static str, detail: impl Into<String>, retry_after: u32) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, slug, detail).with_retry_after(retry_after)
    }

    /// Our fault (500). Says nothing of the cause: log that where it is known.
    pub fn internal() -> Self {
        let detail = "Something went wrong here. The correlation id finds the cause in the logs.";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
    }

    /// Names the part of the request at fault, as a JSON path such as `items[0].sku`.
    #[must_use]
    pub fn with_field(mut self, field: impl Into<String>) -> Self {
        self.0.field = Some(field.into());
        self
    }

    /// Names all parts of the request at fault.
    #[must_use]
    pub fn with_errors(mut self, errors: Vec<FieldError>) -> Self {
        self.0.errors = errors;
        self
    }

    /// When to try again; also sets the `Retry-After` header.
    #[must_use]
    pub fn with_retry_after(mut self, seconds: u32) -> Self {
        self.0.retry_after = Some(seconds);
        self
    }

    /// How to prove who is asking: the `WWW-Authenticate` header.
    #[must_use]
    pub fn with_challenge(mut self, challenge: HeaderValue) -> Self {
        self.0.challenge = Some(challenge);
        self
    }

    /// Where to find this request in the logs. The layers of [`crate::http`] set it on every problem they let out.
    #[must_use]
    pub fn with_correlation_id(mut self, id: Arc<str>) -> Self {
        self.0.correlation_id = Some(id);
        self
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The problem's `type`: `/problems/<slug>`.
    pub fn kind(&self) -> &str {
        &self.0.kind
    }

    /// What is wrong this time.
    pub fn detail(&self) -> &str {
        &self.0.detail
    }

    /// The part of the request at fault.
    pub fn field(&self) -> Option<&str> {
        self.0.field.as_deref()
    }

    /// The document, for what tells problems other than by an answer.
    pub fn to_json(&self) -> String {
        // Strings, numbers and lists of them always serialize.
        serde_json::to_string(&self.0).unwrap_or_default()
    }

    /// The body, as JSON.
    pub(crate) fn body(&self) -> Body {
        Body::from(self.to_json())
    }
}

/// `order-not-pending` becomes `Order not pending`.
fn title(slug: &str) -> String {
    let mut title = slug.replace('-', " ");
    if let Some(first) = title.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    title
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.0.status, self.0.kind, self.0.detail)
    }
}

impl std::error::Error for Problem {}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = Response::new(self.body());
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.0.retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if let Some(challenge) = &self.0.challenge {
            headers.insert(header::WWW_AUTHENTICATE, challenge.clone());
        }
        // Kept so that the outermost layer can write the body again, with the correlation id.
        response.extensions_mut().insert(self);
        response
    }
}

impl PartialSchema for Problem {
    fn schema() -> RefOr<Schema> {
        Document::schema()
    }
}

impl ToSchema for Problem {
    fn name() -> Cow<'static, str> {
        "Problem".into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((FieldError::name().into(), FieldError::schema()));
        Document::schemas(schemas);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    async fn read(problem: Problem) -> (Response, Value) {
        let (parts, body) = problem.into_response().into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        (Response::from_parts(parts, Body::empty()), serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test]
    async fn says_everything_that_is_known_and_nothing_else() {
        let (response, body) =
            read(Problem::invalid("unknown-sku", "items[0].sku", "There is no SKU 'X'.")).await;
        assert_eq!(response.status(), 422);
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        assert_eq!(
            body,
            json!({
                "type": "/problems/unknown-sku",
                "title": "Unknown sku",
                "status": 422,
                "detail": "There is no SKU 'X'.",
                "field": "items[0].sku",
            })
        );
        let errors = vec![FieldError { field: "a".into(), detail: "no".into() }];
        let problem = Problem::bad_request("x", "y").with_errors(errors).with_correlation_id("c-1".into());
        let (_, body) = read(problem).await;
        assert_eq!(body["errors"], json!([{ "field": "a", "detail": "no" }]));
        assert_eq!(body["correlationId"], "c-1");
    }

    #[tokio::test]
    async fn a_problem_that_passes_says_when_to_try_again() {
        let (response, body) = read(Problem::unavailable("nats-down", "The log is away.", 2)).await;
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["retry-after"], "2");
        assert_eq!(body["title"], "Nats down");
    }

    #[test]
    fn the_schema_has_the_names_of_the_body() {
        let schema = serde_json::to_value(Problem::schema()).unwrap();
        let mut names: Vec<_> = schema["properties"].as_object().unwrap().keys().collect();
        names.sort();
        assert_eq!(names, ["correlationId", "detail", "errors", "field", "status", "title", "type"]);
        assert_eq!(schema["required"], json!(["type", "title", "status", "detail"]));
    }
}
