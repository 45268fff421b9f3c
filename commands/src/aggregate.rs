//! What an aggregate is: a pure decision and a pure fold.

use crate::Refusal;
use events::DomainEvent;
use serde::{Serialize, de::DeserializeOwned};
use std::{any::Any, sync::Arc};

/// An aggregate: decides over its own state, changes only by its own events. Pure and synchronous: no clock, no I/O,
/// no randomness, so that every decision can be replayed and tested as given/when/then.
pub trait Aggregate: Sized + 'static {
    /// Where it is recorded.
    const KIND: events::Aggregate;
    /// Name of the state's shape. Change it with [`Self::State`] or [`Self::evolve`]: snapshots of another shape are
    /// ignored and the history is folded again.
    const SCHEMA: &'static str;
    /// What is remembered between events. `Default` is the state before the first event.
    type State: Default + Clone + Serialize + DeserializeOwned + Send + Sync + 'static;
    /// What can be asked.
    type Command: Clone + 'static;
    /// What can happen.
    type Event: DomainEvent;
    /// Why it can refuse.
    type Rejection: Into<Refusal>;

    /// What happens when `command` is asked in `state`; no event where nothing needs to change.
    fn decide(state: &Self::State, command: Self::Command) -> Result<Vec<Self::Event>, Self::Rejection>;

    /// The state after an event.
    fn evolve(state: Self::State, event: &Self::Event) -> Self::State;
}

/// A state whose type only its [`Codec`] knows.
pub(crate) type AnyState = Arc<dyn Any + Send + Sync>;

/// What the executor does with a state without knowing its type.
#[derive(Clone, Copy)]
pub(crate) struct Codec {
    pub(crate) schema: &'static str,
    pub(crate) fresh: fn() -> AnyState,
    pub(crate) fold: fn(&AnyState, &str, u32, &[u8]) -> Result<AnyState, events::DecodeError>,
    pub(crate) freeze: fn(&AnyState) -> Option<Vec<u8>>,
    pub(crate) thaw: fn(&[u8]) -> Option<AnyState>,
}

impl Codec {
    pub(crate) const fn of<A: Aggregate>() -> Self {
        Self {
            schema: A::SCHEMA,
            fresh: || Arc::new(A::State::default()),
            fold: |state, kind, version, body| {
                let event = A::Event::from_json(kind, version, body)?;
                Ok(Arc::new(A::evolve(typed::<A>(state).clone(), &event)))
            },
            freeze: |state| serde_json::to_vec(typed::<A>(state)).ok(),
            thaw: |bytes| {
                serde_json::from_slice::<A::State>(bytes).ok().map(|state| Arc::new(state) as AnyState)
            },
        }
    }
}

/// The state behind `state`. A key is typed, so the types agree; a disagreement would be a bug of the executor.
#[expect(
    clippy::expect_used,
    reason = "keys are typed: a subject is only ever read through one aggregate type"
)]
pub(crate) fn typed<A: Aggregate>(state: &AnyState) -> &A::State {
    state.downcast_ref().expect("a subject is read through one aggregate type")
}

/// Given/when/then for one aggregate.
#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use std::fmt::Debug;

    /// A history.
    pub(crate) struct Given<A: Aggregate>(AnyState, std::marker::PhantomData<fn() -> A>);

    /// What came of a command.
    pub(crate) struct When<A: Aggregate>(Result<Vec<A::Event>, Refusal>);

    /// An aggregate with this history, read as it is from the log: event by event, and again from a snapshot.
    pub(crate) fn given<A: Aggregate>(history: impl IntoIterator<Item = A::Event>) -> Given<A> {
        let codec = Codec::of::<A>();
        let fold = |state: AnyState, event: A::Event| {
            let fact = event.fact_type();
            (codec.fold)(&state, fact.name, fact.version, &event.to_json()).unwrap()
        };
        let state = history.into_iter().fold((codec.fresh)(), fold);
        let thawed = (codec.thaw)(&(codec.freeze)(&state).unwrap()).unwrap();
        Given(thawed, std::marker::PhantomData)
    }

    impl<A: Aggregate> Given<A> {
        /// Asks it.
        pub(crate) fn when(&self, command: A::Command) -> When<A> {
            When(A::decide(typed::<A>(&self.0), command).map_err(Into::into))
        }
    }

    impl<A: Aggregate<Event: PartialEq + Debug>> When<A> {
        /// These events, in this order.
        #[track_caller]
        pub(crate) fn then(self, events: impl IntoIterator<Item = A::Event>) {
            assert_eq!(self.0, Ok(events.into_iter().collect()));
        }

        /// No event, because nothing needs to change.
        #[track_caller]
        pub(crate) fn then_nothing(self) {
            self.then([]);
        }

        /// A refusal with this slug; gives it for a closer look.
        #[track_caller]
        pub(crate) fn then_refused(self, slug: &str) -> Refusal {
            let refusal = self.0.unwrap_err();
            assert_eq!(refusal.slug, slug, "{refusal:?}");
            refusal
        }
    }
}
