//! The facts of one thing, from however many streams, in one order: each stream in its own, causes before what they caused,
//! and else by the time that they were decided. It is the same each time it is read.

use super::Thing;
use crate::streams::away;
use axum::http::StatusCode;
use events::{DecodeError, Position, Subject};
use jiff::Timestamp;
use nats::{Connection, Filter, From, Message, Reader, Recorded, Until};
use service::Problem;
use std::collections::VecDeque;

/// Messages of an aggregate on their way at once.
const AHEAD: usize = 500;

/// The facts of one thing that have not been taken yet.
pub(super) struct Log {
    tellers: Vec<Teller>,
    next: Option<Told>,
    /// The latest time so far: a fact counts as no earlier than those before it.
    time: Timestamp,
}

/// A fact, and since when it counts.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) recorded: Recorded,
    pub(super) at: Timestamp,
}

/// One aggregate.
struct Teller {
    /// `None` when its end is reached.
    reader: Option<Reader>,
    ahead: VecDeque<Recorded>,
}

impl Log {
    /// The facts of the thing with this id, those of each stream behind what is known of it.
    pub(super) async fn open(
        connection: &Connection,
        thing: &Thing,
        id: &str,
        behind: &[Position],
    ) -> Result<Self, Problem> {
        let open = async |subject: Subject| {
            let context = subject.context();
            let start = behind.iter().find(|at| at.context == context).map_or(0, |at| at.sequence);
            let reader = read(connection, &subject, start + 1, AHEAD).await?;
            Ok::<_, Problem>(Teller { reader: Some(reader), ahead: VecDeque::new() })
        };
        let subjects = thing.aggregates().map(|aggregate| open(aggregate.subject(id)));
        let tellers = futures::future::try_join_all(subjects).await?;
        Ok(Self { tellers, next: None, time: Timestamp::MIN })
    }

    /// The next fact, which stays.
    pub(super) async fn peek(&mut self) -> Result<Option<&Told>, Problem> {
        if self.next.is_none() {
            for teller in &mut self.tellers {
                teller.fill().await?;
            }
            let first = first(&self.tellers);
            self.next = first.and_then(|place| self.tellers[place].ahead.pop_front()).map(|recorded| {
                self.time = self.time.max(recorded.envelope.time);
                Told { recorded, at: self.time }
            });
        }
        Ok(self.next.as_ref())
    }

    /// Takes the fact that [`peek`](Self::peek) showed.
    pub(super) fn take(&mut self) -> Option<Told> {
        self.next.take()
    }

    /// Lets go of what the server keeps for it.
    pub(super) async fn close(self) {
        let readers = self.tellers.into_iter().filter_map(|teller| teller.reader);
        futures::future::join_all(readers.map(Reader::close)).await;
    }
}

impl Teller {
    async fn fill(&mut self) -> Result<(), Problem> {
        if !self.ahead.is_empty() {
            return Ok(());
        }
        let Some(reader) = &mut self.reader else { return Ok(()) };
        let batch = reader.next_batch(AHEAD).await.map_err(away)?;
        for message in &batch {
            self.ahead.push_back(message.record().map_err(|error| unreadable(message, &error))?);
        }
        if batch.is_empty()
            && let Some(reader) = self.reader.take()
        {
            reader.close().await;
        }
        Ok(())
    }
}

/// Whose next fact is the next of all.
fn first(tellers: &[Teller]) -> Option<usize> {
    let heads = || tellers.iter().enumerate().filter_map(|(at, teller)| Some((at, teller.ahead.front()?)));
    // Two aggregates of one stream are told in its order.
    let leads = |(_, head): &(usize, &Recorded)| {
        let place = head.position;
        heads().all(|(_, other)| other.position.context != place.context || other.position >= place)
    };
    let leaders: Vec<_> = heads().filter(leads).collect();
    let (mut at, mut head) =
        *leaders.iter().min_by_key(|(_, head)| (head.envelope.time, head.position.context))?;
    // Clocks of different machines may disagree: what caused it comes first, wherever it is told.
    for _ in 0..leaders.len() {
        let told_by = |teller: &Teller| {
            teller.ahead.iter().any(|other| other.envelope.id.uuid() == head.envelope.causation)
        };
        let cause = leaders.iter().find(|(other, _)| *other != at && told_by(&tellers[*other]));
        let Some(&(other, earlier)) = cause else { break };
        (at, head) = (other, earlier);
    }
    Some(at)
}

/// The first fact of an aggregate.
pub(super) async fn first_of(
    connection: &Connection,
    subject: &Subject,
) -> Result<Option<Recorded>, Problem> {
    let mut reader = read(connection, subject, 1, 1).await?;
    let first = reader.next_batch(1).await.map_err(away)?;
    reader.close().await;
    let first = first.first();
    first.map(|message| message.record().map_err(|error| unreadable(message, &error))).transpose()
}

async fn read(connection: &Connection, subject: &Subject, from: u64, pull: usize) -> Result<Reader, Problem> {
    let filter = Filter { subject: Some(subject.to_string()), ..Filter::default() };
    let (context, from) = (subject.context(), From::Sequence(from));
    Reader::open_for(connection, context, from, Until::End, filter, pull).await.map_err(away)
}

fn unreadable(message: &Message, error: &DecodeError) -> Problem {
    let cause = std::error::Error::source(error).map(ToString::to_string);
    tracing::error!(at = %message.position, %error, cause, "the past cannot be told");
    let detail = format!("Event {} cannot be read, so what came of it cannot be told.", message.position);
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "history-unreadable", detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Log as Facts;
    use events::{
        Aggregate, Fact, OrderId, UserId,
        orders::{OrderCompleted, OrderEvent},
        shipping::{ShipmentDelivered, ShipmentDispatched, ShipmentEvent},
    };
    use uuid::Uuid;

    fn of(facts: Vec<Recorded>) -> Log {
        let mut tellers: Vec<Teller> = Vec::new();
        for recorded in facts {
            match tellers.iter_mut().find(|teller| teller.ahead[0].subject == recorded.subject) {
                Some(teller) => teller.ahead.push_back(recorded),
                None => tellers.push(Teller { reader: None, ahead: [recorded].into() }),
            }
        }
        Log { tellers, next: None, time: Timestamp::MIN }
    }

    async fn order(facts: Vec<Recorded>) -> Vec<(String, i64)> {
        let mut log = of(facts);
        let mut all = Vec::new();
        while log.peek().await.unwrap().is_some() {
            let Told { recorded, at } = log.take().unwrap();
            all.push((recorded.position.to_string(), at.as_second()));
        }
        all
    }

    fn facts() -> Vec<Recorded> {
        let (order_id, user_id) = (OrderId::new(Uuid::from_u128(1)), UserId::new(Uuid::nil()));
        let mut log = Facts::default();
        let completed = OrderCompleted { order_id, user_id };
        log.add::<OrderEvent>(Aggregate::Order, order_id, completed, Fact::Order);
        log.add::<ShipmentEvent>(
            Aggregate::Shipment,
            order_id,
            ShipmentDispatched { order_id },
            Fact::Shipment,
        );
        log.add::<ShipmentEvent>(
            Aggregate::Shipment,
            order_id,
            ShipmentDelivered { order_id },
            Fact::Shipment,
        );
        log.all
    }

    fn text(expected: &[(&str, i64)]) -> Vec<(String, i64)> {
        expected.iter().map(|(place, at)| ((*place).to_owned(), *at)).collect()
    }

    #[tokio::test]
    async fn facts_come_in_the_order_of_time_and_none_before_one_that_came_before_it() {
        let mut facts = facts();
        let expected = [("ORDERS:1", 1000), ("SHIPPING:1", 1001), ("SHIPPING:2", 1002)];
        assert_eq!(order(facts.clone()).await, text(&expected));
        // A clock that goes back does not turn a stream around.
        facts[2].envelope.time = Timestamp::from_second(5).unwrap();
        let expected = [("ORDERS:1", 1000), ("SHIPPING:1", 1001), ("SHIPPING:2", 1001)];
        assert_eq!(order(facts).await, text(&expected));
    }

    #[tokio::test]
    async fn a_cause_comes_first_whatever_the_clocks_say() {
        let mut facts = facts();
        // Completed because it was delivered, by a clock that is late.
        facts[0].envelope.causation = facts[2].envelope.id.uuid();
        let expected = [("SHIPPING:1", 1001), ("SHIPPING:2", 1002), ("ORDERS:1", 1002)];
        assert_eq!(order(facts.clone()).await, text(&expected));
        // A ring cannot happen; it must not hang either.
        facts[1].envelope.causation = facts[0].envelope.id.uuid();
        assert_eq!(order(facts).await.len(), 3);
    }
}
