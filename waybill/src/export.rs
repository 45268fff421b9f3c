//! `waybill export`: a copy of the log as files, whole or brought up to date, while everything runs.
//!
//! The order is the point: consumers first, then what waits for operators, then the moment, then everything up to it. So
//! nothing counts as handled in the copy whose effect is not in it.

use crate::{
    access::{AccessArgs, OPERATOR, as_role},
    archive::{
        Archive, Chain, Entry, Manifest, SegmentWriter, StreamCopy, write_events, write_file, write_lines,
    },
    cut::{Cut, Part},
    dev::find_nats,
    failure::{Failure, because},
    progress::Progress,
    settings,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use events::Context;
use nats::{Access, Connection, NatsUrl, Raw, RawReader, raw, restore};
use service::{Clock, config::Faults};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs,
    path::PathBuf,
};

pub(crate) const EXAMPLES: &str = "\
Examples:
  waybill export backup                        the log of the running dev, into the folder backup
  waybill export backup                        once more: only what is new since then
  waybill export backup --nats-url nats://nats:4222
  waybill export orders --stream ORDERS        one stream only; nothing that could be put back
  waybill export backup --keys                 with the keys of personal data: read docs/operations.md first";

/// Events of a segment at most, and bytes before they are compressed.
const SEGMENT_EVENTS: u64 = 50_000;
const SEGMENT_BYTES: u64 = 64 << 20;

/// What operators have to see to: without it what waits would count as handled.
pub(crate) const ALWAYS: [&str; 1] = ["PARKED"];
/// What proves who somebody is, and what their data are sealed with.
pub(crate) const KEYS: [&str; 2] = ["PERSONAL_KEYS", "CREDENTIALS"];

/// The header that names the timer that a fact ends, or was.
const SCHEDULER: &str = "Nats-Scheduler";

/// Flags of `waybill export`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Folder of the copy; one that holds a copy of the same log is brought up to date
    #[arg(value_name = "FOLDER")]
    to: PathBuf,
    /// Streams to copy, or all; a folder that holds a copy with more than these is refused
    #[arg(long, value_name = "STREAM,..", value_delimiter = ',', default_value = "all")]
    stream: Vec<String>,
    /// Copy the keys of personal data and the passwords' hashes too. Whoever is erased is gone only when this copy is
    #[arg(long)]
    keys: bool,
    /// Where NATS is [default: that of the running dev]
    #[arg(long, value_name = "URL", env = "WAYBILL_NATS_URL")]
    nats_url: Option<NatsUrl>,
    #[command(flatten)]
    access: AccessArgs,
    /// Data folder of the running dev
    #[arg(long, value_name = "DIR", env = "WAYBILL_DATA", default_value = ".waybill")]
    data: PathBuf,
}

/// The streams that are named.
pub(crate) fn streams(names: &[String], faults: &mut Faults) -> Vec<Context> {
    for name in names.iter().filter(|name| *name != "all" && Context::of_stream(name).is_none()) {
        let known = Context::ALL.map(Context::stream).join(", ");
        faults.add("--stream", format!("there is no stream {name}: expected all or {known}"));
    }
    let wanted = |context: &Context| names.iter().any(|name| name == "all" || name == context.stream());
    Context::ALL.into_iter().filter(wanted).collect()
}

/// Says everything that is wrong with the settings.
pub(crate) fn check(args: &Args) -> Result<(), Failure> {
    Ok(read(args).map(|_| ())?)
}

/// Which streams, and who reads them.
fn read(args: &Args) -> Result<(Vec<Context>, Access), Faults> {
    let mut faults = Faults::default();
    let contexts = streams(&args.stream, &mut faults);
    let access = args.access.only(OPERATOR, &mut faults);
    faults.none()?;
    Ok((contexts, access))
}

/// Copies until the copy is whole. Stopped, it can be gone on with.
pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let (contexts, access) = read(&args)?;
    let url = find_nats(args.nats_url.clone(), &args.data)?;
    let connection = Connection::connect_as(&url, "waybill export", &access).await?;
    let archive = Archive::open(&args.to, None)?;
    let clock = Clock::system();
    let wanted = Wanted { keys: args.keys, ..Wanted::default() };
    tokio::select! {
        done = export(&connection, &archive, &contexts, &wanted, &clock) => {
            let manifest = as_role(OPERATOR, &access, done)?;
            let events: u64 = manifest.streams.values().map(|stream| stream.events).sum();
            println!("{events} events up to {:.3} in {}", manifest.moment, args.to.display());
            Ok(())
        }
        signal = service::signal() => {
            Err(format!("stopped by {}: the same command goes on where it was", signal?).into())
        }
    }
}

/// What is copied beside streams and what waits for operators.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wanted<'a> {
    /// Keys and passwords, into the same folder.
    pub(crate) keys: bool,
    /// What became of idempotency keys.
    pub(crate) ledgers: bool,
    /// Files of read models, which were copied before: they must not be ahead of the log.
    pub(crate) read_models: Option<&'a BTreeMap<String, PathBuf>>,
}

/// Brings the copy in the folder up to this moment.
pub(crate) async fn export(
    connection: &Connection,
    archive: &Archive,
    contexts: &[Context],
    wanted: &Wanted<'_>,
    clock: &Clock,
) -> Result<Manifest, Failure> {
    let whole = Manifest::load(archive)?;
    let begun = Manifest::begun(archive, whole.as_ref())?;
    let mut manifest = begun.or(whole).unwrap_or_else(|| Manifest::new(clock.now()));
    no_other_stream(&manifest, contexts)?;
    manifest.complete = false;
    // What is not asked for this time is not in the copy any more: keys least of all.
    manifest.buckets.clear();
    manifest.read_models.clear();
    manifest.round += 1;
    manifest.nats_server = connection.server_version();
    for context in contexts {
        is_the_same(connection, *context, manifest.streams.get(context.stream())).await?;
    }
    let mut consumers = BTreeMap::new();
    for context in contexts {
        if raw::state(connection, *context).await?.is_some() {
            consumers.insert(*context, restore::durables(connection, *context).await?);
        }
    }
    buckets(connection, archive, &mut manifest, &ALWAYS).await?;
    if wanted.ledgers {
        // An answer is kept after what it tells is recorded, so it is recorded in the copy too.
        let ledgers: Vec<_> = contexts.iter().map(|context| nats::topology::ledger(*context)).collect();
        let ledgers: Vec<_> = ledgers.iter().map(String::as_str).collect();
        buckets(connection, archive, &mut manifest, &ledgers).await?;
    }
    if let Some(files) = wanted.read_models {
        for (name, path) in files {
            let file = format!("views/{name}-{}.zst", manifest.round);
            manifest.read_models.insert(name.clone(), write_file(archive, file, path)?);
        }
    }
    let mut timers = standing(connection, contexts).await?;
    let cut = Cut::now(connection, contexts).await?;
    timers.extend(standing(connection, contexts).await?);
    let until = |context: &Context| manifest.streams.get(context.stream()).map_or(0, |stream| stream.last);
    let total: u64 =
        cut.streams.iter().map(|(context, state)| state.last.saturating_sub(until(context))).sum();
    let progress = Progress::new("export", total);
    for (context, state) in &cut.streams {
        let mut copy = manifest.streams.remove(context.stream()).unwrap_or_default();
        copy.config.clone_from(&state.config);
        copy.consumers = consumers.remove(context).unwrap_or_default();
        let copier = Copier { connection, archive, context: *context, progress: &progress, clock };
        copier.stream(&cut, copy, &mut manifest, &mut timers).await?;
    }
    progress.finish();
    set_timers(archive, &mut manifest, &cut, &timers)?;
    if wanted.keys {
        buckets(connection, archive, &mut manifest, &KEYS).await?;
    }
    manifest.moment = cut.at;
    manifest.complete = true;
    manifest.save(archive, clock.now())?;
    sweep(archive, &manifest);
    Ok(manifest)
}

/// Removes what rounds before have left, also those that were interrupted: files that nothing names any more.
fn sweep(archive: &Archive, manifest: &Manifest) {
    let named: HashSet<_> = manifest.files().into_iter().map(|file| archive.dir.join(&file.file)).collect();
    for folder in Context::ALL.map(Context::stream).into_iter().chain(["buckets", "views"]) {
        let Ok(entries) = fs::read_dir(archive.dir.join(folder)) else { continue };
        let ours = |path: &PathBuf| path.extension().is_some_and(|end| end == "zst" || end == "part");
        let paths = entries.flatten().map(|entry| entry.path()).filter(ours);
        for path in paths.filter(|path| !named.contains(path)) {
            // The next round tries again.
            let _ = fs::remove_file(path);
        }
    }
}

/// Whether the copy holds no stream but these: others would stay at the moment of another round, and a copy is of one.
fn no_other_stream(manifest: &Manifest, contexts: &[Context]) -> Result<(), Failure> {
    let asked = |stream: &str| contexts.iter().any(|context| context.stream() == stream);
    let others: Vec<_> = manifest.streams.keys().map(String::as_str).filter(|held| !asked(held)).collect();
    if others.is_empty() {
        return Ok(());
    }
    let others = others.join(", ");
    let why = format!("the folder holds a copy with {others} too: name them as well, or another folder");
    Err(settings::fault("--stream")(why))
}

/// Whether the last event of the copy stands where it stood: else it is the copy of another log.
async fn is_the_same(
    connection: &Connection,
    context: Context,
    copy: Option<&StreamCopy>,
) -> Result<(), Failure> {
    let Some((sequence, hash)) = copy.and_then(|copy| copy.last_event) else { return Ok(()) };
    let mut reader = RawReader::open(connection, context, sequence, sequence, None);
    let found =
        if raw::state(connection, context).await?.is_some() { reader.next_page().await? } else { vec![] };
    match found.first() {
        Some(raw) if Chain::of(raw) == hash => Ok(()),
        _ => Err(format!(
            "the folder holds the copy of another log: {}:{sequence} is not what it was",
            context.stream()
        )
        .into()),
    }
}

/// Timers that stand at this moment, by subject.
async fn standing(
    connection: &Connection,
    contexts: &[Context],
) -> Result<HashMap<String, (Context, Raw)>, Failure> {
    let mut timers = HashMap::new();
    for &context in contexts.iter().filter(|context| context.has_timers()) {
        let Some(state) = raw::state(connection, context).await? else { continue };
        let mut reader = RawReader::open(connection, context, 1, state.last, Some(context.timers()));
        loop {
            let page = reader.next_page().await?;
            if page.is_empty() {
                break;
            }
            timers.extend(page.into_iter().map(|raw| (raw.subject.clone(), (context, raw))));
        }
    }
    Ok(timers)
}

/// Copies one stream.
struct Copier<'a> {
    connection: &'a Connection,
    archive: &'a Archive,
    context: Context,
    progress: &'a Progress,
    clock: &'a Clock,
}

impl Copier<'_> {
    /// Up to the cut. The manifest is written after each segment.
    async fn stream(
        &self,
        cut: &Cut,
        mut copy: StreamCopy,
        manifest: &mut Manifest,
        timers: &mut HashMap<String, (Context, Raw)>,
    ) -> Result<(), Failure> {
        let (stream, archive) = (self.context.stream(), self.archive);
        let mut part = Part::new(self.connection, self.context, copy.last + 1);
        part.extend(cut);
        let (mut writer, mut counted) = (None::<SegmentWriter>, copy.clone());
        while part.peek().await?.is_some() {
            let Some(raw) = part.take() else { break };
            self.progress.advance(1);
            if raw.subject.starts_with("timer.") {
                continue;
            }
            // It ends a timer, or is what became of it.
            if let Some(timer) = raw.header(SCHEDULER) {
                let is_older = |(_, timer): &(Context, Raw)| timer.sequence < raw.sequence;
                if timers.get(timer).is_some_and(is_older) {
                    timers.remove(timer);
                }
            }
            let segment = match &mut writer {
                Some(segment) => segment,
                None => writer.insert(SegmentWriter::new(archive, stream, raw.sequence)?),
            };
            segment.push(&raw)?;
            count(&mut counted, &raw);
            if counted.events - copy.events >= SEGMENT_EVENTS || segment.bytes >= SEGMENT_BYTES {
                let full = writer.take().map(|segment| segment.finish(counted.hash)).transpose()?;
                counted.segments.extend(full);
                counted.last = part.next() - 1;
                copy = counted.clone();
                manifest.streams.insert(stream.to_owned(), copy.clone());
                manifest.save(archive, self.clock.now())?;
            }
        }
        let rest = writer.map(|segment| segment.finish(counted.hash)).transpose()?;
        counted.segments.extend(rest);
        // Timers may have stood at the end.
        counted.last = part.missing_at_end().map_or_else(|| part.next() - 1, |missing| *missing.end());
        manifest.streams.insert(stream.to_owned(), counted);
        manifest.save(archive, self.clock.now())
    }
}

fn count(copy: &mut StreamCopy, raw: &Raw) {
    if copy.events == 0 {
        copy.first = raw.sequence;
    }
    copy.events += 1;
    copy.hash.push(raw);
    copy.last_event = Some((raw.sequence, Chain::of(raw)));
    let kind = raw.header(events::envelope::header::TYPE).unwrap_or_default();
    let schema = raw.header(events::envelope::header::DATA_SCHEMA);
    let version = schema.and_then(|schema| schema.rsplit('/').next()?.parse().ok()).unwrap_or(0);
    match copy.types.get_mut(kind) {
        Some(versions) => *versions.entry(version).or_default() += 1,
        None => _ = copy.types.insert(kind.to_owned(), BTreeMap::from([(version, 1)])),
    }
}

/// Writes down the timers that stood at the cut.
fn set_timers(
    archive: &Archive,
    manifest: &mut Manifest,
    cut: &Cut,
    timers: &HashMap<String, (Context, Raw)>,
) -> Result<(), Failure> {
    for (context, _) in &cut.streams {
        let Some(copy) = manifest.streams.get_mut(context.stream()).filter(|_| context.has_timers()) else {
            continue;
        };
        let of_stream = timers.values().filter(|(of, raw)| of == context && raw.sequence <= copy.last);
        let mut standing: Vec<_> = of_stream.map(|(_, raw)| raw.clone()).collect();
        standing.sort_by_key(|raw| raw.sequence);
        let name = format!("{}/timers-{}.jsonl.zst", context.stream(), manifest.round);
        copy.timers = Some(write_events(archive, name, &standing)?);
    }
    Ok(())
}

/// Copies buckets, those that there are.
async fn buckets(
    connection: &Connection,
    archive: &Archive,
    manifest: &mut Manifest,
    names: &[&str],
) -> Result<(), Failure> {
    for name in names {
        let copied = restore::copy_bucket(connection, name).await;
        let Some(copied) = copied.map_err(because(format!("cannot copy the bucket {name}")))? else {
            continue;
        };
        let entry = |(key, value): (String, _)| Entry { key, value: BASE64_STANDARD.encode(value) };
        let file = format!("buckets/{name}-{}.jsonl.zst", manifest.round);
        let mut file = write_lines(archive, &file, copied.entries.into_iter().map(entry))?;
        file.config = copied.config;
        manifest.buckets.insert((*name).to_owned(), file);
    }
    Ok(())
}
