//! One subscription, whatever carries it: what it begins with, and what comes of each change.
//!
//! Looking at the tables and hearing of changes are two sources, and neither may take the other back. A beginning looks at the
//! tables, waits until the feed has told as much as they contained, and puts both together: of a document whichever was looked
//! at later. From there on the hub alone says what is new, and every id is a place of which everything is told.

use super::{
    LiveModel, Shared,
    cursor::Cursor,
    document::{Document, digest},
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
    pub(crate) cursor: Option<Cursor>,
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
    _place: Place,
}

/// What is to be told of a document, and up to which change.
struct Fresh {
    sequence: u64,
    document: Option<Arc<Document>>,
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
        let (place, missed) = Hub::enter(shared, newcomer).await?;
        let shared = Arc::clone(shared);
        let mut this = Self { shared, model, target, principal, queue, tag, has: None, _place: place };
        let said = this.opening(missed).await?;
        Ok((this, said))
    }

    fn declared(&self) -> &'static LiveModel {
        &self.shared.view.live.models[self.model]
    }

    /// What is told first.
    async fn opening(&mut self, mut missed: Missed) -> Result<Vec<Said>, Problem> {
        loop {
            // Also where nothing was missed the query says whether he may ask.
            let answer = self.shared.documents.ask(self.target.path(), self.principal, "").await?;
            let mut fresh = match &missed {
                Ok(missed) => self.looks(missed, &answer.json).await?,
                Err(_) => HashMap::new(),
            };
            let looked = self.shared.documents.moment();
            let now = self.shared.hub.reached(&self.shared.contained()).await;
            let mut again = None;
            for item in self.queue.extract(self.tag, now.sequence) {
                match item {
                    Item::Reset(why) => again = Some(why),
                    Item::Change(change) => self.merge(&mut fresh, &change, looked, missed.is_ok()).await?,
                }
            }
            if let Some(why) = again {
                missed = Err(Some(why));
                continue;
            }
            let live = Said { cursor: Some(now), what: What::Live(answer.position) };
            let mut said = match missed {
                Ok(_) => self.told(fresh, Some(now)),
                Err(why) => {
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
            said.push(live);
            return Ok(said);
        }
    }

    /// What was missed, as it is now.
    async fn looks(
        &self,
        missed: &[(u64, Arc<str>)],
        answer: &Bytes,
    ) -> Result<HashMap<Arc<str>, Fresh>, Problem> {
        let mut fresh = HashMap::new();
        for (sequence, key) in missed {
            let document = match &self.target {
                Target::One { key: one, .. } if one != key => continue,
                Target::One { .. } => Some(Document::new(self.declared(), answer.clone(), 0)?),
                Target::Many { .. } => {
                    let path = target::one(self.declared(), key);
                    self.shared.documents.look(self.declared(), &path, "").await?
                }
            };
            let document = document.map(Arc::new);
            fresh.insert(Arc::clone(key), Fresh { sequence: *sequence, document });
        }
        Ok(fresh)
    }

    /// Adds what was heard while the tables were looked at. `each` says whether documents were looked at one by one, and not
    /// all at once.
    async fn merge(
        &self,
        fresh: &mut HashMap<Arc<str>, Fresh>,
        change: &Change,
        looked: u64,
        each: bool,
    ) -> Result<(), Problem> {
        let sequence = change.cursor.sequence;
        let document = match &change.now {
            Now::Known(document) if document.begun > looked => Some(Arc::clone(document)),
            Now::Gone(begun) if *begun > looked => None,
            now => {
                // Our own look contains it.
                if let Some(known) = fresh.get_mut(&change.key) {
                    known.sequence = sequence;
                    return Ok(());
                }
                match now {
                    _ if !each => return Ok(()),
                    Now::Known(document) => Some(Arc::clone(document)),
                    Now::Gone(_) => None,
                    Now::Unknown => self.look(&change.key).await?,
                }
            }
        };
        fresh.insert(Arc::clone(&change.key), Fresh { sequence, document });
        Ok(())
    }

    /// What the client is told of these, in the order of their changes. Without a place it stays where it is.
    fn told(&mut self, fresh: HashMap<Arc<str>, Fresh>, now: Option<Cursor>) -> Vec<Said> {
        let mut fresh: Vec<_> = fresh.into_iter().collect();
        fresh.sort_by_key(|(_, fresh)| fresh.sequence);
        let told = fresh.into_iter().filter_map(|(key, Fresh { sequence, document })| {
            let cursor = now.map(|now| Cursor { sequence, ..now });
            self.tell(&key, document.as_deref(), cursor)
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
            Item::Change(change) => change,
        };
        let document = match &change.now {
            Now::Known(document) => Some(Arc::clone(document)),
            Now::Gone(_) => None,
            Now::Unknown => self.look(&change.key).await?,
        };
        Ok(self.tell(&change.key, document.as_deref(), Some(change.cursor)).into_iter().collect())
    }

    /// Looks at a document.
    async fn look(&self, key: &Arc<str>) -> Result<Option<Arc<Document>>, Problem> {
        let model = self.declared();
        let path = match &self.target {
            Target::One { path, .. } => path.to_string(),
            Target::Many { .. } => target::one(model, key),
        };
        Ok(self.shared.documents.look(model, &path, "").await?.map(Arc::new))
    }

    /// What the client is told of a document; nothing where it has that, or may not see it.
    fn tell(&mut self, key: &Arc<str>, document: Option<&Document>, cursor: Option<Cursor>) -> Option<Said> {
        let model = self.declared();
        let removed = || What::Removed(model.key(), Arc::clone(key));
        let what = match (&self.target, document) {
            (_, Some(document)) if !target::may_see(model, document, &self.principal) => return None,
            (Target::One { .. }, Some(document)) => {
                let now = Some(bytes(&document.json));
                if std::mem::replace(&mut self.has, now) == now {
                    return None;
                }
                What::Change(document.json.clone())
            }
            (Target::One { .. }, None) => {
                self.has.take()?;
                removed()
            }
            (Target::Many { .. }, Some(document)) if self.target.holds(document) => {
                What::Change(document.listed.clone())
            }
            (Target::Many { .. }, _) => removed(),
        };
        Some(Said { cursor, what })
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
