//! The queries of the inventory service.

use crate::{
    Projections,
    answer::{Money, Refused, Unknown},
    database::{DatabaseError, Row},
    freshness::Freshness,
    page::{Page, Paging},
};
use axum::{Json, extract::State};
use events::Sku;
use serde::Serialize;
use service::{
    Problem,
    auth::{Denied, Principal},
    extract::{Path, Query},
};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

pub(super) fn routes() -> OpenApiRouter<Projections> {
    OpenApiRouter::new().routes(routes!(products)).routes(routes!(product)).routes(routes!(item))
}

/// A product of the catalogue.
#[derive(Debug, Serialize, ToSchema)]
struct Product {
    #[schema(example = "TEA-1")]
    sku: String,
    name: String,
    price: Money,
}

impl Product {
    fn of(row: &Row) -> Result<Self, DatabaseError> {
        Ok(Self { sku: row.get("sku")?, name: row.get("name")?, price: Money::of(row, "amount")? })
    }
}

/// The catalogue, by SKU
///
/// Open to everybody.
#[utoipa::path(
    get, path = "/products", tag = "inventory",
    params(Paging, Freshness),
    responses(
        (status = 200, body = Page<Product>),
        (status = 401, description = "The position named is not there yet, and nobody waits without a token",
            body = Problem, content_type = "application/problem+json"),
        Refused
    )
)]
async fn products(
    State(projections): State<Projections>,
    Query(paging): Query<Paging>,
) -> Result<Json<Page<Product>>, Problem> {
    let read = |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(str::to_owned);
    let sku = paging.place(read)?.unwrap_or_default();
    let sql = "SELECT * FROM products WHERE sku > $2 ORDER BY sku LIMIT $1";
    let place = |row: &Row| Ok(row.get::<String>("sku")?.into_bytes());
    Ok(Json(paging.page(&projections.database(), sql, [sku.into()], Product::of, place).await?))
}

/// A product of the catalogue
///
/// Open to everybody.
#[utoipa::path(
    get, path = "/products/{sku}", tag = "inventory",
    params(("sku" = String, Path, description = "The product"), Freshness),
    responses(
        (status = 200, body = Product),
        (status = 401, description = "The position named is not there yet, and nobody waits without a token",
            body = Problem, content_type = "application/problem+json"),
        Unknown,
        Refused
    )
)]
async fn product(
    State(projections): State<Projections>,
    Path(sku): Path<Sku>,
) -> Result<Json<Product>, Problem> {
    let row =
        projections.database().row("SELECT * FROM products WHERE sku = $1", vec![(&sku).into()]).await?;
    Ok(Json(Product::of(&row.ok_or_else(|| unknown(&sku))?)?))
}

fn unknown(sku: &Sku) -> Problem {
    Problem::not_found("product-not-found", format!("There is no product {sku}."))
}

/// A product and its stock.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Item {
    #[schema(example = "TEA-1")]
    sku: String,
    name: String,
    price: Money,
    /// Units in the house.
    on_hand: i64,
    /// Units of these that orders hold.
    reserved: i64,
    /// Units that can still be ordered.
    available: i64,
}

impl Item {
    fn of(row: &Row) -> Result<Self, DatabaseError> {
        let Product { sku, name, price } = Product::of(row)?;
        // A product without any stock fact has none.
        let (on_hand, reserved) = (row.find("on_hand")?.unwrap_or(0), row.find("reserved")?.unwrap_or(0));
        Ok(Self { sku, name, price, on_hand, reserved, available: on_hand - reserved })
    }
}

/// A product and its stock
#[utoipa::path(
    get, path = "/inventory/{sku}", tag = "inventory", security(("bearer" = [])),
    params(("sku" = String, Path, description = "The product"), Freshness),
    responses((status = 200, body = Item), Denied, Unknown, Refused)
)]
async fn item(
    State(projections): State<Projections>,
    _: Principal,
    Path(sku): Path<Sku>,
) -> Result<Json<Item>, Problem> {
    let sql =
        "SELECT p.*, on_hand, reserved FROM products p LEFT JOIN stock s ON s.sku = p.sku WHERE p.sku = $1";
    let row = projections.database().row(sql, vec![(&sku).into()]).await?;
    Ok(Json(Item::of(&row.ok_or_else(|| unknown(&sku))?)?))
}
