//! Where read models are kept: on SQLite in a folder, or in a database of PostgreSQL per service.

use crate::{
    failure::Failure,
    settings::{self, Flag},
    system::Service,
};
use projections::{
    View,
    database::{PostgresUrl, Storage},
};
use service::config::Settings;
use std::{collections::BTreeMap, env, fs, path::Path, str::FromStr};

pub(crate) const EXAMPLES: &str = "\
Examples:
  waybill provision-databases --admin-url postgres://postgres:secret@db/postgres > databases.env
  waybill provision-databases orders payments
  (set -a; . ./databases.env; waybill serve all --nats-url nats://nats:4222)";

/// Flags that say where read models are kept. What they are given is never shown: it holds passwords.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct DatabaseArgs {
    /// Database of the one service, on PostgreSQL; also in `WAYBILL_DATABASE_URL_<SERVICE>` or `DATABASE_URL`, or in the file that
    /// one of these with `_FILE` behind it names [default: SQLite]
    #[arg(long, value_name = "URL", env = "WAYBILL_DATABASE_URL", hide_env_values = true)]
    database_url: Option<Secret>,
    /// Databases of several services
    #[arg(long, value_name = "SERVICE=URL,..", env = "WAYBILL_DATABASE_URLS", hide_env_values = true)]
    database_urls: Option<Secret>,
}

/// A text that holds a password.
#[derive(Clone)]
pub(crate) struct Secret(String);

impl Secret {
    /// The text itself.
    pub(crate) fn reveal(&self) -> String {
        self.0.clone()
    }
}

impl FromStr for Secret {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[secret]")
    }
}

/// The databases of services on PostgreSQL; who has none here is on SQLite.
#[derive(Clone, Debug, Default)]
pub struct Databases(BTreeMap<Service, PostgresUrl>);

impl Databases {
    /// One service has its read model here; the others are on SQLite.
    pub(crate) fn of(service: Service, url: PostgresUrl) -> Self {
        Self(BTreeMap::from([(service, url)]))
    }

    /// Whether every read model is on SQLite.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Where the read model of a service is kept.
    pub fn storage(&self, service: Service, folder: &Path) -> Storage {
        match self.0.get(&service) {
            Some(url) => Storage::Postgres(url.clone()),
            None => Storage::Sqlite(folder.to_owned()),
        }
    }

    /// A database and a role for each of these services on a server, made where they are missing.
    pub async fn provision(admin: &PostgresUrl, services: &[Service]) -> Result<Self, Failure> {
        let mut databases = BTreeMap::new();
        for service in services.iter().copied().filter(|service| has_view(*service)) {
            databases.insert(service, admin.provision(service.name()).await?);
        }
        Ok(Self(databases))
    }
}

/// Whether a service has a read model.
pub(crate) fn has_view(service: Service) -> bool {
    View::of(service.name()).is_some()
}

/// The variable with the URL of a service.
fn variable(service: Service) -> String {
    format!("WAYBILL_DATABASE_URL_{}", service.name().to_uppercase())
}

/// `orders=postgres://..,users=postgres://..`
struct Pairs(Vec<(Service, PostgresUrl)>);

impl FromStr for Pairs {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let one = |pair: &str| {
            let (name, url) = pair.trim().split_once('=').ok_or("expected SERVICE=URL,..")?;
            // What stands before the equals sign may be a part of a password, where a comma was not encoded.
            let service =
                name.parse::<Service>().map_err(|_| "expected SERVICE=URL,.. with a known service")?;
            let url = url.parse().map_err(|error| format!("the URL of {service}: {error}"))?;
            Ok((service, url))
        };
        text.split(',').map(one).collect::<Result<_, String>>().map(Self)
    }
}

impl DatabaseArgs {
    /// What was given, to be read with the other flags.
    pub(crate) fn flags(&self) -> [Flag; 2] {
        [
            ("--database-url", self.database_url.as_ref().map(Secret::reveal)),
            ("--database-urls", self.database_urls.as_ref().map(Secret::reveal)),
        ]
    }

    /// Whether any database on PostgreSQL is named, in whatever way.
    pub(crate) fn is_given(&self) -> bool {
        self.is_given_with(|name| env::var(name).ok())
    }

    fn is_given_with(&self, variables: impl Fn(&str) -> Option<String>) -> bool {
        let given = |secret: &Option<Secret>| secret.as_ref().is_some_and(|text| !text.0.is_empty());
        let names = Service::ALL.map(variable).into_iter().chain(["DATABASE_URL".to_owned()]);
        let mut names = names.flat_map(|name| [format!("{name}_FILE"), name]);
        given(&self.database_url)
            || given(&self.database_urls)
            || names.any(|name| variables(&name).is_some_and(|text| !text.is_empty()))
    }

    /// The databases of the services that are to run.
    pub(crate) fn read(flags: &mut Settings, services: &[Service]) -> Databases {
        Self::read_from(flags, services, |name| env::var(name).ok())
    }

    fn read_from(
        flags: &mut Settings,
        services: &[Service],
        variables: impl Fn(&str) -> Option<String>,
    ) -> Databases {
        let wanted: Vec<_> = services.iter().copied().filter(|service| has_view(*service)).collect();
        let mut databases = BTreeMap::new();
        let mut take = |flags: &mut Settings, name: &str, service| {
            let given = |name: &str| variables(name).filter(|text| !text.is_empty());
            // Secrets of containers are files.
            let file = format!("{name}_FILE");
            let text = match given(&file).map(fs::read_to_string) {
                Some(Ok(text)) => Some(text.trim().to_owned()),
                Some(Err(error)) => return flags.faults().add(&file, error),
                None => given(name),
            };
            let Some(text) = text else { return };
            match text.parse() {
                Ok(url) => {
                    databases.insert(service, url);
                }
                Err(error) => flags.faults().add(name, error),
            }
        };
        if let [only] = wanted[..] {
            take(flags, "DATABASE_URL", only);
        }
        for service in &wanted {
            take(flags, &variable(*service), *service);
        }
        if let Some(Pairs(pairs)) = flags.optional("--database-urls") {
            databases.extend(pairs);
        }
        if let Some(url) = flags.optional::<PostgresUrl>("--database-url") {
            match wanted[..] {
                [only] => {
                    databases.insert(only, url);
                }
                [] => {}
                _ => flags
                    .faults()
                    .add("--database-url", "several services need several databases: use --database-urls"),
            }
        }
        databases.retain(|service, _| wanted.contains(service));
        let missing: Vec<_> = wanted.iter().filter(|service| !databases.contains_key(service)).collect();
        if !databases.is_empty() && !missing.is_empty() {
            let names: Vec<_> = missing.iter().map(|service| service.name()).collect();
            let why = format!("no database for {}, while others have one", names.join(", "));
            flags.faults().add("--database-urls", why);
        }
        Databases(databases)
    }
}

/// Flags of `waybill provision-databases`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Services [default: all]
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
    /// A database of the server, as somebody who may create databases and roles
    #[arg(long, value_name = "URL", env = "WAYBILL_POSTGRES", hide_env_values = true)]
    admin_url: Option<Secret>,
}

/// Makes them, and prints where they are, as variables that `waybill serve` reads.
pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let mut flags = settings::flags([("--admin-url", args.admin_url.map(|Secret(text)| text))]);
    let admin: Option<PostgresUrl> = flags.required("--admin-url");
    let mut services = Vec::new();
    for word in &args.services {
        match word.parse() {
            Ok(service) if has_view(service) => services.push(service),
            Ok(service) => flags.faults().add("SERVICE", format!("{service} has no read model")),
            Err(why) => flags.faults().add("SERVICE", why),
        }
    }
    let admin = flags.finish(admin)?;
    let services = if services.is_empty() { Service::ALL.to_vec() } else { services };
    for (service, url) in Databases::provision(&admin, &services).await?.0 {
        println!("{}='{}'", variable(service), url.reveal());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_given_by_any_of_its_names() {
        let none = DatabaseArgs::default();
        assert!(!none.is_given_with(|_| None) && !none.is_given_with(|_| Some(String::new())));
        for named in [
            "DATABASE_URL",
            "DATABASE_URL_FILE",
            "WAYBILL_DATABASE_URL_USERS",
            "WAYBILL_DATABASE_URL_USERS_FILE",
        ] {
            assert!(none.is_given_with(|name| (name == named).then(|| "x".to_owned())), "{named}");
        }
        let secret = || Some(Secret("x".to_owned()));
        assert!(DatabaseArgs { database_url: secret(), ..none.clone() }.is_given_with(|_| None));
        assert!(DatabaseArgs { database_urls: secret(), ..none }.is_given_with(|_| None));
    }

    fn read(
        flags: [(&'static str, Option<&str>); 2],
        services: &[Service],
        env: &[(&str, &str)],
    ) -> Result<String, String> {
        let mut flags = settings::flags(flags.map(|(name, text)| (name, text.map(str::to_owned))));
        let variable =
            |name: &str| env.iter().find(|(known, _)| *known == name).map(|(_, text)| (*text).to_owned());
        let databases = DatabaseArgs::read_from(&mut flags, services, variable);
        let databases = flags.finish(Some(databases)).map_err(|faults| faults.to_string())?;
        Ok(databases.0.iter().map(|(service, url)| format!("{service}={url}")).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn a_service_has_the_database_that_is_named_nearest_to_it() {
        let (one, several) = ("--database-url", "--database-urls");
        let env = [
            ("DATABASE_URL", "postgres://a:p@h/general"),
            ("WAYBILL_DATABASE_URL_ORDERS", "postgres://a:p@h/variable"),
        ];
        let orders = &[Service::Orders][..];
        assert_eq!(read([(one, None), (several, None)], orders, &[]).unwrap(), "");
        let of = |flags, env: &[(&str, &str)]| read(flags, orders, env).unwrap();
        assert_eq!(of([(one, None), (several, None)], &env[..1]), "orders=postgres://a@h:5432/general");
        assert_eq!(of([(one, None), (several, None)], &env), "orders=postgres://a@h:5432/variable");
        let flag = Some("postgres://a:p@h/flag");
        assert_eq!(of([(one, flag), (several, None)], &env), "orders=postgres://a@h:5432/flag");
        let pairs = Some("orders=postgres://a:p@h/o,users=postgresql://a:p@h/u");
        let both = &[Service::Users, Service::Orders, Service::Operations][..];
        let found = read([(one, None), (several, pairs)], both, &env[..1]).unwrap();
        assert_eq!(found, "users=postgres://a@h:5432/u orders=postgres://a@h:5432/o");
    }

    #[test]
    fn a_url_may_be_in_a_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "postgres://orders:secret@db/orders\n").unwrap();
        let path = file.path().to_str().unwrap();
        let none = [("--database-url", None), ("--database-urls", None)];
        let found = read(none, &[Service::Orders], &[("DATABASE_URL_FILE", path)]).unwrap();
        assert!(found.starts_with("orders=") && !found.contains("secret"), "{found}");
        let fault = read(none, &[Service::Orders], &[("DATABASE_URL_FILE", "/no/such/file")]).unwrap_err();
        assert!(fault.contains("DATABASE_URL_FILE"), "{fault}");
    }

    #[test]
    fn every_fault_is_named_and_no_password_is_shown() {
        let both = &[Service::Users, Service::Orders][..];
        let flags = [
            ("--database-url", Some("postgres://a:s3cret@h/d")),
            ("--database-urls", Some("orders=postgres://a:s3c,ret@h/d")),
        ];
        let faults =
            read(flags, both, &[("WAYBILL_DATABASE_URL_USERS", "mysql://a:s3cret@h/d")]).unwrap_err();
        for name in ["--database-url", "--database-urls", "WAYBILL_DATABASE_URL_USERS"] {
            assert!(faults.contains(name), "{name} is missing in {faults}");
        }
        assert!(!faults.contains("s3c") && !faults.contains("ret@"), "{faults}");
        let some = [("--database-url", None), ("--database-urls", Some("orders=postgres://a:p@h/o"))];
        assert!(read(some, both, &[]).unwrap_err().contains("no database for users"));
        let secret: Secret = "postgres://a:s3cret@h/d".parse().unwrap();
        assert!(
            !format!("{:?}", DatabaseArgs { database_url: Some(secret), database_urls: None })
                .contains("s3cret")
        );
    }
}
