//! Waybill: its events in a nats-server, its own read model of orders. That is more than one table: orders, how far they are,
//! and their history.

#[path = "../../../projections/examples/apply/flows.rs"]
mod flows;

use super::Kept;
use crate::Result;
use events::{Context, Position};
use futures::StreamExt;
use nats::{
    Connection, Durability, EventStore, Policy, StoreOptions, Write,
    server::{Binary, Config, Server},
    topology,
};
use projections::{
    Feed, ProjectionMetrics, Projections, Rebuilds, View,
    database::{Cluster, Database, Storage},
};
use service::{Clock, Metrics, Shutdown};
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// What orders read beside their own stream; there is nothing in these.
const OTHERS: [Context; 3] = [Context::Inventory, Context::Payments, Context::Shipping];
const PATIENCE: Duration = Duration::from_secs(5);

/// The events, the server that has them, and where they are folded.
pub(super) struct Fold {
    connection: Connection,
    view: &'static View,
    /// Tables that serve and have seen no event, for each round.
    live: VecDeque<[Storage; 2]>,
    events: u64,
    folder: TempDir,
    _server: Server,
}

impl Fold {
    /// Makes tables for so many rounds, then records the first and the last event of so many orders.
    pub(super) async fn record(cluster: &Cluster, orders: u64, rounds: usize) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let config = Config::new(Binary::locate(None).await?, folder.path().join("nats"));
        // Reading does not depend on when the server syncs.
        let server = Server::start(Config { durability: Durability::Interval, ..config }).await?;
        let connection = Connection::connect(&server.url(), "rivals").await?;
        topology::ensure(&connection, &Context::ALL, 1).await?;
        let view = View::of("orders").ok_or("orders have no read model")?;
        let live = VecDeque::new();
        let mut fold = Self { connection, view, live, events: 2 * orders, folder, _server: server };
        for round in 0..rounds {
            let places = [
                fold.place(cluster, Kept::Postgres, &format!("live{round}"))?,
                fold.place(cluster, Kept::Sqlite, &format!("live{round}"))?,
            ];
            for place in &places {
                fold.project(place, 0).await?;
            }
            fold.live.push_back(places);
        }
        let options = StoreOptions { durability: Durability::Interval, ..StoreOptions::default() };
        let store = EventStore::new(&fold.connection, options);
        let mut placing =
            futures::stream::iter(0..orders).map(|number| place(&store, number)).buffer_unordered(200);
        while let Some(placed) = placing.next().await {
            placed?;
        }
        Ok(fold)
    }

    fn place(&self, cluster: &Cluster, kept: Kept, name: &str) -> Result<Storage> {
        Ok(match kept {
            Kept::Postgres => Storage::Postgres(cluster.database(&format!("waybill_{name}"))?),
            Kept::Sqlite => {
                let folder = self.folder.path().join(name);
                std::fs::create_dir(&folder)?;
                Storage::Sqlite(folder)
            }
        })
    }

    /// A service as it runs finds all events in its stream: on PostgreSQL, and on SQLite.
    pub(super) async fn live(&mut self) -> Result<[Duration; 2]> {
        let [postgres, sqlite] = self.live.pop_front().ok_or("no tables are left")?;
        let took = [self.project(&postgres, self.events).await?, self.project(&sqlite, self.events).await?];
        for storage in [postgres, sqlite] {
            let database = projections::live(&storage, self.view).await?.ok_or("no tables serve")?;
            self.check(&database).await?;
        }
        Ok(took)
    }

    /// The tables are built from nothing, as `waybill rebuild` does it.
    pub(super) async fn anew(&self, cluster: &Cluster, kept: Kept, turn: &str) -> Result<Duration> {
        let storage = self.place(cluster, kept, turn)?;
        let at = |context, sequence| Position { context, sequence };
        let mut until = vec![at(Context::Orders, self.events)];
        until.extend(OTHERS.map(|context| at(context, 0)));
        let rebuilt = projections::rebuild(self.view, &self.connection, &storage, &[], &until).await?;
        self.check(&rebuilt.database).await?;
        Ok(rebuilt.elapsed)
    }

    /// Starts a service's projections and waits until they have so many events.
    async fn project(&self, storage: &Storage, events: u64) -> Result<Duration> {
        let (metrics, clock, shutdown) = (Metrics::new(), Clock::system(), Shutdown::new());
        let feed = Feed {
            connection: self.connection.clone(),
            parking: None,
            policy: Policy::default(),
            read_models: None,
            rebuilds: Rebuilds::default(),
            outlet: None,
        };
        let counters = ProjectionMetrics::new(&metrics);
        let last = Position { context: Context::Orders, sequence: events };
        let started = Instant::now();
        let running =
            Projections::start(self.view, &feed, storage, clock, &metrics, counters, &shutdown).await?;
        running.progress().wait_for(|progress| progress.has(last) == Some(true)).await?;
        let took = started.elapsed();
        shutdown.drain(PATIENCE).await;
        Ok(took)
    }

    /// Every order is in the table, completed. Lets go of it.
    async fn check(&self, database: &Database) -> Result<()> {
        let completed = "SELECT count(*) AS count FROM orders WHERE status = 'completed'";
        let row = database.row(completed, Vec::new()).await?.ok_or("no count")?;
        let completed = row.get::<i64>("count")?;
        database.close().await;
        if completed.cast_unsigned() * 2 != self.events {
            return Err(format!("Waybill has {completed} completed orders of {} events", self.events).into());
        }
        Ok(())
    }
}

async fn place(store: &EventStore, number: u64) -> Result<()> {
    let (mut expect, flow) = (0, flows::flow(number));
    for made in [flow.first(), flow.last()].into_iter().flatten() {
        let write = Write::new(&made.subject, Some(expect), &made.envelope, None, made.body.clone());
        expect = store.append(vec![write]).await?.first;
    }
    Ok(())
}
