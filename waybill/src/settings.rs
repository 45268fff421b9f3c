//! Flags as settings: read together, so that everything that is wrong with them is said at once.

use crate::{edge::GATEWAY, failure::Failure, system::Service};
use commands::{notifications::EMAIL, reactions};
use events::Context;
use nats::{MasterKey, MasterKeyError, Policies};
use projections::Rebuilds;
use service::config::{Faults, Settings};
use std::{
    collections::HashMap,
    env, fs,
    path::{Path, PathBuf},
    str::FromStr,
};

/// A flag as the user writes it, and what it was given.
pub(crate) type Flag = (&'static str, Option<String>);

/// Settings out of flags; clap has already looked into the environment where a flag is missing.
pub(crate) fn flags(flags: impl IntoIterator<Item = Flag>) -> Settings {
    let flags: HashMap<_, _> = flags.into_iter().collect();
    Settings::from_fn(move |key| flags.get(key).cloned().flatten().map(Into::into))
}

/// The folder of the read models: without a NATS of its own it is a dev's data folder, which has others beside them.
pub(crate) fn views(nats_url: Option<&str>, data: &Path) -> PathBuf {
    match nats_url {
        Some(_) => data.to_owned(),
        None => data.join("views"),
    }
}

/// One fault with one setting, for `map_err`.
pub(crate) fn fault<E: std::fmt::Display>(key: &'static str) -> impl FnOnce(E) -> Failure {
    move |error| {
        let mut faults = Faults::default();
        faults.add(key, error);
        faults.into()
    }
}

/// How many read models are built at the same time.
pub(crate) fn rebuilds(flags: &mut Settings) -> Rebuilds {
    let Some(count) = flags.optional("--rebuilds") else { return Rebuilds::default() };
    if !(1..=64).contains(&count) {
        flags.faults().add("--rebuilds", "expected 1 to 64");
    }
    Rebuilds::at_most(count)
}

/// What consumers do about messages that they cannot handle. A name that none of them has would change nothing, in silence.
pub(crate) fn policies(flags: &mut Settings) -> Policies {
    let policies: Policies = flags.optional("--on-failure").unwrap_or_default();
    for name in policies.names().filter(|name| !is_consumer(name)) {
        flags.faults().add("--on-failure", format!("no consumer is called {name}"));
    }
    policies
}

/// Whether a consumer is called that, whichever process it is in. Only notifications know which endpoints there are.
fn is_consumer(name: &str) -> bool {
    let told = name.strip_prefix("notifications-").and_then(|rest| rest.rsplit_once('-'));
    let told = told.map(|(channel, _)| channel).filter(|it| *it == EMAIL || it.starts_with("webhook-"));
    let channels: Vec<_> = told.map(str::to_owned).into_iter().collect();
    let mut reacting = Context::ALL.into_iter().flat_map(|service| reactions::durables(service, &channels));
    let projects = Service::ALL.into_iter().any(|service| name == format!("{service}-projection"));
    projects || reacting.any(|durable| durable.name == name)
}

/// The variable that holds the master key. There is no such flag, for every user of the machine would see it.
const MASTER_KEY: &str = "WAYBILL_MASTER_KEY";

/// Where the master key is.
#[derive(Debug, clap::Args)]
pub(crate) struct MasterKeyArgs {
    /// File with the master key of personal data, 32 bytes in base64; or the key itself in the variable
    /// `WAYBILL_MASTER_KEY`
    #[arg(long, global = true, value_name = "FILE", env = "WAYBILL_MASTER_KEY_FILE")]
    master_key_file: Option<PathBuf>,
}

impl MasterKeyArgs {
    /// Whether a key is given.
    pub(crate) fn is_given(&self) -> bool {
        self.master_key_file.is_some() || env::var_os(MASTER_KEY).is_some()
    }

    /// The file that is named.
    pub(crate) fn file(&self) -> Option<&Path> {
        self.master_key_file.as_deref()
    }

    /// The key that is given; None is already noted as a fault.
    pub(crate) fn read(&self, faults: &mut Faults) -> Option<MasterKey> {
        let (name, text) = match &self.master_key_file {
            Some(file) => ("--master-key-file", fs::read_to_string(file).map_err(|error| error.to_string())),
            None => (MASTER_KEY, env::var(MASTER_KEY).map_err(|_| "is missing".to_owned())),
        };
        let key = text.and_then(|text| text.parse().map_err(|error: MasterKeyError| error.to_string()));
        key.map_err(|why| faults.add(name, why)).ok()
    }
}

/// `orders=4002,payments=4003`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Ports(Vec<(String, u16)>);

impl Ports {
    /// The port asked for, if any.
    pub(crate) fn of(&self, name: &str) -> Option<u16> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, port)| *port)
    }

    /// A free port for everything.
    pub(crate) fn free() -> Self {
        let names = Service::ALL.map(Service::name).into_iter().chain([GATEWAY]);
        Self(names.map(|name| (name.to_owned(), 0)).collect())
    }
}

impl FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let one = |pair: &str| {
            let (name, port) = pair.trim().split_once('=').ok_or("expected NAME=PORT,..")?;
            let known = [NATS, GATEWAY].contains(&name) || name.parse::<Service>().is_ok();
            known.then_some(()).ok_or_else(|| format!("there is no service {name}"))?;
            let port =
                port.parse().map_err(|_| format!("{name} needs a port number, or 0 for a free one"))?;
            Ok((name.to_owned(), port))
        };
        text.split(',').map(one).collect::<Result<_, String>>().map(Self)
    }
}

/// The name of the port of nats-server.
pub(crate) const NATS: &str = "nats";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_named() {
        let ports: Ports = "orders=1, nats=0".parse().unwrap();
        assert_eq!((ports.of("orders"), ports.of(NATS), ports.of("payments")), (Some(1), Some(0), None));
        for bad in ["orders", "orders=", "orders=x", "carts=1", "orders=70000", ""] {
            assert!(bad.parse::<Ports>().is_err(), "{bad}");
        }
    }
}
