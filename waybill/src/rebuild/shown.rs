//! How a build is shown: a bar on a terminal, a line now and then elsewhere; and generations as a table.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;
use std::{
    fmt::Write,
    io::{self, IsTerminal},
    time::{Duration, Instant},
};

/// Where there is no terminal, a line is enough every so often.
const LINE: Duration = Duration::from_secs(5);

/// One build.
pub(super) struct Shown {
    service: String,
    bar: Option<ProgressBar>,
    last: Option<(Instant, String)>,
}

impl Shown {
    pub(super) fn new(service: &str) -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            // The template is a constant that parses; were it not to, the default is as good.
            let style = ProgressStyle::with_template("{prefix} {bar:30} {percent:>3}% {msg}");
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_prefix(service.to_owned());
            bar
        });
        Self { service: service.to_owned(), bar, last: None }
    }

    /// How the generation stands now.
    pub(super) fn update(&mut self, generation: &Value) {
        let build = &generation["build"];
        let said = progress(build);
        if let Some(bar) = &self.bar {
            bar.set_length(build["total"].as_u64().unwrap_or(1).max(1));
            bar.set_position(build["events"].as_u64().unwrap_or_default());
            bar.set_message(said);
            return;
        }
        let stage = build["stage"].as_str().unwrap_or_default().to_owned();
        let due = self.last.as_ref().is_none_or(|(at, before)| *before != stage || at.elapsed() > LINE);
        if due && !stage.is_empty() {
            eprintln!("{}: {said}", self.service);
            self.last = Some((Instant::now(), stage));
        }
    }

    pub(super) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// `reading, 1200 of 5000 events, 800/s, 5 s left`.
fn progress(build: &Value) -> String {
    let mut out = build["stage"].as_str().unwrap_or("begins").to_owned();
    if let (Some(events), Some(total)) = (build["events"].as_u64(), build["total"].as_u64())
        && total > 0
    {
        // Writing to a String cannot fail.
        let _ = write!(out, ", {events} of {total} events, {}/s", build["perSecond"]);
    }
    if let Some(left) = build["secondsLeft"].as_u64().filter(|left| *left > 0) {
        let _ = write!(out, ", {left} s left");
    }
    if let Some(fault) = build["fault"].as_str() {
        let _ = write!(out, "; stands still: {fault}");
    }
    out
}

/// The generations of a read model, for people.
pub(super) fn table(model: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut out = format!("{}\n", text(&model["service"]));
    for one in model["generations"].as_array().into_iter().flatten() {
        let (state, begun) = (text(&one["state"]), text(&one["begunAt"]));
        let number = one["number"].as_u64().unwrap_or_default();
        let _ = write!(out, "  {number:>3}  {state:8}  version {}  since {begun}", one["version"]);
        if let Some(table) = one["model"].as_str() {
            let _ = write!(out, "  {table} only");
        }
        let from: Vec<_> = one["since"].as_array().into_iter().flatten().collect();
        if !from.is_empty() {
            let from = from.iter().map(|at| format!("{}:{}", text(&at["stream"]), at["sequence"]));
            let _ = write!(out, "  from {}", from.collect::<Vec<_>>().join(","));
        }
        if one["build"].is_object() {
            let _ = write!(out, "  {}", progress(&one["build"]));
        }
        out.push('\n');
    }
    if let Some(why) = model["refused"]["why"].as_str() {
        let _ = writeln!(out, "  refused: {why}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_build_says_how_far_it_is_and_when_it_will_be_done() {
        let build =
            json!({ "stage": "reading", "events": 1200, "total": 5000, "perSecond": 800, "secondsLeft": 5 });
        assert_eq!(progress(&build), "reading, 1200 of 5000 events, 800/s, 5 s left");
        assert_eq!(progress(&Value::Null), "begins");
        let model = json!({
            "service": "orders", "refused": { "asked": 4, "why": "no generation is kept" },
            "generations": [
                { "number": 1, "state": "live", "version": 1, "begunAt": "then", "since": [] },
                { "number": 2, "state": "building", "version": 1, "begunAt": "now", "model": "progress",
                  "since": [{ "stream": "ORDERS", "sequence": 4 }], "build": build },
            ],
        });
        let expected = "orders\n    1  live      version 1  since then\n    2  building  version 1  since now  \
                        progress only  from ORDERS:4  reading, 1200 of 5000 events, 800/s, 5 s left\n  \
                        refused: no generation is kept\n";
        assert_eq!(table(&model), expected);
    }
}
