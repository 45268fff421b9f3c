//! Connections: accepted, served, and ended in order when the gateway stops.

use crate::{
    Gateway,
    gateway::Ending,
    guard::{Guarded, Peer},
    layers,
};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::metrics::gauge::Gauge;
use service::tls::{Listener, ServerTls, Stream, fault};
use std::{convert::Infallible, io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// How long giving back leases may take.
const RELEASE: Duration = Duration::from_secs(1);

/// Serves until `shutdown`, then ends in four steps: `/ready` says no while connections are still accepted; nothing new is
/// accepted, and streams are ended, so that their clients connect elsewhere; requests in flight finish; a deadline ends
/// the rest. Says whether everything was finished by then.
pub async fn run(
    listener: impl Into<Listener>,
    mut gateway: Gateway,
    shutdown: CancellationToken,
) -> io::Result<bool> {
    let (listener, tls) = listener.into().into_parts();
    let scheme = if tls.is_some() { "https" } else { "http" };
    gateway.follow();
    let gateway = Arc::new(gateway);
    let Ending { leaving, stop, tasks } = gateway.ending.clone();
    let connections = gateway.config().connections.clone();
    let places = Arc::new(Semaphore::new(connections.most));
    let kill = CancellationToken::new();
    let accepting = async {
        loop {
            // As many as there may be: others wait in the system's queue.
            let Ok(permit) = Arc::clone(&places).acquire_owned().await else { return };
            let (stream, address) = accept(&listener).await;
            let place = Place::take(permit, gateway.counters.connections.clone());
            let peer = Arc::new(Peer::new(address, scheme, place));
            let (gateway, kill, tls) = (Arc::clone(&gateway), kill.clone(), tls.clone());
            tasks.spawn(async move {
                tokio::select! {
                    () = serve(&gateway, stream, tls, peer) => {}
                    () = kill.cancelled() => {}
                }
            });
        }
    };
    let leave = async {
        shutdown.cancelled().await;
        leaving.cancel();
        sleep(connections.leave).await;
    };
    tokio::select! {
        () = accepting => {}
        () = leave => {}
    }
    drop(listener);
    stop.cancel();
    tasks.close();
    let finished = timeout(connections.drain, tasks.wait()).await.is_ok();
    kill.cancel();
    tasks.wait().await;
    // What is left of its leases the other gateways may admit.
    gateway.limiter.release(RELEASE).await;
    Ok(finished)
}

/// The next connection. Errors are of one connection, or the process has no file descriptors left: both pass.
async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// A connection's place among those that there may be, until it is closed: also while it carries another protocol.
pub(crate) struct Place {
    open: Gauge,
    _permit: OwnedSemaphorePermit,
}

impl Place {
    fn take(permit: OwnedSemaphorePermit, open: Gauge) -> Self {
        open.inc();
        Self { open, _permit: permit }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.dec();
    }
}

async fn serve(gateway: &Arc<Gateway>, stream: TcpStream, tls: Option<ServerTls>, peer: Arc<Peer>) {
    let address = peer.address;
    service::http::prepare(&stream, service::http::STALLED);
    let connections = gateway.config().connections.clone();
    let (stop, limits) = (gateway.ending.stop.clone(), connections.head_limits());
    let stream = match tls {
        None => Ok(Stream::Plain(stream)),
        // Whoever is at this when the gateway stops has asked for nothing yet.
        Some(tls) => match stop.run_until_cancelled(tls.accept(stream, limits.time)).await {
            Some(accepted) => accepted,
            None => return,
        },
    };
    let stream = match stream {
        Ok(stream) => stream,
        Err(error) => {
            let why = fault(&error).unwrap_or_else(|| error.to_string());
            return tracing::debug!(why, peer = %address, "a client is refused");
        }
    };
    let guarded = Guarded::new(stream, Arc::clone(&peer), limits);
    let answer = service_fn(move |request| {
        let answer = layers::around(Arc::clone(gateway), Arc::clone(&peer), request);
        async { Ok::<_, Infallible>(answer.await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // The library's limit runs from the end of the last answer: that is the idle time. The guard has one for heads.
        .header_read_timeout(connections.idle)
        .serve_connection(TokioIo::new(guarded), answer)
        .with_upgrades();
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, peer = %address, "a connection broke off");
    }
}
