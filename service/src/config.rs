//! Settings by name, read so that all faults are reported at once.

use jiff::SignedDuration;
use serde::{Deserialize, Deserializer, de::Error as _};
use std::{env, error::Error, ffi::OsString, fmt, str::FromStr, time::Duration};

/// The exit code for wrong settings or arguments (`EX_USAGE` of sysexits).
pub const EXIT_USAGE: u8 = 64;

/// Everything that is wrong with the settings, one line each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults(Vec<(String, String)>);

impl Faults {
    /// Notes what is wrong with the setting `key`, once however often it is read. Never put the value of a secret into `why`.
    pub fn add(&mut self, key: &str, why: impl fmt::Display) {
        let fault = (key.to_owned(), why.to_string());
        if !self.0.contains(&fault) {
            self.0.push(fault);
        }
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Nothing, if nothing is wrong.
    pub fn none(self) -> Result<(), Self> {
        if self.is_empty() { Ok(()) } else { Err(self) }
    }

    /// The same faults under other names: those of the places where the settings come from.
    #[must_use]
    pub fn named(self, name: impl Fn(&str) -> Option<String>) -> Self {
        Self(self.0.into_iter().map(|(key, why)| (name(&key).unwrap_or(key), why)).collect())
    }

    /// These and those of somebody else.
    pub fn extend(&mut self, others: Self) {
        self.0.extend(others.0);
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the settings are wrong:")?;
        self.0.iter().try_for_each(|(key, why)| write!(f, "\n  {key}: {why}"))
    }
}

impl Error for Faults {}

type Lookup = Box<dyn Fn(&str) -> Option<OsString> + Send>;

/// Reads typed settings and collects what is wrong with them.
///
/// ```
/// # use service::config::{Faults, Settings};
/// struct Config { url: String, port: u16 }
///
/// fn read(mut settings: Settings) -> Result<Config, Faults> {
///     let url = settings.required("DATABASE_URL");
///     let port = settings.optional("PORT").unwrap_or(3002);
///     settings.finish(url.map(|url| Config { url, port }))
/// }
/// ```
pub struct Settings {
    lookup: Lookup,
    faults: Faults,
}

impl Settings {
    /// The environment of this process.
    pub fn environment() -> Self {
        Self::from_fn(|key| env::var_os(key))
    }

    /// Any other source, such as a table in a test.
    pub fn from_fn(lookup: impl Fn(&str) -> Option<OsString> + Send + 'static) -> Self {
        Self { lookup: Box::new(lookup), faults: Faults::default() }
    }

    /// A setting that may be missing; empty counts as missing.
    pub fn optional<T: FromStr<Err: fmt::Display>>(&mut self, key: &str) -> Option<T> {
        let value = (self.lookup)(key).filter(|value| !value.is_empty())?;
        let Some(text) = value.to_str() else {
            self.faults.add(key, "is not UTF-8");
            return None;
        };
        // The value is not shown: it may be a secret.
        text.parse().map_err(|error| self.faults.add(key, error)).ok()
    }

    /// A setting that must be there. None is already noted as a fault.
    pub fn required<T: FromStr<Err: fmt::Display>>(&mut self, key: &str) -> Option<T> {
        if (self.lookup)(key).is_none_or(|value| value.is_empty()) {
            self.faults.add(key, "is missing");
            return None;
        }
        self.optional(key)
    }

    /// Where to note faults that only the caller can see.
    pub fn faults(&mut self) -> &mut Faults {
        &mut self.faults
    }

    /// The configuration, if nothing is wrong. It is None only where a required setting was.
    pub fn finish<T>(self, config: Option<T>) -> Result<T, Faults> {
        config.filter(|_| self.faults.0.is_empty()).ok_or(self.faults)
    }
}

/// A span of time as people write it: `3s`, `500ms`, `15m`, `1h 30m`; a number alone is in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let seconds = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        let span = if seconds {
            text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        } else {
            text.parse::<SignedDuration>().ok().and_then(|span| span.try_into().ok())
        };
        span.map(Self).ok_or("expected a time, such as 3s, 500ms or 15m")
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &'static [(&str, &str)]) -> Settings {
        Settings::from_fn(|key| pairs.iter().find(|(k, _)| *k == key).map(|(_, value)| value.into()))
    }

    #[test]
    fn reports_every_fault_at_once_by_name() {
        let mut settings = settings(&[("PORT", "many"), ("RATE", ""), ("HOST", "localhost")]);
        let port: Option<u16> = settings.optional("PORT");
        let rate: Option<u32> = settings.optional("RATE");
        let host: Option<String> = settings.required("HOST");
        let url: Option<String> = settings.required("URL");
        assert_eq!((port, rate, host.as_deref(), &url), (None, None, Some("localhost"), &None));
        settings.faults().add("HOST", "does not resolve");
        assert_eq!(
            settings.finish(url).unwrap_err().to_string(),
            "the settings are wrong:\n  PORT: invalid digit found in string\n  URL: is missing\n  HOST: does not resolve"
        );
    }

    #[test]
    fn reads_what_is_right() {
        let mut settings = settings(&[("PORT", "3002")]);
        let port = settings.required::<u16>("PORT");
        assert_eq!(settings.finish(port), Ok(3002));
    }

    #[test]
    fn spans_are_read_as_people_write_them() {
        for (text, ms) in [
            ("3s", 3000),
            ("500ms", 500),
            ("15m", 900_000),
            ("1h 30m", 5_400_000),
            ("0.5s", 500),
            ("2", 2000),
            ("0.5", 500),
            ("0", 0),
        ] {
            assert_eq!(text.parse(), Ok(Span(Duration::from_millis(ms))), "{text}");
        }
        for bad in [
            "",
            ".",
            "s",
            "ms",
            "-1",
            "-1s",
            "soon",
            "1e9",
            "NaN",
            "inf",
            "3 sheep",
            "9".repeat(400).as_str(),
        ] {
            assert!(bad.parse::<Span>().is_err(), "{bad}");
        }
    }
}
