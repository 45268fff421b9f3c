//! Follows the change feed for everybody: asks for each document that has changed and that somebody follows, once, and puts
//! it into the queues of those who do ([`telling`]).

mod telling;

use super::{
    LiveOptions, Shared,
    bookmark::Bookmark,
    cursor::Cursor,
    history::History,
    later,
    metrics::FeedMetrics,
    queue::{Queue, Why},
    registry::{Registry, Seat, Slot},
    target::{self, Target},
};
use crate::{Progress, View, telling::write};
use events::Position;
use futures::poll;
use lru::LruCache;
use service::{Clock, Problem, auth::Principal};
use std::{
    num::NonZeroUsize,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Poll,
    time::Duration,
};
use telling::Told;
pub(super) use telling::{Looked, Wanted};
use tokio::sync::watch;
use uuid::Uuid;

/// Documents whose owner is remembered, of about 100 bytes each. (The compiler evaluates the `expect`.)
const OWNERS: NonZeroUsize = NonZeroUsize::new(50_000).expect("not zero");
/// How long somebody may wait until the feed is followed, and until it has told what he was shown.
const READY_WITHIN: Duration = Duration::from_secs(5);
/// How long an instance may be behind another one that somebody has followed before he begins anew.
const CATCHES_UP: Duration = Duration::from_secs(1);

/// Who follows what, and where the feed is.
pub(crate) struct Hub {
    view: &'static View,
    /// How long the feed keeps what has changed.
    retention: Duration,
    options: LiveOptions,
    metrics: FeedMetrics,
    clock: Clock,
    state: Mutex<State>,
    ready: watch::Sender<bool>,
    /// Changes with every mark.
    marks: watch::Sender<u64>,
}

struct State {
    epoch: u64,
    sequence: u64,
    /// Everything committed up to here is in the queues.
    told: Vec<Position>,
    /// With which mark the feed began; `None` before it was seen.
    begins: Option<u64>,
    registry: Registry,
    history: History,
    owners: LruCache<(usize, Arc<str>), Uuid>,
    /// What was told of each document, where nothing has changed since.
    answers: LruCache<Arc<str>, Told>,
    /// When the last user was erased, in seconds since 1970.
    erased: i64,
}

impl State {
    /// What was told before is worth nothing.
    fn forget(&mut self, floor: u64) {
        self.history.clear(floor);
        self.answers.clear();
    }
}

/// Somebody who wants to follow something.
pub(crate) struct Newcomer<'a> {
    pub(crate) model: usize,
    pub(crate) target: &'a Target,
    pub(crate) principal: &'a Principal,
    pub(crate) queue: &'a Arc<Queue>,
    pub(crate) tag: u32,
    pub(crate) cursor: Option<&'a Bookmark>,
}

/// A place among those who follow, given back when it is dropped.
pub(crate) struct Place {
    shared: Arc<Shared>,
    seat: Seat,
    id: u64,
    user: Uuid,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.hub.lock().registry.leave(&self.seat, self.id, self.user);
    }
}

/// What somebody has missed, or why he has to begin anew; neither where he comes for the first time.
pub(crate) type Missed = Result<Vec<(u64, Arc<str>)>, Option<Why>>;

impl Hub {
    pub(super) fn new(
        view: &'static View,
        retention: Duration,
        options: LiveOptions,
        metrics: FeedMetrics,
        clock: Clock,
    ) -> Self {
        let state = State {
            epoch: 0,
            sequence: 0,
            told: Vec::new(),
            begins: None,
            registry: Registry::default(),
            history: History::default(),
            owners: LruCache::sparse(OWNERS),
            answers: LruCache::sparse(OWNERS),
            erased: i64::MIN,
        };
        let (ready, marks) = (watch::Sender::new(false), watch::Sender::new(0));
        Self { view, retention, options, metrics, clock, state: Mutex::new(state), ready, marks }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics while it is held, and if it did, who follows would begin anew at the next mark.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cursor(&self, state: &State) -> Cursor {
        Cursor { epoch: state.epoch, sequence: state.sequence, time: self.clock.now().as_second() }
    }

    /// Where the feed is.
    pub(crate) fn now(&self) -> Cursor {
        self.cursor(&self.lock())
    }

    /// Up to where everything is told. Tables of this process may be behind it, for another one tells the feed as well: what
    /// is looked at without it would be older than the place that its reader is given.
    pub(crate) fn told(&self) -> String {
        write(&self.lock().told)
    }

    /// Everything that changes from here on comes into the newcomer's queue.
    pub(crate) async fn enter(
        shared: &Arc<Shared>,
        newcomer: Newcomer<'_>,
    ) -> Result<(Place, Missed), Problem> {
        let hub = &shared.hub;
        let mut ready = hub.ready.subscribe();
        let followed = async { ready.wait_for(|ready| *ready).await.is_ok() };
        hub.in_time(&shared.projections.progress(), followed).await?;
        let Newcomer { model, target, principal, queue, tag, cursor } = newcomer;
        let cursor = cursor.map(|bookmark| bookmark.cursor);
        if let Some(cursor) = cursor {
            hub.catch_up(cursor).await;
        }
        let (seat, declared) = (Seat::of(model, target), &hub.view.live.models[model]);
        let path = match target {
            Target::One { key, path } => (**path != *target::one(declared, key)).then(|| Arc::clone(path)),
            Target::Many { .. } => None,
        };
        let slot = Slot { id: 0, queue: Arc::clone(queue), tag, path, operator: principal.is_operator() };
        let mut state = hub.lock();
        let id = state.registry.enter(&seat, slot, principal, &hub.options)?;
        let now = hub.cursor(&state);
        let missed = match cursor {
            None => Err(None),
            Some(cursor) if declared.personal && principal.is_operator() && cursor.time <= state.erased => {
                Err(Some(Why::Erased))
            }
            Some(cursor) => state.history.since(cursor, now, model, hub.retention).map_err(Some),
        };
        drop(state);
        let place = Place { shared: Arc::clone(shared), seat, id, user: principal.user };
        Ok((place, missed))
    }

    /// Waits, not for long, until everything committed up to `position` is in the queues. Where the feed is then. Whoever was
    /// shown more than that has no place to go on from.
    pub(crate) async fn reached(
        &self,
        position: &[Position],
        progress: &watch::Receiver<Progress>,
    ) -> Result<Cursor, Problem> {
        let mut marks = self.marks.subscribe();
        let there = async { marks.wait_for(|_| covers(&self.lock().told, position)).await.is_ok() };
        self.in_time(progress, there).await?;
        Ok(self.now())
    }

    /// Waits, but for a moment only, until this process has heard what a client has heard that comes from another instance.
    async fn catch_up(&self, cursor: Cursor) {
        let mut marks = self.marks.subscribe();
        let there = marks.wait_for(|_| {
            let state = self.lock();
            state.epoch != cursor.epoch || state.sequence >= cursor.sequence
        });
        // Whether it is there is seen where it is asked for what was missed.
        let _ = tokio::time::timeout(CATCHES_UP, there).await;
    }

    /// Waits for something, not for long; else says when it will be there.
    async fn in_time(
        &self,
        progress: &watch::Receiver<Progress>,
        there: impl Future<Output = bool>,
    ) -> Result<(), Problem> {
        let mut there = pin!(there);
        let left = || later::left(&progress.borrow(), &self.lock().told);
        let (before, is_there) = match poll!(&mut there) {
            // As good as always: nobody counts what is left then.
            Poll::Ready(is_there) => (0, is_there),
            Poll::Pending => {
                let before = left();
                (before, tokio::time::timeout(READY_WITHIN, there).await.unwrap_or(false))
            }
        };
        if is_there { Ok(()) } else { Err(later::refusal(before, left(), READY_WITHIN)) }
    }

    /// The feed is this one from now on.
    pub(super) fn begins(&self, epoch: u64) {
        let mut state = self.lock();
        // Documents of another shape are another feed.
        let epoch = epoch ^ fingerprint(self.view);
        if state.epoch != epoch {
            // Whoever followed another one begins anew with the first mark of this one.
            state.begins = (state.epoch != 0).then_some(0);
            (state.epoch, state.sequence) = (epoch, 0);
            state.forget(0);
        }
    }

    /// Everything that was told before is there.
    pub(super) fn ready(&self) {
        if !self.ready.send_replace(true) {
            let mut state = self.lock();
            let sequence = state.sequence;
            state.history.began(sequence);
        }
    }

    /// Whether the mark that the feed began with was seen.
    pub(super) fn has_begun(&self) -> bool {
        self.lock().begins.is_some()
    }

    pub(super) fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }

    /// How long the feed keeps what has changed.
    pub(super) fn retention(&self) -> Duration {
        self.retention
    }

    /// Something was left out: everybody has to look again.
    pub(super) fn lost(&self) {
        let mut state = self.lock();
        let sequence = state.sequence;
        state.forget(sequence + 1);
        let count = state.registry.reset(Why::Lost, self.options.queue, |_, _| true);
        tracing::warn!(projection = self.view.name, count, "changes were missed: who follows begins anew");
    }

    /// Whether the feed has begun anew with this mark.
    pub(super) fn begun(&self, sequence: u64, begins: u64) -> bool {
        let mut state = self.lock();
        let anew = state.begins.replace(begins).is_some_and(|before| before != begins);
        state.history.raise(begins);
        if anew {
            state.sequence = sequence;
            state.forget(sequence);
            let count = state.registry.reset(Why::Lost, self.options.queue, |_, _| true);
            tracing::info!(projection = self.view.name, count, "the change feed begins anew");
        }
        anew
    }

    /// A user is no more.
    fn erase(&self, user: Uuid) {
        let mut state = self.lock();
        state.erased = self.clock.now().as_second();
        state.registry.end_user(user);
        let models = self.view.live.models;
        let sees = |model: usize, slot: &Slot| models[model].personal && slot.operator;
        state.registry.reset(Why::Erased, self.options.queue, sees);
    }
}

/// Ends what users follow that are erased.
pub(super) async fn watch_erasures(shared: Arc<Shared>) {
    let token = shared.shutdown.token();
    let mut erasures = shared.keys.erasures();
    while let Some(erased) = token.run_until_cancelled(erasures.recv()).await {
        match erased {
            Ok(user) => shared.hub.erase(user.uuid()),
            // More at once than are remembered: nobody knows whom it concerns.
            Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => shared.hub.lost(),
            Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
        }
    }
}

/// Whether everything up to `position` is told.
pub(super) fn covers(told: &[Position], position: &[Position]) -> bool {
    let covered = |one: &Position| told.iter().any(|told| told.context == one.context && told >= one);
    position.iter().all(|one| one.sequence == 0 || covered(one))
}

/// Tells the documents of one version of the program from those of another (FNV-1a).
fn fingerprint(view: &View) -> u64 {
    let text = format!("{} {:?} {:?}", view.version, view.tables, view.live);
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    // As many bits as the epoch leaves free to look at.
    text.bytes().fold(0xcbf2_9ce4_8422_2325, step) & 0x000f_ffff_ffff_ffff
}
