//! The HTTP API of operations: dead letters, and what is to become of them. For operators only.

use super::{Asked, DeadLetter, DeadLetterCommand};
use crate::{
    ExecuteError, Key,
    http::{
        self, Answer, Api, Attempt, Call, CallHeaders, Done, Nothing, Optional, Recorded, Refused, Unknown,
    },
};
use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use events::{DeadLetterId, Position, ops::Holds};
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use nats::{Connection, Parking};
use serde::{Deserialize, Serialize};
use service::{
    Problem,
    auth::{Denied, Principal, Role},
    extract::{Body, Path},
};
use std::sync::Arc;
use utoipa::{IntoResponses, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

/// Of a group, so many are asked for at the same time.
const TOGETHER: usize = 32;
/// So many of the messages that wait are shown.
const SHOWN: usize = 100;

struct Ops {
    api: Arc<Api>,
    parking: Parking,
    connection: Connection,
}

/// The endpoints.
pub(super) fn routes(api: Api, parking: Parking, connection: Connection) -> OpenApiRouter {
    http::router()
        .routes(routes!(list))
        .routes(routes!(show))
        .routes(routes!(retry))
        .routes(routes!(discard))
        .routes(routes!(retry_group))
        .routes(routes!(discard_group))
        .with_state(Arc::new(Ops { api: Arc::new(api), parking, connection }))
}

/// A message that a consumer could not handle, and how much waits behind it.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Letter {
    #[schema(value_type = Uuid)]
    id: DeadLetterId,
    /// Who could not handle it.
    #[schema(example = "shipping-payments")]
    consumer: String,
    /// The stream that holds it.
    #[schema(example = "PAYMENTS")]
    stream: String,
    /// Its sequence in the stream.
    sequence: u64,
    /// Its aggregate.
    subject: String,
    /// Its type, where that can be told.
    event_type: Option<String>,
    /// What went wrong the last time.
    error: String,
    /// The same for failures that look alike.
    fingerprint: String,
    /// How often it was tried.
    attempts: u32,
    /// Version of the program that tried.
    handler_version: String,
    /// What it holds up: `aggregate` or `consumer`.
    #[schema(value_type = String)]
    holds: Holds,
    /// When the aggregate was parked.
    #[schema(value_type = String)]
    parked_at: Timestamp,
    /// When it failed the last time.
    #[schema(value_type = String)]
    failed_at: Timestamp,
    /// Sequence of the last message that waits.
    through: u64,
}

impl From<nats::DeadLetter> for Letter {
    fn from(letter: nats::DeadLetter) -> Self {
        let nats::DeadLetter { id, failure, holds, since, failed, through, .. } = letter;
        Self {
            id,
            consumer: failure.consumer,
            stream: failure.stream,
            sequence: failure.sequence,
            subject: failure.subject,
            event_type: failure.event_type,
            error: failure.error,
            fingerprint: failure.fingerprint,
            attempts: failure.attempts,
            handler_version: failure.handler_version,
            holds,
            parked_at: since,
            failed_at: failed,
            through,
        }
    }
}

/// Failures that look alike.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Group {
    /// What they have in common.
    fingerprint: String,
    consumer: String,
    event_type: Option<String>,
    /// What went wrong with the newest of them.
    error: String,
    /// How many.
    count: usize,
    /// When the first of them was parked.
    #[schema(value_type = String)]
    since: Timestamp,
    /// They themselves, the oldest first.
    letters: Vec<Letter>,
}

/// Everything that is parked.
#[derive(Serialize, ToSchema)]
struct DeadLetters {
    /// How many there are.
    count: usize,
    /// The largest group first.
    groups: Vec<Group>,
}

fn grouped(letters: Vec<nats::DeadLetter>) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for letter in letters {
        let (since, letter) = (letter.since, Letter::from(letter));
        let place = groups.iter().position(|group| group.fingerprint == letter.fingerprint);
        let place = place.unwrap_or_else(|| {
            let (fingerprint, consumer) = (letter.fingerprint.clone(), letter.consumer.clone());
            let (event_type, error) = (letter.event_type.clone(), String::new());
            groups.push(Group { fingerprint, consumer, event_type, error, count: 0, since, letters: vec![] });
            groups.len() - 1
        });
        let group = &mut groups[place];
        group.error.clone_from(&letter.error);
        group.count += 1;
        group.letters.push(letter);
    }
    groups.sort_by(|a, b| b.count.cmp(&a.count).then(a.since.cmp(&b.since)));
    groups
}

/// What consumers have parked cannot be read now.
#[derive(IntoResponses)]
#[response(status = 503, content_type = "application/problem+json")]
#[expect(dead_code, reason = "documents an answer")]
struct Away(Problem);

/// List the dead letters
///
/// Grouped by what went wrong.
#[utoipa::path(
    get, path = "/ops/dead-letters", tag = "operations", security(("bearer" = [])),
    responses((status = 200, body = DeadLetters), Denied, Away)
)]
async fn list(State(ops): State<Arc<Ops>>, principal: Principal) -> Result<Json<DeadLetters>, Problem> {
    principal.require(Role::Operator)?;
    let letters = ops.parking.all().await.map_err(|error| away(&error))?;
    Ok(Json(DeadLetters { count: letters.len(), groups: grouped(letters) }))
}

/// A message that waits.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Waiting {
    sequence: u64,
    event_type: String,
    #[schema(value_type = String)]
    stored_at: Timestamp,
}

/// A dead letter with what waits behind it and what was asked.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Shown {
    #[serde(flatten)]
    letter: Letter,
    /// What an operator has asked for and is not done yet: `retry` or `discard`.
    #[schema(value_type = Option<String>)]
    asked: Option<Asked>,
    /// The messages that wait, that one included: the first hundred. Those that the consumer does not handle count too.
    waiting: Vec<Waiting>,
}

/// Show a dead letter
#[utoipa::path(
    get, path = "/ops/dead-letters/{id}", tag = "operations", security(("bearer" = [])),
    params(("id" = Uuid, Path, description = "The dead letter")),
    responses((status = 200, body = Shown), Unknown, Denied, Away)
)]
async fn show(
    State(ops): State<Arc<Ops>>,
    principal: Principal,
    Path(id): Path<DeadLetterId>,
) -> Result<Json<Shown>, Problem> {
    principal.require(Role::Operator)?;
    let letters = ops.parking.all().await.map_err(|error| away(&error))?;
    let Some(letter) = letters.into_iter().find(|letter| letter.id == id) else {
        return Err(Problem::not_found("dead-letter-not-found", "Nothing waits under this name."));
    };
    let waiting = letter.waiting(&ops.connection, SHOWN).await.map_err(|error| away(&error))?;
    let waiting = waiting.iter().map(|message| Waiting {
        sequence: message.position.sequence,
        event_type: message.kind().to_owned(),
        stored_at: message.stored,
    });
    let (waiting, key) = (waiting.collect(), Key::<DeadLetter>::new(id));
    let asked = ops.api.executor.state(&key).await?.and_then(|open| open.asked);
    Ok(Json(Shown { letter: letter.into(), asked, waiting }))
}

/// Retry a dead letter
///
/// Its consumer tries the message again, then what waits behind it, in order.
#[utoipa::path(
    post, path = "/ops/dead-letters/{id}/retry", tag = "operations", security(("bearer" = [])),
    params(("id" = Uuid, Path, description = "The dead letter"), CallHeaders), request_body = Option<Nothing>,
    responses(Recorded, Unknown, Denied, Refused)
)]
async fn retry(
    State(ops): State<Arc<Ops>>,
    call: Call,
    Path(id): Path<DeadLetterId>,
    Optional(body): Optional<Nothing>,
) -> Result<Response, Problem> {
    call.principal.require(Role::Operator)?;
    let command = call.command(&ops.api.clock, format_args!("POST /ops/dead-letters/{id}/retry"), &body);
    ask(&ops, id, command, DeadLetterCommand::Retry).await
}

/// Why something is given up.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Discard {
    /// 1 to 500 characters, without personal data: it is kept for ever.
    #[schema(example = "shipped by hand")]
    reason: String,
}

/// Discard a dead letter
///
/// Its consumer never handles the message, and goes on with what waits behind it.
#[utoipa::path(
    post, path = "/ops/dead-letters/{id}/discard", tag = "operations", security(("bearer" = [])),
    params(("id" = Uuid, Path, description = "The dead letter"), CallHeaders), request_body = Discard,
    responses(Recorded, Unknown, Denied, Refused)
)]
async fn discard(
    State(ops): State<Arc<Ops>>,
    call: Call,
    Path(id): Path<DeadLetterId>,
    Body(body): Body<Discard>,
) -> Result<Response, Problem> {
    call.principal.require(Role::Operator)?;
    let command = call.command(&ops.api.clock, format_args!("POST /ops/dead-letters/{id}/discard"), &body);
    ask(&ops, id, command, DeadLetterCommand::Discard { reason: body.reason }).await
}

async fn ask(
    ops: &Ops,
    id: DeadLetterId,
    command: http::Command,
    what: DeadLetterCommand,
) -> Result<Response, Problem> {
    let done = Done::recorded(format!("/ops/dead-letters/{id}"));
    ops.api.apply(command, Key::<DeadLetter>::new(id), done, what).await
}

/// How many dead letters of a group were asked for.
#[derive(Serialize, ToSchema)]
struct AskedFor {
    /// How many.
    count: usize,
}

/// Retry every dead letter of a group
#[utoipa::path(
    post, path = "/ops/dead-letters/groups/{fingerprint}/retry", tag = "operations", security(("bearer" = [])),
    params(("fingerprint" = String, Path, description = "What they have in common"), CallHeaders),
    request_body = Option<Nothing>,
    responses((status = 202, body = AskedFor), Unknown, Denied, Refused)
)]
async fn retry_group(
    State(ops): State<Arc<Ops>>,
    call: Call,
    Path(fingerprint): Path<String>,
    Optional(body): Optional<Nothing>,
) -> Result<Response, Problem> {
    call.principal.require(Role::Operator)?;
    let scope = format!("POST /ops/dead-letters/groups/{fingerprint}/retry");
    let command = call.command(&ops.api.clock, scope, &body);
    ask_group(&ops, fingerprint, command, DeadLetterCommand::Retry).await
}

/// Discard every dead letter of a group
#[utoipa::path(
    post, path = "/ops/dead-letters/groups/{fingerprint}/discard", tag = "operations", security(("bearer" = [])),
    params(("fingerprint" = String, Path, description = "What they have in common"), CallHeaders),
    request_body = Discard,
    responses((status = 202, body = AskedFor), Unknown, Denied, Refused)
)]
async fn discard_group(
    State(ops): State<Arc<Ops>>,
    call: Call,
    Path(fingerprint): Path<String>,
    Body(body): Body<Discard>,
) -> Result<Response, Problem> {
    call.principal.require(Role::Operator)?;
    let scope = format!("POST /ops/dead-letters/groups/{fingerprint}/discard");
    let command = call.command(&ops.api.clock, scope, &body);
    ask_group(&ops, fingerprint, command, DeadLetterCommand::Discard { reason: body.reason }).await
}

async fn ask_group(
    ops: &Arc<Ops>,
    fingerprint: String,
    command: http::Command,
    what: DeadLetterCommand,
) -> Result<Response, Problem> {
    let letters = ops.parking.all().await.map_err(|error| away(&error))?;
    let ids = letters.into_iter().filter(|letter| letter.failure.fingerprint == fingerprint);
    let ids: Vec<_> = ids.map(|letter| letter.id).collect();
    let carry_out = async move |attempt: Attempt| {
        let each = ids.into_iter().map(|id| ask_one(attempt.part(id), id, what.clone()));
        let asked: Vec<Option<Position>> = stream::iter(each).buffered(TOGETHER).try_collect().await?;
        let asked: Vec<_> = asked.into_iter().flatten().collect();
        let Some(position) = asked.iter().max() else {
            let detail = "nothing of this group waits: it was resolved, or never was";
            return Err(crate::Refusal::not_found("dead-letter-not-found", detail).into());
        };
        let receipt = crate::Receipt { position: *position, events: asked.len(), replayed: false };
        let body = AskedFor { count: asked.len() };
        let location = "/ops/dead-letters".to_owned();
        Ok(Answer::new(StatusCode::ACCEPTED, location, &receipt, &body))
    };
    Ok(ops.api.answer(command, carry_out).await?.into_response())
}

/// Asks for one of a group; `None` where it was resolved meanwhile.
async fn ask_one(
    attempt: Attempt,
    id: DeadLetterId,
    what: DeadLetterCommand,
) -> Result<Option<Position>, ExecuteError> {
    let key = Key::<DeadLetter>::new(id);
    let (subject, keys) = (key.subject().clone(), vec![key.load()]);
    let run = move |decision: &mut crate::Decision| decision.apply(&key, what.clone());
    match attempt.execute(&subject, keys, run).await {
        Ok(receipt) => Ok(Some(receipt.position)),
        Err(ExecuteError::Refused(refusal)) if refusal.status == 404 => Ok(None),
        Err(error) => Err(error),
    }
}

fn away(error: &(dyn std::error::Error + 'static)) -> Problem {
    tracing::warn!(error = http::chain(error), "dead letters cannot be read");
    http::log_unavailable()
}
