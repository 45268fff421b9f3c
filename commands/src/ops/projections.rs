//! The HTTP API of read models: how they stand, and what is asked of them. For operators only.

use super::projection::{Projection, ProjectionCommand};
use crate::{
    ExecuteError, Key, Refusal,
    http::{
        self, Answer, Api, Attempt, Call, CallHeaders, Done, Nothing, Optional, Recorded, Refused, Unknown,
    },
};
use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use events::Position;
use jiff::Timestamp;
use nats::{Generation, ReadModel, ReadModels, State as Stage};
use serde::{Deserialize, Serialize};
use service::{
    Problem,
    auth::{Denied, Principal, Role},
    extract::Path,
};
use std::sync::Arc;
use utoipa::{IntoResponses, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

struct Ops {
    api: Arc<Api>,
    models: ReadModels,
}

/// The endpoints.
pub(super) fn routes(api: Api, models: ReadModels) -> OpenApiRouter {
    http::router()
        .routes(routes!(list))
        .routes(routes!(show))
        .routes(routes!(rebuild))
        .routes(routes!(cancel))
        .routes(routes!(roll_back))
        .routes(routes!(drop_kept))
        .with_state(Arc::new(Ops { api: Arc::new(api), models }))
}

/// The read model of a service.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ShownReadModel {
    /// Whose read model.
    #[schema(example = "orders")]
    service: String,
    /// Its tables: each can be built again by itself.
    models: Vec<String>,
    /// The number of the generation that serves.
    live: Option<u32>,
    /// Its generations, the oldest first.
    generations: Vec<ShownGeneration>,
    /// Sequence in the stream `OPS` of the last request that was seen to.
    asked: u64,
    /// The last request that was not carried out.
    refused: Option<ShownRefusal>,
}

/// A request that was not carried out.
#[derive(Serialize, ToSchema)]
struct ShownRefusal {
    /// Its sequence in the stream `OPS`.
    asked: u64,
    /// Why.
    why: String,
}

/// One complete set of the tables of a read model.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ShownGeneration {
    number: u32,
    /// `building`, `live`, or `kept` for a rollback.
    #[schema(value_type = String)]
    state: Stage,
    /// The same for generations of the same declaration.
    declaration: String,
    /// The version of the view.
    version: u32,
    /// The one table that is built again; all of them where there is none.
    model: Option<String>,
    /// Where it begins in these streams; at the first event in all others.
    #[schema(value_type = Vec<http::PositionBody>)]
    since: Vec<Position>,
    /// Sequence in the stream `OPS` of the request for it; none where changed code asked.
    asked: Option<u64>,
    #[schema(value_type = String)]
    begun_at: Timestamp,
    /// When it began to serve.
    #[schema(value_type = Option<String>)]
    served_at: Option<Timestamp>,
    /// Up to where the one before it was built when it began to serve.
    #[schema(value_type = Vec<http::PositionBody>)]
    mark: Vec<Position>,
    /// How far it is, while it is being built.
    build: Option<ShownBuild>,
}

/// How far a build is.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ShownBuild {
    /// What it does.
    #[schema(example = "reading")]
    stage: String,
    /// Up to where it is built.
    #[schema(value_type = Vec<http::PositionBody>)]
    positions: Vec<Position>,
    /// Messages read.
    events: u64,
    /// All there are to read.
    total: u64,
    /// Messages per second, lately.
    per_second: u64,
    /// Seconds until it is done, at that rate.
    seconds_left: Option<u64>,
    /// Why it stands still.
    fault: Option<String>,
}

impl From<ReadModel> for ShownReadModel {
    fn from(model: ReadModel) -> Self {
        let ReadModel { service, models, generations, asked, refused } = model;
        let live = generations.iter().find(|one| one.state == Stage::Live).map(|one| one.number);
        let refused = refused.map(|nats::Refused { asked, why }| ShownRefusal { asked, why });
        let generations = generations.into_iter().map(Into::into).collect();
        Self { service, models, live, generations, asked, refused }
    }
}

impl From<Generation> for ShownGeneration {
    fn from(one: Generation) -> Self {
        let build = one.build.map(|build| ShownBuild {
            seconds_left: build.seconds_left(),
            stage: build.stage,
            positions: build.positions,
            events: build.events,
            total: build.total,
            per_second: build.per_second,
            fault: build.fault,
        });
        Self {
            number: one.number,
            state: one.state,
            declaration: one.model,
            version: one.version,
            model: one.table,
            since: one.since,
            asked: one.asked,
            begun_at: one.begun,
            served_at: one.served,
            mark: one.mark,
            build,
        }
    }
}

/// Every read model.
#[derive(Serialize, ToSchema)]
struct ReadModelList {
    /// By the names of their services.
    items: Vec<ShownReadModel>,
}

/// How read models stand cannot be read now.
#[derive(IntoResponses)]
#[response(status = 503, content_type = "application/problem+json")]
#[expect(dead_code, reason = "documents an answer")]
struct Away(Problem);

/// List the read models
#[utoipa::path(
    get, path = "/ops/projections", tag = "operations", security(("bearer" = [])),
    responses((status = 200, body = ReadModelList), Denied, Away)
)]
async fn list(State(ops): State<Arc<Ops>>, principal: Principal) -> Result<Json<ReadModelList>, Problem> {
    principal.require(Role::Operator)?;
    let all = ops.models.all().await.map_err(|error| away(&error))?;
    Ok(Json(ReadModelList { items: all.into_iter().map(Into::into).collect() }))
}

/// Show the read model of a service
#[utoipa::path(
    get, path = "/ops/projections/{service}", tag = "operations", security(("bearer" = [])),
    params(("service" = String, Path, description = "The service", example = "orders")),
    responses((status = 200, body = ShownReadModel), Unknown, Denied, Away)
)]
async fn show(
    State(ops): State<Arc<Ops>>,
    principal: Principal,
    Path(service): Path<String>,
) -> Result<Json<ShownReadModel>, Problem> {
    principal.require(Role::Operator)?;
    Ok(Json(ops.find(&service).await?.into()))
}

/// What is to be built again.
#[derive(Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Rebuild {
    /// One of the service's tables; all of them unless it is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "orders")]
    model: Option<String>,
    /// Where it begins: positions with commas between them, such as `ORDERS:42`, or a time. What was recorded before is
    /// not in the tables then. The first event, unless it is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "2026-01-01T00:00:00Z")]
    from: Option<String>,
}

/// Build a read model again
///
/// The one that serves goes on until the new one has caught up; then queries are answered from that, and the old one is
/// kept for a rollback.
#[utoipa::path(
    post, path = "/ops/projections/{service}/rebuild", tag = "operations", security(("bearer" = [])),
    params(("service" = String, Path, description = "The service", example = "orders"), CallHeaders),
    request_body = Option<Rebuild>, responses(Recorded, Unknown, Denied, Refused)
)]
async fn rebuild(
    State(ops): State<Arc<Ops>>,
    call: Call,
    Path(service): Path<String>,
    Optional(body): Optional<Rebuild>,
) -> Result<Response, Problem> {
    call.principal.require(Role::Operator)?;
    let command =
        call.command(&ops.api.clock, format_args!("POST /ops/projections/{service}/rebuild"), &body);
    let (from, from_time) = begins(body.from.as_deref())?;
    let what = ProjectionCommand::Rebuild { service: service.clone(), model: body.model, from, from_time };
    ask(&ops, service, command, what).await
}

/// `ORDERS:42,PAYMENTS:7` or a time.
fn begins(from: Option<&str>) -> Result<(Vec<Position>, Option<Timestamp>), Problem> {
    let Some(text) = from else { return Ok((vec![], None)) };
    if let Ok(time) = text.parse() {
        return Ok((vec![], Some(time)));
    }
    let positions: Result<Vec<Position>, _> = text.split(',').map(|one| one.trim().parse()).collect();
    let positions = positions.map_err(|_| {
        let detail =
            "It begins at positions such as ORDERS:42,PAYMENTS:7, or at a time such as 2026-01-01T00:00:00Z.";
        Problem::invalid("from-invalid", "from", detail)
    })?;
    Ok((positions, None))
}

macro_rules! verb {
    ($(#[$doc:meta])* $name:ident, $path:literal, $command:path) => {
        $(#[$doc])*
        #[utoipa::path(
            post, path = concat!("/ops/projections/{service}/", $path), tag = "operations", security(("bearer" = [])),
            params(("service" = String, Path, description = "The service", example = "orders"), CallHeaders),
            request_body = Option<Nothing>, responses(Recorded, Unknown, Denied, Refused)
        )]
        async fn $name(
            State(ops): State<Arc<Ops>>,
            call: Call,
            Path(service): Path<String>,
            Optional(body): Optional<Nothing>,
        ) -> Result<Response, Problem> {
            call.principal.require(Role::Operator)?;
            let scope = format!(concat!("POST /ops/projections/{}/", $path), service);
            let command = call.command(&ops.api.clock, scope, &body);
            ask(&ops, service.clone(), command, $command(service)).await
        }
    };
}

verb! {
    /// Give up what is being built
    cancel, "cancel", ProjectionCommand::Cancel
}
verb! {
    /// Go back to the generation that served before
    ///
    /// It is brought up to date first; the one that serves is kept.
    roll_back, "rollback", ProjectionCommand::RollBack
}
verb! {
    /// Drop the generation that served before
    drop_kept, "drop", ProjectionCommand::Drop
}

async fn ask(
    ops: &Arc<Ops>,
    service: String,
    command: http::Command,
    what: ProjectionCommand,
) -> Result<Response, Problem> {
    let model = ops.find(&service).await?;
    // In here, so that a request that is sent again is answered as it was before.
    let carry_out = async move |attempt: Attempt| -> Result<Answer, ExecuteError> {
        may(&model, &what)?;
        let key = Key::<Projection>::new(&service);
        let done = Done::recorded(format!("/ops/projections/{service}"));
        let run = move |decision: &mut crate::Decision| {
            decision.apply(&Key::<Projection>::new(&service), what.clone())
        };
        attempt.accept(key.load(), [], done, run).await
    };
    Ok(ops.api.answer(command, carry_out).await?.into_response())
}

impl Ops {
    async fn find(&self, service: &str) -> Result<ReadModel, Problem> {
        // A name that cannot be a key is no service's.
        let token = service.chars().all(|c| c.is_ascii_lowercase());
        let found = if token { self.models.get(service).await.map_err(|error| away(&error))? } else { None };
        found.ok_or_else(|| Problem::not_found("projection-not-found", "No read model has this name."))
    }
}

fn away(error: &(dyn std::error::Error + 'static)) -> Problem {
    tracing::warn!(error = http::chain(error), "read models cannot be looked at");
    http::log_unavailable()
}

/// Refuses what cannot be done as the read model stands. It may stand otherwise by the time it is carried out: then it is
/// shown as refused.
fn may(model: &ReadModel, what: &ProjectionCommand) -> Result<(), Refusal> {
    let one = |state| model.generations.iter().rev().find(|one| one.state == state);
    let (live, building, kept) = (one(Stage::Live), one(Stage::Building), one(Stage::Kept));
    let ours = |one: &Generation| live.is_some_and(|live| live.model == one.model);
    let nothing_kept = || Refusal::conflict("nothing-kept", "no earlier generation is kept");
    let under_way = || match building {
        Some(_) => Err(Refusal::conflict("rebuild-under-way", "a generation is being built")),
        None => Ok(()),
    };
    match what {
        ProjectionCommand::Rebuild { model: table, from, from_time, .. } => {
            if table.is_some() && (from_time.is_some() || !from.is_empty()) {
                let detail = "one model alone cannot begin later than the others";
                return Err(Refusal::invalid("from-invalid", "from", detail));
            }
            if let Some(table) = table.as_ref().filter(|table| !model.models.contains(table)) {
                let detail = format!("there is no model {table}: expected {}", model.models.join(", "));
                return Err(Refusal::invalid("model-unknown", "model", detail));
            }
            under_way()
        }
        ProjectionCommand::Cancel(_) => match building {
            Some(building) if ours(building) => Ok(()),
            Some(_) => {
                let detail = "it is built because the program has changed, which cannot be called off";
                Err(Refusal::conflict("rebuild-needed", detail))
            }
            None => Err(Refusal::conflict("no-rebuild", "nothing is being built")),
        },
        ProjectionCommand::RollBack(_) => match kept.ok_or_else(nothing_kept)? {
            kept if ours(kept) => under_way(),
            _ => {
                let detail = "the kept generation is of another version of the program: start that one";
                Err(Refusal::conflict("kept-by-other-version", detail))
            }
        },
        ProjectionCommand::Drop(_) => kept.map(|_| ()).ok_or_else(nothing_kept),
    }
}
