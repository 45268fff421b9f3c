//! What a request says besides its path and body: who sends it, and how it is to be taken.

use super::POSITION;
use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, HeaderName, HeaderValue, header, request::Parts},
};
use events::{CorrelationId, Position};
use service::{
    Correlation, Problem, TraceParent,
    auth::{Principal, Role},
    client,
    http::{CORRELATION_ID, TRACEPARENT},
};
use std::sync::Arc;
use utoipa::IntoParams;

/// Names a request: sent again under the same key it has no second effect and gets the same answer.
const KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// What a request says besides its path and body. Nobody gets in without a valid access token, unless `P` is an option.
pub(crate) struct Call<P = Principal> {
    /// Who sends it.
    pub(crate) principal: P,
    pub(super) key: Option<String>,
    /// Whether it must see what others were told of: then nothing is taken from a copy.
    pub(crate) fresh: bool,
    pub(super) correlation: CorrelationId,
    pub(super) traceparent: Option<Arc<str>>,
    authorization: Option<HeaderValue>,
}

/// The headers that every command takes.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "documents what Call reads")]
pub(crate) struct CallHeaders {
    /// 1 to 255 visible ASCII characters: sent again with the same key and body, the command has no second effect and
    /// gets the same answer, with `Idempotent-Replayed: true`. Kept for 7 days.
    #[param(rename = "Idempotency-Key", required = false)]
    key: String,
    /// What the command has to see, as other answers returned it.
    #[param(rename = "Waybill-Position", required = false, example = "INVENTORY:42")]
    position: String,
}

impl<S, P> FromRequestParts<S> for Call<P>
where
    S: Send + Sync,
    P: FromRequestParts<S, Rejection = Problem>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let principal = P::from_request_parts(parts, state).await?;
        let Some(Correlation(correlation)) = parts.extensions.get() else { return Err(Problem::internal()) };
        Ok(Self {
            principal,
            key: key(&parts.headers)?,
            fresh: positions(&parts.headers)?,
            correlation: correlation.parse().map_err(|_| Problem::internal())?,
            traceparent: parts.extensions.get().map(|TraceParent(trace)| Arc::clone(trace)),
            authorization: parts.headers.get(header::AUTHORIZATION).cloned(),
        })
    }
}

impl Call {
    /// The same, if an operator sends it; refuses (403) anybody else.
    pub(crate) fn of_operator(self) -> Result<Self, Problem> {
        self.principal.require(Role::Operator)?;
        Ok(self)
    }
}

impl<P> Call<P> {
    /// A query of another service as a part of this request, on behalf of whoever sent it.
    pub(crate) fn query(&self, path: String) -> client::Call {
        let call = client::Call::get(path).header(CORRELATION_ID, self.correlation.as_str());
        let trace = self.traceparent.iter();
        let call = trace.fold(call, |call, trace| call.header(TRACEPARENT, trace));
        let token = self.authorization.as_ref().and_then(|value| value.to_str().ok()?.split_once(' '));
        token.into_iter().fold(call, |call, (_, token)| call.bearer(token.trim()))
    }
}

fn key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut sent = headers.get_all(KEY).iter();
    let Some(first) = sent.next() else { return Ok(None) };
    let visible = |value: &&HeaderValue| {
        (1..=255).contains(&value.len()) && value.as_bytes().iter().all(u8::is_ascii_graphic)
    };
    let key = Some(first).filter(visible).filter(|_| sent.next().is_none());
    let key = key.and_then(|value| value.to_str().ok()).ok_or_else(|| {
        let detail = "Idempotency-Key must be one value of 1 to 255 visible ASCII characters.";
        Problem::bad_request("invalid-idempotency-key", detail).with_field("Idempotency-Key")
    })?;
    Ok(Some(key.to_owned()))
}

/// Whether positions are named; an error where one cannot be read. They need no waiting here: commands read the log.
fn positions(headers: &HeaderMap) -> Result<bool, Problem> {
    let readable = |value: &HeaderValue| {
        let all = |text: &str| text.split(',').all(|one| one.trim().parse::<Position>().is_ok());
        value.to_str().is_ok_and(all)
    };
    let mut named = false;
    for value in headers.get_all(POSITION) {
        if !readable(value) {
            let detail = "A position is a stream and a sequence, such as ORDERS:42.";
            return Err(Problem::bad_request("invalid-position", detail).with_field("Waybill-Position"));
        }
        named = true;
    }
    Ok(named)
}
