//! A place where a process is made to die, and whether it was there that it died.

use rustix::process::Signal;
use std::{fmt, fs, io, os::unix::process::ExitStatusExt, path::PathBuf, process::ExitStatus};
use tempfile::TempDir;

/// A place where a process is made to die: see `service::crash_point`.
pub struct Trap {
    at: String,
    mark: PathBuf,
    _folder: TempDir,
}

/// How a process came to its end that was to die at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There.
    Died,
    /// It did not pass there, and lives.
    Lives,
    /// Not there, but thus.
    Otherwise(String),
}

impl Trap {
    /// At `<point>@<scope>:<count>`.
    pub fn at(place: &str) -> io::Result<Self> {
        let folder = tempfile::tempdir()?;
        Ok(Self { at: place.to_owned(), mark: folder.path().join("mark"), _folder: folder })
    }

    /// What the process has to have in its environment.
    pub fn env(&self) -> [(&str, &str); 2] {
        [("WAYBILL_CRASH_AT", &self.at), ("WAYBILL_CRASH_MARK", self.mark.to_str().unwrap_or_default())]
    }

    /// What became of the process: it died there where it left its mark, and then by its own hand.
    pub fn verdict(&self, ended: Option<ExitStatus>) -> Verdict {
        let Some(status) = ended else { return Verdict::Lives };
        let mark = fs::read_to_string(&self.mark).unwrap_or_default();
        let place = self.at.rsplit_once(':').map_or(&*self.at, |(place, _)| place);
        if mark == place && status.signal() == Some(Signal::ABORT.as_raw()) {
            return Verdict::Died;
        }
        Verdict::Otherwise(status.to_string())
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Died => f.write_str("green"),
            Self::Lives => f.write_str("RED: never reached"),
            Self::Otherwise(status) => write!(f, "RED: ended elsewhere, {status}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn ends(script: &str, trap: &Trap) -> Verdict {
        let status = Command::new("sh").args(["-c", script]).envs(trap.env()).status().unwrap();
        trap.verdict(Some(status))
    }

    #[test]
    fn only_who_leaves_the_mark_and_aborts_has_died_there() {
        let trap = || Trap::at("append.before@ORDERS:2").unwrap();
        let there = "printf append.before@ORDERS > $WAYBILL_CRASH_MARK";
        assert_eq!(ends(&format!("{there}; kill -ABRT $$"), &trap()), Verdict::Died);
        assert_eq!(trap().verdict(None), Verdict::Lives);
        for other in [
            "kill -ABRT $$".to_owned(),
            "exit 101".to_owned(),
            format!("{there}; exit 0"),
            format!("{there}; kill -KILL $$"),
            "printf append.after@ORDERS > $WAYBILL_CRASH_MARK; kill -ABRT $$".to_owned(),
        ] {
            let verdict = ends(&other, &trap());
            assert!(matches!(verdict, Verdict::Otherwise(_)), "{other}: {verdict}");
        }
    }
}
