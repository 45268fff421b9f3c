//! disintegrate: events in PostgreSQL, an event listener that writes a table, as its example of courses does.

use crate::Result;
use async_trait::async_trait;
use disintegrate::{Event, EventListener, EventStore, PersistedEvent, StreamQuery, query, serde::json::Json};
use disintegrate_postgres::{PgEventId, PgEventListener, PgEventListenerConfig, PgEventStore};
use serde::{Deserialize, Serialize};
use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use std::{
    str::FromStr,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Orders recorded at a time.
const CHUNK: u64 = 250;

/// What its migration makes, but for the way in which a number is written.
const BEGIN_EPOCH: &str = "CREATE OR REPLACE FUNCTION event_store_begin_epoch() RETURNS void AS $$
DECLARE
    id BIGINT;
    db_id INT;
BEGIN
    SELECT last_value INTO id FROM seq_event_event_id;
    SELECT oid INTO db_id FROM pg_database WHERE datname = current_database();
    PERFORM pg_try_advisory_xact_lock_shared(db_id, 0);
    PERFORM pg_try_advisory_xact_lock_shared(1, (id & 4294967295)::bit(32)::integer);
    PERFORM pg_try_advisory_xact_lock_shared(2, (id >> 32)::bit(32)::integer);
END;
$$ LANGUAGE plpgsql";

const PATIENCE: Duration = Duration::from_mins(10);

#[derive(Clone, Debug, Event, Serialize, Deserialize)]
enum Happened {
    Placed {
        #[id]
        order_id: Uuid,
        user_id: String,
        amount: i64,
        currency: String,
        address: String,
        note: String,
    },
    Completed {
        #[id]
        order_id: Uuid,
    },
}

/// The recorded events.
pub(super) struct Fold {
    pool: PgPool,
    store: PgEventStore<Happened, Json<Happened>>,
}

impl Fold {
    /// Records two events of each order.
    pub(super) async fn record(url: &str, orders: u64) -> Result<Self> {
        // Its migration writes a number as PostgreSQL 16 reads it; an older server gets the same function with the same number.
        let options = PgConnectOptions::from_str(url)?.options([("check_function_bodies", "off")]);
        let pool = PgPoolOptions::new().max_connections(10).connect_with(options).await?;
        let store = PgEventStore::try_new(pool.clone(), Json::default()).await?;
        sqlx::query(BEGIN_EPOCH).execute(&pool).await?;
        let mut left = orders;
        while left > 0 {
            let count = left.min(CHUNK);
            left -= count;
            let events = (0..count).flat_map(|_| placed_and_completed()).collect();
            store.append_without_validation(events).await?;
        }
        Ok(Self { pool, store })
    }

    /// Lets a listener begin at the first event, and waits until the last order is completed.
    pub(super) async fn fold(&self, events: u64) -> Result<Duration> {
        for sql in [
            "DROP TABLE IF EXISTS orders",
            "CREATE TABLE orders (order_id uuid PRIMARY KEY, user_id text, status text, amount bigint, currency text)",
            "DROP TABLE IF EXISTS event_listener",
        ] {
            sqlx::query(sql).execute(&self.pool).await?;
        }
        let (done, pool) = (CancellationToken::new(), self.pool.clone());
        let orders = Orders { query: query::<_, _, Happened>(None), pool };
        let config = PgEventListenerConfig::poller(Duration::from_millis(50));
        let listener = PgEventListener::builder(self.store.clone()).register_listener(orders, config);
        let started = Instant::now();
        let stop = done.clone();
        let listening = tokio::spawn(listener.start_with_shutdown(async move { stop.cancelled().await }));
        let last: i64 = sqlx::query_scalar("SELECT max(event_id) FROM event").fetch_one(&self.pool).await?;
        let took = self.reached(last, started).await?;
        done.cancel();
        listening.await??;
        let completed = "SELECT count(*) FROM orders WHERE status = 'completed'";
        let completed: i64 = sqlx::query_scalar(completed).fetch_one(&self.pool).await?;
        if completed.cast_unsigned() * 2 != events {
            return Err(format!("disintegrate has {completed} completed orders of {events} events").into());
        }
        Ok(took)
    }

    /// Waits until the listener has handled the last event, and says how long that took.
    async fn reached(&self, last: i64, started: Instant) -> Result<Duration> {
        let handled = "SELECT last_processed_event_id FROM event_listener WHERE id = 'orders'";
        while started.elapsed() < PATIENCE {
            // The table is made by the listener.
            let found: Option<i64> =
                sqlx::query_scalar(handled).fetch_optional(&self.pool).await.unwrap_or_default();
            if found == Some(last) {
                return Ok(started.elapsed());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Err("disintegrate stands still".into())
    }
}

fn placed_and_completed() -> [Happened; 2] {
    let order_id = Uuid::now_v7();
    let placed = Happened::Placed {
        order_id,
        user_id: order_id.to_string(),
        amount: 4300,
        currency: "EUR".to_owned(),
        address: "Ada Lovelace, 12 St James's Square, SW1Y 4JH London, GB".to_owned(),
        note: "two bags of green tea and a white cup, please ring twice".to_owned(),
    };
    [placed, Happened::Completed { order_id }]
}

/// The table of orders.
struct Orders {
    query: StreamQuery<PgEventId, Happened>,
    pool: PgPool,
}

#[async_trait]
impl EventListener<PgEventId, Happened> for Orders {
    type Error = sqlx::Error;

    fn id(&self) -> &'static str {
        "orders"
    }

    fn query(&self) -> &StreamQuery<PgEventId, Happened> {
        &self.query
    }

    async fn handle(&self, event: PersistedEvent<PgEventId, Happened>) -> Result<(), sqlx::Error> {
        let written = match event.into_inner() {
            Happened::Placed { order_id, user_id, amount, currency, .. } => {
                let insert = "INSERT INTO orders (order_id, user_id, status, amount, currency) \
                              VALUES ($1, $2, 'pending', $3, $4) ON CONFLICT (order_id) DO NOTHING";
                sqlx::query(insert).bind(order_id).bind(user_id).bind(amount).bind(currency)
            }
            Happened::Completed { order_id } => {
                sqlx::query("UPDATE orders SET status = 'completed' WHERE order_id = $1").bind(order_id)
            }
        };
        written.execute(&self.pool).await.map(|_| ())
    }
}
