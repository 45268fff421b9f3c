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

/// A check that could not be carried through: neither that something is wrong is known, nor that all is well.
#[derive(Debug, thiserror::Error)]
#[error("it cannot be told")]
pub(crate) struct Unable {
    source: Failure,
}

impl Unable {
    /// Says so of a failure, for `map_err`. Wrong settings stay what they are.
    pub(crate) fn tell(source: Failure) -> Failure {
        if source.is::<Faults>() { source } else { Box::new(Self { source }) }
    }
}

/// Of a check that could not be carried through.
const EXIT_UNABLE: u8 = 2;

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

/// 64 for wrong settings, 2 where a check could not be carried through, else 1.
pub fn exit_code(error: &(dyn Error + 'static)) -> ExitCode {
    match error {
        _ if error.is::<Faults>() => EXIT_USAGE.into(),
        _ if error.is::<Unable>() => EXIT_UNABLE.into(),
        _ => ExitCode::FAILURE,
    }
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
        assert_eq!(exit_code(&*Unable::tell(failure)), EXIT_USAGE.into());
        assert_eq!(exit_code(&*Unable::tell("no server".into())), EXIT_UNABLE.into());
    }
}
