//! The queries of the fulfilment service, for operators.

use crate::{
    Projections,
    answer::{Refused, Unknown},
    database::{DatabaseError, Row},
    freshness::Freshness,
    page::{Page, Paging, read_place, write_place},
    table::Value,
};
use axum::{Json, extract};
use events::OrderId;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize, de::IgnoredAny};
use service::{
    Problem,
    auth::{Denied, Principal, Role},
    extract::{Path, Query},
};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

pub(super) fn routes() -> OpenApiRouter<Projections> {
    OpenApiRouter::new().routes(routes!(sagas)).routes(routes!(saga))
}

/// How long a saga may be in a state before it counts as stuck. What is parked waits for somebody from the first moment.
const OBJECTIVES: [(&str, SignedDuration); 3] = [
    ("running", SignedDuration::from_mins(2)),
    ("compensating", SignedDuration::from_mins(10)),
    ("parked", SignedDuration::ZERO),
];

/// Where a saga stands.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = SagaState)]
enum State {
    /// It goes forward.
    Running,
    /// It goes back.
    Compensating,
    /// It waits for an operator.
    Parked,
    /// Everything is done.
    Completed,
    /// Everything is undone.
    Failed,
}

impl State {
    /// As the table has it.
    fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Compensating => "compensating",
            Self::Parked => "parked",
            Self::Completed => "completed",
            Self::Failed => "failed",
        }
    }
}

/// The saga of an order.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Saga {
    order_id: Uuid,
    user_id: Option<Uuid>,
    /// `running`, `compensating`, `parked`, `completed` or `failed`.
    #[schema(example = "running")]
    state: String,
    /// Since when it is in that state.
    #[schema(value_type = String, format = DateTime)]
    since: Timestamp,
    /// Whether it is in that state for longer than it should be.
    stuck: bool,
    /// The step that is done, or undone.
    #[schema(example = "payment")]
    step: Option<String>,
    /// How often that was asked for.
    attempt: Option<i64>,
    /// Why it goes back.
    #[schema(example = "out_of_stock")]
    reason: Option<String>,
    /// The same in words.
    detail: Option<String>,
    /// When it looks again by itself.
    #[schema(value_type = Option<String>, format = DateTime)]
    wakes_at: Option<Timestamp>,
    /// Version of the definition that it follows.
    definition: Option<i64>,
    #[schema(value_type = String, format = DateTime)]
    started_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
    /// Counts its events.
    version: i64,
}

impl Saga {
    fn of(row: &Row, now: Timestamp) -> Result<Self, DatabaseError> {
        let (state, since): (String, Timestamp) = (row.get("state")?, row.get("since")?);
        let objective = OBJECTIVES.into_iter().find(|(of, _)| *of == state);
        Ok(Self {
            order_id: row.get("order_id")?,
            user_id: row.find("user_id")?,
            stuck: objective.is_some_and(|(_, objective)| now.duration_since(since) > objective),
            state,
            since,
            step: row.find("step")?,
            attempt: row.find("attempt")?,
            reason: row.find("reason")?,
            detail: row.find("detail")?,
            wakes_at: row.find("wakes_at")?,
            definition: row.find("definition")?,
            started_at: row.get("started_at")?,
            updated_at: row.get("updated_at")?,
            version: row.get("version")?,
        })
    }
}

/// Something that happened to a saga.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = SagaEvent)]
struct Event {
    #[serde(rename = "type")]
    #[schema(example = "step.requested")]
    kind: String,
    /// The step that was done, whereupon this happened.
    #[schema(example = "payment")]
    done: Option<String>,
    /// The step that it is about.
    #[schema(example = "inventory")]
    step: Option<String>,
    attempt: Option<i64>,
    reason: Option<String>,
    detail: Option<String>,
    /// When an answer has to be there, or when it is asked for again.
    #[schema(value_type = Option<String>, format = DateTime)]
    due: Option<Timestamp>,
    /// Who did it.
    #[schema(example = "service:fulfilment")]
    actor: String,
    #[schema(value_type = String, format = DateTime)]
    time: Timestamp,
    /// Counts the events of the saga.
    version: i64,
    /// Where it stands in the stream.
    sequence: i64,
}

impl Event {
    fn of(row: &Row) -> Result<Self, DatabaseError> {
        Ok(Self {
            kind: row.get("kind")?,
            done: row.find("done")?,
            step: row.find("step")?,
            attempt: row.find("attempt")?,
            reason: row.find("reason")?,
            detail: row.find("detail")?,
            due: row.find("due")?,
            actor: row.get("actor")?,
            time: row.get("time")?,
            version: row.get("version")?,
            sequence: row.get("sequence")?,
        })
    }
}

/// A saga with everything that happened to it, oldest first.
#[derive(Debug, Serialize, ToSchema)]
struct Timeline {
    #[serde(flatten)]
    saga: Saga,
    events: Vec<Event>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
struct ListSagas {
    /// Only those in this state.
    #[param(inline)]
    state: Option<State>,
    /// Only those that are in their state for so many seconds.
    #[param(minimum = 0)]
    min_age: Option<u32>,
    /// Only those that are in their state for longer than they should be.
    stuck: Option<bool>,
    /// `nextCursor` of the page before.
    cursor: Option<String>,
    /// Items per page, 1 to 100; 20 unless said.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<u32>,
    // Read by the layer that waits.
    #[serde(rename = "after")]
    #[param(ignore)]
    _after: Option<IgnoredAny>,
    #[serde(rename = "wait")]
    #[param(ignore)]
    _wait: Option<IgnoredAny>,
}

/// Sagas, those first that are in their state for the longest
#[utoipa::path(
    get, path = "/ops/sagas", tag = "sagas", security(("bearer" = [])),
    params(ListSagas, Freshness),
    responses((status = 200, body = Page<Saga>), Denied, Refused)
)]
async fn sagas(
    extract::State(projections): extract::State<Projections>,
    principal: Principal,
    Query(query): Query<ListSagas>,
) -> Result<Json<Page<Saga>>, Problem> {
    principal.require(Role::Operator)?;
    let (paging, now) = (Paging::new(query.cursor, query.limit), projections.now());
    let place = paging.place(read_place)?;
    let (since, id) = place.unwrap_or((Timestamp::UNIX_EPOCH, Uuid::nil()));
    // Nobody is in a state since later than now, so these conditions hold for all where nothing is asked for.
    let before = |age: SignedDuration| Value::from(now.checked_sub(age).unwrap_or(Timestamp::UNIX_EPOCH));
    let min_age =
        query.min_age.map_or(SignedDuration::from_hours(-1), |secs| SignedDuration::from_secs(secs.into()));
    let sql = "SELECT * FROM sagas WHERE (since, order_id) > ($2, $3) AND since <= $4 \
               AND (CAST($5 AS TEXT) IS NULL OR state = CAST($5 AS TEXT)) \
               AND ($6 = 0 OR (state = 'running' AND since < $7) OR (state = 'compensating' AND since < $8) \
               OR state = 'parked') \
               ORDER BY since, order_id LIMIT $1";
    let values: [Value; 7] = [
        since.into(),
        id.into(),
        before(min_age),
        query.state.map(State::name).into(),
        i64::from(query.stuck.unwrap_or(false)).into(),
        before(OBJECTIVES[0].1),
        before(OBJECTIVES[1].1),
    ];
    let place = |row: &Row| Ok(write_place(row.get("since")?, row.get("order_id")?));
    let database = projections.database();
    let page = paging.page(&database, sql, values, |row| Saga::of(row, now), place);
    Ok(Json(page.await?))
}

/// The saga of an order, with every attempt
#[utoipa::path(
    get, path = "/ops/sagas/{orderId}", tag = "sagas", security(("bearer" = [])),
    params(("orderId" = Uuid, Path, description = "The order"), Freshness),
    responses((status = 200, body = Timeline), Denied, Unknown, Refused)
)]
async fn saga(
    extract::State(projections): extract::State<Projections>,
    principal: Principal,
    Path(order): Path<OrderId>,
) -> Result<Json<Timeline>, Problem> {
    principal.require(Role::Operator)?;
    let database = projections.database();
    let row = database.row("SELECT * FROM sagas WHERE order_id = $1", vec![order.into()]).await?;
    let unknown = || Problem::not_found("saga-not-found", format!("No saga carries order {order}."));
    let saga = Saga::of(row.as_ref().ok_or_else(unknown)?, projections.now())?;
    let sql = "SELECT * FROM saga_events WHERE order_id = $1 ORDER BY version";
    let rows = database.rows(sql, vec![order.into()]).await?;
    let events = rows.iter().map(Event::of).collect::<Result<_, _>>()?;
    Ok(Json(Timeline { saga, events }))
}
