//! Things as they were: `?asOf=` on the query of a thing, and `/history` beneath it with what each event changed.
//!
//! A view says which aggregates a thing is made of ([`Thing`]). Their facts are read from the log up to the version or the time
//! that is asked for, projected into tables in memory, and the query of the present is asked of these. So the past has the
//! shape of the present, and whoever may not see the one does not see the other. ADR 25.

mod diff;
mod document;
mod fold;
mod history;
mod log;

pub(crate) use diff::Change;
pub(crate) use document::document;

use crate::Projections;
use axum::{
    Extension, Router,
    body::Body,
    extract::{FromRequestParts, MatchedPath, Query, RawPathParams, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header, request::Parts},
    middleware::Next,
    response::Response,
};
use events::{Aggregate, Fact, Subject};
use fold::Fold;
use jiff::Timestamp;
use log::{Log, Told};
use nats::KeyRing;
use service::{Clock, Problem, auth::Principal};
use std::{sync::Arc, time::Duration};
use tokio::sync::{Semaphore, SemaphorePermit};
use tower::ServiceExt;
use uuid::Uuid;

/// The parameter.
const AS_OF: &str = "asOf";
/// What the answer says of itself: the version of the thing, and since when it was like this.
const VERSION: HeaderName = HeaderName::from_static("waybill-version");
const SINCE: HeaderName = HeaderName::from_static("waybill-as-of");
const POSITION: HeaderName = HeaderName::from_static("waybill-position");

/// So many are told about the past at the same time; who comes then waits a while for his turn.
const TOGETHER: usize = 4;
const TURN_WITHIN: Duration = Duration::from_secs(1);

/// Something that a view shows at a path of its own, and what it is made of.
#[derive(Debug)]
pub(crate) struct Thing {
    /// Its path as routes have it, with its id as the one parameter.
    pub(crate) path: &'static str,
    /// The aggregate of that id, whose versions are its versions.
    pub(crate) aggregate: Aggregate,
    /// Other aggregates of that id whose facts belong to it.
    pub(crate) with: &'static [Aggregate],
    /// The aggregate whose first fact says whose it is, where its own facts do not.
    pub(crate) owner: Option<fn(&Fact) -> Option<Subject>>,
    /// Whether the view tells what happened to it from tables of its own, as long as nobody asks for more.
    pub(crate) tells: bool,
    /// Whether its history is for operators only: everybody sees it, and not who did what.
    pub(crate) guarded: bool,
}

impl Thing {
    /// One that is made of one aggregate.
    pub(crate) const fn new(path: &'static str, aggregate: Aggregate) -> Self {
        Self { path, aggregate, with: &[], owner: None, tells: false, guarded: false }
    }

    /// Where its history is.
    pub(crate) fn history(&self) -> String {
        format!("{}/history", self.path)
    }

    fn aggregates(&self) -> impl Iterator<Item = Aggregate> {
        [self.aggregate].into_iter().chain(self.with.iter().copied())
    }

    /// The id as subjects have it: a UUID can be written in several ways, and begins the id of a notification.
    fn id(&self, text: &str) -> Option<String> {
        let (first, rest) = text.split_once('_').map_or((text, None), |(first, rest)| (first, Some(rest)));
        let id = match (self.aggregate, first.parse::<Uuid>(), rest) {
            (Aggregate::Item | Aggregate::Product, ..) | (_, Err(_), _) => text.to_owned(),
            (_, Ok(id), None) => id.to_string(),
            (_, Ok(id), Some(rest)) => format!("{id}_{rest}"),
        };
        Subject::of_name(&format!("{}/{id}", self.aggregate.token())).map(|_| id)
    }
}

/// What a thing is to be shown as of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AsOf {
    /// As long as this was its version.
    Version(u64),
    /// At this time.
    Time(Timestamp),
}

impl AsOf {
    fn read(text: &str, now: Timestamp) -> Result<Self, Problem> {
        let refuse = |detail| Err(Problem::bad_request("invalid-as-of", detail).with_field(AS_OF));
        match (text.parse(), text.parse()) {
            (Ok(version), _) => Ok(Self::Version(version)),
            (_, Ok(time)) if time > now => refuse("That is still to come."),
            (_, Ok(time)) => Ok(Self::Time(time)),
            _ => refuse("Name a version, such as 3, or a time, such as 2026-01-31T12:00:00Z."),
        }
    }

    /// Whether a fact had been recorded by then.
    fn includes(self, thing: &Thing, told: &Told) -> bool {
        match self {
            Self::Version(version) => {
                told.recorded.subject.aggregate() != thing.aggregate
                    || told.recorded.envelope.version <= version
            }
            Self::Time(time) => told.at <= time,
        }
    }
}

/// Tells of the past of one service's things. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Past {
    projections: Projections,
    keys: KeyRing,
    turns: Arc<Semaphore>,
}

/// A question, to be asked of several tables.
struct Question {
    uri: Uri,
    headers: HeaderMap,
    /// Who asks. Somebody does: else anybody could have the log read as often as he likes.
    principal: Principal,
    id: String,
}

impl Past {
    pub(crate) fn new(projections: Projections, keys: KeyRing) -> Self {
        Self { projections, keys, turns: Arc::new(Semaphore::new(TOGETHER)) }
    }

    /// The histories that the view has no routes of its own for.
    pub(crate) fn routes(&self) -> Router<Projections> {
        let missing = self.projections.view().things.iter().filter(|thing| !thing.tells);
        missing.fold(Router::new(), |router, thing| {
            let past = self.clone();
            let history = async move |request: Request| past.history(thing, request).await;
            router.route(&thing.history(), axum::routing::get(history))
        })
    }

    async fn turn(&self) -> Result<SemaphorePermit<'_>, Problem> {
        let turn = tokio::time::timeout(TURN_WITHIN, self.turns.acquire()).await;
        let busy = || Problem::unavailable("past-busy", "Many ask for the past at this moment.", 1);
        turn.ok().and_then(Result::ok).ok_or_else(busy)
    }

    /// What the queries of the view answer from these tables.
    fn queries(&self, tables: Projections) -> Router {
        let routes = (self.projections.view().routes)().layer(Extension(self.keys.clone()));
        routes.with_state(tables).into()
    }

    /// The thing as it was.
    async fn as_of(
        &self,
        thing: &'static Thing,
        wanted: AsOf,
        question: &Question,
    ) -> Result<Response, Problem> {
        let _turn = self.turn().await?;
        let now = self.projections.now();
        let mut log = Log::open(self.projections.connection(), thing, &question.id, &[]).await?;
        let mut fold = Fold::new(&self.projections, thing).await?;
        let over = fold.take_while(&mut log, |told| wanted.includes(thing, told)).await?;
        log.close().await;
        fold.commit().await?;
        let (newest, time) = (fold.version(), fold.time());
        let existed = if let AsOf::Version(version) = wanted { version == newest } else { time.is_some() };
        let Some(time) = time.filter(|_| existed) else {
            let detail = match wanted {
                AsOf::Version(_) => format!("It has the versions 1 to {newest}."),
                AsOf::Time(_) => "Nothing had happened to it by then.".to_owned(),
            };
            return Err(Problem::not_found("state-not-found", detail));
        };
        // What depends on the time of the question is as it was at the end.
        let clock = if let AsOf::Time(time) = wanted { time } else { over.unwrap_or(now) };
        let mut response = question.ask(&self.queries(fold.tables(Clock::manual(clock)))).await;
        let positions = fold.positions().map(|at| at.to_string()).collect::<Vec<_>>().join(", ");
        let headers = [(VERSION, newest.to_string()), (SINCE, format!("{time:.6}")), (POSITION, positions)];
        for (name, value) in headers {
            if let Ok(value) = HeaderValue::try_from(value) {
                response.headers_mut().insert(name, value);
            }
        }
        // An ETag is for changing what is, not what was.
        response.headers_mut().remove(header::ETAG);
        Ok(response)
    }
}

impl Question {
    /// What somebody asks of a thing; `about` is where the query of the thing is, without what the past takes.
    async fn read(parts: &mut Parts, thing: &Thing, about: Uri) -> Result<Self, Problem> {
        let principal = Principal::from_request_parts(parts, &()).await?;
        let unknown = || Problem::bad_request("invalid-path", "That is no id.");
        let params = RawPathParams::from_request_parts(parts, &()).await.map_err(|_| unknown())?;
        let id = params.iter().next().and_then(|(_, id)| thing.id(id)).ok_or_else(unknown)?;
        Ok(Self { uri: about, headers: parts.headers.clone(), principal, id })
    }

    /// What these queries answer.
    async fn ask(&self, queries: &Router) -> Response {
        let mut request = Request::new(Body::empty());
        *request.method_mut() = Method::GET;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        request.extensions_mut().insert(self.principal);
        let mut response = match queries.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        // It is said again at the end: a problem grows on its way out.
        response.headers_mut().remove(header::CONTENT_LENGTH);
        response
    }
}

/// Answers about the past where that is asked for; all else goes on.
pub(crate) async fn layer(
    State(past): State<Past>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let matched = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let matched = matched.unwrap_or_default();
    let things = past.projections.view().things;
    let wanted = parameters(request.uri(), &[AS_OF]);
    if let Some(thing) = things.iter().find(|thing| thing.tells && thing.history() == matched)
        && !parameters(request.uri(), &history::PARAMETERS).is_empty()
    {
        return past.history(thing, request).await;
    }
    let [(_, wanted)] = &wanted[..] else {
        if wanted.is_empty() {
            return Ok(next.run(request).await);
        }
        return Err(refused("One moment, not several."));
    };
    let Some(thing) = things.iter().find(|thing| thing.path == matched) else {
        return Err(refused("This is shown as it is, not as it was."));
    };
    let wanted = AsOf::read(wanted, past.projections.now())?;
    let (mut parts, body) = request.into_parts();
    let present = without(&parts.uri, &[AS_OF])?;
    let question = Question::read(&mut parts, thing, present.clone()).await?;
    parts.uri = present;
    let now = next.run(Request::from_parts(parts, body)).await;
    // Who does not see how it is does not see how it was.
    if !now.status().is_success() {
        return Ok(now);
    }
    past.as_of(thing, wanted, &question).await
}

fn refused(detail: &str) -> Problem {
    Problem::bad_request("invalid-query", detail).with_field(AS_OF)
}

/// The parameters of these names.
fn parameters(uri: &Uri, names: &[&str]) -> Vec<(String, String)> {
    let all = Query::<Vec<(String, String)>>::try_from_uri(uri).map(|Query(all)| all).unwrap_or_default();
    all.into_iter().filter(|(name, _)| names.contains(&name.as_str())).collect()
}

/// The address without the parameters of these names.
fn without(uri: &Uri, names: &[&str]) -> Result<Uri, Problem> {
    let kept = |pair: &&str| !names.contains(&pair.split('=').next().unwrap_or_default());
    let query: Vec<_> = uri.query().unwrap_or_default().split('&').filter(kept).collect();
    let query = query.join("&");
    let separator = if query.is_empty() { "" } else { "?" };
    format!("{}{separator}{query}", uri.path()).parse().map_err(|_| refused("The query cannot be read."))
}
