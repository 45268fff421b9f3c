//! Subscriptions over a `WebSocket`: any number of them on one connection, as JSON.
//!
//! The client says `subscribe` and `unsubscribe` with ids of its own; what it is told is what server-sent events tell, with
//! that id. The connection is one task with one queue.

mod messages;

use super::{
    Shared,
    follow::{Follow, Said},
    hub::Newcomer,
    queue::{End, Item, Queue},
    sse,
    target::Target,
};
use axum::{
    extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade},
    response::Response,
};
use jiff::Timestamp;
use messages::{Asked, Subscribe};
use service::{
    Problem,
    auth::{Principal, Verifier, expires},
};
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio::time::{Instant, timeout};

/// Subscriptions of one socket at most.
const MOST: usize = 50;
/// Bytes of what a client says at most.
const LONGEST: usize = 16 * 1024;
/// How long a client may take to read what it is sent.
const STALLED: Duration = Duration::from_secs(10);

/// Why a socket is closed, as RFC 6455 and the registry of its codes have it.
mod code {
    pub(super) const POLICY: u16 = 1008;
    pub(super) const RESTARTS: u16 = 1012;
    pub(super) const LATER: u16 = 1013;
}

/// Grants the upgrade.
pub(super) fn answer(
    shared: Arc<Shared>,
    upgrade: WebSocketUpgrade,
    principal: Principal,
    expires: Option<Timestamp>,
    verifier: Option<Verifier>,
) -> Response {
    // Many sockets are open and say nothing: buffers are as small as they may be.
    let upgrade = upgrade.max_message_size(LONGEST).max_frame_size(LONGEST).read_buffer_size(1024);
    upgrade.write_buffer_size(0).on_upgrade(async move |wire| {
        let tasks = shared.shutdown.clone();
        let socket = Socket::new(shared, wire, principal, expires, verifier);
        // Waited for when the process stops.
        tasks.spawn(socket.run());
    })
}

struct Socket {
    wire: WebSocket,
    queue: Arc<Queue>,
    /// What is followed, with the client's name for it.
    follows: HashMap<u32, (String, Follow)>,
    last: u32,
    principal: Principal,
    expires: Option<Instant>,
    verifier: Option<Verifier>,
    counted: Counted,
}

/// Counts as long as it is there.
struct Counted(Arc<Shared>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.metrics.subscribed(self.0.view.name, "socket", -1);
    }
}

/// The socket has ended, or has to.
enum Over {
    /// The client is gone.
    Gone,
    /// It is closed with this code.
    Close(u16, &'static str, Problem),
}

impl Socket {
    fn new(
        shared: Arc<Shared>,
        wire: WebSocket,
        principal: Principal,
        expires: Option<Timestamp>,
        verifier: Option<Verifier>,
    ) -> Self {
        shared.metrics.subscribed(shared.view.name, "socket", 1);
        let expires = expires.map(|time| Instant::now() + sse::remaining(&shared, time));
        Self {
            wire,
            queue: Arc::default(),
            follows: HashMap::new(),
            last: 0,
            principal,
            expires,
            verifier,
            counted: Counted(shared),
        }
    }

    async fn run(mut self) {
        let over = loop {
            if let Err(over) = self.step().await {
                break over;
            }
        };
        let Over::Close(code, reason, problem) = over else { return };
        // Who is too slow is counted where it is found.
        if reason != "too-slow" {
            self.counted.0.metrics.dropped(self.counted.0.view.name, reason);
        }
        let bye = messages::bye(&problem);
        let close = CloseFrame { code, reason: Utf8Bytes::from_static(reason) };
        let farewell = async {
            self.wire.send(Message::text(bye)).await?;
            self.wire.send(Message::Close(Some(close))).await?;
            // The client's answer, so that nothing that was sent is lost.
            while let Some(Ok(_)) = self.wire.recv().await {}
            Ok::<_, axum::Error>(())
        };
        let _ = timeout(Duration::from_secs(1), farewell).await;
    }

    async fn step(&mut self) -> Result<(), Over> {
        let shared = Arc::clone(&self.counted.0);
        let stop = shared.shutdown.token();
        let beat = Instant::now() + shared.options.heartbeat;
        let wake = self.expires.map_or(beat, |expires| expires.min(beat));
        tokio::select! {
            biased;
            () = stop.cancelled() => Err(Over::Close(code::RESTARTS, "stopping", sse::stopping())),
            () = tokio::time::sleep_until(wake) => {
                if self.expires.is_some_and(|expires| expires <= Instant::now()) {
                    return Err(Over::Close(code::POLICY, "expired", sse::expired()));
                }
                self.send(Message::Ping(axum::body::Bytes::new())).await
            }
            next = self.queue.next() => match next {
                Ok((tag, item)) => self.take(tag, item).await,
                Err(End::Slow) => Err(Over::Close(code::LATER, "too-slow", sse::slow())),
                Err(End::Erased) => Err(Over::Close(code::POLICY, "erased", sse::erased())),
            },
            said = self.wire.recv() => match said {
                Some(Ok(Message::Text(text))) => self.heard(text.as_str()).await,
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => Ok(()),
                Some(Ok(Message::Binary(_))) => self.refuse(None, &messages::no_text()).await,
                Some(Ok(Message::Close(_)) | Err(_)) | None => Err(Over::Gone),
            },
        }
    }

    /// Sends, unless the client does not read.
    async fn send(&mut self, message: Message) -> Result<(), Over> {
        match timeout(STALLED, self.wire.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Over::Gone),
            Err(_) => {
                self.counted.0.metrics.dropped(self.counted.0.view.name, "slow");
                Err(Over::Gone)
            }
        }
    }

    async fn refuse(&mut self, id: Option<&str>, problem: &Problem) -> Result<(), Over> {
        self.send(Message::text(messages::error(id, problem))).await
    }

    async fn say(&mut self, id: &str, said: Vec<Said>) -> Result<(), Over> {
        for one in said {
            self.send(Message::text(messages::told(id, &one))).await?;
        }
        Ok(())
    }

    async fn take(&mut self, tag: u32, item: Item) -> Result<(), Over> {
        // It may have unsubscribed meanwhile.
        let Some((id, follow)) = self.follows.get_mut(&tag) else { return Ok(()) };
        let id = id.clone();
        match follow.take(item).await {
            Ok(said) => self.say(&id, said).await,
            Err(problem) => {
                self.follows.remove(&tag);
                self.counted.0.metrics.dropped(self.counted.0.view.name, "failed");
                self.refuse(Some(&id), &problem).await
            }
        }
    }

    async fn heard(&mut self, text: &str) -> Result<(), Over> {
        match messages::read(text) {
            Ok(Asked::Subscribe(wanted)) => {
                let id = wanted.id.clone();
                match self.subscribe(wanted).await {
                    Ok(said) => self.say(&id, said).await,
                    Err(problem) => self.refuse(Some(&id), &problem).await,
                }
            }
            Ok(Asked::Unsubscribe { id }) => {
                let known = self.follows.iter().find(|(_, (name, _))| *name == id).map(|(tag, _)| *tag);
                let Some(tag) = known else { return self.refuse(Some(&id), &messages::unknown(&id)).await };
                self.follows.remove(&tag);
                self.send(Message::text(messages::unsubscribed(&id))).await
            }
            Ok(Asked::Token { token }) => match self.renew(&token).await {
                Ok(()) => self.send(Message::text(messages::renewed())).await,
                Err(problem) => self.refuse(None, &problem).await,
            },
            Ok(Asked::Ping {}) => self.send(Message::text(messages::pong())).await,
            Err(problem) => self.refuse(None, &problem).await,
        }
    }

    async fn subscribe(&mut self, wanted: Subscribe) -> Result<Vec<Said>, Problem> {
        let shared = Arc::clone(&self.counted.0);
        if self.follows.len() >= MOST {
            return Err(messages::too_many(MOST));
        }
        if self.follows.values().any(|(id, _)| *id == wanted.id) {
            return Err(messages::in_use(&wanted.id));
        }
        let cursor = wanted.cursor()?;
        let (model, target) = target(&shared, &wanted, &self.principal)?;
        self.last += 1;
        let newcomer = Newcomer {
            model,
            target: &target,
            principal: &self.principal,
            queue: &self.queue,
            tag: self.last,
            cursor: cursor.as_ref(),
        };
        let (follow, said) = Follow::begin(&shared, newcomer).await?;
        self.follows.insert(self.last, (wanted.id, follow));
        Ok(said)
    }

    /// Goes on with another token of the same user.
    async fn renew(&mut self, token: &str) -> Result<(), Problem> {
        let Some(verifier) = &self.verifier else { return Err(Problem::internal()) };
        let principal = verifier.verify(token).await?;
        if principal.user != self.principal.user || principal.role != self.principal.role {
            return Err(messages::another_user());
        }
        let end = expires(token).map(|time| Instant::now() + sse::remaining(&self.counted.0, time));
        self.expires = end;
        Ok(())
    }
}

fn target(shared: &Shared, wanted: &Subscribe, principal: &Principal) -> Result<(usize, Target), Problem> {
    let models = shared.view.live.models;
    let known = models.iter().enumerate().find(|(_, model)| model.name == wanted.model);
    let (place, model) = known.ok_or_else(|| messages::no_model(&wanted.model, models))?;
    let target = match &wanted.key {
        Some(key) if model.single => Target::one(model, key, &wanted.query()),
        Some(_) => return Err(messages::list_only(model)),
        None => {
            let path = model.many.ok_or_else(|| messages::needs_key(model))?;
            Target::many(model, path, &wanted.query(), principal)?
        }
    };
    Ok((place, target))
}
