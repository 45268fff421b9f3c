//! Events into a read model, beside consuming and parsing the same stream without doing anything with it: on `SQLite` and on
//! PostgreSQL, live, built anew, and one by one.

mod fold;
mod lag;
mod memory;
mod place;

use super::{
    Scale,
    commands::{Ask, ask_all},
    load::Sample,
    report::{Case, Report, median, ratio},
    stage::{Stage, times},
    subscriptions,
};
use crate::failure::Failure;
use events::Context;
use nats::{Durability, baseline};
pub(super) use place::Place;
use projections::database::{PostgresUrl, Storage};
use std::{sync::Arc, time::Instant};

/// Two events each: so many that what a service takes to start hardly counts.
const ORDERS: u64 = 150_000;
/// Events that are written one by one, which takes long.
const SINGLE: u64 = 5000;

/// What is measured beside the usual.
#[derive(Clone, Debug, Default)]
pub(super) struct Options {
    /// The server, as somebody who may make databases and roles.
    pub(super) postgres: Option<PostgresUrl>,
    /// Events of a long stream: what reading and building take from memory.
    pub(super) events: Option<u64>,
}

/// Reading does not depend on when the server syncs, so one profile is enough.
pub(super) async fn measure(
    durability: Durability,
    scale: Scale,
    options: &Options,
    report: &mut Report,
) -> Result<(), Failure> {
    if durability == Durability::Always {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let places = Place::all(folder.path(), options.postgres.as_ref())?;
    if let Some(events) = options.events {
        Box::pin(memory::measure(&places, events, report)).await?;
    } else {
        Box::pin(rates(&places, scale, report)).await?;
        for place in &places {
            Box::pin(lag::measure(place, scale, report)).await?;
            Box::pin(subscriptions::latency(place, scale, report)).await?;
        }
    }
    for place in &places {
        place.clear().await?;
    }
    Ok(())
}

/// What is measured of one database, round by round.
#[derive(Default)]
struct Rounds {
    /// Tables that serve, one for each round, from before there was any event.
    live: Vec<Storage>,
    caught_up: Vec<Sample>,
    rebuilt: Vec<Sample>,
    single: Vec<Sample>,
    /// Microseconds of CPU for each event, built anew.
    cpu: Vec<f64>,
}

/// Events per second, of the same stream in the same run.
async fn rates(places: &[Place], scale: Scale, report: &mut Report) -> Result<(), Failure> {
    let stage = Stage::open(Durability::Interval).await?;
    let mut all: Vec<Rounds> = places.iter().map(|_| Rounds::default()).collect();
    for (place, rounds) in places.iter().zip(&mut all) {
        for _ in 0..scale.rounds {
            rounds.live.push(fold::live(&stage, place).await?);
        }
    }
    let executor = stage.executor(Context::Orders);
    let ids = Arc::new((0..scale.of(ORDERS)).map(|_| stage.clock.uuid()).collect());
    ask_all(&stage, &executor, 256, &ids, Ask::Create).await?;
    ask_all(&stage, &executor, 256, &ids, Ask::Append).await?;
    drop(executor);
    let mut raw = vec![];
    for round in 0..scale.rounds {
        let started = Instant::now();
        let events = baseline::consume_json(&stage.connection, Context::Orders).await?;
        raw.push(Sample::of(events, started.elapsed()));
        for (place, rounds) in places.iter().zip(&mut all) {
            rounds.caught_up.push(fold::catch_up(&stage, &rounds.live[round], events).await?);
            let before = cpu_seconds(place);
            rounds.rebuilt.push(fold::rebuild(&stage, place, events).await?);
            let spent = before.zip(cpu_seconds(place)).map(|(before, after)| after - before);
            #[expect(clippy::cast_precision_loss, reason = "a count of events is far below 2^52")]
            rounds.cpu.extend(spent.map(|spent| spent * 1e6 / events as f64));
            rounds.single.push(fold::one_by_one(&stage, place, scale.of(SINGLE)).await?);
        }
    }
    let case = Case { bench: "projection", durability: Durability::Interval, callers: 1 };
    report.add(case, "raw consume and JSON", &raw, None);
    for (place, rounds) in places.iter().zip(all) {
        let (name, aim) = (place.name(), if place.name() == "SQLite" { 0.6 } else { 0.5 });
        let live = ratio(&rounds.caught_up, &raw, "raw", Some(aim));
        report.add(case, format!("{name}, live"), &rounds.caught_up, Some(live));
        let built = ratio(&rounds.rebuilt, &raw, "raw", Some(aim));
        report.add(case, format!("{name}, built anew"), &rounds.rebuilt, Some(built));
        let single = ratio(&rounds.single, &raw, "raw", None);
        report.add(case, format!("{name}, event by event"), &rounds.single, Some(single));
        if !rounds.cpu.is_empty() {
            let what = format!("{name}: CPU per event built anew, with the server of the database");
            report.figure("projection", what, median(rounds.cpu), "us", "");
        }
    }
    stage.close().await;
    Ok(())
}

/// CPU time of this process and of a server that was started here.
fn cpu_seconds(place: &Place) -> Option<f64> {
    Some(times("self")?.own + place.cpu_seconds()?)
}
