//! How orders call the users service, by flags and environment.

use crate::settings::Flag;
use service::{
    breaker::Policy,
    client,
    config::{Settings, Span},
};
use std::time::Duration;

/// Flags of the calls of the users service.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Orders ask the users service")]
pub struct CallArgs {
    /// How long orders rely on what the users service said of a customer [default: 30s]
    #[arg(long, value_name = "TIME", env = "WAYBILL_USERS_FRESH_FOR")]
    users_fresh_for: Option<String>,
    /// How long a call may take [default: 3s]
    #[arg(long, value_name = "TIME", env = "WAYBILL_USERS_TIMEOUT")]
    users_timeout: Option<String>,
    /// How long the end of a call counts for the circuit breaker [default: 10s]
    #[arg(long, value_name = "TIME", env = "WAYBILL_BREAKER_WINDOW")]
    breaker_window: Option<String>,
    /// Fewer calls within that time never open it [default: 10]
    #[arg(long, value_name = "CALLS", env = "WAYBILL_BREAKER_MINIMUM")]
    breaker_minimum: Option<String>,
    /// It opens when this share of them failed, in percent [default: 50]
    #[arg(long, value_name = "PERCENT", env = "WAYBILL_BREAKER_ERRORS")]
    breaker_errors: Option<String>,
    /// How long it stays open before one call is tried [default: 30s]
    #[arg(long, value_name = "TIME", env = "WAYBILL_BREAKER_OPEN")]
    breaker_open: Option<String>,
}

/// How orders call the users service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UsersCalls {
    /// How long its answer is relied on, unless a fact says otherwise before.
    pub fresh_for: Duration,
    /// How long a call may take.
    pub timeout: Duration,
    /// When the circuit breaker opens, and for how long.
    pub breaker: Policy,
}

impl Default for UsersCalls {
    fn default() -> Self {
        Self { fresh_for: Duration::from_secs(30), timeout: client::TIMEOUT, breaker: Policy::default() }
    }
}

impl CallArgs {
    /// The flags by name, to be read together with those of the command.
    pub(crate) fn flags(&self) -> [Flag; 6] {
        [
            ("--users-fresh-for", self.users_fresh_for.clone()),
            ("--users-timeout", self.users_timeout.clone()),
            ("--breaker-window", self.breaker_window.clone()),
            ("--breaker-minimum", self.breaker_minimum.clone()),
            ("--breaker-errors", self.breaker_errors.clone()),
            ("--breaker-open", self.breaker_open.clone()),
        ]
    }
}

impl UsersCalls {
    /// The calls as the flags want them.
    pub(crate) fn read(flags: &mut Settings) -> Self {
        let usual = Self::default();
        let breaker = Policy {
            window: time(flags, "--breaker-window", usual.breaker.window),
            minimum: count(flags, "--breaker-minimum", usual.breaker.minimum, u32::MAX),
            error_percent: count(flags, "--breaker-errors", usual.breaker.error_percent, 100),
            open_for: time(flags, "--breaker-open", usual.breaker.open_for),
        };
        let fresh_for = flags.optional("--users-fresh-for").map_or(usual.fresh_for, |Span(time)| time);
        Self { fresh_for, timeout: time(flags, "--users-timeout", usual.timeout), breaker }
    }
}

/// A time that is not nothing.
fn time(flags: &mut Settings, name: &'static str, usual: Duration) -> Duration {
    let Some(Span(time)) = flags.optional(name) else { return usual };
    if time.is_zero() {
        flags.faults().add(name, "expected more than nothing");
    }
    time
}

/// A number from 1 to `most`.
fn count(flags: &mut Settings, name: &'static str, usual: u32, most: u32) -> u32 {
    let Some(count) = flags.optional(name) else { return usual };
    if !(1..=most).contains(&count) {
        flags.faults().add(name, format!("expected 1 to {most}"));
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        calls: CallArgs,
    }

    fn read(line: &str) -> Result<UsersCalls, String> {
        let line = Line::parse_from(["waybill"].into_iter().chain(line.split_whitespace()));
        let mut flags = settings::flags(line.calls.flags());
        let calls = UsersCalls::read(&mut flags);
        flags.finish(Some(calls)).map_err(|faults| faults.to_string())
    }

    #[test]
    fn the_usual_numbers_and_every_other() {
        let usual = UsersCalls {
            fresh_for: Duration::from_secs(30),
            timeout: Duration::from_secs(3),
            breaker: Policy {
                window: Duration::from_secs(10),
                minimum: 10,
                error_percent: 50,
                open_for: Duration::from_secs(30),
            },
        };
        assert_eq!(read(""), Ok(usual));
        let other = UsersCalls {
            fresh_for: Duration::ZERO,
            timeout: Duration::from_millis(500),
            breaker: Policy {
                window: Duration::from_mins(1),
                minimum: 1,
                error_percent: 100,
                open_for: Duration::from_secs(2),
            },
        };
        let line = "--users-fresh-for 0s --users-timeout 500ms --breaker-window 1m --breaker-minimum 1 \
                    --breaker-errors 100 --breaker-open 2s";
        assert_eq!(read(line), Ok(other));
    }

    #[test]
    fn every_fault_is_named_at_once() {
        let faults = read(
            "--users-fresh-for soon --users-timeout 0s --breaker-window 0s --breaker-minimum 0 --breaker-errors 101 \
             --breaker-open long",
        );
        // Behind a line that says what is wrong.
        assert_eq!(faults.as_ref().unwrap_err().lines().skip(1).count(), 6, "{faults:?}");
    }
}
