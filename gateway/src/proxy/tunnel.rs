//! Two connections that speak `WebSocket`: what one says the other hears.

use crate::{access::Line, guard::Peer, upstream::InFlight};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

/// A Close frame of a server with the status 1012: it restarts, come again (RFC 6455, section 5.5.1, and the registry of
/// status codes).
const RESTARTS: [u8; 4] = [0x88, 2, 0x03, 0xf4];

/// How long both sides may take to close once the client was told.
const CLOSING: Duration = Duration::from_secs(1);

/// An upgrade that the service has granted. It travels with the answer 101, after which it runs.
#[derive(Clone)]
pub(crate) struct Tunnel {
    pub(super) client: OnUpgrade,
    pub(super) service: OnUpgrade,
    pub(super) peer: Arc<Peer>,
    pub(super) _flight: Arc<InFlight>,
}

impl Tunnel {
    /// Carries bytes both ways until both sides have ended. When the gateway stops the client is told, and its answer
    /// still reaches the service.
    pub(crate) async fn run(self, mut line: Line, stop: CancellationToken) {
        let sent = AtomicU64::new(0);
        let received = Arc::clone(&line.proxied.received);
        let carried = async {
            let (client, service) = (self.client.await, self.service.await);
            let (client, service) = (client.map_err(io::Error::other)?, service.map_err(io::Error::other)?);
            self.peer.upgraded();
            let (from_client, to_client) = split(TokioIo::new(client));
            let (from_service, to_service) = split(TokioIo::new(service));
            tokio::try_join!(
                pump(from_client, to_service, &received),
                tell(from_service, to_client, &sent, &stop)
            )
        };
        let late = async {
            stop.cancelled().await;
            sleep(CLOSING).await;
        };
        tokio::select! {
            carried = carried => line.answer.complete = carried.is_ok(),
            () = late => {}
        }
        line.answer.sent = sent.load(Ordering::Relaxed);
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    count: &AtomicU64,
) -> io::Result<()> {
    let mut buffer = vec![0; 8 * 1024];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..length]).await?;
        to.flush().await?;
        count.fetch_add(length as u64, Ordering::Relaxed);
    }
}

/// The same towards the client, who on `stop` is told to come again, between two frames; after that it hears nothing more.
async fn tell(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    count: &AtomicU64,
    stop: &CancellationToken,
) -> io::Result<()> {
    let mut buffer = vec![0; 8 * 1024];
    let (mut frames, mut told) = (Frames::default(), false);
    loop {
        let length = tokio::select! {
            biased;
            () = stop.cancelled(), if frames.is_between() && !told => {
                to.write_all(&RESTARTS).await?;
                to.flush().await?;
                told = true;
                continue;
            }
            length = from.read(&mut buffer) => length?,
        };
        if length == 0 {
            return to.shutdown().await;
        }
        if !told {
            frames.pass(&buffer[..length]);
            to.write_all(&buffer[..length]).await?;
            to.flush().await?;
            count.fetch_add(length as u64, Ordering::Relaxed);
        }
    }
}

/// Where in a stream of frames we are (RFC 6455, section 5.2).
#[derive(Default)]
struct Frames {
    /// The head that is arriving.
    head: Vec<u8>,
    /// Bytes of the payload that have not come.
    left: u64,
}

impl Frames {
    fn pass(&mut self, mut bytes: &[u8]) {
        while let [first, rest @ ..] = bytes {
            if self.left > 0 {
                let length = bytes.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
                self.left -= length as u64;
                bytes = &bytes[length..];
                continue;
            }
            self.head.push(*first);
            bytes = rest;
            if let Some(length) = payload(&self.head) {
                self.left = length;
                self.head.clear();
            }
        }
    }

    fn is_between(&self) -> bool {
        self.head.is_empty() && self.left == 0
    }
}

/// The length of the payload after this head, if the head is complete.
fn payload(head: &[u8]) -> Option<u64> {
    let [_, second, rest @ ..] = head else { return None };
    let mask = if second & 0x80 == 0 { 0 } else { 4 };
    let extended = match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let length = rest.get(..extended)?.iter().fold(0, |length, byte| length << 8 | u64::from(*byte));
    (rest.len() >= extended + mask).then_some(if extended == 0 { u64::from(second & 0x7f) } else { length })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_every_length_are_followed_however_they_are_cut() {
        let long = vec![7; 70_000];
        let heads: [(&[u8], usize); 6] = [
            (&[0x81, 5], 5),
            (&[0x88, 0], 0),
            (&[0x81, 0x83, 1, 2, 3, 4], 3),
            (&[0x82, 126, 1, 0], 256),
            (&[0x82, 127, 0, 0, 0, 0, 0, 1, 0x11, 0x70], 70_000),
            (&[0x82, 254, 0, 130, 1, 2, 3, 4], 130),
        ];
        for step in [1, 2, 3, 1000] {
            let mut frames = Frames::default();
            for (head, length) in heads {
                let whole = [head, &long[..length]].concat();
                let (last, before) = whole.split_last().unwrap();
                for piece in before.chunks(step) {
                    frames.pass(piece);
                    assert!(!frames.is_between(), "{head:?}");
                }
                frames.pass(&[*last]);
                assert!(frames.is_between(), "{head:?}");
            }
        }
    }
}
