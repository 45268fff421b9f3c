//! What happened to a thing, page by page, and what each event changed of it.

use super::{
    Past, Question, Thing, diff,
    fold::Fold,
    log::{Log, Told},
    without,
};
use crate::{
    history::{Entry, History},
    page::Paging,
};
use axum::{
    Json, Router,
    body::to_bytes,
    extract::{FromRequestParts, Request},
    http::{Uri, request::Parts},
    response::{IntoResponse, Response},
};
use events::Position;
use jiff::Timestamp;
use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Value, json};
use service::{Clock, Problem, auth::Role, extract::Query};
use std::time::Duration;

/// What a history takes; any of them has it told from the log.
pub(super) const PARAMETERS: [&str; 3] = ["diff", "limit", "cursor"];

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    diff: Option<bool>,
    limit: Option<u32>,
    cursor: Option<String>,
    // Read by the layer that waits.
    #[serde(rename = "after")]
    _after: Option<IgnoredAny>,
    #[serde(rename = "wait")]
    _wait: Option<IgnoredAny>,
}

impl Past {
    /// What happened to a thing.
    pub(super) async fn history(&self, thing: &'static Thing, request: Request) -> Result<Response, Problem> {
        let (mut parts, _) = request.into_parts();
        let about = present(&parts)?;
        let question = Question::read(&mut parts, thing, about).await?;
        let Query(wanted) = Query::<Wanted>::from_request_parts(&mut parts, &()).await?;
        if thing.guarded {
            question.principal.require(Role::Operator)?;
        }
        let paging = Paging::new(wanted.cursor, wanted.limit);
        let limit = paging.limit()? as usize;
        let behind = paging.place(read_place)?.unwrap_or_default();
        // Who does not see how it is does not see how it was.
        let now = question.ask(&self.queries(self.projections.clone())).await;
        if !now.status().is_success() {
            return Ok(now);
        }
        let _turn = self.turn().await?;
        let history = if wanted.diff == Some(true) {
            self.differences(thing, &question, &behind, limit).await?
        } else {
            self.events(thing, &question, behind, limit).await?
        };
        Ok(Json(history).into_response())
    }

    async fn events(
        &self,
        thing: &'static Thing,
        question: &Question,
        mut behind: Vec<Position>,
        limit: usize,
    ) -> Result<History, Problem> {
        let mut log = Log::open(self.projections.connection(), thing, &question.id, &behind).await?;
        let mut entries = Vec::new();
        while entries.len() < limit && log.peek().await?.is_some() {
            let Some(told) = log.take() else { break };
            advance(&mut behind, told.recorded.position);
            entries.push(Entry::told(&told.recorded, None));
        }
        let more = log.peek().await?.is_some();
        log.close().await;
        Ok(History::page(entries, more.then(|| write_place(&behind))))
    }

    async fn differences(
        &self,
        thing: &'static Thing,
        question: &Question,
        behind: &[Position],
        limit: usize,
    ) -> Result<History, Problem> {
        let mut log = Log::open(self.projections.connection(), thing, &question.id, &[]).await?;
        let mut fold = Fold::new(&self.projections, thing).await?;
        fold.take_while(&mut log, |told| is_before(told, behind)).await?;
        fold.commit().await?;
        let mut at = fold.time().unwrap_or(Timestamp::UNIX_EPOCH);
        let clock = Clock::manual(at);
        let queries = self.queries(fold.tables(clock.clone()));
        let mut before = if fold.time().is_some() { state(question, &queries).await? } else { json!({}) };
        let mut entries = Vec::new();
        while entries.len() < limit && log.peek().await?.is_some() {
            let Some(told) = log.take() else { break };
            fold.take(&told).await?;
            fold.commit().await?;
            clock.advance(Duration::try_from(told.at.duration_since(at)).unwrap_or_default());
            at = at.max(told.at);
            let after = state(question, &queries).await?;
            entries.push(Entry::told(&told.recorded, Some(diff::diff(&before, &after))));
            before = after;
        }
        let more = log.peek().await?.is_some();
        log.close().await;
        let positions: Vec<_> = fold.positions().collect();
        Ok(History::page(entries, more.then(|| write_place(&positions))))
    }
}

/// The state that a query answers; nothing where there is none yet.
async fn state(question: &Question, queries: &Router) -> Result<Value, Problem> {
    let response = question.ask(queries).await;
    if response.status().is_server_error() {
        let detail = "The state after an event cannot be shown now.";
        return Err(Problem::unavailable("read-model-unavailable", detail, 1));
    }
    if !response.status().is_success() {
        return Ok(json!({}));
    }
    let body = to_bytes(response.into_body(), usize::MAX).await.unwrap_or_default();
    Ok(serde_json::from_slice(&body).unwrap_or_default())
}

/// Where the query of the thing itself is.
fn present(parts: &Parts) -> Result<Uri, Problem> {
    let mut names = PARAMETERS.to_vec();
    names.extend(["after", "wait"]);
    let uri = without(&parts.uri, &names)?;
    let path = uri.path().strip_suffix("/history").unwrap_or_else(|| uri.path());
    path.parse().map_err(|_| Problem::bad_request("invalid-path", "The path cannot be read."))
}

fn is_before(told: &Told, places: &[Position]) -> bool {
    let at = told.recorded.position;
    places.iter().any(|place| place.context == at.context && place.sequence >= at.sequence)
}

fn advance(places: &mut Vec<Position>, to: Position) {
    match places.iter_mut().find(|place| place.context == to.context) {
        Some(place) => *place = to,
        None => places.push(to),
    }
}

fn write_place(places: &[Position]) -> String {
    places.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn read_place(bytes: &[u8]) -> Option<Vec<Position>> {
    std::str::from_utf8(bytes).ok()?.split(',').map(|place| place.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_in_several_streams_reads_back() {
        let mut places = Vec::new();
        for place in ["ORDERS:1", "PAYMENTS:7", "ORDERS:4"] {
            advance(&mut places, place.parse().unwrap());
        }
        assert_eq!(write_place(&places), "ORDERS:4,PAYMENTS:7");
        assert_eq!(read_place(write_place(&places).as_bytes()), Some(places));
        for bad in ["", "ORDERS", "x:1", "\u{fffd}"] {
            assert_eq!(read_place(bad.as_bytes()), None, "{bad}");
        }
    }
}
