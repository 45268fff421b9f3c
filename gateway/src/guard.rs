//! A connection that lets only requests through which can be framed in one way.
//!
//! It stands between the socket and the HTTP library and inspects each head before the library sees it; between heads it
//! only counts, to know where the next one begins. A head that is refused is replaced by one that no client can send
//! ([`REFUSED`]): so the library answers it in its turn, after the requests before it, and closes the connection.

mod chunks;
mod head;

use crate::{access::Line, server::Place};
use bytes::{Buf, BytesMut};
use chunks::Chunks;
use head::Follows;
pub(crate) use head::Refusal;
use service::tls::Stream;
use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

/// The target of the request that stands for one that was refused. Heads that a client sends have a path there.
pub(crate) const REFUSED: &str = "*";
const SUBSTITUTE: &[u8] = b"GET * HTTP/1.1\r\nhost: refused\r\nconnection: close\r\n\r\n";

/// How much is read at a time, and how much of another protocol is held back until the upgrade is granted.
const PIECE: usize = 16 * 1024;

/// How long a client may finish sending what nobody reads.
const LINGER: Duration = Duration::from_secs(1);

/// What a connection may do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadLimits {
    /// Bytes of the request line and the headers.
    pub(crate) size: usize,
    /// Time from the first byte of a head to its last.
    pub(crate) time: Duration,
}

/// Who is at the other end, and what became of the connection.
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    /// What it speaks: `http` or `https`.
    pub(crate) scheme: &'static str,
    refusal: OnceLock<Refusal>,
    upgraded: AtomicBool,
    /// Lines of requests whose answers are on their way.
    ended: Mutex<Vec<Line>>,
    /// Held as long as anybody holds the connection.
    _place: Place,
}

impl Peer {
    pub(crate) fn new(address: SocketAddr, scheme: &'static str, place: Place) -> Self {
        let (refusal, upgraded) = (OnceLock::new(), AtomicBool::new(false));
        Self { address, scheme, refusal, upgraded, ended: Mutex::default(), _place: place }
    }

    /// Writes the line of a request once its answer has gone out, or the connection has ended: a client does not wait
    /// until something was logged.
    pub(crate) fn ended(&self, line: Line) {
        self.lines().push(line);
    }

    fn lines(&self) -> MutexGuard<'_, Vec<Line>> {
        // Every statement leaves it whole.
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the last head was refused.
    pub(crate) fn refusal(&self) -> Refusal {
        self.refusal.get().copied().unwrap_or(Refusal::Malformed("the target is not a path"))
    }

    /// From here on the connection carries another protocol.
    pub(crate) fn upgraded(&self) {
        self.upgraded.store(true, Ordering::Release);
    }
}

/// Where in the stream of requests the next byte stands.
#[derive(Clone, Copy, Debug)]
enum Expects {
    Head,
    Body(u64),
    Chunks(Chunks),
    /// An upgrade was asked for. Until it is granted nothing is let through, and if it is not, nothing ever is.
    Upgrade,
    Tunnel,
    /// Nothing more: what comes is thrown away.
    Nothing,
}

/// The guarded connection.
pub(crate) struct Guarded {
    stream: Stream,
    peer: Arc<Peer>,
    limits: HeadLimits,
    expects: Expects,
    buffer: BytesMut,
    /// So much at the front of the buffer was inspected and may pass.
    cleared: usize,
    /// So much of the head that is arriving was looked at.
    scanned: usize,
    /// When the head that is arriving has to be there.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Guarded {
    pub(crate) fn new(stream: Stream, peer: Arc<Peer>, limits: HeadLimits) -> Self {
        let (buffer, expects) = (BytesMut::new(), Expects::Head);
        Self { stream, peer, limits, expects, buffer, cleared: 0, scanned: 0, deadline: None }
    }

    /// Looks at what has arrived; clears what may pass. Says whether more is needed before anything can.
    fn inspect(&mut self) -> io::Result<bool> {
        let waiting = self.buffer.len();
        match &mut self.expects {
            Expects::Head => return Ok(self.inspect_head()),
            Expects::Body(left) => {
                self.cleared = waiting.min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= self.cleared as u64;
                if *left == 0 {
                    self.expects = Expects::Head;
                }
            }
            Expects::Chunks(chunks) => {
                self.cleared = chunks.advance(&self.buffer)?;
                if *chunks == Chunks::Done {
                    self.expects = Expects::Head;
                }
            }
            Expects::Upgrade if self.peer.upgraded.load(Ordering::Acquire) => {
                self.expects = Expects::Tunnel;
                self.cleared = waiting;
            }
            Expects::Upgrade => {}
            Expects::Tunnel => self.cleared = waiting,
            Expects::Nothing => self.buffer.clear(),
        }
        Ok(self.cleared == 0)
    }

    fn inspect_head(&mut self) -> bool {
        // An empty line before a request is allowed, and some old clients send one after a body.
        while self.scanned == 0 && self.buffer.starts_with(b"\r\n") {
            self.buffer.advance(2);
        }
        let Some(end) = self.end_of_head() else { return true };
        let verdict =
            end.and_then(|end| if end > self.limits.size { Err(Refusal::TooLarge) } else { Ok(end) });
        match verdict.and_then(|end| Ok((end, head::inspect(&self.buffer[..end])?))) {
            Ok((end, follows)) => {
                self.cleared = end;
                self.expects = match follows {
                    Follows::Nothing => Expects::Head,
                    Follows::Length(length) => Expects::Body(length),
                    Follows::Chunks => Expects::Chunks(Chunks::START),
                    Follows::Upgrade => Expects::Upgrade,
                };
            }
            Err(refusal) => self.refuse(refusal),
        }
        (self.scanned, self.deadline) = (0, None);
        false
    }

    /// Where the head that is arriving ends, or what is wrong with it; `None` where more has to come.
    fn end_of_head(&mut self) -> Option<Result<usize, Refusal>> {
        let bytes = &self.buffer[..];
        while self.scanned < bytes.len() {
            let (at, before) = (self.scanned, self.scanned.checked_sub(1).map(|before| bytes[before]));
            if (bytes[at] == b'\n') != (before == Some(b'\r')) {
                return Some(Err(Refusal::Malformed("a line does not end in CR and LF")));
            }
            self.scanned += 1;
            if bytes[..=at].ends_with(b"\r\n\r\n") {
                return Some(Ok(at + 1));
            }
        }
        (bytes.len() > self.limits.size).then_some(Err(Refusal::TooLarge))
    }

    fn refuse(&mut self, refusal: Refusal) {
        // The first one counts: nothing is inspected after it.
        let _ = self.peer.refusal.set(refusal);
        self.buffer.clear();
        self.buffer.extend_from_slice(SUBSTITUTE);
        self.cleared = SUBSTITUTE.len();
        (self.scanned, self.deadline, self.expects) = (0, None, Expects::Nothing);
    }

    /// Waits for the rest of a head that has begun, but not for ever.
    fn poll_deadline(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if !matches!(self.expects, Expects::Head) || self.buffer.is_empty() {
            return Poll::Pending;
        }
        let time = self.limits.time;
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + time)));
        deadline.as_mut().poll(context)
    }

    /// Reads into the buffer; gives how much, which is nothing at the end of the stream.
    fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.buffer.reserve(PIECE);
        // The future holds nothing: dropped while it waits it has read nothing.
        pin!(self.stream.read_buf(&mut self.buffer)).poll(context)
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if this.cleared > 0 {
                let length = this.cleared.min(into.remaining());
                into.put_slice(&this.buffer[..length]);
                this.buffer.advance(length);
                this.cleared -= length;
                return Poll::Ready(Ok(()));
            }
            if !this.buffer.is_empty() && !this.inspect()? {
                continue;
            }
            if matches!(this.expects, Expects::Upgrade) && this.buffer.len() >= PIECE {
                // Read on when the upgrade is granted; whoever reads the new protocol asks again.
                return Poll::Pending;
            }
            match this.poll_fill(context)? {
                Poll::Ready(0) => return Poll::Ready(Ok(())),
                Poll::Ready(_) => {}
                Poll::Pending => {
                    ready!(this.poll_deadline(context));
                    this.refuse(Refusal::Slow(this.limits.time));
                }
            }
        }
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(context))?;
        // Everything was sent: now there is time. A line is written when it is dropped.
        let lines = std::mem::take(&mut *self.peer.lines());
        drop(lines);
        Poll::Ready(Ok(()))
    }

    /// Says that nothing more is sent, and where the client is still sending lets it finish for a moment: closed at once,
    /// its connection would be reset and it would never read the answer.
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(Pin::new(&mut this.stream).poll_shutdown(context))?;
        if matches!(this.expects, Expects::Head | Expects::Tunnel) {
            return Poll::Ready(Ok(()));
        }
        let deadline = this.deadline.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + LINGER)));
        if deadline.as_mut().poll(context).is_ready() {
            return Poll::Ready(Ok(()));
        }
        loop {
            this.buffer.clear();
            if ready!(this.poll_fill(context)).unwrap_or_default() == 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}
