//! One question at a time about each user: whoever has the same one meanwhile waits for the same answer.

use events::UserId;
use futures::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared},
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// An answer that is under way, to be awaited by everybody who wants it. It goes on as long as one of them waits.
pub(super) type Answered<T> = Shared<BoxFuture<'static, T>>;

type UnderWay<T> = HashMap<UserId, WeakShared<BoxFuture<'static, T>>>;

/// The questions that are under way. Cheap to clone; clones share them.
#[derive(Clone)]
pub(super) struct Asking<T: Clone>(Arc<Mutex<UnderWay<T>>>);

impl<T: Clone + Send + Sync + 'static> Asking<T> {
    pub(super) fn new() -> Self {
        Self(Arc::default())
    }

    /// Joins the question about this user, or begins it.
    pub(super) fn join<A>(&self, user: UserId, ask: impl FnOnce() -> A) -> Answered<T>
    where
        A: Future<Output = T> + Send + 'static,
    {
        let mut under_way = self.lock();
        if let Some(answered) = under_way.get(&user).and_then(WeakShared::upgrade) {
            return answered;
        }
        let (asked, question) = (ask(), Question { asking: self.clone(), user });
        let answered = async move {
            let _question = question;
            asked.await
        };
        let answered = answered.boxed().shared();
        // Nobody has polled it: it is not complete.
        if let Some(weak) = answered.downgrade() {
            under_way.insert(user, weak);
        }
        answered
    }

    fn lock(&self) -> MutexGuard<'_, UnderWay<T>> {
        // Every statement leaves the map valid.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forgotten once it is answered, and when nobody waits for the answer any more.
struct Question<T: Clone + Send + Sync + 'static> {
    asking: Asking<T>,
    user: UserId,
}

impl<T: Clone + Send + Sync + 'static> Drop for Question<T> {
    fn drop(&mut self) {
        self.asking.lock().remove(&self.user);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::future::{join_all, pending, ready};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::sync::{Notify, Semaphore};
    use uuid::Uuid;

    fn user(number: u128) -> UserId {
        UserId::new(Uuid::from_u128(number))
    }

    #[tokio::test]
    async fn a_hundred_at_once_ask_once_and_the_next_asks_again() {
        let (asking, asked) = (Asking::new(), Arc::new(AtomicUsize::new(0)));
        let answers = Arc::new(Semaphore::new(0));
        let join = |number| {
            let (asked, answers) = (asked.clone(), answers.clone());
            asking.join(user(number), move || async move {
                answers.acquire().await.unwrap().forget();
                asked.fetch_add(1, Ordering::Relaxed)
            })
        };
        let first = join_all((0..100).map(|_| join(1)));
        assert_eq!(asking.lock().len(), 1);
        answers.add_permits(1);
        assert_eq!(first.await, [0; 100]);
        answers.add_permits(1);
        assert_eq!(join(1).await, 1);
        let others = (join(1), join(2));
        answers.add_permits(2);
        assert_ne!(others.0.await, others.1.await, "users do not share answers");
        assert!(asking.lock().is_empty(), "nothing is kept");
    }

    #[tokio::test]
    async fn whoever_goes_away_takes_no_answer_from_the_others() {
        let (asking, answer) = (Asking::new(), Arc::new(Notify::new()));
        let waits = answer.clone();
        let mut first = asking.join(user(1), move || async move { waits.notified().await });
        assert!((&mut first).now_or_never().is_none());
        let second = asking.join(user(1), || ready(()));
        drop(first);
        assert!(second.clone().now_or_never().is_none(), "it is the question that is under way");
        answer.notify_one();
        second.await;

        drop(asking.join(user(1), pending));
        assert!(asking.lock().is_empty(), "nobody waits, nothing is kept");
        asking.join(user(1), || ready(())).await;
    }
}
