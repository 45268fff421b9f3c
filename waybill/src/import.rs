//! `waybill import`: puts a copy of the log back, every event at the sequence it had.

use crate::{
    access::{AccessArgs, PROVISIONING, as_role},
    archive::{Archive, Chain, Entry, Keys, Manifest, StreamCopy, events, lines},
    dev::{Folder, find_master_key},
    export::{KEYS, streams},
    failure::{Failure, because},
    progress::Progress,
    settings,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use events::{Aggregate, Context, Subject, envelope::header};
use nats::{
    Access, Connection, NatsUrl, Raw, RawReader, raw,
    restore::{self, BucketCopy, Restore},
};
use service::config::Faults;
use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

pub(crate) const EXAMPLES: &str = "\
Examples:
  waybill import backup --check                check the files, and touch nothing else
  waybill import backup --data .waybill        into the data folder of a dev that does not run yet
  waybill import backup --nats-url nats://nats:4222 --replicas 3
  waybill import backup --keys                 with the keys of personal data, where the copy has them

Streams that hold anything are refused. Start nothing before it is done; then: waybill verify";

/// Flags of `waybill import`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Folder of the copy
    #[arg(value_name = "FOLDER")]
    from: PathBuf,
    /// Streams to put back, or all
    #[arg(long, value_name = "STREAM,..", value_delimiter = ',', default_value = "all")]
    stream: Vec<String>,
    /// Put back the keys of personal data and the passwords' hashes too; those of users who are erased stay away
    #[arg(long)]
    keys: bool,
    /// Only check that every file is what was written
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    target: Target,
}

/// Where a copy is put back.
#[derive(Debug, clap::Args)]
pub(crate) struct Target {
    /// Copies of each stream: 1, or 3 on a cluster
    #[arg(long, value_name = "COUNT", env = "WAYBILL_REPLICAS", default_value = "1")]
    replicas: String,
    /// Where NATS is [default: a server of its own, in the data folder, as long as this takes]
    #[arg(long, value_name = "URL", env = "WAYBILL_NATS_URL")]
    nats_url: Option<NatsUrl>,
    #[command(flatten)]
    access: AccessArgs,
    /// Data folder of a dev that does not run; with --nats-url that of waybill serve
    #[arg(long, value_name = "DIR", env = "WAYBILL_DATA", default_value = ".waybill")]
    data: PathBuf,
}

impl Target {
    /// Copies of each stream, and who makes them.
    pub(crate) fn read(&self, faults: &mut Faults) -> (usize, Access) {
        let mut flags = settings::flags([("--replicas", Some(self.replicas.clone()))]);
        let replicas = flags.optional("--replicas").unwrap_or(1);
        let access = Access { provisions: true, ..self.access.only(PROVISIONING, flags.faults()) };
        if let Err(wrong) = flags.finish(Some(())) {
            faults.extend(wrong);
        }
        (replicas, access)
    }

    /// Folder of the read models.
    pub(crate) fn views(&self) -> PathBuf {
        settings::views(self.nats_url.as_deref(), &self.data)
    }
}

/// What is put back, and where.
pub(crate) struct Import<'a> {
    pub(crate) archive: &'a Archive,
    pub(crate) manifest: &'a Manifest,
    pub(crate) contexts: Vec<Context>,
    /// Whether the keys that are in the copy are put back.
    pub(crate) keys: bool,
    /// Keys from a file of their own.
    pub(crate) apart: Option<Keys>,
    pub(crate) replicas: usize,
}

/// Says everything that is wrong with the settings, but for the folder, which is none of them.
pub(crate) fn check(args: &Args) -> Result<(), Failure> {
    let mut faults = Faults::default();
    streams(&args.stream, &mut faults);
    args.target.read(&mut faults);
    Ok(faults.none()?)
}

/// Checks every file, then puts all of it back and reads it again.
pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let mut faults = Faults::default();
    let contexts = streams(&args.stream, &mut faults);
    let (replicas, access) = args.target.read(&mut faults);
    is_folder(&args.from, &mut faults);
    faults.none()?;
    let archive = Archive::open(&args.from, None)?;
    let manifest = whole(&archive)?;
    if args.keys && KEYS.iter().all(|name| !manifest.buckets.contains_key(*name)) {
        return Err(settings::fault("--keys")("the copy has no keys: it was exported without --keys"));
    }
    let (archive, manifest) = (&archive, &manifest);
    let import = Import { archive, manifest, contexts, keys: args.keys, apart: None, replicas };
    import.check()?;
    if args.check {
        return import.read_all();
    }
    tokio::select! {
        done = import.run_at(&args.target, &access) => done,
        signal = service::signal() => {
            Err(format!("stopped by {}: the same command goes on where it was", signal?).into())
        }
    }
}

/// Whether there is a folder to read a copy from.
pub(crate) fn is_folder(from: &Path, faults: &mut Faults) {
    if !from.is_dir() {
        faults.add("FOLDER", format!("{} is no folder", from.display()));
    }
}

/// What a folder holds, which has to be a whole copy.
pub(crate) fn whole(archive: &Archive) -> Result<Manifest, Failure> {
    match Manifest::load(archive)? {
        Some(manifest) if manifest.complete => Ok(manifest),
        None if Manifest::begun(archive, None)?.is_none() => {
            Err(settings::fault("FOLDER")(format!("{} holds no copy of a log", archive.dir.display())))
        }
        _ => {
            Err("the copy is not whole: its export was interrupted. The same export goes on where it was"
                .into())
        }
    }
}

impl Import<'_> {
    /// Whether every file is the one that was written.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        for file in self.manifest.files() {
            file.check(&self.archive.dir)?;
        }
        println!("{} files are what was written", self.manifest.files().len());
        Ok(())
    }

    /// Puts it all back: into NATS, or into the data folder of a `dev` that does not run.
    pub(crate) async fn run_at(&self, target: &Target, access: &Access) -> Result<(), Failure> {
        let Target { nats_url, data, .. } = target;
        if let Some(url) = nats_url {
            let connection = Connection::connect_as(url, "waybill import", access).await?;
            return as_role(PROVISIONING, access, self.run(&connection).await);
        }
        let folder = Folder::open(data).await?;
        let connection = Connection::connect(&folder.nats_url(), "waybill import").await?;
        let done = self.run(&connection).await;
        // Closed well, it is on disk.
        folder.close().await;
        if done.is_ok() && find_master_key(data)?.is_none() {
            println!(
                "put the master key of the old system into {}/master.key before the start",
                data.display()
            );
        }
        done
    }

    async fn run(&self, connection: &Connection) -> Result<(), Failure> {
        let id = self.manifest.id();
        let total = self.copies().map(|(_, copy)| copy.events).sum();
        let progress = Progress::new("import", total);
        // Nothing is touched where one of them is refused.
        let mut begun = Vec::new();
        for (context, copy) in self.copies() {
            begun.push((copy, Restore::begin(connection, context, self.replicas, &id).await?));
        }
        let mut erased = HashSet::new();
        for (copy, restore) in begun {
            self.stream(copy, restore, &mut erased, &progress).await?;
        }
        progress.finish();
        self.compare(connection).await?;
        let wanted = |name: &String| self.keys || !KEYS.contains(&name.as_str());
        let buckets: Vec<_> = self.manifest.buckets.iter().filter(|(name, _)| wanted(name)).collect();
        for (name, file) in &buckets {
            let read = lines(self.archive, file)?
                .map(|line| serde_json::from_str(&line?).map_err(because("a line is no entry")));
            let entries = read.collect::<Result<_, Failure>>()?;
            self.bucket(connection, name, (&file.config, entries), &erased, &id).await?;
        }
        let apart = || self.apart.iter().flat_map(|keys| &keys.buckets);
        for (name, bucket) in apart() {
            let content = (&bucket.config, bucket.entries.clone());
            self.bucket(connection, name, content, &erased, &id).await?;
        }
        for (context, copy) in self.copies() {
            for durable in &copy.consumers {
                restore::resume(connection, context, durable).await?;
            }
        }
        for (name, file) in buckets {
            restore::complete_bucket(connection, name, &file.config, self.replicas).await?;
        }
        for (name, bucket) in apart() {
            restore::complete_bucket(connection, name, &bucket.config, self.replicas).await?;
        }
        for (context, copy) in self.copies() {
            let timers = copy.timers.as_ref().map(|file| events(self.archive, file)).transpose()?;
            let timers = timers.into_iter().flatten().collect::<Result<_, _>>()?;
            let armed = restore::arm(connection, timers).await?;
            restore::complete(connection, context, self.replicas, (&copy.config, armed)).await?;
        }
        println!("{total} events are back, up to {:.3}", self.manifest.moment);
        Ok(())
    }

    /// The streams that are put back.
    fn copies(&self) -> impl Iterator<Item = (Context, &StreamCopy)> {
        self.contexts
            .iter()
            .filter_map(|context| Some((*context, self.manifest.streams.get(context.stream())?)))
    }

    async fn stream(
        &self,
        copy: &StreamCopy,
        mut restore: Restore,
        erased: &mut HashSet<String>,
        progress: &Progress,
    ) -> Result<(), Failure> {
        let mut chain = Chain::default();
        for segment in &copy.segments {
            for raw in events(self.archive, &segment.file)? {
                let raw = raw?;
                chain.push(&raw);
                if raw.header(header::TYPE) == Some("user.erased") {
                    erased.extend(user(&raw));
                }
                restore.append(raw).await?;
                progress.advance(1);
            }
            if chain != segment.hash {
                return Err(
                    format!("the events of {} are not those that were copied", segment.file.file).into()
                );
            }
        }
        Ok(restore.finish(copy.last, copy.events).await?)
    }

    /// Reads every event of the files.
    pub(crate) fn read_all(&self) -> Result<(), Failure> {
        for (context, copy) in self.copies() {
            let mut chain = Chain::default();
            for segment in &copy.segments {
                events(self.archive, &segment.file)?.try_for_each(|raw| raw.map(|raw| chain.push(&raw)))?;
                if chain != segment.hash {
                    return Err(format!(
                        "the events of {} are not those that were copied",
                        segment.file.file
                    )
                    .into());
                }
            }
            println!("{:14} up to {:>9}  {:>9} events", context.stream(), copy.last, copy.events);
        }
        Ok(())
    }

    /// Reads everything back and compares the running hashes.
    async fn compare(&self, connection: &Connection) -> Result<(), Failure> {
        let progress = Progress::new("read back", self.copies().map(|(_, copy)| copy.events).sum());
        for (context, copy) in self.copies() {
            let mut reader = RawReader::open(connection, context, 1, copy.last, None);
            let mut chain = Chain::default();
            loop {
                let page = reader.next_page().await?;
                if page.is_empty() {
                    break;
                }
                for raw in &page {
                    chain.push(raw);
                }
                progress.advance(page.len() as u64);
            }
            if chain != copy.hash {
                return Err(format!("{} does not hold what was copied", context.stream()).into());
            }
            // So that whoever looks sees that it is whole.
            let state = raw::state(connection, context).await?;
            if state.is_none_or(|state| state.last < copy.last) {
                return Err(format!("{} ends before {}", context.stream(), copy.last).into());
            }
        }
        progress.finish();
        Ok(())
    }

    /// Puts a bucket back. The copy may be older than an erasure that the log knows of: such a key does not come back.
    async fn bucket(
        &self,
        connection: &Connection,
        name: &str,
        (config, read): (&serde_json::Value, Vec<Entry>),
        erased: &HashSet<String>,
        id: &str,
    ) -> Result<(), Failure> {
        let mut entries = Vec::new();
        let mut left_out = 0;
        for Entry { key, value } in read {
            let value = BASE64_STANDARD.decode(value).map_err(because("a value is no base64"))?;
            match () {
                () if !erased.contains(&key) => entries.push((key, value.into())),
                () if name == nats::PERSONAL_KEYS => entries.push((key, nats::erased_mark())),
                () => left_out += 1,
            }
        }
        let marked = entries.iter().filter(|(key, _)| erased.contains(key)).count();
        if marked + left_out > 0 {
            println!("{name}: {} of erased users are not put back", marked + left_out);
        }
        let copy = BucketCopy { config: config.clone(), entries };
        Ok(restore::put_bucket(connection, name, copy, self.replicas, id).await?)
    }
}

/// The user that an event is of.
fn user(raw: &Raw) -> Option<String> {
    let subject = Subject::parse(&raw.subject).filter(|subject| subject.aggregate() == Aggregate::User)?;
    Some(subject.id().to_owned())
}
