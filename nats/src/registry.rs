//! Which instances of which services there are.
//!
//! An instance writes itself into a bucket again and again; what it wrote lives a few heartbeats long. A [`Registry`]
//! watches the bucket. It believes in the end of an instance only while it hears of others: with NATS away, and for one
//! lifetime after it came back, the last known instances stay.

use crate::{Bucket, BucketConfig, BucketError, Change, Connection, TopologyError, rights::INSTANCES};
use futures::{Stream, StreamExt};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, pin::pin, sync::Arc, time::Duration};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

/// Names an instance of a service. One that was started again is another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct InstanceId(pub Uuid);

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A running instance of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// Which service.
    pub service: String,
    /// Which instance.
    #[serde(rename = "instance")]
    pub id: InstanceId,
    /// Where others reach it, such as `http://10.0.0.7:3002`.
    pub url: String,
    /// The version of the program.
    pub version: String,
    /// When it was started.
    pub started: Timestamp,
}

impl Instance {
    /// Where it is written. A service may write below its own name only, so this says who has written an entry.
    fn key(&self) -> String {
        format!("{}.{}", self.service, self.id)
    }
}

/// How instances stay known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegistryOptions {
    /// How often an instance says that it lives.
    pub heartbeat: Duration,
    /// How long it is known after that. Whole seconds, at least one; a few heartbeats.
    pub lifetime: Duration,
    /// Copies of the bucket: 1 on one machine, 3 on a cluster.
    pub replicas: usize,
}

impl Default for RegistryOptions {
    fn default() -> Self {
        Self { heartbeat: Duration::from_secs(2), lifetime: Duration::from_secs(6), replicas: 1 }
    }
}

/// How the bucket has to be.
pub(crate) fn config(replicas: usize) -> BucketConfig {
    let (name, description) = (INSTANCES, "Running instances of services");
    BucketConfig { name, description, max_age: Duration::ZERO, replicas }
}

impl RegistryOptions {
    async fn bucket(self, connection: &Connection) -> Result<Bucket, TopologyError> {
        Bucket::ensure(connection, &config(self.replicas)).await
    }
}

/// Keeps an instance known until it is stopped or dropped; then it removes it.
#[derive(Debug)]
pub struct Registration {
    heart: JoinHandle<()>,
    stop: DropGuard,
}

impl Registration {
    /// Makes an instance known. Goes on trying while NATS is away.
    pub async fn start(
        connection: &Connection,
        instance: Instance,
        options: RegistryOptions,
    ) -> Result<Self, TopologyError> {
        let bucket = options.bucket(connection).await?;
        let stop = CancellationToken::new();
        let heart = tokio::spawn(beat(bucket, instance, options, stop.clone()));
        Ok(Self { heart, stop: stop.drop_guard() })
    }

    /// Removes the instance, if that is possible within a heartbeat; otherwise its lifetime ends.
    pub async fn stop(self) {
        drop(self.stop);
        if let Err(error) = self.heart.await {
            tracing::error!(%error, "the registration of an instance has failed");
        }
    }
}

/// Writes the instance until told to stop, then removes it.
async fn beat(bucket: Bucket, instance: Instance, options: RegistryOptions, stop: CancellationToken) {
    let key = instance.key();
    let (service, id) = (&*instance.service, instance.id);
    let mut known = None;
    loop {
        let put = bucket.put(&key, &instance, Some(options.lifetime));
        let failure = match timeout(options.heartbeat, put).await {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("no answer in time".to_owned()),
        };
        // Told when it changes, not with every heartbeat.
        if known.replace(failure.is_none()) != Some(failure.is_none()) {
            match failure {
                None => tracing::info!(service, instance = %id, url = instance.url, "registered"),
                Some(why) => tracing::warn!(service, instance = %id, why, "cannot register"),
            }
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = sleep(options.heartbeat) => {}
        }
    }
    let removed = timeout(options.heartbeat, bucket.remove(&key)).await;
    if matches!(removed, Ok(Ok(()))) {
        tracing::info!(service, instance = %id, "deregistered");
    } else {
        tracing::warn!(service, instance = %id, "cannot deregister; the registration will expire");
    }
}

/// The instances that are known. Cheap to clone; clones share one watch, which ends with the last of them.
#[derive(Clone, Debug)]
pub struct Registry {
    known: watch::Receiver<Arc<[Instance]>>,
}

impl Registry {
    /// Starts to watch. Instances are known a moment later.
    pub async fn watch(connection: &Connection, options: RegistryOptions) -> Result<Self, TopologyError> {
        let bucket = options.bucket(connection).await?;
        let (publish, known) = watch::channel(Arc::default());
        let connected = connection.connected.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = publish.closed() => {}
                () = follow(&bucket, connected, options.lifetime, &publish) => {}
            }
        });
        Ok(Self { known })
    }

    /// Instances that somebody else names: a gateway in front of services that do not register, and tests.
    pub const fn named_by(known: watch::Receiver<Arc<[Instance]>>) -> Self {
        Self { known }
    }

    /// The instances of a service, oldest first.
    pub fn instances(&self, service: &str) -> Vec<Instance> {
        self.known.borrow().iter().filter(|instance| instance.service == service).cloned().collect()
    }

    /// Every instance of every service.
    pub fn all(&self) -> Arc<[Instance]> {
        Arc::clone(&self.known.borrow())
    }

    /// Waits until instances have come or gone since this clone asked for the last time; false when none ever will.
    pub async fn changed(&mut self) -> bool {
        self.known.changed().await.is_ok()
    }
}

/// Follows the bucket for ever.
async fn follow(
    bucket: &Bucket,
    mut connected: watch::Receiver<u64>,
    lifetime: Duration,
    publish: &watch::Sender<Arc<[Instance]>>,
) {
    let mut directory = Directory::new(lifetime, Instant::now());
    loop {
        connected.borrow_and_update();
        directory.start_over(Instant::now());
        let ended = match bucket.watch().await {
            Ok(changes) => {
                tokio::select! {
                    // What the server keeps for watchers in memory is gone: begin again with everything it has.
                    _ = connected.changed() => continue,
                    ended = take(changes, &mut directory, publish) => ended,
                }
            }
            Err(error) => Some(error),
        };
        let why = ended.map_or_else(|| "it has ended".to_owned(), |error| error.to_string());
        tracing::warn!(why, "the watch over instances is interrupted");
        sleep(AGAIN).await;
    }
}

/// Pause before an interrupted watch is tried again.
const AGAIN: Duration = Duration::from_millis(500);

/// Takes changes over until the watch fails.
async fn take(
    changes: impl Stream<Item = Result<Change<Instance>, BucketError>>,
    directory: &mut Directory,
    publish: &watch::Sender<Arc<[Instance]>>,
) -> Option<BucketError> {
    let mut changes = pin!(changes);
    loop {
        let change = tokio::select! {
            change = changes.next() => change?,
            () = sleep(directory.lifetime) => {
                directory.settle(Instant::now());
                directory.publish(publish);
                continue;
            }
        };
        match change {
            Ok(Change::Put { key, value }) => directory.put(key, value, Instant::now()),
            Ok(Change::Gone { key }) => directory.gone(&key, Instant::now()),
            Err(error @ BucketError::Unreadable { .. }) => tracing::warn!(%error, "an instance is ignored"),
            Err(error) => return Some(error),
        }
        directory.publish(publish);
    }
}

/// What is known, with doubts.
#[derive(Debug)]
struct Directory {
    lifetime: Duration,
    known: BTreeMap<String, Known>,
    /// When the watch was interrupted last. From then on every instance has one lifetime to be heard of again.
    interrupted: Instant,
    /// When an instance was heard of last, whichever.
    heard: Instant,
}

#[derive(Debug)]
struct Known {
    instance: Instance,
    /// It is said to be gone, or was not heard of since the interruption.
    doubtful: bool,
}

impl Directory {
    fn new(lifetime: Duration, now: Instant) -> Self {
        Self { lifetime, known: BTreeMap::new(), interrupted: now, heard: now }
    }

    /// The watch begins again: whatever is known must be heard of once more.
    fn start_over(&mut self, now: Instant) {
        self.interrupted = now;
        for known in self.known.values_mut() {
            known.doubtful = true;
        }
    }

    /// An entry that says to be of somebody else than its key was written by somebody else.
    fn put(&mut self, key: String, instance: Instance, now: Instant) {
        if key != instance.key() {
            let service = &*instance.service;
            return tracing::warn!(key, service, "an instance is ignored: its entry is not its own");
        }
        self.doubt_after_silence(now);
        self.heard = now;
        self.known.insert(key, Known { instance, doubtful: false });
        self.settle(now);
    }

    fn gone(&mut self, key: &str, now: Instant) {
        self.doubt_after_silence(now);
        if let Some(known) = self.known.get_mut(key) {
            known.doubtful = true;
        }
        self.settle(now);
    }

    /// A server that stood still lets everything expire at once when it goes on, before or after it takes the heartbeats
    /// that have waited: what it says first after a long silence, whatever it is, begins a new lifetime for all.
    fn doubt_after_silence(&mut self, now: Instant) {
        let silent = now.saturating_duration_since(self.heard) > self.lifetime * 2;
        // Of an interruption that is known the lifetime runs already.
        if silent && self.interrupted <= self.heard {
            self.interrupted = now;
        }
    }

    /// Removes those in doubt, if absence means anything: others were heard of, and there was time for all.
    fn settle(&mut self, now: Instant) {
        if self.heard >= self.interrupted && now >= self.interrupted + self.lifetime {
            self.known.retain(|_, known| !known.doubtful);
        }
    }

    /// Tells who listens, if anything is different.
    fn publish(&self, publish: &watch::Sender<Arc<[Instance]>>) {
        let mut present: Vec<_> = self.known.values().map(|known| &known.instance).collect();
        present.sort_by_key(|instance| (instance.started, instance.id));
        if !publish.borrow().iter().eq(present.iter().copied()) {
            publish.send_replace(present.into_iter().cloned().collect());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFETIME: Duration = Duration::from_secs(6);

    fn instance(id: u128) -> Instance {
        Instance {
            service: "orders".to_owned(),
            id: InstanceId(Uuid::from_u128(id)),
            url: format!("http://127.0.0.1:{id}"),
            version: "1".to_owned(),
            started: Timestamp::UNIX_EPOCH,
        }
    }

    /// A directory, the seconds that have passed, and what it says.
    struct Scene(Directory, Instant);

    impl Scene {
        /// Two instances, heard of for a while.
        fn of_two() -> Self {
            let start = Instant::now();
            let mut scene = Self(Directory::new(LIFETIME, start), start);
            for second in 0..=5 {
                scene.put(second * 2, 1);
                scene.put(second * 2, 2);
            }
            scene
        }

        fn at(&self, second: u64) -> Instant {
            self.1 + Duration::from_secs(second)
        }

        fn put(&mut self, second: u64, id: u128) {
            let instance = instance(id);
            self.0.put(instance.key(), instance, self.at(second));
        }

        fn gone(&mut self, second: u64, id: u128) {
            self.0.gone(&instance(id).key(), self.at(second));
        }

        fn known(&self) -> Vec<u128> {
            self.0.known.values().map(|known| known.instance.id.0.as_u128()).collect()
        }
    }

    #[test]
    fn whoever_is_gone_is_removed_at_once_even_the_last() {
        let mut scene = Scene::of_two();
        scene.gone(11, 1);
        assert_eq!(scene.known(), [2]);
        scene.gone(16, 2);
        assert!(scene.known().is_empty());
    }

    #[test]
    fn after_an_interruption_all_have_one_lifetime_to_be_heard_of() {
        let mut scene = Scene::of_two();
        scene.0.start_over(scene.at(100));
        scene.gone(100, 1);
        scene.gone(100, 2);
        assert_eq!(scene.known(), [1, 2], "all have expired while the server was away");
        scene.put(102, 2);
        scene.put(104, 2);
        assert_eq!(scene.known(), [1, 2]);
        scene.put(106, 2);
        assert_eq!(scene.known(), [2], "the other one had its time");
    }

    #[test]
    fn as_long_as_nobody_is_heard_of_nobody_is_removed() {
        let mut scene = Scene::of_two();
        scene.0.start_over(scene.at(100));
        scene.0.settle(scene.at(1000));
        assert_eq!(scene.known(), [1, 2]);
        // The server stood still with the connection open; what it says first is that all have expired.
        let mut scene = Scene::of_two();
        scene.gone(30, 1);
        scene.gone(30, 2);
        assert_eq!(scene.known(), [1, 2]);
        // Or it takes the heartbeats of one that have waited, and then says so.
        let mut scene = Scene::of_two();
        scene.put(30, 1);
        scene.gone(30, 2);
        scene.gone(30, 1);
        assert_eq!(scene.known(), [1, 2]);
    }

    #[test]
    fn an_entry_that_says_to_be_of_somebody_else_is_ignored() {
        let mut scene = Scene::of_two();
        let other = instance(3);
        let own = instance(1).key();
        for key in [format!("payments.{}", other.id), own.clone(), "orders".to_owned(), String::new()] {
            scene.0.put(key, other.clone(), scene.at(11));
        }
        assert_eq!(scene.known(), [1, 2]);
        let address = Instance { url: "http://127.0.0.1:9".to_owned(), ..instance(1) };
        scene.0.put(format!("payments.{}", address.id), address, scene.at(11));
        assert_eq!(scene.0.known[&own].instance, instance(1));
        scene.put(11, 3);
        assert_eq!(scene.known(), [1, 2, 3]);
    }

    #[test]
    fn listeners_hear_of_changes_and_not_of_heartbeats() {
        let mut scene = Scene::of_two();
        let (publish, mut listen) = watch::channel(Arc::default());
        scene.0.publish(&publish);
        assert_eq!(listen.borrow_and_update().len(), 2);
        scene.put(12, 1);
        scene.0.publish(&publish);
        assert!(!listen.has_changed().unwrap());
        scene.0.known.clear();
        scene.0.publish(&publish);
        assert!(listen.borrow_and_update().is_empty());
    }
}
