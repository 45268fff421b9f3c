//! Bodies on their way: what a client sends, counted and limited, and what a service answers, ended when it has to be.

use crate::upstream::InFlight;
use axum::body::{Body, Bytes, HttpBody};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use service::Problem;
use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Bodies up to this size, in bytes, are kept until there is an answer, so that they can be sent again.
const KEPT: u64 = 64 * 1024;

/// What became of a body that a client sends. Shared with whoever has to explain a failure.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress(Arc<Flags>);

#[derive(Debug, Default)]
struct Flags {
    complete: AtomicBool,
    broken: AtomicBool,
    too_large: AtomicBool,
}

impl Progress {
    /// Whether everything has arrived.
    pub(super) fn is_complete(&self) -> bool {
        self.0.complete.load(Ordering::Acquire)
    }

    /// What the client did wrong, if it did.
    pub(super) fn problem(&self, limit: u64) -> Option<Problem> {
        if self.0.too_large.load(Ordering::Acquire) {
            return Some(too_large(limit));
        }
        let broken = self.0.broken.load(Ordering::Acquire);
        broken.then(|| Problem::bad_request("incomplete-body", "The body ended before it was complete."))
    }
}

pub(crate) fn too_large(limit: u64) -> Problem {
    let detail = format!("The body is larger than {limit} bytes.");
    Problem::new(axum::http::StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", detail)
}

/// The body of a request on its way to a service.
pub(crate) struct Upload {
    body: Incoming,
    received: Arc<AtomicU64>,
    limit: u64,
    progress: Progress,
}

impl Upload {
    pub(crate) fn new(body: Incoming, limit: u64, received: Arc<AtomicU64>) -> Self {
        let progress = Progress::default();
        progress.0.complete.store(body.is_end_stream(), Ordering::Release);
        Self { body, received, limit, progress }
    }

    pub(super) fn progress(&self) -> Progress {
        self.progress.clone()
    }
}

impl HttpBody for Upload {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        let flags = &self.progress.0;
        Poll::Ready(match frame {
            None => {
                flags.complete.store(true, Ordering::Release);
                None
            }
            Some(Err(error)) => {
                flags.broken.store(true, Ordering::Release);
                Some(Err(io::Error::other(error)))
            }
            Some(Ok(frame)) => {
                let length = frame.data_ref().map_or(0, Bytes::len) as u64;
                if self.received.fetch_add(length, Ordering::Relaxed) + length > self.limit {
                    flags.too_large.store(true, Ordering::Release);
                    return Poll::Ready(Some(Err(io::ErrorKind::FileTooLarge.into())));
                }
                if self.body.is_end_stream() {
                    flags.complete.store(true, Ordering::Release);
                }
                Some(Ok(frame))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A body as it is sent: kept, or passed on as it comes.
pub(super) enum Sending {
    /// All of it is here: it can be sent again.
    Kept(Bytes),
    /// It can be sent once.
    Passing(Option<Upload>),
}

impl Sending {
    /// Keeps a body that is small and known to be, else lets it pass.
    pub(super) async fn prepare(upload: Upload) -> Result<Self, io::Error> {
        match upload.size_hint().exact() {
            Some(0) => Ok(Self::Kept(Bytes::new())),
            Some(length) if length <= KEPT => Ok(Self::Kept(upload.collect().await?.to_bytes())),
            _ => Ok(Self::Passing(Some(upload))),
        }
    }

    /// Whether it can be sent again.
    pub(super) fn is_kept(&self) -> bool {
        matches!(self, Self::Kept(_))
    }

    /// The body to send. One that passes is empty the second time, for which nobody asks.
    pub(super) fn body(&mut self) -> Body {
        match self {
            Self::Kept(bytes) => Body::from(bytes.clone()),
            Self::Passing(upload) => upload.take().map_or_else(Body::empty, Body::new),
        }
    }
}

/// What a service answers. It ends by itself, or is ended.
pub(super) struct Download<B> {
    body: B,
    until: Until,
    _flight: InFlight,
}

/// What ends an answer that does not end by itself.
pub(super) enum Until {
    /// Its time: the connection breaks off, so that nobody takes the answer for complete.
    Deadline(Instant, Option<Pin<Box<Sleep>>>),
    /// The gateway stops: a stream of events ends as if there were no more, and its client connects again, elsewhere.
    Stop(Events),
}

impl<B> Download<B> {
    /// The instance counts as busy with it until it is dropped.
    pub(super) fn new(body: B, until: Until, flight: InFlight) -> Self {
        Self { body, until, _flight: flight }
    }
}

impl<B: HttpBody<Data = Bytes, Error: Into<axum::BoxError>> + Unpin> HttpBody for Download<B> {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = &mut *self;
        // First of all, since there may always be more to pass on.
        match &mut this.until {
            Until::Deadline(deadline, _) => {
                if Instant::now() >= *deadline {
                    return Poll::Ready(Some(Err(io::ErrorKind::TimedOut.into())));
                }
            }
            Until::Stop(events) => {
                if events.poll_stop(context).is_ready() && events.is_between() {
                    return Poll::Ready(events.farewell().map(|text| Ok(Frame::data(text))));
                }
            }
        }
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(context) {
            if let (Until::Stop(events), Some(Ok(frame))) = (&mut this.until, &frame) {
                events.pass(frame.data_ref());
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(io::Error::other)));
        }
        match &mut this.until {
            Until::Deadline(deadline, sleep) => {
                let deadline = *deadline;
                let sleep = sleep.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
                ready!(sleep.as_mut().poll(context));
                Poll::Ready(Some(Err(io::ErrorKind::TimedOut.into())))
            }
            // In the middle of an event: its client asks for it again.
            Until::Stop(events) => events.poll_stop(context).map(|()| None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Where in a stream of server-sent events we are, and when it has to end.
pub(super) struct Events {
    stop: Pin<Box<WaitForCancellationFutureOwned>>,
    stopped: bool,
    /// Whether something may be added to it.
    open: bool,
    /// The last bytes that have passed.
    tail: Vec<u8>,
}

/// So many bytes tell whether an event has ended: by an empty line, and lines end in CR, LF or both.
const TAIL: usize = 3;

/// When clients come again to whom the gateway says good-bye, in milliseconds: not all at once.
const RETRY: std::ops::Range<u32> = 500..1500;

impl Events {
    /// `open` says whether something may be added: not where the stream is compressed, or its length is known.
    pub(super) fn new(stop: CancellationToken, open: bool) -> Self {
        Self { stop: Box::pin(stop.cancelled_owned()), stopped: false, open, tail: Vec::new() }
    }

    fn poll_stop(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if !self.stopped {
            ready!(self.stop.as_mut().poll(context));
            self.stopped = true;
        }
        Poll::Ready(())
    }

    fn pass(&mut self, data: Option<&Bytes>) {
        let data = data.map_or(&[][..], |data| data);
        self.tail.extend_from_slice(&data[data.len().saturating_sub(TAIL)..]);
        self.tail.drain(..self.tail.len().saturating_sub(TAIL));
    }

    /// Whether the last event has ended and the next one has not begun.
    fn is_between(&self) -> bool {
        let ends = [&b"\n\n"[..], b"\r\r", b"\n\r\n"];
        self.tail.is_empty() || ends.iter().any(|end| self.tail.ends_with(end))
    }

    /// The last thing that is said, once: when to come again.
    fn farewell(&mut self) -> Option<Bytes> {
        let open = std::mem::take(&mut self.open);
        open.then(|| format!("retry: {}\n\n", fastrand::u32(RETRY)).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::{UpstreamPolicy, Upstreams};
    use axum::http::{HeaderMap, StatusCode};
    use nats::{Instance, InstanceId, Registry};
    use service::{Clock, Metrics};
    use std::time::Duration;
    use tokio::{sync::watch, time::advance};

    /// An answer that always has more to pass on: each time a whole event.
    fn ready(until: Until) -> Download<Body> {
        let instance = Instance {
            service: "orders".to_owned(),
            id: InstanceId(uuid::Uuid::nil()),
            url: "http://127.0.0.1:9".to_owned(),
            version: "1".to_owned(),
            started: jiff::Timestamp::UNIX_EPOCH,
        };
        let (_, known) = watch::channel([instance].as_slice().into());
        let (registry, policy) = (Registry::named_by(known), UpstreamPolicy::default());
        let dialer = crate::Dialer::new(&crate::Config::standard(), None).unwrap();
        let upstreams = Upstreams::start(registry, policy, dialer, Clock::system(), &Metrics::new());
        let flight = upstreams.pick("orders").unwrap().answered(StatusCode::OK, &HeaderMap::new());
        let events = futures::stream::repeat_with(|| Ok::<_, io::Error>("data: more\n\n"));
        Download::new(Body::from_stream(events), until, flight)
    }

    async fn next(body: &mut Download<Body>) -> Option<Result<Bytes, io::ErrorKind>> {
        let frame = body.frame().await?;
        Some(frame.map(|frame| frame.into_data().unwrap()).map_err(|error| error.kind()))
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_never_pauses_ends_on_time() {
        let time = Duration::from_secs(3);
        let mut body = ready(Until::Deadline(Instant::now() + time, None));
        assert!(next(&mut body).await.unwrap().is_ok());
        advance(time).await;
        assert_eq!(next(&mut body).await, Some(Err(io::ErrorKind::TimedOut)));
    }

    #[tokio::test]
    async fn a_stream_that_never_pauses_ends_when_it_is_told_to() {
        let stop = CancellationToken::new();
        let mut body = ready(Until::Stop(Events::new(stop.clone(), true)));
        assert!(next(&mut body).await.unwrap().is_ok());
        stop.cancel();
        let last = next(&mut body).await.unwrap().unwrap();
        assert!(last.starts_with(b"retry: ") && last.ends_with(b"\n\n"), "{last:?}");
        assert_eq!(next(&mut body).await, None);
    }

    #[test]
    fn an_event_ends_with_an_empty_line_however_it_is_cut() {
        let between = |pieces: &[&'static str]| {
            let mut events = Events::new(CancellationToken::new(), true);
            for piece in pieces {
                events.pass(Some(&Bytes::from_static(piece.as_bytes())));
            }
            events.is_between()
        };
        for whole in [
            &[][..],
            &["data: 1\n\n"],
            &["data: 1\n", "\n"],
            &["a\r\n\r", "\n"],
            &["a\r", "\r"],
            &[": hi\n", "\n", ""],
        ] {
            assert!(between(whole), "{whole:?}");
        }
        for cut in [&["data: 1\n"][..], &["data: 1"], &["\n\nd"], &["\n\n", "d"], &["a\r\n"]] {
            assert!(!between(cut), "{cut:?}");
        }
    }
}
