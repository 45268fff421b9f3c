//! Upcasters: one small step per version, so that every event ever recorded stays readable.
//!
//! A step takes the body of version `n` and gives the body of version `n + 1`. Old events are never rewritten.

use crate::DecodeError;
use serde_json::{Value, json};

/// The step from `version` of `kind` to the next one, if there is one.
pub fn step(kind: &str, version: u32) -> Option<fn(Value) -> Value> {
    match (kind, version) {
        ("product.added", 1) => Some(product_added_1),
        ("order.created", 1) => Some(order_created_1),
        ("order.cancelled", 1) => Some(|body| in_plain(body, "reason")),
        ("inventory.reserved" | "payment.charged" | "shipping.scheduled", 1) => {
            Some(|body| in_plain(body, "shippingAddress"))
        }
        ("inventory.released" | "payment.refunded" | "shipping.cancelled", 1) => Some(without_workflow),
        // In version 1 what was done, and what was asked for because of it, were facts of their own.
        ("process.started" | "step.requested" | "process.completed", 1) => Some(|body| body),
        // Version 1 did not name the customer, and nobody knows any more.
        ("shipping.failed", 1) => Some(|body| body),
        _ => None,
    }
}

/// Brings a body from version `from` to version `to`.
pub(crate) fn upcast(kind: &'static str, from: u32, to: u32, body: Value) -> Result<Value, DecodeError> {
    (from..to).try_fold(body, |body, version| {
        let step = step(kind, version).ok_or(DecodeError::Version { kind, version })?;
        Ok(step(body))
    })
}

/// Version 1 held the price as `amount` and `currency` beside the name; version 2 holds it as money.
fn product_added_1(mut body: Value) -> Value {
    if let Some(fields) = body.as_object_mut() {
        let amount = fields.remove("amount").unwrap_or_default();
        let currency = fields.remove("currency").unwrap_or_default();
        fields.insert("price".to_owned(), json!({ "amount": amount, "currency": currency }));
    }
    body
}

/// Version 1 did not say how well the customer was known, and was only recorded where he was; and as below.
fn order_created_1(body: Value) -> Value {
    let mut body = in_plain(body, "shippingAddress");
    if let Some(fields) = body.as_object_mut() {
        fields.insert("userSnapshot".to_owned(), json!({ "stale": false }));
    }
    body
}

/// Version 1 did not say who carries the order through; there was only one way.
fn without_workflow(mut body: Value) -> Value {
    if let Some(fields) = body.as_object_mut() {
        fields.insert("workflow".to_owned(), json!("choreography"));
    }
    body
}

/// Version 1 held personal data as they are; version 2 holds them sealed, and marks the old ones as plain.
fn in_plain(mut body: Value, field: &str) -> Value {
    if let Some(value) = body.get_mut(field).filter(|value| !value.is_null()) {
        *value = json!({ "plain": value.take() });
    }
    body
}
