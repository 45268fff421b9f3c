//! TLS to a collector, by the files that the variables of the specification name. They are read again when they change.

use crate::{
    config::{Faults, Settings},
    tls::{
        ClientTls, TlsError, authorities,
        files::{LOOK, Named, Watched, identity, noted},
        system_authorities,
    },
};
use rustls::ClientConfig;
use std::{convert::Infallible, path::PathBuf};
use tokio::time::{MissedTickBehavior, interval};

/// Whom to believe that he is the collector, and what to show him.
#[derive(Clone, Debug)]
pub(super) struct Secured {
    files: Files,
    tls: ClientTls,
}

/// Each with the variable that names it.
#[derive(Clone, Debug)]
struct Files {
    authority: (String, Option<PathBuf>),
    certificate: (String, Option<PathBuf>),
    key: (String, Option<PathBuf>),
}

impl Secured {
    /// For one signal, whose name is in upper case: its own files before those of all signals. None is already noted as a fault.
    pub(super) fn read(signal: &str, settings: &mut Settings) -> Option<Self> {
        let mut file = |name: &str| {
            let own = format!("OTEL_EXPORTER_OTLP_{signal}_{name}");
            if let Some(file) = settings.optional(&own) {
                return (own, Some(file));
            }
            let shared = format!("OTEL_EXPORTER_OTLP_{name}");
            let file = settings.optional(&shared);
            (shared, file)
        };
        let (authority, certificate, key) =
            (file("CERTIFICATE"), file("CLIENT_CERTIFICATE"), file("CLIENT_KEY"));
        let files = Files { authority, certificate, key };
        let tls = files.read(settings.faults())?;
        Some(Self { files, tls })
    }

    /// For connections from now on, also after the files have been read again.
    pub(super) fn config(&self) -> Result<ClientConfig, TlsError> {
        self.tls.by_host()
    }

    /// Reads the files again whenever they have changed.
    pub(super) async fn follow(self, signal: &'static str) -> Infallible {
        let files = [&self.files.authority, &self.files.certificate, &self.files.key];
        let mut watched = Watched::new(files.into_iter().filter_map(|(_, file)| file.clone()));
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            if watched.changed() {
                self.renew(signal);
            }
        }
    }

    fn renew(&self, signal: &str) {
        let mut faults = Faults::default();
        let fresh = self.files.read(&mut faults);
        match (faults.none(), fresh) {
            (Ok(()), Some(fresh)) => {
                self.tls.take(&fresh);
                tracing::info!(signal, "the certificates for the collector have been read again");
            }
            (why, _) => {
                let why = why.err().map(|why| why.to_string());
                tracing::error!(
                    signal,
                    why,
                    "the certificates for the collector do not fit together, the old ones stay"
                );
            }
        }
    }
}

impl Files {
    /// What they are good for together. None is already noted as a fault.
    fn read(&self, faults: &mut Faults) -> Option<ClientTls> {
        fn named((name, file): &(String, Option<PathBuf>)) -> Named<'_> {
            (name, file.as_ref())
        }
        let identity = identity(named(&self.certificate), named(&self.key), faults);
        let (name, file) = named(&self.authority);
        let roots = match file {
            Some(file) => noted(name, authorities(file), faults),
            None => noted(name, system_authorities(), faults),
        }?;
        faults.is_empty().then_some(())?;
        noted(&self.certificate.0, ClientTls::new(roots, identity), faults)
    }
}
