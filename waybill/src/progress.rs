//! How far a long command is: a bar on a terminal, a line now and then elsewhere. On standard error, for standard output
//! holds results.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::{
    cell::Cell,
    io::{self, IsTerminal},
    time::{Duration, Instant},
};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// Between two lines where there is no terminal.
const LINES: Duration = Duration::from_secs(5);

/// How far it is.
pub(crate) struct Progress {
    what: String,
    bar: ProgressBar,
    /// When it began, and when the last line was written; none on a terminal.
    lines: Option<(Instant, Cell<Instant>)>,
    /// Moves the bar, where nobody advances it.
    follower: Cell<Option<AbortOnDropHandle<()>>>,
}

impl Progress {
    /// Of so many events.
    pub(crate) fn new(what: impl Into<String>, total: u64) -> Self {
        let what = what.into();
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(5));
        // The template is a constant that parses; were it not to, the default is as good.
        let style = ProgressStyle::with_template(
            "{msg} {wide_bar} {human_pos}/{human_len} events, {per_sec}, {eta} left",
        );
        let bar = bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_message(what.clone());
        let now = Instant::now();
        let lines = (!io::stderr().is_terminal()).then(|| (now, Cell::new(now)));
        Self { what, bar, lines, follower: Cell::new(None) }
    }

    /// So many more are done.
    pub(crate) fn advance(&self, events: u64) {
        self.bar.inc(events);
        // Asking for the time costs more than an event.
        if let Some((_, last)) = &self.lines
            && self.bar.position() % 1024 < events
            && last.get().elapsed() >= LINES
        {
            last.set(last.get() + last.get().elapsed());
            self.line("");
        }
    }

    /// How far a read model is that is being built: from here on, until it is finished.
    pub(crate) fn follow(&self, total: u64, mut watched: watch::Receiver<projections::Progress>) {
        let bar = self.bar.clone();
        bar.set_length(total);
        let task = tokio::spawn(async move {
            while watched.changed().await.is_ok() {
                let reached =
                    watched.borrow_and_update().streams.iter().map(|stream| stream.position.sequence).sum();
                bar.set_position(reached);
            }
        });
        self.follower.set(Some(AbortOnDropHandle::new(task)));
    }

    fn line(&self, end: &str) {
        let Some((started, _)) = &self.lines else { return };
        let (done, total) = (self.bar.position(), self.bar.length().unwrap_or_default());
        #[expect(clippy::cast_precision_loss, reason = "for people")]
        let rate = done as f64 / started.elapsed().as_secs_f64().max(0.001);
        eprintln!("{}: {done}/{total} events, {rate:.0}/s{end}", self.what);
    }

    /// All is done.
    pub(crate) fn finish(self) {
        self.follower.set(None);
        self.bar.finish_and_clear();
        self.line(", done");
    }
}
