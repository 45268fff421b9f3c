//! The route table: which request goes to which service, and what is asked of it on the way.

use crate::limit::LimitPolicy;
use crate::proxy::Budget;
use axum::http::Method;
use service::auth::Role;
use std::{cmp::Reverse, fmt, sync::Arc, time::Duration};

/// What one route declares. Nothing of it is implied: a route that leaves one of these out is refused at start.
#[derive(Debug)]
pub struct Route {
    /// Where it begins.
    pub(crate) pattern: Pattern,
    /// The service that answers.
    pub service: Arc<str>,
    /// The methods that it takes.
    pub(crate) methods: Vec<Method>,
    /// Whether a token is needed.
    pub auth: Auth,
    /// The least role that it takes; `None` for a public route.
    pub role: Option<Role>,
    /// How much of it one client gets; `None` where the route says that it is not limited.
    pub limit: Option<LimitPolicy>,
    /// How long one request may take, to the end of its answer; for a streaming answer, to its beginning.
    pub(crate) timeout: Duration,
    /// How much longer it may take where the request asks to wait for a position; see `patience`.
    pub(crate) wait: Duration,
    /// The largest body, in bytes.
    pub(crate) body: u64,
    /// Whether an idempotent request that found no answer is sent to another instance.
    pub(crate) retry: bool,
    /// Whether answers may be streams without end: server-sent events, `WebSocket`.
    pub(crate) streaming: bool,
    /// Whether the path loses its prefix `/api`.
    pub(crate) rewrite: bool,
    pub(crate) budget: Arc<Budget>,
}

/// Who may come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Auth {
    /// Everybody.
    Public,
    /// Whoever has a valid token.
    Required,
}

/// The routes, most specific first.
#[derive(Debug, Default)]
pub struct Routes(Vec<Arc<Route>>);

/// What a path and a method lead to.
#[derive(Debug)]
pub enum Match {
    /// This route.
    Route(Arc<Route>),
    /// Routes have this path, but none this method; these they have.
    OtherMethods(Vec<Method>),
    /// Nothing.
    Nothing,
}

impl Routes {
    /// Orders them: more segments first, then names before parameters.
    pub(crate) fn new(mut routes: Vec<Arc<Route>>) -> Self {
        routes.sort_by_key(|route| Reverse(route.pattern.weight()));
        Self(routes)
    }

    /// Every route, most specific first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Route> {
        self.0.iter().map(|route| &**route)
    }

    /// Whether any route has this path, whatever the method.
    pub(crate) fn lead_to(&self, path: &str) -> bool {
        self.0.iter().any(|route| route.pattern.matches(path))
    }

    /// The most specific route that takes this method at this path.
    pub fn find(&self, method: &Method, path: &str) -> Match {
        let mut others = Vec::new();
        for route in self.0.iter().filter(|route| route.pattern.matches(path)) {
            if route.methods.contains(method) {
                return Match::Route(Arc::clone(route));
            }
            others.extend(
                route.methods.iter().filter(|other| !others.contains(*other)).cloned().collect::<Vec<_>>(),
            );
        }
        if others.is_empty() { Match::Nothing } else { Match::OtherMethods(others) }
    }
}

impl Route {
    /// The path that the service sees.
    pub(crate) fn rewritten<'a>(&self, path: &'a str) -> &'a str {
        path.strip_prefix(PREFIX).filter(|rest| self.rewrite && rest.starts_with('/')).unwrap_or(path)
    }
}

/// What `^/api/ -> /` takes away.
pub(crate) const PREFIX: &str = "/api";

/// A path and everything beneath it. `{name}` stands for any one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pattern {
    text: Arc<str>,
    segments: Vec<Segment>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Name(String),
    Any,
}

impl Pattern {
    /// Reads `/api/products/{sku}/price`.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        let path = text.strip_prefix('/').ok_or("begins with a slash")?;
        let segment = |segment: &str| match segment.strip_prefix('{').map(|rest| rest.strip_suffix('}')) {
            Some(Some(name)) if !name.is_empty() && !name.contains(['{', '}']) => Ok(Segment::Any),
            None if !segment.is_empty() && !segment.contains(['{', '}', '*', '?', '%']) => {
                Ok(Segment::Name(segment.to_owned()))
            }
            _ => Err("consists of names and of parameters such as {id}, between single slashes"),
        };
        let segments = path.split('/').map(segment).collect::<Result<_, _>>()?;
        Ok(Self { text: text.into(), segments })
    }

    /// Whether the path is this one or beneath it.
    pub(crate) fn matches(&self, path: &str) -> bool {
        let mut rest = path.strip_prefix('/').unwrap_or(path).split('/');
        self.segments.iter().all(|segment| match (segment, rest.next()) {
            (Segment::Name(name), Some(found)) => name == found,
            (Segment::Any, Some(found)) => !found.is_empty(),
            (_, None) => false,
        })
    }

    fn weight(&self) -> (usize, usize) {
        let names = self.segments.iter().filter(|segment| matches!(segment, Segment::Name(_)));
        (self.segments.len(), names.count())
    }

    /// As it was written.
    pub(crate) fn text(&self) -> Arc<str> {
        Arc::clone(&self.text)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_a_path_and_what_is_beneath_it() {
        let orders = Pattern::parse("/api/orders").unwrap();
        for path in ["/api/orders", "/api/orders/", "/api/orders/1", "/api/orders/1/history"] {
            assert!(orders.matches(path), "{path}");
        }
        for path in ["/", "/api", "/api/ordersx", "/api/order", "/orders", "/API/orders"] {
            assert!(!orders.matches(path), "{path}");
        }
        let price = Pattern::parse("/api/products/{sku}/price").unwrap();
        assert!(price.matches("/api/products/TEA/price"));
        assert!(!price.matches("/api/products//price") && !price.matches("/api/products/TEA"));
        for bad in ["", "api", "/", "//", "/a/", "/a//b", "/{}", "/a{b}", "/{a}b", "/a*", "/a%2f"] {
            assert!(Pattern::parse(bad).is_err(), "{bad}");
        }
    }
}
