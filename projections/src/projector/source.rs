//! Reads one stream ahead of the projector and decodes what the view is made of.

use super::{FIRST_RETRY, LAST_RETRY, Projector};
use events::{DecodeError, Position};
use jiff::Timestamp;
use nats::{Filter, From, Message, Reader, Recorded, ReplayError, Until};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// Messages of a chunk at most.
const CHUNK: usize = 500;

/// A message that cannot be read.
pub(super) struct Unreadable {
    pub(super) message: Message,
    pub(super) error: String,
}

/// Consecutive messages of one stream: their events that matter, and how far they reach.
pub(super) struct Chunk {
    pub(super) events: Vec<Recorded>,
    /// Those among them that cannot be read.
    pub(super) unreadable: Vec<Unreadable>,
    /// The last message, which may be none of the events.
    pub(super) last: Position,
    /// When that was stored.
    pub(super) stored: Timestamp,
}

impl Chunk {
    /// Leaves out what is in the tables already.
    pub(super) fn skip_to(&mut self, sequence: u64) {
        if self.events.first().is_some_and(|first| first.position.sequence <= sequence) {
            self.events.retain(|recorded| recorded.position.sequence > sequence);
        }
        self.unreadable.retain(|unreadable| unreadable.message.position.sequence > sequence);
    }
}

/// Where the sources of all streams put what they have read, which is so many messages at most.
#[derive(Clone)]
pub(super) struct Ahead {
    out: mpsc::UnboundedSender<(Chunk, OwnedSemaphorePermit)>,
    room: Arc<Semaphore>,
}

/// What was read and is not written yet, in the order in which it came.
pub(super) struct Chunks(mpsc::UnboundedReceiver<(Chunk, OwnedSemaphorePermit)>);

/// Room for so many messages. It is messages that are counted and not chunks, for a source that is not waited for makes small
/// ones.
pub(super) fn ahead(messages: usize) -> (Ahead, Chunks) {
    let (out, chunks) = mpsc::unbounded_channel();
    (Ahead { out, room: Arc::new(Semaphore::new(messages)) }, Chunks(chunks))
}

impl Ahead {
    /// Waits until there is room for what so many messages have become. False where nobody takes it any more.
    async fn put(&self, chunk: Chunk, messages: usize) -> bool {
        let wanted = u32::try_from(messages).unwrap_or(u32::MAX);
        let Ok(room) = self.room.clone().acquire_many_owned(wanted).await else { return false };
        self.out.send((chunk, room)).is_ok()
    }
}

impl Chunks {
    /// The next one; none, where all sources have come to their end.
    pub(super) async fn next(&mut self) -> Option<Chunk> {
        self.0.recv().await.map(|(chunk, _room)| chunk)
    }

    /// The next one, where it is there already.
    pub(super) fn ready(&mut self) -> Option<Chunk> {
        self.0.try_recv().ok().map(|(chunk, _room)| chunk)
    }
}

/// One stream on its way to the projector.
pub(super) struct Source {
    projector: Projector,
    /// Everything up to here was handed over.
    at: Position,
    /// Where to stop.
    bound: Option<u64>,
    out: Ahead,
}

/// Why a stream stands still.
#[derive(Debug, thiserror::Error)]
enum Stop {
    #[error(transparent)]
    Read(#[from] ReplayError),
    #[error("event {position} of type {kind} cannot be read")]
    Decode { position: Position, kind: String, source: DecodeError },
    /// The projector has gone; it takes its readers with it.
    #[error("nobody takes the events")]
    Gone,
}

impl Source {
    pub(super) fn new(projector: Projector, at: Position, out: Ahead) -> Self {
        let bound = projector
            .bound
            .as_ref()
            .map(|bound| bound.iter().find(|end| end.context == at.context).map_or(0, |end| end.sequence));
        Self { projector, at, bound, out }
    }

    /// Hands over chunks for ever. What cannot be read is tried again: this stream waits there, the others go on. With a
    /// bound nothing is tried again.
    pub(super) async fn run(mut self) {
        let mut retry = FIRST_RETRY;
        loop {
            let before = self.at;
            let stop = match self.read().await {
                Ok(()) | Err(Stop::Gone) => return,
                Err(stop) => stop,
            };
            let cause = std::error::Error::source(&stop).map(ToString::to_string).unwrap_or_default();
            let projection = self.projector.view.name;
            tracing::error!(projection, at = %self.at, error = %stop, cause, "a stream stands still");
            let kind = if matches!(stop, Stop::Decode { .. }) { "decode" } else { "read" };
            self.projector.metrics.failed(projection, kind);
            self.note(|stream| stream.fault = Some(format!("{stop}: {cause}")));
            if self.bound.is_some() {
                return;
            }
            retry = if self.at == before { retry } else { FIRST_RETRY };
            tokio::time::sleep(retry).await;
            retry = (retry * 2).min(LAST_RETRY);
        }
    }

    async fn read(&mut self) -> Result<(), Stop> {
        if self.bound.is_some_and(|bound| self.at.sequence >= bound) {
            return Ok(());
        }
        let (connection, context) = (&self.projector.connection, self.at.context);
        let end = Reader::open(connection, context, From::Now, Until::End, Filter::default()).await?.end();
        let from = From::Sequence(self.at.sequence + 1);
        let mut reader = Reader::open(connection, context, from, Until::Forever, Filter::default()).await?;
        let at = self.at.sequence;
        self.note(|stream| {
            stream.end = end.max(stream.end);
            // With nothing left to read there is nothing wrong either.
            stream.fault.take_if(|_| stream.end <= Some(at));
        });
        loop {
            let messages = reader.next_batch(CHUNK).await?;
            let Some(newest) = messages.last() else { return Ok(()) };
            let (end, oldest) = (newest.position.sequence + newest.pending, messages[0].stored);
            self.note(|stream| {
                stream.end = Some(end).max(stream.end);
                stream.behind_since = stream.behind_since.or(Some(oldest));
            });
            self.hand_over(&messages).await?;
            if self.bound.is_some_and(|bound| self.at.sequence >= bound) {
                return Ok(());
            }
        }
    }

    /// Decodes and hands over. What cannot be decoded is parked; where that is not possible, what stands before it still goes.
    async fn hand_over(&mut self, messages: &[Message]) -> Result<(), Stop> {
        let (mut events, mut unreadable) = (Vec::with_capacity(messages.len()), Vec::new());
        let mut read = None;
        let mut stop = None;
        let within = |message: &&Message| self.bound.is_none_or(|bound| message.position.sequence <= bound);
        for message in messages.iter().take_while(within) {
            if self.projector.view.aggregates.contains(&message.subject.aggregate()) {
                match message.record() {
                    Ok(recorded) => events.push(recorded),
                    Err(error) if self.projector.passes() => {
                        self.projector.metrics.failed(self.projector.view.name, "decode");
                        unreadable.push(Unreadable { message: message.clone(), error: error.to_string() });
                    }
                    Err(source) => {
                        let (position, kind) = (message.position, message.kind().to_owned());
                        stop = Some(Stop::Decode { position, kind, source });
                        break;
                    }
                }
            }
            read = Some(message);
        }
        if let Some(message) = read {
            let chunk = Chunk { events, unreadable, last: message.position, stored: message.stored };
            if !self.out.put(chunk, messages.len()).await {
                return Err(Stop::Gone);
            }
            self.at = message.position;
            self.note(|stream| stream.fault = None);
        }
        stop.map_or(Ok(()), Err)
    }

    /// Tells how the stream is, without waking those who wait for a position.
    fn note(&self, note: impl FnOnce(&mut crate::StreamProgress)) {
        self.projector.progress.send_if_modified(|progress| {
            progress.stream_mut(self.at.context).map(note);
            false
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use events::Context;
    use futures::FutureExt;

    fn chunk(sequence: u64) -> Chunk {
        let last = Position { context: Context::Orders, sequence };
        Chunk { events: vec![], unreadable: vec![], last, stored: Timestamp::UNIX_EPOCH }
    }

    /// However many chunks they come in: a batch finds as many as there is room for, and memory is bounded by that.
    #[tokio::test]
    async fn so_many_messages_are_read_ahead_and_no_more() {
        let (source, mut chunks) = ahead(1000);
        for number in 1..=100 {
            assert!(source.put(chunk(10 * number), 10).await);
        }
        let mut next = Box::pin(source.put(chunk(1500), 500));
        assert_eq!(next.as_mut().now_or_never(), None, "there is no room");
        for number in 1..=50 {
            assert_eq!(next.as_mut().now_or_never(), None, "there is room for {}", 10 * (number - 1));
            assert_eq!(chunks.ready().unwrap().last.sequence, 10 * number);
        }
        assert_eq!(next.as_mut().now_or_never(), Some(true));
        drop(next);
        drop(source);
        let mut left = 0;
        while let Some(chunk) = chunks.next().await {
            left = chunk.last.sequence;
        }
        assert_eq!(left, 1500);
    }

    #[tokio::test]
    async fn who_waits_for_room_that_nobody_makes_any_more_is_told() {
        let (source, chunks) = ahead(10);
        assert!(source.put(chunk(10), 10).await);
        let waiting = source.put(chunk(20), 10);
        drop(chunks);
        assert!(!waiting.await);
    }
}
