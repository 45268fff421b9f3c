//! The command line: what can be said, with examples.

use crate::{
    backup, bench,
    config::{self, File, Origins, VARIABLE},
    databases, dead_letters, demo, dev, dev_certs, doctor, export,
    failure::{self, Failure},
    health, import, nats_config, pages, provision, rebuild, replay, restore, saga, serve, token, verify,
};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use service::{
    config::{EXIT_USAGE, Settings},
    telemetry::{self, LogFormat, TelemetryError},
};
use std::{env, path::PathBuf, process::ExitCode};

const EXAMPLES: &str = "\
Examples:
  waybill                                     run everything on this machine
  waybill demo                                place orders and watch them move
  waybill replay --stream ORDERS --follow     print events as they are recorded
  waybill serve orders --nats-url nats://nats:4222

Exit codes: 0 ok, 1 failure, 64 wrong usage or settings.";

const LOGS: &str = "Logs, on standard error";

/// Event-sourced order fulfilment on NATS JetStream.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,

    /// Settings that neither a flag nor a variable says, in TOML: see waybill config
    #[arg(long, global = true, value_name = "FILE", env = VARIABLE)]
    config: Option<PathBuf>,

    #[arg(skip)]
    origins: Origins,

    /// How log lines look: pretty or json
    #[arg(long, global = true, help_heading = LOGS, value_name = "FORMAT")]
    #[arg(env = "WAYBILL_LOG_FORMAT", default_value = "pretty")]
    log_format: LogFormat,

    /// Which log lines are shown, such as info,http=warn [default: info for dev and serve, else warn]
    #[arg(long, global = true, help_heading = LOGS, value_name = "FILTER", env = "WAYBILL_LOG")]
    log: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run everything on this machine: nats-server and all services (the default)
    #[command(after_help = dev::EXAMPLES)]
    Dev(dev::Args),
    /// Place orders that succeed, fail and are cancelled, watch them move, and check what must hold
    #[command(after_help = demo::EXAMPLES)]
    Demo(demo::Args),
    /// Run one service, several, or all against an existing NATS
    #[command(after_help = serve::EXAMPLES)]
    Serve(Box<serve::Args>),
    /// Print or check a configuration file
    #[command(after_help = config::EXAMPLES)]
    Config(config::Args),
    /// Ask a running service whether it lives, or whether it can serve
    #[command(after_help = health::EXAMPLES)]
    Health(health::Args),
    /// Look at NATS, databases, clocks, disks and keys, and say what is wrong and what to do
    #[command(after_help = doctor::EXAMPLES)]
    Doctor(doctor::Args),
    /// Print recorded events
    #[command(after_help = replay::EXAMPLES)]
    Replay(replay::Args),
    /// Whether the log is whole and readable, and the read models say what it says
    #[command(after_help = verify::EXAMPLES)]
    Verify(verify::Args),
    /// Copy the log into files, or bring such a copy up to date
    #[command(after_help = export::EXAMPLES)]
    Export(export::Args),
    /// Put a copy of the log back, every event where it was
    #[command(after_help = import::EXAMPLES)]
    Import(import::Args),
    /// Copy everything that cannot be made again, sealed where a key is given, or bring such a copy up to date
    #[command(after_help = backup::EXAMPLES)]
    Backup(backup::Args),
    /// Put a backup back, every event where it was
    #[command(after_help = restore::EXAMPLES)]
    Restore(restore::Args),
    /// See sagas, and retry, skip, compensate, cancel or resume them
    #[command(after_help = saga::EXAMPLES)]
    Saga(saga::Args),
    /// Print an access token
    #[command(after_help = token::EXAMPLES)]
    Token(token::Args),
    /// See what consumers could not handle, try it again, or give it up
    #[command(after_help = dead_letters::EXAMPLES)]
    DeadLetters(dead_letters::Args),
    /// Write the configuration of a NATS that trusts nobody, and a key for each service
    #[command(after_help = nats_config::EXAMPLES)]
    NatsConfig(nats_config::Args),
    /// Make a certificate authority and certificates for development
    #[command(after_help = dev_certs::EXAMPLES)]
    DevCerts(dev_certs::Args),
    /// Make every stream, bucket and durable consumer, so that services need no right to
    #[command(after_help = provision::EXAMPLES)]
    Provision(provision::Args),
    /// Make a database and a role for each service on a PostgreSQL server
    #[command(after_help = databases::EXAMPLES)]
    ProvisionDatabases(databases::Args),
    /// Build a read model again beside the one that serves, then switch; or switch back
    #[command(after_help = rebuild::EXAMPLES)]
    Rebuild(rebuild::Args),
    /// Measure, beside what the parts beneath can do
    #[command(after_help = bench::EXAMPLES)]
    Bench(bench::Args),
}

/// Help shows no value of an address that may have a login in it.
fn discreet(command: clap::Command) -> clap::Command {
    let hide = |argument: clap::Arg| {
        if !["nats_url", "to_nats"].contains(&argument.get_id().as_str()) {
            return argument;
        }
        argument.hide_env_values(true).hide_default_value(true)
    };
    command.mut_subcommands(|section| section.mut_args(hide))
}

impl Cli {
    /// Reads the command line; the error is the exit code after help, version or a usage message was printed.
    pub fn read() -> Result<Self, ExitCode> {
        pages::allow_huge(false);
        let arguments: Vec<_> = env::args_os().collect();
        let file = File::find(&arguments, env::var_os(VARIABLE), &Self::command());
        let file = file.map_err(|failure| {
            eprintln!("{}", failure::report(&*failure));
            failure::exit_code(&*failure)
        })?;
        let command = discreet(file.as_defaults_of(Self::command()));
        let parse = |arguments: &[_]| {
            let matches = command.clone().try_get_matches_from(arguments)?;
            let origins = file.origins(&command, &matches);
            Ok(Self { origins, ..Self::from_arg_matches(&matches)? })
        };
        let read = parse(&arguments).and_then(|cli| {
            if cli.command.is_some() {
                return Ok(cli);
            }
            // `waybill` is `waybill dev`, with the defaults that clap knows.
            let Self { command, origins, .. } = parse(&["waybill".into(), "dev".into()])?;
            Ok(Self { command, origins, ..cli })
        });
        read.map_err(|error: clap::Error| {
            // Where even the message cannot be written there is nobody to read it.
            let _ = error.print();
            if error.use_stderr() { EXIT_USAGE.into() } else { ExitCode::SUCCESS }
        })
    }

    /// The command alone.
    pub(crate) fn into_command(self) -> Option<Command> {
        self.command
    }

    /// Runs the command to its end.
    pub fn run(self) -> Result<(), Failure> {
        let Some(command) = self.command else { return Ok(()) };
        let filter = self.log.as_deref().unwrap_or_else(|| command.default_log());
        if !matches!(&command, Command::Serve(args) if serve::is_gateway(args)) {
            pages::allow_huge(true);
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let telemetry = telemetry::init(self.log_format, filter, Settings::environment(), runtime.handle());
        let telemetry = telemetry.map_err(|error| match error {
            TelemetryError::Settings(faults) => faults.into(),
            error => crate::settings::fault("--log")(error),
        })?;
        let result = runtime.block_on(async {
            match command {
                Command::Config(args) => config::run(&args),
                Command::Dev(args) => Box::pin(dev::run(args)).await,
                Command::Demo(args) => Box::pin(demo::run(args)).await,
                Command::Serve(args) => Box::pin(serve::run(*args)).await,
                Command::Health(args) => Box::pin(health::run(args)).await,
                Command::Doctor(args) => Box::pin(doctor::run(args)).await,
                Command::Replay(args) => Box::pin(replay::run(args)).await,
                Command::Verify(args) => Box::pin(verify::run(args)).await,
                Command::Export(args) => Box::pin(export::run(args)).await,
                Command::Import(args) => Box::pin(import::run(args)).await,
                Command::Backup(args) => Box::pin(backup::run(args)).await,
                Command::Restore(args) => Box::pin(restore::run(args)).await,
                Command::Saga(args) => Box::pin(saga::run(args)).await,
                Command::Token(args) => Box::pin(token::run(args)).await,
                Command::DeadLetters(args) => Box::pin(dead_letters::run(args)).await,
                Command::NatsConfig(args) => nats_config::run(&args),
                Command::DevCerts(args) => dev_certs::run(&args),
                Command::Provision(args) => Box::pin(provision::run(args)).await,
                Command::ProvisionDatabases(args) => Box::pin(databases::run(args)).await,
                Command::Rebuild(args) => Box::pin(rebuild::run(args)).await,
                Command::Bench(args) => Box::pin(bench::run(args)).await,
            }
        });
        telemetry.stop();
        // Whoever stopped it does not wait for a download that was under way.
        runtime.shutdown_background();
        result.map_err(|failure| self.origins.name(failure))
    }
}

impl Command {
    /// Those that run until they are stopped tell what they do; those that print results do not.
    fn default_log(&self) -> &'static str {
        match self {
            Self::Dev(_) | Self::Serve(_) => "info,async_nats=warn",
            Self::Config(_)
            | Self::Demo(_)
            | Self::Health(_)
            | Self::Doctor(_)
            | Self::Replay(_)
            | Self::Verify(_)
            | Self::Export(_)
            | Self::Import(_)
            | Self::Backup(_)
            | Self::Restore(_)
            | Self::Saga(_)
            | Self::Token(_)
            | Self::DeadLetters(_)
            | Self::NatsConfig(_)
            | Self::DevCerts(_)
            | Self::Provision(_)
            | Self::ProvisionDatabases(_)
            | Self::Rebuild(_)
            | Self::Bench(_) => "warn",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use std::{fs, path::Path};

    #[test]
    fn the_command_line_is_consistent_and_every_command_shows_examples() {
        Cli::command().debug_assert();
        for command in Cli::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("waybill "), "{} shows no examples", command.get_name());
        }
    }

    /// Who may list the processes of a machine reads its command lines: what is secret need not be in one.
    #[test]
    fn every_secret_of_a_flag_has_a_variable_and_the_documentation_lists_it() {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operations.md");
        let page = fs::read_to_string(page).unwrap();
        let command = discreet(Cli::command());
        let mut secrets = 0;
        for section in command.get_subcommands() {
            for argument in section.get_arguments().filter(|argument| argument.is_hide_env_values_set()) {
                let (section, long) = (section.get_name(), argument.get_long().unwrap());
                let variable =
                    argument.get_env().unwrap_or_else(|| panic!("{section} --{long} has no variable"));
                let variable = format!("`{}`", variable.to_str().unwrap());
                let row = |line: &&str| line.contains(&format!("`--{long}`")) && line.contains(&variable);
                assert!(page.lines().any(|line| row(&line)), "{section} --{long} {variable}");
                secrets += 1;
            }
        }
        assert!(secrets > 10, "{secrets}");
    }

    #[test]
    fn what_shows_the_arguments_of_a_command_shows_no_login_of_nats() {
        let mut with_nats: Vec<_> = Cli::command()
            .get_subcommands()
            .filter(|command| command.get_arguments().any(|argument| argument.get_id() == "nats_url"))
            .map(|command| command.get_name().to_owned())
            .collect();
        with_nats.sort();
        let lines = [
            "backup x",
            "doctor",
            "export x",
            "import x",
            "provision",
            "replay",
            "restore x",
            "saga list",
            "serve orders",
            "token --role operator",
            "verify",
        ];
        assert_eq!(
            with_nats,
            lines.map(|line| line.split(' ').next().unwrap_or_default()),
            "all of them are tried"
        );
        for line in lines {
            let words = ["waybill"].into_iter().chain(line.split(' '));
            let cli = Cli::try_parse_from(words.chain(["--nats-url", "nats://ada:s3cret@host:4222"]));
            let shown = format!("{:?}", cli.unwrap());
            assert!(shown.contains("nats://host:4222") && !shown.contains("s3cret"), "{line}: {shown}");
        }
    }
}
