//! `waybill backup`: a copy of everything that cannot be made again, while everything runs; sealed, where a key is given.
//!
//! It is the copy that `waybill export` makes, in the same form. Beside it: what became of idempotency keys, the files of read
//! models where they are asked for, and the keys of personal data, in a file of their own and only when asked for.

use crate::{
    access::{AccessArgs, OPERATOR, as_role},
    archive::{Archive, Entry, KeptBucket, Keys, Unlock, lies_in},
    databases::DatabaseArgs,
    dev::find_nats,
    export::{KEYS, Wanted, export},
    failure::{Failure, because},
    settings,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use events::Context;
use nats::{Access, Connection, MasterKey, NatsUrl, restore};
use projections::{View, database::Storage};
use secrecy::SecretString;
use service::{Clock, config::Faults};
use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
};

pub(crate) const EXAMPLES: &str = "\
Examples:
  waybill backup /backup/log --key-file backup.key                        the running dev, sealed
  waybill backup /backup/log --key-file backup.key                        once more: only what is new since then
  waybill backup /backup/log --nats-url nats://nats:4222 --passphrase-file words
  waybill backup /backup/log --keys-to /elsewhere/keys --key-file backup.key
  waybill backup /backup/log --read-models                                with the read models on SQLite

A key: openssl rand -base64 32 > backup.key && chmod 600 backup.key
Keys of personal data are in the file that --keys-to names, and nowhere else: who is erased is gone when the last copy of
that file is. The master key is in neither.";

/// The variables that say how a backup is sealed. There are no such flags, for every user of the machine would see them.
const KEY: &str = "WAYBILL_BACKUP_KEY";
const PASSPHRASE: &str = "WAYBILL_BACKUP_PASSPHRASE";

/// How a backup is sealed.
#[derive(Debug, clap::Args)]
pub(crate) struct SealArgs {
    /// File with the key that the backup is sealed with, 32 bytes in base64; or the key itself in the variable
    /// `WAYBILL_BACKUP_KEY` [default: it is not sealed]
    #[arg(long, value_name = "FILE", env = "WAYBILL_BACKUP_KEY_FILE", conflicts_with = "passphrase_file")]
    key_file: Option<PathBuf>,
    /// File with words to seal it with instead; or the words themselves in the variable `WAYBILL_BACKUP_PASSPHRASE`
    #[arg(long, value_name = "FILE", env = "WAYBILL_BACKUP_PASSPHRASE_FILE")]
    passphrase_file: Option<PathBuf>,
}

impl SealArgs {
    /// What opens the backup, if it is sealed.
    pub(crate) fn read(&self, faults: &mut Faults) -> Option<Unlock> {
        self.read_from(|name| env::var(name).ok(), faults)
    }

    fn read_from(&self, variable: impl Fn(&str) -> Option<String>, faults: &mut Faults) -> Option<Unlock> {
        let variable = |name: &str| variable(name).filter(|text| !text.is_empty());
        let (key, words) = match (&self.key_file, &self.passphrase_file) {
            (Some(file), _) => (Some(("--key-file", fs::read_to_string(file))), None),
            (None, Some(file)) => (None, Some(("--passphrase-file", fs::read_to_string(file)))),
            (None, None) => (
                variable(KEY).map(|text| (KEY, Ok(text))),
                variable(PASSPHRASE).map(|text| (PASSPHRASE, Ok(text))),
            ),
        };
        if key.is_some() && words.is_some() {
            faults.add(KEY, format!("give it or {PASSPHRASE}, not both"));
        }
        if let Some((name, text)) = key {
            let key = text.map_err(|error| error.to_string());
            let key = key.and_then(|text| {
                text.parse::<MasterKey>().map_err(|_| "expected 32 bytes in base64".to_owned())
            });
            return key.map_err(|why| faults.add(name, why)).ok().map(Unlock::Key);
        }
        let (name, text) = words?;
        match text {
            Ok(text) if text.trim().chars().count() >= 12 => {
                Some(Unlock::Passphrase(SecretString::from(text.trim().to_owned())))
            }
            Ok(_) => {
                faults.add(name, "expected 12 characters at least");
                None
            }
            Err(error) => {
                faults.add(name, error);
                None
            }
        }
    }
}

/// Flags of `waybill backup`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Folder of the backup; one that holds a backup of the same log is brought up to date
    #[arg(value_name = "FOLDER")]
    to: PathBuf,
    /// Write the keys of personal data and the passwords' hashes too, into this file, which is made anew
    #[arg(long, value_name = "FILE")]
    keys_to: Option<PathBuf>,
    /// Copy the read models on SQLite too, which saves building them after a restore
    #[arg(long)]
    read_models: bool,
    #[command(flatten)]
    seal: SealArgs,
    /// Where NATS is [default: that of the running dev]
    #[arg(long, value_name = "URL", env = "WAYBILL_NATS_URL")]
    nats_url: Option<NatsUrl>,
    #[command(flatten)]
    access: AccessArgs,
    /// Data folder of the running dev; with --nats-url that of waybill serve
    #[arg(long, value_name = "DIR", env = "WAYBILL_DATA", default_value = ".waybill")]
    data: PathBuf,
    // Where one is named, there may be no read models on SQLite, or old ones.
    #[command(flatten)]
    databases: DatabaseArgs,
}

/// Copies until the copy is whole. Stopped, it can be gone on with.
pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let (unlock, access) = read(&args)?;
    let url = find_nats(args.nats_url.clone(), &args.data)?;
    let connection = Connection::connect_as(&url, "waybill backup", &access).await?;
    let archive = Archive::open(&args.to, unlock.as_ref())?;
    tokio::select! {
        done = back_up(&args, &connection, &archive, unlock.as_ref()) => as_role(OPERATOR, &access, done),
        signal = service::signal() => {
            Err(format!("stopped by {}: the same command goes on where it was", signal?).into())
        }
    }
}

/// Says everything that is wrong with the settings.
pub(crate) fn check(args: &Args) -> Result<(), Failure> {
    Ok(read(args).map(|_| ())?)
}

/// What opens the backup, and who makes it.
fn read(args: &Args) -> Result<(Option<Unlock>, Access), Faults> {
    let mut faults = Faults::default();
    let unlock = args.seal.read(&mut faults);
    let access = args.access.only(OPERATOR, &mut faults);
    if args.read_models && args.databases.is_given() {
        faults.add(
            "--read-models",
            "those on PostgreSQL are copied with pg_dump, before this: docs/operations.md",
        );
    }
    if let Some(Err(why)) = args.keys_to.as_ref().map(|keys| is_apart(keys, &args.to)) {
        faults.add("--keys-to", why);
    }
    faults.none()?;
    Ok((unlock, access))
}

/// Whether keys may be written there: in a folder that exists, and not in that of the backup.
fn is_apart(keys: &Path, backup: &Path) -> Result<(), String> {
    let shown = keys.display();
    match lies_in(keys, backup) {
        Ok(false) => Ok(()),
        Ok(true) => Err(format!("{shown} is in the folder of the backup: keep keys apart from the log")),
        Err(error) => Err(format!("{shown}: {error}")),
    }
}

async fn back_up(
    args: &Args,
    connection: &Connection,
    archive: &Archive,
    unlock: Option<&Unlock>,
) -> Result<(), Failure> {
    let clock = Clock::system();
    // In the folder that they are in, where nobody reads who could not read them there.
    let folder = settings::views(args.nats_url.as_deref(), &args.data);
    let drafts = args.read_models.then(|| tempfile::tempdir_in(&folder)).transpose();
    let drafts = drafts.map_err(because(format!("cannot write to {}", folder.display())))?;
    let mut files = None;
    if let Some(drafts) = &drafts {
        files = Some(read_models(&folder, drafts.path()).await?);
    }
    let wanted = Wanted { keys: false, ledgers: true, read_models: files.as_ref() };
    let manifest = export(connection, archive, &Context::ALL, &wanted, &clock).await?;
    if let Some(path) = &args.keys_to {
        let keys = keys(connection, &clock).await?;
        keys.save(path, unlock)?;
        let count: usize = keys.buckets.values().map(|bucket| bucket.entries.len()).sum();
        println!("{count} keys and passwords in {}", path.display());
    }
    let events: u64 = manifest.streams.values().map(|stream| stream.events).sum();
    let sealed = if unlock.is_some() { ", sealed" } else { "" };
    println!("{events} events up to {:.3} in {}{sealed}", manifest.moment, args.to.display());
    Ok(())
}

/// The keys, as they are after the log was copied: whoever is in the copy of the log has his key here.
async fn keys(connection: &Connection, clock: &Clock) -> Result<Keys, Failure> {
    let mut buckets = BTreeMap::new();
    for name in KEYS {
        let copied = restore::copy_bucket(connection, name).await;
        let Some(copied) = copied.map_err(because(format!("cannot copy the bucket {name}")))? else {
            continue;
        };
        let entry = |(key, value): (String, _)| Entry { key, value: BASE64_STANDARD.encode(value) };
        let entries = copied.entries.into_iter().map(entry).collect();
        buckets.insert(name.to_owned(), KeptBucket { config: copied.config, entries });
    }
    Ok(Keys { moment: clock.now(), buckets })
}

/// Copies of the files of read models, by name. They are made before the log is copied, so they are never ahead of it.
async fn read_models(folder: &Path, drafts: &Path) -> Result<BTreeMap<String, PathBuf>, Failure> {
    let storage = Storage::Sqlite(folder.to_owned());
    let mut files = BTreeMap::new();
    for view in View::ALL {
        for name in storage.copy_files(view, drafts).await? {
            let path = drafts.join(&name);
            files.insert(name, path);
        }
    }
    if files.is_empty() {
        let why = format!(
            "there is no file of a read model in {}: say where they are with --data",
            folder.display()
        );
        return Err(settings::fault("--read-models")(why));
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn read(args: &SealArgs, variables: &[(&str, &str)]) -> Result<Option<Unlock>, String> {
        let mut faults = Faults::default();
        let variable = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, text)| (*text).to_owned())
        };
        let unlock = args.read_from(variable, &mut faults);
        faults.none().map(|()| unlock).map_err(|faults| faults.to_string())
    }

    #[test]
    fn a_backup_is_sealed_with_a_key_or_with_words_from_a_file_or_a_variable() {
        let none = SealArgs { key_file: None, passphrase_file: None };
        assert!(read(&none, &[]).unwrap().is_none());
        let key = MasterKey::generate().to_base64();
        assert!(matches!(read(&none, &[(KEY, &key)]), Ok(Some(Unlock::Key(_)))));
        assert!(matches!(
            read(&none, &[(PASSPHRASE, "correct horse battery")]),
            Ok(Some(Unlock::Passphrase(_)))
        ));
        assert!(
            read(&none, &[(KEY, &key), (PASSPHRASE, "correct horse battery")])
                .unwrap_err()
                .contains("not both")
        );
        assert!(read(&none, &[(PASSPHRASE, "short")]).unwrap_err().contains(PASSPHRASE));
        let fault = read(&none, &[(KEY, "s3cret")]).unwrap_err();
        assert!(fault.contains(KEY) && !fault.contains("s3cret"), "{fault}");
        let missing = SealArgs { key_file: Some("/no/such/file".into()), passphrase_file: None };
        assert!(read(&missing, &[]).unwrap_err().contains("--key-file"));
    }

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn every_fault_is_named_at_once() {
        let line =
            "backup b --key-file /no/key --keys-to b/keys --read-models --nats-ca /no/ca --database-url x";
        let faults = super::read(&Line::parse_from(line.split(' ')).args).err().unwrap().to_string();
        for flag in ["--key-file", "--keys-to", "--read-models", "--nats-ca"] {
            assert!(faults.contains(flag), "{flag} is missing in {faults}");
        }
    }
}
