//! A small shop to try things on: some products with stock, and a customer with money. Loaded once per data folder.

use super::state::write_json;
use crate::{api::Api, failure::Failure, system::Service};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{fs, path::Path};
use uuid::Uuid;

/// Kept beside the data once everything is loaded.
const NAME: &str = "demo.json";

const CURRENCY: &str = "EUR";
/// SKU, name, price in cents.
const PRODUCTS: [(&str, &str, i64); 3] =
    [("TEA", "Darjeeling, 100 g", 450), ("CUP", "Cup", 1200), ("POT", "Teapot", 3900)];
const STOCK: u32 = 1000;
const MONEY: i64 = 1_000_000;

/// A country that the carrier serves.
pub(crate) const ACCEPTED_COUNTRY: &str = "DE";

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
    let (inventory, payments) = (Service::Inventory, Service::Payments);
    for (sku, name, price) in PRODUCTS {
        let product = json!({ "sku": sku, "name": name, "price": { "amount": price, "currency": CURRENCY } });
        let added = api.post(inventory, "/products", &format!("demo-product-{sku}"), &product).await?;
        added.expect(201, "a product of the demo catalogue")?;
        let (receipts, key) = (format!("/inventory/{sku}/receipts"), format!("demo-receipt-{sku}"));
        let received = api.post(inventory, &receipts, &key, &json!({ "quantity": STOCK })).await?;
        received.expect(202, "stock of the demo catalogue")?;
    }
    // Always the same: a start that is repeated must send the same request.
    let user_id = Uuid::from_u128(0x0199_d3a8_0000_7000_8000_0000_0000_0001);
    let account = json!({ "userId": user_id, "currency": CURRENCY });
    let opened = api.post(payments, "/accounts", "demo-account", &account).await?;
    let account_id = opened.expect(201, "the demo account")?.id()?;
    let credit = json!({ "amount": { "amount": MONEY, "currency": CURRENCY } });
    let credited = api.post(payments, &format!("/accounts/{account_id}/credits"), "demo-credit", &credit).await?;
    credited.expect(202, "the credit of the demo account")?;
    let account = DemoAccount { user_id, account_id };
    write_json(&path, &account)?;
    Ok(account)
}
