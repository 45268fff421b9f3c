//! The configuration file: TOML, a section for each command with the command's flags as keys.

use crate::failure::{Failure, because};
use clap::{Arg, ArgMatches, Command, parser::ValueSource};
use service::config::Faults;
use std::{collections::HashMap, ffi::OsString, fs, path::Path};
use toml::{Table, Value};

/// The flag that names the file.
const FLAG: &str = "--config";
/// The variable that does.
pub(crate) const VARIABLE: &str = "WAYBILL_CONFIG";

/// What the file says, by command and key; the empty command has what all commands know.
#[derive(Debug, Default)]
pub(crate) struct File {
    name: String,
    settings: HashMap<(String, String), String>,
}

/// The place each setting of a run comes from, by the flag that would have said it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Origins(HashMap<String, String>);

impl File {
    /// The file that the command line or the environment names; an empty one where none does.
    pub(crate) fn find(
        arguments: &[OsString],
        environment: Option<OsString>,
        command: &Command,
    ) -> Result<Self, Failure> {
        let texts: Vec<_> = arguments.iter().map(|argument| argument.to_string_lossy()).collect();
        let with_equals = |text: &str| text.strip_prefix(FLAG)?.strip_prefix('=').map(str::to_owned);
        let flag = texts.iter().enumerate().find_map(|(place, text)| {
            if text == FLAG { texts.get(place + 1).map(ToString::to_string) } else { with_equals(text) }
        });
        let named = flag.or_else(|| environment.map(|name| name.to_string_lossy().into_owned()));
        match named.filter(|name| !name.is_empty()) {
            Some(name) => Self::read(Path::new(&name), command),
            None => Ok(Self::default()),
        }
    }

    /// Reads a file. Keys that no command knows, values that no flag could have, and secrets are faults.
    pub(crate) fn read(path: &Path, command: &Command) -> Result<Self, Failure> {
        let (file, faults) = Self::read_all(path, command)?;
        if faults.is_empty() { Ok(file) } else { Err(faults.into()) }
    }

    /// The same, and what is right beside what is wrong.
    pub(super) fn read_all(path: &Path, command: &Command) -> Result<(Self, Faults), Failure> {
        let name = path.display().to_string();
        let text = fs::read_to_string(path).map_err(because(format!("cannot read {name}")))?;
        let table: Table = text.parse().map_err(because(format!("{name} is not TOML")))?;
        let (mut file, mut faults) = (Self { name, ..Self::default() }, Faults::default());
        for (key, value) in table {
            match (value, command.find_subcommand(&key)) {
                (Value::Table(section), Some(sub)) => {
                    for (name, value) in section {
                        file.add(&key, &name, &value, sub, &mut faults);
                    }
                }
                (value, _) => file.add("", &key, &value, command, &mut faults),
            }
        }
        Ok((file, faults))
    }

    fn add(&mut self, section: &str, key: &str, value: &Value, command: &Command, faults: &mut Faults) {
        let place = self.place(section, key);
        let Some(argument) = flag(command, key) else {
            let near = command.get_arguments().filter_map(Arg::get_long).filter(|known| alike(known, key));
            let near: Vec<_> = near.collect();
            let hint = if near.is_empty() { String::new() } else { format!(": {}?", near.join(", ")) };
            return faults.add(&place, format!("there is no such setting{hint}"));
        };
        if argument.is_hide_env_values_set() {
            return faults.add(&place, "is a secret: keep it in a file of its own, or in the environment");
        }
        match text(value) {
            Some(text) if has_login(&text) => {
                faults.add(
                    &place,
                    "has a login before the @: keep that in the environment, or in a file of its own",
                );
            }
            Some(text) => {
                self.settings.insert((section.to_owned(), key.to_owned()), text);
            }
            None => faults.add(&place, "expected a text, a number, true or false, or a list of these"),
        }
    }

    /// Sections that the file has.
    pub(crate) fn sections(&self) -> Vec<&str> {
        let mut sections: Vec<_> = self.settings.keys().map(|(section, _)| section.as_str()).collect();
        sections.sort_unstable();
        sections.dedup();
        sections.retain(|section| !section.is_empty());
        sections
    }

    /// The command line with what the file says as its defaults: a flag and a variable go before it.
    pub(crate) fn as_defaults_of(&self, mut command: Command) -> Command {
        for ((section, key), value) in &self.settings {
            let set = |command: Command| {
                let Some(id) = flag(&command, key).map(|argument| argument.get_id().clone()) else {
                    return command;
                };
                command.mut_arg(id, |argument| argument.default_value(value.clone()).required(false))
            };
            command = if section.is_empty() { set(command) } else { command.mut_subcommand(section, set) };
        }
        command
    }

    /// Where each setting of these matches comes from.
    pub(crate) fn origins(&self, command: &Command, matches: &ArgMatches) -> Origins {
        let mut origins = HashMap::new();
        let mut add = |section: &str, command: &Command, matches: &ArgMatches| {
            for argument in command.get_arguments() {
                let Some(long) = argument.get_long() else { continue };
                let key = (section.to_owned(), long.to_owned());
                let place = match matches.value_source(argument.get_id().as_str()) {
                    Some(ValueSource::EnvVariable) => {
                        argument.get_env().map(|name| name.to_string_lossy().into_owned())
                    }
                    Some(ValueSource::DefaultValue) if self.settings.contains_key(&key) => {
                        Some(self.place(section, long))
                    }
                    _ => None,
                };
                origins.extend(place.map(|place| (format!("--{long}"), place)));
            }
        };
        add("", command, matches);
        if let Some((name, matches)) = matches.subcommand()
            && let Some(command) = command.find_subcommand(name)
        {
            add(name, command, matches);
        }
        Origins(origins)
    }

    /// How a setting of this file is called.
    pub(super) fn place(&self, section: &str, key: &str) -> String {
        let dot = if section.is_empty() { "" } else { "." };
        format!("{}: {section}{dot}{key}", self.name)
    }
}

impl Origins {
    /// Names the places of what is wrong: the variable, or the key of the file, instead of the flag that was not used.
    pub(crate) fn name(&self, failure: Failure) -> Failure {
        match failure.downcast::<Faults>() {
            Ok(faults) => self.named(*faults).into(),
            Err(failure) => failure,
        }
    }

    /// The same of faults.
    pub(super) fn named(&self, faults: Faults) -> Faults {
        faults.named(|flag| self.0.get(flag).cloned())
    }
}

/// The argument of a flag. The file cannot name another file, nor ask for help.
fn flag<'a>(command: &'a Command, key: &str) -> Option<&'a Arg> {
    let asks = ["config", "help", "version"].contains(&key);
    command.get_arguments().find(|argument| argument.get_long() == Some(key) && !asks)
}

/// A value as a flag has it: lists with commas.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Float(number) => Some(number.to_string()),
        Value::Boolean(yes) => Some(yes.to_string()),
        Value::Array(values) => {
            values.iter().map(text).collect::<Option<Vec<_>>>().map(|texts| texts.join(","))
        }
        Value::Datetime(_) | Value::Table(_) => None,
    }
}

/// Whether one of the addresses of a text says who comes: `scheme://user:password@host`.
fn has_login(text: &str) -> bool {
    text.split(',').any(|one| {
        let place =
            one.split_once("://").map(|(_, place)| place.split(['/', '?', '#']).next().unwrap_or(place));
        place.is_some_and(|place| place.contains('@'))
    })
}

/// Whether one may have been meant for the other: the same letters but for a few, or one begins with the other.
fn alike(known: &str, key: &str) -> bool {
    let letters = |text: &str| text.bytes().filter(u8::is_ascii_alphanumeric).collect::<Vec<_>>();
    let (known, key) = (letters(known), letters(key));
    let same = known.iter().zip(&key).filter(|(a, b)| a == b).count();
    let longest = known.len().max(key.len());
    same * 3 >= longest * 2 || known.starts_with(&key) || key.starts_with(&known)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command() -> Command {
        let port = Arg::new("port").long("port").env("WAYBILL_TEST_NO_SUCH_PORT").default_value("1");
        let url = Arg::new("nats_url").long("nats-url").required(true);
        let token = Arg::new("token").long("token").hide_env_values(true);
        let serve = Command::new("serve").args([port, url, token]);
        let log = Arg::new("log").long("log").global(true);
        Command::new("waybill").arg(log).arg(Arg::new("config").long("config").global(true)).subcommand(serve)
    }

    fn file(text: &str) -> Result<File, Failure> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        File::read(file.path(), &command()).map(|read| File { name: "w.toml".to_owned(), ..read })
    }

    fn matches(file: &File, line: &[&str]) -> (ArgMatches, Origins) {
        let command = file.as_defaults_of(command());
        let matches = command.clone().try_get_matches_from(line).unwrap();
        let origins = file.origins(&command, &matches);
        (matches, origins)
    }

    #[test]
    fn a_flag_goes_before_the_file_and_the_file_before_the_default() {
        let file =
            file("log = \"info\"\n[serve]\nport = 2\nnats-url = [\"nats://a\", \"nats://b\"]").unwrap();
        let get = |line: &[&str], id: &str| {
            let (matches, _) = matches(&file, line);
            matches.subcommand().unwrap().1.get_one::<String>(id).unwrap().clone()
        };
        assert_eq!(get(&["waybill", "serve"], "port"), "2");
        assert_eq!(get(&["waybill", "serve", "--port", "3"], "port"), "3");
        assert_eq!(get(&["waybill", "serve"], "nats_url"), "nats://a,nats://b");
        assert_eq!(get(&["waybill", "serve"], "log"), "info");
        assert_eq!(file.sections(), ["serve"]);
    }

    #[test]
    fn every_fault_of_a_file_is_named_with_its_key() {
        let text = "lgo = 1\n[serve]\nnats_url = \"x\"\ntoken = \"t\"\nport = 1979-05-27\nconfig = \"y\"";
        let faults = file(text).unwrap_err().to_string();
        for key in
            ["lgo", "serve.nats_url", "nats-url?", "serve.token", "secret", "serve.port", "serve.config"]
        {
            assert!(faults.contains(key), "{key} is missing in {faults}");
        }
        assert!(!faults.contains("\"t\""));
        assert!(file("[serve").unwrap_err().to_string().contains("TOML"));
    }

    /// Wherever it stands, and it is not said what it is.
    #[test]
    fn an_address_with_a_login_is_refused() {
        for login in [
            "\"nats://ada:s3cret@nats\"",
            "\"nats://s3cret@nats:4222/\"",
            "[\"nats://a\", \"tls://ada:s3cret@b\"]",
        ] {
            let faults = file(&format!("[serve]\nnats-url = {login}")).unwrap_err().to_string();
            assert!(faults.contains("serve.nats-url") && !faults.contains("s3cret"), "{faults}");
        }
        for open in ["nats://a:4222,nats://b", "https://h/users/@me", "ada@example.com"] {
            file(&format!("[serve]\nnats-url = \"{open}\"")).unwrap();
        }
    }

    #[test]
    fn what_is_wrong_is_named_where_it_stands() {
        let file = file("[serve]\nport = 2\nnats-url = \"x\"").unwrap();
        let (_, origins) = matches(&file, &["waybill", "serve", "--nats-url", "y"]);
        let mut faults = Faults::default();
        faults.add("--port", "is taken");
        faults.add("--nats-url", "is strange");
        let said = origins.name(faults.into()).to_string();
        assert!(
            said.contains("w.toml: serve.port: is taken") && said.contains("--nats-url: is strange"),
            "{said}"
        );
    }

    #[test]
    fn the_file_is_named_by_flag_or_by_variable() {
        let missing = |arguments: &[&str], environment: Option<&str>| {
            let arguments: Vec<OsString> = arguments.iter().map(Into::into).collect();
            File::find(&arguments, environment.map(Into::into), &command()).map_err(|error| error.to_string())
        };
        assert!(missing(&["serve"], None).unwrap().sections().is_empty());
        assert!(
            missing(&["serve", "--config", "no-a.toml"], Some("no-b.toml")).unwrap_err().contains("no-a")
        );
        assert!(missing(&["--config=no-c.toml", "serve"], None).unwrap_err().contains("no-c"));
        assert!(missing(&["serve"], Some("no-d.toml")).unwrap_err().contains("no-d"));
    }
}
