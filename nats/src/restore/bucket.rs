//! Copies a bucket and puts it back: the last value of each key, for a bucket has no history that anybody points into.

use super::{MARK, RestoreError, mark, refused};
use crate::{
    Connection,
    bucket::{AT_ONCE, is_gone},
    rights, topology,
};
use async_nats::jetstream::{
    message::PublishMessage,
    stream::{Config, LastRawMessageErrorKind},
};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use std::collections::HashMap;

/// The last value of each key of a bucket, and how its stream is configured. `None` where there is no such bucket.
#[derive(Clone, Debug)]
pub struct BucketCopy {
    /// The configuration of its stream.
    pub config: serde_json::Value,
    /// Keys and values, sorted.
    pub entries: Vec<(String, Bytes)>,
}

/// Copies a bucket: what has a value, key by key.
pub async fn copy_bucket(connection: &Connection, bucket: &str) -> Result<Option<BucketCopy>, RestoreError> {
    let name = rights::kv(bucket);
    let stream = match connection.jetstream.get_stream(&name).await {
        Ok(stream) => stream,
        Err(error) if topology::is_missing(&error) => return Ok(None),
        Err(error) => return Err(refused("open", &name)(error)),
    };
    let config = serde_json::to_value(&stream.cached_info().config);
    let config = config.map_err(refused("read the configuration of", &name))?;
    let before = format!("$KV.{bucket}.");
    let subjects = stream.info_with_subjects(format!("{before}>")).await.map_err(refused("list", &name))?;
    let subjects: Vec<(String, usize)> = subjects.try_collect().await.map_err(refused("list", &name))?;
    let (stream, before) = (&stream, before.as_str());
    let read = subjects.into_iter().map(|(subject, _)| async move {
        let last = match stream.get_last_raw_message_by_subject(&subject).await {
            Ok(last) => last,
            // Its lifetime has ended meanwhile.
            Err(error) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => return Ok(None),
            Err(error) => return Err(refused("read", &subject)(error)),
        };
        // What was removed, or has ended, left a mark.
        let key = subject.strip_prefix(before).filter(|_| !is_gone(&last.headers));
        Ok(key.map(|key| (key.to_owned(), last.payload)))
    });
    let read: Vec<_> = stream::iter(read).buffer_unordered(AT_ONCE).try_collect().await?;
    let mut entries: Vec<_> = read.into_iter().flatten().collect();
    entries.sort();
    Ok(Some(BucketCopy { config, entries }))
}

/// Puts a bucket back, which must have no values, unless an earlier attempt with the same `copy` put them there.
pub async fn put_bucket(
    connection: &Connection,
    bucket: &str,
    of: BucketCopy,
    replicas: usize,
    copy: &str,
) -> Result<(), RestoreError> {
    let name = rights::kv(bucket);
    let config = bucket_config(&of, replicas).map_err(refused("read the configuration of", &name))?;
    let jetstream = &connection.jetstream;
    let have = match jetstream.get_stream(&name).await {
        Ok(stream) => Some(stream.cached_info().clone()),
        Err(error) if topology::is_missing(&error) => None,
        Err(error) => return Err(refused("open", &name)(error)),
    };
    if let Some(have) = have.filter(|have| have.config.metadata.get(MARK).is_none_or(|mark| mark != copy)) {
        if have.state.messages > 0 {
            let (messages, last) = (have.state.messages, have.state.last_sequence);
            return Err(RestoreError::NotEmpty { stream: name, messages, last });
        }
        jetstream.delete_stream(&name).await.map_err(refused("make anew", &name))?;
    }
    let marked = Config { metadata: mark(copy), ..config };
    jetstream.get_or_create_stream(marked).await.map_err(refused("create", &name))?;
    let name = &name;
    let written = of.entries.into_iter().map(|(key, value)| async move {
        let message = PublishMessage::build().payload(value);
        let sent = jetstream.send_publish(format!("$KV.{bucket}.{key}"), message).await;
        sent.map_err(refused("write to", name))?.await.map_err(refused("write to", name))?;
        Ok(())
    });
    stream::iter(written).buffer_unordered(AT_ONCE).try_collect().await
}

/// Says that a bucket is put back.
pub async fn complete_bucket(
    connection: &Connection,
    bucket: &str,
    config: &serde_json::Value,
    replicas: usize,
) -> Result<(), RestoreError> {
    let name = rights::kv(bucket);
    let of = BucketCopy { config: config.clone(), entries: Vec::new() };
    let config = bucket_config(&of, replicas).map_err(refused("read the configuration of", &name))?;
    connection.jetstream.update_stream(config).await.map_err(refused("complete", &name))?;
    Ok(())
}

fn bucket_config(of: &BucketCopy, replicas: usize) -> Result<Config, serde_json::Error> {
    let config: Config = serde_json::from_value(of.config.clone())?;
    Ok(Config { num_replicas: replicas, metadata: HashMap::new(), ..config })
}
