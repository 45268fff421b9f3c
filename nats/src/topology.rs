//! Streams and buckets as data, ensured at start. What is weaker than declared is refused, never silently used.

use crate::{Bucket, Connection, Quota, parking, quota, read_models, registry, rights};
use async_nats::jetstream::{
    context::GetStreamErrorKind,
    kv,
    stream::{Compression, Config, DiscardPolicy, StorageType, Stream},
};
use events::Context;
use std::time::Duration;

/// How long the server recognises a repeated `Nats-Msg-Id`. Waybill does not rely on it (ADR 4): it only spares a
/// conflict when an acknowledgement was lost. Its memory grows with the rate, so it is short.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(30);

/// How long the answer to an idempotency key is kept.
pub const LEDGER_RETENTION: Duration = Duration::from_hours(7 * 24);

/// Why the topology is not as declared.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    /// The server could not be asked.
    #[error("cannot {action} {name}")]
    Request {
        /// What was tried.
        action: &'static str,
        /// On which stream or bucket.
        name: String,
        /// What the client says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It does not exist, and is not this process's to make.
    #[error("{name} is missing: it is made by waybill provision")]
    Missing {
        /// Which stream or bucket.
        name: String,
    },
    /// It exists, but promises less than Waybill needs.
    #[error("{name} is weaker than declared: {}", differences.join("; "))]
    Weaker {
        /// Which stream.
        name: String,
        /// Setting by setting: what it is and what it has to be.
        differences: Vec<String>,
    },
}

/// The stream of a context, as it has to be.
pub(crate) fn stream(context: Context, replicas: usize) -> Config {
    Config {
        name: context.stream().to_owned(),
        description: Some(format!("Facts of {context}, for ever")),
        subjects: subjects(context),
        storage: StorageType::File,
        num_replicas: replicas,
        duplicate_window: DUPLICATE_WINDOW,
        deny_delete: true,
        // The server clears it where there are timers, for it takes them away itself.
        deny_purge: !context.has_timers(),
        allow_direct: true,
        allow_atomic_publish: true,
        allow_message_schedules: context.has_timers(),
        compression: Some(Compression::S2),
        ..Config::default()
    }
}

/// How the stream of a context is declared, in the words of the server; without the number of copies, which each
/// installation chooses.
pub fn declared(context: Context) -> serde_json::Value {
    // A configuration is always JSON.
    let mut declared = serde_json::to_value(stream(context, 1)).unwrap_or_default();
    declared.as_object_mut().and_then(|settings| settings.remove("num_replicas"));
    declared
}

/// What the stream listens on: facts, and timers where it keeps them.
pub(crate) fn subjects(context: Context) -> Vec<String> {
    let timers = context.has_timers().then(|| context.timers());
    [context.filter()].into_iter().chain(timers).collect()
}

/// The bucket for snapshots of a context's aggregates: can be lost, is then built again.
pub(crate) fn snapshots(context: Context) -> String {
    format!("SNAPSHOTS_{}", context.stream())
}

/// The bucket for what became of idempotency keys.
pub fn ledger(context: Context) -> String {
    format!("LEDGER_{}", context.stream())
}

/// Creates what is missing of these contexts' streams and buckets, and checks what exists. Idempotent; two processes
/// may do it at once. `replicas` is 1 on one machine, 3 on a cluster.
pub async fn ensure(
    connection: &Connection,
    contexts: &[Context],
    replicas: usize,
) -> Result<(), TopologyError> {
    ensure_streams(connection, contexts, replicas).await?;
    for &context in contexts {
        let snapshots = kv::Config {
            bucket: snapshots(context),
            description: format!("States of {context} aggregates; disposable"),
            history: 1,
            num_replicas: replicas,
            ..kv::Config::default()
        };
        let ledger = kv::Config {
            bucket: ledger(context),
            description: format!("Answers to idempotency keys of {context}"),
            history: 1,
            max_age: LEDGER_RETENTION,
            num_replicas: replicas,
            ..kv::Config::default()
        };
        ensure_bucket(connection, snapshots).await?;
        ensure_bucket(connection, ledger).await?;
    }
    Ok(())
}

/// Creates what is missing of these contexts' streams alone, and checks what exists: what is only read.
pub async fn ensure_streams(
    connection: &Connection,
    contexts: &[Context],
    replicas: usize,
) -> Result<(), TopologyError> {
    for &context in contexts {
        ensure_stream(connection, stream(context, replicas)).await?;
    }
    Ok(())
}

/// Creates what is missing of the buckets that services share, and checks what exists.
pub async fn ensure_shared(connection: &Connection, replicas: usize) -> Result<(), TopologyError> {
    for config in [parking::config(replicas), read_models::config(replicas), registry::config(replicas)] {
        Bucket::ensure(connection, &config).await?;
    }
    Quota::provide(connection, replicas).await
}

async fn ensure_stream(connection: &Connection, want: Config) -> Result<(), TopologyError> {
    let failed = |action, source: Box<dyn std::error::Error + Send + Sync>| TopologyError::Request {
        action,
        name: format!("stream {}", want.name),
        source,
    };
    let have = match connection.jetstream.get_stream(&want.name).await {
        Ok(stream) => stream.cached_info().config.clone(),
        Err(error) if is_missing(&error) => {
            Box::pin(may_make(connection, &want)).await?;
            let created = connection.jetstream.get_or_create_stream(want.clone()).await;
            created.map_err(|error| failed("create", error.into()))?.cached_info().config.clone()
        }
        Err(error) => return Err(failed("read", error.into())),
    };
    let differences = weaknesses(&have, &want);
    if differences.is_empty() {
        return Ok(());
    }
    Err(TopologyError::Weaker { name: format!("stream {}", want.name), differences })
}

/// Refuses to make a stream where that is somebody else's to do. What is kept in memory only, and ends with its server, is
/// made again by its owner.
pub(crate) async fn may_make(connection: &Connection, want: &Config) -> Result<(), TopologyError> {
    if connection.makes() || want.storage == StorageType::Memory {
        return Ok(());
    }
    let name = want
        .name
        .strip_prefix("KV_")
        .map_or_else(|| format!("stream {}", want.name), |name| format!("bucket {name}"));
    match connection.jetstream.get_stream(&want.name).await {
        Ok(_) => Ok(()),
        Err(error) if is_missing(&error) => Err(TopologyError::Missing { name }),
        Err(error) => Err(TopologyError::Request { action: "read", name, source: error.into() }),
    }
}

/// A bucket whose values are written on their own subjects, wherever JetStream is asked.
pub(crate) fn written_directly(bucket: kv::Store) -> kv::Store {
    kv::Store { use_jetstream_prefix: false, ..bucket }
}

pub(crate) fn is_missing(error: &async_nats::jetstream::context::GetStreamError) -> bool {
    matches!(error.kind(), GetStreamErrorKind::JetStream(error)
        if error.error_code() == async_nats::jetstream::ErrorCode::STREAM_NOT_FOUND)
}

/// Every setting in which `have` promises less than `want`. What promises more is welcome.
pub(crate) fn weaknesses(have: &Config, want: &Config) -> Vec<String> {
    let mut found = Vec::new();
    let mut check = |holds: bool, name: &str, have: String, want: String| {
        if !holds {
            found.push(format!("{name} is {have}, needs {want}"));
        }
    };
    let flags = [
        ("allow_direct", have.allow_direct, want.allow_direct),
        ("allow_atomic", have.allow_atomic_publish, want.allow_atomic_publish),
        ("deny_delete", have.deny_delete, want.deny_delete),
        ("deny_purge", have.deny_purge, want.deny_purge),
        ("allow_msg_schedules", have.allow_message_schedules, want.allow_message_schedules),
    ];
    for (name, have, want) in flags {
        check(have || !want, name, have.to_string(), want.to_string());
    }
    let subjects = want.subjects.iter().all(|subject| have.subjects.contains(subject));
    check(subjects, "subjects", have.subjects.join(","), want.subjects.join(","));
    let file = have.storage == want.storage;
    check(file, "storage", format!("{:?}", have.storage), format!("{:?}", want.storage));
    let replicated = have.num_replicas >= want.num_replicas;
    check(replicated, "replicas", have.num_replicas.to_string(), want.num_replicas.to_string());
    let limits = [
        ("max_msgs", have.max_messages),
        ("max_bytes", have.max_bytes),
        ("max_msgs_per_subject", have.max_messages_per_subject),
        ("max_msg_size", have.max_message_size.into()),
        ("max_consumers", have.max_consumers.into()),
    ];
    for (name, limit) in limits {
        check(limit <= 0, name, limit.to_string(), "no limit".to_owned());
    }
    for (name, is) in [
        ("sealed", have.sealed),
        ("no_ack", have.no_ack),
        ("mirror", have.mirror.is_some()),
        ("sources", have.sources.as_ref().is_some_and(|sources| !sources.is_empty())),
        ("subject_transform", have.subject_transform.is_some()),
        ("an import under way", have.metadata.contains_key(crate::restore::MARK)),
    ] {
        check(!is, name, "set".to_owned(), "none".to_owned());
    }
    check(have.max_age.is_zero(), "max_age", format!("{:?}", have.max_age), "no limit".to_owned());
    let kept = format!("{:?}", have.retention);
    check(kept == "Limits", "retention", kept.clone(), "Limits".to_owned());
    check(
        have.persist_mode.is_none(),
        "persist_mode",
        format!("{:?}", have.persist_mode),
        "default".to_owned(),
    );
    found
}

/// The stream of a change feed, which is created where it is missing. It holds nothing that could be lost: one that is not as
/// declared, because it was made with other settings, is changed.
pub(crate) async fn ensure_feed(connection: &Connection, want: Config) -> Result<Stream, TopologyError> {
    let name = format!("stream {}", want.name);
    let failed = |action, source: Box<dyn std::error::Error + Send + Sync>| TopologyError::Request {
        action,
        name: name.clone(),
        source,
    };
    let have = match connection.jetstream.get_stream(&want.name).await {
        Ok(stream) => stream,
        Err(error) if is_missing(&error) => {
            let created = connection.jetstream.get_or_create_stream(want.clone()).await;
            created.map_err(|error| failed("create", error.into()))?
        }
        Err(error) => return Err(failed("read", error.into())),
    };
    let config = &have.cached_info().config;
    let as_wanted = config.max_age == want.max_age
        && config.max_bytes == want.max_bytes
        && config.num_replicas == want.num_replicas;
    if as_wanted {
        return Ok(have);
    }
    connection.jetstream.update_stream(&want).await.map_err(|error| failed("change", error.into()))?;
    connection.jetstream.get_stream(&want.name).await.map_err(|error| failed("read", error.into()))
}

/// Opens a bucket, which is created where it is missing and refused where it keeps less than it has to.
pub(crate) async fn ensure_bucket(
    connection: &Connection,
    want: kv::Config,
) -> Result<kv::Store, TopologyError> {
    let name = format!("bucket {}", want.bucket);
    let have = if let Ok(bucket) = connection.jetstream.get_key_value(&want.bucket).await {
        bucket
    } else {
        // Seldom, and large: it is not to make every future larger that opens a bucket.
        Box::pin(make_bucket(connection, &want, &name)).await?
    };
    let have = written_directly(have);
    let differences = bucket_weaknesses(&have.stream.cached_info().config, &want);
    if differences.is_empty() { Ok(have) } else { Err(TopologyError::Weaker { name, differences }) }
}

/// Every setting in which a bucket, whichever it is, keeps less than any bucket has to.
pub(crate) fn bucket_faults(have: &Config, replicas: usize) -> Vec<String> {
    // What is taken of quotas may be lost with the server, and no more.
    let usual = || kv::Config { num_replicas: replicas, ..kv::Config::default() };
    let want = if have.name == rights::kv(quota::BUCKET) { quota::config(replicas) } else { usual() };
    // For how long is each bucket's own affair.
    let want = kv::Config { max_age: have.max_age, ..want };
    let mut found = bucket_weaknesses(have, &want);
    if have.metadata.contains_key(crate::restore::MARK) {
        found.push("an import under way is set, needs none".to_owned());
    }
    found
}

/// Makes a bucket where there is none, if that may be done here.
async fn make_bucket(
    connection: &Connection,
    want: &kv::Config,
    name: &str,
) -> Result<kv::Store, TopologyError> {
    let stream = bucket_stream(want);
    may_make(connection, &stream).await?;
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| TopologyError::Request {
        action: "create",
        name: name.to_owned(),
        source,
    };
    // Two processes may do it at once.
    let made = connection.jetstream.get_or_create_stream(stream).await;
    made.map_err(|error| failed(error.into()))?;
    let made = connection.jetstream.get_key_value(&want.bucket).await;
    made.map_err(|error| failed(error.into()))
}

/// The stream of a bucket. The client would make the same, but asks about the account first, and whoever makes buckets in
/// the accounts of others has none to ask about.
fn bucket_stream(want: &kv::Config) -> Config {
    Config {
        name: rights::kv(&want.bucket),
        description: Some(want.description.clone()),
        subjects: vec![format!("$KV.{}.>", want.bucket)],
        max_messages_per_subject: want.history,
        max_bytes: want.max_bytes,
        max_age: want.max_age,
        storage: want.storage,
        num_replicas: want.num_replicas,
        discard: DiscardPolicy::New,
        allow_rollup: true,
        deny_delete: true,
        allow_direct: true,
        allow_message_ttl: want.limit_markers.is_some(),
        subject_delete_marker_ttl: want.limit_markers,
        ..Config::default()
    }
}

fn limit(bytes: i64) -> String {
    if bytes > 0 { bytes.to_string() } else { "no limit".to_owned() }
}

/// Every setting in which a bucket keeps less than it has to.
fn bucket_weaknesses(have: &Config, want: &kv::Config) -> Vec<String> {
    let (age, forever) = (have.max_age, Duration::ZERO);
    let kept = age == forever || (want.max_age != forever && age >= want.max_age);
    let room = have.max_bytes <= 0 || (want.max_bytes > 0 && have.max_bytes >= want.max_bytes);
    let checks = [
        (have.storage == want.storage, format!("storage is {:?}, needs {:?}", have.storage, want.storage)),
        (
            have.num_replicas >= want.num_replicas,
            format!("replicas is {}, needs {}", have.num_replicas, want.num_replicas),
        ),
        (kept, format!("max_age is {age:?}, needs {:?}", want.max_age)),
        (have.max_messages <= 0, format!("max_msgs is {}, needs no limit", have.max_messages)),
        (room, format!("max_bytes is {}, needs {}", have.max_bytes, limit(want.max_bytes))),
    ];
    checks.into_iter().filter(|(holds, _)| !holds).map(|(_, difference)| difference).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_weakness_is_named() {
        let want = stream(Context::Orders, 3);
        assert!(weaknesses(&want, &want).is_empty());
        let have = Config {
            name: "ORDERS".to_owned(),
            subjects: vec!["evt.orders.>".to_owned()],
            storage: StorageType::Memory,
            num_replicas: 1,
            max_messages: 10,
            max_age: Duration::from_secs(1),
            ..Config::default()
        };
        let found = weaknesses(&have, &want).join("\n");
        for setting in ["allow_direct", "allow_atomic", "deny_delete", "deny_purge", "storage", "replicas"] {
            assert!(found.contains(setting), "{setting} is missing in {found}");
        }
        assert!(found.contains("max_msgs is 10, needs no limit") && found.contains("max_age"));
    }
}
