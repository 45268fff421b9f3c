//! What operators can do about sagas.

use super::{Ask, Process, ProcessCommand, Times, Verb, advance};
use crate::{
    Key,
    http::{self, Api, Call, CallHeaders, Done, Recorded, Refused, Unknown},
};
use axum::{extract::State, response::Response};
use events::OrderId;
use serde::{Deserialize, Serialize};
use service::{
    Problem,
    auth::Denied,
    extract::{Body, Path},
};
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

/// Characters of a reason.
const MAX_REASON: usize = 200;

struct Sagas {
    api: Arc<Api>,
    times: Times,
}

/// The endpoints.
pub(super) fn routes(api: Api, times: Times) -> OpenApiRouter {
    http::router().routes(routes!(interfere)).with_state(Arc::new(Sagas { api: Arc::new(api), times }))
}

/// Why an operator interferes.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Interference {
    /// For the record, in 1 to 200 characters. Names no person.
    #[schema(example = "the bank says that it is done")]
    reason: String,
}

/// Retry, skip, compensate, cancel or resume a saga
///
/// `retry` asks again at once; `skip` goes on without an answer; `compensate` undoes everything; `cancel` takes the order
/// back, as its customer could; `resume` lets a parked saga go on. Each is recorded with who did it and why.
#[utoipa::path(
    post, path = "/ops/sagas/{orderId}/{verb}", tag = "sagas", security(("bearer" = [])),
    params(
        ("orderId" = Uuid, Path, description = "The order"),
        ("verb" = String, Path, description = "retry, skip, compensate, cancel or resume"),
        CallHeaders,
    ),
    request_body = Interference,
    responses(Recorded, Unknown, Denied, Refused)
)]
async fn interfere(
    State(sagas): State<Arc<Sagas>>,
    call: Call,
    Path((order_id, verb)): Path<(OrderId, Verb)>,
    Body(body): Body<Interference>,
) -> Result<Response, Problem> {
    let Sagas { api, times } = &*sagas;
    let name = serde_json::to_value(verb).unwrap_or_default();
    let name = name.as_str().unwrap_or_default();
    let command =
        call.of_operator()?.command(&api.clock, format_args!("POST /ops/sagas/{order_id}/{name}"), &body);
    if body.reason.trim().is_empty() || body.reason.chars().count() > MAX_REASON {
        let detail = format!("A reason has 1 to {MAX_REASON} characters.");
        return Err(Problem::invalid("saga-reason-invalid", "reason", detail));
    }
    let key = Key::<Process>::new(order_id);
    let ask = Ask::Interfere(verb, body.reason);
    let command_of = ProcessCommand { now: api.clock.now(), times: *times, ask };
    let done = Done::recorded(format!("/ops/sagas/{order_id}"));
    api.accept(command, key.load(), Vec::new(), done, move |d| advance(d, order_id, command_of.clone())).await
}
