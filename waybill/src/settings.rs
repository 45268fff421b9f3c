//! Flags as settings: read together, so that everything that is wrong with them is said at once.

use crate::failure::Failure;
use service::config::{Faults, Settings};

/// Settings out of flags; clap has already looked into the environment where a flag is missing.
pub(crate) fn flags<const N: usize>(flags: [(&'static str, Option<String>); N]) -> Settings {
    Settings::from_fn(move |key| {
        flags.iter().find(|(flag, _)| *flag == key).and_then(|(_, value)| value.clone()).map(Into::into)
    })
}

/// One fault with one setting, for `map_err`.
pub(crate) fn fault<E: std::fmt::Display>(key: &'static str) -> impl FnOnce(E) -> Failure {
    move |error| {
        let mut faults = Faults::default();
        faults.add(key, error);
        faults.into()
    }
}
