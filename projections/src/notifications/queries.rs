//! The queries of the notifications service.

use crate::{
    Projections,
    answer::{Refused, Unknown, owned, whose},
    database::{DatabaseError, Row},
    freshness::Freshness,
    page::{Page, Paging},
    table::Value,
};
use axum::{Json, extract::State};
use events::{
    UserId,
    notifications::{ChannelName, NotificationId},
};
use jiff::Timestamp;
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
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(notification))
}

/// A notification, and what became of it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Notification {
    /// The id of the event, `_` and the channel.
    #[schema(example = "018f3f5e-0000-7000-8000-000000000001_email")]
    id: String,
    user_id: Uuid,
    order_id: Uuid,
    /// What it tells.
    event_id: Uuid,
    #[schema(example = "order.completed")]
    event_type: String,
    /// `email`, or `webhook-` and the name of an endpoint.
    #[schema(example = "email")]
    channel: String,
    /// `sent`, `failed`, or `requested`: to be sent again.
    status: Status,
    /// Why it failed: `refused`, `recipient` or `expired`.
    #[schema(example = "expired")]
    reason: Option<String>,
    /// What the other side answered: a code of SMTP or a status of HTTP.
    #[schema(example = 250)]
    code: Option<i64>,
    /// 1 for the first time, one more each time an operator asked for it again.
    delivery: i64,
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
}

/// Where a notification stands.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = NotificationStatus)]
enum Status {
    /// It was handed over.
    Sent,
    /// It was given up.
    Failed,
    /// It is to be sent again.
    Requested,
}

impl Status {
    const ALL: [(&'static str, Self); 3] =
        [("sent", Self::Sent), ("failed", Self::Failed), ("requested", Self::Requested)];

    fn name(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Failed => "failed",
            Self::Requested => "requested",
        }
    }
}

impl Notification {
    fn of(row: &Row) -> Result<Self, DatabaseError> {
        let status: String = row.get("status")?;
        let known = Status::ALL.into_iter().find(|(name, _)| *name == status);
        Ok(Self {
            id: row.get("id")?,
            user_id: row.get("user_id")?,
            order_id: row.get("order_id")?,
            event_id: row.get("event_id")?,
            event_type: row.get("event_type")?,
            channel: row.get("channel")?,
            // The table holds no others.
            status: known.map_or(Status::Failed, |(_, status)| status),
            reason: row.find("reason")?,
            code: row.find("code")?,
            delivery: row.get("delivery")?,
            updated_at: row.get("updated_at")?,
        })
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
struct ListNotifications {
    /// Only those about the orders of this user. Customers see only their own, said or not.
    #[param(value_type = Option<Uuid>)]
    user_id: Option<UserId>,
    /// Only those that stand so.
    #[param(inline)]
    status: Option<Status>,
    /// Only those on this channel.
    #[param(value_type = Option<String>, example = "email")]
    channel: Option<ChannelName>,
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

/// The query of one page: `$1` is the size, `$2` stands behind the last item.
macro_rules! page {
    ($filter:literal) => {
        concat!(
            "SELECT * FROM notifications WHERE ",
            $filter,
            "sequence < $2 ORDER BY sequence DESC LIMIT $1"
        )
    };
}

/// Notifications, newest first
///
/// What was sent, what was given up, and what is to be sent again. What is still being tried for the first time is not here
/// yet. Pages are stable: what happens meanwhile neither moves nor repeats an item.
#[utoipa::path(
    get, path = "/notifications", tag = "notifications", security(("bearer" = [])),
    params(ListNotifications, Freshness),
    responses((status = 200, body = Page<Notification>), Denied, Refused)
)]
async fn list(
    State(projections): State<Projections>,
    principal: Principal,
    Query(query): Query<ListNotifications>,
) -> Result<Json<Page<Notification>>, Problem> {
    let user_id = whose(query.user_id, &principal)?;
    let paging = Paging::new(query.cursor, query.limit);
    let read = |bytes: &[u8]| bytes.try_into().ok().map(i64::from_be_bytes);
    let mut values = vec![Value::from(paging.place(read)?.unwrap_or(i64::MAX))];
    let status = query.status.map(Status::name);
    let channel = query.channel.map(|channel| channel.as_str().to_owned());
    let sql = match (user_id, status, &channel) {
        (None, None, None) => page!(""),
        (Some(_), None, None) => page!("user_id = $3 AND "),
        (None, Some(_), None) => page!("status = $3 AND "),
        (None, None, Some(_)) => page!("channel = $3 AND "),
        (Some(_), Some(_), None) => page!("user_id = $3 AND status = $4 AND "),
        (Some(_), None, Some(_)) => page!("user_id = $3 AND channel = $4 AND "),
        (None, Some(_), Some(_)) => page!("status = $3 AND channel = $4 AND "),
        (Some(_), Some(_), Some(_)) => page!("user_id = $3 AND status = $4 AND channel = $5 AND "),
    };
    values.extend(user_id.map(Value::from));
    values.extend(status.map(Value::from));
    values.extend(channel.map(Value::from));
    let place = |row: &Row| Ok(row.get::<i64>("sequence")?.to_be_bytes().to_vec());
    Ok(Json(paging.page(&projections.database(), sql, values, Notification::of, place).await?))
}

/// A notification
#[utoipa::path(
    get, path = "/notifications/{id}", tag = "notifications", security(("bearer" = [])),
    params(("id" = String, Path, description = "The id of an event, `_` and a channel",
        example = "018f3f5e-0000-7000-8000-000000000001_email"), Freshness),
    responses((status = 200, body = Notification), Denied, Unknown, Refused)
)]
async fn notification(
    State(projections): State<Projections>,
    principal: Principal,
    Path(id): Path<NotificationId>,
) -> Result<Json<Notification>, Problem> {
    let sql = "SELECT * FROM notifications WHERE id = $1";
    let row = projections.database().row(sql, vec![id.to_string().into()]).await?;
    let unknown = || Problem::not_found("notification-not-found", format!("There is no notification {id}."));
    let row = owned(row.as_ref(), &principal, unknown)?;
    Ok(Json(Notification::of(row)?))
}
