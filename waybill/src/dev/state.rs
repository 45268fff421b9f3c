//! `dev.json`: how other commands, and other programs, find a running `dev`.

use super::lock::Lock;
use crate::failure::{Failure, because};
use nats::{Durability, NatsUrl};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fs, io, path::Path};

const NAME: &str = "dev.json";

/// What `dev.json` says. It exists as long as everything in it can be reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DevFile {
    /// Where NATS is.
    pub(crate) nats_url: String,
    /// Where clients come in.
    pub(crate) gateway: String,
    /// Where the services are, by name.
    pub(crate) services: BTreeMap<String, String>,
    /// The process of `dev`.
    pub(crate) pid: u32,
    /// `always` or `interval`.
    pub(crate) durability: String,
}

impl DevFile {
    pub(super) fn new(
        nats_url: String,
        gateway: String,
        services: BTreeMap<String, String>,
        durability: Durability,
    ) -> Self {
        Self { nats_url, gateway, services, pid: std::process::id(), durability: durability.to_string() }
    }

    /// Writes it at once: a reader sees all of it or nothing.
    pub(super) fn write(&self, dir: &Path) -> Result<(), Failure> {
        write_json(&dir.join(NAME), self)
    }

    pub(super) fn remove(dir: &Path) {
        // It is not there where the start has failed; whoever reads a stale one sees that nobody holds the folder.
        let _ = fs::remove_file(dir.join(NAME));
    }

    /// The running `dev` of a data folder, if there is one.
    pub(crate) fn find(dir: &Path) -> Result<Option<Self>, Failure> {
        if !Lock::is_held(dir) {
            return Ok(None);
        }
        let text =
            fs::read(dir.join(NAME)).map_err(because("waybill dev is still starting, or is stopping"))?;
        serde_json::from_slice(&text).map(Some).map_err(because(format!("cannot read {NAME}")))
    }
}

/// Where NATS is: as given, else that of the running `dev`.
pub(crate) fn find_nats(given: Option<NatsUrl>, dir: &Path) -> Result<NatsUrl, Failure> {
    if let Some(url) = given {
        return Ok(url);
    }
    let running = DevFile::find(dir)?.ok_or_else(|| {
        let dir = dir.display();
        format!("no waybill dev is running on {dir}: start one, name its folder with --data, or NATS with --nats-url")
    })?;
    Ok(running.nats_url.into())
}

/// Writes a file as a whole.
pub(super) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), Failure> {
    let draft = path.with_extension("json.new");
    let written = serde_json::to_vec_pretty(value)
        .map_err(io::Error::from)
        .and_then(|text| fs::write(&draft, text))
        .and_then(|()| fs::rename(&draft, path));
    written.map_err(because(format!("cannot write {}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_found_only_while_somebody_runs() {
        let dir = tempfile::tempdir().unwrap();
        let services = BTreeMap::from([("orders".to_owned(), "http://127.0.0.1:3002".to_owned())]);
        let file = DevFile::new(
            "nats://127.0.0.1:4222".to_owned(),
            "http://127.0.0.1:8080".to_owned(),
            services,
            Durability::Always,
        );
        file.write(dir.path()).unwrap();
        assert_eq!(DevFile::find(dir.path()).unwrap(), None, "a stale file");
        assert!(find_nats(None, dir.path()).unwrap_err().to_string().contains("no waybill dev is running"));
        let _lock = Lock::take(dir.path()).unwrap();
        assert_eq!(DevFile::find(dir.path()).unwrap(), Some(file));
        assert_eq!(find_nats(None, dir.path()).unwrap(), NatsUrl::from("nats://127.0.0.1:4222"));
        assert_eq!(find_nats(Some("nats://x".into()), dir.path()).unwrap(), NatsUrl::from("nats://x"));
        DevFile::remove(dir.path());
        assert!(DevFile::find(dir.path()).unwrap_err().to_string().contains("still starting"));
    }
}
