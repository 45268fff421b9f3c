//! Keys of personal data: one per user, the same in every process, and gone for good when destroyed.

use crate::rig::{Rig, until};
use events::{Personal, UserId};
use nats::{Bucket, BucketConfig, Connection, KeyError, KeyRing, KeyRingError, MasterKey, TopologyError};
use service::Clock;
use std::{fs, path::Path, time::Duration};

fn user() -> UserId {
    UserId::new(Clock::system().uuid())
}

async fn ring(rig: &Rig, master: &MasterKey) -> KeyRing {
    let connection = Connection::connect(rig.server.url().as_str(), "another process").await.unwrap();
    KeyRing::open(&connection, master, 1).await.unwrap()
}

/// How many files below `folder` hold these bytes.
fn holding(folder: &Path, bytes: &[u8]) -> usize {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let found = entries.map(|entry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => holding(&entry.path(), bytes),
        _ => {
            let text = fs::read(entry.path()).unwrap_or_default();
            usize::from(text.windows(bytes.len()).any(|window| window == bytes))
        }
    });
    found.sum()
}

/// The wrapped key of a user, as the server keeps it.
async fn wrapped(rig: &Rig, user: UserId) -> String {
    let bucket = async_nats::jetstream::new(rig.client().await).get_key_value("PERSONAL_KEYS").await.unwrap();
    let kept = bucket.get(user.to_string()).await.unwrap().unwrap();
    let kept: serde_json::Value = serde_json::from_slice(&kept).unwrap();
    kept["wrapped"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn every_process_has_the_same_key_and_only_with_the_master_key() {
    let rig = Rig::bare().await;
    let (master, ada) = (MasterKey::generate(), user());
    let (one, two) = tokio::join!(ring(&rig, &master), ring(&rig, &master));
    assert!(one.key(ada).await.unwrap().is_none(), "nobody has asked for one");

    let (a, b) = tokio::join!(one.key_or_create(ada), two.key_or_create(ada));
    assert_eq!(a.unwrap().bytes(), b.unwrap().bytes(), "of two that are made at once one stays");
    let name = one.seal(ada, &"Ada".to_owned()).await.unwrap();
    assert_eq!(two.reveal(&name).await.unwrap().unwrap(), "Ada");
    assert_ne!(one.seal(ada, &"Ada".to_owned()).await.unwrap(), name, "a nonce of its own each time");

    let foreign = KeyRing::open(&rig.connection, &MasterKey::generate(), 1).await;
    assert!(matches!(foreign, Err(KeyRingError::Master(_))), "it would make keys that no other could read");
}

#[tokio::test]
async fn a_destroyed_key_is_gone_everywhere_and_never_made_again() {
    let rig = Rig::bare().await;
    let (master, ada, bob) = (MasterKey::generate(), user(), user());
    let (one, two) = (ring(&rig, &master).await, ring(&rig, &master).await);
    let name: Personal<String> = one.seal(ada, &"Ada".to_owned()).await.unwrap();
    let other: Personal<String> = one.seal(bob, &"Bob".to_owned()).await.unwrap();
    assert!(two.reveal(&name).await.unwrap().is_some());

    one.destroy(ada).await.unwrap();
    assert_eq!(one.reveal(&name).await.unwrap(), None);
    until("seen by the other process", async || two.reveal(&name).await.unwrap().is_none()).await;
    one.destroy(ada).await.unwrap();
    let three = ring(&rig, &master).await;
    for ring in [&one, &two, &three] {
        let refused = ring.key_or_create(ada).await;
        assert!(matches!(refused, Err(KeyError::Erased(user)) if user == ada), "{refused:?}");
        assert!(ring.key(ada).await.unwrap().is_none());
        assert_eq!(ring.reveal(&other).await.unwrap().unwrap(), "Bob", "nobody else's");
    }

    let never_seen = user();
    two.destroy(never_seen).await.unwrap();
    assert!(matches!(one.key_or_create(never_seen).await, Err(KeyError::Erased(_))));
}

/// The mark may have been written by a process that died before it could overwrite the key.
#[tokio::test]
async fn a_destroyed_key_is_overwritten_on_disk() {
    let rig = Rig::bare().await;
    let (keys, ada, bob) = (ring(&rig, &MasterKey::generate()).await, user(), user());
    for user in [ada, bob] {
        keys.key_or_create(user).await.unwrap();
    }
    let (adas, bobs) = (wrapped(&rig, ada).await, wrapped(&rig, bob).await);
    let on_disk = |key: &str| holding(rig.folder.path(), key.as_bytes());
    until("written", async || on_disk(&adas) > 0 && on_disk(&bobs) > 0).await;

    let config =
        BucketConfig { name: "PERSONAL_KEYS", description: "", max_age: Duration::ZERO, replicas: 1 };
    let bucket = Bucket::ensure(&rig.connection, &config).await.unwrap();
    bucket.put(&ada.to_string(), &"erased", None).await.unwrap();
    assert!(on_disk(&adas) > 0, "a mark alone destroys nothing");
    keys.destroy(ada).await.unwrap();
    assert_eq!(on_disk(&adas), 0);

    rig.server.kill().await;
    rig.connected().await;
    assert_eq!((on_disk(&adas), on_disk(&bobs) > 0), (0, true), "and not written again");
}

/// A bucket made by somebody else forbids deletes, and then nothing can be destroyed.
#[tokio::test]
async fn a_bucket_that_cannot_forget_is_refused() {
    let rig = Rig::bare().await;
    let config =
        BucketConfig { name: "PERSONAL_KEYS", description: "", max_age: Duration::ZERO, replicas: 1 };
    Bucket::ensure(&rig.connection, &config).await.unwrap();
    let refused = KeyRing::open(&rig.connection, &MasterKey::generate(), 1).await.unwrap_err();
    assert!(matches!(refused, KeyRingError::Topology(TopologyError::Weaker { .. })), "{refused:?}");
    assert!(refused.to_string().contains("deny_delete"), "{refused}");
}
