//! One `dev` per data folder.

use crate::failure::{Failure, because};
use std::{
    fs::{self, File, TryLockError},
    io::Write,
    path::Path,
};

/// The right to use a data folder: held by one process at a time, given up when the process ends, however it ends.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

const NAME: &str = "dev.lock";

impl Lock {
    /// Takes the folder, which is created where it is missing.
    pub(super) fn take(dir: &Path) -> Result<Self, Failure> {
        let shown = dir.display();
        let io = || because(format!("cannot use the data folder {shown}"));
        fs::create_dir_all(dir).map_err(io())?;
        // Not truncated: the process id in it is somebody else's until the lock is ours.
        let mut file =
            File::options().create(true).truncate(false).write(true).open(dir.join(NAME)).map_err(io())?;
        match file.try_lock() {
            Ok(()) => {
                file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(io())?;
                Ok(Self { _file: file })
            }
            Err(TryLockError::WouldBlock) => {
                let pid = fs::read_to_string(dir.join(NAME)).unwrap_or_default();
                let pid = pid.trim();
                Err(format!(
                    "waybill dev is already running on {shown}, with process id {pid}: stop it, or choose another \
                     folder with --data"
                )
                .into())
            }
            Err(TryLockError::Error(error)) => Err(io()(error)),
        }
    }

    /// Whether a process holds the folder.
    pub(super) fn is_held(dir: &Path) -> bool {
        let Ok(file) = File::open(dir.join(NAME)) else { return false };
        matches!(file.try_lock(), Err(TryLockError::WouldBlock))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_user_and_the_other_hears_who() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("deep/data");
        assert!(!Lock::is_held(&folder));
        let lock = Lock::take(&folder).unwrap();
        assert!(Lock::is_held(&folder));
        let refused = Lock::take(&folder).unwrap_err().to_string();
        assert!(refused.contains(&format!("process id {}:", std::process::id())), "{refused}");
        drop(lock);
        assert!(!Lock::is_held(&folder));
        Lock::take(&folder).unwrap();
    }
}
