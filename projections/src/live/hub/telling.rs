//! What has changed, into the queues of those who follow it.

use super::{Hub, State};
use crate::live::{
    LiveModel, SeenBy,
    cursor::Cursor,
    document::Document,
    history::Entry,
    queue::{Change, Item, Now},
    registry::{Seat, Slot},
    target,
};
use events::Position;
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};
use uuid::Uuid;

/// What was told of a document last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    digest: u64,
    /// Whether the feed had not told all of it then.
    ahead: bool,
}

/// Who follows a document.
struct Seats<'a> {
    model: usize,
    key: &'a Arc<str>,
    owner: Option<Uuid>,
}

/// Documents of one key that somebody wants.
pub(in crate::live) struct Wanted {
    pub(in crate::live) model: usize,
    pub(in crate::live) key: Arc<str>,
    pub(in crate::live) sequence: u64,
    /// The queries that answer them.
    pub(in crate::live) paths: HashSet<Arc<str>>,
    /// Whether they may contain what the feed tells only behind `sequence`.
    pub(in crate::live) ahead: bool,
}

/// What has changed up to a mark, looked at.
pub(in crate::live) struct Looked {
    pub(in crate::live) wanted: Vec<Wanted>,
    pub(in crate::live) found: HashMap<Arc<str>, Now>,
    /// The mark.
    pub(in crate::live) sequence: u64,
    /// What it says.
    pub(in crate::live) told: Vec<Position>,
    /// When the first of it was told.
    pub(in crate::live) oldest: Option<jiff::Timestamp>,
}

impl Hub {
    /// Tells everybody what has changed, and that with it everything is told up to a mark.
    pub(in crate::live) fn tell_all(&self, looked: &Looked) {
        let mut state = self.lock();
        for wanted in &looked.wanted {
            self.tell(&mut state, wanted, &looked.found);
        }
        state.sequence = state.sequence.max(looked.sequence);
        state.told.clone_from(&looked.told);
        drop(state);
        self.marks.send_replace(looked.sequence);
        if let Some(oldest) = looked.oldest {
            let took = self.clock.now().duration_since(oldest).as_secs_f64();
            self.metrics.follow_seconds(self.view.name, took.max(0.0));
        }
    }

    /// What has to be asked for, of what has changed.
    pub(in crate::live) fn wanted(&self, changed: Vec<(u64, usize, Arc<str>)>) -> Vec<Wanted> {
        let mut state = self.lock();
        let wanted = changed.into_iter().map(|(sequence, model, key)| {
            let usual: Arc<str> = target::one(&self.view.live.models[model], &key).into();
            let mut paths = HashSet::new();
            for slot in state.registry.at(&Seat::One(model, Arc::clone(&key))) {
                paths.insert(slot.path.as_ref().map_or_else(|| Arc::clone(&usual), Arc::clone));
            }
            let of_owner = state.registry.has_owned(model)
                && state
                    .owners
                    .get(&(model, Arc::clone(&key)))
                    .copied()
                    .is_none_or(|owner| !state.registry.at(&Seat::Owned(model, owner)).is_empty());
            if of_owner || !state.registry.at(&Seat::All(model)).is_empty() {
                paths.insert(usual);
            }
            if paths.is_empty() {
                let usual = target::one(&self.view.live.models[model], &key);
                state.answers.pop(&*usual);
            }
            Wanted { model, key, sequence, paths, ahead: false }
        });
        wanted.collect()
    }

    /// Puts a change into the queues of those who follow it.
    fn tell(&self, state: &mut State, wanted: &Wanted, found: &HashMap<Arc<str>, Now>) {
        let Wanted { model, ref key, sequence, ahead, .. } = *wanted;
        let declared = &self.view.live.models[model];
        let usual = target::one(declared, key);
        let now = |path: &str| found.get(path).cloned().unwrap_or(Now::Unknown);
        let cursor = Cursor { sequence, ..self.cursor(state) };
        let before = state.answers.pop(usual.as_str());
        if let Now::Known(document) = now(&usual) {
            let digest = document.digest;
            let had = before.filter(|before| before.digest == digest && wanted.paths.len() == 1);
            let ahead = ahead && had.is_none_or(|had| had.ahead);
            state.answers.put(usual.as_str().into(), Told { digest, ahead });
            if let Some(had) = had {
                // It was told twice: whoever follows has it.
                if had.ahead && !ahead {
                    self.say_settled(state, model, key, sequence);
                }
                return;
            }
        }
        let change = |now| Arc::new(Change { cursor, key: Arc::clone(key), now, ahead });
        let known = now(&usual);
        if let Now::Known(document) = &known
            && let Some(owner) = owner(declared, document)
        {
            state.owners.put((model, Arc::clone(key)), owner);
        }
        let owner = state.owners.get(&(model, Arc::clone(key))).copied();
        let shared = change(known);
        self.push(state, &Seats { model, key, owner }, |slot| {
            Item::Change(match &slot.path {
                None => Arc::clone(&shared),
                Some(path) => change(now(path)),
            })
        });
        if owner.is_none() && matches!(shared.now, Now::Unknown) {
            // Whoever came while nobody wanted it has to look himself whether it is his.
            let unsure = state.registry.all_owned(model);
            unsure.for_each(|slot| self.push_one(slot, Item::Change(Arc::clone(&shared))));
        }
        state.history.push(Entry { sequence, model, key: Arc::clone(key) });
    }

    /// What was told of these ahead of the feed, the feed has told by now.
    pub(in crate::live) fn settle(&self, names: Vec<(usize, Arc<str>)>, sequence: u64) {
        let mut state = self.lock();
        for (model, key) in names {
            let usual = target::one(&self.view.live.models[model], &key);
            if let Some(told) = state.answers.get_mut(usual.as_str()) {
                told.ahead = false;
            }
            // Also of what is gone, and of what was looked at by another path: only those who were told know that.
            self.say_settled(&mut state, model, &key, sequence);
        }
    }

    fn say_settled(&self, state: &mut State, model: usize, key: &Arc<str>, sequence: u64) {
        let owner = state.owners.get(&(model, Arc::clone(key))).copied();
        let settled = |_: &Slot| Item::Settled { key: Arc::clone(key), sequence };
        self.push(state, &Seats { model, key, owner }, settled);
    }

    /// Puts something into the queues of those who follow a document.
    fn push(&self, state: &State, seats: &Seats<'_>, item: impl Fn(&Slot) -> Item) {
        let &Seats { model, key, owner } = seats;
        let owned = owner.map(|owner| Seat::Owned(model, owner));
        for seat in [Seat::One(model, Arc::clone(key)), Seat::All(model)].iter().chain(&owned) {
            state.registry.at(seat).iter().for_each(|slot| self.push_one(slot, item(slot)));
        }
    }

    fn push_one(&self, slot: &Slot, item: Item) {
        if !slot.queue.push(slot.tag, item, self.options.queue) {
            self.metrics.dropped(self.view.name, "slow");
            tracing::info!(projection = self.view.name, "a client that takes too long is dropped");
        }
    }
}

fn owner(model: &LiveModel, document: &Document) -> Option<Uuid> {
    match model.seen_by {
        SeenBy::Owner(member) => document.user(member),
        SeenBy::Everybody | SeenBy::Operators => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FeedMetrics, LiveOptions, View, live::document::Look, live::queue::Queue};
    use bytes::Bytes;
    use service::{
        Clock, Metrics,
        auth::{Principal, Role},
    };
    use std::time::Duration;

    #[test]
    fn what_was_told_ahead_of_the_feed_is_settled_once_when_the_feed_has_told_it() {
        let (view, options) = (View::of("inventory").unwrap(), LiveOptions::default());
        let metrics = FeedMetrics::new(&Metrics::new());
        let hub = Hub::new(view, Duration::from_mins(5), options, metrics, Clock::system());
        let (queue, principal) = (
            Arc::<Queue>::default(),
            Principal { user: Uuid::nil(), role: Role::Operator, token: Uuid::nil() },
        );
        let slot = Slot { id: 0, queue: Arc::clone(&queue), tag: 1, path: None, operator: true };
        hub.lock().registry.enter(&Seat::All(0), slot, &principal, &options).unwrap();
        let (model, key) = (&view.live.models[0], Arc::<str>::from("TEA"));
        let path: Arc<str> = target::one(model, &key).into();
        let tell = |sequence, ahead, name: &str| {
            let json = Bytes::from(format!(r#"{{"sku":"TEA","name":"{name}"}}"#));
            let document = Document::new(model, json, Look { begun: 0, ended: 1 }).unwrap();
            let found = HashMap::from([(Arc::clone(&path), Now::Known(Arc::new(document)))]);
            let paths = HashSet::from([Arc::clone(&path)]);
            let wanted = vec![Wanted { model: 0, key: Arc::clone(&key), sequence, paths, ahead }];
            hub.tell_all(&Looked { wanted, found, sequence, told: Vec::new(), oldest: None });
            queue.extract(1, u64::MAX)
        };
        assert!(matches!(&tell(1, true, "a")[..], [Item::Change(change)] if change.ahead));
        assert!(tell(2, true, "a").is_empty(), "it may be told again");
        assert!(matches!(&tell(3, false, "a")[..], [Item::Settled { sequence: 3, .. }]));
        assert!(
            tell(4, true, "a").is_empty() && tell(5, false, "a").is_empty(),
            "nobody has it as told ahead"
        );
        assert!(matches!(&tell(6, false, "b")[..], [Item::Change(change)] if !change.ahead));
        // What nobody has told again is settled by a mark.
        assert_eq!(tell(7, true, "c").len(), 1);
        hub.settle(vec![(0, Arc::clone(&key))], 8);
        assert!(matches!(&queue.extract(1, u64::MAX)[..], [Item::Settled { sequence: 8, .. }]));
        assert!(tell(9, false, "c").is_empty(), "it is settled");
        // What is gone has no answer to be remembered.
        let paths = HashSet::from([Arc::clone(&path)]);
        let found = HashMap::from([(Arc::clone(&path), Now::Gone(Look { begun: 2, ended: 3 }))]);
        let wanted = vec![Wanted { model: 0, key: Arc::clone(&key), sequence: 10, paths, ahead: true }];
        hub.tell_all(&Looked { wanted, found, sequence: 10, told: Vec::new(), oldest: None });
        assert!(matches!(&queue.extract(1, u64::MAX)[..], [Item::Change(change)] if change.ahead));
        hub.settle(vec![(0, Arc::clone(&key))], 11);
        assert!(matches!(&queue.extract(1, u64::MAX)[..], [Item::Settled { sequence: 11, .. }]));
    }
}
