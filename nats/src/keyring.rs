//! The keys of personal data: one per user, wrapped by the master key, destroyed when the user is erased.
//!
//! They are kept in a bucket of their own, apart from the log: a copy of the log is worth nothing without them, and with
//! a key goes everything that was ever sealed under it. The bucket is like any other, except that its stream lets a
//! message be deleted, which the server does by overwriting it (buckets made by the client forbid that), and that a key
//! has room for two messages: the wrapped key and, for ever, the mark that it was destroyed.

mod fits;
mod master;

use crate::{Bucket, BucketConfig, BucketError, Change, Connection, Kept, TopologyError, rights, topology};
use async_nats::jetstream::stream;
use bytes::Bytes;
use events::{DataKey, OpenError, Personal, UserId};
pub use fits::fits;
use futures::{Stream, StreamExt};
use lru::LruCache;
use master::random;
pub use master::{MasterKey, MasterKeyError, UnwrapError, nonce};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use service::crash_point;
use std::{
    fmt,
    num::NonZeroUsize,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{sync::broadcast, task::AbortHandle};

/// The bucket of the keys of personal data.
pub const PERSONAL_KEYS: &str = "PERSONAL_KEYS";
const BUCKET: &str = PERSONAL_KEYS;
/// The key beside those of users that tells whether a master key is the right one.
const CHECK: &str = "master-key-check";
/// Keys held in memory, of about 100 bytes each. (The compiler evaluates the `expect`.)
const CACHED: NonZeroUsize = NonZeroUsize::new(100_000).expect("not zero");
/// Erasures that wait for who listens at most.
const ERASURES: usize = 1024;
/// Pause before watching is tried again.
const REWATCH: Duration = Duration::from_millis(500);

/// Why the keys cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum KeyRingError {
    /// Their bucket is not as it has to be.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// Their bucket cannot be reached.
    #[error(transparent)]
    Away(#[from] BucketError),
    /// They were wrapped by another master key. Keys made with this one could not be read by the other processes.
    #[error("this is not the master key that the keys of personal data were wrapped with")]
    Master(#[from] UnwrapError),
}

/// Why a key is not given.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The user was erased; there will be no key again.
    #[error("user {0} was erased")]
    Erased(UserId),
    /// The keys cannot be reached.
    #[error(transparent)]
    Away(#[from] BucketError),
    /// The key was wrapped by another master key.
    #[error("the key of a user cannot be read")]
    Unwrap(#[from] UnwrapError),
    /// It does not open what it should.
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// What the bucket holds for a user.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Stored {
    Wrapped(String),
    Erased,
}

/// What the bucket holds for a user who was erased: for copies that are put back.
pub fn erased_mark() -> Bytes {
    // The variant without data is its name.
    Bytes::from_static(b"\"erased\"")
}

/// What is known of a user.
#[derive(Clone)]
enum Known {
    Key(DataKey),
    Erased,
}

type Cache = Mutex<LruCache<UserId, Known>>;

/// The keys of all users. Cheap to clone; those used lately are in memory until they are destroyed, by whichever process.
#[derive(Clone)]
pub struct KeyRing(Arc<Shared>);

struct Shared {
    bucket: Bucket,
    stream: stream::Stream,
    master: MasterKey,
    cache: Arc<Cache>,
    erasures: broadcast::Sender<UserId>,
    watcher: AbortHandle,
}

impl KeyRing {
    /// Opens the keys; their bucket is created where it is missing, and refused where it was made with another master
    /// key. `replicas` is 1 on one machine, 3 on a cluster.
    pub async fn open(
        connection: &Connection,
        master: &MasterKey,
        replicas: usize,
    ) -> Result<Self, KeyRingError> {
        let stream = ensure(connection, replicas).await?;
        let config = BucketConfig {
            name: BUCKET,
            description: "Keys of personal data, wrapped",
            max_age: Duration::ZERO,
            replicas,
        };
        let bucket = Bucket::ensure(connection, &config).await?;
        check(&bucket, master).await?;
        let changes = bucket.changes().await?;
        let cache = Arc::new(Mutex::new(LruCache::sparse(CACHED)));
        let (followed, known) = (bucket.clone(), Arc::clone(&cache));
        let erasures = broadcast::Sender::new(ERASURES);
        let told = erasures.clone();
        let following = tokio::spawn(async move {
            follow(changes, &known, &told).await;
            follow_again(followed, known, told).await;
        });
        let watcher = following.abort_handle();
        Ok(Self(Arc::new(Shared { bucket, stream, master: master.clone(), cache, erasures, watcher })))
    }

    /// The key of a user; `None` where there is none: never made, or destroyed.
    pub async fn key(&self, user: UserId) -> Result<Option<DataKey>, KeyError> {
        match self.known(user).await? {
            Some(Known::Key(key)) => Ok(Some(key)),
            Some(Known::Erased) | None => Ok(None),
        }
    }

    /// Whether a user was erased.
    pub async fn is_erased(&self, user: UserId) -> Result<bool, KeyError> {
        Ok(matches!(self.known(user).await?, Some(Known::Erased)))
    }

    /// Tells the users that are erased from now on, by whichever process.
    pub fn erasures(&self) -> broadcast::Receiver<UserId> {
        self.0.erasures.subscribe()
    }

    /// The key of a user, which is made where there is none; never again for a user who was erased.
    pub async fn key_or_create(&self, user: UserId) -> Result<DataKey, KeyError> {
        let known = match self.known(user).await? {
            Some(known) => known,
            None => self.create(user).await?,
        };
        match known {
            Known::Key(key) => Ok(key),
            Known::Erased => Err(KeyError::Erased(user)),
        }
    }

    /// Destroys the key of a user, for ever: marked first, so that no process makes a new one, then overwritten on the
    /// server's disk. After an error it may have been done or not; to be repeated until it succeeds.
    pub async fn destroy(&self, user: UserId) -> Result<(), KeyError> {
        let key = user.to_string();
        let mark = loop {
            let marked = match self.0.bucket.get::<Stored>(&key).await? {
                None => self.0.bucket.create(&key, &Stored::Erased, None).await?,
                Some(Kept { value: Stored::Wrapped(_), revision }) => {
                    self.0.bucket.update(&key, &Stored::Erased, revision, None).await?
                }
                Some(Kept { value: Stored::Erased, revision }) => Some(revision),
            };
            // Otherwise it has just been made, or destroyed, by somebody else.
            if let Some(mark) = marked {
                break mark;
            }
        };
        lock(&self.0.cache).put(user, Known::Erased);
        self.overwrite(&key, mark).await
    }

    /// Seals a value under its owner's key, which is made where there is none.
    pub async fn seal<T: Serialize>(&self, owner: UserId, value: &T) -> Result<Personal<T>, KeyError> {
        Ok(Personal::seal(value, owner, &self.key_or_create(owner).await?, nonce()))
    }

    /// The value; `None` where its owner was erased.
    pub async fn reveal<T>(&self, personal: &Personal<T>) -> Result<Option<T>, KeyError>
    where
        T: DeserializeOwned + Clone,
    {
        let Some(owner) = personal.owner() else { return Ok(personal.plain().cloned()) };
        let Some(key) = self.key(owner).await? else { return Ok(None) };
        Ok(Some(personal.open(&key)?))
    }

    /// What is known of a user, from memory where it was asked for before.
    async fn known(&self, user: UserId) -> Result<Option<Known>, KeyError> {
        if let Some(known) = lock(&self.0.cache).get(&user) {
            return Ok(Some(known.clone()));
        }
        match self.0.bucket.get(&user.to_string()).await? {
            Some(kept) => self.learn(user, &kept.value).map(Some),
            None => Ok(None),
        }
    }

    async fn create(&self, user: UserId) -> Result<Known, KeyError> {
        let key = DataKey::new(random());
        let wrapped = Stored::Wrapped(self.0.master.wrap(key.bytes(), &context(user)));
        let name = user.to_string();
        if self.0.bucket.create(&name, &wrapped, None).await?.is_some() {
            return Ok(self.remember(user, Known::Key(key)));
        }
        // Another process was faster; what is there stays there.
        let kept = self.0.bucket.get(&name).await?;
        self.learn(user, &kept.map_or(Stored::Erased, |kept| kept.value))
    }

    fn learn(&self, user: UserId, stored: &Stored) -> Result<Known, KeyError> {
        let known = match stored {
            Stored::Erased => Known::Erased,
            Stored::Wrapped(wrapped) => {
                let context = context(user);
                let secret = self.0.master.unwrap(wrapped, &context)?;
                let bytes = secret.as_slice().try_into().map_err(|_| UnwrapError::new(context))?;
                Known::Key(DataKey::new(bytes))
            }
        };
        Ok(self.remember(user, known))
    }

    /// Keeps it in memory. A key that was destroyed while it was on its way here stays destroyed.
    fn remember(&self, user: UserId, known: Known) -> Known {
        let mut cache = lock(&self.0.cache);
        if let Some(Known::Erased) = cache.get(&user) {
            return Known::Erased;
        }
        cache.put(user, known.clone());
        known
    }

    /// Deletes every message of a key that is older than its mark. The server overwrites what it deletes on request,
    /// other than what it drops because of a limit.
    async fn overwrite(&self, key: &str, mark: u64) -> Result<(), KeyError> {
        let stream = &self.0.stream;
        let away = |source| BucketError::Away { bucket: BUCKET.to_owned(), source };
        let subject = format!("$KV.{BUCKET}.{key}");
        loop {
            let oldest = stream.get_first_raw_message_by_subject(&subject, 1).await;
            let oldest = oldest.map_err(|error| away(error.into()))?.sequence;
            if oldest >= mark {
                return Ok(());
            }
            crash_point("overwrite.before", BUCKET);
            let overwritten = stream.delete_message(oldest).await;
            crash_point("overwrite.after", BUCKET);
            overwritten.map_err(|error| away(error.into()))?;
        }
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyRing(..)")
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

/// The first who opens the bucket leaves something behind that only the same master key opens.
async fn check(bucket: &Bucket, master: &MasterKey) -> Result<(), KeyRingError> {
    let mut kept = bucket.get::<Stored>(CHECK).await?;
    if kept.is_none() {
        // Only the first of all writes.
        let mine = Stored::Wrapped(master.wrap(&[], CHECK));
        if bucket.create(CHECK, &mine, None).await?.is_some() {
            return Ok(());
        }
        kept = bucket.get(CHECK).await?;
    }
    match kept.map(|kept| kept.value) {
        Some(Stored::Wrapped(first)) => master.unwrap(&first, CHECK).map(|_| ()).map_err(Into::into),
        Some(Stored::Erased) | None => Err(UnwrapError::new(CHECK).into()),
    }
}

/// What a wrapped key is bound to.
fn context(user: UserId) -> String {
    format!("the personal data of user {user}")
}

fn lock(cache: &Cache) -> MutexGuard<'_, LruCache<UserId, Known>> {
    // Nothing in here panics while it is held, and if it did, the cache would be whole.
    cache.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Marks in memory what is destroyed elsewhere.
async fn follow(
    changes: impl Stream<Item = Result<Change<Stored>, BucketError>>,
    cache: &Cache,
    erasures: &broadcast::Sender<UserId>,
) {
    let mut changes = pin!(changes);
    while let Some(change) = changes.next().await {
        match change {
            Ok(Change::Put { key, value: Stored::Erased }) => {
                if let Ok(user) = key.parse() {
                    lock(cache).put(user, Known::Erased);
                    // Nobody need listen.
                    let _ = erasures.send(user);
                }
            }
            Ok(Change::Put { .. }) => {}
            // Something may have been missed: ask for everything again.
            Ok(Change::Gone { .. }) | Err(_) => lock(cache).clear(),
        }
    }
}

/// Follows the bucket again where that has ended. What became known meanwhile is forgotten.
async fn follow_again(bucket: Bucket, cache: Arc<Cache>, erasures: broadcast::Sender<UserId>) {
    loop {
        lock(&cache).clear();
        tokio::time::sleep(REWATCH).await;
        if let Ok(changes) = bucket.changes().await {
            lock(&cache).clear();
            follow(changes, &cache, &erasures).await;
        }
    }
}

/// The stream of the bucket, made here because the client would make it so that nothing can be deleted.
async fn ensure(connection: &Connection, replicas: usize) -> Result<stream::Stream, TopologyError> {
    let config = stream::Config {
        name: rights::kv(BUCKET),
        description: Some("Keys of personal data, wrapped. Not part of a backup of the log.".to_owned()),
        subjects: vec![format!("$KV.{BUCKET}.>")],
        storage: stream::StorageType::File,
        num_replicas: replicas,
        // The wrapped key and the mark that it was destroyed.
        max_messages_per_subject: 2,
        deny_delete: false,
        // Only the leader is asked: a replica that is behind would give a key that was destroyed.
        allow_direct: false,
        ..stream::Config::default()
    };
    Box::pin(topology::may_make(connection, &config)).await?;
    let stream = connection.jetstream.get_or_create_stream(config).await;
    let stream = stream.map_err(|error| request("create", error))?;
    let have = &stream.cached_info().config;
    let checks = [
        (!have.deny_delete, "deny_delete is true, needs false"),
        (!have.allow_direct, "allow_direct is true, needs false"),
        (have.max_messages_per_subject >= 2, "max_msgs_per_subject is 1, needs 2"),
    ];
    let differences: Vec<_> =
        checks.into_iter().filter(|(holds, _)| !holds).map(|(_, what)| what.to_owned()).collect();
    if differences.is_empty() {
        return Ok(stream);
    }
    Err(TopologyError::Weaker { name: format!("bucket {BUCKET}"), differences })
}

fn request(
    action: &'static str,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> TopologyError {
    TopologyError::Request { action, name: format!("bucket {BUCKET}"), source: source.into() }
}
