//! What the wire alone costs: plain async-nats calls, for measurements to compare with. Nothing in Waybill uses it.

use crate::Connection;
use async_nats::{HeaderMap, jetstream::message::PublishMessage};
use bytes::Bytes;
use events::{Context, Subject};
use futures::StreamExt;

/// A message to publish over and over, taken from a stream so that headers and body are real.
#[derive(Clone, Debug)]
pub struct Template {
    headers: HeaderMap,
    body: Bytes,
}

/// Something went wrong while measuring.
#[derive(Debug, thiserror::Error)]
#[error("baseline: {0}")]
pub struct BaselineError(String);

fn failed(error: impl std::fmt::Display) -> BaselineError {
    BaselineError(error.to_string())
}

impl Template {
    /// The last message of a subject.
    pub async fn of(connection: &Connection, subject: &Subject) -> Result<Self, BaselineError> {
        let stream =
            connection.jetstream.get_stream_no_info(subject.context().stream()).await.map_err(failed)?;
        let message = stream.direct_get_last_for_subject(subject.as_str()).await.map_err(failed)?;
        let mut headers = HeaderMap::new();
        for (name, values) in message.headers.iter() {
            let own = !name.to_string().starts_with("Nats-");
            for value in values.iter().filter(|_| own) {
                headers.append(name.clone(), value.as_str());
            }
        }
        Ok(Self { headers, body: message.payload })
    }

    /// Publishes it under `id` with the expectation and waits for the acknowledgement: the sequence.
    pub async fn publish(
        &self,
        to: &Connection,
        subject: &str,
        id: &str,
        expect: u64,
    ) -> Result<u64, BaselineError> {
        let message = PublishMessage::build().headers(self.headers.clone()).payload(self.body.clone());
        let message = message.message_id(id).expected_last_subject_sequence(expect);
        let ack = to.jetstream.send_publish(subject.to_owned(), message).await.map_err(failed)?;
        Ok(ack.await.map_err(failed)?.sequence)
    }
}

/// Reads a stream to its end with an ordered consumer and parses every body as JSON: how many there were.
pub async fn consume_json(connection: &Connection, context: Context) -> Result<u64, BaselineError> {
    use async_nats::jetstream::consumer::{AckPolicy, pull};
    let stream = connection.jetstream.get_stream(context.stream()).await.map_err(failed)?;
    let last = stream.cached_info().state.last_sequence;
    let config = pull::Config { ack_policy: AckPolicy::None, ..pull::Config::default() };
    let consumer = stream.create_consumer(config).await.map_err(failed)?;
    let mut messages = consumer.stream().max_messages_per_batch(5000).messages().await.map_err(failed)?;
    let mut count = 0;
    while count < last {
        let message = messages.next().await.ok_or_else(|| failed("the consumer ended"))?.map_err(failed)?;
        serde_json::from_slice::<serde_json::Value>(&message.payload).map_err(failed)?;
        count += 1;
    }
    Ok(count)
}
