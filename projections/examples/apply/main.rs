//! How fast events become rows: order flows made in memory, projected, coalesced and written to SQLite, without NATS.
//!
//! `cargo run --release -p projections --example apply [orders] [batch]`

mod flows;

use events::{Aggregate, DecodeError, Fact, Position};
use nats::Recorded;
use projections::{
    Changes, View,
    database::{Database, Move, Storage},
};
use std::{
    collections::HashMap,
    error::Error,
    time::{Duration, Instant},
};

/// Orders under way at the same time: how far apart the events of one order lie.
const UNDER_WAY: u64 = 50;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default| arguments.next().map_or(Ok(default), |text| text.parse::<u32>());
    let (orders, batch) = (number(40_000)?, number(1000)?);
    let view = View::of("orders").ok_or("no such view")?;
    let folder = tempfile::tempdir()?;
    let events = record(orders.into(), view.aggregates)?;
    let database = Database::open(&Storage::Sqlite(folder.path().to_owned()), view, 1).await?;
    let mut writer = database.writer().await?;

    let started = Instant::now();
    let mut projecting = Duration::ZERO;
    let mut at = HashMap::new();
    for chunk in events.chunks(usize::try_from(batch)?) {
        let begun = Instant::now();
        let mut changes = Changes::default();
        let mut moves: Vec<Move> = Vec::new();
        for recorded in chunk {
            (view.project)(recorded, &mut changes);
            let Position { context, sequence: to } = recorded.position;
            match moves.iter_mut().find(|step| step.context == context) {
                Some(step) => step.to = to,
                None => moves.push(Move { context, from: at.get(&context).copied().unwrap_or(0), to }),
            }
        }
        at.extend(moves.iter().map(|step| (step.context, step.to)));
        projecting += begun.elapsed();
        writer.commit(changes, &moves).await?;
    }
    let elapsed = started.elapsed();
    let rate = f64::from(orders) * 5.0 / elapsed.as_secs_f64();
    println!("{} events in {elapsed:.2?}: {rate:.0} events/s, projecting {projecting:.2?}", events.len());
    Ok(())
}

/// The events of so many orders that matter, as streams hold them.
fn record(orders: u64, aggregates: &[Aggregate]) -> Result<Vec<Recorded>, DecodeError> {
    let mut events = Vec::new();
    let mut sequences: HashMap<_, u64> = HashMap::new();
    for wave in 0..orders / UNDER_WAY {
        let flows: Vec<_> = (wave * UNDER_WAY..(wave + 1) * UNDER_WAY).map(flows::flow).collect();
        for step in 0..flows[0].len() {
            for made in flows.iter().map(|flow| flow[step].clone()) {
                let context = made.subject.context();
                let sequence = sequences.entry(context).or_default();
                *sequence += 1;
                let aggregate = made.subject.aggregate();
                if aggregates.contains(&aggregate) {
                    let (kind, schema) = (&made.envelope.kind, made.envelope.schema);
                    events.push(Recorded {
                        fact: Fact::from_json(aggregate, kind, schema, &made.body)?,
                        position: Position { context, sequence: *sequence },
                        stored: made.envelope.time,
                        subject: made.subject,
                        envelope: made.envelope,
                    });
                }
            }
        }
    }
    Ok(events)
}
