//! A copy of the log as files: segments of events as compressed JSON lines, and a manifest that says what they must be.
//!
//! ```text
//! manifest.json                        what is there: streams, segments, hashes
//! manifest.next.json                   what there will be, while a round is under way or after it was interrupted
//! ORDERS/000000000001.jsonl.zst        events of one stream, each on a line
//! FULFILMENT/timers-2.jsonl.zst        timers that stood when the copy was made for the second time
//! buckets/PARKED-2.jsonl.zst           messages that wait for an operator
//! seal.json                            how it is sealed, where it is: then every other file is encrypted
//! views/orders.sqlite-2.zst            files of read models, where they were asked for
//! ```
//!
//! Files are for their owner only. A segment is written under another name, synced and renamed, and only then in the
//! manifest: a copy that is interrupted goes on behind the last segment that the manifest names.

mod keys;
mod manifest;
mod record;
mod seal;
mod segment;

pub(crate) use keys::{KeptBucket, Keys};
pub(crate) use manifest::{FileCopy, Manifest, Segment, StreamCopy};
pub(crate) use record::{Chain, Entry};
pub(crate) use seal::{Seal, Unlock, Wrapped};
pub(crate) use segment::{SegmentWriter, events, lines, read_file, write_events, write_file, write_lines};

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
    /// The key of its files, where it is sealed.
    pub(crate) seal: Option<Seal>,
    _lock: File,
}

const LOCK: &str = "archive.lock";

impl Archive {
    /// Takes the folder, which is made where it is missing. What is sealed is opened with what is given; a folder with nothing
    /// in it is sealed with it.
    pub(crate) fn open(dir: &Path, unlock: Option<&Unlock>) -> Result<Self, Failure> {
        Self::take(dir, |dir| open_seal(dir, unlock))
    }

    /// The same for who only reads: with a key given, what is not sealed is refused, for it could be anybody's.
    pub(crate) fn open_for_reading(dir: &Path, unlock: Option<&Unlock>) -> Result<Self, Failure> {
        if unlock.is_some() && Wrapped::load(dir)?.is_none() {
            return Err(format!(
                "the copy in {} is not sealed: leave the key out where that is meant",
                dir.display()
            )
            .into());
        }
        Self::open(dir, unlock)
    }

    fn take(dir: &Path, seal: impl FnOnce(&Path) -> Result<Option<Seal>, Failure>) -> Result<Self, Failure> {
        let shown = dir.display();
        make(dir).map_err(because(format!("cannot use the folder {shown}")))?;
        let lock = create(&dir.join(LOCK)).map_err(because(format!("cannot use the folder {shown}")))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { dir: dir.to_owned(), seal: seal(dir)?, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(format!("another process is using {shown}").into()),
            Err(TryLockError::Error(error)) => Err(because(format!("cannot lock {shown}"))(error)),
        }
    }
}

fn open_seal(dir: &Path, unlock: Option<&Unlock>) -> Result<Option<Seal>, Failure> {
    let shown = dir.display();
    match (Wrapped::load(dir)?, unlock) {
        (Some(wrapped), Some(unlock)) => {
            wrapped.open(unlock).map(Some).map_err(because(format!("cannot open the copy in {shown}")))
        }
        (Some(_), None) => Err(format!(
            "the copy in {shown} is sealed: waybill backup and waybill restore open it, with --key-file or --passphrase-file"
        )
        .into()),
        (None, Some(_)) if Manifest::exists(dir) => {
            Err(format!("the copy in {shown} is not sealed: leave the key out, or take another folder").into())
        }
        (None, Some(unlock)) => {
            let (wrapped, seal) = Wrapped::new(unlock)?;
            wrapped.save(dir)?;
            Ok(Some(seal))
        }
        (None, None) => Ok(None),
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
    File::open(folder_of(path))?.sync_all()
}

/// The folder that a file is in, also where only its name is given.
pub(crate) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}

/// Whether the file `path`, which need not be there yet, lies in the folder `dir`, whatever both are called.
pub(crate) fn lies_in(path: &Path, dir: &Path) -> std::io::Result<bool> {
    let folder = fs::canonicalize(folder_of(path))?;
    Ok(folder.join(path.file_name().unwrap_or_default()).starts_with(real(dir)?))
}

/// Where a path leads, as far as it exists.
fn real(path: &Path) -> std::io::Result<PathBuf> {
    match (fs::canonicalize(path), path.file_name()) {
        (Err(error), Some(name)) if error.kind() == std::io::ErrorKind::NotFound => {
            Ok(real(folder_of(path))?.join(name))
        }
        (found, _) => found,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_file_lies_in_a_folder_whatever_both_are_called() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("backup")).unwrap();
        fs::create_dir(at("elsewhere")).unwrap();
        symlink(at("backup"), at("link")).unwrap();
        for (file, folder, inside) in [
            ("backup/keys", "backup", true),
            ("link/keys", "backup", true),
            ("backup/keys", "link", true),
            ("elsewhere/../backup/keys", "backup", true),
            ("elsewhere/keys", "backup", false),
            ("elsewhere/keys", "not/yet/there", false),
            ("elsewhere/keys", "elsewhere/../elsewhere", true),
            ("backup-keys", "backup", false),
        ] {
            assert_eq!(lies_in(&at(file), &at(folder)).unwrap(), inside, "{file} {folder}");
        }
        assert!(lies_in(&at("nowhere/keys"), &at("backup")).is_err());
        // A name alone is a file in this folder.
        assert!(lies_in(Path::new("keys"), Path::new(".")).unwrap());
        assert!(!lies_in(Path::new("keys"), &at("backup")).unwrap());
    }

    #[test]
    fn a_file_is_settled_where_only_its_name_is_given() {
        let draft = format!("settled-{}.part", std::process::id());
        let path = Path::new(&draft).with_extension("done");
        let file = create(Path::new(&draft)).unwrap();
        let settled = settle(&file, Path::new(&draft), &path);
        fs::remove_file(&path).unwrap();
        settled.unwrap();
    }
}
