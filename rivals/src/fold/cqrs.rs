//! cqrs-es: events and views in PostgreSQL, a view replayed with its own `QueryReplay` into its own `PostgresViewRepository`.

use crate::{
    Result,
    event::{Event, Move, Parcel},
};
use cqrs_es::{
    Aggregate, DomainEvent, EventEnvelope, View,
    persist::{GenericQuery, PersistedEventRepository, QueryReplay, SerializedEvent},
};
use postgres_es::{PostgresEventRepository, PostgresViewRepository};
use serde::{Deserialize, Serialize};
use sqlx::{PgPool, postgres::PgPoolOptions};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use uuid::Uuid;

/// What a query of orders shows.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Order {
    order_id: String,
    user_id: String,
    status: String,
    amount: i64,
    currency: String,
}

impl View<Parcel> for Order {
    fn update(&mut self, event: &EventEnvelope<Parcel>) {
        let Event { order_id, user_id, version, amount, currency, .. } = &event.payload;
        self.order_id = order_id.to_string();
        self.user_id = user_id.to_string();
        self.status = if *version == 1 { "pending" } else { "completed" }.to_owned();
        self.amount = *amount;
        self.currency.clone_from(currency);
    }
}

/// The recorded events.
pub(super) struct Fold {
    pool: PgPool,
}

impl Fold {
    /// Records two events of each order.
    pub(super) async fn record(url: &str, orders: u64) -> Result<Self> {
        let pool = PgPoolOptions::new().max_connections(10).connect(url).await?;
        sqlx::query(crate::cqrs::TABLE).execute(&pool).await?;
        let repository = PostgresEventRepository::new(pool.clone());
        for _ in 0..orders {
            let id = Uuid::now_v7();
            let serialized = [1, 2].map(|version| {
                let event = Event::new(Move { id, version });
                let payload = serde_json::to_value(&event)?;
                Ok(SerializedEvent::new(
                    id.to_string(),
                    usize::try_from(version)?,
                    Parcel::TYPE.to_owned(),
                    event.event_type(),
                    event.event_version(),
                    payload,
                    serde_json::json!({}),
                ))
            });
            let serialized = serialized.into_iter().collect::<Result<Vec<_>>>()?;
            repository.persist::<Parcel>(&serialized, None).await?;
        }
        Ok(Self { pool })
    }

    /// Replays all of them into an empty view.
    pub(super) async fn fold(&self, events: u64) -> Result<Duration> {
        for sql in [
            "DROP TABLE IF EXISTS orders",
            "CREATE TABLE orders (view_id text NOT NULL, version bigint CHECK (version >= 0) NOT NULL, \
             payload json NOT NULL, PRIMARY KEY (view_id))",
        ] {
            sqlx::query(sql).execute(&self.pool).await?;
        }
        let views = PostgresViewRepository::<Order, Parcel>::new("orders", self.pool.clone());
        let query = GenericQuery::new(Arc::new(views));
        let replay = QueryReplay::new(PostgresEventRepository::new(self.pool.clone()), query);
        let started = Instant::now();
        replay.replay_all().await?;
        let took = started.elapsed();
        let completed = "SELECT count(*) FROM orders WHERE payload->>'status' = 'completed'";
        let completed: i64 = sqlx::query_scalar(completed).fetch_one(&self.pool).await?;
        if completed.cast_unsigned() * 2 != events {
            return Err(format!("cqrs-es has {completed} completed orders of {events} events").into());
        }
        Ok(took)
    }
}
