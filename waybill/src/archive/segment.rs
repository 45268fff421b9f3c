//! Files of lines, compressed, hashed while they are written.

use super::{Chain, FileCopy, Segment, create, make, record, settle};
use crate::failure::{Failure, because};
use aws_lc_rs::digest::{Context, SHA256};
use nats::Raw;
use serde::Serialize;
use std::{
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, Write},
    path::{Path, PathBuf},
};
use zstd::{Decoder, Encoder};

/// Much smaller than the default level makes it costs several times as long.
const LEVEL: i32 = 3;

/// A file that hashes what goes into it.
struct Hashed {
    file: BufWriter<File>,
    hash: Context,
    bytes: u64,
}

impl Write for Hashed {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.file.write(buffer)?;
        self.hash.update(&buffer[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// A file of lines that is being written, under another name.
struct Draft {
    dir: PathBuf,
    name: String,
    to: Encoder<'static, Hashed>,
    lines: u64,
}

impl Draft {
    fn new(dir: &Path, name: String) -> io::Result<Self> {
        let path = dir.join(&name);
        path.parent().map_or(Ok(()), make)?;
        let file = create(&draft(&path))?;
        // An interrupted attempt may have left something behind.
        file.set_len(0)?;
        let hashed = Hashed { file: BufWriter::new(file), hash: Context::new(&SHA256), bytes: 0 };
        let mut to = Encoder::new(hashed, LEVEL)?;
        to.include_checksum(true)?;
        Ok(Self { dir: dir.to_owned(), name, to, lines: 0 })
    }

    fn line(&mut self, line: &[u8]) -> io::Result<()> {
        self.lines += 1;
        self.to.write_all(line)
    }

    fn finish(self) -> io::Result<FileCopy> {
        let Self { dir, name, to, lines } = self;
        let Hashed { file, hash, bytes } = to.finish()?;
        let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
        let path = dir.join(&name);
        settle(&file, &draft(&path), &path)?;
        let sha256 = record::hex(hash.finish().as_ref());
        Ok(FileCopy { file: name, bytes, sha256, lines, config: serde_json::Value::Null })
    }
}

fn draft(path: &Path) -> PathBuf {
    path.with_extension("part")
}

/// Writes the events of one segment.
pub(crate) struct SegmentWriter {
    draft: Draft,
    first: u64,
    last: u64,
    line: Vec<u8>,
    /// Bytes before they are compressed.
    pub(crate) bytes: u64,
}

impl SegmentWriter {
    /// Begins the segment that starts with this event.
    pub(crate) fn new(dir: &Path, stream: &str, first: u64) -> Result<Self, Failure> {
        let draft = Draft::new(dir, format!("{stream}/{first:012}.jsonl.zst"));
        let draft = draft.map_err(because(format!("cannot write a segment of {stream}")))?;
        Ok(Self { draft, first, last: first, line: Vec::new(), bytes: 0 })
    }

    /// Adds an event.
    pub(crate) fn push(&mut self, raw: &Raw) -> Result<(), Failure> {
        self.line.clear();
        record::write(raw, &mut self.line)?;
        self.draft.line(&self.line).map_err(because("cannot write a segment"))?;
        self.last = raw.sequence;
        self.bytes += self.line.len() as u64;
        Ok(())
    }

    /// Ends it: it is whole, and on disk. `hash` is the running hash after its last event.
    pub(crate) fn finish(self, hash: Chain) -> Result<Segment, Failure> {
        let (first, last) = (self.first, self.last);
        let file = self.draft.finish().map_err(because("cannot finish a segment"))?;
        Ok(Segment { file, first, last, hash })
    }
}

/// Writes a file of these values, a line each.
pub(crate) fn write_lines<T: Serialize>(
    dir: &Path,
    name: &str,
    values: impl IntoIterator<Item = T>,
) -> Result<FileCopy, Failure> {
    let failed = || because(format!("cannot write {}", dir.join(name).display()));
    let mut draft = Draft::new(dir, name.to_owned()).map_err(failed())?;
    for value in values {
        let mut line = serde_json::to_vec(&value)?;
        line.push(b'\n');
        draft.line(&line).map_err(failed())?;
    }
    draft.finish().map_err(failed())
}

/// Writes a file of these messages.
pub(crate) fn write_events(dir: &Path, name: String, messages: &[Raw]) -> Result<FileCopy, Failure> {
    let mut draft = Draft::new(dir, name).map_err(because("cannot write messages"))?;
    for raw in messages {
        let mut line = Vec::new();
        record::write(raw, &mut line)?;
        draft.line(&line).map_err(because("cannot write messages"))?;
    }
    draft.finish().map_err(because("cannot write messages"))
}

/// The lines of a file.
pub(crate) fn lines(
    dir: &Path,
    copy: &FileCopy,
) -> Result<impl Iterator<Item = io::Result<String>> + use<>, Failure> {
    let path = dir.join(&copy.file);
    let opened = File::open(&path).and_then(Decoder::new);
    Ok(BufReader::new(opened.map_err(because(format!("cannot read {}", path.display())))?).lines())
}

/// The events of a file.
pub(crate) fn events(
    dir: &Path,
    copy: &FileCopy,
) -> Result<impl Iterator<Item = Result<Raw, Failure>> + use<>, Failure> {
    let path = dir.join(&copy.file).display().to_string();
    let read = move |line: io::Result<String>| -> Result<Raw, Failure> {
        let line = line.map_err(because(format!("cannot read {path}")))?;
        record::read(&line).map_err(because(format!("cannot read {path}")))
    };
    Ok(lines(dir, copy)?.map(read))
}
