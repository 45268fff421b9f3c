//! The HTTP commands of shipping: what happens to a parcel after it was scheduled.

use super::{Shipment, ShipmentCommand, dispatch};
use crate::{
    Key,
    http::{self, Api, Call, CallHeaders, Nothing, Optional, Recorded, Refused, Unknown},
    orders::Order,
};
use axum::{extract::State, http::StatusCode, response::Response};
use events::OrderId;
use service::{
    Problem,
    auth::{Denied, Role},
    extract::Path,
};
use std::sync::Arc;
use utoipa_axum::{router::OpenApiRouter, routes};

/// The endpoints.
pub(crate) fn routes(api: Api) -> OpenApiRouter {
    http::router()
        .routes(routes!(dispatch_shipment))
        .routes(routes!(deliver_shipment))
        .with_state(Arc::new(api))
}

/// A parcel leaves the house
///
/// Not before its order is completed: until then the customer can cancel it.
#[utoipa::path(
    post, path = "/shipments/{orderId}/dispatch", tag = "shipping", security(("bearer" = [])),
    params(("orderId" = Uuid, Path, description = "The order"), CallHeaders), request_body = Option<Nothing>,
    responses(Recorded, Unknown, Denied, Refused)
)]
async fn dispatch_shipment(
    State(api): State<Arc<Api>>,
    call: Call,
    Path(order_id): Path<OrderId>,
    Optional(body): Optional<Nothing>,
) -> Result<Response, Problem> {
    call.principal.require(Role::Operator)?;
    let command = call.command(&api.clock, format_args!("POST /shipments/{order_id}/dispatch"), &body);
    let (shipment, order) = (Key::<Shipment>::new(order_id), Key::<Order>::new(order_id));
    let (subject, keys) = (shipment.subject().clone(), vec![shipment.load(), order.load()]);
    api.accept(command, subject, keys, changed(order_id), move |decision| dispatch(decision, order_id)).await
}

/// A parcel arrives
#[utoipa::path(
    post, path = "/shipments/{orderId}/deliver", tag = "shipping", security(("bearer" = [])),
    params(("orderId" = Uuid, Path, description = "The order"), CallHeaders), request_body = Option<Nothing>,
    responses(Recorded, Unknown, Denied, Refused)
)]
async fn deliver_shipment(
    State(api): State<Arc<Api>>,
    call: Call,
    Path(order_id): Path<OrderId>,
    Optional(body): Optional<Nothing>,
) -> Result<Response, Problem> {
    call.principal.require(Role::Operator)?;
    let command = call.command(&api.clock, format_args!("POST /shipments/{order_id}/deliver"), &body);
    let (key, deliver) = (Key::<Shipment>::new(order_id), ShipmentCommand::Deliver { order_id });
    let (subject, keys) = (key.subject().clone(), vec![key.load()]);
    let run = move |decision: &mut crate::Decision| decision.apply(&key, deliver.clone());
    api.accept(command, subject, keys, changed(order_id), run).await
}

fn changed(order_id: OrderId) -> (StatusCode, String) {
    (StatusCode::ACCEPTED, format!("/shipments/{order_id}"))
}
