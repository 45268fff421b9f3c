//! A small shop to try things on: some products with stock, and a customer with money. Loaded once per data folder.

use super::state::write_json;
use crate::{api::Api, failure::Failure};
use serde::{Deserialize, Serialize};
use std::{fs, path::Path};
use uuid::Uuid;

/// Kept beside the data once everything is loaded.
const NAME: &str = "demo.json";

/// SKU, name, price in cents.
const PRODUCTS: [(&str, &str, i64); 3] =
    [("TEA", "Darjeeling, 100 g", 450), ("CUP", "Cup", 1200), ("POT", "Teapot", 3900)];
const STOCK: u32 = 1000;
const MONEY: i64 = 1_000_000;

/// The customer of the demo catalogue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DemoAccount {
    pub(super) user_id: Uuid,
    pub(super) account_id: Uuid,
}

/// Loads what is not loaded yet. Every step has a key of its own, so that a start that was interrupted goes on where it
/// was.
pub(super) async fn load(api: &Api, dir: &Path) -> Result<DemoAccount, Failure> {
    let path = dir.join(NAME);
    if let Some(account) = fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok()) {
        return Ok(account);
    }
    for product in PRODUCTS {
        api.stock_product(&format!("demo-{}", product.0), product, STOCK).await?;
    }
    let user_id = api.register("demo").await?;
    let (account_id, _) = api.open_account("demo", user_id, MONEY).await?;
    let account = DemoAccount { user_id, account_id };
    write_json(&path, &account)?;
    Ok(account)
}
