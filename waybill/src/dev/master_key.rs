//! The master key of a local system: made at the first start, beside the data that it opens.

use crate::{
    failure::{Failure, because},
    settings::MasterKeyArgs,
};
use nats::MasterKey;
use service::config::Faults;
use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

const NAME: &str = "master.key";

/// The key as it is given, else that of the data folder; None is already noted as a fault of `flag`, which needs it.
pub(crate) fn master_key(
    given: &MasterKeyArgs,
    dir: &Path,
    flag: &str,
    faults: &mut Faults,
) -> Option<MasterKey> {
    if given.is_given() {
        return given.read(faults);
    }
    match find_master_key(dir) {
        Ok(Some(key)) => return Some(key),
        Ok(None) => {
            let why = "needs the master key: WAYBILL_MASTER_KEY, --master-key-file, or --data of a dev";
            faults.add(flag, why);
        }
        Err(failure) => faults.add(flag, failure),
    }
    None
}

/// The key of a data folder, if it has one.
pub(crate) fn find_master_key(dir: &Path) -> Result<Option<MasterKey>, Failure> {
    let path = dir.join(NAME);
    match fs::read_to_string(&path) {
        Ok(text) => text.parse().map(Some).map_err(because(format!("cannot use {}", path.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(because(format!("cannot read {}", path.display()))(error)),
    }
}

/// The key of a data folder, which is made where it has none.
pub(super) fn find_or_create(dir: &Path) -> Result<MasterKey, Failure> {
    if let Some(key) = find_master_key(dir)? {
        return Ok(key);
    }
    let key = MasterKey::generate();
    let path = dir.join(NAME);
    write(&path, &key).map_err(because(format!("cannot write {}", path.display())))?;
    Ok(key)
}

/// For its owner's eyes only, and all of it on disk before anything is sealed with it.
fn write(path: &Path, key: &MasterKey) -> io::Result<()> {
    let draft = path.with_extension("key.new");
    // Left behind by a start that was killed; nothing was sealed with it.
    fs::remove_file(&draft).or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    })?;
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&draft)?;
    writeln!(file, "{}", *key.to_base64())?;
    file.sync_all()?;
    fs::rename(&draft, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn it_is_made_once_and_for_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        assert!(find_master_key(dir.path()).unwrap().is_none());
        fs::write(dir.path().join("master.key.new"), "half of").unwrap();
        let first = find_or_create(dir.path()).unwrap();
        let again = find_or_create(dir.path()).unwrap();
        assert_eq!(first.to_base64(), again.to_base64());
        let mode = fs::metadata(dir.path().join(NAME)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_broken_one_is_not_replaced_and_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(NAME), "half of it").unwrap();
        let refused = find_or_create(dir.path()).unwrap_err();
        assert!(!crate::failure::report(&*refused).contains("half"), "{refused}");
        assert_eq!(fs::read_to_string(dir.path().join(NAME)).unwrap(), "half of it");
    }
}
