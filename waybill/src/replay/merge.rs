//! Several streams as one, in the order their events were stored.

use super::{Batch, Request};
use events::Context;
use nats::{Connection, From, Message, Reader, ReplayError, Until};
use std::collections::VecDeque;
use tokio::sync::mpsc;

/// Messages taken from a stream at once.
const BATCH: usize = 1000;

/// What there is of several streams, merged by the time the server stored it.
pub(super) struct Merge {
    streams: Vec<Stream>,
}

struct Stream {
    context: Context,
    reader: Reader,
    /// Behind which sequence it starts, as far as that is known.
    start: u64,
    ahead: VecDeque<Message>,
    ended: bool,
}

impl Merge {
    pub(super) async fn open(connection: &Connection, request: &Request) -> Result<Self, ReplayError> {
        let mut streams = Vec::new();
        for &context in &request.contexts {
            let (from, until) = (request.from(context), request.until(context));
            let reader = Reader::open(connection, context, from, until, request.filter.clone()).await?;
            let end = reader.end().unwrap_or(0);
            let start = match from {
                From::Sequence(sequence) => sequence.saturating_sub(1).min(end),
                From::Time(_) if request.filter.subject.is_none() => end.saturating_sub(reader.waiting()),
                _ => 0,
            };
            streams.push(Stream { context, reader, start, ahead: VecDeque::new(), ended: false });
        }
        Ok(Self { streams })
    }

    /// The next message; none when every stream has ended.
    pub(super) async fn next(&mut self) -> Result<Option<Message>, ReplayError> {
        for stream in &mut self.streams {
            if stream.ahead.is_empty() && !stream.ended {
                stream.ahead = stream.reader.next_batch(BATCH).await?.into();
                stream.ended = stream.ahead.is_empty();
            }
        }
        let stored = |stream: &&mut Stream| stream.ahead.front().map(|message| message.stored);
        let first = self.streams.iter_mut().filter(|stream| !stream.ended).min_by_key(stored);
        Ok(first.and_then(|stream| stream.ahead.pop_front()))
    }

    /// How many events there are to look at.
    pub(super) fn length(&self) -> u64 {
        self.streams.iter().map(|stream| stream.reader.end().unwrap_or(0) - stream.start).sum()
    }

    /// How many of them have been looked at.
    pub(super) fn position(&self) -> u64 {
        let looked = |stream: &Stream| match stream.reader.end() {
            Some(end) if stream.ended => end - stream.start,
            _ => stream.reader.position().sequence.saturating_sub(stream.start),
        };
        self.streams.iter().map(looked).sum()
    }

    /// What comes behind the end, as it comes.
    pub(super) fn follow(self, connection: &Connection, request: &Request) -> mpsc::Receiver<Batch> {
        let (sender, receiver) = mpsc::channel(self.streams.len());
        for stream in self.streams {
            let behind = stream.reader.end().unwrap_or(0) + 1;
            let (connection, filter, sender) = (connection.clone(), request.filter.clone(), sender.clone());
            tokio::spawn(async move {
                let from = From::Sequence(behind);
                let opened = Reader::open(&connection, stream.context, from, Until::Forever, filter).await;
                if let Err(error) = forward(opened, &sender).await {
                    // Nobody listens where the printing has ended.
                    let _ = sender.send(Err(error)).await;
                }
            });
        }
        receiver
    }
}

async fn forward(
    reader: Result<Reader, ReplayError>,
    sender: &mpsc::Sender<Batch>,
) -> Result<(), ReplayError> {
    let mut reader = reader?;
    loop {
        let batch = reader.next_batch(BATCH).await?;
        if sender.send(Ok(batch)).await.is_err() {
            return Ok(());
        }
    }
}
