//! Connections as they come in, plain or with TLS.

use super::{HTTP, Identity, TlsError, fault, in_words, provider, unfit};
use crate::http::{STALLED, prepare};
use arc_swap::ArcSwap;
use rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier};
use std::{
    collections::VecDeque,
    fmt,
    io::{self, IoSlice},
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// How long a caller may take to agree on TLS.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How many may be at it: one more takes the place of the one who has been at it longest. Who means it takes milliseconds.
const HANDSHAKES: usize = 1024;

/// The certificate that connections are accepted with. Clones share it.
#[derive(Clone)]
pub struct ServerTls(Arc<ArcSwap<ServerConfig>>);

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerTls")
    }
}

impl ServerTls {
    /// Shows this certificate; with `callers`, whoever comes has to show one that one of them has signed.
    pub fn new(identity: &Identity, callers: Option<Arc<RootCertStore>>) -> Result<Self, TlsError> {
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(unfit)?;
        let builder = match callers {
            Some(roots) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
                builder.with_client_cert_verifier(verifier.build().map_err(unfit)?)
            }
            None => builder.with_no_client_auth(),
        };
        let (chain, key) = identity.parts();
        let mut config = builder.with_single_cert(chain, key).map_err(|error| unfit(in_words(&error)))?;
        config.alpn_protocols = vec![HTTP.to_vec()];
        Ok(Self(Arc::new(ArcSwap::from_pointee(config))))
    }

    /// Accepts with what another one accepts with, from the next connection on.
    pub(super) fn take(&self, fresh: &Self) {
        self.0.store(fresh.0.load_full());
    }

    /// Agrees on TLS with whoever has connected, within this time.
    pub async fn accept(&self, stream: TcpStream, within: Duration) -> io::Result<Stream> {
        match timeout(within, TlsAcceptor::from(self.0.load_full()).accept(stream)).await {
            Ok(accepted) => accepted.map(|stream| Stream::Tls(Box::new(stream))),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

/// A connection of a client.
#[derive(Debug)]
pub enum Stream {
    /// As it came.
    Plain(TcpStream),
    /// Within TLS.
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, into),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, into),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

/// Where clients come in.
#[derive(Debug)]
pub struct Listener {
    tcp: TcpListener,
    tls: Option<ServerTls>,
    /// Who connects and does not speak holds up nobody else.
    handshakes: JoinSet<(io::Result<Stream>, SocketAddr)>,
    /// The same, oldest first, some of which have ended.
    begun: VecDeque<(AbortHandle, SocketAddr)>,
    most: usize,
}

impl From<TcpListener> for Listener {
    fn from(tcp: TcpListener) -> Self {
        Self::new(tcp, None)
    }
}

impl Listener {
    /// With a certificate connections are within TLS.
    pub fn new(tcp: TcpListener, tls: Option<ServerTls>) -> Self {
        Self { tcp, tls, handshakes: JoinSet::new(), begun: VecDeque::new(), most: HANDSHAKES }
    }

    /// For who accepts connections himself.
    pub fn into_parts(self) -> (TcpListener, Option<ServerTls>) {
        (self.tcp, self.tls)
    }

    async fn next(&mut self) -> Option<(Stream, SocketAddr)> {
        tokio::select! {
            Some(ended) = self.handshakes.join_next() => match ended {
                Ok((Ok(stream), address)) => return Some((stream, address)),
                Ok((Err(error), address)) => {
                    let why = fault(&error).unwrap_or_else(|| error.to_string());
                    tracing::warn!(peer = %address, why, "a caller was refused");
                }
                // That was said when its place was taken.
                Err(error) if error.is_cancelled() => {}
                Err(error) => tracing::warn!(%error, "a caller was lost"),
            },
            accepted = self.tcp.accept() => match accepted {
                Ok((stream, address)) => {
                    prepare(&stream, STALLED);
                    let Some(tls) = self.tls.clone() else { return Some((Stream::Plain(stream), address)) };
                    self.make_room();
                    let agree = async move { (tls.accept(stream, HANDSHAKE).await, address) };
                    self.begun.push_back((self.handshakes.spawn(agree), address));
                }
                // Of one connection, or the process has no file descriptors left: both pass.
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    sleep(Duration::from_millis(100)).await;
                }
            },
        }
        None
    }

    /// Ends the oldest handshake where there are as many as there may be.
    fn make_room(&mut self) {
        if self.begun.len() < self.most {
            return;
        }
        self.begun.retain(|(handshake, _)| !handshake.is_finished());
        if self.begun.len() >= self.most
            && let Some((oldest, address)) = self.begun.pop_front()
        {
            oldest.abort();
            let why = "too many are agreeing on TLS, and it has been at it longest";
            tracing::warn!(peer = %address, why, "a caller was refused");
        }
    }
}

impl axum::serve::Listener for Listener {
    type Io = Stream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Stream, SocketAddr) {
        loop {
            if let Some(accepted) = self.next().await {
                return accepted;
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::{ClientTls, server_name};
    use axum::serve::Listener as _;
    use rcgen::{CertificateParams, KeyPair};
    use rustls::pki_types::PrivateKeyDer;
    use tokio::io::AsyncReadExt;
    use tokio_rustls::TlsConnector;

    #[tokio::test]
    async fn however_many_connect_and_say_nothing_who_speaks_gets_in() {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(["orders".to_owned()]).unwrap().self_signed(&key).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate.der().clone()).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let shown = ServerTls::new(&Identity::new(vec![certificate.der().clone()], key), None).unwrap();
        let connector = ClientTls::new(Arc::new(roots), None).unwrap().by_host().unwrap();
        let connector = TlsConnector::from(Arc::new(connector));

        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        let mut listener = Listener { most: 3, ..Listener::new(tcp, Some(shown)) };
        let mut silent = Vec::new();
        for _ in 0..7 {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let speaks = TcpStream::connect(address).await.unwrap();
        let own = speaks.local_addr().unwrap();
        let agreed = async {
            let speaking = connector.connect(server_name("orders").unwrap(), speaks);
            tokio::join!(listener.accept(), speaking)
        };
        // Far less than those who are silent are given.
        let ((stream, peer), spoken) = timeout(HANDSHAKE / 2, agreed).await.expect("nobody gets in");
        assert!(matches!(stream, Stream::Tls(_)) && peer == own);
        spoken.unwrap();
        // Their places went to those who came later.
        for (number, mut silent) in silent.into_iter().enumerate() {
            let waited = if number < 5 { HANDSHAKE / 2 } else { Duration::ZERO };
            let ended = timeout(waited, silent.read(&mut [0])).await;
            assert_eq!(ended.is_ok(), number < 5, "{number}: {ended:?}");
        }
    }
}
