//! Follows the change feed, asks once for each document that has changed and that somebody follows, and hands it to the hub.
//!
//! What a query answers may be ahead of what the feed has told: it contains what was committed a moment ago and is not told
//! yet. Told with the sequence of an earlier change, it would come once more to whoever goes on from there. So an answer is
//! held until the feed has told as much as the tables contained; what has changed again until then is looked at again. What
//! cannot wait any longer is told as *ahead*, and named in the ids of those who were told ([`bookmark`](super::bookmark)).

use super::{
    LiveModel, Shared,
    document::Seen,
    hub::{Hub, Looked, Wanted, covers},
    queue::Now,
};
use crate::telling::read;
use events::Position;
use futures::{StreamExt, stream};
use jiff::Timestamp;
use nats::{ChangeFeed, FeedNews, Told};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};
use tokio::time::{Instant, timeout_at};

/// Changes taken at once at most.
const BATCH: usize = 500;
/// Documents asked for at once.
const LOOKS: usize = 8;
/// How long something that changes all the time is looked at again before it is told all the same.
const PATIENCE: Duration = Duration::from_millis(250);
/// How long anything waits until the feed has told as much as it contains.
const HELD: Duration = Duration::from_secs(1);
const RETRY: Duration = Duration::from_millis(200);

/// Which document, of which kind.
type Name = (usize, Arc<str>);

/// What is on its way from the feed to those who follow.
#[derive(Default)]
struct Way {
    /// What has changed and was not looked at, with its last change.
    changed: BTreeMap<Name, u64>,
    /// Since when it is looked at in vain.
    again: HashMap<Name, Instant>,
    /// When the first of it was told.
    oldest: Option<Timestamp>,
    held: Option<Held>,
    unsettled: Option<Unsettled>,
}

/// What was told ahead of the feed because nobody told it, and what the tables contained.
#[derive(Default)]
struct Unsettled {
    names: HashSet<Name>,
    contained: Vec<Position>,
}

impl Way {
    /// Tells what was held, which nobody looks at in vain any more.
    fn tell(&mut self, hub: &Hub, looked: Looked) {
        hub.tell_all(&looked);
        for wanted in looked.wanted {
            self.again.remove(&(wanted.model, wanted.key));
        }
    }

    /// Tells what was held before the feed has told what the tables contained.
    fn tell_ahead(&mut self, hub: &Hub, held: Held) {
        let unsettled = self.unsettled.get_or_insert_default();
        let names = held.looked.wanted.iter().map(|wanted| (wanted.model, Arc::clone(&wanted.key)));
        unsettled.names.extend(names);
        unsettled.contained = held.contained;
        self.tell(hub, held.looked);
    }

    /// The feed has told so much: names what is told of that by now. What has changed again tells that itself.
    fn settled(&mut self, told: &[Position]) -> Vec<Name> {
        let settled =
            self.unsettled.take_if(|unsettled| covers(told, &unsettled.contained)).unwrap_or_default();
        let on_its_way = |name: &Name| {
            let held = self.held.iter().flat_map(|held| &held.looked.wanted);
            self.changed.contains_key(name)
                || held.into_iter().any(|wanted| (wanted.model, &wanted.key) == (name.0, &name.1))
        };
        settled.names.into_iter().filter(|name| !on_its_way(name)).collect()
    }
}

/// What was looked at, and until when it waits for what the tables contained.
struct Held {
    looked: Looked,
    contained: Vec<Position>,
    until: Instant,
}

/// Follows the feed until the shutdown.
pub(super) async fn follow(shared: Arc<Shared>, feed: ChangeFeed) {
    let token = shared.shutdown.token();
    let hub = &shared.hub;
    let (mut tail, mut way) = (feed.tail(), Way::default());
    let mut outage = Some(Instant::now());
    let mut left = None;
    while !token.is_cancelled() {
        if let Some(since) = outage {
            let Some(connected) = token.run_until_cancelled(Box::pin(tail.connect())).await else { return };
            let Ok(pending) = connected else {
                let _ = token.run_until_cancelled(tokio::time::sleep(RETRY)).await;
                continue;
            };
            // What was told and forgotten meanwhile is missing.
            if hub.is_ready() && since.elapsed() > hub.retention() * 4 / 5 {
                hub.lost();
            }
            hub.begins(tail.epoch());
            left = left.or(Some(pending));
            outage = None;
        }
        // Where the feed was never begun there is no place to follow from.
        if left == Some(0) && hub.has_begun() {
            hub.ready();
        }
        let until = way.held.as_ref().map_or_else(far, |held| held.until);
        let next = timeout_at(until, Box::pin(tail.next(BATCH)));
        let Some(told) = token.run_until_cancelled(next).await else { return };
        match told {
            Ok(Ok(told)) => {
                left = left.map(|left| left.saturating_sub(told.len() as u64));
                for one in told {
                    take(&shared, &mut way, one).await;
                }
            }
            Ok(Err(error)) => {
                tracing::warn!(projection = shared.view.name, %error, "the change feed is followed again");
                outage = Some(Instant::now());
            }
            // Nobody tells the feed: better ahead of it than too late.
            Err(_) => {
                if let Some(mut held) = way.held.take() {
                    held.looked.wanted.iter_mut().for_each(|wanted| wanted.ahead = true);
                    way.tell_ahead(hub, held);
                }
            }
        }
    }
}

/// A time that does not come.
fn far() -> Instant {
    Instant::now() + Duration::from_hours(1)
}

/// Takes one message of the feed.
async fn take(shared: &Arc<Shared>, way: &mut Way, told: Told) {
    match told.news {
        FeedNews::Row { model: table, key } => {
            let Some(key) = key.into_iter().next() else { return };
            let key: Arc<str> = key.into();
            let models = shared.view.live.models.iter().enumerate();
            for (model, _) in models.filter(|(_, model)| model.tables.iter().any(|one| one.name == table)) {
                way.changed.insert((model, Arc::clone(&key)), told.sequence);
            }
            way.oldest = way.oldest.or(Some(told.time));
        }
        FeedNews::Mark { begins } => {
            if shared.hub.begun(told.sequence, begins) {
                *way = Way::default();
            }
            mark(shared, way, told.sequence, &told.position).await;
        }
        // Told when it is connected.
        FeedNews::Anew => {}
    }
}

/// Everything up to here is told.
async fn mark(shared: &Arc<Shared>, way: &mut Way, sequence: u64, position: &str) {
    let told = read(position);
    shared.hub.settle(way.settled(&told), sequence);
    if let Some(mut held) = way.held.take() {
        held.looked.wanted.retain_mut(|wanted| {
            let name = (wanted.model, Arc::clone(&wanted.key));
            // What has changed since may be in it already.
            wanted.ahead = way.changed.contains_key(&name);
            !wanted.ahead || way.again.entry(name).or_insert_with(Instant::now).elapsed() > PATIENCE
        });
        if !covers(&told, &held.contained) {
            way.held = Some(held);
            return;
        }
        way.tell(&shared.hub, held.looked);
    }
    let mut changed: Vec<_> =
        std::mem::take(&mut way.changed).into_iter().map(|((model, key), at)| (at, model, key)).collect();
    changed.sort();
    let wanted = shared.hub.wanted(changed);
    let found = look_at(shared, &wanted, position).await;
    // What nobody wanted to know contains nothing.
    let contained = if found.is_empty() { Some(Vec::new()) } else { contained(shared).await };
    let Some(contained) = contained else { return };
    let looked = Looked { wanted, found, sequence, told, oldest: way.oldest.take() };
    if covers(&looked.told, &contained) {
        shared.hub.tell_all(&looked);
        way.again.clear();
    } else {
        way.held = Some(Held { looked, contained, until: Instant::now() + HELD });
    }
}

/// What the tables contain; asked for until there is an answer, or the shutdown.
async fn contained(shared: &Shared) -> Option<Vec<Position>> {
    let token = shared.shutdown.token();
    loop {
        match shared.contained().await {
            Ok(contained) => return Some(contained),
            Err(error) => {
                tracing::warn!(projection = shared.view.name, %error, "the checkpoints are asked for again");
                token.run_until_cancelled(tokio::time::sleep(RETRY)).await?;
            }
        }
    }
}

/// Asks for what is wanted, each document once.
async fn look_at(shared: &Arc<Shared>, wanted: &[Wanted], position: &str) -> HashMap<Arc<str>, Now> {
    let mut looks = Vec::new();
    for one in wanted {
        for path in &one.paths {
            looks.push((&shared.view.live.models[one.model], Arc::clone(path)));
        }
    }
    let position: Arc<str> = position.into();
    let looks = looks.into_iter().map(|(model, path)| {
        let (shared, position) = (Arc::clone(shared), Arc::clone(&position));
        async move {
            let now = look(&shared, model, &path, &position).await;
            (path, now)
        }
    });
    let looks: Vec<_> = looks.collect();
    stream::iter(looks).buffer_unordered(LOOKS).collect().await
}

/// One document; asked for until there is an answer.
async fn look(shared: &Shared, model: &LiveModel, path: &str, position: &str) -> Now {
    let token = shared.shutdown.token();
    loop {
        match shared.documents.look(model, path, position).await {
            Ok(Seen { document: Some(document), .. }) => return Now::Known(Arc::new(document)),
            Ok(Seen { look, .. }) => return Now::Gone(look),
            Err(problem) => {
                let error = problem.detail();
                tracing::warn!(projection = shared.view.name, error, "a changed document is asked for again");
                if token.run_until_cancelled(tokio::time::sleep(RETRY)).await.is_none() {
                    return Now::Unknown;
                }
            }
        }
    }
}
