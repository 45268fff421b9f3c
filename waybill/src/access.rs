//! Who this process is to NATS: a key for each role that it plays, certificates, by flags, variables and files.

use crate::{
    failure::{Failure, because},
    settings::Flag,
};
use commands::users::tokens::OpenError;
use nats::{Access, Refusals, Seed, SeedError};
use projections::RebuildError;
use service::config::{Faults, Settings};
use std::{
    collections::BTreeMap,
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
};

/// The role of commands that look at the system as a whole.
pub const OPERATOR: &str = "operator";
/// The role of those that make streams before services start.
pub const PROVISIONING: &str = "provisioning";

/// The variable that holds a seed. There is no such flag, for every user of the machine would see it.
const NKEY: &str = "WAYBILL_NATS_NKEY";

/// Flags that say who a process is to NATS, before or after the verb where a command has verbs.
#[derive(Clone, Debug, Default, clap::Args)]
#[expect(clippy::struct_field_names, reason = "flags of NATS begin with it")]
#[command(next_help_heading = "Access to NATS")]
pub(crate) struct AccessArgs {
    /// File with the seed of the nkey by which NATS knows this process, as waybill nats-config makes it; or the seed itself in
    /// the variable `WAYBILL_NATS_NKEY`
    #[arg(long, global = true, value_name = "FILE", env = "WAYBILL_NATS_NKEY_FILE")]
    nats_nkey_file: Option<PathBuf>,
    /// Folder with such a file for each service, `<service>.nk`: for a process that runs several
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "WAYBILL_NATS_NKEYS",
        conflicts_with = "nats_nkey_file"
    )]
    nats_nkeys: Option<PathBuf>,
    /// Certificate of who signs those of NATS, in PEM: from then on it has to be TLS
    #[arg(long, global = true, value_name = "FILE", env = "WAYBILL_NATS_CA")]
    nats_ca: Option<PathBuf>,
    /// Certificate of this process, in PEM, for a NATS that asks for one
    #[arg(long, global = true, value_name = "FILE", env = "WAYBILL_NATS_CERT")]
    nats_cert: Option<PathBuf>,
    /// Key of this certificate, in PEM
    #[arg(long, global = true, value_name = "FILE", env = "WAYBILL_NATS_KEY")]
    nats_key: Option<PathBuf>,
    /// What inboxes begin with [default: _INBOX, with an nkey _INBOX_<role>]
    #[arg(long, global = true, value_name = "PREFIX", env = "WAYBILL_NATS_INBOX")]
    nats_inbox: Option<String>,
    /// Where JetStream is asked [default: $JS.API, with an nkey JS.API as waybill nats-config has it]
    #[arg(long, global = true, value_name = "PREFIX", env = "WAYBILL_NATS_API")]
    nats_api: Option<String>,
}

/// How a process comes to NATS, for each role that it plays.
#[derive(Clone, Debug, Default)]
pub struct NatsAccess {
    common: Access,
    roles: BTreeMap<String, Access>,
}

impl NatsAccess {
    /// How it comes as one of its roles.
    pub fn of(&self, role: &str) -> &Access {
        self.roles.get(role).unwrap_or(&self.common)
    }

    /// Out of the seeds of a folder, for these roles: for tests, and whoever has no command line.
    pub fn of_folder<'a>(
        common: &Access,
        folder: &Path,
        roles: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, String> {
        let access = |role: &str| {
            let seed = seed(&folder.join(format!("{role}.nk")))?;
            Ok((role.to_owned(), common.clone().of_role(role, seed)))
        };
        let roles = roles.into_iter().map(access).collect::<Result<_, String>>()?;
        Ok(Self { common: common.clone(), roles })
    }

    /// Whether NATS knows each role by a key of its own.
    pub fn is_known(&self) -> bool {
        !self.roles.is_empty()
    }
}

/// A flag with the file that it names.
type Named<'a> = (&'static str, &'a Option<PathBuf>);

/// A certificate with its key, for a NATS whose own is signed by whom `ca` names. What is wrong is noted as faults.
pub(crate) fn shown_to(
    [certificate, key]: [Named<'_>; 2],
    ca: Named<'_>,
    faults: &mut Faults,
) -> Option<(PathBuf, PathBuf)> {
    for (name, file) in [ca, certificate, key] {
        if let Some(Err(error)) = file.as_ref().map(fs::File::open) {
            faults.add(name, error);
        }
    }
    match (certificate.1, key.1) {
        (Some(certificate), Some(key)) => return Some((certificate.clone(), key.clone())),
        (None, None) => {}
        (Some(_), None) => faults.add(key.0, "is missing: a certificate needs its key"),
        (None, Some(_)) => faults.add(certificate.0, "is missing: a key needs its certificate"),
    }
    None
}

/// The seed in a file.
pub(crate) fn seed(file: &Path) -> Result<Seed, String> {
    let shown = file.display();
    let text = fs::read_to_string(file).map_err(|error| format!("{shown}: {error}"))?;
    let text = zeroize::Zeroizing::new(text);
    text.parse().map_err(|error: SeedError| format!("{shown}: {error}"))
}

impl AccessArgs {
    /// Files with secrets that are named, and the folder of seeds.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = PathBuf> {
        [&self.nats_nkey_file, &self.nats_nkeys, &self.nats_key].into_iter().flatten().cloned()
    }

    /// Files with certificates that are named: one's own, and those of who signs that of NATS.
    pub(crate) fn certificates(&self) -> (Option<&PathBuf>, Option<&PathBuf>) {
        (self.nats_cert.as_ref(), self.nats_ca.as_ref())
    }

    /// What was given, to be read with the other flags.
    pub(crate) fn flags(&self) -> [Flag; 2] {
        [("--nats-inbox", self.nats_inbox.clone()), ("--nats-api", self.nats_api.clone())]
    }

    /// How to come as each of these roles. What is wrong is noted as faults.
    pub(crate) fn read(&self, flags: &mut Settings, roles: &[&str]) -> NatsAccess {
        self.read_from(flags, roles, env::var(NKEY).ok().filter(|text| !text.is_empty()))
    }

    fn read_from(&self, flags: &mut Settings, roles: &[&str], variable: Option<String>) -> NatsAccess {
        let shown = [("--nats-cert", &self.nats_cert), ("--nats-key", &self.nats_key)];
        let certificate = shown_to(shown, ("--nats-ca", &self.nats_ca), flags.faults());
        let common = Access {
            seed: None,
            ca: self.nats_ca.clone(),
            certificate,
            inbox: self.nats_inbox.clone(),
            api: self.nats_api.clone(),
            provisions: false,
            refusals: Refusals::default(),
        };
        let (name, known) = match (&self.nats_nkeys, &self.nats_nkey_file, variable) {
            (Some(folder), ..) => {
                ("--nats-nkeys", NatsAccess::of_folder(&common, folder, roles.iter().copied()))
            }
            (None, Some(file), _) => ("--nats-nkey-file", seed(file).map(|seed| one(&common, roles, &seed))),
            (None, None, Some(text)) => {
                let seed = text.parse().map_err(|error: SeedError| error.to_string());
                (NKEY, seed.map(|seed| one(&common, roles, &seed)))
            }
            (None, None, None) => return NatsAccess { common, roles: BTreeMap::new() },
        };
        match known {
            Ok(access) if roles.len() > 1 && self.nats_nkeys.is_none() => {
                flags.faults().add(name, "several services have several keys: use --nats-nkeys");
                access
            }
            Ok(access) => access,
            Err(error) => {
                flags.faults().add(name, error);
                NatsAccess::default()
            }
        }
    }

    /// How to come as one role, for a command that plays no other. What is wrong is noted with its other faults.
    pub(crate) fn only(&self, role: &str, faults: &mut Faults) -> Access {
        let mut flags = crate::settings::flags(self.flags());
        let access = self.read(&mut flags, &[role]);
        match flags.finish(Some(access)) {
            Ok(access) => access.of(role).clone(),
            Err(wrong) => {
                faults.extend(wrong);
                Access::default()
            }
        }
    }
}

/// Says which role a command has to come as, where it failed because of NATS, which had refused something.
pub(crate) fn as_role<T>(role: &str, access: &Access, result: Result<T, Failure>) -> Result<T, Failure> {
    result.map_err(|error| blaming(role, access.refusals.first(), error))
}

/// An error, and whose rights it is about, if it is about any.
fn blaming(role: &str, refused: Option<String>, error: Failure) -> Failure {
    let Some(what) = refused.filter(|_| is_of_nats(&*error)) else { return error };
    because(format!(
        "NATS refuses it ({what}): this is done as {role}, whose key is seeds/{role}.nk; docs/security.md says what each may do"
    ))(error)
}

/// Whether a command failed because of NATS, and not of a file or of what somebody said.
fn is_of_nats(error: &(dyn Error + 'static)) -> bool {
    // The one says in words what is in the way, the other shows what is behind it only.
    matches!(error.downcast_ref(), Some(RebuildError::Stuck { .. }))
        || matches!(error.downcast_ref(), Some(OpenError::Topology(_)))
        || nats::is_of_nats(error)
        || error.source().is_some_and(is_of_nats)
}

/// The one role that a process plays, by the one seed that it was given.
fn one(common: &Access, roles: &[&str], seed: &Seed) -> NatsAccess {
    let access = |role: &&str| ((*role).to_owned(), common.clone().of_role(role, seed.clone()));
    NatsAccess { common: common.clone(), roles: roles.iter().map(access).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(args: &AccessArgs, roles: &[&str], variable: Option<&str>) -> Result<NatsAccess, String> {
        let mut flags = crate::settings::flags(args.flags());
        let access = args.read_from(&mut flags, roles, variable.map(str::to_owned));
        flags.finish(Some(access)).map_err(|faults| faults.to_string())
    }

    #[test]
    fn a_key_comes_by_file_by_variable_or_out_of_a_folder() {
        let (dir, seed) = (tempfile::tempdir().unwrap(), Seed::generate());
        let file = dir.path().join("orders.nk");
        fs::write(&file, format!("{}\n", seed.reveal())).unwrap();
        let nobody = read(&AccessArgs::default(), &["orders"], None).unwrap();
        assert!(!nobody.is_known() && nobody.of("orders").seed.is_none());
        let by_file = AccessArgs { nats_nkey_file: Some(file), ..AccessArgs::default() };
        let by_folder = AccessArgs { nats_nkeys: Some(dir.path().to_owned()), ..AccessArgs::default() };
        for (args, variable) in
            [(&by_file, None), (&by_folder, None), (&AccessArgs::default(), Some(seed.reveal()))]
        {
            let access = read(args, &["orders"], variable).unwrap();
            let orders = access.of("orders");
            assert_eq!(orders.seed.as_ref().map(Seed::public), Some(seed.public()));
            assert_eq!(orders.inbox.as_deref(), Some("_INBOX_orders"));
        }
        let several = read(&by_file, &["orders", "users"], None).unwrap_err();
        assert!(several.contains("--nats-nkeys"), "{several}");
        assert_eq!(by_file.secrets().collect::<Vec<_>>(), [dir.path().join("orders.nk")]);
        assert_eq!(by_folder.secrets().collect::<Vec<_>>(), [dir.path()]);
        let missing = read(&by_folder, &["orders", "users"], None).unwrap_err();
        assert!(missing.contains("--nats-nkeys") && missing.contains("users.nk"), "{missing}");
    }

    #[test]
    fn what_is_wrong_is_named_and_no_seed_is_shown() {
        let args = AccessArgs {
            nats_ca: Some("/no/such/ca.pem".into()),
            nats_cert: Some("/no/such/cert.pem".into()),
            ..AccessArgs::default()
        };
        let faults = read(&args, &["orders"], Some("SUSECRET")).unwrap_err();
        for name in ["--nats-ca", "--nats-cert", "--nats-key", NKEY] {
            assert!(faults.contains(name), "{name} is missing in {faults}");
        }
        assert!(!faults.contains("SUSECRET"), "{faults}");
    }

    #[test]
    fn rights_are_to_blame_only_for_what_came_of_nats() {
        let heard = || Some("Permissions Violation for Publish to \"copy.orders\"".to_owned());
        let told = |refused: Option<String>, error: Failure| {
            crate::failure::report(&*blaming(OPERATOR, refused, error)).contains("seeds/operator.nk")
        };
        let stuck =
            || RebuildError::Stuck { reached: "nothing".to_owned(), why: "nobody answers".to_owned() };
        let away = || nats::AppendError::Unknown;
        assert!(told(heard(), away().into()) && told(heard(), stuck().into()));
        assert!(told(heard(), because("cannot go on")(because("cannot record it")(away()))));
        assert!(!told(None, away().into()), "nothing was refused");
        let file = || std::io::Error::other("no space left on device");
        for error in [file().into(), because("cannot write the copy")(file()), "41 is not an order".into()] {
            assert!(!told(heard(), error));
        }
    }
}
