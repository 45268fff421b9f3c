//! Everything that is wrong with a configuration file, at once.

use super::{File, Origins};
use crate::{
    backup,
    cli::{Cli, Command},
    dev, doctor, export,
    failure::{Failure, because},
    health, import, provision, replay, restore, serve, verify,
};
use clap::{Arg, ArgMatches, CommandFactory, FromArgMatches, error::ErrorKind};
use service::{config::Faults, telemetry};
use std::path::Path;

/// Reads a file as the commands of its sections would, with the environment as it is here, and says that all is well.
pub(super) fn check(path: &Path) -> Result<String, Failure> {
    let (file, mut faults) = File::read_all(path, &Cli::command())?;
    check_log(&file, &mut faults);
    let mut unread = Vec::new();
    for section in file.sections() {
        match check_section(&file, section) {
            Ok(Reading::Whole) => {}
            Ok(Reading::Keys) => unread.push(section),
            Err(failure) => match failure.downcast::<Faults>() {
                Ok(found) => faults.extend(*found),
                Err(failure) => return Err(because(format!("{}: {section}", path.display()))(failure)),
            },
        }
    }
    if !faults.is_empty() {
        return Err(faults.into());
    }
    let keys = if unread.is_empty() {
        String::new()
    } else {
        format!("; of {} the keys, their values are read when they run", unread.join(", "))
    };
    Ok(format!("{}: in order: {}{keys}", path.display(), file.sections().join(", ")))
}

/// The one setting of all commands that is read when they begin.
fn check_log(file: &File, faults: &mut Faults) {
    // What else is wrong with the line is said of each section.
    let Ok((matches, origins)) = parse(file, &["waybill"]) else { return };
    let wrong = matches.get_one::<String>("log").and_then(|filter| telemetry::check(filter).err());
    if let Some(wrong) = wrong {
        let mut found = Faults::default();
        found.add("--log", wrong);
        faults.extend(origins.named(found));
    }
}

/// How far a section was read.
enum Reading {
    /// As its command reads it.
    Whole,
    /// Its keys, and values that the command line itself knows to be wrong.
    Keys,
}

fn check_section(file: &File, section: &str) -> Result<Reading, Failure> {
    // What runs is not part of the file: all of it has to be right.
    let line: Vec<_> =
        ["waybill", section].into_iter().chain((section == "serve").then_some("all")).collect();
    let (matches, origins) = parse(file, &line).map_err(|why| only(&file.place("", section), why))?;
    let command = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli.into_command(),
        // A flag that the command line has to say, such as the role of a token.
        Err(error) if error.kind() == ErrorKind::MissingRequiredArgument => return Ok(Reading::Keys),
        Err(error) => return Err(error.into()),
    };
    let checked = match command {
        Some(Command::Serve(args)) => serve::check(&args),
        Some(Command::Dev(args)) => dev::check(&args),
        Some(Command::Provision(args)) => provision::check(&args),
        Some(Command::Doctor(args)) => doctor::check(&args),
        Some(Command::Verify(args)) => verify::check(&args),
        Some(Command::Replay(args)) => replay::check(&args),
        Some(Command::Backup(args)) => backup::check(&args),
        Some(Command::Restore(args)) => restore::check(&args),
        Some(Command::Export(args)) => export::check(&args),
        Some(Command::Import(args)) => import::check(&args),
        Some(Command::Health(args)) => health::check(&args),
        _ => return Ok(Reading::Keys),
    };
    checked.map(|()| Reading::Whole).map_err(|failure| origins.name(failure))
}

/// A line without what comes on the command line alone, such as the folder of a backup: any will do.
fn parse(file: &File, line: &[&str]) -> Result<(ArgMatches, Origins), String> {
    let open = |argument: Arg| match (argument.is_required_set(), argument.is_positional()) {
        (true, true) => {
            let name = argument.get_id().to_string();
            argument.required(false).default_value(name)
        }
        (true, false) => argument.required(false),
        (false, _) => argument,
    };
    let mut command = file.as_defaults_of(Cli::command());
    if let Some(section) = line.get(1) {
        command = command.mut_subcommand(*section, |section| section.mut_args(open));
    }
    let matches = command.clone().try_get_matches_from(line).map_err(|error| said(&error))?;
    let origins = file.origins(&command, &matches);
    Ok((matches, origins))
}

/// What the command line says, in one line and without how it is used.
fn said(error: &clap::Error) -> String {
    let text = error.to_string();
    let lines: Vec<_> = text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
    let text = lines.join(" ");
    text.strip_prefix("error: ").unwrap_or(&text).to_owned()
}

fn only(key: &str, why: impl std::fmt::Display) -> Failure {
    let mut faults = Faults::default();
    faults.add(key, why);
    faults.into()
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
    }

    #[test]
    fn what_is_wrong_hides_nothing_else_that_is() {
        let faults = checked(
            "log = \"http=loudly\"\nlgo = 1\n[serve]\ngateway-config = \"/no/such/file\"\nreplicas = 2\n\
             [dev]\ngateway-config = \"/no/such/file\"\nhost = \"nowhere\"\nprots = \"x\"\n\
             [provision]\nreplicas = 2\n[doctor]\nlag = \"x\"\nreplicas = \"y\"\n[verify]\npatience = \"long\"\n\
             [replay]\nrate = \"none\"\n[backup]\nkey-file = \"/no/key\"\nread-models = \"some\"\n\
             [restore]\nreplicas = \"z\"\n[export]\nstream = \"CARTS\"\n[import]\nstream = \"CARTS\"\n\
             [health]\ntimeout = \"soon\"\n[bench]\nworkflow = \"luck\"",
        )
        .unwrap_err();
        for key in [
            "log: the log filter",
            "lgo: there is no",
            "serve.gateway-config: cannot read",
            "serve.replicas",
            "dev.gateway-config: cannot read",
            "dev.host",
            "dev.prots",
            "provision.replicas",
            "doctor.lag",
            "doctor.replicas",
            "verify.patience",
            "replay.rate",
            "backup: invalid value 'some'",
            "restore.replicas",
            "export.stream",
            "import.stream",
            "health.timeout",
            "bench: invalid value 'luck'",
        ] {
            assert!(faults.contains(key), "{key} is missing in {faults}");
        }
        for line in ["[doctor]\nlag = \"x\"", "[doctor]\nreplicas = \"y\"", "log = \"http=loudly\""] {
            assert!(checked(line).is_err(), "{line} alone");
        }
    }

    #[test]
    fn what_only_a_command_line_says_is_not_missed() {
        for line in ["[backup]\nread-models = true", "[restore]\nread-models = true", "[export]\nkeys = true"]
        {
            assert!(checked(line).unwrap().contains("in order"), "{line}");
        }
        assert!(checked("log = \"info,http=warn\"").unwrap().contains("in order"));
    }

    #[test]
    fn of_commands_that_read_their_values_only_when_they_run_the_keys_are_checked() {
        let said = checked("[token]\nttl = \"1h\"\n[doctor]\nlag = 10").unwrap();
        assert!(said.contains("in order: doctor, token; of token the keys"), "{said}");
        assert!(checked("[token]\nltt = \"1h\"").unwrap_err().contains("token.ltt"));
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
