//! The only write path: load, decide, append; again on conflict. Steps 1 to 3 of the flow.
//!
//! - An aggregate's state is cached as a baseline that the append validates; it is never trusted.
//! - Commands on one aggregate run in a lane, one after the other in the order they came. What waits in a lane while
//!   an append is under way is decided together against the state after it, and appended as one: a hot aggregate
//!   costs one round trip for many commands (`lanes`).
//! - A conflict (another process was faster) loads what is new and decides again, a bounded number of times.
//! - A command that was carried out before, recognised by its id, is answered with its first outcome, as long as it is among
//!   the newest ones of its aggregate (`entry`). Who may repeat older ones knows of them himself: requests with an idempotency
//!   key by the ledger (ADR 9), reactions by the state.

mod entry;
mod flight;
mod lanes;
mod metrics;
mod plan;
mod timers;
mod trace;

use crate::{Aggregate, AnyKey, Decision, Key, Refusal, Stop, aggregate::typed};
use entry::Entry;
use events::{Context, Metadata, Position};
use flight::Flight;
use lanes::{Admission, Lanes};
pub use metrics::ExecutorMetrics;
use nats::{AppendError, EventStore, KeyError, LoadError, Snapshot};
use service::Clock;
use std::{
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};
use tokio::sync::oneshot;
use trace::Trace;

/// Aggregates kept in memory. An order is about a kilobyte. (The compiler evaluates the `expect`.)
const CACHED: NonZeroUsize = NonZeroUsize::new(100_000).expect("not zero");

/// What a command did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Where its last event stands; where nothing needed to change, the newest event of what it looked at. A query
    /// that waits for this position sees the command's effect.
    pub position: Position,
    /// How many events it recorded.
    pub events: usize,
    /// Whether it had been carried out before: this is its first outcome. Its events stand side by side; the position
    /// is that of the last one on the aggregates that were asked first.
    pub replayed: bool,
}

/// Why a command was not carried out, or nobody knows.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ExecuteError {
    /// It is refused. Nothing was recorded.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The log refuses or cannot be reached; [`AppendError::Unknown`] is the one case in which it may be recorded.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The log cannot be read. Nothing was recorded.
    #[error("the log cannot be read")]
    Load(#[from] Arc<LoadError>),
    /// An event of the aggregate cannot be read. Nothing was recorded.
    #[error("an event of {subject} cannot be read")]
    Unreadable {
        /// The aggregate.
        subject: String,
        /// Why.
        source: Arc<events::DecodeError>,
    },
    /// The keys of personal data cannot be reached or read. Nothing was recorded.
    #[error("personal data cannot be sealed")]
    Keys(#[from] Arc<KeyError>),
    /// Others changed the same aggregates again and again. This time nothing was recorded; a command that somebody repeats whose
    /// first attempt is no longer remembered may stand all the same, and the server has refused its messages as known.
    #[error("others changed the same aggregates again and again")]
    Contended,
}

/// A command as the lanes keep it: may be decided more than once, so it is a function of the states alone.
type Run = Box<dyn Fn(&mut Decision) -> Result<(), Stop> + Send + Sync>;

/// A command on its way.
struct Job {
    keys: Vec<AnyKey>,
    metadata: Metadata,
    run: Run,
    /// When it was asked. What it only reads must have been looked at since.
    asked: Instant,
    reply: oneshot::Sender<Result<Receipt, ExecuteError>>,
    trace: Trace,
    /// Shares no flight with others, because one it shared was refused.
    alone: bool,
}

/// Carries out the commands of one context. Cheap to clone; clones share their cache and lanes.
#[derive(Clone)]
pub struct Executor {
    inner: Arc<Inner>,
}

struct Inner {
    context: Context,
    store: EventStore,
    clock: Clock,
    metrics: ExecutorMetrics,
    lanes: Mutex<Lanes>,
}

impl Executor {
    /// An executor for the aggregates of one context: what is decided together must be in one stream.
    pub fn new(context: Context, store: EventStore, clock: Clock, metrics: ExecutorMetrics) -> Self {
        let lanes = Mutex::new(Lanes::new(CACHED));
        Self { inner: Arc::new(Inner { context, store, clock, metrics, lanes }) }
    }

    /// The store behind it.
    pub fn store(&self) -> &EventStore {
        &self.inner.store
    }

    /// Whether commands can be carried out at this moment.
    pub fn is_ready(&self) -> bool {
        self.inner.store.is_connected()
    }

    /// Carries out a command: `run` decides over the states of `keys` (and of what it names while it runs) and may
    /// be run several times. All its events are recorded, or none.
    pub async fn execute(
        &self,
        mut keys: Vec<AnyKey>,
        mut metadata: Metadata,
        run: impl Fn(&mut Decision) -> Result<(), Stop> + Send + Sync + 'static,
    ) -> Result<Receipt, ExecuteError> {
        let asked = Instant::now();
        if keys.is_empty()
            && let Err(Stop::Needs(named)) = run(&mut Decision::default())
        {
            // Known before it starts, they let it wait in the right lanes.
            keys = named;
        }
        let trace = Trace::start(self.inner.context, &keys, &mut metadata);
        let span = trace.command();
        let (reply, answer) = oneshot::channel();
        let job = Job { keys, metadata, run: Box::new(run), asked, reply, trace, alone: false };
        let admission = self.inner.lock().admit(job);
        if let Admission::Start(job) = admission {
            // In the caller's task: nothing to hand over while the lanes are free.
            Box::pin(Flight::new(Arc::clone(&self.inner), vec![*job]).run()).await;
        }
        // Without an answer the flight was dropped with the runtime: nobody knows what became of it.
        let result = answer.await.unwrap_or_else(|_| Err(AppendError::Unknown.into()));
        self.inner.metrics.command(&result, asked.elapsed());
        trace::finish(&span, &result);
        result
    }

    /// The state of an aggregate as the log has it now.
    pub async fn state<A: Aggregate>(&self, key: &Key<A>) -> Result<A::State, ExecuteError> {
        Ok(self.read(key).await?.0)
    }

    /// The state of an aggregate as the log has it now, and the sequence of its last event (0: none).
    pub(crate) async fn read<A: Aggregate>(&self, key: &Key<A>) -> Result<(A::State, u64), ExecuteError> {
        let key = key.load();
        let entry = self.inner.load(&key, Instant::now()).await?;
        Ok((typed::<A>(&entry.state).clone(), entry.sequence))
    }

    /// Forgets every cached state, so that the next commands load (for measurements of cold loads).
    pub fn forget(&self) {
        self.inner.lock().forget();
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Lanes> {
        // A decision that panics leaves the lanes as they were before it: they change only after it returned.
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Loads an aggregate; `asked` is when the need arose.
    async fn load(&self, key: &AnyKey, asked: Instant) -> Result<Entry, ExecuteError> {
        let mut history = self.store.load(&key.subject, key.codec.schema).await.map_err(Arc::new)?;
        let thaws = |snapshot: &Snapshot| (key.codec.thaw)(snapshot.state.get().as_bytes()).is_some();
        if !history.snapshot.as_ref().is_none_or(thaws) {
            // Of another shape under the same name: the whole history tells.
            history = self.store.load(&key.subject, "").await.map_err(Arc::new)?;
        }
        Entry::loaded(key.codec, history, asked).map_err(|source| ExecuteError::Unreadable {
            subject: key.subject.to_string(),
            source: Arc::new(source),
        })
    }

    /// Starts what waits for nothing any more.
    fn depart(self: &Arc<Self>, flights: Vec<Vec<Job>>) {
        for jobs in flights {
            tokio::spawn(Flight::new(Arc::clone(self), jobs).run());
        }
    }
}
