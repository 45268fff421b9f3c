//! Connections to instances: plain ones, or with TLS where the address of the instance says so.

use crate::Config;
use axum::{
    body::Body,
    http::uri::{Authority, InvalidUri, PathAndQuery, Scheme, Uri},
};
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use rustls::ClientConfig;
use service::tls::{ClientTls, TlsError, server_name};
use std::{
    error::Error,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::timeout;
use tower::Service;

/// How long an unused connection to an instance is kept.
const IDLE: Duration = Duration::from_mins(1);

type BoxError = Box<dyn Error + Send + Sync>;

/// Where an instance is: `http://host:port` or `https://host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    scheme: Scheme,
    authority: Authority,
}

/// Who is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Called {
    /// Who speaks plain HTTP: nothing says whose certificates to believe.
    Plain,
    /// Who speaks TLS.
    Tls,
    /// Whoever there is.
    Any,
}

impl Address {
    /// Of the URL of an instance.
    fn of(url: &str, called: Called) -> Result<Self, &'static str> {
        let uri: Uri = url.parse().map_err(|_| "its address is no URL")?;
        let form = "its address is not of the form http://host:port or https://host:port";
        let scheme = uri.scheme().cloned().filter(|_| uri.path() == "/").ok_or(form)?;
        if scheme == Scheme::HTTPS {
            if called == Called::Plain {
                return Err("it speaks TLS, and nothing says whose certificates to believe: --tls-ca");
            }
        } else if scheme != Scheme::HTTP {
            return Err(form);
        } else if called == Called::Tls {
            return Err("it does not speak TLS, and without nobody is called: --tls-optional");
        }
        let authority = uri.authority().cloned().ok_or("its address has no host")?;
        Ok(Self { scheme, authority })
    }

    /// The host.
    pub(crate) fn host(&self) -> &str {
        self.authority.host()
    }

    /// A path there.
    pub(crate) fn uri(&self, path: &str) -> Result<Uri, InvalidUri> {
        let mut parts = axum::http::uri::Parts::default();
        parts.scheme = Some(self.scheme.clone());
        parts.authority = Some(self.authority.clone());
        parts.path_and_query = Some(path.parse::<PathAndQuery>()?);
        // With all three there is nothing that could be wrong.
        Ok(Uri::from_parts(parts).unwrap_or_default())
    }
}

/// How instances are called: whom to believe, and within what time there has to be a connection. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Dialer {
    tls: Arc<ClientConfig>,
    called: Called,
    within: Duration,
}

impl Dialer {
    /// With TLS, those that do not speak it are called only where it is optional; without, those that do are not.
    pub fn new(config: &Config, tls: Option<&ClientTls>) -> Result<Self, TlsError> {
        let (tls, called) = match tls {
            Some(tls) => (tls.by_host()?, if tls.is_optional() { Called::Any } else { Called::Tls }),
            None => (ClientTls::believing_nobody()?, Called::Plain),
        };
        Ok(Self { tls: Arc::new(tls), called, within: config.connections.connect })
    }

    /// Where an instance with this URL is, or why it is not called.
    pub(crate) fn address(&self, url: &str) -> Result<Address, &'static str> {
        Address::of(url, self.called)
    }

    /// For calls of one service: an instance that speaks TLS shows a certificate for this name, whatever its address is.
    /// No connection is shared with another service.
    pub(crate) fn client(&self, service: &str) -> Client<Connector, Body> {
        Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .build(self.connector(service, Some(self.within)))
    }

    /// The same for calls that are bounded as a whole. A new connection for each: a kept one would not notice that nobody
    /// new gets in.
    pub(crate) fn unkept(&self, service: &str) -> Client<Connector, Body> {
        Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(self.connector(service, None))
    }

    fn connector(&self, service: &str, within: Option<Duration>) -> Connector {
        let mut http = HttpConnector::new();
        http.set_connect_timeout(within);
        http.set_nodelay(true);
        // The connector around it takes the other scheme.
        http.enforce_http(false);
        let name = server_name(service).map_err(|error| error.to_string());
        let resolver = move |_: &Uri| -> Result<_, BoxError> { Ok(name.clone()?) };
        let https = HttpsConnector::new(http, Arc::clone(&self.tls), false, Arc::new(resolver));
        Connector { https, within }
    }
}

/// Makes connections to instances of one service.
#[derive(Clone, Debug)]
pub(crate) struct Connector {
    https: HttpsConnector<HttpConnector>,
    /// From the name of the host to the end of the handshake.
    within: Option<Duration>,
}

impl Service<Uri> for Connector {
    type Response = <HttpsConnector<HttpConnector> as Service<Uri>>::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.https.poll_ready(context)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = self.https.call(uri);
        let Some(within) = self.within else { return connecting };
        Box::pin(async move {
            match timeout(within, connecting).await {
                Ok(connected) => connected,
                Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no connection in time").into()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::{Request, StatusCode};
    use rcgen::{CertificateParams, KeyPair};
    use rustls::{RootCertStore, pki_types::PrivateKeyDer};
    use service::tls::{Identity, Listener, ServerTls, fault};
    use tokio::net::TcpListener;

    /// A certificate for one name that it has signed itself: what to listen with, and who believes it.
    fn certificate(name: &str) -> (ServerTls, ClientTls) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new([name.to_owned()]).unwrap().self_signed(&key).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate.der().clone()).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let shown = ServerTls::new(&Identity::new(vec![certificate.der().clone()], key), None).unwrap();
        (shown, ClientTls::new(Arc::new(roots), None).unwrap())
    }

    fn dialer(tls: Option<&ClientTls>) -> Dialer {
        Dialer::new(&Config::standard(), tls).unwrap()
    }

    async fn ask(
        client: &Client<Connector, Body>,
        address: &Address,
    ) -> Result<StatusCode, hyper_util::client::legacy::Error> {
        let request = Request::get(address.uri("/").unwrap()).body(Body::empty()).unwrap();
        Ok(client.request(request).await?.status())
    }

    #[tokio::test]
    async fn a_certificate_is_for_the_service_that_is_asked_for_also_where_another_is_known_at_its_address() {
        let (shown, believed) = certificate("orders");
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", tcp.local_addr().unwrap());
        let router = axum::Router::new();
        tokio::spawn(async move { axum::serve(Listener::new(tcp, Some(shown)), router).await });
        let dialer = dialer(Some(&believed));
        let address = dialer.address(&url).unwrap();
        let (orders, payments) = (dialer.client("orders"), dialer.client("payments"));
        // A connection is kept, and is nobody else's.
        for _ in 0..2 {
            assert_eq!(ask(&orders, &address).await.unwrap(), 404);
            let error = ask(&payments, &address).await.unwrap_err();
            assert!(error.is_connect(), "{error:?}");
            assert_eq!(fault(&error).unwrap(), "its certificate is for another name");
        }
        assert!(ask(&dialer.unkept("payments"), &address).await.is_err());
        assert!(ask(&dialer.client("no name"), &address).await.unwrap_err().is_connect());
    }

    #[tokio::test]
    async fn who_does_not_agree_on_tls_in_time_counts_as_not_reached() {
        let (_, believed) = certificate("orders");
        // It connects, for the system accepts, and hears nothing.
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", silent.local_addr().unwrap());
        let dialer = Dialer { within: Duration::from_millis(50), ..dialer(Some(&believed)) };
        let address = dialer.address(&url).unwrap();
        let client = dialer.client("orders");
        let asked = timeout(Duration::from_secs(20), ask(&client, &address)).await;
        let error = asked.expect("it waits for ever").unwrap_err();
        assert!(error.is_connect(), "{error:?}");
    }

    #[test]
    fn who_says_whom_to_believe_calls_nobody_plainly_unless_that_is_said_too() {
        let (_, tls) = certificate("orders");
        let optional = tls.clone().optional(true);
        for (tls, plain, secure) in
            [(None, true, false), (Some(&tls), false, true), (Some(&optional), true, true)]
        {
            let dialer = dialer(tls);
            assert_eq!(dialer.address("http://10.0.0.7:3002").is_ok(), plain, "{tls:?}");
            assert_eq!(dialer.address("https://10.0.0.7:3002").is_ok(), secure, "{tls:?}");
            for url in ["10.0.0.7:3002", "ftp://10.0.0.7", "https://10.0.0.7/path", "/", "http://"] {
                assert!(dialer.address(url).is_err(), "{url}");
            }
        }
    }
}
