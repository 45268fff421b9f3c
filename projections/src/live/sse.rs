//! Subscriptions as server-sent events: one for each request.

use super::{
    Shared,
    bookmark::Bookmark,
    follow::{Follow, Said},
    hub::Newcomer,
    queue::{End, Queue},
    target::Target,
};
use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::{BufMut, Bytes, BytesMut};
use futures::stream;
use jiff::Timestamp;
use service::{Problem, auth::Principal};
use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};
use tokio::time::Instant;

/// Milliseconds until a client comes again whose connection broke: not all at once.
const RETRY: std::ops::Range<u32> = 1000..3000;
/// The same where it was asked to.
const SOON: std::ops::Range<u32> = 500..1500;

/// What a request asks to follow.
pub(super) struct Wish {
    pub(super) model: usize,
    pub(super) target: Target,
    pub(super) cursor: Option<Bookmark>,
    pub(super) principal: Principal,
    pub(super) expires: Option<Timestamp>,
    /// Whether it ends when everything there is has been told.
    pub(super) until_live: bool,
}

/// Begins an answer that ends when the client goes, or has to.
pub(super) async fn answer(shared: &Arc<Shared>, wish: Wish) -> Result<Response, Problem> {
    let queue = Arc::<Queue>::default();
    let newcomer = Newcomer {
        model: wish.model,
        target: &wish.target,
        principal: &wish.principal,
        queue: &queue,
        tag: 0,
        cursor: wish.cursor.as_ref(),
    };
    let (follow, said) = Follow::begin(shared, newcomer).await?;
    let now = Instant::now();
    shared.metrics.subscribed(shared.view.name, "events", 1);
    let mut events = Events {
        expires: wish.expires.map(|time| now + remaining(shared, time)),
        beat: now + shared.options.heartbeat,
        counted: Counted(Arc::clone(shared)),
        out: VecDeque::from([retry(RETRY)]),
        over: wish.until_live,
        follow,
        queue,
    };
    events.say(&said);
    let body = stream::unfold(events, |mut events| async move {
        let next = events.next().await?;
        Some((Ok::<_, Infallible>(next), events))
    });
    let headers: [(HeaderName, HeaderValue); 3] = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        // Proxies that would wait for more pass it on at once.
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    Ok((StatusCode::OK, headers, Body::from_stream(body)).into_response())
}

/// An answer that goes on.
struct Events {
    follow: Follow,
    queue: Arc<Queue>,
    /// What is to be sent.
    out: VecDeque<Bytes>,
    /// Whether nothing comes after that.
    over: bool,
    /// When the client has to hear something.
    beat: Instant,
    /// When the token is worth nothing any more.
    expires: Option<Instant>,
    counted: Counted,
}

/// Counts as long as it is there.
struct Counted(Arc<Shared>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.metrics.subscribed(self.0.view.name, "events", -1);
    }
}

impl Events {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(next) = self.out.pop_front() {
                self.beat = Instant::now() + self.shared().options.heartbeat;
                return Some(next);
            }
            if self.over {
                return None;
            }
            self.wait().await;
        }
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.counted.0
    }

    async fn wait(&mut self) {
        let stop = self.shared().shutdown.token();
        let wake = self.expires.map_or(self.beat, |expires| expires.min(self.beat));
        tokio::select! {
            biased;
            () = stop.cancelled() => self.end("stopping", &stopping()),
            () = tokio::time::sleep_until(wake) => self.woken(),
            item = self.queue.next() => match item {
                Ok((_, item)) => match self.follow.take(item).await {
                    Ok(said) => self.say(&said),
                    Err(problem) => self.end("failed", &problem),
                },
                Err(End::Slow) => self.end("too-slow", &slow()),
                Err(End::Erased) => self.end("erased", &erased()),
            },
        }
    }

    fn woken(&mut self) {
        if self.expires.is_some_and(|expires| expires <= Instant::now()) {
            self.end("expired", &expired());
        } else {
            // Where the feed is, unless something of it is still to be told.
            let cursor = self.follow.at(self.shared().hub.now());
            let id = if self.queue.is_empty() { format!("id: {cursor}\n") } else { String::new() };
            self.out.push_back(format!(": still here\n{id}\n").into());
        }
    }

    fn say(&mut self, said: &[Said]) {
        self.out.extend(said.iter().map(event));
    }

    fn end(&mut self, reason: &'static str, problem: &Problem) {
        // Who is too slow is counted where it is found.
        if reason != "too-slow" {
            self.shared().metrics.dropped(self.shared().view.name, reason);
        }
        self.out.push_back(retry(SOON));
        self.out.push_back(format!("event: bye\ndata: {}\n\n", problem.to_json()).into());
        self.over = true;
    }
}

fn event(said: &Said) -> Bytes {
    let data = said.what.data();
    let id = said.cursor.as_ref().map(|cursor| format!("id: {cursor}\n")).unwrap_or_default();
    let head = format!("{id}event: {}\ndata: ", said.what.name());
    let mut event = BytesMut::with_capacity(head.len() + data.len() + 2);
    event.put_slice(head.as_bytes());
    event.put_slice(&data);
    event.put_slice(b"\n\n");
    event.freeze()
}

fn retry(range: std::ops::Range<u32>) -> Bytes {
    format!("retry: {}\n\n", fastrand::u32(range)).into()
}

/// How long a token is still good for.
pub(super) fn remaining(shared: &Shared, expires: Timestamp) -> Duration {
    expires.duration_since(shared.clock.now()).try_into().unwrap_or_default()
}

/// Why a client is sent away that does not read.
pub(super) fn slow() -> Problem {
    let detail = "More has changed than was read. Come again with the id of the last event; nothing is lost.";
    Problem::new(StatusCode::REQUEST_TIMEOUT, "subscriber-too-slow", detail)
}

pub(super) fn expired() -> Problem {
    let detail = "The access token has expired. Come again with a new one and the id of the last event.";
    Problem::new(StatusCode::UNAUTHORIZED, "unauthenticated", detail)
}

pub(super) fn erased() -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, "unauthenticated", "The user was erased.")
}

pub(super) fn stopping() -> Problem {
    let detail = "This instance stops. Come again with the id of the last event; another one goes on.";
    Problem::unavailable("stopping", detail, 1)
}
