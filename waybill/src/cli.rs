//! The command line: what can be said, with examples.

use crate::{bench, dead_letters, demo, dev, failure::Failure, health, replay, saga, serve, token};
use clap::{Parser, Subcommand};
use service::{
    config::{EXIT_USAGE, Settings},
    telemetry::{self, LogFormat, TelemetryError},
};
use std::process::ExitCode;

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

    /// How log lines look: pretty or json
    #[arg(long, global = true, help_heading = LOGS, value_name = "FORMAT")]
    #[arg(env = "WAYBILL_LOG_FORMAT", default_value = "pretty")]
    log_format: LogFormat,

    /// Which log lines are shown, such as info,http=warn [default: info for dev and serve, else warn]
    #[arg(long, global = true, help_heading = LOGS, value_name = "FILTER", env = "WAYBILL_LOG")]
    log: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run everything on this machine: nats-server and all services (the default)
    #[command(after_help = dev::EXAMPLES)]
    Dev(dev::Args),
    /// Place orders that succeed, fail and are cancelled, watch them move, and check what must hold
    #[command(after_help = demo::EXAMPLES)]
    Demo(demo::Args),
    /// Run one service, several, or all against an existing NATS
    #[command(after_help = serve::EXAMPLES)]
    Serve(serve::Args),
    /// Ask a running service whether it lives, or whether it can serve
    #[command(after_help = health::EXAMPLES)]
    Health(health::Args),
    /// Print recorded events
    #[command(after_help = replay::EXAMPLES)]
    Replay(replay::Args),
    /// See sagas, and retry, skip, compensate, cancel or resume them
    #[command(after_help = saga::EXAMPLES)]
    Saga(saga::Args),
    /// Print an access token
    #[command(after_help = token::EXAMPLES)]
    Token(token::Args),
    /// See what consumers could not handle, try it again, or give it up
    #[command(after_help = dead_letters::EXAMPLES)]
    DeadLetters(dead_letters::Args),
    /// Measure, beside what the parts beneath can do
    #[command(after_help = bench::EXAMPLES)]
    Bench(bench::Args),
}

impl Cli {
    /// Reads the command line; the error is the exit code after help, version or a usage message was printed.
    pub fn read() -> Result<Self, ExitCode> {
        let read = Self::try_parse().and_then(|mut cli| {
            if cli.command.is_none() {
                // `waybill` is `waybill dev`, with the defaults that clap knows.
                cli.command = Self::try_parse_from(["waybill", "dev"])?.command;
            }
            Ok(cli)
        });
        read.map_err(|error| {
            // Where even the message cannot be written there is nobody to read it.
            let _ = error.print();
            if error.use_stderr() { EXIT_USAGE.into() } else { ExitCode::SUCCESS }
        })
    }

    /// Runs the command to its end.
    pub fn run(self) -> Result<(), Failure> {
        let Some(command) = self.command else { return Ok(()) };
        let filter = self.log.as_deref().unwrap_or_else(|| command.default_log());
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let telemetry = telemetry::init(self.log_format, filter, Settings::environment(), runtime.handle());
        let telemetry = telemetry.map_err(|error| match error {
            TelemetryError::Settings(faults) => faults.into(),
            error => crate::settings::fault("--log")(error),
        })?;
        let result = runtime.block_on(async {
            match command {
                Command::Dev(args) => Box::pin(dev::run(args)).await,
                Command::Demo(args) => Box::pin(demo::run(args)).await,
                Command::Serve(args) => Box::pin(serve::run(args)).await,
                Command::Health(args) => Box::pin(health::run(args)).await,
                Command::Replay(args) => Box::pin(replay::run(args)).await,
                Command::Saga(args) => Box::pin(saga::run(args)).await,
                Command::Token(args) => Box::pin(token::run(args)).await,
                Command::DeadLetters(args) => Box::pin(dead_letters::run(args)).await,
                Command::Bench(args) => Box::pin(bench::run(args)).await,
            }
        });
        telemetry.stop();
        // Whoever stopped it does not wait for a download that was under way.
        runtime.shutdown_background();
        result
    }
}

impl Command {
    /// Those that run until they are stopped tell what they do; those that print results do not.
    fn default_log(&self) -> &'static str {
        match self {
            Self::Dev(_) | Self::Serve(_) => "info,async_nats=warn",
            Self::Demo(_)
            | Self::Health(_)
            | Self::Replay(_)
            | Self::Saga(_)
            | Self::Token(_)
            | Self::DeadLetters(_)
            | Self::Bench(_) => "warn",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent_and_every_command_shows_examples() {
        Cli::command().debug_assert();
        for command in Cli::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("waybill "), "{} shows no examples", command.get_name());
        }
    }
}
