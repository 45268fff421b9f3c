//! What happens to every request, in order.

mod admission;

use crate::{
    Gateway,
    access::{Counted, Ids, Line},
    cors,
    gateway::ITSELF,
    guard::{Peer, REFUSED},
    path, patience,
    proxy::{Call, Tunnel, too_large},
    table::{Match, Route},
};
use admission::Arrival;
use axum::{
    body::{Body, HttpBody},
    http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header},
    response::IntoResponse,
};
use futures::FutureExt;
use hyper::body::Incoming;
use service::Problem;
use std::{panic::AssertUnwindSafe, sync::Arc};
use tokio::time::Instant;

/// Answers one request: the layers, outermost first.
pub(crate) async fn around(
    gateway: Arc<Gateway>,
    peer: Arc<Peer>,
    request: Request<Incoming>,
) -> Response<Counted> {
    let config = gateway.config();
    let websocket = request.headers().contains_key(header::UPGRADE);
    let mut told = HeaderMap::new();

    // 1. The access line: written when all that follows has ended, or is dropped because the client has gone away.
    // 2. Request id and correlation id: the caller's or new ones, so that every answer carries them.
    let (ids, accepted) = Ids::of(request.uri().path(), request.headers(), &gateway.clock);
    ids.echo(&mut told);
    let scope = ids.scope();
    let mut line = Line::begin(&gateway.counters, request.method(), ids);

    let answered = AssertUnwindSafe(async {
        accepted?;
        // 3. Requests that two readers could understand differently end here.
        grammar(&request, &peer)?;
        // 4. The route: what the gateway answers itself, else what the table says.
        let (method, path) = (request.method(), request.uri().path());
        if let Some(own) = Gateway::own(path) {
            line.route = Arc::clone(&own);
            return Ok(gateway.answer_itself(&own, request).await);
        }
        let found = config.routes.find(method, path);
        // 5. CORS: a preflight is answered for every path that has a route; it comes without credentials.
        let cors = config.cors.as_ref().filter(|_| !matches!(found, Match::Nothing));
        if let Some(preflight) = cors::answer(cors, &request, &mut told).await {
            return Ok(preflight);
        }
        let route = one(found, &mut told)?;
        line.route = route.pattern.text();
        let client = config.clients.of(peer.address.ip(), request.headers());
        let arrival = Arrival { gateway: &gateway, config: &config, client, headers: request.headers() };
        // 6. Authentication: who asks. Wrong tokens are counted.
        let principal = arrival.authenticate(&route, &mut line, &mut told).await?;
        // 7. Roles: whether that is enough.
        principal.zip(route.role).map_or(Ok(()), |(principal, role)| principal.require(role))?;
        // 8. The rate limit: whether he has not asked too often.
        arrival.limit(&route, principal, &mut line, &mut told).await?;
        // 9. The body limit: what says that it is too large is not even read; the rest is counted as it comes.
        fits(&request, &route)?;
        if &*route.service == ITSELF {
            let path = route.rewritten(request.uri().path()).to_owned();
            return Ok(gateway.answer_itself(&path, request).await);
        }
        // 10. The time-out: from here on the request has so long.
        let deadline = Instant::now() + route.timeout + patience::asked(&request, route.wait);
        // 11. The proxy: an instance is picked, its breaker asked, the request sent, and again where that is safe.
        let trusted = config.clients.trusts(peer.address.ip());
        let call = Call { route: &route, peer: &peer, client, trusted, deadline };
        gateway.proxy.forward(&call, request, &mut line).await
    });
    // A panic ends this request and nothing else. The panic hook has logged it.
    let answered = scope.run(answered.catch_unwind()).await.unwrap_or_else(|_| Err(Problem::internal()));
    finish(&gateway, peer, answered, told, line, websocket)
}

/// The answer with what every answer carries, on its way out.
fn finish(
    gateway: &Gateway,
    peer: Arc<Peer>,
    answered: Result<Response<Body>, Problem>,
    told: HeaderMap,
    mut line: Line,
    websocket: bool,
) -> Response<Counted> {
    let mut response = answered
        .unwrap_or_else(|problem| problem.with_correlation_id(line.ids.correlation()).into_response());
    response.headers_mut().extend(told);
    let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    if websocket && !switched {
        // What the client may have sent in the other protocol must never be read as a request.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    line.answer.status = Some(response.status());
    if let Some(tunnel) = response.extensions_mut().remove::<Tunnel>() {
        gateway.ending.tasks.spawn(tunnel.run(line, gateway.ending.stop.clone()));
        return response.map(|body| Counted::new(body, None, peer));
    }
    response.map(|body| Counted::new(body, Some(line), peer))
}

fn grammar(request: &Request<Incoming>, peer: &Peer) -> Result<(), Problem> {
    if request.uri() == REFUSED {
        return Err(peer.refusal().into());
    }
    path::check(request.uri().path())
}

fn fits(request: &Request<Incoming>, route: &Route) -> Result<(), Problem> {
    if request.size_hint().lower() > route.body { Err(too_large(route.body)) } else { Ok(()) }
}

fn one(found: Match, told: &mut HeaderMap) -> Result<Arc<Route>, Problem> {
    match found {
        Match::Route(route) => Ok(route),
        Match::OtherMethods(others) => {
            let names: Vec<_> = others.iter().map(Method::as_str).collect();
            let detail = "This path does not know this method. The Allow header lists those that it knows.";
            if let Ok(names) = HeaderValue::try_from(names.join(", ")) {
                told.insert(header::ALLOW, names);
            }
            Err(Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", detail))
        }
        Match::Nothing => Err(Problem::not_found("no-such-route", "There is nothing at this path.")),
    }
}
