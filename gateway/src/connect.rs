//! Connections to instances: plain ones, or with TLS where the address of the instance says so.

use axum::http::uri::{Authority, InvalidUri, PathAndQuery, Scheme, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use service::tls::{ClientTls, TlsError, server_name};
use std::{error::Error, time::Duration};

/// Makes them.
pub(crate) type Connector = HttpsConnector<HttpConnector>;

/// Where an instance is: `http://host:port` or `https://host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    scheme: Scheme,
    authority: Authority,
}

impl Address {
    /// Of the URL of an instance. One that speaks TLS can only be called by who knows whom to believe.
    pub(crate) fn of(url: &str, tls: bool) -> Result<Self, &'static str> {
        let uri: Uri = url.parse().map_err(|_| "its address is no URL")?;
        if uri.path() != "/" {
            return Err("its address is not of the form http://host:port or https://host:port");
        }
        let scheme = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP => Scheme::HTTP,
            Some(scheme) if *scheme == Scheme::HTTPS && tls => Scheme::HTTPS,
            Some(scheme) if *scheme == Scheme::HTTPS => {
                return Err("it speaks TLS, and nothing says whose certificates to believe: --tls-ca");
            }
            _ => return Err("its address is not of the form http://host:port or https://host:port"),
        };
        let authority = uri.authority().cloned().ok_or("its address has no host")?;
        Ok(Self { scheme, authority })
    }

    /// The host.
    pub(crate) fn host(&self) -> &str {
        self.authority.host()
    }

    /// Whether a URI leads there.
    pub(crate) fn is_of(&self, uri: &Uri) -> bool {
        uri.authority() == Some(&self.authority)
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

/// Connections within this time. `name` says which service is at a URI: the certificate has to be for its name.
pub(crate) fn connector(
    within: Option<Duration>,
    tls: Option<&ClientTls>,
    name: impl Fn(&Uri) -> Option<String> + Send + Sync + 'static,
) -> Result<Connector, TlsError> {
    let mut http = HttpConnector::new();
    http.set_connect_timeout(within);
    http.set_nodelay(true);
    // The connector around it takes the other scheme.
    http.enforce_http(false);
    let tls = match tls {
        Some(tls) => tls.by_host()?,
        None => ClientTls::believing_nobody()?,
    };
    let resolver = move |uri: &Uri| -> Result<_, Box<dyn Error + Send + Sync>> {
        let name = name(uri).ok_or("the instance is not known any more")?;
        Ok(server_name(&name)?)
    };
    Ok(HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .with_server_name_resolver(resolver)
        .enable_http1()
        .wrap_connector(http))
}
