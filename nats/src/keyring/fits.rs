//! Whether a master key is the right one, for whoever must not make anything.

use super::{BUCKET, CHECK, MasterKey, Stored};
use crate::{BucketError, Connection, rights, topology};
use async_nats::jetstream::stream::LastRawMessageErrorKind;

/// Whether it is with this master key that the keys were wrapped; `None` where there are no keys yet. Makes nothing.
pub async fn fits(connection: &Connection, master: &MasterKey) -> Result<Option<bool>, BucketError> {
    let away = |source: Box<dyn std::error::Error + Send + Sync>| BucketError::Away {
        bucket: BUCKET.to_owned(),
        source,
    };
    let stream = match connection.jetstream.get_stream(rights::kv(BUCKET)).await {
        Ok(stream) => stream,
        Err(error) if topology::is_missing(&error) => return Ok(None),
        Err(error) => return Err(away(error.into())),
    };
    let first = match stream.get_last_raw_message_by_subject(&format!("$KV.{BUCKET}.{CHECK}")).await {
        Ok(message) => message.payload,
        Err(error) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => return Ok(None),
        Err(error) => return Err(away(error.into())),
    };
    let stored = serde_json::from_slice::<Stored>(&first);
    Ok(Some(matches!(stored, Ok(Stored::Wrapped(first)) if master.unwrap(&first, CHECK).is_ok())))
}
