//! `waybill dev-certs`: a certificate authority and certificates for development, for TLS that both sides show one in.

use crate::{
    failure::{Failure, because},
    nats_config::kept,
    rights, settings,
};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, date_time_ymd,
};
use service::Clock;
use std::{
    fs,
    path::{Path, PathBuf},
};

pub(crate) const EXAMPLES: &str = "\
Examples:
  waybill dev-certs --out secrets/tls
  waybill dev-certs --out secrets/tls --hosts nats.example.com,10.0.0.7
  waybill nats-config --out secrets/nats --certificates secrets/tls
  waybill serve orders --nats-nkey-file secrets/nats/seeds/orders.nk --nats-ca secrets/tls/ca.pem --nats-cert secrets/tls/orders.pem --nats-key secrets/tls/orders.key
  waybill serve orders --nats-url nats://nats:4222 --tls-ca secrets/tls/ca.pem --tls-client-ca secrets/tls/ca.pem \\
      --tls-cert secrets/tls/orders.pem --tls-key secrets/tls/orders.key";

/// This machine, for who calls a service that runs on it.
const LOCAL: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
/// The certificate of a process with several services.
const ALL: &str = "all";

/// Names of servers in compose and Kubernetes, and of this machine.
const HERE: [&str; 8] =
    ["localhost", "127.0.0.1", "::1", "nats", "nats-1", "nats-2", "nats-3", "*.nats-headless"];

/// Flags of `waybill dev-certs`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Folder for the certificates and their keys; one that has some is left as it is
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// More names and addresses of servers
    #[arg(long, value_name = "HOST,..")]
    hosts: Option<String>,
}

/// Makes them, and says what they are for.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let out = &args.out;
    if out.join("ca.pem").exists() {
        println!("{} has certificates; they are left as they are", out.display());
        return Ok(());
    }
    let mut flags = settings::flags([]);
    let more = args.hosts.as_deref().unwrap_or_default();
    let more: Vec<_> = more.split(',').map(str::trim).filter(|host| !host.is_empty()).collect();
    let plain = |host: &&&str| !host.chars().all(|c| c.is_ascii_alphanumeric() || ".-*:".contains(c));
    if let Some(strange) = more.iter().find(plain) {
        flags.faults().add("--hosts", format!("{strange} is no name of a host"));
    }
    flags.finish(Some(()))?;
    fs::create_dir_all(out).map_err(because(format!("cannot make {}", out.display())))?;
    let year = i32::from(Clock::system().now().to_zoned(jiff::tz::TimeZone::UTC).year());
    let authority = authority(year)?;
    let databases = rights::roles().map(|role| format!("{role}-db")).collect::<Vec<_>>();
    let node = HERE.into_iter().chain(more.iter().copied()).map(str::to_owned).collect::<Vec<_>>();
    let local = LOCAL.into_iter().chain(more.iter().copied()).map(str::to_owned).collect::<Vec<_>>();
    let postgres = node.iter().cloned().chain(databases).collect();
    leaf(out, "node", node, year, &authority)?;
    leaf(out, "postgres", postgres, year, &authority)?;
    let watching = ["collector", "jaeger"].into_iter().map(str::to_owned).chain(local.clone()).collect();
    leaf(out, "collector", watching, year, &authority)?;
    // A service is known by its name, wherever it is; the others are for who looks at it, and for clients of the gateway.
    let named = |role: &str| [role.to_owned(), format!("{role}-service")];
    for role in rights::roles() {
        leaf(out, role, named(role).into_iter().chain(local.clone()).collect(), year, &authority)?;
    }
    leaf(out, ALL, rights::roles().flat_map(named).chain(local).collect(), year, &authority)?;
    // The last: with it the folder is whole. Its key is nowhere: nobody signs anything else with it.
    fs::write(out.join("ca.pem"), &authority.pem).map_err(because("cannot write ca.pem"))?;
    println!("{}: who signed the others", out.join("ca.pem").display());
    println!(
        "{}: for NATS, PostgreSQL and the collector, for each role, and for a process with all services, good until the end of {}",
        out.display(),
        year + 1
    );
    Ok(())
}

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

fn authority(year: i32) -> Result<Authority, Failure> {
    let mut params = params("Waybill development", Vec::new(), year)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate()?;
    let pem = params.self_signed(&key)?.pem();
    Ok(Authority { issuer: Issuer::new(params, key), pem })
}

/// A certificate for both ends of a connection, and its key.
fn leaf(out: &Path, name: &str, hosts: Vec<String>, year: i32, authority: &Authority) -> Result<(), Failure> {
    let mut params = params(name, hosts, year)?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let signed = params.signed_by(&key, &authority.issuer)?;
    let file = out.join(format!("{name}.key"));
    fs::remove_file(&file).or_else(crate::nats_config::absent)?;
    kept(&file, || key.serialize_pem())?;
    fs::write(out.join(format!("{name}.pem")), signed.pem())
        .map_err(because(format!("cannot write {name}.pem")))
}

fn params(name: &str, hosts: Vec<String>, year: i32) -> Result<CertificateParams, Failure> {
    let mut params = CertificateParams::new(hosts)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(year - 1, 1, 1);
    params.not_after = date_time_ymd(year + 1, 12, 31);
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_has_a_certificate_and_they_are_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let args = Args { out: dir.path().join("tls"), hosts: Some("nats.example.com".to_owned()) };
        run(&args).unwrap();
        let read = |name: &str| fs::read_to_string(args.out.join(name)).unwrap();
        let before = read("ca.pem");
        for name in rights::roles().chain(["node", "postgres", "collector", ALL]) {
            assert!(read(&format!("{name}.pem")).starts_with("-----BEGIN CERTIFICATE"), "{name}");
            assert!(read(&format!("{name}.key")).contains("PRIVATE KEY"), "{name}");
            #[cfg(unix)]
            {
                use std::os::unix::fs::PermissionsExt;
                let mode = fs::metadata(args.out.join(format!("{name}.key"))).unwrap().permissions().mode();
                assert_eq!(mode & 0o777, 0o600, "{name}");
            }
        }
        run(&args).unwrap();
        assert_eq!(read("ca.pem"), before);
        let strange = Args { out: dir.path().join("other"), hosts: Some("a b".to_owned()) };
        assert!(run(&strange).unwrap_err().to_string().contains("--hosts"));
    }
}
