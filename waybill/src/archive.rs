//! A copy of the log as files: segments of events as compressed JSON lines, and a manifest that says what they must be.
//!
//! ```text
//! manifest.json                        what is there: streams, segments, hashes
//! ORDERS/000000000001.jsonl.zst        events of one stream, each on a line
//! FULFILMENT/timers-2.jsonl.zst        timers that stood when the copy was made for the second time
//! buckets/PARKED-2.jsonl.zst           messages that wait for an operator
//! ```
//!
//! Files are for their owner only. A segment is written under another name, synced and renamed, and only then in the
//! manifest: a copy that is interrupted goes on behind the last segment that the manifest names.

mod manifest;
mod record;
mod segment;

pub(crate) use manifest::{FileCopy, Manifest, Segment, StreamCopy};
pub(crate) use record::{Chain, Entry};
pub(crate) use segment::{SegmentWriter, events, lines, write_events, write_lines};

use crate::failure::{Failure, because};
use std::{
    fs::{self, DirBuilder, File, TryLockError},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// The folder of a copy, held by one process at a time.
#[derive(Debug)]
pub(crate) struct Archive {
    pub(crate) dir: PathBuf,
    _lock: File,
}

const LOCK: &str = "archive.lock";

impl Archive {
    /// Takes the folder, which is made where it is missing.
    pub(crate) fn open(dir: &Path) -> Result<Self, Failure> {
        let shown = dir.display();
        make(dir).map_err(because(format!("cannot use the folder {shown}")))?;
        let lock = create(&dir.join(LOCK)).map_err(because(format!("cannot use the folder {shown}")))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { dir: dir.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(format!("another process is using {shown}").into()),
            Err(TryLockError::Error(error)) => Err(because(format!("cannot lock {shown}"))(error)),
        }
    }
}

/// Makes a folder for its owner only.
fn make(dir: &Path) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Makes a file for its owner only, or opens it.
fn create(path: &Path) -> std::io::Result<File> {
    File::options().create(true).truncate(false).write(true).mode(0o600).open(path)
}

/// Puts a file that is whole, and on disk, where it belongs.
fn settle(file: &File, draft: &Path, path: &Path) -> std::io::Result<()> {
    file.sync_all()?;
    fs::rename(draft, path)?;
    // The name is on disk when its folder is.
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}
