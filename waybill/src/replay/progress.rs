//! How far a replay is, on standard error: a bar on a terminal, now and then a line elsewhere. Standard output holds the
//! events.

use indicatif::{HumanCount, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::time::{Duration, Instant};

/// How often a line is written.
const EVERY: Duration = Duration::from_secs(5);

pub(super) struct Progress {
    bar: ProgressBar,
    /// When the next line is due, where there is no bar.
    next: Instant,
}

impl Progress {
    /// Of so many events to look at.
    pub(super) fn new(length: u64) -> Self {
        let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr_with_hz(5));
        // The template is a constant that parses; were it not to, the default is as good.
        let style =
            ProgressStyle::with_template("{wide_bar} {human_pos}/{human_len} events, {per_sec}, {eta} left");
        let bar = bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self { bar, next: Instant::now() + EVERY }
    }

    /// So many events have been looked at.
    pub(super) fn at(&mut self, position: u64) {
        self.bar.set_position(position);
        if self.bar.is_hidden() && Instant::now() >= self.next {
            self.next = Instant::now() + EVERY;
            eprintln!("{}", self.line());
        }
    }

    /// Lets something be written where the bar may be.
    pub(super) fn aside<T>(&self, write: impl FnOnce() -> T) -> T {
        self.bar.suspend(write)
    }

    /// There is no more to look at.
    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }

    fn line(&self) -> String {
        let (position, length) = (HumanCount(self.bar.position()), self.bar.length().unwrap_or_default());
        format!(
            "{position}/{} events, {:.0}/s, {:#} left",
            HumanCount(length),
            self.bar.per_sec(),
            HumanDuration(self.bar.eta())
        )
    }
}
