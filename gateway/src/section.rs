//! A table of a TOML file, read key by key so that everything wrong with it is noted, and not only the first thing.

use serde::{Deserialize, Deserializer, de::Error as _};
use service::config::Faults;
use std::{fmt, str::FromStr};

/// A table at a place in the file. Every key that is known is taken out; what is left at the end is a fault.
pub(crate) struct Section<'a> {
    at: String,
    table: toml::Table,
    faults: &'a mut Faults,
}

impl<'a> Section<'a> {
    /// `at` names the table in faults, such as `routes[2]`; the whole file has no name.
    pub(crate) fn new(at: impl Into<String>, table: toml::Table, faults: &'a mut Faults) -> Self {
        Self { at: at.into(), table, faults }
    }

    /// A key that has to be there. `None` is already noted as a fault.
    pub(crate) fn required<T: for<'de> Deserialize<'de>>(&mut self, key: &str) -> Option<T> {
        if !self.table.contains_key(key) {
            self.fault(key, "is missing");
        }
        self.optional(key)
    }

    /// A key that may be missing. `None` where it is, and where it is wrong, which is noted.
    pub(crate) fn optional<T: for<'de> Deserialize<'de>>(&mut self, key: &str) -> Option<T> {
        let value = self.table.remove(key)?;
        value.try_into().map_err(|error| self.fault(key, error.to_string().trim_end())).ok()
    }

    /// Notes what is wrong with a key that only the caller can judge.
    pub(crate) fn fault(&mut self, key: &str, why: impl fmt::Display) {
        let key = if self.at.is_empty() { key.to_owned() } else { format!("{}.{key}", self.at) };
        self.faults.add(&key, why);
    }

    /// Where the faults of tables inside this one go.
    pub(crate) fn faults(&mut self) -> &mut Faults {
        self.faults
    }

    /// Notes every key that nobody asked for.
    pub(crate) fn finish(mut self) {
        for key in std::mem::take(&mut self.table).keys() {
            self.fault(key, "is not known");
        }
    }
}

/// A number of bytes as people write it: `512`, `64KiB`, `1MiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size(pub(crate) u64);

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let units = [("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1), ("", 1)];
        let (number, unit) = units
            .iter()
            .find_map(|(name, unit)| Some((text.strip_suffix(name)?, *unit)))
            .unwrap_or((text, 1));
        let number: Option<u64> = number.trim().parse().ok();
        let bytes = number.and_then(|number| number.checked_mul(unit));
        bytes.map(Self).ok_or_else(|| format!("'{text}' is no size such as 512B, 64KiB or 1MiB"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use service::config::Span;

    #[test]
    fn everything_wrong_is_noted_with_its_place() {
        let table = toml::from_str("a = 'x'\nb = true\nc = 1").unwrap();
        let mut faults = Faults::default();
        let mut section = Section::new("routes[0]", table, &mut faults);
        assert_eq!(section.required::<Span>("a"), None);
        assert_eq!(section.required::<String>("b"), None);
        assert_eq!(section.required::<String>("d"), None);
        section.finish();
        let said = faults.to_string();
        for line in [
            "routes[0].a: expected a time, such as 3s",
            "routes[0].b: invalid type: boolean",
            "routes[0].d: is missing",
            "routes[0].c: is not known",
        ] {
            assert!(said.contains(line), "{line} is missing in {said}");
        }
    }

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [("7", 7), ("512B", 512), ("64KiB", 65_536), ("1 MiB", 1_048_576)] {
            assert_eq!(text.parse(), Ok(Size(bytes)));
        }
        for bad in ["", "MiB", "-1", "1GB", "1.5MiB", "99999999999999999999MiB"] {
            assert!(bad.parse::<Size>().is_err(), "{bad}");
        }
    }
}
