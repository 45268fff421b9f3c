//! Live answers (step 9): what a query answers, and then each change of it, over server-sent events and `WebSocket`.
//!
//! Each read model declares beside its queries what of it can be followed ([`LiveModel`]); everything else is the same for
//! all. A [`hub`] follows the change feed, asks the queries once for each document that has changed and that somebody
//! follows, and hands it to everybody who does. What a client follows begins with the answer of the query itself.

mod bookmark;
mod cursor;
mod document;
mod documentation;
mod follow;
mod history;
mod hub;
mod later;
mod metrics;
mod queue;
mod registry;
mod routes;
mod socket;
mod sse;
mod tail;
mod target;

use crate::{Outlet, Projections, View, database::DatabaseError, table::Table};
use axum::Router;
use document::Documents;
use events::Position;
use hub::Hub;
pub use metrics::FeedMetrics;
use nats::KeyRing;
use service::{Clock, Shutdown};
use std::{sync::Arc, time::Duration};
use utoipa_axum::router::OpenApiRouter;

/// What of a read model can be followed.
#[derive(Clone, Copy, Debug)]
pub struct Live {
    /// Where clients open a `WebSocket` for all of it.
    pub(crate) socket: &'static str,
    /// The kinds of documents.
    pub(crate) models: &'static [LiveModel],
}

impl Live {
    /// Nothing can be followed.
    #[cfg(test)]
    pub(crate) const NOTHING: Self = Self { socket: "", models: &[] };
}

/// A kind of documents that can be followed.
#[derive(Debug)]
pub(crate) struct LiveModel {
    /// What clients call it.
    pub(crate) name: &'static str,
    /// The query of one. Its parameter is the document's member that tells it from others, and the first column of the key
    /// of each of `tables`.
    pub(crate) one: &'static str,
    /// Whether one can be followed, or only the list.
    pub(crate) single: bool,
    /// The query of the list, where there is one.
    pub(crate) many: Option<&'static str>,
    /// Where its rows are.
    pub(crate) tables: &'static [&'static Table],
    /// Who may see a document.
    pub(crate) seen_by: SeenBy,
    /// Parameters of the list that are members of a document.
    pub(crate) filters: &'static [&'static str],
    /// Members that the list leaves out.
    pub(crate) only_in_one: &'static [&'static str],
    /// Whether it holds what is gone when a user is erased, without a change of any row.
    pub(crate) personal: bool,
}

/// Who may see a document. The queries see to it too.
#[derive(Clone, Copy, Debug)]
pub(crate) enum SeenBy {
    /// Whoever says who he is.
    Everybody,
    /// The user whose id this member holds, and operators.
    Owner(&'static str),
    /// Operators.
    Operators,
}

impl LiveModel {
    /// The member that tells a document from others.
    pub(crate) fn key(&self) -> &'static str {
        self.one.split(['{', '}']).nth(1).unwrap_or_default()
    }
}

/// How many may follow, and how they are treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveOptions {
    /// Subscriptions of one service of this process at most.
    pub most: usize,
    /// Subscriptions of one user at most.
    pub most_per_user: usize,
    /// Changes that wait for one client at most. Who lets more of them wait is dropped.
    pub queue: usize,
    /// How long nothing is said at most.
    pub heartbeat: Duration,
}

impl Default for LiveOptions {
    fn default() -> Self {
        Self { most: 20_000, most_per_user: 100, queue: 256, heartbeat: Duration::from_secs(15) }
    }
}

/// What the live answers of a service are made of.
pub(crate) struct Shared {
    pub(crate) view: &'static View,
    pub(crate) documents: Documents,
    pub(crate) hub: Hub,
    pub(crate) keys: KeyRing,
    projections: Projections,
    pub(crate) options: LiveOptions,
    pub(crate) metrics: FeedMetrics,
    pub(crate) clock: Clock,
    pub(crate) shutdown: Shutdown,
}

impl Shared {
    /// What the tables contain. Asked behind a look at them, so that the look contains no more.
    async fn contained(&self) -> Result<Vec<Position>, DatabaseError> {
        self.projections.contained().await
    }
}

impl Projections {
    /// The queries, and beside each what follows it, documented.
    pub fn live(
        &self,
        keys: &KeyRing,
        outlet: &Outlet,
        options: LiveOptions,
        shutdown: &Shutdown,
    ) -> OpenApiRouter {
        let Outlet { feed, metrics } = outlet.clone();
        let (inner, _) = self.router(keys).split_for_parts();
        let (view, clock) = (self.view(), self.clock());
        let shared = Arc::new(Shared {
            view,
            documents: Documents::new(inner),
            hub: Hub::new(view, feed.retention(), options, metrics.clone(), clock.clone()),
            keys: keys.clone(),
            projections: self.clone(),
            options,
            metrics,
            clock,
            shutdown: shutdown.clone(),
        });
        shutdown.spawn(tail::follow(Arc::clone(&shared), feed));
        shutdown.spawn(hub::watch_erasures(Arc::clone(&shared)));
        let queries = self.router(keys);
        let routes: Router = routes::routes(&shared);
        documentation::document(queries.merge(OpenApiRouter::from(routes)), view)
    }
}
