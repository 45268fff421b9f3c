//! This machine: room on its disks, and the files that hold secrets.

use super::{
    Args, Plan,
    finding::{Area, Report},
    log,
};
use nats::{Connection, MasterKey};
use rustix::fs::statvfs;
use service::config::Faults;
use std::{
    env,
    ffi::OsString,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// Where containers put secrets, readable by everybody in a container that has one user.
const MOUNTED: [&str; 2] = ["/run/secrets", "/var/run/secrets"];

/// The room where read models are.
pub(super) fn disk(data: &Path, plan: &Plan, report: &mut Report) {
    folder(data, "read models", plan, report);
}

/// The room where a folder is.
pub(super) fn folder(folder: &Path, what: &str, plan: &Plan, report: &mut Report) {
    let shown = format!("{what} in {}", folder.display());
    let found = match statvfs(folder) {
        Ok(found) => found,
        Err(rustix::io::Errno::NOENT) => {
            return report.leave_open(
                Area::Disk,
                shown,
                "the folder does not exist",
                "say where it is: --data",
            );
        }
        Err(error) => return report.leave_open(Area::Disk, shown, error.to_string(), "see who may read it"),
    };
    // As df counts: what is kept back from everybody is neither used nor free.
    let used = found.f_blocks.saturating_sub(found.f_bfree);
    let all = used.saturating_add(found.f_bavail);
    let percent = used.saturating_mul(100).div_ceil(all.max(1));
    let free = found.f_bavail.saturating_mul(found.f_frsize) >> 20;
    if percent >= plan.full {
        let what = format!("the disk is {percent} % full: {free} MiB are free");
        report.find(Area::Disk, shown, what, "make room: docs/operations.md, \"The disk is full\"");
    } else {
        report.praise(Area::Disk, shown, format!("{free} MiB are free"));
    }
}

/// The master key: whether it can be read, by whom, and whether it is the right one.
pub(super) async fn master_key(args: &Args, is_dev: bool, connection: &Connection, report: &mut Report) {
    let (of, key) = if args.master_key.is_given() {
        let mut faults = Faults::default();
        let key = args.master_key.read(&mut faults);
        if let Some(file) = args.master_key.file() {
            secret_file(file, report);
        }
        if key.is_none() {
            let what = faults.to_string().lines().skip(1).map(str::trim).collect::<Vec<_>>().join("; ");
            report.find(
                Area::Credentials,
                "master key",
                what,
                "openssl rand -base64 32 makes one; use that of the services",
            );
        }
        ("master key", key)
    } else if is_dev {
        let file = args.data.join("master.key");
        secret_file(&file, report);
        let key = fs::read_to_string(&file).ok().and_then(|text| text.parse::<MasterKey>().ok());
        if key.is_none() {
            let todo = "put back the key that belongs to the data; without it personal data stay closed";
            report.find(Area::Credentials, "master.key", "cannot be read", todo);
        }
        ("master.key", key)
    } else {
        let todo = "give it as the services have it: WAYBILL_MASTER_KEY_FILE";
        return report.leave_open(Area::Credentials, "master key", "not given, so not tried", todo);
    };
    let Some(key) = key else { return };
    match nats::fits(connection, &key).await {
        Ok(Some(true)) => report.praise(Area::Credentials, of, "opens the keys of personal data"),
        Ok(Some(false)) => {
            let todo = "use the key of the other processes: services with this one do not start";
            report.find(
                Area::Credentials,
                of,
                "is not the one that the keys of personal data were wrapped with",
                todo,
            );
        }
        Ok(None) => report.leave_open(
            Area::Credentials,
            of,
            "there are no keys of personal data yet",
            "start the services",
        ),
        Err(error) => {
            report.leave_open(Area::Credentials, of, error.to_string(), log::UNREAD);
        }
    }
}

/// Who may read a file with a secret.
pub(super) fn secret_file(file: &Path, report: &mut Report) {
    let of = file.display().to_string();
    let mode = match fs::metadata(file) {
        Ok(metadata) => metadata.permissions().mode() & 0o777,
        Err(error) => {
            return report.find(
                Area::Credentials,
                of,
                error.to_string(),
                "put the file there, readable by its owner",
            );
        }
    };
    let is_mounted = MOUNTED.iter().any(|folder| file.starts_with(folder));
    // A file system of containers shows what it likes to its one user, who must not be able to change it all the same.
    let refused = if is_mounted { 0o022 } else { 0o077 };
    if mode & refused == 0 {
        return report.praise(Area::Credentials, of, format!("mode {mode:o}"));
    }
    let what = format!("has mode {mode:o}: others than its owner may use it");
    report.find(Area::Credentials, of, what, format!("chmod 600 {}", file.display()));
}

/// Variables that name keys of certificates.
const KEYS: [&str; 2] = ["WAYBILL_TLS_KEY", "WAYBILL_GATEWAY_KEY"];

/// Every file with a secret that a variable or a flag names.
pub(super) fn secret_files(args: &Args, report: &mut Report) {
    for path in named(env::vars_os(), is_secret).chain(args.access.secrets()) {
        secret(&path, report);
    }
}

/// What variables name that no flag of this command is for.
pub(super) fn named(
    variables: impl Iterator<Item = (OsString, OsString)>,
    wanted: impl Fn(&str) -> bool,
) -> impl Iterator<Item = PathBuf> {
    variables.filter_map(move |(name, value)| {
        (name.to_str().is_some_and(&wanted) && !value.is_empty()).then_some(value.into())
    })
}

fn is_secret(name: &str) -> bool {
    let is_secret = name.starts_with("WAYBILL_DATABASE_URL")
        || ["DATABASE_URL_FILE", "WAYBILL_BACKUP_KEY_FILE", "WAYBILL_BACKUP_PASSPHRASE_FILE"].contains(&name)
        || name.ends_with("PASSWORD_FILE");
    (is_secret && name.ends_with("_FILE")) || KEYS.contains(&name)
}

/// A file, or each seed in a folder.
fn secret(path: &Path, report: &mut Report) {
    let Ok(entries) = fs::read_dir(path) else { return secret_file(path, report) };
    let mut seeds: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    seeds.retain(|file| file.extension().is_some_and(|end| end == "nk"));
    seeds.sort();
    for file in &seeds {
        secret_file(file, report);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;

    #[test]
    fn every_file_with_a_secret_is_looked_at() {
        let names = [
            "WAYBILL_BACKUP_KEY_FILE",
            "WAYBILL_BACKUP_PASSPHRASE_FILE",
            "WAYBILL_DATABASE_URL_ORDERS_FILE",
            "DATABASE_URL_FILE",
            "SMTP_PASSWORD_FILE",
            "WAYBILL_TLS_KEY",
            "WAYBILL_GATEWAY_KEY",
        ];
        let others =
            [("WAYBILL_BACKUP_KEY", "secret"), ("WAYBILL_DATA", "x"), ("WAYBILL_DATABASE_URL_FILE", "")];
        let variables = names.iter().map(|name| (*name, *name)).chain(others);
        let variables = variables.map(|(name, value)| (name.into(), value.into()));
        let found: Vec<_> = named(variables, is_secret).collect();
        assert_eq!(found, names.map(PathBuf::from));

        let dir = tempfile::tempdir().unwrap();
        for (name, mode) in [("orders.nk", 0o644), ("users.nk", 0o600), ("readme", 0o644)] {
            fs::write(dir.path().join(name), "").unwrap();
            fs::set_permissions(dir.path().join(name), Permissions::from_mode(mode)).unwrap();
        }
        let mut report = Report::default();
        secret(dir.path(), &mut report);
        assert_eq!(report.findings(), 1);
        secret(&dir.path().join("orders.nk"), &mut report);
        secret(&dir.path().join("nowhere"), &mut report);
        assert_eq!(report.findings(), 3);
    }
}
