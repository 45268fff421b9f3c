//! What streams hold, for whoever looks: how much, since when, and one message by its place.

use crate::{Connection, Message, ReplayError};
use async_nats::jetstream::stream::{LastRawMessageErrorKind, RawMessageErrorKind};
use events::{Context, Position};
use futures::TryStreamExt;
use jiff::Timestamp;

/// What the stream of a context holds.
#[derive(Clone, Debug)]
pub struct StreamState {
    /// Whose stream.
    pub context: Context,
    /// Its events.
    pub events: u64,
    /// Bytes of all its messages, headers included.
    pub bytes: u64,
    /// How many aggregates have events in it.
    pub aggregates: u64,
    /// Its first event: sequence, and when it was stored. None in an empty stream.
    pub first: Option<(u64, Timestamp)>,
    /// Its last event.
    pub last: Option<(u64, Timestamp)>,
}

impl StreamState {
    /// Of this moment.
    pub async fn of(connection: &Connection, context: Context) -> Result<Self, ReplayError> {
        let failed = |error: async_nats::Error| unavailable(context, error);
        let stream = connection.jetstream.get_stream(context.stream()).await;
        let stream = stream.map_err(|error| failed(error.into()))?;
        let state = &stream.cached_info().state;
        let timers = if context.has_timers() {
            let timers = stream.info_with_subjects(context.timer("*", "*")).await;
            let timers = timers.map_err(|error| failed(error.into()))?;
            // The newest of each only, so as many messages as subjects.
            timers.try_fold(0, async |count, _| Ok(count + 1)).await.map_err(|error| failed(error.into()))?
        } else {
            0
        };
        let at = |time: async_nats::datetime::DateTime| {
            Timestamp::from_nanosecond(time.unix_timestamp_nanos()).map_err(|error| failed(error.into()))
        };
        let events = state.messages.saturating_sub(timers);
        let mut ends = None;
        if events > 0 {
            let first = (state.first_sequence, at(state.first_timestamp)?);
            // The last message may be a timer.
            let last = match stream.get_last_raw_message_by_subject(&context.filter()).await {
                Ok(message) => Some((message.sequence, at(message.time)?)),
                Err(error) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => None,
                Err(error) => return Err(failed(error.into())),
            };
            ends = last.map(|last| (first, last));
        }
        Ok(Self {
            context,
            events,
            bytes: state.bytes,
            aggregates: state.subjects_count.saturating_sub(timers),
            first: ends.map(|(first, _)| first),
            last: ends.map(|(_, last)| last),
        })
    }
}

/// The event that stands there; `None` where there is none.
pub async fn message_at(connection: &Connection, position: Position) -> Result<Option<Message>, ReplayError> {
    let Position { context, sequence } = position;
    let stream = connection.jetstream.get_stream_no_info(context.stream()).await;
    let stream = stream.map_err(|error| unavailable(context, error.into()))?;
    match stream.get_raw_message(sequence).await {
        // What is no event there is a timer.
        Ok(message) => Ok(Message::stored(message).ok()),
        Err(error) if matches!(error.kind(), RawMessageErrorKind::NoMessageFound) => Ok(None),
        Err(error) => Err(unavailable(context, error.into())),
    }
}

fn unavailable(context: Context, source: async_nats::Error) -> ReplayError {
    ReplayError::Unavailable { stream: context.stream(), source }
}
