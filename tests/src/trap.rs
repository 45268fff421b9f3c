//! A place where a process is made to die or to stand still, and whether it was there that it did.

use rustix::process::Signal;
use std::{fmt, fs, io, os::unix::process::ExitStatusExt, path::PathBuf, process::ExitStatus};
use tempfile::TempDir;

/// A place where a process is made to die or to stand still: see `service::crash_point`.
pub struct Trap {
    variable: &'static str,
    at: String,
    mark: PathBuf,
    _folder: TempDir,
}

/// What became of a process that something was to happen to at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It died there.
    Died,
    /// What was to happen did, and nobody had to die.
    Reached,
    /// It did not pass there, and lives.
    Lives,
    /// It died not there, but thus.
    Otherwise(String),
    /// It was there, and what came of that is wrong.
    Wrong(String),
}

impl Trap {
    /// At `<point>@<scope>:<count>`.
    pub fn at(place: &str) -> io::Result<Self> {
        Self::of("WAYBILL_CRASH_AT", place)
    }

    /// At `<point>@<scope>:<milliseconds>`, where it stands still for so long, once.
    pub fn stall(place: &str) -> io::Result<Self> {
        Self::of("WAYBILL_STALL_AT", place)
    }

    fn of(variable: &'static str, place: &str) -> io::Result<Self> {
        let folder = tempfile::tempdir()?;
        Ok(Self { variable, at: place.to_owned(), mark: folder.path().join("mark"), _folder: folder })
    }

    /// What the process has to have in its environment.
    pub fn env(&self) -> [(&str, &str); 2] {
        [(self.variable, &self.at), ("WAYBILL_CRASH_MARK", self.mark.to_str().unwrap_or_default())]
    }

    /// What became of the process: it died there where it left its mark, and then by its own hand.
    pub fn verdict(&self, ended: Option<ExitStatus>) -> Verdict {
        let Some(status) = ended else { return Verdict::Lives };
        if self.has_mark() && status.signal() == Some(Signal::ABORT.as_raw()) {
            return Verdict::Died;
        }
        Verdict::Otherwise(status.to_string())
    }

    /// Whether the process was there, however it goes on: it left its mark.
    pub fn reached(&self) -> Verdict {
        if self.has_mark() { Verdict::Reached } else { Verdict::Lives }
    }

    fn has_mark(&self) -> bool {
        let mark = fs::read_to_string(&self.mark).unwrap_or_default();
        mark == self.at.rsplit_once(':').map_or(&*self.at, |(place, _)| place)
    }
}

impl Verdict {
    /// Whether all went as it should.
    pub fn is_green(&self) -> bool {
        matches!(self, Self::Died | Self::Reached)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Died | Self::Reached => f.write_str("green"),
            Self::Lives => f.write_str("RED: never reached"),
            Self::Otherwise(status) => write!(f, "RED: ended elsewhere, {status}"),
            Self::Wrong(what) => write!(f, "RED: {what}"),
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
            assert!(!verdict.is_green() && verdict.to_string().contains("elsewhere"), "{verdict}");
        }
    }

    #[test]
    fn only_who_leaves_the_mark_has_stood_still_there_and_need_not_die() {
        let trap = Trap::stall("append.before@ORDERS:1500").unwrap();
        assert_eq!(trap.env()[0], ("WAYBILL_STALL_AT", "append.before@ORDERS:1500"));
        assert_eq!(trap.reached(), Verdict::Lives);
        ends("printf append.after@ORDERS > $WAYBILL_CRASH_MARK", &trap);
        assert_eq!(trap.reached(), Verdict::Lives);
        assert!(!trap.reached().is_green());
        ends("printf append.before@ORDERS > $WAYBILL_CRASH_MARK", &trap);
        assert_eq!(trap.reached(), Verdict::Reached);
        assert!(trap.reached().is_green());
        let wrong = Verdict::Wrong("completed, not failed".to_owned());
        assert!(!wrong.is_green() && !wrong.to_string().contains("elsewhere"), "{wrong}");
    }
}
