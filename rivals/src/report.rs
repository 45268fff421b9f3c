//! Rows of medians, as a table and as JSON.

use crate::measure::{Sample, Setting};
use serde::Serialize;
use std::{fmt, time::Duration};

/// What one contender reached in one setting.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Row {
    contender: &'static str,
    workers: usize,
    loading: bool,
    /// Median of the rounds.
    commands_per_second: f64,
    slowest: f64,
    fastest: f64,
    p50_ms: f64,
    p99_ms: f64,
}

/// Everything a run says.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    /// Processors of the machine.
    pub(crate) cpus: usize,
    /// Size of one event's body.
    pub(crate) payload_bytes: usize,
    pub(crate) rounds: usize,
    pub(crate) seconds: f64,
    pub(crate) durability: &'static str,
    pub(crate) rows: Vec<Row>,
}

impl Row {
    /// Medians over the rounds.
    pub(crate) fn new(contender: &'static str, setting: Setting, rounds: &[Sample]) -> Self {
        let ms = |time: Duration| (time.as_secs_f64() * 100_000.0).round() / 100.0;
        let of = |value: fn(&Sample) -> f64| {
            let mut values: Vec<_> = rounds.iter().map(value).collect();
            values.sort_by(f64::total_cmp);
            values
        };
        let median = |values: &[f64]| values.get(values.len() / 2).copied().unwrap_or_default();
        let rates = of(|sample| sample.rate.round());
        Self {
            contender,
            workers: setting.workers,
            loading: setting.loading,
            commands_per_second: median(&rates),
            slowest: rates.first().copied().unwrap_or_default(),
            fastest: rates.last().copied().unwrap_or_default(),
            p50_ms: ms(Duration::from_secs_f64(median(&of(|sample| sample.p50.as_secs_f64())))),
            p99_ms: ms(Duration::from_secs_f64(median(&of(|sample| sample.p99.as_secs_f64())))),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "create + 2 appends per aggregate, {} bytes each, {}; {} CPUs; median of {} rounds of {} s\n",
            self.payload_bytes, self.durability, self.cpus, self.rounds, self.seconds
        )?;
        writeln!(
            f,
            "{:<24} {:>7} {:>7}  {:>10} {:<17} {:>8} {:>8}",
            "contender", "workers", "loading", "commands/s", "[min-max]", "p50 ms", "p99 ms"
        )?;
        for row in &self.rows {
            writeln!(
                f,
                "{:<24} {:>7} {:>7}  {:>10} {:<17} {:>8.2} {:>8.2}",
                row.contender,
                row.workers,
                if row.loading { "yes" } else { "no" },
                row.commands_per_second,
                format!("[{}-{}]", row.slowest, row.fastest),
                row.p50_ms,
                row.p99_ms,
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_the_median_of_its_rounds() {
        let sample = |rate, ms| {
            let p50 = Duration::from_millis(ms);
            Sample { rate, p50, p99: p50 * 2 }
        };
        let setting = Setting { workers: 64, loading: true };
        let row = Row::new("x", setting, &[sample(300.0, 9), sample(100.0, 3), sample(200.0, 6)]);
        let expected = serde_json::json!({
            "contender": "x", "workers": 64, "loading": true,
            "commandsPerSecond": 200.0, "slowest": 100.0, "fastest": 300.0, "p50Ms": 6.0, "p99Ms": 12.0,
        });
        assert_eq!(serde_json::to_value(&row).unwrap(), expected);
    }
}
