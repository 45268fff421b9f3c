//! Two connections that speak another protocol: what one says the other hears.

use crate::{access::Line, guard::Peer};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio_util::sync::CancellationToken;

/// An upgrade that the service has granted. It travels with the answer 101, after which it runs.
#[derive(Clone)]
pub(crate) struct Tunnel {
    pub(super) client: OnUpgrade,
    pub(super) service: OnUpgrade,
    pub(super) peer: Arc<Peer>,
}

impl Tunnel {
    /// Carries bytes both ways until both sides have ended, or the gateway stops.
    pub(crate) async fn run(self, mut line: Line, stop: CancellationToken) {
        let sent = AtomicU64::new(0);
        let received = Arc::clone(&line.proxied.received);
        let carried = async {
            let (client, service) = (self.client.await, self.service.await);
            let (client, service) = (client.map_err(io::Error::other)?, service.map_err(io::Error::other)?);
            self.peer.upgraded();
            let (from_client, to_client) = split(TokioIo::new(client));
            let (from_service, to_service) = split(TokioIo::new(service));
            tokio::try_join!(pump(from_client, to_service, &received), pump(from_service, to_client, &sent))
        };
        tokio::select! {
            carried = carried => line.answer.complete = carried.is_ok(),
            () = stop.cancelled() => {}
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
