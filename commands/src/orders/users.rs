//! What orders know of their customers: the users service is asked, and what it says is good for a while. While it cannot
//! be asked there is an own copy, read from the log when first needed and kept up to date by the facts of users. An order
//! that had to rely on it says so.

use super::asking::Asking;
use crate::{
    Executor, Key,
    users::{User, UserState},
};
use events::{Aggregate, Context, Fact, UserId, orders::UserSnapshot, users::UserEvent};
use lru::LruCache;
use nats::{Connection, Filter, From, Reader, ReplayError, Until};
use serde::Deserialize;
use service::{
    Problem,
    client::{Call, CallError, Client},
};
use std::{
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// Whose facts keep the copy up to date.
pub(super) const FOLLOWED: Aggregate = Aggregate::User;
/// Users kept in memory. (The compiler evaluates the `expect`.)
const KEPT: NonZeroUsize = NonZeroUsize::new(100_000).expect("not zero");
/// How long to wait before trying again to read what is no event.
const AGAIN: Duration = Duration::from_secs(5);

/// How the users service is asked.
#[derive(Clone, Debug)]
pub struct UsersService {
    /// A client of it.
    pub client: Client,
    /// How long its answer is good, unless a fact says otherwise before.
    pub fresh_for: Duration,
}

/// What is known of users. Cheap to clone.
#[derive(Clone)]
pub(super) struct Users {
    service: UsersService,
    executor: Executor,
    kept: Arc<Mutex<LruCache<UserId, Known>>>,
    asking: Asking<Said>,
}

/// What is known of a user who exists, or did.
#[derive(Clone, Copy)]
struct Known {
    /// For ever.
    erased: bool,
    /// Until when the users service need not be asked again.
    fresh_until: Option<Instant>,
}

/// What the users service says of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// There is such a user.
    Known,
    /// There was.
    Erased,
    /// There is none, as far as its read model goes.
    Unknown,
    /// It could not be asked.
    Nothing,
}

/// What of the users service's answer matters here.
#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    erased: bool,
}

impl UsersService {
    /// Where a user is asked for.
    pub fn path(user: UserId) -> String {
        format!("/users/{user}")
    }

    /// Makes a call of [`Self::path`], and reads of its answer what matters here.
    pub async fn ask(&self, call: Call) -> Said {
        match self.client.send(call).await.and_then(|answer| answer.json::<Answer>()) {
            Ok(Answer { erased: false }) => Said::Known,
            Ok(Answer { erased: true }) => Said::Erased,
            Err(CallError::Status { status, .. }) if status.as_u16() == 404 => Said::Unknown,
            Err(error) => {
                tracing::debug!(%error, "an own copy of the user is relied on");
                Said::Nothing
            }
        }
    }
}

impl Users {
    /// What asks `service` and reads its own copy through `executor`, and what keeps the copy up to date: it runs for
    /// ever. The following begins before anything can be read, so that no change falls between the two.
    pub(super) async fn start(
        service: UsersService,
        executor: Executor,
        connection: &Connection,
    ) -> Result<(Self, impl Future<Output = ()> + Send + 'static), ReplayError> {
        let filter = Filter { subject: Some(FOLLOWED.filter()), ..Filter::default() };
        let reader = Reader::open(connection, Context::Users, From::Now, Until::Forever, filter).await?;
        let kept = Arc::new(Mutex::new(LruCache::new(KEPT)));
        let users = Self { service, executor, kept, asking: Asking::new() };
        Ok((users.clone(), users.follow(reader)))
    }

    /// How a customer is known; `None` of one who is erased. Refuses (422) one who does not exist. `call` makes the call
    /// of a path of the users service, where one is needed and none is under way.
    pub(super) async fn check(
        &self,
        user: UserId,
        call: impl FnOnce(String) -> Call,
    ) -> Result<Option<UserSnapshot>, Problem> {
        let known = self.lock().get(&user).copied();
        match known {
            Some(Known { erased: true, .. }) => return Ok(None),
            Some(Known { fresh_until: Some(until), .. }) if Instant::now() < until => {
                return Ok(Some(UserSnapshot { stale: false }));
            }
            _ => {}
        }
        let ask = || {
            let (service, call) = (self.service.clone(), call(UsersService::path(user)));
            async move { service.ask(call).await }
        };
        match self.asking.join(user, ask).await {
            Said::Erased => Ok(None),
            Said::Known => Ok(self.confirm(user)),
            // Its read model may be behind the log.
            Said::Unknown => Ok(self.exists(user).await?.then(|| self.confirm(user)).flatten()),
            Said::Nothing => {
                let exists = known.is_some() || self.exists(user).await?;
                Ok(exists.then_some(UserSnapshot { stale: true }))
            }
        }
    }

    /// Whether a user exists and is not erased, as the log says.
    async fn exists(&self, user: UserId) -> Result<bool, Problem> {
        let erased = match self.executor.state(&Key::<User>::new(user)).await? {
            UserState::Registered(_) => false,
            UserState::Erased => true,
            UserState::Unknown => {
                return Err(Problem::invalid("unknown-user", "userId", format!("There is no user {user}.")));
            }
        };
        self.keep(user, erased);
        Ok(!erased)
    }

    /// Takes every later change of users into the copy, for ever.
    async fn follow(self, mut reader: Reader) {
        loop {
            match reader.next_batch(1000).await {
                Ok(batch) => batch.iter().for_each(|message| self.take(message)),
                Err(error) => {
                    // What stands before it stays right; what comes behind it cannot be reached before it is mended.
                    tracing::error!(%error, "users cannot be followed");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }

    fn take(&self, message: &nats::Message) {
        if let Ok(Fact::User(event)) = message.fact()
            && let Ok(user) = message.subject.id().parse()
        {
            self.keep(user, matches!(event, UserEvent::Erased(_)));
        }
    }

    /// Keeps what a fact says, and forgets what the users service said before it.
    fn keep(&self, user: UserId, erased: bool) {
        let mut kept = self.lock();
        // Nobody comes back.
        let erased = erased || kept.peek(&user).is_some_and(|known| known.erased);
        kept.put(user, Known { erased, fresh_until: None });
    }

    /// The user exists at this moment, unless a fact was faster than the answer.
    fn confirm(&self, user: UserId) -> Option<UserSnapshot> {
        let fresh_until = Some(Instant::now() + self.service.fresh_for);
        let mut kept = self.lock();
        let erased = kept.peek(&user).is_some_and(|known| known.erased);
        kept.put(user, Known { erased, fresh_until });
        (!erased).then_some(UserSnapshot { stale: false })
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<UserId, Known>> {
        // Every statement leaves the copy valid.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
