//! One subscription, whatever carries it: what it begins with, and what comes of each change.
//!
//! Looking at the tables and hearing of changes are two sources, and neither may take the other back. A beginning looks at the
//! tables, waits until the feed has told as much as they contained, and puts both together: of a document whichever was looked
//! at later. From there on the hub alone says what is new, and every id is a place of which everything is told.

use super::{
    LiveModel, Shared,
    bookmark::{Ahead, Bookmark, GONE},
    cursor::Cursor,
    document::{Document, Look, Seen, digest},
    hub::{Hub, Missed, Newcomer, Place},
    queue::{Change, Item, Now, Queue, Why},
    target::{self, Target},
};
use bytes::Bytes;
use serde_json::{Value, json};
use service::{Problem, auth::Principal};
use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

/// Something for the client.
#[derive(Debug)]
pub(crate) struct Said {
    /// Where the client is once it has it; nowhere new while a snapshot is on its way.
    pub(crate) cursor: Option<Bookmark>,
    pub(crate) what: What,
}

/// What a client is told.
#[derive(Debug)]
pub(crate) enum What {
    /// What the query answers.
    Snapshot(Bytes),
    /// A document as it is now.
    Change(Bytes),
    /// The document of this key is gone, or no part of the list any more.
    Removed(&'static str, Arc<str>),
    /// From here on it is told what happens when it happens; the answer contained these positions.
    Live(String),
    /// What it has is worth nothing any more; a snapshot follows.
    Reset(Why),
}

impl What {
    /// The name of the event.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Snapshot(_) => "snapshot",
            Self::Change(_) => "change",
            Self::Removed(..) => "removed",
            Self::Live(_) => "live",
            Self::Reset(_) => "reset",
        }
    }

    /// Its data: JSON in one line.
    pub(crate) fn data(&self) -> Bytes {
        match self {
            Self::Snapshot(json) | Self::Change(json) => json.clone(),
            Self::Removed(member, key) => json!({ *member: **key }).to_string().into(),
            Self::Live(position) => json!({ "position": position }).to_string().into(),
            Self::Reset(why) => json!({ "reason": why.name() }).to_string().into(),
        }
    }
}

/// What a client follows.
pub(crate) struct Follow {
    shared: Arc<Shared>,
    model: usize,
    target: Target,
    principal: Principal,
    queue: Arc<Queue>,
    tag: u32,
    /// Of one document, what the client has of it.
    has: Option<u64>,
    /// What it has that the feed tells only later.
    ahead: Ahead,
    _place: Place,
}

/// What is to be told of a document, and up to which change.
struct Fresh {
    sequence: u64,
    document: Option<Arc<Document>>,
    look: Look,
    ahead: bool,
}

impl Follow {
    /// Begins: with the answer of the query, or with what was missed behind `cursor`.
    pub(crate) async fn begin(
        shared: &Arc<Shared>,
        newcomer: Newcomer<'_>,
    ) -> Result<(Self, Vec<Said>), Problem> {
        let (model, target, principal) = (newcomer.model, newcomer.target.clone(), *newcomer.principal);
        let erased = shared.keys.is_erased(events::UserId::new(principal.user)).await;
        if erased.map_err(|_| away())? {
            return Err(super::sse::erased());
        }
        let (queue, tag) = (Arc::clone(newcomer.queue), newcomer.tag);
        let ahead = newcomer.cursor.map(|bookmark| bookmark.ahead.clone()).unwrap_or_default();
        let (place, missed) = Hub::enter(shared, newcomer).await?;
        let shared = Arc::clone(shared);
        let mut this = Self { shared, model, target, principal, queue, tag, has: None, ahead, _place: place };
        let said = this.opening(missed).await?;
        Ok((this, said))
    }

    fn declared(&self) -> &'static LiveModel {
        &self.shared.view.live.models[self.model]
    }

    /// Where the client is that has everything up to `cursor`.
    pub(crate) fn at(&self, cursor: Cursor) -> Bookmark {
        Bookmark { cursor, ahead: self.ahead.clone() }
    }

    /// What is told first.
    async fn opening(&mut self, mut missed: Missed) -> Result<Vec<Said>, Problem> {
        loop {
            // Also where nothing was missed the query says whether he may ask.
            let (begun, told) = (self.shared.documents.moment(), self.shared.hub.told());
            let answer = self.shared.documents.ask(self.target.path(), self.principal, &told).await?;
            let whole = Look { begun, ended: self.shared.documents.moment() };
            let mut fresh = match &missed {
                Ok(missed) => self.looks(missed, &answer.json, whole).await?,
                Err(_) => HashMap::new(),
            };
            let now = match self.settle(&mut fresh, missed.is_err().then_some(whole)).await? {
                Ok(now) => now,
                Err(why) => {
                    missed = Err(Some(why));
                    continue;
                }
            };
            let mut said = match missed {
                Ok(_) => {
                    // Of what was missed it has something else.
                    self.has = Some(if fresh.is_empty() { bytes(&answer.json) } else { GONE });
                    self.told(fresh, Some(now))
                }
                Err(why) => {
                    self.ahead = Ahead::default();
                    let has = self.keep(&answer.json)?;
                    let say = |what| Said { cursor: None, what };
                    let reset = why.map(|why| say(What::Reset(why)));
                    let mut said: Vec<_> = reset.into_iter().collect();
                    said.push(say(What::Snapshot(answer.json)));
                    fresh.retain(|key, fresh| {
                        fresh.document.as_ref().is_none_or(|now| has.get(key) != Some(&now.digest))
                    });
                    said.extend(self.told(fresh, None));
                    said
                }
            };
            said.push(Said { cursor: Some(self.at(now)), what: What::Live(answer.position) });
            return Ok(said);
        }
    }

    /// What was missed, as it is now. `whole` is when the query was answered.
    async fn looks(
        &self,
        missed: &[(u64, Arc<str>)],
        answer: &Bytes,
        whole: Look,
    ) -> Result<HashMap<Arc<str>, Fresh>, Problem> {
        let mut fresh = HashMap::new();
        for (sequence, key) in missed {
            let seen = match &self.target {
                Target::One { key: one, .. } if one != key => continue,
                Target::One { .. } => {
                    let document = Document::new(self.declared(), answer.clone(), whole)?;
                    Seen { document: Some(document), look: whole }
                }
                Target::Many { .. } => self.look(key).await?,
            };
            fresh.insert(Arc::clone(key), Fresh::seen(*sequence, seen));
        }
        Ok(fresh)
    }

    /// Waits until the feed has told all that was looked at, and adds what was heard meanwhile. Where the client is then, or
    /// why it has to begin anew. `whole` is when everything was looked at at once.
    async fn settle(
        &mut self,
        fresh: &mut HashMap<Arc<str>, Fresh>,
        whole: Option<Look>,
    ) -> Result<Result<Cursor, Why>, Problem> {
        loop {
            let contained = self.shared.contained().await?;
            let progress = self.shared.projections.progress();
            let now = self.shared.hub.reached(&contained, &progress).await?;
            let mut unsure: HashMap<Arc<str>, u64> = HashMap::new();
            for item in self.queue.extract(self.tag, now.sequence) {
                match item {
                    Item::Reset(why) => return Ok(Err(why)),
                    Item::Settled { key, sequence } => {
                        // Who goes on from an earlier place would be told it once more.
                        if let Some(place) = unsure.get_mut(&key) {
                            *place = sequence.max(*place);
                        }
                        match fresh.get_mut(&key) {
                            Some(fresh) => fresh.settle(sequence),
                            None => self.ahead.forget(&key),
                        }
                    }
                    Item::Change(change) if merge(fresh, &change, whole) => {}
                    Item::Change(change) => {
                        unsure.insert(Arc::clone(&change.key), change.cursor.sequence);
                    }
                }
            }
            if unsure.is_empty() {
                return Ok(Ok(now));
            }
            for (key, sequence) in unsure {
                let seen = self.look(&key).await?;
                replace(fresh, key, sequence, seen);
            }
        }
    }

    /// What the client is told of these, in the order of their changes. Without a place it stays where it is.
    fn told(&mut self, fresh: HashMap<Arc<str>, Fresh>, now: Option<Cursor>) -> Vec<Said> {
        let mut fresh: Vec<_> = fresh.into_iter().collect();
        fresh.sort_by_key(|(_, fresh)| fresh.sequence);
        let told = fresh.into_iter().filter_map(|(key, Fresh { sequence, document, ahead, .. })| {
            let cursor = now.map(|now| Cursor { sequence, ..now });
            self.tell(&key, document.as_deref(), cursor, ahead)
        });
        told.collect()
    }

    /// What the client has from a snapshot.
    fn keep(&mut self, json: &Bytes) -> Result<HashMap<Arc<str>, u64>, Problem> {
        let member = self.declared().key();
        if matches!(self.target, Target::One { .. }) {
            self.has = Some(bytes(json));
            return Ok(HashMap::new());
        }
        let page: Value = serde_json::from_slice(json).map_err(|_| Problem::internal())?;
        let items = page["items"].as_array().into_iter().flatten();
        let items = items.filter_map(|item| Some((item.get(member)?.as_str()?.into(), digest(item))));
        Ok(items.collect())
    }

    /// What comes of something that was in the queue.
    pub(crate) async fn take(&mut self, item: Item) -> Result<Vec<Said>, Problem> {
        let change = match item {
            Item::Reset(why) => return self.opening(Err(Some(why))).await,
            Item::Settled { key, .. } => {
                self.ahead.forget(&key);
                return Ok(Vec::new());
            }
            Item::Change(change) => change,
        };
        let (document, ahead) = match &change.now {
            Now::Known(document) => (Some(Arc::clone(document)), change.ahead),
            Now::Gone(_) => (None, change.ahead),
            // As it is by now.
            Now::Unknown => (self.look(&change.key).await?.document.map(Arc::new), true),
        };
        let said = self.tell(&change.key, document.as_deref(), Some(change.cursor), ahead);
        Ok(said.into_iter().collect())
    }

    /// Looks at a document.
    async fn look(&self, key: &Arc<str>) -> Result<Seen, Problem> {
        let model = self.declared();
        let path = match &self.target {
            Target::One { path, .. } => path.to_string(),
            Target::Many { .. } => target::one(model, key),
        };
        self.shared.documents.look(model, &path, &self.shared.hub.told()).await
    }

    /// What the client is told of a document; nothing where it has that, or may not see it. `ahead` says whether the feed may
    /// tell it once more.
    fn tell(
        &mut self,
        key: &Arc<str>,
        document: Option<&Document>,
        cursor: Option<Cursor>,
        ahead: bool,
    ) -> Option<Said> {
        let model = self.declared();
        if document.is_some_and(|document| !target::may_see(model, document, &self.principal)) {
            return None;
        }
        let removed = || (What::Removed(model.key(), Arc::clone(key)), GONE);
        let (what, digest, has) = match (&self.target, document) {
            (Target::One { .. }, Some(document)) => {
                let now = bytes(&document.json);
                let had = self.has.replace(now) == Some(now);
                (What::Change(document.json.clone()), now, had)
            }
            (Target::One { .. }, None) => {
                let (what, digest) = removed();
                (what, digest, self.has.take().is_none())
            }
            (Target::Many { .. }, Some(document)) if self.target.holds(document) => {
                (What::Change(document.listed.clone()), document.digest, false)
            }
            (Target::Many { .. }, _) => {
                let (what, digest) = removed();
                (what, digest, false)
            }
        };
        let has = has || self.ahead.has(key, digest);
        if ahead {
            self.ahead.note(key, digest);
        } else {
            self.ahead.forget(key);
        }
        (!has).then(|| Said { cursor: cursor.map(|cursor| self.at(cursor)), what })
    }
}

impl Fresh {
    /// Something that the client's own look has shown: the feed has told all of it when it is told.
    fn seen(sequence: u64, Seen { document, look }: Seen) -> Self {
        Self { sequence, document: document.map(Arc::new), look, ahead: false }
    }

    /// The feed has told it up to here.
    fn settle(&mut self, sequence: u64) {
        self.ahead = false;
        self.sequence = self.sequence.max(sequence);
    }
}

/// Takes what was looked at once more because of a change, at the place of the last change that is known of it: at an
/// earlier one it would be told again to whoever goes on from there.
fn replace(fresh: &mut HashMap<Arc<str>, Fresh>, key: Arc<str>, sequence: u64, seen: Seen) {
    let known = fresh.get(&key).map_or(0, |known| known.sequence);
    fresh.insert(key, Fresh::seen(sequence.max(known), seen));
}

/// Adds what was heard to what was looked at: of a document whichever was looked at later. Whether that is known.
fn merge(fresh: &mut HashMap<Arc<str>, Fresh>, change: &Change, whole: Option<Look>) -> bool {
    let (document, look) = match &change.now {
        Now::Known(document) => (Some(Arc::clone(document)), document.look),
        Now::Gone(look) => (None, *look),
        Now::Unknown => return false,
    };
    let (sequence, ahead) = (change.cursor.sequence, change.ahead);
    match fresh.get(&change.key).map(|own| own.look).or(whole) {
        Some(own) if look.is_before(own) => {
            // Our own look contains it.
            if let Some(own) = fresh.get_mut(&change.key) {
                own.sequence = sequence;
            }
            true
        }
        Some(own) if !own.is_before(look) => false,
        Some(_) | None => {
            fresh.insert(Arc::clone(&change.key), Fresh { sequence, document, look, ahead });
            true
        }
    }
}

fn bytes(json: &Bytes) -> u64 {
    let mut hasher = DefaultHasher::new();
    json.hash(&mut hasher);
    hasher.finish()
}

fn away() -> Problem {
    let detail = "The keys of personal data cannot be reached.";
    Problem::unavailable("personal-data-unavailable", detail, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(sequence: u64, look: Look) -> Change {
        let cursor = Cursor { epoch: 1, sequence, time: 0 };
        Change { cursor, key: "tea".into(), now: Now::Gone(look), ahead: false }
    }

    const fn between(begun: u64, ended: u64) -> Look {
        Look { begun, ended }
    }

    /// The first change overlaps with what the client looked at, so that it looks again; the second does not.
    #[test]
    fn whoever_looks_again_does_not_go_back_behind_a_later_change() {
        let own = Seen { document: None, look: between(3, 6) };
        let mut fresh = HashMap::from([("tea".into(), Fresh::seen(5, own))]);
        let (first, second) = (change(10, between(4, 5)), change(20, between(8, 9)));
        assert!(!merge(&mut fresh, &first, None), "nobody knows which is newer");
        assert!(merge(&mut fresh, &second, None));
        replace(&mut fresh, "tea".into(), 10, Seen { document: None, look: between(10, 11) });
        assert_eq!(fresh["tea"].sequence, 20);
        assert_eq!(fresh["tea"].look, between(10, 11));
    }
}
