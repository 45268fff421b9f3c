//! A configuration file with every default, and what each key means.

use crate::{cli::Cli, failure::Failure, settings::fault};
use clap::{Arg, Command, CommandFactory};
use std::fmt::Write;

/// Commands that have a section.
const SECTIONS: [&str; 2] = ["serve", "dev"];

/// The file of a command; for `gateway` its routes and limits.
pub(super) fn print(command: &str) -> Result<String, Failure> {
    if command == crate::edge::GATEWAY {
        return Ok(gateway::Config::STANDARD.to_owned());
    }
    if !SECTIONS.contains(&command) {
        return Err(fault("--print-defaults")("expected serve, dev or gateway"));
    }
    let cli = Cli::command();
    let mut text = String::from(
        "# Settings of Waybill. A flag goes before a variable, a variable before this file, this file before the default.\n\
         # What is commented out has no default, or one that depends.\n",
    );
    section(&mut text, &cli);
    if let Some(command) = cli.find_subcommand(command) {
        let _ = write!(text, "\n[{}]\n", command.get_name());
        section(&mut text, command);
    }
    Ok(text)
}

/// One key after the other. Secrets have no place in a file like this.
fn section(text: &mut String, command: &Command) {
    for argument in command.get_arguments() {
        let Some(long) = argument.get_long().filter(|long| !["help", "version", "config"].contains(long))
        else {
            continue;
        };
        if argument.is_hide_env_values_set() {
            continue;
        }
        // Writing to a string cannot fail.
        let _ = writeln!(text);
        for line in argument.get_help().map(ToString::to_string).unwrap_or_default().lines() {
            let _ = writeln!(text, "# {line}");
        }
        if let Some(variable) = argument.get_env() {
            let _ = writeln!(text, "# {}", variable.to_string_lossy());
        }
        let _ = match default(argument) {
            Some(value) => writeln!(text, "{long} = {value}"),
            None => writeln!(text, "# {long} = {}", example(argument)),
        };
    }
}

/// The default as TOML has it.
fn default(argument: &Arg) -> Option<String> {
    let known = argument.get_default_values().first().map(|value| value.to_string_lossy().into_owned());
    let value = known.or_else(|| told(&argument.get_help()?.to_string()))?;
    let plain = value.parse::<i64>().is_ok() || value.parse::<bool>().is_ok();
    Some(if plain { value } else { toml::Value::String(value).to_string() })
}

/// What the help says is the default, where that is a value: `3s`, and not `that of the running dev`, nor ports, for `dev`
/// takes others where its usual ones are taken. The command line itself does not know it: what is not given is not set.
fn told(help: &str) -> Option<String> {
    let (_, rest) = help.rsplit_once("[default: ")?;
    let value = rest.strip_suffix(']')?;
    (!value.contains([' ', ',']) || value.contains('@')).then(|| value.to_owned())
}

fn example(argument: &Arg) -> String {
    if !argument.get_action().takes_values() {
        return "false".to_owned();
    }
    let names = argument.get_value_names().unwrap_or_default();
    let names: Vec<_> = names.iter().map(ToString::to_string).collect();
    toml::Value::String(names.join(" ")).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::FromArgMatches;
    use toml::Table;

    #[test]
    fn what_is_printed_can_be_read_and_names_every_flag() {
        for command in SECTIONS {
            let text = print(command).unwrap();
            let table: Table = text.parse().unwrap();
            assert_eq!(table[command]["durability"].as_str(), Some("always"));
            let cli = Cli::command();
            let arguments = cli.find_subcommand(command).unwrap().get_arguments();
            let open = arguments.filter(|argument| !argument.is_hide_env_values_set());
            for long in open.filter_map(Arg::get_long) {
                assert!(
                    text.contains(&format!("{long} = ")),
                    "{long} is missing in the defaults of {command}"
                );
            }
        }
        for (key, value) in [
            ("users-timeout", "3s"),
            ("breaker-window", "10s"),
            ("breaker-open", "30s"),
            ("carrier", "accept"),
            ("on-failure", "park:12"),
            ("mail-from", "Waybill <waybill@localhost>"),
        ] {
            let table: Table = print("serve").unwrap().parse().unwrap();
            assert_eq!(table["serve"][key].as_str(), Some(value), "{key}");
        }
        let table: Table = print("dev").unwrap().parse().unwrap();
        assert_eq!(table["dev"]["breaker-errors"].as_integer(), Some(50));
        assert_eq!(table["dev"]["breaker-minimum"].as_integer(), Some(10));
        assert_eq!(table["dev"]["rebuilds"].as_integer(), Some(2));
        let routes: Table = print("gateway").unwrap().parse().unwrap();
        let limit = &routes["limits"]["default"];
        assert_eq!((limit["quota"].as_integer(), limit["window"].as_str()), (Some(100), Some("15m")));
        assert!(print("replay").is_err());
    }

    /// What it is when nobody says anything is seen in review when it changes. To write the files anew:
    /// `waybill config --print-defaults serve > waybill/src/config/serve.defaults.toml`, and the same of dev.
    #[test]
    fn what_is_printed_is_what_was_agreed_on() {
        assert_eq!(print("serve").unwrap(), include_str!("serve.defaults.toml"));
        assert_eq!(print("dev").unwrap(), include_str!("dev.defaults.toml"));
    }

    /// The help says what the code does: who keeps the file changes nothing.
    #[test]
    fn what_is_printed_changes_nothing_and_is_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let file = |text: &str| {
            let path = dir.path().join("waybill.toml");
            std::fs::write(&path, text).unwrap();
            path
        };
        let plan = |text: &str| {
            let command = Cli::command();
            let read = super::super::File::read(&file(text), &command).unwrap();
            let matches = read.as_defaults_of(command).try_get_matches_from(["waybill", "dev"]).unwrap();
            match Cli::from_arg_matches(&matches).unwrap().into_command() {
                Some(crate::cli::Command::Dev(args)) => format!("{:?}", crate::dev::read(&args).unwrap()),
                other => panic!("{other:?}"),
            }
        };
        let printed = print("dev").unwrap();
        // Of the one that follows the definition of a saga the usual value is told: it is in all of them.
        assert_eq!(plan(&printed).replace("pause: Some(1s)", "pause: None"), plan(""));
        super::super::check::check(&file(&printed)).unwrap();
        // Two things have no default: where NATS is, and the master key.
        let key = dir.path().join("master.key");
        std::fs::write(&key, &*nats::MasterKey::generate().to_base64()).unwrap();
        let printed = print("serve").unwrap();
        let said = printed.replace("# nats-url = \"URL,..\"", "nats-url = \"nats://nats:4222\"");
        let said = said.replace(
            "# master-key-file = \"FILE\"",
            &format!("master-key-file = {:?}", key.to_str().unwrap()),
        );
        super::super::check::check(&file(&said)).unwrap();
    }
}
