//! The HTTP commands of shipping: what happens to a parcel after it was scheduled.

use super::{Shipment, ShipmentCommand, dispatch};
use crate::{
    Decision, Key,
    http::{self, Api, Call, CallHeaders, Done, Nothing, Optional, Recorded, Refused, Unknown},
    orders::Order,
};
use axum::{extract::State, response::Response};
use events::OrderId;
use service::{Problem, auth::Denied, extract::Path};
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
    let command =
        call.of_operator()?.command(&api.clock, format_args!("POST /shipments/{order_id}/dispatch"), &body);
    let (shipment, order) = (Key::<Shipment>::new(order_id), Key::<Order>::new(order_id));
    let run = move |decision: &mut Decision| dispatch(decision, order_id);
    api.accept(command, shipment.load(), vec![order.load()], recorded(order_id), run).await
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
    let command =
        call.of_operator()?.command(&api.clock, format_args!("POST /shipments/{order_id}/deliver"), &body);
    let deliver = ShipmentCommand::Deliver { order_id };
    api.apply(command, Key::<Shipment>::new(order_id), recorded(order_id), deliver).await
}

fn recorded(order_id: OrderId) -> Done {
    Done::recorded(format!("/shipments/{order_id}"))
}
