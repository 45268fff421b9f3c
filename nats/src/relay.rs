//! Copies of events, on other subjects or in another NATS. A copy is no fact: nothing of this system listens where it goes,
//! so that nothing that followed from an event follows from it again. What would break that is refused.

use crate::{Connection, Message, publish::TAIL};
use async_nats::{
    HeaderMap, Request,
    jetstream::{context::PublishError, publish::PublishAck},
};
use events::{Context, Position, envelope::header};
use futures::{FutureExt, StreamExt, future::BoxFuture};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    str::FromStr,
    time::Duration,
};

/// Copies on their way to a stream at most.
const WINDOW: usize = 256;

/// How often, and how long each time, it is listened whether two connections lead to the same NATS: a cluster tells its
/// nodes of a new subscription in its own time.
const LISTENS: usize = 3;
const LISTEN: Duration = Duration::from_millis(100);

/// How long the question may take behind which nothing is under way any more.
const ANSWER: Duration = Duration::from_secs(5);

/// First tokens of subjects that Waybill itself listens on.
const OWN: [&str; 3] = ["evt", "timer", "view"];

/// What stands before a copy's subject in place of `evt`: `audit` makes `audit.orders.order.<id>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefix(String);

/// Why a text is no prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// It is no subject.
    #[error("expected a subject without * and >, such as audit or copies.today")]
    Subject,
    /// Copies would be taken for events.
    #[error("{0}. is where Waybill keeps its own: a replay never repeats an effect")]
    Own(&'static str),
    /// The server or its clients use it for themselves.
    #[error("subjects that begin with $ or _ belong to NATS itself")]
    Reserved,
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let token = |token: &str| {
            !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic() && b != b'*' && b != b'>')
        };
        if !text.split('.').all(token) {
            return Err(PrefixError::Subject);
        }
        if text.starts_with(['$', '_']) {
            return Err(PrefixError::Reserved);
        }
        match OWN.into_iter().find(|own| text.split('.').next() == Some(own)) {
            Some(own) => Err(PrefixError::Own(own)),
            None => Ok(Self(text.to_owned())),
        }
    }
}

/// Why events cannot be copied.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// On their own subjects, in their own NATS.
    #[error("that is the NATS that the events come from: they would happen again")]
    SameSystem,
    /// On their own subjects, where services of Waybill work.
    #[error(
        "services of Waybill work there: consumer {consumer} of stream {stream} would act on the events as if they were new"
    )]
    Attended {
        /// A stream that would take the copies.
        stream: &'static str,
        /// Who reads it.
        consumer: String,
    },
    /// The other NATS cannot be asked.
    #[error("cannot ask the NATS that copies go to")]
    Unavailable(#[source] async_nats::Error),
    /// The other NATS does not let them in.
    #[error("copies are refused: {0}")]
    Refused(String),
    /// A copy did not arrive for certain.
    #[error("the copy of {position} was not acknowledged")]
    Lost {
        /// Which event.
        position: Position,
        /// What the client says.
        source: async_nats::Error,
    },
}

fn unavailable(error: impl Into<async_nats::Error>) -> RelayError {
    RelayError::Unavailable(error.into())
}

/// Copies events. Where a stream keeps the copies, each is acknowledged, and one that was made already within the stream's
/// duplicate window is not made twice: it has the id of the event.
pub struct Relay {
    target: Connection,
    /// None leaves the subjects as they are.
    prefix: Option<Prefix>,
    /// Contexts whose copies a stream keeps.
    kept: BTreeSet<Context>,
    under_way: VecDeque<(Position, BoxFuture<'static, Result<PublishAck, PublishError>>)>,
    /// Of each context the last event up to which every copy has arrived.
    reached: BTreeMap<Context, u64>,
    repeated: u64,
}

impl Relay {
    /// Copies go to `target`: with a prefix to subjects of their own; without one on the subjects they have, which is
    /// refused where they could be taken for new events.
    pub async fn open(
        source: &Connection,
        target: Connection,
        prefix: Option<Prefix>,
        contexts: &[Context],
    ) -> Result<Self, RelayError> {
        if prefix.is_none() {
            if is_same(source, &target, contexts).await? {
                return Err(RelayError::SameSystem);
            }
            for &context in contexts {
                unattended(&target, context).await?;
            }
        }
        let mut relay = Self {
            target,
            prefix,
            kept: BTreeSet::new(),
            under_way: VecDeque::new(),
            reached: BTreeMap::new(),
            repeated: 0,
        };
        for &context in contexts {
            let all = relay.subject(&context.filter());
            if relay.target.jetstream.stream_by_subject(all).await.is_ok() {
                relay.kept.insert(context);
            }
        }
        Ok(relay)
    }

    /// Whether a stream keeps the copies of these events.
    pub fn keeps(&self, context: Context) -> bool {
        self.kept.contains(&context)
    }

    /// Up to where every copy has arrived, or was at least sent where no stream keeps it.
    pub fn reached(&self) -> impl Iterator<Item = Position> {
        self.reached.iter().map(|(&context, &sequence)| Position { context, sequence })
    }

    /// How many copies the streams had already.
    pub fn repeated(&self) -> u64 {
        self.repeated
    }

    /// Sends a copy. Waits only where many are under way.
    pub async fn send(&mut self, message: &Message) -> Result<(), RelayError> {
        let (position, subject, headers) =
            (message.position, self.subject(message.subject.as_str()), headers(message));
        let lost = |source| RelayError::Lost { position, source };
        let body = message.body().clone();
        if !self.keeps(position.context) {
            let sent = self.target.client.publish_with_headers(subject, headers, body).await;
            sent.map_err(|error| lost(error.into()))?;
            self.reached.insert(position.context, position.sequence);
            return Ok(());
        }
        let sent = self.target.jetstream.publish_with_headers(subject, headers, body).await;
        let acknowledged = sent.map_err(|error| lost(error.into()))?.into_future().boxed();
        self.under_way.push_back((position, acknowledged));
        while self.under_way.len() >= WINDOW {
            self.settle().await?;
        }
        Ok(())
    }

    /// Waits until every copy has arrived. After one that did not, nothing later counts as reached.
    pub async fn finish(&mut self) -> Result<(), RelayError> {
        while !self.under_way.is_empty() {
            self.settle().await?;
        }
        self.target.client.flush().await.map_err(unavailable)?;
        if self.reached.keys().all(|context| self.keeps(*context)) {
            return Ok(());
        }
        // Nobody acknowledges those that no stream keeps. What the server refuses it has said before it answers what came
        // later.
        let asked = self.target.api(format!("STREAM.INFO.{}", Context::Orders.stream()));
        let _ = self.target.ask(asked, Request::new(), ANSWER).await;
        let beginning = self.prefix.as_ref().map_or("evt", |Prefix(prefix)| prefix);
        match self.target.refusals.soon_of(&format!("{beginning}.")).await {
            Some(what) => {
                // What a stream has acknowledged has arrived.
                self.reached.retain(|context, _| self.kept.contains(context));
                Err(RelayError::Refused(what))
            }
            None => Ok(()),
        }
    }

    /// Waits for the oldest acknowledgement. In order, so that what is reached has no gap, also where nobody waits to the end.
    async fn settle(&mut self) -> Result<(), RelayError> {
        let Some((position, acknowledged)) = self.under_way.front_mut() else { return Ok(()) };
        let (position, acknowledged) = (*position, acknowledged.await);
        self.under_way.pop_front();
        let acknowledged = acknowledged.map_err(|error| {
            self.under_way.clear();
            RelayError::Lost { position, source: error.into() }
        })?;
        self.repeated += u64::from(acknowledged.duplicate);
        self.reached.insert(position.context, position.sequence);
        Ok(())
    }

    /// Where the copy of what stands at `subject` goes.
    fn subject(&self, subject: &str) -> String {
        match (&self.prefix, subject.split_once('.')) {
            (Some(Prefix(prefix)), Some((_, rest))) => format!("{prefix}.{rest}"),
            _ => subject.to_owned(),
        }
    }
}

/// The headers of a copy: those of the event, but for what was meant for its own stream, and where it comes from.
fn headers(message: &Message) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, values) in message.headers().iter() {
        let text: &str = name.as_ref();
        let meant_for_the_stream = text == TAIL || (text.starts_with("Nats-") && text != header::MSG_ID);
        if !meant_for_the_stream {
            for value in values {
                headers.append(name.clone(), value.clone());
            }
        }
    }
    headers.insert(header::REPLAYED_FROM, message.position.to_string());
    headers.insert(header::REPLAYED_STORED, message.stored.to_string());
    headers
}

/// Whether two connections lead to the same NATS, through whichever servers: what is said at one is heard at the other,
/// or a stream of one is that of the other.
async fn is_same(source: &Connection, target: &Connection, contexts: &[Context]) -> Result<bool, RelayError> {
    let inbox = target.client.new_inbox();
    let mut heard = source.client.subscribe(inbox.clone()).await.map_err(unavailable)?;
    source.client.flush().await.map_err(unavailable)?;
    for _ in 0..LISTENS {
        target.client.publish(inbox.clone(), "".into()).await.map_err(unavailable)?;
        target.client.flush().await.map_err(unavailable)?;
        if tokio::time::timeout(LISTEN, heard.next()).await.is_ok() {
            return Ok(true);
        }
    }
    for context in contexts {
        let name = context.stream();
        let ours = source.jetstream.get_stream(name).await.map_err(unavailable)?;
        let theirs = target.jetstream.get_stream(name).await;
        if theirs.is_ok_and(|theirs| theirs.cached_info().created == ours.cached_info().created) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Refuses a NATS where services of Waybill read the stream of this context: their durable consumers say so, also while
/// they are away.
async fn unattended(target: &Connection, context: Context) -> Result<(), RelayError> {
    let stream = context.stream();
    let Ok(found) = target.jetstream.get_stream(stream).await else { return Ok(()) };
    let mut names = found.consumer_names();
    while let Some(consumer) = names.next().await {
        let consumer = consumer.map_err(unavailable)?;
        if consumer.ends_with(&format!("-{}", context.token())) {
            return Err(RelayError::Attended { stream, consumer });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_leads_away_from_what_waybill_listens_on() {
        for good in ["audit", "copies.today", "evtx", "a.evt"] {
            assert!(good.parse::<Prefix>().is_ok(), "{good}");
        }
        for own in ["evt", "evt.orders", "timer", "view.x"] {
            assert!(matches!(own.parse::<Prefix>(), Err(PrefixError::Own(_))), "{own}");
        }
        for bad in ["", ".", "a.", "a..b", "a.*", ">", "a b", "ä"] {
            assert_eq!(bad.parse::<Prefix>(), Err(PrefixError::Subject), "{bad:?}");
        }
        for reserved in ["$KV.bucket", "$JS.API", "_INBOX.x"] {
            assert_eq!(reserved.parse::<Prefix>(), Err(PrefixError::Reserved), "{reserved}");
        }
    }
}
