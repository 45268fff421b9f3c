//! TLS between services, and in front of the gateway: certificates out of files, connections that are accepted, and what
//! calls are made with.
//!
//! A service is known by its name, wherever it runs: the certificate of `orders` is for the name `orders`. So whoever has the
//! key of another service cannot answer in its place, and instances come and go without new certificates.

pub mod files;
mod listener;

pub use listener::{Listener, ServerTls, Stream};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        ResolvesClientCert, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{
        CertificateDer, PrivateKeyDer, ServerName, UnixTime,
        pem::{self, PemObject},
    },
    sign::CertifiedKey,
};
use std::{
    error::Error,
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// The protocol inside; HTTP/2 is not spoken.
const HTTP: &[u8] = b"http/1.1";

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{}: {error}", file.display())]
    Read {
        /// Which.
        file: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// There is no such thing in the file.
    #[error("{}: {why}", file.display())]
    Content {
        /// Which.
        file: PathBuf,
        /// What is missing.
        why: String,
    },
    /// What was read does not fit together.
    #[error("{0}")]
    Unfit(String),
}

/// What a process listens with, and what it calls others with.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// Connections are accepted with it; plain ones without.
    pub listen: Option<ServerTls>,
    /// Others are called with it where they speak TLS.
    pub call: Option<ClientTls>,
}

impl Tls {
    /// Listens and calls with the certificates of another one from the next connection on, as do all clones of this one.
    /// Those that are open stay as they are.
    pub fn take(&self, fresh: &Self) {
        if let (Some(listen), Some(fresh)) = (&self.listen, &fresh.listen) {
            listen.take(fresh);
        }
        if let (Some(call), Some(fresh)) = (&self.call, &fresh.call) {
            call.take(fresh);
        }
    }
}

/// A certificate, with those that lead to who signed it, and its key.
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    /// Puts both together; whether they fit is seen when they are used.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Self {
        Self { chain, key }
    }

    fn parts(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        (self.chain.clone(), self.key.clone_key())
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity")
    }
}

/// The certificates in a file, at least one.
pub fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found = CertificateDer::pem_file_iter(file).map_err(|error| unread(file, error))?;
    let found = found.collect::<Result<Vec<_>, _>>().map_err(|error| unread(file, error))?;
    if found.is_empty() {
        return Err(TlsError::Content { file: file.to_owned(), why: "no certificate in PEM".to_owned() });
    }
    Ok(found)
}

/// The private key in a file.
pub fn key(file: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(file).map_err(|error| match error {
        pem::Error::NoItemsFound => {
            TlsError::Content { file: file.to_owned(), why: "no private key in PEM".to_owned() }
        }
        error => unread(file, error),
    })
}

/// Those who are believed when they have signed a certificate.
pub fn authorities(file: &Path) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        roots
            .add(certificate)
            .map_err(|error| TlsError::Content { file: file.to_owned(), why: error.to_string() })?;
    }
    Ok(Arc::new(roots))
}

/// Those who are believed by this machine.
pub fn system_authorities() -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    let (believed, _) = roots.add_parsable_certificates(found.certs);
    if believed == 0 {
        let why = "this machine believes nobody (package ca-certificates): name the certificate of who signs";
        return Err(TlsError::Unfit(why.to_owned()));
    }
    Ok(Arc::new(roots))
}

/// When a certificate ends: the first that there is against any, at the end of time.
pub fn ends(certificate: &CertificateDer<'_>) -> Option<Timestamp> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone().into_owned()).ok()?;
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build().ok()?;
    let at_the_end = UnixTime::since_unix_epoch(Duration::MAX);
    match verifier.verify_server_cert(certificate, &[], &server_name("localhost").ok()?, &[], at_the_end) {
        Err(rustls::Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) => {
            let seconds = i64::try_from(not_after.as_secs()).ok();
            // It is said to go on for ever.
            Some(seconds.and_then(|at| Timestamp::from_second(at).ok()).unwrap_or(Timestamp::MAX))
        }
        _ => None,
    }
}

fn unread(file: &Path, error: pem::Error) -> TlsError {
    let file = file.to_owned();
    match error {
        pem::Error::Io(error) => TlsError::Read { file, error },
        error => TlsError::Content { file, why: error.to_string() },
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn unfit(error: impl fmt::Display) -> TlsError {
    TlsError::Unfit(error.to_string())
}

/// What others are called with: who is believed, and the certificate to show. Clones share both.
#[derive(Clone, Debug)]
pub struct ClientTls {
    current: Arc<Current>,
    optional: bool,
}

/// Exchanged while connections are made.
struct Current {
    believed: ArcSwap<WebPkiServerVerifier>,
    shown: Option<ArcSwap<CertifiedKey>>,
}

impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Current")
    }
}

impl ClientTls {
    /// Believes certificates that one of these has signed. Says at once where the identity is none.
    pub fn new(roots: Arc<RootCertStore>, identity: Option<Arc<Identity>>) -> Result<Self, TlsError> {
        let believed =
            WebPkiServerVerifier::builder_with_provider(roots, provider()).build().map_err(unfit)?;
        let certified = |identity: Arc<Identity>| {
            let (chain, key) = identity.parts();
            CertifiedKey::from_der(chain, key, &provider()).map_err(|error| unfit(in_words(&error)))
        };
        let shown = identity.map(certified).transpose()?.map(ArcSwap::from_pointee);
        Ok(Self { current: Arc::new(Current { believed: ArcSwap::from(believed), shown }), optional: false })
    }

    /// Calls with what another one calls with, from the next connection on, as do all clones of this one.
    pub(crate) fn take(&self, fresh: &Self) {
        self.current.believed.store(fresh.current.believed.load_full());
        if let (Some(shown), Some(fresh)) = (&self.current.shown, &fresh.current.shown) {
            shown.store(fresh.load_full());
        }
    }

    /// Whether instances that do not speak TLS are called all the same: for the time in which an installation is changed
    /// service by service.
    #[must_use]
    pub fn optional(self, optional: bool) -> Self {
        Self { optional, ..self }
    }

    /// Whether an instance at this URL is called.
    pub fn may_call(&self, url: &str) -> bool {
        let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
        self.optional || scheme.eq_ignore_ascii_case("https")
    }

    /// Whether who does not speak TLS is called plainly.
    pub fn is_optional(&self) -> bool {
        self.optional
    }

    /// For calls of a URL: its host has to be in the certificate.
    pub fn by_host(&self) -> Result<ClientConfig, TlsError> {
        self.config(None)
    }

    /// For calls of the service of this name, wherever it is.
    pub fn by_name(&self, name: &str) -> Result<ClientConfig, TlsError> {
        self.config(Some(server_name(name)?))
    }

    fn config(&self, name: Option<ServerName<'static>>) -> Result<ClientConfig, TlsError> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(unfit)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Believed {
                current: Arc::clone(&self.current),
                name,
            }));
        if self.current.shown.is_none() {
            return Ok(builder.with_no_client_auth());
        }
        let current: Arc<dyn ResolvesClientCert> = Arc::<Current>::clone(&self.current);
        Ok(builder.with_client_cert_resolver(current))
    }

    /// For who calls nobody with TLS, and has to have one all the same: no certificate is accepted.
    pub fn believing_nobody() -> Result<ClientConfig, TlsError> {
        let builder = ClientConfig::builder_with_provider(provider());
        let builder = builder.with_safe_default_protocol_versions().map_err(unfit)?;
        Ok(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
    }
}

/// The name of a service as certificates have it.
pub fn server_name(name: &str) -> Result<ServerName<'static>, TlsError> {
    ServerName::try_from(name.to_owned()).map_err(unfit)
}

/// Shows the certificate that is there when a connection is made.
impl ResolvesClientCert for Current {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.shown.as_ref().map(ArcSwap::load_full)
    }

    fn has_certs(&self) -> bool {
        self.shown.is_some()
    }
}

/// Checks certificates by who is believed when a connection is made; with a name, that they are for this one, whatever address
/// was called.
#[derive(Debug)]
struct Believed {
    current: Arc<Current>,
    name: Option<ServerName<'static>>,
}

impl ServerCertVerifier for Believed {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        called: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let (believed, name) = (self.current.believed.load(), self.name.as_ref().unwrap_or(called));
        believed.verify_server_cert(end_entity, intermediates, name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.current.believed.load().verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.current.believed.load().verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.current.believed.load().supported_verify_schemes()
    }
}

/// What TLS has against a connection, in words, where it is TLS that failed.
pub fn fault(error: &(dyn Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<rustls::Error>() {
            return Some(in_words(found));
        }
        // What an I/O error was made of is not its source.
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

fn in_words(error: &rustls::Error) -> String {
    use rustls::Error as E;
    match error {
        // The latter is another authority of the same name.
        E::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            "its certificate is signed by somebody who is not believed".to_owned()
        }
        E::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            "its certificate has expired".to_owned()
        }
        E::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "its certificate is for another name".to_owned(),
        E::NoCertificatesPresented => "it shows no certificate".to_owned(),
        E::AlertReceived(AlertDescription::CertificateRequired) => {
            "it asks for a certificate, and none was shown".to_owned()
        }
        E::AlertReceived(
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateExpired
            | AlertDescription::DecryptError,
        ) => "it does not accept the certificate that was shown".to_owned(),
        E::InconsistentKeys(_) => "the key is not that of the certificate".to_owned(),
        E::InvalidMessage(_) => "it does not speak TLS".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, date_time_ymd};

    #[test]
    fn a_certificate_says_when_it_ends() {
        let key = KeyPair::generate().unwrap();
        let ends = |year: i32, is_ca: bool| {
            let mut params = CertificateParams::new(["orders".to_owned()]).unwrap();
            params.not_before = date_time_ymd(1999, 1, 1);
            params.not_after = date_time_ymd(year, 5, 17);
            if is_ca {
                params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            }
            super::ends(params.self_signed(&key).unwrap().der())
        };
        for is_ca in [false, true] {
            for year in [2000, 2030, 2049, 2050, 9000] {
                assert_eq!(ends(year, is_ca).unwrap().to_string(), format!("{year}-05-17T00:00:00Z"));
            }
        }
        assert_eq!(super::ends(&CertificateDer::from(&b"none"[..])), None);
    }
}
