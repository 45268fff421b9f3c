//! How the read models of each service stand, for operators: a document per service in a bucket, kept by the processes that
//! project; and the history of it, in the stream of operations. What is true is in the catalogue beside the tables: this
//! is what can be seen of it from everywhere.

use crate::{
    AppendError, Bucket, BucketConfig, BucketError, Connection, EventStore, Filter, From, LoadError, Reader,
    ReplayError, TopologyError, Until, Write, rights::READ_MODELS,
};
use events::{
    Actor, Aggregate, CommandId, Context, DomainEvent, Envelope, Fact, Metadata, Position, Subject,
    envelope::header,
    ops::{ProjectionEvent, ProjectionSwitched},
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use service::Clock;
use std::time::Duration;

/// How the read model of one service stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReadModel {
    /// Whose read model.
    pub service: String,
    /// Its tables, each of which can be built again by itself.
    pub models: Vec<String>,
    /// Its generations, the oldest first.
    pub generations: Vec<Generation>,
    /// Sequence in the stream of operations of the last request that was seen to.
    pub asked: u64,
    /// The last request that was not carried out, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refused>,
}

/// A request that was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refused {
    /// Its sequence in the stream of operations.
    pub asked: u64,
    /// Why.
    pub why: String,
}

/// What a generation is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It is being built.
    Building,
    /// It serves.
    Live,
    /// It served, and is kept for a rollback.
    Kept,
}

/// One complete set of the tables of a read model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Generation {
    /// Its number, never given again.
    pub number: u32,
    /// What it is there for.
    pub state: State,
    /// The same for generations of the same declaration.
    pub model: String,
    /// The version of the view that it was built with.
    pub version: u32,
    /// The one table that is built again; all of them where it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// Where it begins in these streams; at the first event in all others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub since: Vec<Position>,
    /// Sequence in the stream of operations of the request for it; none where changed code asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<u64>,
    /// When it was begun.
    pub begun: Timestamp,
    /// When it began to serve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub served: Option<Timestamp>,
    /// Up to where the one before it was built when it began to serve.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mark: Vec<Position>,
    /// How far it is, while it is being built.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<Build>,
}

/// How far a build is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Build {
    /// What it does: waits for its turn, copies tables, reads events, makes indexes, or switches.
    pub stage: String,
    /// Up to where it is built.
    pub positions: Vec<Position>,
    /// Messages read, of all there are to read.
    pub events: u64,
    /// All there are to read.
    pub total: u64,
    /// Messages per second, lately.
    pub per_second: u64,
    /// Why it stands still.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
}

impl Build {
    /// Seconds until it is done, at the rate of late.
    pub fn seconds_left(&self) -> Option<u64> {
        let left = self.total.saturating_sub(self.events);
        if left == 0 { Some(0) } else { left.checked_div(self.per_second) }
    }
}

/// Why the documents or their history could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ReadModelsError {
    /// The documents cannot be reached.
    #[error(transparent)]
    Bucket(#[from] BucketError),
    /// What was done cannot be recorded.
    #[error("the stream of operations cannot be written")]
    Append(#[from] AppendError),
    /// What was done cannot be looked up.
    #[error("the stream of operations cannot be read")]
    Load(#[from] LoadError),
    /// What was asked cannot be read.
    #[error(transparent)]
    Replay(#[from] ReplayError),
}

/// The documents of every service. Cheap to clone.
#[derive(Clone)]
pub struct ReadModels {
    bucket: Bucket,
    connection: Connection,
    store: EventStore,
    clock: Clock,
}

/// How the bucket has to be.
pub(crate) fn config(replicas: usize) -> BucketConfig {
    let (name, description) = (READ_MODELS, "How read models stand");
    BucketConfig { name, description, max_age: Duration::ZERO, replicas }
}

/// The aggregate of a service's read model.
fn subject(service: &str) -> Subject {
    Aggregate::Projection.subject(service)
}

impl ReadModels {
    /// Opens the documents, which are created where they are missing. What was done is recorded in `store`.
    pub async fn open(
        connection: &Connection,
        store: EventStore,
        clock: Clock,
        replicas: usize,
    ) -> Result<Self, TopologyError> {
        let bucket = Bucket::ensure(connection, &config(replicas)).await?;
        Ok(Self { bucket, connection: connection.clone(), store, clock })
    }

    /// How every read model stands, by the names of the services.
    pub async fn all(&self) -> Result<Vec<ReadModel>, BucketError> {
        let keys = self.bucket.keys("").await?;
        let found = futures::future::try_join_all(keys.iter().map(|key| self.bucket.get(key))).await?;
        let mut all: Vec<ReadModel> = found.into_iter().flatten().map(|kept| kept.value).collect();
        all.sort_by(|a, b| a.service.cmp(&b.service));
        Ok(all)
    }

    /// How the read model of a service stands; `None` for one that was never projected.
    pub async fn get(&self, service: &str) -> Result<Option<ReadModel>, BucketError> {
        Ok(self.bucket.get(service).await?.map(|kept| kept.value))
    }

    /// Tells how a read model stands.
    pub async fn put(&self, model: &ReadModel) -> Result<(), BucketError> {
        self.bucket.put(&model.service, model, None).await?;
        Ok(())
    }

    /// Sequence of the last fact of a service's read model in the stream of operations; 0 where there is none.
    pub async fn last(&self, service: &str) -> Result<u64, ReadModelsError> {
        let last = self.store.last(&subject(service)).await?;
        Ok(last.map_or(0, |last| last.position.sequence))
    }

    /// What is asked of a service's read model, from behind this sequence on, and for ever.
    pub async fn requests(&self, service: &str, behind: u64) -> Result<Requests, ReadModelsError> {
        let filter = Filter { subject: Some(subject(service).to_string()), ..Filter::default() };
        let from = From::Sequence(behind + 1);
        let reader = Reader::open(&self.connection, Context::Ops, from, Until::Forever, filter).await?;
        Ok(Requests { reader, ready: Vec::new().into_iter() })
    }

    /// Records that another generation serves, unless that is the last thing known.
    pub async fn say_switched(&self, switched: ProjectionSwitched) -> Result<(), ReadModelsError> {
        let subject = subject(&switched.service);
        let event = ProjectionEvent::Switched(switched);
        loop {
            let last = self.store.last(&subject).await?;
            let known = last.as_ref().and_then(|last| last.fact().ok());
            if known.is_some_and(|known| known == Fact::Projection(event.clone())) {
                return Ok(());
            }
            let version = last.as_ref().and_then(|last| last.header(header::SEQUENCE)?.parse().ok());
            let version = version.unwrap_or(0_u64) + 1;
            let command = CommandId::from_key(subject.as_str(), &version.to_string());
            let metadata = Metadata {
                command,
                correlation: command.uuid().into(),
                causation: command.uuid(),
                // The names of services are tokens.
                actor: format!("service:{}", subject.id()).parse().unwrap_or(Actor::CLIENT),
                traceparent: None,
            };
            let envelope =
                Envelope::new(event.fact_type(), &subject, version, 0, self.clock.now(), &metadata);
            let guard = last.map_or(0, |last| last.position.sequence);
            // A few facts in a lifetime: loads may take the way without a tail.
            let tail = (version > 1).then(|| "?".to_owned());
            let write = Write::new(&subject, Some(guard), &envelope, tail, event.to_json());
            match self.store.append(vec![write]).await {
                // Somebody asked for something at the same moment.
                Err(AppendError::Conflict) => {}
                result => return Ok(result.map(|_| ())?),
            }
        }
    }
}

/// What operators ask of one read model, in order.
pub struct Requests {
    reader: Reader,
    ready: std::vec::IntoIter<crate::Message>,
}

impl Requests {
    /// Waits for the next one, with its sequence in the stream of operations. Cancel safe.
    pub async fn next(&mut self) -> Result<(u64, ProjectionEvent), ReadModelsError> {
        loop {
            for message in self.ready.by_ref() {
                // What a newer program records is for that to carry out.
                if let Ok(Fact::Projection(event)) = message.fact() {
                    return Ok((message.position.sequence, event));
                }
            }
            self.ready = self.reader.next_batch(100).await?.into_iter();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_is_what_is_left_at_the_rate_of_late() {
        let left = |events, total, per_second| {
            Build { events, total, per_second, ..Build::default() }.seconds_left()
        };
        assert_eq!(left(400, 1000, 100), Some(6));
        assert_eq!(left(1000, 1000, 100), Some(0));
        assert_eq!(left(999, 1000, 100), Some(0), "less than a second");
        assert_eq!(left(1000, 1000, 0), Some(0), "there is nothing left, however slow it was");
        assert_eq!(left(1001, 1000, 5), Some(0), "more came meanwhile");
        assert_eq!(left(400, 1000, 0), None, "nobody knows while nothing moves");
    }
}
