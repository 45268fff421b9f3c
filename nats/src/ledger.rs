//! What became of a client's idempotency keys: one entry per key, kept for days, far longer than the server's
//! duplicate window.

use crate::{Connection, topology};
use async_nats::jetstream::kv;
use bytes::Bytes;
use events::{CommandId, Context};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use service::crash_point;

/// After this time a request without an outcome counts as abandoned: its process has died. Longer than any request
/// takes; should one take longer all the same, both carry the same command id and one of them meets a conflict.
const LEASE: SignedDuration = SignedDuration::from_secs(15);

/// The answer that was given.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// HTTP status.
    pub status: u16,
    /// `Location`, where it had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// `Waybill-Position`, where it had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<String>,
    /// The body, as it was.
    pub body: Box<RawValue>,
}

/// What is known of a key.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    /// Digest of the request, so that another request under the same key is noticed.
    request: String,
    /// When the request was taken up.
    started: Timestamp,
    /// The answer, once there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    outcome: Option<Outcome>,
}

/// Whether a request may be carried out.
#[derive(Debug)]
pub enum Claim {
    /// It is new, or was abandoned by a process that died. Then (`again`) nobody knows whether it was carried out.
    Granted {
        /// For [`Ledger::finish`] and [`Ledger::release`].
        ticket: Ticket,
        /// Whether it may have been carried out before.
        again: bool,
    },
    /// It was answered.
    Answered(Outcome),
    /// It is being carried out at this moment.
    InFlight,
    /// The key was used for another request.
    Other,
}

/// The right to answer a key.
#[derive(Debug)]
pub struct Ticket {
    key: String,
    revision: u64,
    entry: Entry,
}

/// The ledger cannot be reached.
#[derive(Debug, thiserror::Error)]
#[error("the ledger of idempotency keys cannot be reached")]
pub struct LedgerError(#[source] Box<dyn std::error::Error + Send + Sync>);

/// The ledger of one context.
#[derive(Clone, Debug)]
pub struct Ledger {
    bucket: kv::Store,
}

impl Ledger {
    /// Opens the ledger, which [`topology::ensure`] created.
    pub async fn open(connection: &Connection, context: Context) -> Result<Self, LedgerError> {
        let bucket = connection.jetstream.get_key_value(topology::ledger(context)).await.map_err(failed)?;
        Ok(Self { bucket: topology::written_directly(bucket) })
    }

    /// Asks for the right to carry out the request with this digest.
    pub async fn claim(
        &self,
        command: CommandId,
        request: &str,
        now: Timestamp,
    ) -> Result<Claim, LedgerError> {
        let key = command.to_string();
        let entry = Entry { request: request.to_owned(), started: now, outcome: None };
        crash_point("ledger.claim.before", &self.bucket.name);
        let claimed = self.bucket.create(&key, encode(&entry)).await;
        crash_point("ledger.claim.after", &self.bucket.name);
        match claimed {
            Ok(revision) => {
                return Ok(Claim::Granted { ticket: Ticket { key, revision, entry }, again: false });
            }
            Err(error) if error.kind() == kv::CreateErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed(error)),
        }
        let Some(found) = self.bucket.entry(&key).await.map_err(failed)? else { return Ok(Claim::InFlight) };
        let known: Entry = match serde_json::from_slice(&found.value) {
            Ok(known) => known,
            // Released in this moment; the client tries again.
            Err(_) if found.value.is_empty() => return Ok(Claim::InFlight),
            Err(error) => return Err(failed(error)),
        };
        if known.request != request {
            return Ok(Claim::Other);
        }
        if let Some(outcome) = known.outcome {
            return Ok(Claim::Answered(outcome));
        }
        if now.duration_since(known.started) < LEASE {
            return Ok(Claim::InFlight);
        }
        match self.bucket.update(&key, encode(&entry), found.revision).await {
            Ok(revision) => Ok(Claim::Granted { ticket: Ticket { key, revision, entry }, again: true }),
            // Another process took it over.
            Err(_) => Ok(Claim::InFlight),
        }
    }

    /// Keeps the answer.
    pub async fn finish(&self, ticket: Ticket, outcome: Outcome) -> Result<(), LedgerError> {
        let entry = Entry { outcome: Some(outcome), ..ticket.entry };
        crash_point("ledger.finish.before", &self.bucket.name);
        self.bucket.update(&ticket.key, encode(&entry), ticket.revision).await.map_err(failed)?;
        crash_point("ledger.finish.after", &self.bucket.name);
        Ok(())
    }

    /// Gives the key back: nothing was recorded, so the request may be tried again as if it were new.
    pub async fn release(&self, ticket: Ticket) -> Result<(), LedgerError> {
        self.bucket.delete_expect_revision(&ticket.key, Some(ticket.revision)).await.map_err(failed)
    }
}

fn failed(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> LedgerError {
    LedgerError(source.into())
}

fn encode(entry: &Entry) -> Bytes {
    // An entry is strings and numbers; an empty value would only be read as released.
    serde_json::to_vec(entry).unwrap_or_default().into()
}
