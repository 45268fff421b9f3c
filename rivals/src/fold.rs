//! The other half: the same stream of order events folded into an orders table of PostgreSQL, by each as its documentation
//! shows it. All databases are on one server, which syncs before it answers; contenders take turns, and each is looked at
//! whether every order is in its table. Waybill does it as a service that runs (*live*: what its commits say is synced), as
//! `waybill rebuild` does (*built anew*: not synced before the end), and both on SQLite as well, which syncs at checkpoints only.

mod cqrs;
mod disintegrate;
mod python;
mod waybill;

use crate::Result;
use projections::database::Cluster;
use serde::Serialize;

/// As a server with some memory is set up.
const SETTINGS: [&str; 4] = ["fsync=on", "synchronous_commit=on", "shared_buffers=1GB", "max_wal_size=8GB"];

/// How many events, and how often.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Orders, of two events each: placed and completed.
    #[arg(long, default_value_t = 10_000)]
    orders: u64,
    /// Rounds, of which the median is taken.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// Which database Waybill's tables are in.
#[derive(Clone, Copy)]
enum Kept {
    Postgres,
    Sqlite,
}

/// What one contender reached.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    contender: &'static str,
    /// Median of the rounds.
    events_per_second: f64,
    slowest: f64,
    fastest: f64,
    /// The rate of Waybill on PostgreSQL, live, over this one's, round by round; the median.
    live_is_ahead: f64,
    /// The same, of Waybill on PostgreSQL, built anew.
    anew_is_ahead: f64,
}

/// Those of Waybill first: live on PostgreSQL, and built anew there.
const NAMES: [&str; 7] = [
    "waybill, PostgreSQL, live",
    "waybill, PostgreSQL, built anew",
    "waybill, SQLite, live",
    "waybill, SQLite, built anew",
    "cqrs-es 0.5 + postgres-es",
    "disintegrate 4 + disintegrate-postgres",
    "eventsourcing 9.5 (Python)",
];

/// Records the events with each, then lets each fold its own.
pub(crate) async fn run(arguments: &Arguments) -> Result<()> {
    let cluster = Cluster::start(&SETTINGS)?;
    let Arguments { orders, rounds, json } = *arguments;
    eprintln!("recording {} events with each", 2 * orders);
    let mut waybill = waybill::Fold::record(&cluster, orders, rounds).await?;
    let cqrs = cqrs::Fold::record(&database(&cluster, "cqrs")?, orders).await?;
    let disintegrate = disintegrate::Fold::record(&database(&cluster, "disintegrate")?, orders).await?;
    let python = python::Fold::record(&cluster, orders).await?;
    let mut rates = vec![Vec::new(); NAMES.len()];
    for round in 0..rounds {
        eprintln!("round {} of {rounds}", round + 1);
        cluster.sql(&cluster.url("postgres"), "CHECKPOINT")?;
        let (events, turn) = (2 * orders, format!("anew{round}"));
        let [postgres, sqlite] = waybill.live().await?;
        let all = [
            postgres,
            waybill.anew(&cluster, Kept::Postgres, &turn).await?,
            sqlite,
            waybill.anew(&cluster, Kept::Sqlite, &turn).await?,
            cqrs.fold(events).await?,
            disintegrate.fold(events).await?,
            python.fold(events).await?,
        ];
        for ((rates, took), name) in rates.iter_mut().zip(all).zip(NAMES) {
            #[expect(clippy::cast_precision_loss, reason = "a count of events is far below 2^52")]
            let rate = events as f64 / took.as_secs_f64();
            eprintln!("  {name}: {rate:.0} events/s");
            rates.push(rate);
        }
    }
    let rows: Vec<_> = NAMES.iter().zip(&rates).map(|(name, own)| row(name, own, &rates)).collect();
    if json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
        return Ok(());
    }
    println!("waybill on PostgreSQL is ahead: {:>42} {:>11}", "live", "built anew");
    for row in rows {
        let range = format!("[{:.0}-{:.0}]", row.slowest, row.fastest);
        let Row { contender, events_per_second: rate, live_is_ahead: live, anew_is_ahead: anew, .. } = row;
        println!("{contender:<40} {rate:>8.0}/s {range:<17} {live:>5.1}x {anew:>10.1}x");
    }
    Ok(())
}

/// A new database.
fn database(cluster: &Cluster, name: &str) -> Result<String> {
    cluster.database(name)?;
    Ok(cluster.url(name))
}

fn row(contender: &'static str, rates: &[f64], all: &[Vec<f64>]) -> Row {
    let sorted = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values
    };
    let median = |values: &[f64]| values.get(values.len() / 2).copied().unwrap_or_default();
    let ahead = |waybill: &[f64]| {
        let ratios = waybill.iter().zip(rates).map(|(waybill, own)| waybill / own);
        median(&sorted(ratios.collect()))
    };
    let sorted = sorted(rates.to_vec());
    Row {
        contender,
        events_per_second: median(&sorted),
        slowest: sorted.first().copied().unwrap_or_default(),
        fastest: sorted.last().copied().unwrap_or_default(),
        live_is_ahead: ahead(&all[0]),
        anew_is_ahead: ahead(&all[1]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_the_same_round() {
        let (live, anew) = (vec![100.0, 2000.0, 1000.0], vec![200.0, 4000.0, 2000.0]);
        let row = row("x", &[10.0, 100.0, 20.0], &[live, anew]);
        assert!((row.events_per_second - 20.0).abs() < f64::EPSILON);
        assert!((row.live_is_ahead - 20.0).abs() < f64::EPSILON);
        assert!((row.anew_is_ahead - 40.0).abs() < f64::EPSILON);
    }
}
