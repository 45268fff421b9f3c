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
    let value = argument.get_default_values().first()?.to_string_lossy().into_owned();
    let plain = value.parse::<i64>().is_ok() || value.parse::<bool>().is_ok();
    Some(if plain { value } else { toml::Value::String(value).to_string() })
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
        let routes: Table = print("gateway").unwrap().parse().unwrap();
        let limit = &routes["limits"]["default"];
        assert_eq!((limit["quota"].as_integer(), limit["window"].as_str()), (Some(100), Some("15m")));
        assert!(print("replay").is_err());
    }
}
