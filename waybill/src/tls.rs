//! Certificates between gateway and services, and in front of the gateway, by flags, variables and files.

mod renewal;

pub(crate) use renewal::Renewal;

use crate::failure::Failure;
use service::{
    config::Faults,
    tls::{
        self, ClientTls, Identity, ServerTls, Tls,
        files::{self, Named, noted},
    },
};
use std::{path::PathBuf, sync::Arc};

/// Flags that say how services are called with TLS, before or after the verb where a command has verbs.
#[derive(Clone, Debug, Default, clap::Args)]
#[expect(clippy::struct_field_names, reason = "what they are about begins their names")]
#[command(next_help_heading = "TLS between gateway and services")]
pub(crate) struct CallerArgs {
    /// Certificate of who signs those of services, in PEM: others are not called [default: services are called with plain HTTP]
    #[arg(long, global = true, value_name = "FILE", env = "WAYBILL_TLS_CA")]
    tls_ca: Option<PathBuf>,
    /// Certificate of this process, in PEM: it shows it to services that it calls, and services that it runs listen with it
    #[arg(long, global = true, value_name = "FILE", env = "WAYBILL_TLS_CERT")]
    tls_cert: Option<PathBuf>,
    /// Key of this certificate, in PEM
    #[arg(long, global = true, value_name = "FILE", env = "WAYBILL_TLS_KEY")]
    tls_key: Option<PathBuf>,
}

/// The same for a process that runs services, a gateway, or both.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct TlsArgs {
    #[command(flatten)]
    caller: CallerArgs,
    /// With --tls-ca: instances that speak plain HTTP are called too, while an installation is changed service by service
    #[arg(long, value_name = "BOOL", env = "WAYBILL_TLS_OPTIONAL", default_value = "false")]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    tls_optional: String,
    /// Certificate of who signs those of callers, in PEM: services answer nobody who shows none [default: anybody may call]
    #[arg(long, value_name = "FILE", env = "WAYBILL_TLS_CLIENT_CA")]
    tls_client_ca: Option<PathBuf>,
    /// Certificate that the gateway shows to its clients, in PEM [default: they speak plain HTTP]
    #[arg(long, value_name = "FILE", env = "WAYBILL_GATEWAY_CERT")]
    gateway_cert: Option<PathBuf>,
    /// Key of the gateway's certificate, in PEM
    #[arg(long, value_name = "FILE", env = "WAYBILL_GATEWAY_KEY")]
    gateway_key: Option<PathBuf>,
    /// Certificate of who signs those of the gateway's clients, in PEM: others are not answered [default: anybody is]
    #[arg(long, value_name = "FILE", env = "WAYBILL_GATEWAY_CLIENT_CA")]
    gateway_client_ca: Option<PathBuf>,
}

impl CallerArgs {
    /// Whether this process has a certificate to listen with.
    pub(crate) fn listens(&self) -> bool {
        self.tls_cert.is_some()
    }

    /// What services are called with, if anything is said. What is wrong is noted as faults.
    pub(crate) fn read(&self, faults: &mut Faults) -> Option<ClientTls> {
        let identity = self.identity(faults);
        self.client(identity, faults)
    }

    /// The same, for a command that has nothing else to read.
    pub(crate) fn client_alone(&self) -> Result<Option<ClientTls>, Failure> {
        let mut faults = Faults::default();
        let tls = self.read(&mut faults);
        faults.none()?;
        Ok(tls)
    }

    fn identity(&self, faults: &mut Faults) -> Option<Arc<Identity>> {
        files::identity(("--tls-cert", self.tls_cert.as_ref()), ("--tls-key", self.tls_key.as_ref()), faults)
    }

    fn client(&self, identity: Option<Arc<Identity>>, faults: &mut Faults) -> Option<ClientTls> {
        let Some(file) = &self.tls_ca else {
            if self.tls_cert.is_some() {
                faults.add("--tls-ca", "is missing: without it nobody who is called is believed");
            }
            return None;
        };
        let roots = noted("--tls-ca", tls::authorities(file), faults)?;
        noted("--tls-cert", ClientTls::new(roots, identity), faults)
    }
}

impl TlsArgs {
    /// What the services and what the gateway of this process listen and call with, where it runs them.
    pub(crate) fn read(&self, services: bool, gateway: bool, faults: &mut Faults) -> (Tls, Tls) {
        let identity = self.caller.identity(faults);
        let optional = self.optional(faults);
        let call = self.caller.client(identity.clone(), faults).map(|call| call.optional(optional));
        let (mut inside, mut edge) = (Tls { listen: None, call }, Tls::default());
        edge.call.clone_from(&inside.call);
        if services {
            let callers = ("--tls-client-ca", self.tls_client_ca.as_ref());
            inside.listen = listen("--tls-cert", self.caller.tls_cert.is_some(), identity, callers, faults);
        }
        if gateway {
            let (name, file) = ("--gateway-cert", self.gateway_cert.as_ref());
            let shown = files::identity((name, file), ("--gateway-key", self.gateway_key.as_ref()), faults);
            let clients = ("--gateway-client-ca", self.gateway_client_ca.as_ref());
            edge.listen = listen(name, file.is_some(), shown, clients, faults);
        }
        (inside, edge)
    }

    fn optional(&self, faults: &mut Faults) -> bool {
        match &*self.tls_optional {
            "true" => {
                if self.caller.tls_ca.is_none() {
                    let why = "is of no use without --tls-ca: everybody is called with plain HTTP";
                    faults.add("--tls-optional", why);
                }
                true
            }
            // A variable may be there and empty.
            "false" | "" => false,
            _ => {
                faults.add("--tls-optional", "expected true or false");
                false
            }
        }
    }
}

/// What connections are accepted with; who may call is of no use without a certificate of one's own.
fn listen(
    name: &str,
    given: bool,
    identity: Option<Arc<Identity>>,
    (of, callers): Named<'_>,
    faults: &mut Faults,
) -> Option<ServerTls> {
    if callers.is_some() && !given {
        faults.add(
            name,
            format!("is missing: {of} asks callers for certificates, and they will ask for one too"),
        );
    }
    let roots = callers.map(|file| noted(of, tls::authorities(file), faults));
    let identity = identity?;
    match roots {
        Some(None) => None,
        roots => noted(name, ServerTls::new(&identity, roots.flatten()), faults),
    }
}

/// A client of services, with TLS of this kind where any is said.
pub(crate) fn client(
    builder: reqwest::ClientBuilder,
    tls: Option<&ClientTls>,
) -> Result<reqwest::Client, Failure> {
    let builder = builder.no_proxy();
    Ok(match tls {
        Some(tls) => builder.tls_backend_preconfigured(tls.by_host()?),
        None => builder,
    }
    .build()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dev_certs;
    use clap::Parser;
    use std::{fs, path::Path};

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: TlsArgs,
    }

    #[derive(Parser)]
    struct Made {
        #[command(flatten)]
        args: dev_certs::Args,
    }

    fn certificates(folder: &Path) {
        let line = ["dev-certs", "--out", folder.to_str().unwrap()];
        dev_certs::run(&Made::parse_from(line).args).unwrap();
    }

    fn read(line: &str) -> Result<(Tls, Tls), String> {
        let args = Line::parse_from(["serve"].into_iter().chain(line.split_whitespace())).args;
        let mut faults = Faults::default();
        let read = args.read(true, true, &mut faults);
        faults.none().map(|()| read).map_err(|faults| faults.to_string())
    }

    #[test]
    fn services_and_the_gateway_listen_with_what_they_are_given() {
        let dir = tempfile::tempdir().unwrap();
        let tls = dir.path().join("tls");
        certificates(&tls);
        let at = tls.display();
        let (inside, edge) = read("").unwrap();
        assert!([&inside, &edge].iter().all(|tls| tls.listen.is_none() && tls.call.is_none()));
        let line = format!("--tls-ca {at}/ca.pem --tls-cert {at}/orders.pem --tls-key {at}/orders.key");
        let (inside, edge) = read(&line).unwrap();
        assert!(inside.listen.is_some() && inside.call.is_some());
        assert!(
            edge.listen.is_none() && edge.call.is_some(),
            "its clients speak plain HTTP unless it is said"
        );
        let more = format!(
            "{line} --tls-client-ca {at}/ca.pem --gateway-cert {at}/gateway.pem --gateway-key {at}/gateway.key"
        );
        assert!(read(&more).unwrap().1.listen.is_some());
        let call = |optional: &str| {
            let (inside, edge) = read(&format!("--tls-ca {at}/ca.pem{optional}")).unwrap();
            [inside, edge].map(|tls| tls.call.unwrap().is_optional())
        };
        assert_eq!([call(""), call(" --tls-optional=false")], [[false; 2]; 2]);
        assert_eq!([call(" --tls-optional"), call(" --tls-optional=true")], [[true; 2]; 2]);
        let alone = read("--tls-optional").unwrap_err();
        assert!(alone.contains("--tls-optional: is of no use without --tls-ca"), "{alone}");
        read("--tls-optional=false").unwrap();
        let wrong = read("--tls-optional=perhaps").unwrap_err();
        assert!(wrong.contains("--tls-optional: expected true or false"), "{wrong}");
    }

    #[test]
    fn every_fault_is_named_at_once_and_no_key_is_shown() {
        let dir = tempfile::tempdir().unwrap();
        let tls = dir.path().join("tls");
        certificates(&tls);
        let at = tls.display();
        fs::write(tls.join("empty.pem"), "nothing\n").unwrap();
        let faults = read(&format!(
            "--tls-ca {at}/empty.pem --tls-cert /no/such/cert.pem --tls-key {at}/ca.pem --tls-client-ca {at}/none.pem \
             --gateway-key {at}/gateway.key --gateway-client-ca {at}/empty.pem"
        ))
        .unwrap_err();
        for flag in [
            "--tls-ca",
            "--tls-cert",
            "--tls-key",
            "--tls-client-ca",
            "--gateway-cert",
            "--gateway-client-ca",
        ] {
            assert!(faults.contains(&format!("{flag}:")), "{flag} is missing in {faults}");
        }
        let mixed = format!("--tls-ca {at}/ca.pem --tls-cert {at}/orders.pem --tls-key {at}/users.key");
        let faults = read(&mixed).unwrap_err();
        assert!(faults.contains("--tls-cert: the key is not that of the certificate"), "{faults}");
        let alone = read(&format!("--tls-cert {at}/orders.pem --tls-key {at}/orders.key")).unwrap_err();
        assert!(alone.contains("--tls-ca: is missing"), "{alone}");
        let open = read(&format!("--tls-ca {at}/ca.pem --tls-client-ca {at}/ca.pem")).unwrap_err();
        assert!(open.contains("--tls-cert: is missing"), "{open}");
    }
}
