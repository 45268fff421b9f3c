//! Facts as streams hold them, and read models without a stream: for the tests of this crate.

#[expect(unreachable_pub, dead_code, reason = "shared with the end-to-end tests, which use all of it")]
#[path = "../../tests/src/postgres.rs"]
mod postgres;
mod streams;

pub(crate) use postgres::Cluster;
pub(crate) use streams::Streams;

use crate::{
    Changes, View,
    database::Cluster as Started,
    database::{Database, Moment, Storage},
};
use events::{
    Actor, Aggregate, CommandId, Context, CorrelationId, DomainEvent, Envelope, Fact, Metadata, Position,
};
use jiff::Timestamp;
use nats::Recorded;
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};
use tempfile::TempDir;
use uuid::Uuid;

/// Records facts: gives each its place in its stream and its version.
#[derive(Default)]
pub(crate) struct Log {
    sequences: HashMap<Context, u64>,
    versions: HashMap<String, u64>,
    pub(crate) all: Vec<Recorded>,
}

impl Log {
    pub(crate) fn add<E: DomainEvent>(
        &mut self,
        aggregate: Aggregate,
        id: impl std::fmt::Display,
        event: impl Into<E>,
        fact: fn(E) -> Fact,
    ) {
        let (event, subject) = (event.into(), aggregate.subject(id));
        let sequence = self.sequences.entry(aggregate.context()).or_default();
        *sequence += 1;
        let version = self.versions.entry(subject.to_string()).or_default();
        *version += 1;
        let number = self.all.len() as u64;
        let from = Metadata {
            command: CommandId::new(Uuid::from_u64_pair(0, number)),
            correlation: CorrelationId::from(Uuid::nil()),
            causation: Uuid::nil(),
            actor: Actor::CLIENT,
            traceparent: None,
        };
        let time = Timestamp::from_second(1000 + number.cast_signed()).unwrap();
        self.all.push(Recorded {
            position: Position { context: aggregate.context(), sequence: *sequence },
            envelope: Envelope::new(event.fact_type(), &subject, *version, 0, time, &from),
            stored: time,
            subject,
            fact: fact(event),
        });
    }
}

/// Where the databases of a test are.
pub(crate) enum Place {
    Sqlite(TempDir),
    Postgres(Arc<Cluster>),
}

impl Place {
    pub(crate) fn sqlite() -> Self {
        Self::Sqlite(tempfile::tempdir().unwrap())
    }

    pub(crate) fn postgres() -> Self {
        Self::Postgres(Cluster::shared())
    }

    /// A new one.
    pub(crate) fn storage(&self) -> Storage {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed));
        match self {
            Self::Sqlite(folder) => Storage::Sqlite(folder.path().join(name)),
            Self::Postgres(cluster) => Storage::Postgres(cluster.database(&name).parse().unwrap()),
        }
    }
}

/// Tests that take a place, on each database.
macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name(&crate::testing::Place::sqlite()).await;
            })+
        }
        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name(&crate::testing::Place::postgres()).await;
            })+
        }
    };
}
pub(crate) use on_both;

/// A read model in a file of its own.
pub(crate) struct Model {
    pub(crate) database: Database,
    view: &'static View,
    _folder: TempDir,
}

impl Model {
    pub(crate) async fn new(view: &'static View) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(&Storage::Sqlite(folder.path().to_owned()), view, 1).await.unwrap();
        Self { database, view, _folder: folder }
    }

    /// Applies events as one batch.
    pub(crate) async fn apply(&self, events: &[Recorded]) {
        let mut changes = Changes::default();
        for recorded in events {
            (self.view.project)(recorded, &mut changes);
        }
        self.database.writer().await.unwrap().commit(changes, &[]).await.unwrap();
    }

    pub(crate) async fn moment(&self) -> Moment {
        self.database.moment().await.unwrap()
    }
}
