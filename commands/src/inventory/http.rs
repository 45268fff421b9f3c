//! The HTTP commands of inventory: the catalogue and the stock.

use super::{Item, ItemCommand, Product, ProductCommand, StockChange, change_stock};
use crate::{
    Decision, Key,
    http::{self, Api, Call, CallHeaders, Command, Created, Done, Recorded, Refused, Unknown, check},
};
use axum::{extract::State, response::Response};
use events::{Money, Sku, inventory::Stock};
use serde::{Deserialize, Serialize};
use service::{
    Problem,
    auth::Denied,
    extract::{Body, Path},
};
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

/// The endpoints.
pub(crate) fn routes(api: Api) -> OpenApiRouter {
    http::router()
        .routes(routes!(add_product))
        .routes(routes!(reprice_product))
        .routes(routes!(receive_stock))
        .routes(routes!(adjust_stock))
        .with_state(Arc::new(api))
}

/// A product to put into the catalogue.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct AddProduct {
    /// Its name in every later request: 1 to 64 of `A-Z a-z 0-9 _ -`.
    #[schema(value_type = String, example = "TEA-1")]
    sku: Sku,
    /// What it is called, in 1 to 200 characters.
    #[schema(example = "Green tea")]
    name: String,
    /// Price of one, at least 1. Its currency is for ever.
    #[schema(value_type = http::Money)]
    price: Money,
}

/// Add a product to the catalogue
#[utoipa::path(
    post, path = "/products", tag = "inventory", security(("bearer" = [])), params(CallHeaders), request_body = AddProduct,
    responses(Created, Denied, Refused)
)]
async fn add_product(
    State(api): State<Arc<Api>>,
    call: Call,
    Body(body): Body<AddProduct>,
) -> Result<Response, Problem> {
    let command = call.of_operator()?.command(&api.clock, "POST /products", &body);
    let AddProduct { sku, name, price } = body;
    let add = ProductCommand::Add { sku: sku.clone(), name, price };
    check::<Product>(&None, add.clone())?;
    api.apply(command, Key::<Product>::new(&sku), Done::created(location(&sku)), add).await
}

/// A price.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RepriceProduct {
    /// Price of one from now on, at least 1, in the product's currency.
    #[schema(value_type = http::Money)]
    price: Money,
}

/// Change the price of a product
#[utoipa::path(
    put, path = "/products/{sku}/price", tag = "inventory", security(("bearer" = [])),
    params(("sku" = String, Path, description = "The product"), CallHeaders), request_body = RepriceProduct,
    responses(Recorded, Unknown, Denied, Refused)
)]
async fn reprice_product(
    State(api): State<Arc<Api>>,
    call: Call,
    Path(sku): Path<Sku>,
    Body(body): Body<RepriceProduct>,
) -> Result<Response, Problem> {
    let command = call.of_operator()?.command(&api.clock, format_args!("PUT /products/{sku}/price"), &body);
    let reprice = ProductCommand::Reprice { price: body.price };
    check::<Product>(&None, reprice.clone())?;
    api.apply(command, Key::<Product>::new(&sku), Done::recorded(location(&sku)), reprice).await
}

/// Goods that arrived.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ReceiveStock {
    /// How many, at least 1.
    #[schema(example = 100, minimum = 1)]
    quantity: u32,
}

/// Receive goods
#[utoipa::path(
    post, path = "/inventory/{sku}/receipts", tag = "inventory", security(("bearer" = [])),
    params(("sku" = String, Path, description = "The product"), CallHeaders), request_body = ReceiveStock,
    responses(Recorded, Unknown, Denied, Refused)
)]
async fn receive_stock(
    State(api): State<Arc<Api>>,
    call: Call,
    Path(sku): Path<Sku>,
    Body(body): Body<ReceiveStock>,
) -> Result<Response, Problem> {
    let command =
        call.of_operator()?.command(&api.clock, format_args!("POST /inventory/{sku}/receipts"), &body);
    change(&api, command, sku, StockChange::Receive { quantity: body.quantity }).await
}

/// A count that was put right.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct AdjustStock {
    /// Units more or less, not 0.
    #[schema(example = -2)]
    delta: i64,
    /// Why, in 1 to 200 characters.
    #[schema(example = "broken")]
    reason: String,
}

/// Put a count right
///
/// What orders hold cannot be taken away.
#[utoipa::path(
    post, path = "/inventory/{sku}/adjustments", tag = "inventory", security(("bearer" = [])),
    params(("sku" = String, Path, description = "The product"), CallHeaders), request_body = AdjustStock,
    responses(Recorded, Unknown, Denied, Refused)
)]
async fn adjust_stock(
    State(api): State<Arc<Api>>,
    call: Call,
    Path(sku): Path<Sku>,
    Body(body): Body<AdjustStock>,
) -> Result<Response, Problem> {
    let command =
        call.of_operator()?.command(&api.clock, format_args!("POST /inventory/{sku}/adjustments"), &body);
    let AdjustStock { delta, reason } = body;
    change(&api, command, sku, StockChange::Adjust { delta, reason }).await
}

async fn change(
    api: &Arc<Api>,
    command: Command,
    sku: Sku,
    change: StockChange,
) -> Result<Response, Problem> {
    check::<Item>(&Stock::default(), ItemCommand { sku: sku.clone(), change: change.clone() })?;
    let (item, product) = (Key::<Item>::new(&sku), Key::<Product>::new(&sku));
    let done = Done::recorded(location(&sku));
    let run = move |decision: &mut Decision| change_stock(decision, &sku, change.clone());
    api.accept(command, item.load(), vec![product.load()], done, run).await
}

/// Where a product is found, with its stock.
fn location(sku: &Sku) -> String {
    format!("/inventory/{sku}")
}
