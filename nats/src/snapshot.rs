//! Snapshots: an aggregate's state at a sequence, so that a long history is not folded again. Disposable.

use crate::{Connection, topology};
use async_nats::HeaderMap;
use bytes::Bytes;
use events::{CommandId, Subject};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use service::crash_point;
use std::time::Duration;

/// An aggregate's state at a sequence.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// Name of the state's shape; a snapshot of another shape is ignored.
    pub schema: String,
    /// Stream sequence of the last event in it.
    pub sequence: u64,
    /// Version of the aggregate then.
    pub version: u64,
    /// Its newest commands then, oldest first, each with the sequence of its last event: a repeated command is
    /// recognised also when its events are in the snapshot.
    #[serde(default)]
    pub commands: Vec<(CommandId, u64)>,
    /// The state.
    pub state: Box<RawValue>,
}

fn subject(of: &Subject) -> (String, String) {
    let bucket = topology::snapshots(of.context());
    let key = format!("$KV.{bucket}.{}.{}", of.aggregate().token(), of.id());
    (bucket, key)
}

/// Reads a snapshot; `None` where there is none that can be read.
pub(crate) async fn read(connection: &Connection, of: &Subject, timeout: Duration) -> Option<Snapshot> {
    let (bucket, key) = subject(of);
    let api = connection.api(format_args!("DIRECT.GET.KV_{bucket}.{key}"));
    let request = async_nats::Request::new().payload(Bytes::new());
    let answer = connection.ask(api, request, timeout).await.ok()?;
    if answer.status.is_some() { None } else { serde_json::from_slice(&answer.payload).ok() }
}

/// Writes a snapshot. Whether it could be kept; a lost one costs a longer load, nothing else.
pub(crate) async fn write(
    connection: &Connection,
    of: &Subject,
    snapshot: &Snapshot,
    timeout: Duration,
) -> bool {
    #[derive(Deserialize)]
    struct Ack {
        seq: Option<u64>,
    }
    let Ok(body) = serde_json::to_vec(snapshot) else { return false };
    let request = async_nats::Request::new().headers(HeaderMap::new()).payload(body.into());
    crash_point("snapshot.before", of.context().stream());
    let answer = connection.ask(subject(of).1, request, timeout).await;
    crash_point("snapshot.after", of.context().stream());
    let ack = answer.ok().and_then(|answer| serde_json::from_slice::<Ack>(&answer.payload).ok());
    ack.is_some_and(|ack| ack.seq.is_some())
}
