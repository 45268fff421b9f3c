//! What a copy of the log consists of.

use super::{
    Archive, Chain, create,
    record::hex,
    seal::{Opening, Sealing},
    settle,
};
use crate::failure::{Failure, because};
use aws_lc_rs::digest::{Context, SHA256};
use jiff::Timestamp;
use nats::restore::Durable;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read, Write},
    path::Path,
};

/// The form of the files. Another one is refused.
const FORMAT: u32 = 1;
const NAME: &str = "manifest.json";
/// As long as a copy is brought up to date: what it was before stays whole.
const NEXT: &str = "manifest.next.json";

/// What there is, and what it must be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    /// The form of the files.
    format: u32,
    /// The version of Waybill that wrote it last.
    waybill: String,
    /// The version of the server that it was copied from last.
    pub(crate) nats_server: String,
    /// When it was begun.
    pub(crate) created: Timestamp,
    /// When it was written last.
    pub(crate) updated: Timestamp,
    /// The moment of the log that it holds: everything stored up to here.
    pub(crate) moment: Timestamp,
    /// How often it was brought up to date.
    pub(crate) round: u64,
    /// Whether it holds that moment: not while, or after, it was interrupted.
    pub(crate) complete: bool,
    /// Streams by name.
    pub(crate) streams: BTreeMap<String, StreamCopy>,
    /// Buckets by name.
    pub(crate) buckets: BTreeMap<String, FileCopy>,
    /// Files of read models by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) read_models: BTreeMap<String, FileCopy>,
}

/// The copy of one stream.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct StreamCopy {
    /// How the stream was configured.
    pub(crate) config: serde_json::Value,
    /// Sequence of its first event.
    pub(crate) first: u64,
    /// Everything up to here is in the copy.
    pub(crate) last: u64,
    /// How many events that is. Fewer than sequences, where timers stood between them.
    pub(crate) events: u64,
    /// The running hash over all of them.
    pub(crate) hash: Chain,
    /// The last event, and its own hash: tells whether a stream is the one that was copied.
    pub(crate) last_event: Option<(u64, Chain)>,
    /// How many events of each version of each type.
    pub(crate) types: BTreeMap<String, BTreeMap<u32, u64>>,
    /// Its files.
    pub(crate) segments: Vec<Segment>,
    /// Timers that stood at the moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) timers: Option<FileCopy>,
    /// How far the consumers of the stream were, a little before the moment.
    pub(crate) consumers: Vec<Durable>,
}

/// A file with consecutive events.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Segment {
    #[serde(flatten)]
    pub(crate) file: FileCopy,
    /// Sequence of its first event.
    pub(crate) first: u64,
    /// Sequence of its last event.
    pub(crate) last: u64,
    /// The running hash after its last event.
    pub(crate) hash: Chain,
}

/// A file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FileCopy {
    /// Its path below the folder.
    pub(crate) file: String,
    /// Its size.
    pub(crate) bytes: u64,
    /// SHA-256 of the file.
    pub(crate) sha256: String,
    /// How many lines it has.
    pub(crate) lines: u64,
    /// How its stream is configured, where it is the copy of a bucket.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub(crate) config: serde_json::Value,
}

impl Manifest {
    /// Of a copy that is begun.
    pub(crate) fn new(now: Timestamp) -> Self {
        Self {
            format: FORMAT,
            waybill: env!("CARGO_PKG_VERSION").to_owned(),
            nats_server: String::new(),
            created: now,
            updated: now,
            moment: Timestamp::UNIX_EPOCH,
            round: 0,
            complete: false,
            streams: BTreeMap::new(),
            buckets: BTreeMap::new(),
            read_models: BTreeMap::new(),
        }
    }

    /// That of a folder, if it has one that is whole.
    pub(crate) fn load(archive: &Archive) -> Result<Option<Self>, Failure> {
        Self::read(archive, NAME)
    }

    /// That of a round which was interrupted, if there is one. What is left behind of a round that was completed is none.
    pub(crate) fn begun(archive: &Archive, whole: Option<&Self>) -> Result<Option<Self>, Failure> {
        let next = Self::read(archive, NEXT)?;
        Ok(next.filter(|next| whole.is_none_or(|whole| next.round > whole.round)))
    }

    /// Whether there is one in this folder, whole or not.
    pub(super) fn exists(dir: &Path) -> bool {
        [NAME, NEXT].iter().any(|name| dir.join(name).exists())
    }

    fn read(archive: &Archive, name: &str) -> Result<Option<Self>, Failure> {
        let path = archive.dir.join(name);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(because(format!("cannot read {}", path.display()))(error)),
        };
        let text = match &archive.seal {
            Some(seal) => {
                let mut open = Vec::new();
                let read =
                    Opening::new(&text[..], seal, name).and_then(|mut from| from.read_to_end(&mut open));
                read.map_err(because(format!("cannot open {}", path.display())))?;
                open
            }
            None => text,
        };
        let manifest: Self =
            serde_json::from_slice(&text).map_err(because(format!("{} is no manifest", path.display())))?;
        if manifest.format != FORMAT {
            let (path, format) = (path.display(), manifest.format);
            return Err(format!("{path} is of format {format}; this program reads format {FORMAT}").into());
        }
        Ok(Some(manifest))
    }

    /// Writes it as a whole: beside that of the round before, until it is complete and takes its place.
    pub(crate) fn save(&mut self, archive: &Archive, now: Timestamp) -> Result<(), Failure> {
        let dir = &archive.dir;
        env!("CARGO_PKG_VERSION").clone_into(&mut self.waybill);
        self.updated = now;
        let name = if self.complete { NAME } else { NEXT };
        let (path, draft) = (dir.join(name), dir.join(format!("{name}.new")));
        let mut text = serde_json::to_vec_pretty(self)?;
        if let Some(seal) = &archive.seal {
            let mut sealing = Sealing::new(Vec::new(), seal, name)?;
            sealing.write_all(&text)?;
            text = sealing.finish()?;
        }
        let written = create(&draft).and_then(|mut file| {
            file.set_len(0)?;
            file.write_all(&text)?;
            settle(&file, &draft, &path)
        });
        written.map_err(because(format!("cannot write {}", path.display())))?;
        if self.complete {
            // What is left behind is older than this one, and so nothing goes on from it.
            let _ = fs::remove_file(dir.join(NEXT));
        }
        Ok(())
    }

    /// Every file.
    pub(crate) fn files(&self) -> Vec<&FileCopy> {
        let mut files: Vec<_> = self.buckets.values().chain(self.read_models.values()).collect();
        for stream in self.streams.values() {
            files.extend(stream.segments.iter().map(|segment| &segment.file).chain(&stream.timers));
        }
        files
    }

    /// Which copy it is: another moment, or another log, is another one.
    pub(crate) fn id(&self) -> String {
        let mut hash = Context::new(&SHA256);
        for (name, stream) in &self.streams {
            hash.update(name.as_bytes());
            hash.update(&stream.last.to_be_bytes());
            hash.update(stream.hash.bytes());
        }
        hex(hash.finish().as_ref())
    }
}

impl FileCopy {
    /// Whether the file in the folder is the one that was written.
    pub(crate) fn check(&self, dir: &Path) -> Result<(), Failure> {
        let path = dir.join(&self.file);
        let found = sha256(&path).map_err(because(format!("cannot read {}", path.display())))?;
        if found == self.sha256 {
            return Ok(());
        }
        Err(format!(
            "{} is not the file that was written: its SHA-256 is {found}, not {}",
            path.display(),
            self.sha256
        )
        .into())
    }
}

/// SHA-256 of a file, in hex.
fn sha256(path: &Path) -> io::Result<String> {
    let (mut file, mut hash) = (File::open(path)?, Context::new(&SHA256));
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(hash.finish().as_ref())),
            read => hash.update(&buffer[..read]),
        }
    }
}
