//! The HTTP command API: what its endpoints share. Step 1 of the flow.
//!
//! A request says what it asks for in its path and body, and how in its headers ([`Call`]). Both are checked before
//! anything is read or written; what is wrong becomes a 4xx problem that names the field. Then it is one
//! [`idempotency::Command`], carried out once however often it is sent.

mod call;
mod idempotency;

use crate::{Aggregate, AnyKey, Decision, ExecuteError, Executor, Key, Receipt, Refusal, Stop};
use axum::{
    body::{Body, HttpBody},
    extract::{FromRequest, Request},
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
pub(crate) use call::{Call, CallHeaders};
use events::Position;
pub(crate) use idempotency::{Attempt, Command};
use nats::{AppendError, KeyError, Ledger, LoadError, Outcome};
use serde::{Serialize, de::DeserializeOwned};
use service::{Clock, Problem, extract};
use std::{error::Error, sync::Arc};
use utoipa::{IntoResponses, OpenApi, ToSchema};
use utoipa_axum::router::OpenApiRouter;

/// Says that an answer was given before.
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
/// In a request what must have been seen, in an answer where the command's last event stands.
const POSITION: HeaderName = HeaderName::from_static("waybill-position");

/// What the endpoints of one service need.
#[derive(Clone)]
pub(crate) struct Api {
    /// Carries out the commands.
    pub(crate) executor: Executor,
    /// Knows what became of idempotency keys.
    pub(crate) ledger: Ledger,
    /// Time and new identifiers.
    pub(crate) clock: Clock,
}

/// A JSON body that may be left out. Where it is there, it is read as strictly as any other.
pub(crate) struct Optional<T>(pub(crate) T);

impl<T: DeserializeOwned + Default, S: Send + Sync> FromRequest<S> for Optional<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        if request.body().is_end_stream() {
            return Ok(Self(T::default()));
        }
        let extract::Body(body) = extract::Body::from_request(request, state).await?;
        Ok(Self(body))
    }
}

/// The body of a command that says everything in its path: left out, or `{}`.
#[derive(Default, Serialize, serde::Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Nothing {}

/// An amount of money.
#[derive(ToSchema)]
#[expect(dead_code, reason = "documents events::Money, which knows nothing of OpenAPI")]
pub(crate) struct Money {
    /// Minor units, such as cents.
    #[schema(example = 1250)]
    amount: i64,
    /// ISO 4217 code.
    #[schema(example = "EUR")]
    currency: String,
}

/// A place in the log.
#[derive(ToSchema)]
#[schema(as = Position)]
#[expect(dead_code, reason = "documents events::Position, which knows nothing of OpenAPI")]
pub(crate) struct PositionBody {
    /// The stream.
    #[schema(example = "ORDERS")]
    stream: String,
    /// The sequence in the stream.
    #[schema(example = 42)]
    sequence: u64,
}

/// What a command is answered that has nothing more to say.
#[derive(Serialize, ToSchema)]
pub(crate) struct Accepted<'a> {
    /// What was created or changed.
    pub(crate) id: &'a str,
    /// Where the command's last event stands: a query given this position sees its effect.
    #[schema(value_type = PositionBody)]
    pub(crate) position: Position,
}

/// The answer to a command that was carried out.
pub(crate) struct Answer {
    outcome: Outcome,
    /// Whether the command had been carried out before.
    replayed: bool,
}

impl Answer {
    /// With this body, about what is found at `location`.
    pub(crate) fn new(
        status: StatusCode,
        location: String,
        receipt: &Receipt,
        body: &impl Serialize,
    ) -> Self {
        let outcome = Outcome {
            status: status.as_u16(),
            location: Some(location),
            position: Some(receipt.position.to_string()),
            // Structs of strings and numbers always serialize.
            body: serde_json::value::to_raw_value(body).unwrap_or_default(),
        };
        Self { outcome, replayed: receipt.replayed }
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let Self { outcome: Outcome { status, location, position, body }, replayed } = self;
        let mut response = Response::new(Body::from(String::from(Box::<str>::from(body))));
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let kind = if status.is_success() { "application/json" } else { "application/problem+json" };
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        for (name, value) in [(header::LOCATION, location), (POSITION, position)] {
            // Both are made of ids and SKUs, which are visible ASCII.
            if let Some(value) = value.and_then(|value| HeaderValue::try_from(value).ok()) {
                headers.insert(name, value);
            }
        }
        if replayed {
            headers.insert(REPLAYED, HeaderValue::from_static("true"));
        }
        response
    }
}

/// The schemas of the answers below, which are not collected from the routes.
#[derive(OpenApi)]
#[openapi(components(schemas(Accepted, Problem)))]
struct Schemas;

/// A router for commands that answer with what is documented here.
pub(crate) fn router<S: Clone + Send + Sync + 'static>() -> OpenApiRouter<S> {
    OpenApiRouter::with_openapi(Schemas::openapi())
}

/// It was created.
#[derive(IntoResponses)]
#[response(status = 201, headers(
    ("Location" = String, description = "Where it is found"),
    ("Waybill-Position" = String, description = "The position, for the header of the same name in a query"),
    ("Idempotent-Replayed" = Option<bool>, description = "`true` where this was answered before"),
))]
#[expect(dead_code, reason = "documents an answer")]
pub(crate) struct Created(Accepted<'static>);

/// It was recorded.
#[derive(IntoResponses)]
#[response(status = 202, headers(
    ("Location" = String, description = "Where it is found"),
    ("Waybill-Position" = String, description = "The position, for the header of the same name in a query"),
    ("Idempotent-Replayed" = Option<bool>, description = "`true` where this was answered before"),
))]
#[expect(dead_code, reason = "documents an answer")]
pub(crate) struct Recorded(Accepted<'static>);

/// What the command is about does not exist.
#[derive(IntoResponses)]
#[response(status = 404, content_type = "application/problem+json")]
#[expect(dead_code, reason = "documents an answer")]
pub(crate) struct Unknown(Problem);

/// How every command can be refused.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "documents the problems of every command")]
pub(crate) enum Refused {
    /// The path, a header or the body cannot be read.
    #[response(status = 400, content_type = "application/problem+json")]
    Unreadable(Problem),
    /// The state of things forbids it, or a request with the same key is in flight.
    #[response(status = 409, content_type = "application/problem+json")]
    Conflict(Problem),
    /// The body is too large.
    #[response(status = 413, content_type = "application/problem+json")]
    TooLarge(Problem),
    /// The body is not declared as JSON.
    #[response(status = 415, content_type = "application/problem+json")]
    NotJson(Problem),
    /// A field cannot be accepted, or the key was used for another request.
    #[response(status = 422, content_type = "application/problem+json")]
    Invalid(Problem),
    /// The log is away or busy, or the keys of access tokens are: try again after `Retry-After`.
    #[response(status = 503, content_type = "application/problem+json")]
    Unavailable(Problem),
}

/// How a command that was carried out is answered.
pub(crate) struct Done {
    status: StatusCode,
    location: String,
}

impl Done {
    /// What was asked for is there now, at this place.
    pub(crate) fn created(location: String) -> Self {
        Self { status: StatusCode::CREATED, location }
    }

    /// It is recorded; what comes of it is found at this place.
    pub(crate) fn recorded(location: String) -> Self {
        Self { status: StatusCode::ACCEPTED, location }
    }
}

impl Attempt {
    /// Carries out the command on the aggregate `about`, with those `beside` it, and answers with its id and the position.
    pub(crate) async fn accept(
        &self,
        about: AnyKey,
        beside: impl IntoIterator<Item = AnyKey>,
        Done { status, location }: Done,
        run: impl Fn(&mut Decision) -> Result<(), Stop> + Send + Sync + 'static,
    ) -> Result<Answer, ExecuteError> {
        let subject = about.subject.clone();
        let receipt = self.execute(&subject, [about].into_iter().chain(beside).collect(), run).await?;
        let body = Accepted { id: subject.id(), position: receipt.position };
        Ok(Answer::new(status, location, &receipt, &body))
    }
}

impl Api {
    /// Carries out a command on the aggregate `about`, with those `beside` it, and answers with its id and the position.
    pub(crate) async fn accept(
        self: &Arc<Self>,
        command: Command,
        about: AnyKey,
        beside: Vec<AnyKey>,
        done: Done,
        run: impl Fn(&mut Decision) -> Result<(), Stop> + Send + Sync + 'static,
    ) -> Result<Response, Problem> {
        let carry_out = async move |attempt: Attempt| attempt.accept(about, beside, done, run).await;
        self.answer(command, carry_out).await
    }

    /// The same for what is asked of one aggregate alone; one that is created is supposed not to exist.
    pub(crate) async fn apply<A>(
        self: &Arc<Self>,
        command: Command,
        key: Key<A>,
        done: Done,
        asked: A::Command,
    ) -> Result<Response, Problem>
    where
        A: Aggregate<Command: Send + Sync>,
    {
        let about = if done.status == StatusCode::CREATED { key.likely_new() } else { key.load() };
        self.accept(command, about, Vec::new(), done, move |decision| decision.apply(&key, asked.clone()))
            .await
    }
}

/// Refuses a command that is wrong in itself, by asking an aggregate in `state`. Refusals that rest on the state are
/// left to the executor, which knows it.
pub(crate) fn check<A: Aggregate>(state: &A::State, command: A::Command) -> Result<(), Problem> {
    match A::decide(state, command).map_err(Into::<Refusal>::into) {
        Err(refusal) if refusal.status == 422 => Err(refusal.into()),
        _ => Ok(()),
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let Refusal { slug, status, detail, field } = refusal;
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::UNPROCESSABLE_ENTITY);
        let problem = Self::new(status, slug, sentence(detail));
        match field {
            Some(field) => problem.with_field(field),
            None => problem,
        }
    }
}

/// `an order needs a line` becomes `An order needs a line.`
fn sentence(mut text: String) -> String {
    if let Some(first) = text.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    text.push('.');
    text
}

impl From<ExecuteError> for Problem {
    fn from(error: ExecuteError) -> Self {
        match error {
            ExecuteError::Refused(refusal) => refusal.into(),
            ExecuteError::Append(AppendError::Unknown) => {
                let detail = "Nobody knows yet whether the command was carried out. Send it again with the same \
                              Idempotency-Key: it has no second effect. Without a key, look before you repeat it.";
                Self::unavailable("outcome-unknown", detail, 1)
            }
            ExecuteError::Load(ref load) if matches!(**load, LoadError::Foreign { .. }) => failed(&error),
            ExecuteError::Keys(ref keys) if !matches!(**keys, KeyError::Away(_)) => failed(&error),
            ExecuteError::Append(AppendError::Unavailable(_))
            | ExecuteError::Load(_)
            | ExecuteError::Keys(_) => {
                tracing::warn!(error = chain(&error), "a command met a log that cannot be reached");
                log_unavailable()
            }
            ExecuteError::Append(AppendError::Conflict) | ExecuteError::Contended => {
                let detail = "Too many commands change the same thing at this moment. Nothing was recorded.";
                Self::unavailable("contended", detail, 1)
            }
            ExecuteError::Append(AppendError::TooLarge { .. }) => {
                let detail = "What the command would record is larger than the log takes.";
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "event-too-large", detail)
            }
            ExecuteError::Append(AppendError::Refused { .. }) | ExecuteError::Unreadable { .. } => {
                failed(&error)
            }
        }
    }
}

/// Nothing is kept of somebody who was erased.
impl From<KeyError> for ExecuteError {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::Erased(_) => Refusal::conflict("user-erased", "the customer was erased").into(),
            error => Self::Keys(Arc::new(error)),
        }
    }
}

/// Our fault: told to the logs, not to the client.
fn failed(error: &ExecuteError) -> Problem {
    tracing::error!(error = chain(error), "a command failed");
    Problem::internal()
}

/// What keeps events, or anything beside them, cannot be reached.
pub(crate) fn log_unavailable() -> Problem {
    Problem::unavailable("log-unavailable", "The log cannot be reached. Nothing was recorded.", 1)
}

/// An error with everything that caused it.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
