//! Everything that is wrong with a configuration file, at once.

use super::File;
use crate::{
    cli::{Cli, Command},
    dev,
    failure::{Failure, because},
    serve,
};
use clap::{CommandFactory, FromArgMatches};
use service::config::Faults;
use std::path::Path;

/// Reads a file as the commands of its sections would, with the environment as it is here, and says that all is well.
pub(super) fn check(path: &Path) -> Result<String, Failure> {
    let command = Cli::command();
    let file = File::read(path, &command)?;
    let mut faults = Faults::default();
    for section in file.sections() {
        if let Err(failure) = check_section(&file, section) {
            match failure.downcast::<Faults>() {
                Ok(found) => faults.extend(*found),
                Err(failure) => return Err(because(format!("{}: {section}", path.display()))(failure)),
            }
        }
    }
    if faults.is_empty() {
        return Ok(format!("{}: in order: {}", path.display(), file.sections().join(", ")));
    }
    Err(faults.into())
}

fn check_section(file: &File, section: &str) -> Result<(), Failure> {
    let command = file.as_defaults_of(Cli::command());
    // What runs is not part of the file: all of it has to be right.
    let line = ["waybill", section].into_iter().chain((section == "serve").then_some("all"));
    let matches = command.clone().try_get_matches_from(line).map_err(|error| error.to_string())?;
    let origins = file.origins(&command, &matches);
    let checked = match Cli::from_arg_matches(&matches)?.into_command() {
        Some(Command::Serve(args)) => serve::check(&args),
        Some(Command::Dev(args)) => dev::check(&args),
        // Nothing else takes settings that could be wrong before it runs.
        _ => Ok(()),
    };
    checked.map_err(|failure| origins.name(failure))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn checked(text: &str) -> Result<String, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        check(file.path()).map_err(|error| error.to_string())
    }

    #[test]
    fn all_faults_of_all_sections_are_said_at_once() {
        let faults =
            checked("[serve]\nreplicas = 2\ncarrier = \"x\"\n[dev]\nfraud-limit = \"much\"").unwrap_err();
        for key in ["serve.replicas", "serve.carrier", "--nats-url", "dev.fraud-limit"] {
            assert!(faults.contains(key), "{key} is missing in {faults}");
        }
        assert!(checked("[serve]\ngateway-config = \"/no/such/file\"").is_err());
    }

    #[test]
    fn the_sample_in_the_repository_is_in_order() {
        let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/waybill.toml");
        let text = fs::read_to_string(sample).unwrap();
        // The master key comes by a file that a reader of the sample makes.
        let key = tempfile::NamedTempFile::new().unwrap();
        fs::write(key.path(), &*nats::MasterKey::generate().to_base64()).unwrap();
        let text = text.replace("/run/secrets/master-key", key.path().to_str().unwrap());
        assert!(checked(&text).unwrap().contains("in order: dev, serve"));
    }

    #[test]
    fn the_sample_shows_every_key_and_how_it_is_said() {
        let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/waybill.toml");
        let text = fs::read_to_string(sample).unwrap();
        // What is commented out is said too.
        let is_key = |line: &&str| {
            line.strip_prefix("# ")
                .and_then(|line| line.split_once(" = "))
                .is_some_and(|(key, _)| !key.contains(' '))
        };
        let said: Vec<_> = text.lines().map(|line| if is_key(&line) { &line[2..] } else { line }).collect();
        let said = said.join("\n");
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), &said).unwrap();
        let command = Cli::command();
        File::read(file.path(), &command).unwrap();
        let table: toml::Table = said.parse().unwrap();
        let (serve, dev) = (table["serve"].as_table().unwrap(), command.find_subcommand("dev").unwrap());
        let open = |argument: &&clap::Arg| !argument.is_hide_env_values_set();
        let keys = |of: &clap::Command| {
            let longs = of.get_arguments().filter(open).filter_map(clap::Arg::get_long).map(str::to_owned);
            longs.filter(|long| !["help", "version", "config"].contains(&long.as_str())).collect::<Vec<_>>()
        };
        for key in keys(command.find_subcommand("serve").unwrap()) {
            assert!(serve.contains_key(&key) || table.contains_key(&key), "serve.{key} is not in the sample");
        }
        for key in keys(dev) {
            assert!(serve.contains_key(&key) || table.contains_key(&key), "dev.{key} is like none of serve");
        }
    }
}
