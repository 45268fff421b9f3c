//! The queries of the payments service.

use crate::{
    Projections,
    answer::{Money, Refused, Unknown, owned},
    database::{DatabaseError, Row},
    freshness::Freshness,
    page::{Page, Paging},
};
use axum::{Json, extract::State};
use events::{AccountId, OrderId};
use jiff::Timestamp;
use serde::Serialize;
use service::{
    Problem,
    auth::{Denied, Principal},
    extract::{Path, Query},
};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

pub(super) fn routes() -> OpenApiRouter<Projections> {
    OpenApiRouter::new().routes(routes!(account)).routes(routes!(entries)).routes(routes!(payment))
}

/// An account.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Account {
    id: Uuid,
    user_id: Uuid,
    balance: Money,
}

/// An account
#[utoipa::path(
    get, path = "/accounts/{id}", tag = "payments", security(("bearer" = [])),
    params(("id" = Uuid, Path, description = "The account"), Freshness),
    responses((status = 200, body = Account), Denied, Unknown, Refused)
)]
async fn account(
    State(projections): State<Projections>,
    principal: Principal,
    Path(id): Path<AccountId>,
) -> Result<Json<Account>, Problem> {
    let row = projections.database().row("SELECT * FROM accounts WHERE id = $1", vec![id.into()]).await?;
    let row = owned(row.as_ref(), &principal, || unknown(id))?;
    let balance = Money::of(row, "balance")?;
    Ok(Json(Account { id: row.get("id")?, user_id: row.get("user_id")?, balance }))
}

fn unknown(id: AccountId) -> Problem {
    Problem::not_found("account-not-found", format!("There is no account {id}."))
}

/// Money that came into an account or went out of it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = AccountEntry)]
struct Entry {
    /// Sequence of its event; grows.
    sequence: i64,
    /// `credit`, `debit` or `refund`.
    #[schema(example = "debit")]
    kind: String,
    /// Negative for a debit: the sum of all entries is the balance.
    amount: Money,
    /// Balance afterwards.
    balance: Money,
    /// The order it belongs to.
    order_id: Option<Uuid>,
    #[schema(value_type = String, format = DateTime)]
    time: Timestamp,
}

impl Entry {
    fn of(row: &Row) -> Result<Self, DatabaseError> {
        Ok(Self {
            sequence: row.get("sequence")?,
            kind: row.get("kind")?,
            amount: Money::of(row, "amount")?,
            balance: Money::of(row, "balance")?,
            order_id: row.find("order_id")?,
            time: row.get("time")?,
        })
    }
}

/// What came into an account and went out of it, newest first
#[utoipa::path(
    get, path = "/accounts/{id}/entries", tag = "payments", security(("bearer" = [])),
    params(("id" = Uuid, Path, description = "The account"), Paging, Freshness),
    responses((status = 200, body = Page<Entry>), Denied, Unknown, Refused)
)]
async fn entries(
    State(projections): State<Projections>,
    principal: Principal,
    Path(id): Path<AccountId>,
    Query(paging): Query<Paging>,
) -> Result<Json<Page<Entry>>, Problem> {
    let sql = "SELECT user_id FROM accounts WHERE id = $1";
    let account = projections.database().row(sql, vec![id.into()]).await?;
    owned(account.as_ref(), &principal, || unknown(id))?;
    let read = |bytes: &[u8]| bytes.try_into().ok().map(i64::from_be_bytes);
    let before = paging.place(read)?.unwrap_or(i64::MAX);
    let sql = "SELECT * FROM entries WHERE account_id = $2 AND sequence < $3 ORDER BY sequence DESC LIMIT $1";
    let place = |row: &Row| Ok(row.get::<i64>("sequence")?.to_be_bytes().to_vec());
    let values = [id.into(), before.into()];
    Ok(Json(paging.page(&projections.database(), sql, values, Entry::of, place).await?))
}

/// The payment of an order.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Payment {
    order_id: Uuid,
    account_id: Uuid,
    /// Whose account it is; null until that is known here.
    user_id: Option<Uuid>,
    /// `charged`, `failed` or `refunded`.
    #[schema(example = "charged")]
    status: String,
    /// Missing where nothing was charged.
    amount: Option<Money>,
    /// Why it failed or was refunded.
    #[schema(example = "insufficient_funds")]
    reason: Option<String>,
    /// The same in words.
    detail: Option<String>,
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
}

/// The payment of an order
#[utoipa::path(
    get, path = "/payments/{orderId}", tag = "payments", security(("bearer" = [])),
    params(("orderId" = Uuid, Path, description = "The order"), Freshness),
    responses((status = 200, body = Payment), Denied, Unknown, Refused)
)]
async fn payment(
    State(projections): State<Projections>,
    principal: Principal,
    Path(order): Path<OrderId>,
) -> Result<Json<Payment>, Problem> {
    // A payment is seen by whoever owns the account.
    let sql = "SELECT p.*, a.user_id FROM payments p LEFT JOIN accounts a ON a.id = p.account_id WHERE p.order_id = $1";
    let row = projections.database().row(sql, vec![order.into()]).await?;
    let unknown =
        || Problem::not_found("payment-not-found", format!("There is no payment for order {order}."));
    let row = owned(row.as_ref(), &principal, unknown)?;
    let charged = row.find::<i64>("amount")?.is_some();
    Ok(Json(Payment {
        order_id: row.get("order_id")?,
        account_id: row.get("account_id")?,
        user_id: row.find("user_id")?,
        status: row.get("status")?,
        amount: if charged { Some(Money::of(row, "amount")?) } else { None },
        reason: row.find("reason")?,
        detail: row.find("detail")?,
        updated_at: row.get("updated_at")?,
    }))
}
