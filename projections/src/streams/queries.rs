//! The queries about streams.

use super::{
    EventDocument, Streams,
    chain::{self, Chain},
};
use crate::{
    answer::{Refused, Unknown},
    page::{Page, Paging},
};
use axum::{Json, extract::State};
use events::{Context, CorrelationId, FactType, Position, Subject};
use jiff::Timestamp;
use nats::{Filter, From, Message, Reader, ReplayError, StreamState, Until, message_at};
use serde::{Deserialize, Serialize};
use service::{
    Problem,
    auth::{Denied, Principal, Role},
    extract::{Path, Query},
};
use std::time::Duration;
use tokio::time::Instant;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

pub(super) fn routes() -> OpenApiRouter<Streams> {
    OpenApiRouter::new().routes(routes!(streams)).routes(routes!(list)).routes(routes!(show))
}

/// How long the log is searched for one page. What is not found by then is searched for with the next.
const SEARCH: Duration = Duration::from_secs(2);
/// Messages on their way at once where most are passed over.
const SEARCHED_AT_ONCE: usize = 500;

/// What a stream holds.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = StreamSummary)]
struct Summary {
    #[schema(value_type = String, example = "ORDERS")]
    stream: &'static str,
    /// How many events.
    events: u64,
    /// Bytes of everything in it, headers included.
    bytes: u64,
    /// How many aggregates have events in it.
    aggregates: u64,
    /// Missing while it is empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    first: Option<End>,
    /// Missing while it is empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    last: Option<End>,
}

/// The first or last event of a stream.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = StreamEnd)]
struct End {
    sequence: u64,
    #[schema(value_type = String, format = DateTime)]
    stored_at: Timestamp,
}

/// Every stream.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = StreamList)]
struct All {
    streams: Vec<Summary>,
}

/// The streams
///
/// How much each holds, and since when.
#[utoipa::path(
    get, path = "/ops/streams", tag = "operations", security(("bearer" = [])),
    responses((status = 200, body = All), Denied, Refused)
)]
async fn streams(State(streams): State<Streams>, principal: Principal) -> Result<Json<All>, Problem> {
    principal.require(Role::Operator)?;
    let states = Context::ALL.map(|context| StreamState::of(&streams.connection, context));
    let states = futures::future::try_join_all(states).await.map_err(away)?;
    let end = |(sequence, stored_at)| End { sequence, stored_at };
    let summary = |state: StreamState| Summary {
        stream: state.context.stream(),
        events: state.events,
        bytes: state.bytes,
        aggregates: state.aggregates,
        first: state.first.map(end),
        last: state.last.map(end),
    };
    Ok(Json(All { streams: states.into_iter().map(summary).collect() }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListEvents {
    /// The first sequence.
    #[param(minimum = 1)]
    from: Option<u64>,
    /// The last sequence.
    to: Option<u64>,
    /// Nothing stored before.
    #[param(value_type = Option<String>, format = DateTime)]
    since: Option<Timestamp>,
    /// Nothing stored later.
    #[param(value_type = Option<String>, format = DateTime)]
    until: Option<Timestamp>,
    /// Only this subject of the stream; `*` and `>` are wildcards.
    #[param(example = "evt.orders.order.*")]
    subject: Option<String>,
    /// Only these types, with commas between them.
    #[serde(rename = "type")]
    #[param(example = "order.failed,order.cancelled")]
    kind: Option<String>,
    /// Only this aggregate.
    #[param(example = "order/018f3f5e-0000-7000-8000-000000000001")]
    aggregate: Option<String>,
    /// Only what this request caused.
    correlation: Option<String>,
    /// Only what this event or command caused directly.
    causation: Option<Uuid>,
    /// `nextCursor` of the page before.
    cursor: Option<String>,
    /// Items per page, 1 to 100; 20 unless said.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<u32>,
}

impl ListEvents {
    /// What is wanted of the stream.
    fn filter(&self, context: Context) -> Result<Filter, Problem> {
        let refuse = |field: &str, detail: String| Err(Problem::invalid("invalid-filter", field, detail));
        let subject = match (&self.subject, &self.aggregate) {
            (Some(_), Some(_)) => {
                return refuse("subject", "An aggregate is a subject: name one of them.".to_owned());
            }
            (Some(subject), None) if !holds(context, subject) => {
                let known = context.filter();
                return refuse(
                    "subject",
                    format!("The subjects of this stream are {known}, with * and > as wildcards."),
                );
            }
            (None, Some(name)) => match Subject::of_name(name).filter(|subject| subject.context() == context)
            {
                Some(subject) => Some(subject.to_string()),
                None => return refuse("aggregate", "This stream holds no such aggregate.".to_owned()),
            },
            (subject, None) => subject.clone(),
        };
        let kinds: Vec<_> = self.kind.iter().flat_map(|kinds| kinds.split(',')).map(str::to_owned).collect();
        if let Some(kind) = kinds.iter().find(|kind| !FactType::all().any(|fact| fact.name == *kind)) {
            return refuse("type", format!("There is no type '{kind}'."));
        }
        let correlation = match self.correlation.as_deref().map(str::parse::<CorrelationId>) {
            Some(Err(error)) => return refuse("correlation", error.to_string()),
            Some(Ok(id)) => Some(id),
            None => None,
        };
        Ok(Filter { subject, kinds, correlation, causation: self.causation, event: None })
    }

    fn bounds(&self, behind: Option<u64>) -> Result<(From, Until), Problem> {
        let both = |field| {
            Err(Problem::invalid(
                "invalid-filter",
                field,
                "Begin and end at a sequence or at a time, not at both.",
            ))
        };
        let from = match (behind, self.from, self.since) {
            (_, Some(_), Some(_)) => return both("since"),
            (Some(behind), ..) => From::Sequence(behind.saturating_add(1)),
            (None, Some(from), None) => From::Sequence(from),
            (None, None, Some(since)) => From::Time(since),
            (None, None, None) => From::Start,
        };
        let until = match (self.to, self.until) {
            (Some(_), Some(_)) => return both("until"),
            (Some(to), None) => Until::Sequence(to),
            (None, Some(until)) => Until::Time(until),
            (None, None) => Until::End,
        };
        Ok((from, until))
    }
}

/// Whether a subject, perhaps with wildcards, is one of this stream's.
fn holds(context: Context, subject: &str) -> bool {
    let tokens: Vec<_> = subject.split('.').collect();
    let plain = |token: &str| {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        !token.is_empty() && token.bytes().all(fits)
    };
    let last = tokens.len() - 1;
    let written = tokens.iter().enumerate().all(|(at, token)| match *token {
        "*" => true,
        ">" => at == last,
        token => plain(token),
    });
    written && tokens[0] == "evt" && tokens.get(1) == Some(&context.token()) && tokens.len() <= 4
}

/// The events of a stream, oldest first
///
/// The log is searched for a page for two seconds at most: a page may be short, or empty, and still have a next one. What is
/// personal is shown as `{"redacted": true}`.
#[utoipa::path(
    get, path = "/ops/streams/{stream}/events", tag = "operations", security(("bearer" = [])),
    params(("stream" = String, Path, description = "The stream", example = "ORDERS"), ListEvents),
    responses((status = 200, body = Page<EventDocument>), Denied, Unknown, Refused)
)]
async fn list(
    State(streams): State<Streams>,
    principal: Principal,
    Path(stream): Path<String>,
    Query(query): Query<ListEvents>,
) -> Result<Json<Page<EventDocument>>, Problem> {
    principal.require(Role::Operator)?;
    let context = known(&stream)?;
    let filter = query.filter(context)?;
    let paging = Paging::new(query.cursor.clone(), query.limit);
    let limit = paging.limit()? as usize;
    let behind = paging.place(|bytes| bytes.try_into().ok().map(u64::from_be_bytes))?;
    let (from, until) = query.bounds(behind)?;
    let searches = !filter.kinds.is_empty() || filter.correlation.is_some() || filter.causation.is_some();
    let pull = if searches { SEARCHED_AT_ONCE } else { limit + 1 };
    let reader = Reader::open_for(&streams.connection, context, from, until, filter, pull).await;
    let (found, next) = search(reader.map_err(away)?, limit, behind.unwrap_or(0)).await?;
    let mut items = Vec::with_capacity(found.len());
    for message in &found {
        items.push(EventDocument::of(message, None).await);
    }
    Ok(Json(Page::new(items, next.map(u64::to_be_bytes).as_ref().map(|bytes| &bytes[..]))))
}

/// The next messages, and behind which sequence to go on, where there may be more.
async fn search(
    mut reader: Reader,
    limit: usize,
    behind: u64,
) -> Result<(Vec<Message>, Option<u64>), Problem> {
    let deadline = Instant::now() + SEARCH;
    let mut found: Vec<Message> = Vec::new();
    // One more, to see whether there is more.
    let next = loop {
        if found.len() > limit {
            found.truncate(limit);
            break found.last().map(|last| last.position.sequence);
        }
        match tokio::time::timeout_at(deadline, reader.next_batch(limit + 1 - found.len())).await {
            Ok(batch) => {
                let batch = batch.map_err(away)?;
                if batch.is_empty() {
                    break None;
                }
                found.extend(batch);
            }
            // Everything up to here was looked at.
            Err(_) if reader.position().sequence > behind => break Some(reader.position().sequence),
            Err(_) => {
                let detail = "The log did not answer in time.";
                return Err(Problem::unavailable("log-unavailable", detail, 1));
            }
        }
    };
    reader.close().await;
    Ok((found, next))
}

/// An event, and where to go from it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RecordedEventInContext)]
struct Shown {
    #[serde(flatten)]
    event: EventDocument,
    chain: Chain,
    links: Links,
}

/// Where to go from an event: paths beneath the base of the API.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RecordedEventLinks)]
struct Links {
    /// Everything that happened to its aggregate.
    #[schema(example = "/ops/streams/ORDERS/events?aggregate=order/018f3f5e-0000-7000-8000-000000000001")]
    aggregate: String,
    /// What the same request caused in each stream.
    correlation: Vec<String>,
}

/// An event of a stream, with what caused it and what it caused
///
/// The chain is looked for among the events of the same order, or of the same aggregate where it is of no order. The links lead
/// to the rest.
#[utoipa::path(
    get, path = "/ops/streams/{stream}/events/{sequence}", tag = "operations", security(("bearer" = [])),
    params(
        ("stream" = String, Path, description = "The stream", example = "ORDERS"),
        ("sequence" = u64, Path, description = "The place in it", minimum = 1)
    ),
    responses((status = 200, body = Shown), Denied, Unknown, Refused)
)]
async fn show(
    State(streams): State<Streams>,
    principal: Principal,
    Path((stream, sequence)): Path<(String, u64)>,
) -> Result<Json<Shown>, Problem> {
    principal.require(Role::Operator)?;
    let context = known(&stream)?;
    let message = match sequence {
        0 => None,
        _ => message_at(&streams.connection, Position { context, sequence }).await.map_err(away)?,
    };
    let detail = || format!("Stream {stream} has no event {sequence}.");
    let message = message.ok_or_else(|| Problem::not_found("event-not-found", detail()))?;
    let event = EventDocument::of(&message, None).await;
    let chain = chain::of(&streams.connection, &message).await.map_err(away)?;
    let correlation = message.envelope().map(|envelope| envelope.correlation).ok();
    let same = |id: &CorrelationId| {
        let id = encoded(id.as_str());
        Context::ALL.map(|of| format!("/ops/streams/{}/events?correlation={id}", of.stream())).to_vec()
    };
    let links = Links {
        aggregate: format!("/ops/streams/{stream}/events?aggregate={}", message.subject.name()),
        correlation: correlation.as_ref().map(same).unwrap_or_default(),
    };
    Ok(Json(Shown { event, chain, links }))
}

/// A text as a value of a query.
fn encoded(text: &str) -> String {
    use std::fmt::Write;
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

fn known(stream: &str) -> Result<Context, Problem> {
    let detail = || {
        let known = Context::ALL.map(Context::stream).join(", ");
        format!("There is no such stream: there are {known}.")
    };
    Context::of_stream(stream).ok_or_else(|| Problem::not_found("stream-not-found", detail()))
}

/// The log cannot be read.
#[expect(clippy::needless_pass_by_value, reason = "map_err gives it away")]
pub(crate) fn away(error: ReplayError) -> Problem {
    let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    tracing::warn!(%error, cause, "a stream cannot be read");
    match error {
        // Nothing helps but to look at it.
        ReplayError::Foreign { .. } => Problem::internal(),
        ReplayError::Unavailable { .. } => {
            Problem::unavailable("log-unavailable", "The log cannot be reached.", 1)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> ListEvents {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_stream_has_its_own_subjects_only() {
        for good in ["evt.orders.>", "evt.orders.order.*", "evt.orders.order.A-1", "evt.orders.*.A_1"] {
            assert!(holds(Context::Orders, good), "{good}");
        }
        for bad in [
            "",
            ">",
            "evt.>",
            "evt.orders",
            "evt.payments.>",
            "evt.orders.>.x",
            "evt.orders..x",
            "evt.orders.a b",
        ] {
            assert!(!holds(Context::Orders, bad) || bad == "evt.orders", "{bad}");
        }
    }

    #[test]
    fn what_cannot_be_asked_is_named() {
        for (asked, field) in [
            (r#"{"type":"order.gone"}"#, "type"),
            (r#"{"type":""}"#, "type"),
            (r#"{"aggregate":"item/TEA-1"}"#, "aggregate"),
            (r#"{"aggregate":"order/1","subject":"evt.orders.>"}"#, "subject"),
            (r#"{"subject":"evt.payments.>"}"#, "subject"),
            (r#"{"correlation":"a b"}"#, "correlation"),
        ] {
            let problem = query(asked).filter(Context::Orders).unwrap_err();
            assert_eq!((problem.status().as_u16(), problem.field()), (422, Some(field)), "{asked}");
        }
        let both = query(r#"{"from":1,"since":"2026-01-31T12:00:00Z"}"#);
        assert_eq!(both.bounds(None).unwrap_err().field(), Some("since"));
        let range = query(r#"{"from":5,"until":"2026-01-31T12:00:00Z"}"#);
        let noon = "2026-01-31T12:00:00Z".parse().unwrap();
        assert_eq!(range.bounds(None).unwrap(), (From::Sequence(5), Until::Time(noon)));
        assert_eq!(range.bounds(Some(9)).unwrap().0, From::Sequence(10), "the cursor goes on");
    }

    #[test]
    fn a_correlation_id_fits_into_a_link() {
        assert_eq!(encoded("cart-7&x=%/é"), "cart-7%26x%3D%25%2F%C3%A9");
    }
}
