//! What caused an event, and what it caused. There is no index from ids to places: it is looked for where it is known to be,
//! among the events of the same order, and beside the event that a notification names.

use events::{Aggregate, Position, Subject};
use futures::future::try_join_all;
use nats::{Connection, Filter, From, Message, Reader, ReplayError, Until, message_at};
use serde::Serialize;
use serde_json::Value;
use std::collections::HashMap;
use utoipa::ToSchema;
use uuid::Uuid;

/// Events of one aggregate that are looked through. An order has a handful.
const LOOKED_THROUGH: usize = 200;

/// What caused an event, and what it caused.
#[derive(Debug, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = CausationChain)]
pub(super) struct Chain {
    /// What it follows from, step by step: its cause, the cause of that, and so on.
    causes: Vec<Step>,
    /// The command, or an event that was not found, at the beginning of all that.
    root: Option<Uuid>,
    /// What it caused directly.
    effects: Vec<Step>,
    /// What was recorded with it by the same command.
    together: Vec<Step>,
}

/// An event of the chain.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = CausationLink)]
struct Step {
    id: Uuid,
    #[serde(rename = "type")]
    #[schema(example = "order.created")]
    kind: String,
    #[schema(example = "order/018f3f5e-0000-7000-8000-000000000001")]
    aggregate: String,
    #[schema(value_type = String, example = "ORDERS")]
    stream: &'static str,
    sequence: u64,
    /// Where to see it: a path beneath the base of the API.
    #[schema(example = "/ops/streams/ORDERS/events/42")]
    link: String,
    #[serde(skip)]
    causation: Uuid,
    #[serde(skip)]
    command: Uuid,
}

impl Step {
    /// `None` of what cannot be read.
    fn of(message: &Message) -> Option<Self> {
        let envelope = message.envelope().ok()?;
        let Position { context, sequence } = message.position;
        Some(Self {
            id: envelope.id.uuid(),
            kind: envelope.kind.into_owned(),
            aggregate: message.subject.name(),
            stream: context.stream(),
            sequence,
            link: format!("/ops/streams/{}/events/{sequence}", context.stream()),
            causation: envelope.causation,
            command: envelope.command.uuid(),
        })
    }
}

/// The chain that an event is a link of.
pub(super) async fn of(connection: &Connection, message: &Message) -> Result<Chain, ReplayError> {
    let Some(event) = Step::of(message) else { return Ok(Chain::default()) };
    let data: Value = serde_json::from_slice(message.body()).unwrap_or_default();
    let all = try_join_all(related(message, &data).iter().map(|subject| read(connection, subject))).await?;
    let mut links: Vec<Step> = all.iter().flatten().filter_map(Step::of).collect();
    // A notification says where the event stands that it tells of.
    if let Ok(source) = serde_json::from_value::<Position>(data["source"].clone())
        && let Some(told) = message_at(connection, source).await?
    {
        links.extend(Step::of(&told));
    }
    Ok(chain(&event, links))
}

fn chain(event: &Step, mut links: Vec<Step>) -> Chain {
    links.retain(|link| link.id != event.id);
    links.sort_by_key(|link| (link.stream, link.sequence));
    links.dedup_by_key(|link| (link.stream, link.sequence));
    let by_id: HashMap<Uuid, &Step> = links.iter().map(|link| (link.id, link)).collect();
    let (mut causes, mut at) = (Vec::new(), event.causation);
    // Ids form no ring; were they to, it would not be walked for ever.
    while let Some(cause) = by_id.get(&at).filter(|_| causes.len() < by_id.len()) {
        causes.push((*cause).clone());
        at = cause.causation;
    }
    let those = |wanted: &dyn Fn(&Step) -> bool| links.iter().filter(|link| wanted(link)).cloned().collect();
    Chain {
        causes,
        root: Some(at),
        effects: those(&|link| link.causation == event.id),
        together: those(&|link| link.command == event.command),
    }
}

/// The aggregates among whose events the chain is looked for.
fn related(message: &Message, data: &Value) -> Vec<Subject> {
    let named = data["orderId"].as_str().and_then(|text| text.parse::<Uuid>().ok());
    let order = message.subject.order_id().map(str::to_owned).or_else(|| named.map(|id| id.to_string()));
    let kinds = Aggregate::ALL.into_iter().filter(|kind| kind.is_of_an_order());
    let mut all: Vec<_> =
        order.iter().flat_map(|id| kinds.clone().map(move |kind| kind.subject(id))).collect();
    if !all.contains(&message.subject) {
        all.push(message.subject.clone());
    }
    all
}

/// The events of an aggregate, oldest first.
async fn read(connection: &Connection, subject: &Subject) -> Result<Vec<Message>, ReplayError> {
    let filter = Filter { subject: Some(subject.to_string()), ..Filter::default() };
    let (context, most) = (subject.context(), LOOKED_THROUGH);
    let mut reader = Reader::open_for(connection, context, From::Start, Until::End, filter, most).await?;
    let mut all = Vec::new();
    while all.len() < most {
        let batch = reader.next_batch(most - all.len()).await?;
        if batch.is_empty() {
            break;
        }
        all.extend(batch);
    }
    reader.close().await;
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(id: u128, causation: u128, command: u128) -> Step {
        Step {
            id: Uuid::from_u128(id),
            kind: String::new(),
            aggregate: String::new(),
            stream: "ORDERS",
            sequence: u64::try_from(id).unwrap(),
            link: String::new(),
            causation: Uuid::from_u128(causation),
            command: Uuid::from_u128(command),
        }
    }

    #[test]
    fn causes_go_back_to_the_command_and_effects_one_step_on() {
        let all = [link(1, 100, 100), link(2, 1, 50), link(3, 1, 50), link(4, 3, 60), link(5, 4, 70)];
        let ids = |links: &[Step]| links.iter().map(|link| link.id.as_u128()).collect::<Vec<_>>();
        let found = chain(&all[2], all.to_vec());
        assert_eq!((ids(&found.causes), found.root), (vec![1], Some(Uuid::from_u128(100))));
        assert_eq!((ids(&found.effects), ids(&found.together)), (vec![4], vec![2]));
        let found = chain(&all[4], all.to_vec());
        assert_eq!(ids(&found.causes), [4, 3, 1]);
        // A ring cannot happen; it must not hang either.
        chain(&link(1, 2, 1), vec![link(2, 3, 2), link(3, 2, 3)]);
    }
}
