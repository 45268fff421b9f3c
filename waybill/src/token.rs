//! `waybill token`: an access token for whoever runs the system, signed with its own keys.

use crate::{
    access::{AccessArgs, OPERATOR, as_role},
    dev::{find_nats, master_key},
    failure::{Failure, because},
    settings::{self, MasterKeyArgs},
};
use commands::users::tokens::{ACCESS, Issuer, Keys, MAX_LIFETIME};
use jiff::SignedDuration;
use nats::{Access, Connection, KeyRing, MasterKey, NatsUrl};
use service::{Clock, auth::Role};
use std::{path::PathBuf, time::Duration};
use uuid::Uuid;

pub(crate) const EXAMPLES: &str = "\
Examples:
  waybill token --role operator                  for the waybill dev that runs in this folder
  waybill token --role admin --ttl 1h
  waybill token --role customer --user 018f3f5e-0000-7000-8000-000000000001
  curl -H \"Authorization: Bearer $(waybill token --role operator)\" http://127.0.0.1:3001/users/..";

/// Flags of `waybill token`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What the token allows: customer, operator or admin
    #[arg(long, value_name = "ROLE")]
    role: String,
    /// For whom [default: a new user id]
    #[arg(long, value_name = "ID")]
    user: Option<String>,
    /// How long it is valid, at most 24h [default: 15m]
    #[arg(long, value_name = "DURATION")]
    ttl: Option<String>,
    /// Where NATS is [default: that of the running waybill dev]
    #[arg(long, value_name = "URL", env = "WAYBILL_NATS_URL")]
    nats_url: Option<NatsUrl>,
    #[command(flatten)]
    access: AccessArgs,
    #[command(flatten)]
    master_key: MasterKeyArgs,
    /// Data folder of the running waybill dev
    #[arg(long, value_name = "DIR", env = "WAYBILL_DATA", default_value = ".waybill")]
    data: PathBuf,
    /// Copies of the keys, where this makes the first one: 1, or 3 on a cluster
    #[arg(long, value_name = "COUNT", env = "WAYBILL_REPLICAS", default_value = "1")]
    replicas: String,
}

/// What is asked for.
#[derive(Debug)]
struct Wanted {
    role: Role,
    user: Option<Uuid>,
    lifetime: Duration,
    replicas: usize,
    master_key: MasterKey,
    access: Access,
}

/// Prints one token.
pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let wanted = read(&args)?;
    let clock = Clock::system();
    let url = find_nats(args.nats_url, &args.data)?;
    let connection = Connection::connect_as(&url, "waybill token", &wanted.access).await?;
    let token = Box::pin(issue(&connection, &wanted, clock)).await;
    println!("{}", as_role(OPERATOR, &wanted.access, token)?);
    Ok(())
}

async fn issue(connection: &Connection, wanted: &Wanted, clock: Clock) -> Result<String, Failure> {
    // Refuses another master key than that of the services, which could not read what is signed with it.
    KeyRing::open(connection, &wanted.master_key, wanted.replicas).await?;
    let keys = Keys::open_as(connection, &wanted.master_key, wanted.replicas, &clock).await;
    let issuer = Issuer::new(keys.map_err(because("cannot open the signing keys"))?, clock.clone());
    let user = wanted.user.unwrap_or_else(|| clock.uuid());
    let token = issuer.issue(user, vec![wanted.role], clock.uuid(), wanted.lifetime).await;
    Ok(token.map_err(because("cannot issue a token"))?.token)
}

fn read(args: &Args) -> Result<Wanted, Failure> {
    let mut flags = settings::flags([
        ("--role", Some(args.role.clone())),
        ("--user", args.user.clone()),
        ("--ttl", args.ttl.clone()),
        ("--replicas", Some(args.replicas.clone())),
    ]);
    let role = flags.required("--role");
    let user = flags.optional("--user");
    let lifetime = match flags.optional::<SignedDuration>("--ttl").map(Duration::try_from) {
        None => ACCESS,
        Some(Ok(lifetime)) if (Duration::from_secs(1)..=MAX_LIFETIME).contains(&lifetime) => lifetime,
        Some(_) => {
            flags.faults().add("--ttl", "expected 1s to 24h");
            ACCESS
        }
    };
    let replicas = flags.required("--replicas");
    let master_key = master_key(&args.master_key, &args.data, "waybill token", flags.faults());
    let access = args.access.only(OPERATOR, flags.faults());
    let given = role.zip(replicas).zip(master_key);
    let wanted = given.map(|((role, replicas), master_key)| Wanted {
        role,
        user,
        lifetime,
        replicas,
        master_key,
        access,
    });
    Ok(flags.finish(wanted)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn read(line: &str) -> Result<Wanted, String> {
        let key = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&key, &*MasterKey::generate().to_base64()).unwrap();
        let key = ["--master-key-file", key.path().to_str().unwrap()];
        let line = Line::parse_from(["token"].into_iter().chain(line.split_whitespace()).chain(key));
        super::read(&line.args).map_err(|error| error.to_string())
    }

    #[test]
    fn a_token_lives_a_quarter_of_an_hour_unless_asked() {
        let wanted = read("--role operator").unwrap();
        assert_eq!((wanted.role, wanted.user, wanted.lifetime), (Role::Operator, None, ACCESS));
        assert_eq!(read("--role admin --ttl 1h").unwrap().lifetime, Duration::from_hours(1));
    }

    #[test]
    fn every_fault_is_named_at_once() {
        let faults = read("--role root --user ada --ttl 25h --replicas many --nats-ca /no/ca").unwrap_err();
        for flag in ["--role", "--user", "--ttl", "--replicas", "--nats-ca"] {
            assert!(faults.contains(flag), "{flag} is missing in {faults}");
        }
    }
}
