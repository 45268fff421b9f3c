//! How a command ends when it fails: one error, its chain printed once, and an exit code.

use service::config::{EXIT_USAGE, Faults};
use std::{error::Error, fmt::Write, process::ExitCode};

/// Why a command failed. Wrong settings ([`Faults`]) end with the exit code for wrong usage, everything else with 1.
pub type Failure = Box<dyn Error + Send + Sync>;

/// What was tried when something failed.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
struct Because {
    what: String,
    source: Failure,
}

/// Says what was tried, for `map_err`.
pub(crate) fn because<E: Into<Failure>>(what: impl Into<String>) -> impl FnOnce(E) -> Failure {
    move |source| Box::new(Because { what: what.into(), source: source.into() })
}

/// The error and what caused it, a line each.
pub fn report(error: &(dyn Error + 'static)) -> String {
    let mut text = format!("error: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        // Writing to a string cannot fail.
        let _ = write!(text, "\n  caused by: {error}");
        cause = error.source();
    }
    text
}

/// 64 for wrong settings, else 1.
pub fn exit_code(error: &(dyn Error + 'static)) -> ExitCode {
    if error.is::<Faults>() { EXIT_USAGE.into() } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_is_told_once() {
        let inner = because("cannot read dev.json")(std::io::Error::other("it is a folder"));
        let outer = because("no running dev")(inner);
        assert_eq!(
            report(&*outer),
            "error: no running dev\n  caused by: cannot read dev.json\n  caused by: it is a folder"
        );
        assert_eq!(exit_code(&*outer), ExitCode::FAILURE);
    }

    #[test]
    fn wrong_settings_are_wrong_usage() {
        let mut faults = Faults::default();
        faults.add("--carrier", "expected accept");
        let failure: Failure = faults.into();
        assert_eq!(exit_code(&*failure), EXIT_USAGE.into());
    }
}
