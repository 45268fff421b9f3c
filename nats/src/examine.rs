//! How a server, and what it keeps for Waybill, stand: for whoever looks for what is wrong. Nothing is made or changed.

use crate::{
    Connection,
    connection::{MIN_SERVER, parse_version},
    consumer, topology,
};
use async_nats::{Request, jetstream::stream::Info};
use events::Context;
use futures::TryStreamExt;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use service::Clock;
use std::{collections::BTreeMap, fmt, time::Duration};

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(5);

/// It could not be asked.
#[derive(Debug, thiserror::Error)]
#[error("{what} cannot be read: {why}")]
pub struct ExamineError {
    what: String,
    why: String,
}

fn failed<E: fmt::Display>(what: impl Into<String>) -> impl FnOnce(E) -> ExamineError {
    move |why| ExamineError { what: what.into(), why: why.to_string() }
}

/// Whether anything is answered that is asked here: whoever may examine may ask this.
pub async fn is_answered(connection: &Connection) -> bool {
    let asked = connection.api(format!("STREAM.INFO.{}", Context::Orders.stream()));
    connection.ask(asked, Request::new(), ANSWER).await.is_ok()
}

/// The server that this connection is with.
#[derive(Clone, Debug)]
pub struct ServerLook {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Whether that is older than Waybill needs.
    pub is_too_old: bool,
    /// Whether it keeps streams.
    pub has_jetstream: bool,
    /// The cluster it belongs to.
    pub cluster: Option<String>,
}

/// What may be kept, and what is.
#[derive(Clone, Debug)]
pub struct Usage {
    /// Bytes on disk.
    pub storage: u64,
    /// How many there may be; none without a limit.
    pub storage_limit: Option<u64>,
    /// Streams, buckets included.
    pub streams: u64,
    /// How many there may be; none without a limit.
    pub streams_limit: Option<u64>,
}

/// A copy of a stream on another node than the one that leads.
#[derive(Clone, Debug)]
pub struct Member {
    /// The node.
    pub name: String,
    /// Whether it has everything.
    pub is_current: bool,
    /// Whether it is away.
    pub is_offline: bool,
    /// How many operations it is behind.
    pub lag: u64,
}

/// A clock compared with ours.
#[derive(Clone, Copy, Debug)]
pub struct Skew {
    /// How far it is ahead; less than zero where it is behind.
    pub ahead: SignedDuration,
    /// How exactly that is known: half of the time that the answer took.
    pub within: SignedDuration,
}

impl Skew {
    /// Of a clock that said `theirs` between these two moments.
    pub fn between(asked: Timestamp, theirs: Timestamp, answered: Timestamp) -> Self {
        let within = answered.duration_since(asked) / 2;
        Self { ahead: theirs.duration_since(asked + within), within }
    }

    /// Whether it is certain that the clocks differ by more than this.
    pub fn exceeds(&self, most: SignedDuration) -> bool {
        self.ahead.abs() - self.within > most
    }
}

/// A stream, or the stream of a bucket.
#[derive(Clone, Debug)]
pub struct StreamLook {
    /// Its name.
    pub name: String,
    /// Setting by setting, what is weaker than declared.
    pub weaknesses: Vec<String>,
    /// How many copies there have to be.
    pub replicas: usize,
    /// On a cluster: the node that leads, if there is one, and the others.
    pub cluster: Option<(Option<String>, Vec<Member>)>,
    /// Its messages.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How many subjects they are on: aggregates, or keys.
    pub subjects: u64,
    /// The clock of the node that answered.
    pub skew: Option<Skew>,
}

/// A durable consumer.
#[derive(Clone, Debug)]
pub struct ConsumerLook {
    /// Its name.
    pub name: String,
    /// Setting by setting, what is not as declared.
    pub weaknesses: Vec<String>,
    /// Messages that nobody has asked for yet.
    pub pending: u64,
    /// Messages that were delivered and not acknowledged.
    pub unacknowledged: u64,
    /// How many of these there may be: then nothing more is delivered.
    pub unacknowledged_limit: u64,
    /// Whether somebody waits for messages.
    pub is_taken: bool,
}

/// The server that this connection is with.
pub fn server(connection: &Connection) -> ServerLook {
    let info = connection.client.server_info();
    ServerLook {
        is_too_old: parse_version(&info.version) < MIN_SERVER,
        name: info.server_name,
        version: info.version,
        has_jetstream: info.jetstream,
        cluster: info.cluster,
    }
}

/// What may be kept, and what is. `None` where every stream is in an account of its own, in which nobody is a user.
pub async fn usage(connection: &Connection) -> Result<Option<Usage>, ExamineError> {
    if connection.is_apart() {
        return Ok(None);
    }
    let account = connection.jetstream.query_account().await.map_err(failed("the account"))?;
    let limit = |limit: i64| u64::try_from(limit).ok().filter(|limit| *limit > 0);
    Ok(Some(Usage {
        storage: account.storage,
        storage_limit: account.limits.max_storage.and_then(limit),
        streams: account.streams as u64,
        streams_limit: account.limits.max_streams.and_then(limit),
    }))
}

/// The stream of a context; `None` where there is none.
pub async fn stream(
    connection: &Connection,
    context: Context,
    replicas: usize,
    clock: &Clock,
) -> Result<Option<StreamLook>, ExamineError> {
    let Some((info, skew)) = info(connection, context.stream(), clock).await? else { return Ok(None) };
    let weaknesses = topology::weaknesses(&info.config, &topology::stream(context, replicas));
    Ok(Some(look(info, weaknesses, skew)))
}

/// The bucket whose stream has this name; `None` where there is none. Which there are cannot be asked: where streams are in
/// accounts of their own, nobody sees all of them.
pub async fn bucket(
    connection: &Connection,
    name: &str,
    replicas: usize,
    clock: &Clock,
) -> Result<Option<StreamLook>, ExamineError> {
    let Some((info, skew)) = info(connection, name, clock).await? else { return Ok(None) };
    let weaknesses = topology::bucket_faults(&info.config, replicas);
    Ok(Some(look(info, weaknesses, skew)))
}

/// The durable consumers of the stream of a context.
pub async fn consumers(connection: &Connection, context: Context) -> Result<Vec<ConsumerLook>, ExamineError> {
    let name = context.stream();
    let what = || failed(format!("the list of consumers of {name}"));
    let stream = connection.jetstream.get_stream_no_info(name).await.map_err(what())?;
    let infos: Vec<_> = stream
        .consumers()
        .try_collect()
        .await
        .map_err(|error| failed(format!("the list of consumers of {name}"))(error))?;
    let durable = |info: async_nats::jetstream::consumer::Info| {
        info.config.durable_name.as_ref()?;
        Some(ConsumerLook {
            weaknesses: consumer::weaknesses(&info),
            pending: info.num_pending,
            unacknowledged: info.num_ack_pending as u64,
            unacknowledged_limit: u64::try_from(info.config.max_ack_pending).unwrap_or(u64::MAX),
            is_taken: info.num_waiting > 0,
            name: info.name,
        })
    };
    let mut looks: Vec<_> = infos.into_iter().filter_map(durable).collect();
    looks.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(looks)
}

/// The answer to the question for a stream: what the client's own type leaves out is the time.
#[derive(Deserialize)]
struct Answer {
    ts: Option<Timestamp>,
    error: Option<Refusal>,
    #[serde(flatten)]
    rest: BTreeMap<String, serde_json::Value>,
}

#[derive(Deserialize)]
struct Refusal {
    err_code: Option<u64>,
    #[serde(default)]
    description: String,
}

/// The server's code for a stream that there is not.
const NOT_FOUND: u64 = 10059;

async fn info(
    connection: &Connection,
    name: &str,
    clock: &Clock,
) -> Result<Option<(Info, Option<Skew>)>, ExamineError> {
    let what = || format!("stream {name}");
    let asked = clock.now();
    let answer =
        connection.ask(connection.api(format_args!("STREAM.INFO.{name}")), Request::new(), ANSWER).await;
    let answered = clock.now();
    let answer: Answer =
        serde_json::from_slice(&answer.map_err(failed(what()))?.payload).map_err(failed(what()))?;
    match answer.error {
        Some(Refusal { err_code: Some(NOT_FOUND), .. }) => return Ok(None),
        Some(Refusal { description, .. }) => return Err(failed(what())(description)),
        None => {}
    }
    let skew = answer.ts.map(|theirs| Skew::between(asked, theirs, answered));
    let rest = answer.rest.into_iter().collect::<serde_json::Map<_, _>>();
    let info = serde_json::from_value(rest.into()).map_err(failed(what()))?;
    Ok(Some((info, skew)))
}

fn look(info: Info, weaknesses: Vec<String>, skew: Option<Skew>) -> StreamLook {
    let cluster = info.cluster.filter(|cluster| cluster.name.is_some()).map(|cluster| {
        let member = |peer: async_nats::jetstream::stream::PeerInfo| Member {
            name: peer.name,
            is_current: peer.current,
            is_offline: peer.offline,
            lag: peer.lag.unwrap_or_default(),
        };
        (cluster.leader.filter(|name| !name.is_empty()), cluster.replicas.into_iter().map(member).collect())
    });
    StreamLook {
        name: info.config.name,
        weaknesses,
        replicas: info.config.num_replicas,
        cluster,
        messages: info.state.messages,
        bytes: info.state.bytes,
        subjects: info.state.subjects_count,
        skew,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_known_as_exactly_as_the_answer_was_quick() {
        let at = |millis| Timestamp::from_millisecond(millis).unwrap();
        let skew = Skew::between(at(1000), at(3000), at(2000));
        assert_eq!((skew.ahead.as_millis(), skew.within.as_millis()), (1500, 500));
        assert!(skew.exceeds(SignedDuration::from_millis(900)));
        assert!(!skew.exceeds(SignedDuration::from_millis(1100)), "it may be the way");
        assert!(Skew::between(at(9000), at(3000), at(9000)).exceeds(SignedDuration::from_secs(5)));
    }
}
