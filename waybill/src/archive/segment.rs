//! Files of lines, compressed, hashed while they are written.

use super::{
    Archive, Chain, FileCopy, Seal, Segment, create, make, record,
    seal::{Opening, Sealing},
    settle,
};
use crate::failure::{Failure, because};
use aws_lc_rs::digest::{Context, SHA256};
use nats::Raw;
use serde::Serialize;
use std::{
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, Read, Write},
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

/// What is compressed goes here: as it is, or sealed.
enum Sink<W: Write> {
    Plain(W),
    Sealed(Box<Sealing<W>>),
}

impl<W: Write> Sink<W> {
    fn new(to: W, seal: Option<&Seal>, name: &str) -> io::Result<Self> {
        match seal {
            Some(seal) => Ok(Self::Sealed(Box::new(Sealing::new(to, seal, name)?))),
            None => Ok(Self::Plain(to)),
        }
    }

    fn finish(self) -> io::Result<W> {
        match self {
            Self::Plain(to) => Ok(to),
            Self::Sealed(sealing) => sealing.finish(),
        }
    }
}

impl<W: Write> Write for Sink<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(to) => to.write(buffer),
            Self::Sealed(sealing) => sealing.write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(to) => to.flush(),
            Self::Sealed(sealing) => sealing.flush(),
        }
    }
}

/// A file of lines that is being written, under another name.
struct Draft {
    dir: PathBuf,
    name: String,
    to: Encoder<'static, Sink<Hashed>>,
    lines: u64,
}

impl Draft {
    fn new(archive: &Archive, name: String) -> io::Result<Self> {
        let dir = &archive.dir;
        let path = dir.join(&name);
        path.parent().map_or(Ok(()), make)?;
        let file = create(&draft(&path))?;
        // An interrupted attempt may have left something behind.
        file.set_len(0)?;
        let hashed = Hashed { file: BufWriter::new(file), hash: Context::new(&SHA256), bytes: 0 };
        let mut to = Encoder::new(Sink::new(hashed, archive.seal.as_ref(), &name)?, LEVEL)?;
        to.include_checksum(true)?;
        Ok(Self { dir: dir.to_owned(), name, to, lines: 0 })
    }

    fn line(&mut self, line: &[u8]) -> io::Result<()> {
        self.lines += 1;
        self.to.write_all(line)
    }

    fn finish(self) -> io::Result<FileCopy> {
        let Self { dir, name, to, lines } = self;
        let Hashed { file, hash, bytes } = to.finish()?.finish()?;
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
    pub(crate) fn new(archive: &Archive, stream: &str, first: u64) -> Result<Self, Failure> {
        let draft = Draft::new(archive, format!("{stream}/{first:012}.jsonl.zst"));
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
    archive: &Archive,
    name: &str,
    values: impl IntoIterator<Item = T>,
) -> Result<FileCopy, Failure> {
    let failed = || because(format!("cannot write {}", archive.dir.join(name).display()));
    let mut draft = Draft::new(archive, name.to_owned()).map_err(failed())?;
    for value in values {
        let mut line = serde_json::to_vec(&value)?;
        line.push(b'\n');
        draft.line(&line).map_err(failed())?;
    }
    draft.finish().map_err(failed())
}

/// Writes a file of these messages.
pub(crate) fn write_events(archive: &Archive, name: String, messages: &[Raw]) -> Result<FileCopy, Failure> {
    let mut draft = Draft::new(archive, name).map_err(because("cannot write messages"))?;
    for raw in messages {
        let mut line = Vec::new();
        record::write(raw, &mut line)?;
        draft.line(&line).map_err(because("cannot write messages"))?;
    }
    draft.finish().map_err(because("cannot write messages"))
}

/// Copies a file that has no lines.
pub(crate) fn write_file(archive: &Archive, name: String, from: &Path) -> Result<FileCopy, Failure> {
    let failed = || because(format!("cannot copy {}", from.display()));
    let mut draft = Draft::new(archive, name).map_err(failed())?;
    let mut source = File::open(from).map_err(failed())?;
    io::copy(&mut source, &mut draft.to).map_err(failed())?;
    draft.finish().map_err(failed())
}

/// Puts a file that has no lines back.
pub(crate) fn read_file(archive: &Archive, copy: &FileCopy, to: &Path) -> Result<(), Failure> {
    let failed = || because(format!("cannot put {} back", to.display()));
    to.parent().map_or(Ok(()), make).map_err(failed())?;
    let draft = draft(to);
    let mut file = create(&draft).map_err(failed())?;
    file.set_len(0).map_err(failed())?;
    io::copy(&mut content(archive, copy).map_err(failed())?, &mut file).map_err(failed())?;
    settle(&file, &draft, to).map_err(failed())
}

/// What is in a file.
fn content(archive: &Archive, copy: &FileCopy) -> io::Result<Decoder<'static, BufReader<Source>>> {
    let file = BufReader::new(File::open(archive.dir.join(&copy.file))?);
    let source: Source = match &archive.seal {
        Some(seal) => Box::new(Opening::new(file, seal, &copy.file)?),
        None => Box::new(file),
    };
    Decoder::new(source)
}

type Source = Box<dyn Read + Send>;

/// The lines of a file.
pub(crate) fn lines(
    archive: &Archive,
    copy: &FileCopy,
) -> Result<impl Iterator<Item = io::Result<String>> + use<>, Failure> {
    let opened = content(archive, copy);
    let shown = archive.dir.join(&copy.file);
    Ok(BufReader::new(opened.map_err(because(format!("cannot read {}", shown.display())))?).lines())
}

/// The events of a file.
pub(crate) fn events(
    archive: &Archive,
    copy: &FileCopy,
) -> Result<impl Iterator<Item = Result<Raw, Failure>> + use<>, Failure> {
    let path = archive.dir.join(&copy.file).display().to_string();
    let read = move |line: io::Result<String>| -> Result<Raw, Failure> {
        let line = line.map_err(because(format!("cannot read {path}")))?;
        record::read(&line).map_err(because(format!("cannot read {path}")))
    };
    Ok(lines(archive, copy)?.map(read))
}
