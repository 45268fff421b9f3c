//! The query of the shipping service.

use crate::{
    Projections,
    answer::{Refused, Unknown, owned},
    freshness::Freshness,
    personal::reveal,
};
use axum::{Extension, Json, extract::State};
use events::{OrderId, Personal};
use jiff::Timestamp;
use nats::KeyRing;
use serde::{Deserialize, Serialize};
use service::{
    Problem,
    auth::{Denied, Principal},
    extract::Path,
};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

pub(super) fn routes() -> OpenApiRouter<Projections> {
    OpenApiRouter::new().routes(routes!(shipment))
}

/// The shipment of an order.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Shipment {
    order_id: Uuid,
    /// Whose it is.
    user_id: Option<Uuid>,
    /// `scheduled`, `dispatched`, `delivered`, `failed` or `cancelled`.
    #[schema(example = "scheduled")]
    status: String,
    carrier: Option<String>,
    /// The carrier's number for it.
    tracking_number: Option<String>,
    /// Null where it was never scheduled, and where the customer was erased.
    address: Option<Address>,
    /// Whether the customer was erased, and with him the address.
    erased: bool,
    /// Why it failed or was called off.
    #[schema(example = "carrier_refused")]
    reason: Option<String>,
    /// The same in the carrier's words.
    detail: Option<String>,
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
}

/// Where a parcel goes.
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

impl std::fmt::Debug for Address {
    // Personal data is not printed.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Address(..)")
    }
}

/// The shipment of an order
#[utoipa::path(
    get, path = "/shipments/{orderId}", tag = "shipping", security(("bearer" = [])),
    params(("orderId" = Uuid, Path, description = "The order"), Freshness),
    responses((status = 200, body = Shipment), Denied, Unknown, Refused)
)]
async fn shipment(
    State(projections): State<Projections>,
    principal: Principal,
    Extension(keys): Extension<KeyRing>,
    Path(order): Path<OrderId>,
) -> Result<Json<Shipment>, Problem> {
    let sql = "SELECT * FROM shipments WHERE order_id = $1";
    let row = projections.database().row(sql, vec![order.into()]).await?;
    let unknown =
        || Problem::not_found("shipment-not-found", format!("There is no shipment for order {order}."));
    let row = owned(row.as_ref(), &principal, unknown)?;
    let sealed: Option<Personal<Address>> = row.find_json("address")?;
    let address = reveal(&keys, sealed.as_ref()).await?;
    Ok(Json(Shipment {
        order_id: row.get("order_id")?,
        user_id: row.find("user_id")?,
        status: row.get("status")?,
        carrier: row.find("carrier")?,
        tracking_number: row.find("tracking_number")?,
        erased: sealed.is_some() && address.is_none(),
        address,
        reason: row.find("reason")?,
        detail: row.find("detail")?,
        updated_at: row.get("updated_at")?,
    }))
}
