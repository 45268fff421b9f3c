//! The queries of the orders service.

use super::stage::Stage;
use crate::{
    Projections,
    answer::{Money, Refused, Unknown, owned, whose},
    database::{DatabaseError, Row},
    freshness::Freshness,
    history::History,
    page::{Page, Paging, read_place, write_place},
    personal::reveal,
    table::Value,
};
use axum::{Extension, Json, extract::State};
use events::{OrderId, Personal, UserId};
use jiff::Timestamp;
use nats::KeyRing;
use serde::{Deserialize, Serialize, de::IgnoredAny};
use service::{
    Problem,
    auth::{Denied, Principal},
    extract::{Path, Query},
};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

pub(super) fn routes() -> OpenApiRouter<Projections> {
    OpenApiRouter::new().routes(routes!(order)).routes(routes!(orders)).routes(routes!(history))
}

/// An order.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Order {
    id: Uuid,
    user_id: Uuid,
    user_snapshot: UserSnapshot,
    /// Where it stands: `pending`, `completed`, `failed` or `cancelled`.
    #[schema(example = "completed")]
    status: String,
    stage: Stage,
    items: Vec<OrderLine>,
    total_amount: Money,
    /// Why it failed or was cancelled.
    #[schema(example = "out_of_stock")]
    reason: Option<String>,
    /// The same in words; null too where the customer said it and was erased since.
    detail: Option<String>,
    /// What the customer said, which becomes the detail where it can be opened.
    #[serde(skip)]
    said: Option<Personal<String>>,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
    /// Counts the order's own events.
    version: i64,
}

/// How a customer was known when an order was placed.
#[derive(Debug, Serialize, ToSchema)]
struct UserSnapshot {
    /// Whether the users service could not be asked and an own copy was relied on, which may be old.
    stale: bool,
}

/// A line of an order.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct OrderLine {
    #[schema(example = "TEA-1")]
    sku: String,
    quantity: u32,
    /// Price of one when the order was placed.
    unit_price: Money,
}

impl Order {
    fn of(row: &Row) -> Result<Self, DatabaseError> {
        let status: String = row.get("status")?;
        Ok(Self {
            id: row.get("id")?,
            user_id: row.get("user_id")?,
            user_snapshot: UserSnapshot { stale: row.get("user_stale")? },
            stage: Stage::of(row, &status)?,
            status,
            items: row.json("items")?,
            total_amount: Money::of(row, "amount")?,
            reason: row.find("reason")?,
            detail: row.find("detail")?,
            said: row.find_json("said")?,
            created_at: row.get("created_at")?,
            updated_at: row.get("updated_at")?,
            version: row.get("version")?,
        })
    }

    async fn reveal(&mut self, keys: &KeyRing) -> Result<(), Problem> {
        if let Some(said) = reveal(keys, self.said.as_ref()).await? {
            self.detail = Some(said);
        }
        Ok(())
    }
}

/// Orders with their progress, under a condition.
macro_rules! select {
    ($($condition:literal),+) => {
        concat!(
            "SELECT o.*, reserved_at, released_at, charged_at, refunded_at, scheduled_at, called_off_at, ",
            "dispatched_at, delivered_at FROM orders o LEFT JOIN progress p ON p.order_id = o.id WHERE ",
            $($condition),+
        )
    };
}

/// The same for a page: newest first, behind the cursor.
macro_rules! page {
    ($condition:literal) => {
        select!($condition, "(o.created_at, o.id) < ($2, $3) ORDER BY o.created_at DESC, o.id DESC LIMIT $1")
    };
}

/// An order
#[utoipa::path(
    get, path = "/orders/{id}", tag = "orders", security(("bearer" = [])),
    params(("id" = Uuid, Path, description = "The order"), Freshness),
    responses((status = 200, body = Order), Denied, Unknown, Refused)
)]
async fn order(
    State(projections): State<Projections>,
    principal: Principal,
    Extension(keys): Extension<KeyRing>,
    Path(id): Path<OrderId>,
) -> Result<Json<Order>, Problem> {
    let row = projections.database().row(select!("o.id = $1"), vec![id.into()]).await?;
    let mut order = Order::of(owned(row.as_ref(), &principal, || unknown(id))?)?;
    order.reveal(&keys).await?;
    Ok(Json(order))
}

fn unknown(id: OrderId) -> Problem {
    Problem::not_found("order-not-found", format!("There is no order {id}."))
}

/// Everything that happened to an order
#[utoipa::path(
    get, path = "/orders/{id}/history", tag = "orders", security(("bearer" = [])),
    params(("id" = Uuid, Path, description = "The order"), Freshness),
    responses((status = 200, body = History), Denied, Unknown, Refused)
)]
async fn history(
    State(projections): State<Projections>,
    principal: Principal,
    Path(id): Path<OrderId>,
) -> Result<Json<History>, Problem> {
    let sql = "SELECT e.*, o.user_id FROM order_events e LEFT JOIN orders o ON o.id = e.order_id \
               WHERE e.order_id = $1 ORDER BY e.stream, e.sequence";
    let rows = projections.database().rows(sql, vec![id.into()]).await?;
    owned(rows.first(), &principal, || unknown(id))?;
    History::of(&rows)?.map(Json).ok_or_else(|| unknown(id))
}

/// Where an order stands.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Status {
    Pending,
    Completed,
    Failed,
    Cancelled,
}

impl Status {
    const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListOrders {
    /// Only orders of this customer. Customers see their own, whether they say so or not.
    #[param(value_type = Option<Uuid>)]
    user_id: Option<UserId>,
    /// Only orders that stand like this.
    #[param(inline)]
    status: Option<Status>,
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

/// Orders, newest first
///
/// Pages are stable: orders placed meanwhile neither move nor repeat an item.
#[utoipa::path(
    get, path = "/orders", tag = "orders", security(("bearer" = [])),
    params(ListOrders, Freshness),
    responses((status = 200, body = Page<Order>), Denied, Refused)
)]
async fn orders(
    State(projections): State<Projections>,
    principal: Principal,
    Extension(keys): Extension<KeyRing>,
    Query(query): Query<ListOrders>,
) -> Result<Json<Page<Order>>, Problem> {
    let user_id = whose(query.user_id, &principal)?;
    let paging = Paging::new(query.cursor, query.limit);
    let (created_at, id) = paging.place(read_place)?.unwrap_or((Timestamp::MAX, Uuid::max()));
    let filters = user_id.map(Value::from).into_iter().chain(query.status.map(|status| status.name().into()));
    let values = [created_at.into(), id.into()].into_iter().chain(filters);
    let sql = match (user_id, query.status) {
        (None, None) => page!(""),
        (Some(_), None) => page!("o.user_id = $4 AND "),
        (None, Some(_)) => page!("o.status = $4 AND "),
        (Some(_), Some(_)) => page!("o.user_id = $4 AND o.status = $5 AND "),
    };
    let place = |row: &Row| Ok(write_place(row.get("created_at")?, row.get("id")?));
    let mut page = paging.page(&projections.database(), sql, values, Order::of, place).await?;
    for order in page.items_mut() {
        order.reveal(&keys).await?;
    }
    Ok(Json(page))
}
