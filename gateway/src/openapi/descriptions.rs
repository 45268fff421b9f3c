//! What services say of themselves, asked now and then and not for every client; and the document made of it.

use super::merge;
use crate::{Config, gateway::ITSELF, proxy::FetchError};
use arc_swap::ArcSwapOption;
use axum::body::Bytes;
use futures::future::{BoxFuture, join_all};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};
use tokio::{sync::Mutex, time::Instant};

/// How long a description is taken for the present one.
const FRESH: Duration = Duration::from_mins(1);
/// How long a service is not asked again that gave none.
const AGAIN: Duration = Duration::from_secs(5);

/// Asks a service for its description.
type Source = dyn Fn(Arc<str>) -> BoxFuture<'static, Result<Bytes, FetchError>> + Send + Sync;

/// The descriptions of services as they were last seen, and the document made of them. Clones share them.
#[derive(Clone)]
pub(crate) struct Descriptions {
    source: Arc<Source>,
    merged: Arc<ArcSwapOption<Merged>>,
    /// Held while services are asked: by one at a time, for all who wait.
    services: Arc<Mutex<BTreeMap<Arc<str>, Seen>>>,
}

struct Merged {
    text: Bytes,
    /// For which routes.
    config: Arc<Config>,
    until: Instant,
}

/// What is known of a service.
struct Seen {
    document: Option<Arc<Value>>,
    failing: bool,
    /// When it is asked again.
    next: Instant,
}

impl Descriptions {
    /// Asks services with `source`.
    pub(crate) fn new(
        source: impl Fn(Arc<str>) -> BoxFuture<'static, Result<Bytes, FetchError>> + Send + Sync + 'static,
    ) -> Self {
        Self { source: Arc::new(source), merged: Arc::default(), services: Arc::default() }
    }

    /// The document of all services that these routes lead to, as JSON. A service that is away is described as it last
    /// described itself; one that was never there is missing. `None` where making it failed.
    pub(crate) async fn document(&self, config: &Arc<Config>) -> Option<Bytes> {
        if let Some(text) = self.present(config) {
            return Some(text);
        }
        // A task of its own: services are not asked anew because the client that waited has gone away.
        let (this, config) = (self.clone(), Arc::clone(config));
        tokio::spawn(async move { this.renew(config).await }).await.ok()
    }

    fn present(&self, config: &Arc<Config>) -> Option<Bytes> {
        let merged = self.merged.load();
        let merged = merged.as_ref()?;
        let valid = Arc::ptr_eq(&merged.config, config) && Instant::now() < merged.until;
        valid.then(|| merged.text.clone())
    }

    async fn renew(&self, config: Arc<Config>) -> Bytes {
        let mut services = self.services.lock().await;
        if let Some(text) = self.present(&config) {
            return text;
        }
        let mut names: BTreeSet<_> = config.routes.iter().map(|route| Arc::clone(&route.service)).collect();
        names.remove(ITSELF);
        let due = |name: &&Arc<str>| services.get(*name).is_none_or(|seen| Instant::now() >= seen.next);
        let due: Vec<_> = names.iter().filter(due).collect();
        let answers = join_all(due.iter().map(|name| (self.source)(Arc::clone(name)))).await;
        for (name, answer) in due.into_iter().zip(answers) {
            services.entry(Arc::clone(name)).or_insert_with(Seen::nothing).take(name, answer);
        }
        services.retain(|name, _| names.contains(name));
        let until = services.values().map(|seen| seen.next).min().unwrap_or_else(|| Instant::now() + FRESH);
        let documents = services.iter().filter_map(|(name, seen)| Some((&**name, seen.document.clone()?)));
        let text = Bytes::from(merge(documents, &config.routes).to_string());
        self.merged.store(Some(Arc::new(Merged { text: text.clone(), config, until })));
        text
    }
}

impl Seen {
    fn nothing() -> Self {
        Self { document: None, failing: false, next: Instant::now() }
    }

    /// Takes note of an answer, and says what has changed: not the same thing for every client that asks.
    fn take(&mut self, service: &str, answer: Result<Bytes, FetchError>) {
        match answer.and_then(|text| Ok(serde_json::from_slice::<Value>(&text)?)) {
            Ok(document) => {
                if self.failing {
                    tracing::info!(service, "a service describes itself again");
                }
                *self =
                    Self { document: Some(document.into()), failing: false, next: Instant::now() + FRESH };
            }
            Err(error) => {
                if !self.failing {
                    tracing::info!(service, error, "a service does not describe itself");
                }
                (self.failing, self.next) = (true, Instant::now() + AGAIN);
            }
        }
    }
}

impl fmt::Debug for Descriptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Descriptions").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::{
        collections::HashMap,
        io,
        sync::{Mutex, PoisonError},
    };
    use tokio::time::advance;

    /// Services that count how often they are asked, some of which are there.
    #[derive(Clone, Default)]
    struct Services {
        asked: Arc<Mutex<HashMap<Arc<str>, u32>>>,
        there: Arc<Mutex<Vec<&'static str>>>,
    }

    impl Services {
        fn descriptions(&self) -> Descriptions {
            let this = self.clone();
            Descriptions::new(move |service| {
                *this.asked.lock().unwrap().entry(Arc::clone(&service)).or_default() += 1;
                let there = this.there.lock().unwrap().contains(&&*service);
                let document = json!({ "paths": { format!("/{service}"): { "get": { "responses": {} } } } });
                Box::pin(async move {
                    // Takes a moment, as asking does.
                    tokio::task::yield_now().await;
                    if there { Ok(document.to_string().into()) } else { Err("away".into()) }
                })
            })
        }

        fn asked(&self, service: &str) -> u32 {
            self.asked.lock().unwrap()[service]
        }
    }

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn services_are_asked_once_for_all_who_want_to_know_and_a_thing_is_said_once() {
        let log = Log::default();
        let sink = log.clone();
        let subscriber = tracing_subscriber::fmt().with_writer(move || sink.clone()).finish();
        let _log = tracing::subscriber::set_default(subscriber);
        let services = Services::default();
        let there = ["orders", "payments", "users", "inventory", "shipping", "fulfilment", "operations"];
        services.there.lock().unwrap().extend(there);
        let (descriptions, config) = (services.descriptions(), Arc::new(Config::standard()));
        let paths = async |config: &Arc<Config>| {
            let text = descriptions.document(config).await.unwrap();
            let document: Value = serde_json::from_slice(&text).unwrap();
            document["paths"].as_object().unwrap().keys().cloned().collect::<Vec<_>>()
        };
        let all = join_all((0..20).map(|_| paths(&config))).await;
        assert!(all.iter().all(|paths| paths.contains(&"/api/orders".to_owned())), "{all:?}");
        assert_eq!((services.asked("orders"), services.asked("notifications")), (1, 1));

        // Who is not there is asked more often, and who is is not asked because of it.
        advance(AGAIN).await;
        paths(&config).await;
        assert_eq!((services.asked("orders"), services.asked("notifications")), (1, 2));
        // Other routes make another document of what is known.
        let less = Config::parse(&include_str!("../../routes.toml").replace("/api/orders", "/api/elsewhere"));
        let less = Arc::new(less.unwrap());
        assert!(!paths(&less).await.contains(&"/api/orders".to_owned()));
        assert_eq!((services.asked("orders"), services.asked("notifications")), (1, 2));

        // Who has gone is described as he was.
        services.there.lock().unwrap().retain(|service| *service != "orders");
        for round in 0..3 {
            advance(if round == 0 { FRESH } else { AGAIN }).await;
            assert!(paths(&config).await.contains(&"/api/orders".to_owned()));
        }
        assert_eq!(services.asked("orders"), 4);
        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.matches("notifications").count(), 1, "{text}");
        assert_eq!(text.matches("does not describe itself").count(), 2, "{text}");
    }
}
