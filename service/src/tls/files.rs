//! Certificates in files that settings name: what is wrong is a fault of the setting, and files that change are noticed.

use super::{Identity, TlsError, certificates, key};
use crate::config::Faults;
use std::{fs, path::PathBuf, sync::Arc, time::Duration};

/// How often files of certificates are looked at, as the gateway looks at its configuration.
pub const LOOK: Duration = Duration::from_secs(2);

/// A setting that names a file, and the file.
pub type Named<'a> = (&'a str, Option<&'a PathBuf>);

/// What was read for a setting; what is wrong is noted as its fault.
pub fn noted<T>(name: &str, result: Result<T, TlsError>, faults: &mut Faults) -> Option<T> {
    result.map_err(|error| faults.add(name, error)).ok()
}

/// A certificate and its key, where they are given. One without the other is a fault.
pub fn identity(certificate: Named<'_>, key: Named<'_>, faults: &mut Faults) -> Option<Arc<Identity>> {
    match (certificate, key) {
        ((_, None), (_, None)) => None,
        ((_, Some(_)), (name, None)) => {
            faults.add(name, "is missing: a certificate needs its key");
            None
        }
        ((name, None), (_, Some(_))) => {
            faults.add(name, "is missing: a key needs its certificate");
            None
        }
        ((of, Some(certificate)), (name, Some(file))) => {
            let chain = noted(of, certificates(certificate), faults);
            let key = noted(name, self::key(file), faults);
            chain.zip(key).map(|(chain, key)| Arc::new(Identity::new(chain, key)))
        }
    }
}

/// Files that are looked at again and again. Their content is compared and not their time: so it does not matter how they are
/// replaced. Not to be shown: keys are among them.
pub struct Watched {
    files: Vec<PathBuf>,
    known: Vec<Option<Vec<u8>>>,
}

impl Watched {
    /// Knows what is in them now.
    pub fn new(files: impl IntoIterator<Item = PathBuf>) -> Self {
        let mut watched = Self { files: files.into_iter().collect(), known: Vec::new() };
        watched.known = watched.contents();
        watched
    }

    /// Whether there is something else in them than when they were last looked at.
    pub fn changed(&mut self) -> bool {
        let now = self.contents();
        let changed = now != self.known;
        self.known = now;
        changed
    }

    fn contents(&self) -> Vec<Option<Vec<u8>>> {
        self.files.iter().map(|file| fs::read(file).ok()).collect()
    }
}
