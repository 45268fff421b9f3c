//! `waybill nats-config`: the configuration of a NATS that trusts nobody, and a key for each role.

use crate::{
    channels,
    failure::{Failure, because},
    rights,
    settings::{self, Flag},
};
use nats::{SYSTEM, Seed, server::Secured};
use projections::View;
use service::config::Settings;
use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
};

pub(crate) const EXAMPLES: &str = "\
Examples:
  waybill nats-config --out secrets/nats                         one server, which then runs with nats-server -c secrets/nats/single.conf
  waybill nats-config --out secrets/nats --nodes nats-1:6222,nats-2:6222,nats-3:6222
  waybill nats-config --out secrets/nats --certificates /etc/nats/tls
  waybill nats-config --out secrets/nats --follow crm=orders,users   a key for somebody else, who may follow these feeds and nothing more
  waybill nats-config --out secrets/nats --renew orders          another key for orders; docs/security.md says how to change to it
  waybill provision --nats-url nats://127.0.0.1:4222 --nats-nkey-file secrets/nats/seeds/provisioning.nk --master-key-file key
  waybill serve orders --nats-url nats://127.0.0.1:4222 --nats-nkey-file secrets/nats/seeds/orders.nk --master-key-file key";

/// Bytes of a secret of Kubernetes at most.
const SECRET: usize = 1 << 20;

/// Flags of `waybill nats-config`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Folder for the files; keys that are there are kept
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The nodes of a cluster by their cluster ports: writes cluster.conf for each of them
    #[arg(long, value_name = "HOST:PORT,..")]
    nodes: Option<String>,
    /// Where a server that is alone listens [default: 127.0.0.1:4222]
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,
    /// Folder with node.pem, node.key and ca.pem as the server sees it: everything is TLS then, and everybody shows a
    /// certificate
    #[arg(long, value_name = "DIR")]
    certificates: Option<String>,
    /// File that names the endpoints of webhooks: each is told by consumers of its own
    #[arg(long, value_name = "FILE", env = "WAYBILL_WEBHOOKS")]
    webhooks: Option<PathBuf>,
    /// Somebody else who may follow the change feeds of these services, and has a key of his own; may be repeated. As with
    /// --webhooks, whoever is not named again is not known any more
    #[arg(long, value_name = "NAME=SERVICE,..")]
    follow: Vec<Follower>,
    /// Makes another key for this role in place of the one that is there
    #[arg(long, value_name = "ROLE")]
    renew: Vec<String>,
}

/// Writes the files, and says what they are for.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let given: [Flag; 2] = [("--nodes", args.nodes.clone()), ("--listen", args.listen.clone())];
    let mut flags = settings::flags(given);
    let nodes = flags.optional::<Places>("--nodes").map_or_else(Vec::new, |places| places.0);
    let listen = flags.optional::<Places>("--listen").and_then(|places| places.0.into_iter().next());
    let keyed = everybody(args, &mut flags);
    let channels = told(args.webhooks.as_deref(), &mut flags);
    let channels = flags.finish(Some(channels))?;
    let seeds = args.out.join("seeds");
    let made = fs::create_dir_all(&seeds).and_then(|()| close(&seeds));
    made.map_err(because(format!("cannot make {}", seeds.display())))?;
    let mut keys = BTreeMap::new();
    for role in &keyed {
        let file = seeds.join(format!("{role}.nk"));
        if args.renew.iter().any(|renewed| renewed == role) {
            fs::rename(&file, file.with_extension("nk.old")).or_else(absent)?;
        }
        let text = kept(&file, || Seed::generate().reveal().to_owned())?;
        let seed: Seed = text.parse().map_err(because(format!("{} is no key", file.display())))?;
        keys.insert((*role).to_owned(), seed.public().to_owned());
    }
    let password = args.out.join("route-password");
    let password = if nodes.is_empty() { String::new() } else { kept(&password, random)? };
    let mut layout = rights::layout(&channels);
    layout.holders.extend(args.follow.iter().map(|other| rights::follower(&other.name, &other.views)));
    let accounts = layout.render(&keys);
    write(&args.out.join("accounts.conf"), &accounts)?;
    let listen = listen.and_then(|place| {
        let (host, port) = place.rsplit_once(':')?;
        Some((host.to_owned(), port.parse().ok()?))
    });
    let name = if nodes.is_empty() { "single.conf" } else { "cluster.conf" };
    let secured = Secured { certificates: args.certificates.clone(), nodes, password, listen };
    write(&args.out.join(name), &secured.render())?;
    println!("{}: who may do what\n{}: for nats-server -c", shown(args, "accounts.conf"), shown(args, name));
    println!("{}: a key for each of {}, to be given to nobody else", shown(args, "seeds"), keys.len());
    if accounts.len() > SECRET {
        println!(
            "accounts.conf has more than 1 MiB, which a secret of Kubernetes has no room for: put it on a volume"
        );
    }
    Ok(())
}

/// Everybody who is given a key, those who follow feeds among them. Names that are there twice, or that nobody has, are faults.
fn everybody<'a>(args: &'a Args, flags: &mut Settings) -> Vec<&'a str> {
    let others: Vec<_> = args.follow.iter().map(|follower| follower.name.as_str()).collect();
    for (place, name) in others.iter().enumerate() {
        if keyed().any(|role| role == *name) || others[..place].contains(name) {
            flags.faults().add("--follow", format!("there is somebody called {name} already"));
        }
    }
    let mut keyed: Vec<&str> = keyed().collect();
    keyed.extend(others);
    for role in &args.renew {
        if !keyed.iter().any(|known| known == role) {
            let known = keyed.join(", ");
            flags.faults().add("--renew", format!("there is no role {role}: expected {known}"));
        }
    }
    keyed
}

/// Everybody who is always given a key: every role, and who looks after the servers themselves.
fn keyed() -> impl Iterator<Item = &'static str> {
    rights::roles().chain([SYSTEM])
}

/// Channels on which somebody is told: mail, and each webhook.
pub(crate) fn told(webhooks: Option<&Path>, flags: &mut Settings) -> Vec<String> {
    let named = webhooks.map(channels::webhook_channels).transpose();
    let named = named.map_err(|error| flags.faults().add("--webhooks", error)).ok().flatten();
    [commands::notifications::EMAIL.to_owned()].into_iter().chain(named.unwrap_or_default()).collect()
}

fn shown(args: &Args, name: &str) -> String {
    args.out.join(name).display().to_string()
}

/// `name=service,..`: who follows which read models.
#[derive(Clone, Debug)]
struct Follower {
    name: String,
    views: Vec<&'static View>,
}

impl std::str::FromStr for Follower {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, services) = text.split_once('=').ok_or("expected NAME=SERVICE,..")?;
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        // It is the name of an account, of a file and part of a subject.
        if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
            return Err("a name has 1 to 64 of a-z, 0-9 and -".to_owned());
        }
        let view = |service: &str| {
            let known = || View::ALL.iter().map(|view| view.name).collect::<Vec<_>>().join(", ");
            View::of(service.trim())
                .ok_or_else(|| format!("there is no feed of {service:?}: expected {}", known()))
        };
        let views = services.split(',').map(view).collect::<Result<_, _>>()?;
        Ok(Self { name: name.to_owned(), views })
    }
}

/// `host:port,..`
struct Places(Vec<String>);

impl std::str::FromStr for Places {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let place = |place: &str| {
            let (host, port) = place.trim().rsplit_once(':')?;
            let plain = |c: char| c.is_ascii_alphanumeric() || ".-[]:_".contains(c);
            let known = !host.is_empty() && host.chars().all(plain) && port.parse::<u16>().is_ok();
            known.then(|| place.trim().to_owned())
        };
        text.split(',').map(place).collect::<Option<_>>().map(Self).ok_or("expected HOST:PORT,..")
    }
}

/// What a file holds that only its owner can read; made where there is none.
pub(crate) fn kept(file: &Path, make: impl FnOnce() -> String) -> Result<String, Failure> {
    let shown = || format!("cannot write {}", file.display());
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(file) {
        Ok(mut new) => {
            let text = make();
            new.write_all(text.as_bytes()).and_then(|()| new.sync_all()).map_err(because(shown()))?;
            Ok(text)
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => fs::read_to_string(file)
            .map(|text| text.trim().to_owned())
            .map_err(because(format!("cannot read {}", file.display()))),
        Err(error) => Err(because(shown())(error)),
    }
}

/// A file as a whole, for its owner only: a server of the cluster finds the password of the others in it.
fn write(file: &Path, text: &str) -> Result<(), Failure> {
    let draft = file.with_extension("conf.new");
    fs::remove_file(&draft).or_else(absent)?;
    kept(&draft, || text.to_owned())?;
    fs::rename(&draft, file).map_err(because(format!("cannot write {}", file.display())))
}

/// What is not there need not be taken away.
pub(crate) fn absent(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

#[cfg(unix)]
fn close(folder: &Path) -> std::io::Result<()> {
    fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o700))
}

#[cfg(not(unix))]
fn close(_: &Path) -> std::io::Result<()> {
    Ok(())
}

/// Something that nobody guesses: as a key does.
fn random() -> String {
    Seed::generate().reveal().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(out: &Path) -> Args {
        let (nodes, listen, certificates, webhooks) = (None, None, None, None);
        let (follow, renew) = (Vec::new(), Vec::new());
        Args { out: out.to_owned(), nodes, listen, certificates, webhooks, follow, renew }
    }

    #[test]
    fn keys_are_kept_and_only_their_owner_can_read_them() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("nats");
        run(&args(&out)).unwrap();
        let seed = |role: &str| fs::read_to_string(out.join(format!("seeds/{role}.nk"))).unwrap();
        let first: Vec<_> = keyed().map(seed).collect();
        run(&Args { renew: vec!["orders".to_owned()], ..args(&out) }).unwrap();
        let second: Vec<_> = keyed().map(seed).collect();
        let changed = keyed().zip(first.iter().zip(&second)).filter(|(_, (a, b))| a != b);
        assert_eq!(changed.map(|(role, _)| role).collect::<Vec<_>>(), ["orders"]);
        let accounts = fs::read_to_string(out.join("accounts.conf")).unwrap();
        for (role, seed) in keyed().zip(&second) {
            let public = seed.parse::<Seed>().unwrap().public().to_owned();
            assert!(accounts.contains(&public), "{role}");
            assert!(!accounts.contains(seed.as_str()), "{role}");
            #[cfg(unix)]
            {
                use std::os::unix::fs::PermissionsExt;
                let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
                assert_eq!(mode(&out.join(format!("seeds/{role}.nk"))), 0o600, "{role}");
                assert_eq!(mode(&out.join("seeds")), 0o700);
            }
        }
    }

    #[test]
    fn who_follows_has_a_name_and_feeds_that_there_are() {
        let refused = |text: &str| text.parse::<Follower>().unwrap_err();
        assert!(refused("crm").contains("NAME=SERVICE"));
        assert!(refused("=orders").contains("a name has") && refused("a.b=orders").contains("a name has"));
        // Operations keep no read model.
        assert!(refused("crm=orders,operations").contains("expected ") && refused("crm=").contains("orders"));
        let dir = tempfile::tempdir().unwrap();
        let follow = vec!["crm=orders, users".parse().unwrap()];
        run(&Args { follow, renew: vec!["crm".to_owned()], ..args(dir.path()) }).unwrap();
        assert!(dir.path().join("seeds/crm.nk").exists());
        let accounts = fs::read_to_string(dir.path().join("accounts.conf")).unwrap();
        assert!(accounts.contains("$JS.API.CONSUMER.CREATE.VIEWS_USERS.crm"), "{accounts}");
    }

    #[test]
    fn the_accounts_fit_into_a_secret_of_kubernetes_also_with_many_webhooks() {
        let size = |webhooks: usize| {
            let told = (0..webhooks).map(|number| format!("webhook-receiver-{number:02}"));
            let channels: Vec<_> =
                [commands::notifications::EMAIL.to_owned()].into_iter().chain(told).collect();
            let keys = keyed().map(|role| (role.to_owned(), Seed::generate().public().to_owned()));
            rights::layout(&channels).render(&keys.collect()).len()
        };
        // As docs/security.md has it.
        let (without, with) = (size(0), size(15));
        assert!(without < 700_000 && with < SECRET, "{without} bytes, with 15 webhooks {with}");
    }

    #[test]
    fn what_is_wrong_is_named_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let wrong = Args {
            nodes: Some("nats-1".to_owned()),
            listen: Some("x".to_owned()),
            webhooks: Some("/no/such/file".into()),
            renew: vec!["carts".to_owned()],
            follow: vec!["orders=users".parse().unwrap()],
            ..args(dir.path())
        };
        let faults = run(&wrong).unwrap_err().to_string();
        for flag in ["--nodes", "--listen", "--webhooks", "--renew", "--follow"] {
            assert!(faults.contains(flag), "{flag} is missing in {faults}");
        }
    }
}
