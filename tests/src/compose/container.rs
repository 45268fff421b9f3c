//! A container of `docker-compose.yml` as a process: a folder with what is mounted, the command, and nothing in the environment
//! but what the image and compose say.

use super::{image::Image, translation::Translation};
use crate::process;
use projections::database::Cluster;
use rustix::process::{Signal, kill_process, kill_process_group};
use serde_json::Value;
use std::{
    ffi::OsString,
    fs, io,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};
use tokio::process::{Child, Command};

/// Far more than a server takes that is told to end at once.
const AT_ONCE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(20);

/// A container. Dropped, it is killed with all that it has started.
#[derive(Debug)]
pub(super) struct Container {
    pub(super) name: String,
    /// After how many others it was started, of those that wait for each other.
    pub(super) wave: usize,
    definition: Value,
    root: PathBuf,
    command: Vec<String>,
    environment: Vec<(String, String)>,
    path: OsString,
    user: Option<(u32, u32)>,
    stop: Signal,
    check: Vec<String>,
    child: Option<Child>,
}

/// What a container is made of.
pub(super) struct Source<'a> {
    pub(super) definition: &'a Value,
    /// The secrets of the file: name and place.
    pub(super) secrets: &'a Value,
    /// Where a relative path leads.
    pub(super) project: &'a dyn Fn(&str) -> PathBuf,
    /// Where its programs are.
    pub(super) path: OsString,
}

impl Container {
    /// Makes its folder.
    pub(super) fn make(
        name: &str,
        wave: usize,
        source: &Source<'_>,
        mut read: Translation<'_>,
    ) -> io::Result<Self> {
        let Source { definition, secrets, project, path } = source;
        let image = Image::of(text(&definition["image"]));
        // Only PostgreSQL insists on not being root.
        let user = if definition["user"] == "postgres" {
            Cluster::runs_as().map_err(io::Error::other)?
        } else {
            None
        };
        let (mut files, mut folders) = (Vec::new(), image.volumes);
        for mount in list(&definition["volumes"]) {
            let [from, to] =
                [0, 1].map(|part| text(mount).split(':').nth(part).unwrap_or_default().to_owned());
            if from.starts_with("./") { files.push((project(&from), to)) } else { folders.push(to) }
        }
        for secret in list(&definition["secrets"]) {
            let (source, target) = match secret {
                Value::String(name) => (name.as_str(), name.as_str()),
                long => (text(&long["source"]), text(&long["target"])),
            };
            files.push((project(text(&secrets[source]["file"])), format!("/run/secrets/{target}")));
        }
        folders.extend(
            list(&definition["tmpfs"]).map(|one| text(one).split(':').next().unwrap_or_default().to_owned()),
        );
        read.mounted = files.iter().map(|(_, to)| to).chain(&folders).cloned().collect();
        fs::create_dir_all(&read.root)?;
        for (from, to) in files {
            mount(&from, &read.inside(&to), &read)
                .map_err(|error| io::Error::other(format!("{name}: {}: {error}", from.display())))?;
        }
        for folder in folders {
            let folder = read.inside(&folder);
            fs::create_dir_all(&folder)?;
            if let Some((user, group)) = user {
                chown(folder, Some(user), Some(group))?;
            }
        }
        let more = definition["environment"].as_object().into_iter().flatten();
        let more = more.map(|(name, value)| (name.clone(), plain(value)));
        let environment = image.environment.into_iter().chain(more);
        let environment =
            environment.map(|(name, value)| (name.clone(), read.variable(&name, &value))).collect();
        let entrypoint = if definition["entrypoint"].is_null() {
            image.entrypoint
        } else {
            words(&definition["entrypoint"])
        };
        let command = entrypoint.into_iter().chain(words(&definition["command"]));
        let check = words(&definition["healthcheck"]["test"]);
        Ok(Self {
            name: name.to_owned(),
            wave,
            definition: (*definition).clone(),
            command: command.map(|word| read.text(&word)).collect(),
            environment,
            path: path.clone(),
            user,
            stop: image.stop,
            check: check.iter().map(|word| read.text(word)).collect(),
            root: read.root,
            child: None,
        })
    }

    /// Starts it, for the first time or again.
    pub(super) fn start(&mut self) -> io::Result<()> {
        let log = fs::File::options().create(true).append(true).open(self.log_file())?;
        let mut command = self.process(&self.command);
        command.stdout(log.try_clone()?).stderr(log).process_group(0);
        self.child = Some(command.spawn()?);
        Ok(())
    }

    fn process(&self, words: &[String]) -> Command {
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).env_clear().env("PATH", &self.path).current_dir(&self.root);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
        command.stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// Waits as long as its health check may take until that says that all is well.
    ///
    /// # Panics
    /// Where it does not, or ends.
    pub(super) async fn is_healthy(&mut self) {
        let check = self.definition["healthcheck"].clone();
        let retries = u32::try_from(check["retries"].as_u64().unwrap_or(3)).unwrap_or_default();
        let within = span(&check["start_period"], 0) + span(&check["interval"], 30) * retries;
        let timeout = span(&check["timeout"], 30);
        let Some((kind, words)) =
            self.check.clone().split_first().map(|(kind, words)| (kind.clone(), words.to_vec()))
        else {
            return;
        };
        assert_eq!(kind, "CMD", "{}", self.name);
        crate::eventually(&format!("{} is healthy", self.name), within, async || {
            if let Some(status) = self.status() {
                panic!("{} has ended: {status}", self.name);
            }
            let asked = self.process(&words).output();
            let answer = tokio::time::timeout(timeout, asked).await.ok()?;
            let answer = answer.unwrap_or_else(|error| panic!("{}: {}: {error}", self.name, words[0]));
            answer.status.success().then_some(())
        })
        .await;
    }

    /// How it has ended; none while it runs.
    pub(super) fn status(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().ok().flatten()
    }

    /// Waits until it has ended by itself.
    pub(super) async fn ended(&mut self) -> io::Result<ExitStatus> {
        match &mut self.child {
            Some(child) => child.wait().await,
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Whether it is started again when it fails.
    pub(super) fn starts_again(&self) -> bool {
        self.definition["restart"] == "on-failure"
    }

    /// Asks it to stop, as the image says.
    pub(super) fn ask_to_stop(&self) -> io::Result<()> {
        let pid = self.child.as_ref().and_then(Child::id).and_then(process::pid);
        Ok(kill_process(pid.ok_or(io::ErrorKind::NotFound)?, self.stop)?)
    }

    /// Waits until it has ended, and fails where it has to be killed.
    ///
    /// # Panics
    /// When it takes longer than compose gives it.
    pub(super) async fn stopped(&mut self) -> io::Result<ExitStatus> {
        let grace = span(&self.definition["stop_grace_period"], 10);
        let ended = tokio::time::timeout(grace, self.ended()).await;
        ended.unwrap_or_else(|_| panic!("{} does not stop within {grace:?}", self.name))
    }

    fn log_file(&self) -> PathBuf {
        self.root.with_extension("log")
    }

    /// What a variable says.
    pub(super) fn variable(&self, name: &str) -> Option<String> {
        self.environment.iter().rfind(|(known, _)| known == name).map(|(_, value)| value.clone())
    }

    /// What it has said.
    pub(super) fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child
            && let Some(pid) = child.id().and_then(process::pid)
        {
            // PostgreSQL ends at once with all of its processes, which are in groups of their own.
            kill_process_group(pid, Signal::QUIT).ok();
            let mut patience = AT_ONCE;
            while matches!(child.try_wait(), Ok(None)) && !patience.is_zero() {
                std::thread::sleep(POLL);
                patience = patience.saturating_sub(POLL);
            }
            kill_process_group(pid, Signal::KILL).ok();
        }
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            eprintln!("log of {}:\n{}", self.name, lines[lines.len().saturating_sub(15)..].join("\n"));
        }
    }
}

/// Puts a file or a folder where a container sees it, with what is read otherwise there. Certificates and keys are as they are.
fn mount(from: &Path, to: &Path, read: &Translation<'_>) -> io::Result<()> {
    if from.is_dir() {
        fs::create_dir_all(to)?;
        return fs::read_dir(from)?.try_for_each(|file| {
            let file = file?;
            mount(&file.path(), &to.join(file.file_name()), read)
        });
    }
    let text = fs::read_to_string(from)?;
    let text = if text.starts_with("-----BEGIN") { text } else { read.text(&text) };
    fs::create_dir_all(to.parent().unwrap_or(to))?;
    fs::write(to, text)?;
    fs::set_permissions(to, fs::Permissions::from_mode(fs::metadata(from)?.permissions().mode()))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn words(value: &Value) -> Vec<String> {
    list(value).map(plain).collect()
}

/// A text, or a number as one; nothing, which is what a variable leaves that is filled in with nothing.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// `30s`
fn span(value: &Value, otherwise: u64) -> Duration {
    let seconds = value.as_str().and_then(|text| text.strip_suffix('s')?.parse().ok());
    Duration::from_secs(seconds.unwrap_or(otherwise))
}
