//! Whether the queries answer what the log says.

use super::Audit;
use crate::{api::Api, failure::Failure, system::Service};
use serde_json::{Value, json};

impl Audit {
    /// Asks for every order, SKU and account it knows from their beginning, and says where the answer differs.
    pub async fn differences(&self, api: &Api) -> Result<Vec<String>, Failure> {
        let mut differences = Vec::new();
        let mut compare = |what: String, answer: &Value, expected: Value| {
            let fields = expected.as_object().into_iter().flatten();
            let same = fields.into_iter().all(|(field, value)| answer[field] == *value);
            if !same {
                differences.push(format!("{what} is {expected} in the log, {answer} in the read model"));
            }
        };
        for (id, order) in &self.orders {
            let path = format!("/orders/{id}");
            let answer = api.get(Service::Orders, &path).await?.body;
            compare(path, &answer, json!({ "status": order.end().unwrap_or("pending") }));
        }
        for (sku, shelf) in &self.shelves {
            let path = format!("/inventory/{sku}");
            let answer = api.get(Service::Inventory, &path).await?.body;
            let available = shelf.on_hand - shelf.reserved;
            let expected = json!({ "onHand": number(shelf.on_hand), "reserved": number(shelf.reserved), "available": number(available) });
            compare(path, &answer, expected);
        }
        for (id, balance) in &self.balances {
            let path = format!("/accounts/{id}");
            let answer = api.get(Service::Payments, &path).await?.body;
            compare(path, &answer["balance"], json!({ "amount": number(balance.0) }));
        }
        Ok(differences)
    }
}

/// Sums are kept wider than any of them may become, so that an overflow shows.
fn number(sum: i128) -> Value {
    i64::try_from(sum).map_or(Value::Null, Value::from)
}
