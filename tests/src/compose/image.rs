//! What the images of `docker-compose.yml` bring along.

use super::repository;
use rustix::process::Signal;
use std::fs;

/// How a container is run, as far as compose says nothing.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) entrypoint: Vec<String>,
    pub(super) environment: Vec<(String, String)>,
    pub(super) volumes: Vec<String>,
    pub(super) stop: Signal,
}

impl Image {
    /// What is known of it by its name.
    ///
    /// # Panics
    /// Where nothing is.
    pub(super) fn of(name: &str) -> Self {
        match name.split(':').next() {
            Some("waybill") => Self::waybill(),
            Some("nats") => {
                let entrypoint = vec!["nats-server".to_owned()];
                Self { entrypoint, environment: Vec::new(), volumes: Vec::new(), stop: Signal::TERM }
            }
            // Where its programs look by themselves is said here, for those of this machine may look elsewhere.
            Some("postgres") => {
                let known = [
                    ("PGDATA", "/var/lib/postgresql/data"),
                    ("PGHOST", "/var/run/postgresql"),
                    ("PGPORT", "5432"),
                ];
                let environment = known.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
                let entrypoint = vec!["docker-entrypoint.sh".to_owned()];
                Self { entrypoint, environment, volumes: Vec::new(), stop: Signal::INT }
            }
            _ => panic!("{name} cannot be run as a process"),
        }
    }

    /// As the recipe in the repository has it.
    fn waybill() -> Self {
        let recipe = fs::read_to_string(repository("Dockerfile")).unwrap_or_default();
        let last = recipe.rsplit("\nFROM ").next().unwrap_or_default();
        let all = |word: &'static str| last.lines().filter_map(move |line| line.strip_prefix(word));
        let entrypoint = all("ENTRYPOINT ").next().and_then(|words| serde_json::from_str(words).ok());
        let environment = all("ENV ").flat_map(str::split_whitespace).filter_map(|one| one.split_once('='));
        Self {
            entrypoint: entrypoint.unwrap_or_default(),
            environment: environment.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            volumes: all("VOLUME ").map(str::to_owned).collect(),
            stop: Signal::TERM,
        }
    }
}
