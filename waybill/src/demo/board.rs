//! Shows orders moving: a line each that changes on a terminal, a new line for each change elsewhere.

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::{
    io::{self, IsTerminal},
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// More lines than fit on a screen do not help: then only a count is shown.
const MOST_LINES: usize = 40;

/// Where orders are shown.
pub(super) struct Board {
    progress: MultiProgress,
    live: bool,
    lines: bool,
}

/// One order.
pub(super) struct Line {
    name: String,
    bar: Option<ProgressBar>,
    lines: bool,
    /// What was shown last.
    stages: Mutex<Vec<String>>,
}

impl Board {
    pub(super) fn new(orders: usize) -> Self {
        let live = io::stdout().is_terminal();
        let target = if live { ProgressDrawTarget::stdout() } else { ProgressDrawTarget::hidden() };
        Self { progress: MultiProgress::with_draw_target(target), live, lines: orders <= MOST_LINES }
    }

    pub(super) fn line(&self, number: usize, label: &str) -> Line {
        let name = format!("order {number:>2}  {label:44}");
        let bar = (self.live && self.lines).then(|| {
            // The template is a constant that parses; were it not to, the default is as good.
            let style = ProgressStyle::with_template("{spinner} {prefix} {msg}");
            let bar = self.progress.add(ProgressBar::new_spinner());
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar.set_prefix(name.clone());
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Line { name, bar, lines: self.lines, stages: Mutex::default() }
    }
}

impl Line {
    /// The order is at this stage.
    pub(super) fn moved(&self, stage: &str) {
        let mut stages = self.stages.lock().unwrap_or_else(PoisonError::into_inner);
        if stages.last().is_some_and(|last| last == stage) {
            return;
        }
        stages.push(stage.to_owned());
        match &self.bar {
            Some(bar) => bar.set_message(stages.join(" > ")),
            None if self.lines => println!("{} {stage}", self.name),
            None => {}
        }
    }

    /// The order has ended.
    pub(super) fn ended(&self, how: &str) {
        self.moved(how);
        if let Some(bar) = &self.bar {
            bar.finish();
        }
    }
}
