//! The figures: a row per case, printed as a table or as JSON.

use super::load::Sample;
use crate::failure::Failure;
use nats::Durability;
use serde::Serialize;

/// One case.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Row {
    bench: &'static str,
    durability: String,
    case: String,
    callers: usize,
    /// Median over the rounds.
    per_second: f64,
    p50_millis: Option<f64>,
    p99_millis: Option<f64>,
    /// This rate over the baseline's.
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio: Option<Ratio>,
}

#[derive(Debug, Serialize)]
pub(super) struct Ratio {
    pub(super) value: f64,
    pub(super) to: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) aim: Option<f64>,
}

/// One number that is no rate.
#[derive(Debug, Serialize)]
struct Figure {
    bench: &'static str,
    name: String,
    value: f64,
    unit: &'static str,
    /// What it should be, in words.
    #[serde(skip_serializing_if = "str::is_empty")]
    aim: &'static str,
}

/// All cases of a run.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    machine: Machine,
    rows: Vec<Row>,
    figures: Vec<Figure>,
}

#[derive(Debug, Serialize)]
struct Machine {
    cores: usize,
    release: bool,
    system: &'static str,
}

/// What a row is about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Case {
    pub(super) bench: &'static str,
    pub(super) durability: Durability,
    pub(super) callers: usize,
}

impl Report {
    pub(super) fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let machine = Machine { cores, release: !cfg!(debug_assertions), system: std::env::consts::OS };
        Self { machine, rows: Vec::new(), figures: Vec::new() }
    }

    /// Adds the median of the rounds; answers its rate.
    pub(super) fn add(
        &mut self,
        case: Case,
        name: impl Into<String>,
        rounds: &[Sample],
        ratio: Option<Ratio>,
    ) -> f64 {
        let median = |value: fn(&Sample) -> f64| median(rounds.iter().map(value).collect());
        let rate = median(Sample::rate);
        let timed = rounds.iter().any(|sample| !sample.latency.is_empty());
        self.rows.push(Row {
            bench: case.bench,
            durability: case.durability.to_string(),
            case: name.into(),
            callers: case.callers,
            per_second: rate,
            p50_millis: timed.then(|| median(|sample| sample.millis(0.5))),
            p99_millis: timed.then(|| median(|sample| sample.millis(0.99))),
            ratio,
        });
        if let Some(row) = self.rows.last() {
            // Long work shows what it has so far.
            eprintln!("{}", line(row));
        }
        rate
    }

    /// Adds a number that is no rate, with what it should be in words.
    pub(super) fn figure(
        &mut self,
        bench: &'static str,
        name: impl Into<String>,
        value: f64,
        unit: &'static str,
        aim: &'static str,
    ) {
        let figure = Figure { bench, name: name.into(), value, unit, aim };
        eprintln!("{}", figure_line(&figure));
        self.figures.push(figure);
    }

    /// Prints everything to standard output.
    pub(super) fn print(&self, json: bool) -> Result<(), Failure> {
        if json {
            println!("{}", serde_json::to_string_pretty(self)?);
            return Ok(());
        }
        println!("{} cores, {}", self.machine.cores, self.machine.system);
        if !self.machine.release {
            println!("NOT A RELEASE BUILD: these figures mean nothing");
        }
        println!("{HEADING}");
        for row in &self.rows {
            println!("{}", line(row));
        }
        for figure in &self.figures {
            println!("{}", figure_line(figure));
        }
        Ok(())
    }
}

const HEADING: &str =
    "bench       durability  case                                callers        /s   p50 ms   p99 ms  ratio";

fn line(row: &Row) -> String {
    let millis = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"));
    let ratio = row.ratio.as_ref().map_or_else(String::new, |ratio| {
        let aim = ratio.aim.map_or_else(String::new, |aim| format!(" (aim {aim})"));
        format!("{:.2} of {}{aim}", ratio.value, ratio.to)
    });
    format!(
        "{:<11} {:<11} {:<35} {:>7} {:>9.0} {:>8} {:>8}  {ratio}",
        row.bench,
        row.durability,
        row.case,
        row.callers,
        row.per_second,
        millis(row.p50_millis),
        millis(row.p99_millis),
    )
}

fn figure_line(Figure { bench, name, value, unit, aim }: &Figure) -> String {
    let aim = if aim.is_empty() { String::new() } else { format!(" (aim: {aim})") };
    format!("{bench:<11} {name}: {value:.2} {unit}{aim}")
}

/// The middle value; 0 for none.
pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// The median of the ratios round by round, which noise that lasts a round does not move.
pub(super) fn ratio(rounds: &[Sample], baseline: &[Sample], to: &'static str, aim: Option<f64>) -> Ratio {
    let pairs = rounds.iter().zip(baseline).map(|(ours, theirs)| ours.rate() / theirs.rate());
    Ratio { value: median(pairs.collect()), to, aim }
}
