//! The queries of the users service. What is sealed is opened here, for whoever may see it.

use crate::{
    Projections,
    answer::{Refused, Unknown},
    database::{DatabaseError, Row},
    freshness::Freshness,
    history::History,
    personal::reveal,
};
use axum::{
    Extension, Json,
    extract::State,
    http::{HeaderName, header},
    response::{IntoResponse, Response},
};
use events::{Personal, UserId};
use jiff::Timestamp;
use nats::KeyRing;
use serde::{Deserialize, Serialize, de::DeserializeOwned, de::IgnoredAny};
use service::{
    Problem,
    auth::{Denied, Principal},
    extract::{Path, Query},
};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

pub(super) fn routes() -> OpenApiRouter<Projections> {
    OpenApiRouter::new().routes(routes!(user)).routes(routes!(history))
}

/// A user. Never printed.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct User {
    id: Uuid,
    /// Empty once the user is erased.
    #[schema(example = "Ada Lovelace")]
    name: Option<String>,
    /// Empty once the user is erased.
    #[schema(example = "ada@example.com")]
    email: Option<String>,
    /// Empty once the user is erased.
    addresses: Option<Vec<Address>>,
    /// `customer`, `operator` or `admin`.
    #[schema(example = json!(["customer"]))]
    roles: Vec<String>,
    /// Whether the user is erased.
    erased: bool,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
    /// Counts the user's events; also the `ETag`.
    version: i64,
    /// Where `include` asks for it; empty once the user is erased.
    #[serde(skip_serializing_if = "Option::is_none")]
    preferences: Option<Preferences>,
    /// Where `include` asks for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    subscriptions: Option<Vec<Subscription>>,
}

/// A postal address.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Address {
    name: String,
    line1: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    line2: Option<String>,
    city: String,
    postal_code: String,
    #[schema(example = "CH")]
    country: String,
}

/// What a user prefers.
#[derive(Serialize, Deserialize, ToSchema)]
struct Preferences {
    #[schema(example = "de-AT")]
    language: String,
    /// `email`, `sms`, `push`.
    #[schema(example = json!(["email"]))]
    channels: Vec<String>,
    #[schema(example = "EUR")]
    currency: Option<String>,
}

/// A topic that a user hears of.
#[derive(Serialize, ToSchema)]
struct Subscription {
    #[schema(example = "order-updates")]
    topic: String,
    #[schema(value_type = String, format = DateTime)]
    since: Timestamp,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct GetUser {
    /// What else to answer with: `preferences`, `subscriptions`, or both, separated by a comma.
    #[param(example = "preferences,subscriptions")]
    include: Option<String>,
    // Read by the layer that waits.
    #[serde(rename = "after")]
    #[param(ignore)]
    _after: Option<IgnoredAny>,
    #[serde(rename = "wait")]
    #[param(ignore)]
    _wait: Option<IgnoredAny>,
}

/// What `include` names.
#[derive(Debug, Default, PartialEq, Eq)]
struct Include {
    preferences: bool,
    subscriptions: bool,
}

impl Include {
    fn read(text: Option<&str>) -> Result<Self, Problem> {
        let mut include = Self::default();
        for name in text.into_iter().flat_map(|text| text.split(',')) {
            match name.trim() {
                "preferences" => include.preferences = true,
                "subscriptions" => include.subscriptions = true,
                other => {
                    let detail =
                        format!("'{other}' cannot be included: 'preferences' and 'subscriptions' can.");
                    return Err(Problem::bad_request("invalid-query", detail).with_field("include"));
                }
            }
        }
        Ok(include)
    }
}

/// A user
#[utoipa::path(
    get, path = "/users/{id}", tag = "users", security(("bearer" = [])),
    params(("id" = Uuid, Path, description = "The user"), GetUser, Freshness),
    responses((status = 200, body = User, headers(("ETag" = String, description = "The version, for `If-Match`"))), Denied, Unknown, Refused)
)]
async fn user(
    State(projections): State<Projections>,
    Extension(keys): Extension<KeyRing>,
    principal: Principal,
    Path(id): Path<UserId>,
    Query(query): Query<GetUser>,
) -> Result<Response, Problem> {
    principal.require_for(id.uuid())?;
    let include = Include::read(query.include.as_deref())?;
    let row = projections.database().row("SELECT * FROM users WHERE id = $1", vec![id.into()]).await?;
    let row = row.ok_or_else(|| unknown(id))?;
    let mut user = open(&keys, &row).await?;
    if include.preferences && !user.erased {
        user.preferences = Some(row.json("preferences")?);
    }
    if include.subscriptions {
        let sql = "SELECT topic, since FROM subscriptions WHERE user_id = $1 ORDER BY topic";
        let rows = projections.database().rows(sql, vec![id.into()]).await?;
        let one = |row: &Row| Ok(Subscription { topic: row.get("topic")?, since: row.get("since")? });
        user.subscriptions = Some(rows.iter().map(one).collect::<Result<_, DatabaseError>>()?);
    }
    let headers: [(HeaderName, String); 2] =
        [(header::ETAG, format!("\"{}\"", user.version)), (header::CACHE_CONTROL, "no-store".to_owned())];
    Ok((headers, Json(user)).into_response())
}

fn unknown(id: UserId) -> Problem {
    Problem::not_found("user-not-found", format!("There is no user {id}."))
}

/// A user as the row has it, with what is personal opened.
async fn open(keys: &KeyRing, row: &Row) -> Result<User, Problem> {
    let name = column::<String>(keys, row, "name").await?;
    Ok(User {
        id: row.get("id")?,
        email: column(keys, row, "email").await?,
        // Before the first address was set there is none.
        addresses: column(keys, row, "addresses").await?.or_else(|| name.as_ref().map(|_| Vec::new())),
        // A key that is destroyed is destroyed before the fact has arrived here.
        erased: row.get("erased")? || name.is_none(),
        name,
        roles: row.json("roles")?,
        created_at: row.get("created_at")?,
        updated_at: row.get("updated_at")?,
        version: row.get("version")?,
        preferences: None,
        subscriptions: None,
    })
}

/// What a column holds, opened.
async fn column<T>(keys: &KeyRing, row: &Row, name: &'static str) -> Result<Option<T>, Problem>
where
    T: DeserializeOwned + Clone,
{
    let sealed: Option<Personal<T>> = row.find_json(name)?;
    reveal(keys, sealed.as_ref()).await
}

/// Everything that happened to a user
#[utoipa::path(
    get, path = "/users/{id}/history", tag = "users", security(("bearer" = [])),
    params(("id" = Uuid, Path, description = "The user"), Freshness),
    responses((status = 200, body = History), Denied, Unknown, Refused)
)]
async fn history(
    State(projections): State<Projections>,
    principal: Principal,
    Path(id): Path<UserId>,
) -> Result<Json<History>, Problem> {
    principal.require_for(id.uuid())?;
    let sql = "SELECT * FROM user_events WHERE user_id = $1 ORDER BY sequence";
    let rows = projections.database().rows(sql, vec![id.into()]).await?;
    History::of(&rows)?.map(Json).ok_or_else(|| unknown(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_included_is_named() {
        let (none, both) = (Include::default(), Include { preferences: true, subscriptions: true });
        assert_eq!(Include::read(None).unwrap(), none);
        assert_eq!(Include::read(Some("subscriptions, preferences")).unwrap(), both);
        for bad in ["", "orders", "preferences,", "preferences;subscriptions"] {
            let problem = Include::read(Some(bad)).unwrap_err();
            assert_eq!((problem.status().as_u16(), problem.field()), (400, Some("include")), "{bad}");
        }
    }
}
