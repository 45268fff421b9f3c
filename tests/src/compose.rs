//! What `docker-compose.yml` starts, as processes of this machine: the same commands, variables, files, secrets, conditions and
//! health checks. A container is a folder with what is mounted; what is read otherwise there is in [`translation`].

mod container;
mod image;
mod pods;
mod translation;

use crate::{Process, yaml};
use container::{Container, Source};
use nats::server::Binary;
use projections::database::Cluster;
use serde_json::Value;
use std::{
    collections::BTreeSet,
    env,
    ffi::OsString,
    fs, io,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    time::Duration,
};
use tempfile::TempDir;
use tokio::{process::Command, time::Instant};
use translation::{Ports, Translation};

/// Far more than what runs once takes.
const DONE_WITHIN: Duration = Duration::from_mins(1);

/// The containers of the file, none of which runs at first. Dropped, all are killed.
#[derive(Debug)]
pub struct Compose {
    // Killed before their folders go.
    running: Vec<Container>,
    file: Value,
    profiles: Vec<String>,
    ports: Ports,
    path: OsString,
    project: TempDir,
}

impl Compose {
    /// Reads the file with the variables of another one, as `docker compose --env-file` does, and makes the secrets.
    ///
    /// # Panics
    /// Where the file cannot be read, or the script that makes the secrets fails.
    pub async fn read(variables: &str) -> io::Result<Self> {
        Self::changed(variables, |text| text).await
    }

    /// The same, of a file in which something is different.
    ///
    /// # Panics
    /// Where the file cannot be read, or the script that makes the secrets fails.
    pub async fn changed(variables: &str, change: impl FnOnce(String) -> String) -> io::Result<Self> {
        let project = tempfile::tempdir()?;
        // PostgreSQL runs as somebody else.
        fs::set_permissions(project.path(), fs::Permissions::from_mode(0o755))?;
        let variables = yaml::variables(&repository(variables));
        let text = change(fs::read_to_string(repository("docker-compose.yml"))?);
        let copy = project.path().join("docker-compose.yml");
        fs::write(&copy, yaml::interpolated(&text, &variables))?;
        let profiles = variables.get("COMPOSE_PROFILES").map_or("", String::as_str);
        let profiles = profiles.split(',').map(str::to_owned).collect();
        secrets(project.path()).await?;
        let path = programs(&project.path().join("bin")).await?;
        let file = yaml::documents(&copy).await.remove(0);
        Ok(Self { running: Vec::new(), file, profiles, ports: Ports::default(), path, project })
    }

    /// The pods of a manifest of Kubernetes, one of each, with NATS, databases and secrets of compose.
    ///
    /// # Panics
    /// Where the file cannot be read, or the script that makes the secrets fails.
    pub async fn pods(manifest: &str) -> io::Result<Self> {
        let mut compose = Self::read(".env").await?;
        let all = yaml::documents(&repository(manifest)).await;
        let pods = pods::services(&all, compose.project.path());
        if let Some(services) = compose.file["services"].as_object_mut() {
            services.retain(|name, _| name.starts_with("nats-") || name.ends_with("-db"));
            services.extend(pods);
        }
        Ok(compose)
    }

    /// Where a secret or another file of the project is.
    pub fn secret(&self, path: &str) -> PathBuf {
        self.project.path().join("secrets").join(path)
    }

    /// Where a port of a container is on this machine.
    pub fn place(&self, service: &str, port: u16) -> String {
        format!("127.0.0.1:{}", self.ports.of(service, port))
    }

    /// Where clients on this machine find what compose publishes as this port.
    ///
    /// # Panics
    /// Where it publishes none.
    pub fn published(&self, port: u16) -> String {
        let wanted = format!("127.0.0.1:{port}:");
        let inside = self.services().find_map(|(name, one)| {
            let mut ports = one["ports"].as_array()?.iter().filter_map(Value::as_str);
            Some((name, ports.find_map(|port| port.strip_prefix(&wanted))?.parse().ok()?))
        });
        let (service, inside) = inside.unwrap_or_else(|| panic!("no container is on port {port}"));
        self.place(service, inside)
    }

    /// Containers that belong to what was asked for: they have no profile, or one of its.
    fn services(&self) -> impl Iterator<Item = (&String, &Value)> {
        let here = |one: &Value| match one["profiles"].as_array() {
            Some(of) => of.iter().any(|of| self.profiles.iter().any(|profile| of == profile)),
            None => true,
        };
        self.file["services"].as_object().into_iter().flatten().filter(move |(_, one)| here(one))
    }

    /// Starts everything, each when what it needs is there, and waits until all is well, as `docker compose up --wait` does.
    ///
    /// # Panics
    /// Where something ends, or is not well in the time that its health check has.
    pub async fn up(&mut self) -> io::Result<()> {
        let mut waiting: BTreeSet<_> = self.services().map(|(name, _)| name.clone()).collect();
        let once = self.services().flat_map(|(_, one)| one["depends_on"].as_object().into_iter().flatten());
        let once: BTreeSet<_> = once
            .filter(|(_, how)| how["condition"] == "service_completed_successfully")
            .map(|(needed, _)| needed.clone())
            .collect();
        for wave in 0.. {
            let next: Vec<_> =
                waiting.iter().filter(|name| self.may_start(name, &waiting)).cloned().collect();
            assert!(!next.is_empty() || waiting.is_empty(), "these wait for each other: {waiting:?}");
            if next.is_empty() {
                break;
            }
            for name in &next {
                self.start_in(name, wave)?;
            }
            for name in &next {
                if once.contains(name) {
                    self.is_done(name).await?;
                    self.running.retain(|container| container.name != *name);
                } else {
                    self.is_healthy(name).await;
                }
                waiting.remove(name);
            }
        }
        Ok(())
    }

    /// Whether what a container needs is there.
    fn may_start(&self, name: &str, waiting: &BTreeSet<String>) -> bool {
        let needed = self.file["services"][name]["depends_on"].as_object().into_iter().flatten();
        needed.into_iter().all(|(needed, how)| {
            let exists = self.services().any(|(name, _)| name == needed);
            assert!(exists || how["required"] == false, "{name} needs {needed}, which is not there");
            !waiting.contains(needed)
        })
    }

    /// Starts one container, whatever it needs.
    pub fn start(&mut self, name: &str) -> io::Result<()> {
        self.start_in(name, 0)
    }

    fn start_in(&mut self, name: &str, wave: usize) -> io::Result<()> {
        let project = |path: &str| match path.strip_prefix("./secrets/") {
            Some(made) => self.secret(made),
            None => repository(path),
        };
        let services = &self.file["services"];
        let source = Source {
            definition: &services[name],
            secrets: &self.file["secrets"],
            project: &project,
            path: self.path.clone(),
        };
        let read = Translation {
            service: name,
            root: self.project.path().join(name),
            mounted: Vec::new(),
            hosts: services.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect(),
            network: self.file["networks"]["inside"]["ipam"]["config"][0]["subnet"]
                .as_str()
                .unwrap_or_default(),
            ports: &self.ports,
        };
        let mut container = Container::make(name, wave, &source, read)?;
        container.start()?;
        self.running.push(container);
        Ok(())
    }

    fn container(&mut self, name: &str) -> &mut Container {
        let found = self.running.iter_mut().find(|container| container.name == name);
        found.unwrap_or_else(|| panic!("{name} was not started"))
    }

    /// Waits until the health check of a container says that all is well.
    ///
    /// # Panics
    /// Where it does not in the time that it has, or the container ends.
    pub async fn is_healthy(&mut self, name: &str) {
        self.container(name).is_healthy().await;
    }

    /// Waits until a container that runs once has done what it is for.
    async fn is_done(&mut self, name: &str) -> io::Result<()> {
        let (container, deadline) = (self.container(name), Instant::now() + DONE_WITHIN);
        loop {
            let status = tokio::time::timeout_at(deadline, container.ended()).await;
            let status = status.unwrap_or_else(|_| panic!("{name} does not end within {DONE_WITHIN:?}"))?;
            if status.success() {
                return Ok(());
            }
            assert!(container.starts_again() && Instant::now() < deadline, "{name} fails: {status}");
            container.start()?;
        }
    }

    /// What a variable of a container says.
    ///
    /// # Panics
    /// Where it has none of this name.
    pub fn variable(&mut self, name: &str, variable: &str) -> String {
        let container = self.container(name);
        container.variable(variable).unwrap_or_else(|| panic!("{name} has no {variable}"))
    }

    /// What a container has said.
    pub fn log(&mut self, name: &str) -> String {
        self.container(name).log()
    }

    /// Stops everything, what waited for others before them, as `docker compose down` does.
    ///
    /// # Panics
    /// Where something has ended before, does not end in the time that it has, or fails.
    pub async fn down(mut self) -> io::Result<()> {
        while let Some(last) = self.running.iter().map(|container| container.wave).max() {
            let mut wave: Vec<_> = self.running.extract_if(.., |container| container.wave == last).collect();
            for container in &mut wave {
                assert_eq!(container.status(), None, "{} has ended before", container.name);
                container.ask_to_stop()?;
            }
            for container in &mut wave {
                let status = container.stopped().await?;
                assert!(status.success(), "{} ends with {status}", container.name);
            }
        }
        Ok(())
    }
}

/// Runs the script that makes the secrets.
async fn secrets(project: &Path) -> io::Result<()> {
    let script = project.join("deploy/compose/secrets");
    fs::create_dir_all(script.with_file_name(""))?;
    fs::copy(repository("deploy/compose/secrets"), &script)?;
    let made = Command::new(script).env("WAYBILL", Process::executable()).output().await?;
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    Ok(())
}

/// Where the programs of the images are.
async fn programs(folder: &Path) -> io::Result<OsString> {
    fs::create_dir_all(folder)?;
    script(&folder.join("docker-entrypoint.sh"), include_str!("compose/postgres.sh"))?;
    symlink(Process::executable(), folder.join("waybill"))?;
    symlink(
        fs::canonicalize(Binary::locate(None).await.map_err(io::Error::other)?.path)?,
        folder.join("nats-server"),
    )?;
    let postgres = Cluster::programs().map_err(io::Error::other)?;
    let on_path: Vec<_> = env::var_os("PATH")
        .into_iter()
        .flat_map(|path| env::split_paths(&path).collect::<Vec<_>>())
        .collect();
    if !on_path.iter().any(|folder| folder.join("wget").exists()) {
        script(&folder.join("wget"), WGET)?;
    }
    env::join_paths([folder.to_owned(), postgres].into_iter().chain(on_path)).map_err(io::Error::other)
}

/// As far as a health check asks: whether its last word, a URL, answers well. For machines that have none.
const WGET: &str = "#!/bin/sh
for url; do :; done
exec python3 -c 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1])' \"$url\"
";

fn script(file: &Path, text: &str) -> io::Result<()> {
    fs::write(file, text)?;
    fs::set_permissions(file, fs::Permissions::from_mode(0o755))
}

/// A file of the repository.
fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(1).map_or_else(PathBuf::new, |root| root.join(path))
}
