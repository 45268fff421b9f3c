//! How fast a stream becomes rows: order flows recorded on a nats-server of its own, read back without and with decoding,
//! and folded into the read model of the orders service. And how soon a single event is in the tables.
//!
//! `cargo run --release -p projections --example stream [orders]`

#[path = "apply/flows.rs"]
mod flows;

use events::{Context, Position};
use futures::StreamExt;
use nats::{
    Connection, Durability, EventStore, Filter, From, Reader, StoreOptions, Until, Write,
    server::{Binary, Config, Server},
};
use projections::{ProjectionMetrics, Projections, Rebuilds, View, database::Storage, rebuild};
use service::{Clock, Metrics, Shutdown};
use std::{
    error::Error,
    path::Path,
    time::{Duration, Instant},
};

const STREAMS: [Context; 4] = [Context::Orders, Context::Inventory, Context::Payments, Context::Shipping];

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let orders = std::env::args().nth(1).map_or(Ok(20_000), |text| text.parse::<u64>())?;
    let folder = tempfile::tempdir()?;
    let mut config = Config::new(Binary::locate(None).await?, folder.path().join("nats"));
    config.durability = Durability::Interval;
    let server = Server::start(config).await?;
    let connection = Connection::connect(&server.url(), "stream").await?;
    nats::topology::ensure(&connection, &Context::ALL, 1).await?;
    let options = StoreOptions { durability: Durability::Interval, ..StoreOptions::default() };
    let store = EventStore::new(&connection, options);

    let started = Instant::now();
    let mut placing =
        futures::stream::iter(0..orders).map(|number| place(&store, number)).buffer_unordered(200);
    while let Some(placed) = placing.next().await {
        placed?;
    }
    show("recorded", orders * 7, started.elapsed());
    for decode in [false, true, false, true] {
        let started = Instant::now();
        let (mut all, mut until) = (0, Vec::new());
        for context in STREAMS {
            let (events, end) = read(&connection, context, decode).await?;
            all += events;
            until.push(end);
        }
        show(if decode { "read and decoded" } else { "read" }, all, started.elapsed());
        if decode {
            let storage = Storage::Sqlite(folder.path().join(Clock::system().uuid().to_string()));
            let view = View::of("orders").ok_or("no such view")?;
            let rebuilt = rebuild(view, &connection, &storage, &[], &until).await?;
            show("in the read model", rebuilt.events, rebuilt.elapsed);
        }
    }
    latency(&connection, &store, orders, folder.path()).await
}

fn show(what: &str, events: u64, elapsed: Duration) {
    let rate = u128::from(events) * 1_000_000 / elapsed.as_micros().max(1);
    println!("{what}: {events} events in {elapsed:.2?}, {rate} events/s");
}

/// Records one order; the position of its last event.
async fn place(store: &EventStore, number: u64) -> Result<Position, nats::AppendError> {
    let mut last = Position { context: Context::Orders, sequence: 0 };
    let mut created = 0;
    for made in flows::flow(number) {
        let expect = if made.envelope.version == 1 { 0 } else { created };
        let write = Write::new(&made.subject, Some(expect), &made.envelope, None, made.body);
        let sequence = store.append(vec![write]).await?.first;
        created = if created == 0 { sequence } else { created };
        last = Position { context: made.subject.context(), sequence };
    }
    Ok(last)
}

async fn read(
    connection: &Connection,
    context: Context,
    decode: bool,
) -> Result<(u64, Position), Box<dyn Error>> {
    let mut reader = Reader::open(connection, context, From::Start, Until::End, Filter::default()).await?;
    let mut events = 0;
    loop {
        let batch = reader.next_batch(1000).await?;
        if batch.is_empty() {
            return Ok((events, reader.position()));
        }
        for message in &batch {
            if decode {
                std::hint::black_box(message.record()?);
            }
            events += 1;
        }
    }
}

/// From the acknowledgement of an event to its being in the tables, one at a time.
async fn latency(
    connection: &Connection,
    store: &EventStore,
    first: u64,
    folder: &Path,
) -> Result<(), Box<dyn Error>> {
    let (metrics, shutdown) = (Metrics::new(), Shutdown::new());
    let view = View::of("orders").ok_or("no such view")?;
    let counters = ProjectionMetrics::new(&metrics);
    let storage = Storage::Sqlite(folder.join("latency"));
    let feed = projections::Feed {
        connection: connection.clone(),
        parking: None,
        policy: nats::Policy::default(),
        read_models: None,
        rebuilds: Rebuilds::default(),
        outlet: None,
    };
    let projections =
        Projections::start(view, &feed, &storage, Clock::system(), &metrics, counters, &shutdown).await?;
    let mut progress = projections.progress();
    let mut waits = Vec::new();
    for number in first..first + 300 {
        let position = place(store, number).await?;
        let started = Instant::now();
        progress.wait_for(|progress| progress.has(position) == Some(true)).await?;
        // The first wait is for everything recorded before.
        if number > first {
            waits.push(started.elapsed());
        }
    }
    waits.sort();
    println!(
        "in the tables after: p50 {:.2?}, p99 {:.2?}",
        waits[waits.len() / 2],
        waits[waits.len() * 99 / 100]
    );
    shutdown.drain(Duration::from_secs(5)).await;
    Ok(())
}
