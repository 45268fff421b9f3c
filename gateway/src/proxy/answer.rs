//! An answer on its way back.

use super::{
    Call, Proxy, Tunnel, bad_gateway,
    body::{Download, Events, Until},
    headers, name, timed_out,
};
use crate::{
    table::PREFIX,
    upstream::{Failure, InFlight},
};
use axum::{
    body::{Body, HttpBody},
    http::{HeaderMap, Response, StatusCode, Version, header},
};
use http_body_util::BodyExt;
use hyper::{body::Incoming, upgrade::OnUpgrade};
use service::Problem;
use std::sync::Arc;
use tokio::time::timeout_at;

/// Answers up to this size, in bytes, are passed on when all of them is here: head and body in one packet, which their
/// client reads at once, and none that breaks off in the middle.
const WHOLE: u64 = 16 * 1024;

impl Proxy {
    /// The answer as the client gets it. The instance is busy until it has ended.
    pub(super) async fn answer(
        &self,
        call: &Call<'_>,
        upgrade: Option<OnUpgrade>,
        mut response: Response<Incoming>,
        flight: InFlight,
    ) -> Result<Response<Body>, Problem> {
        let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        if let Some(client) = upgrade.filter(|_| switched) {
            let service = hyper::upgrade::on(&mut response);
            let (peer, flight) = (Arc::clone(call.peer), Arc::new(flight));
            let mut response = response.map(|_| Body::empty());
            response.extensions_mut().insert(Tunnel { client, service, peer, _flight: flight });
            return Ok(response);
        }
        let (mut parts, body) = response.into_parts();
        headers::strip(&mut parts.headers);
        if call.route.rewrite {
            headers::relocate(&mut parts.headers, PREFIX);
        }
        parts.version = Version::HTTP_11;
        let body = if body.size_hint().exact().is_some_and(|length| length <= WHOLE) {
            self.whole(call, body).await?
        } else {
            let until = if call.route.streaming && is(&parts.headers, b"text/event-stream") {
                let plain = !parts.headers.contains_key(header::CONTENT_ENCODING);
                Until::Stop(Events::new(self.stop.clone(), plain && body.size_hint().exact().is_none()))
            } else {
                Until::Deadline(call.deadline, None)
            };
            Body::new(Download::new(body, until, flight))
        };
        Ok(Response::from_parts(parts, body))
    }

    /// All of a small body.
    async fn whole(&self, call: &Call<'_>, body: Incoming) -> Result<Body, Problem> {
        if body.is_end_stream() {
            return Ok(Body::empty());
        }
        let service = &call.route.service;
        let (failure, problem) = match timeout_at(call.deadline, body.collect()).await {
            Ok(Ok(whole)) => return Ok(Body::from(whole.to_bytes())),
            Ok(Err(_)) => (Failure::Reset, bad_gateway(service)),
            Err(_) => (Failure::Timeout, timed_out(service)),
        };
        self.counters.upstream_error(service, name(failure));
        Err(problem)
    }
}

fn is(headers: &HeaderMap, kind: &[u8]) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|named| named.as_bytes().starts_with(kind))
}
