//! Opening personal data for an answer. Read models keep them sealed, so that nobody need look for them when a user is
//! erased.

use events::Personal;
use nats::{KeyError, KeyRing};
use serde::de::DeserializeOwned;
use service::Problem;

/// The value; `None` where there is none, and where its owner was erased.
pub(crate) async fn reveal<T>(keys: &KeyRing, personal: Option<&Personal<T>>) -> Result<Option<T>, Problem>
where
    T: DeserializeOwned + Clone,
{
    let Some(personal) = personal else { return Ok(None) };
    keys.reveal(personal).await.map_err(|error| match error {
        KeyError::Away(error) => {
            tracing::warn!(%error, "a query met keys that cannot be reached");
            let detail = "The keys of personal data cannot be reached.";
            Problem::unavailable("personal-data-unavailable", detail, 1)
        }
        error => {
            tracing::error!(%error, "personal data cannot be opened");
            Problem::internal()
        }
    })
}
