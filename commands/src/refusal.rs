//! Why a command was refused, in the words of the API: a stable slug, a status, the field at fault.

/// A refusal: nothing was recorded. Becomes problem+json (RFC 9457) at the edge.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Refusal {
    /// Last part of the problem's `type`, stable: `order-not-pending`.
    pub slug: &'static str,
    /// HTTP status: 404, 409, 412 or 422.
    pub status: u16,
    /// What is wrong and what to do.
    pub detail: String,
    /// The field of the request at fault, as a JSON path such as `items[0].sku`.
    pub field: Option<String>,
}

impl Refusal {
    /// What was asked about does not exist (404).
    pub fn not_found(slug: &'static str, detail: impl Into<String>) -> Self {
        Self { slug, status: 404, detail: detail.into(), field: None }
    }

    /// The state of things forbids it (409).
    pub fn conflict(slug: &'static str, detail: impl Into<String>) -> Self {
        Self { slug, status: 409, detail: detail.into(), field: None }
    }

    /// A field of the request cannot be accepted (422).
    pub fn invalid(slug: &'static str, field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { slug, status: 422, detail: detail.into(), field: Some(field.into()) }
    }
}
