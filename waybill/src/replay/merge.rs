//! Several streams as one, in the order their events were stored.

use super::{Batch, END, Request};
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
    ahead: VecDeque<Message>,
    ended: bool,
}

impl Merge {
    pub(super) async fn open(connection: &Connection, request: &Request) -> Result<Self, ReplayError> {
        let mut streams = Vec::new();
        for &context in &request.contexts {
            let reader = Reader::open(connection, context, request.from, END, request.filter.clone()).await?;
            streams.push(Stream { context, reader, ahead: VecDeque::new(), ended: false });
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

    /// How many events there are to look at, from the beginning of each stream.
    pub(super) fn end(&self) -> u64 {
        self.streams.iter().filter_map(|stream| stream.reader.end()).sum()
    }

    /// How many of them have been looked at.
    pub(super) fn position(&self) -> u64 {
        self.streams.iter().map(|stream| stream.reader.position().sequence).sum()
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
