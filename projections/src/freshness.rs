//! Read your writes: a query that names a position is answered when the tables have it, or not at all.

use crate::{Progress, Projections};
use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue},
    middleware::Next,
    response::Response,
};
use events::Position;
use serde::Deserialize;
use service::{Problem, auth::Principal, config::Span, extract::Query};
use std::time::Duration;
use utoipa::IntoParams;

/// Header with positions: in a request what the answer has to contain, in an answer what it does contain.
const POSITION: &str = "Waybill-Position";

const DEFAULT_WAIT: Duration = Duration::from_secs(5);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// What every query takes beside its own parameters.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Freshness {
    /// Answer when the read model has this position, as a command returned it. The request header `Waybill-Position`
    /// says the same.
    #[param(example = "ORDERS:42")]
    after: Option<String>,
    /// How long to wait for that at most, in seconds or such as `500ms`: 5 s unless said, 30 s at most.
    #[param(example = "500ms")]
    wait: Option<String>,
}

/// Lets a request through when the read model has what it names; 503 when that takes too long. Nobody waits without
/// saying who he is: else anybody could hold as many connections as he likes.
pub(crate) async fn layer(
    State(projections): State<Projections>,
    Query(wanted): Query<Freshness>,
    principal: Result<Principal, Problem>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    if !projections.serves() {
        let detail = "The read model is being built. Nothing is lost: ask again.";
        return Err(Problem::unavailable("read-model-unavailable", detail, 5));
    }
    let wait = wanted.wait.as_deref().map_or(Ok(DEFAULT_WAIT), parse_wait)?;
    let positions = positions(wanted.after.as_deref(), request.headers())?;
    let mut progress = projections.progress();
    if let Some(foreign) = positions.iter().find(|position| progress.borrow().has(**position).is_none()) {
        let detail = format!("What this answers does not come from stream {}.", foreign.context.stream());
        return Err(Problem::invalid("position-not-projected", "after", detail));
    }
    let caught_up = |progress: &Progress| positions.iter().all(|one| progress.has(*one) == Some(true));
    if !caught_up(&progress.borrow()) {
        principal?;
    }
    // What is committed now is what the query will see, or a little more.
    let contained = match tokio::time::timeout(wait, progress.wait_for(caught_up)).await {
        Ok(Ok(progress)) => Some(progress.to_string()),
        Ok(Err(_)) | Err(_) => None,
    };
    let Some(contained) = contained else {
        let detail = "The read model does not have that position yet. Nothing is lost: ask again.";
        return Err(Problem::unavailable("not-caught-up", detail, 1));
    };
    let mut response = next.run(request).await;
    if let Ok(value) = HeaderValue::try_from(contained) {
        // What is told of the past says itself up to where it was told.
        response.headers_mut().entry(POSITION).or_insert(value);
    }
    Ok(response)
}

/// Every position named, in the query and in headers.
fn positions(after: Option<&str>, headers: &HeaderMap) -> Result<Vec<Position>, Problem> {
    let refuse = |field: &str| {
        let detail = "A position is a stream and a sequence, such as ORDERS:42.";
        Problem::bad_request("invalid-position", detail).with_field(field)
    };
    let read = |text: &str, field| {
        let positions = text.split(',').map(|one| one.trim().parse().map_err(|_| refuse(field)));
        positions.collect::<Result<Vec<Position>, _>>()
    };
    let mut all = after.map_or(Ok(Vec::new()), |text| read(text, "after"))?;
    for value in headers.get_all(POSITION) {
        let text = value.to_str().map_err(|_| refuse(POSITION))?;
        all.extend(read(text, POSITION)?);
    }
    Ok(all)
}

/// `5`, `0.5`, `5s` or `500ms`.
fn parse_wait(text: &str) -> Result<Duration, Problem> {
    let wait = text.parse().ok().map(|Span(wait)| wait);
    wait.filter(|wait| *wait <= LONGEST_WAIT).ok_or_else(|| {
        let detail = "Wait is a number of seconds up to 30, or of milliseconds, such as 500ms.";
        Problem::bad_request("invalid-wait", detail).with_field("wait")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_seconds_or_milliseconds_up_to_a_bound() {
        for (text, ms) in [("5", 5000), ("0.5", 500), ("500ms", 500), ("2s", 2000), ("0", 0), ("30", 30_000)]
        {
            assert_eq!(parse_wait(text).unwrap(), Duration::from_millis(ms), "{text}");
        }
        for bad in ["", "s", "-1", "31", "1m", "NaN", "inf", "1e9", "ms"] {
            assert_eq!(parse_wait(bad).unwrap_err().status(), 400, "{bad}");
        }
    }

    #[test]
    fn positions_come_from_the_query_and_from_headers() {
        let mut headers = HeaderMap::new();
        headers.insert(POSITION, HeaderValue::from_static("ORDERS:1, PAYMENTS:2"));
        let all = positions(Some("SHIPPING:3"), &headers).unwrap();
        let texts: Vec<_> = all.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["SHIPPING:3", "ORDERS:1", "PAYMENTS:2"]);
        headers.insert(POSITION, HeaderValue::from_static("42"));
        assert_eq!(positions(None, &headers).unwrap_err().status(), 400);
    }
}
