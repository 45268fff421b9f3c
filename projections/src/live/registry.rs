//! Who follows what.

use super::{
    LiveOptions,
    queue::{End, Item, Queue, Why},
    target::Target,
};
use axum::http::StatusCode;
use service::{Problem, auth::Principal};
use std::{collections::HashMap, sync::Arc};
use uuid::Uuid;

/// Where a subscription stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Seat {
    /// With those who follow one document.
    One(usize, Arc<str>),
    /// With those who follow all documents of one user.
    Owned(usize, Uuid),
    /// With those who follow everybody's.
    All(usize),
}

impl Seat {
    pub(super) fn of(model: usize, target: &Target) -> Self {
        match target {
            Target::One { key, .. } => Self::One(model, Arc::clone(key)),
            Target::Many { owner: Some(owner), .. } => Self::Owned(model, *owner),
            Target::Many { owner: None, .. } => Self::All(model),
        }
    }

    const fn model(&self) -> usize {
        match self {
            Self::One(model, _) | Self::Owned(model, _) | Self::All(model) => *model,
        }
    }
}

/// One subscription.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    pub(super) id: u64,
    pub(super) queue: Arc<Queue>,
    /// Which of the client's subscriptions it is.
    pub(super) tag: u32,
    /// The query of its document, where it is not the usual one.
    pub(super) path: Option<Arc<str>>,
    /// Whether it sees what is of others.
    pub(super) operator: bool,
}

#[derive(Debug, Default)]
pub(super) struct Registry {
    seats: HashMap<Seat, Vec<Slot>>,
    /// Lists of one user each, by model.
    owned: HashMap<usize, usize>,
    users: HashMap<Uuid, Vec<(u64, Arc<Queue>)>>,
    count: usize,
    last: u64,
}

impl Registry {
    /// Gives somebody a place; its id.
    pub(super) fn enter(
        &mut self,
        seat: &Seat,
        mut slot: Slot,
        principal: &Principal,
        options: &LiveOptions,
    ) -> Result<u64, Problem> {
        if self.count >= options.most {
            let detail =
                "As many follow here as may. Try again later; nothing is lost with the last event's id.";
            return Err(Problem::unavailable("too-many-subscribers", detail, 10));
        }
        let own = self.users.entry(principal.user).or_default();
        if own.len() >= options.most_per_user {
            let most = options.most_per_user;
            let detail = format!("One user may follow {most} things at once. End one that is not needed.");
            let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "too-many-subscriptions", detail);
            return Err(problem.with_retry_after(10));
        }
        self.last += 1;
        self.count += 1;
        slot.id = self.last;
        own.push((slot.id, Arc::clone(&slot.queue)));
        if let Seat::Owned(model, _) = seat {
            *self.owned.entry(*model).or_default() += 1;
        }
        self.seats.entry(seat.clone()).or_default().push(slot);
        Ok(self.last)
    }

    /// Takes somebody out.
    pub(super) fn leave(&mut self, seat: &Seat, id: u64, user: Uuid) {
        let Some(slots) = self.seats.get_mut(seat) else { return };
        let Some(place) = slots.iter().position(|slot| slot.id == id) else { return };
        slots.swap_remove(place);
        if slots.is_empty() {
            self.seats.remove(seat);
        }
        if let Seat::Owned(model, _) = seat
            && let Some(count) = self.owned.get_mut(model)
        {
            *count -= 1;
        }
        self.count -= 1;
        if let Some(own) = self.users.get_mut(&user) {
            own.retain(|(one, _)| *one != id);
            if own.is_empty() {
                self.users.remove(&user);
            }
        }
    }

    pub(super) fn at(&self, seat: &Seat) -> &[Slot] {
        self.seats.get(seat).map_or(&[], Vec::as_slice)
    }

    /// Whether anybody follows the documents of some user of this model.
    pub(super) fn has_owned(&self, model: usize) -> bool {
        self.owned.get(&model).is_some_and(|count| *count > 0)
    }

    /// All lists of one user each.
    pub(super) fn all_owned(&self, model: usize) -> impl Iterator<Item = &Slot> {
        self.seats
            .iter()
            .filter(move |(seat, _)| matches!(seat, Seat::Owned(of, _) if *of == model))
            .flat_map(|(_, slots)| slots)
    }

    /// Ends what a user follows.
    pub(super) fn end_user(&self, user: Uuid) {
        for (_, queue) in self.users.get(&user).into_iter().flatten() {
            queue.end(End::Erased);
        }
    }

    /// Lets some begin anew; how many.
    pub(super) fn reset(&self, why: Why, most: usize, wanted: impl Fn(usize, &Slot) -> bool) -> usize {
        let mut count = 0;
        for (seat, slots) in &self.seats {
            for slot in slots.iter().filter(|slot| wanted(seat.model(), slot)) {
                slot.queue.push(slot.tag, Item::Reset(why), most);
                count += 1;
            }
        }
        count
    }
}
