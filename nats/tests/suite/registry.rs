//! Instances of services: coming, going, dying, and a server that does.

use crate::rig::{Rig, soon, until};
use nats::{Bucket, BucketConfig, Instance, InstanceId, Registration, Registry, RegistryOptions};
use service::Clock;
use std::time::Duration;

/// As fast as the server's lifetimes of whole seconds allow.
const OPTIONS: RegistryOptions =
    RegistryOptions { heartbeat: Duration::from_millis(300), lifetime: Duration::from_secs(1), replicas: 1 };

fn instance(service: &str, url: &str) -> Instance {
    let clock = Clock::system();
    Instance {
        service: service.to_owned(),
        id: InstanceId(clock.uuid()),
        url: url.to_owned(),
        version: "1.2.3".to_owned(),
        started: clock.now(),
    }
}

async fn register(rig: &Rig, instance: &Instance) -> Registration {
    Registration::start(&rig.connection, instance.clone(), OPTIONS).await.unwrap()
}

/// Waits until the registry names exactly these instances of orders.
async fn names(registry: &mut Registry, instances: &[&Instance]) {
    soon("instances", async {
        while !registry.instances("orders").iter().eq(instances.iter().copied()) {
            assert!(registry.changed().await);
        }
    })
    .await;
}

#[tokio::test]
async fn instances_come_go_and_die() {
    let rig = Rig::bare().await;
    let mut registry = Registry::watch(&rig.connection, OPTIONS).await.unwrap();
    let (a, b) = (instance("orders", "http://a"), instance("orders", "http://b"));
    let first = register(&rig, &a).await;
    let second = register(&rig, &b).await;
    let _other = register(&rig, &instance("users", "http://c")).await;
    names(&mut registry, &[&a, &b]).await;

    first.stop().await;
    names(&mut registry, &[&b]).await;
    drop(second);
    names(&mut registry, &[]).await;
    assert_eq!(registry.instances("users").len(), 1);

    // What a process leaves behind that was killed: an entry that nobody renews.
    let config = BucketConfig { name: "INSTANCES", description: "", max_age: Duration::ZERO, replicas: 1 };
    let bucket = Bucket::ensure(&rig.connection, &config).await.unwrap();
    let dead = instance("orders", "http://d");
    bucket.put(&format!("orders.{}", dead.id), &dead, Some(OPTIONS.lifetime)).await.unwrap();
    names(&mut registry, &[&dead]).await;
    names(&mut registry, &[]).await;

    // What users may write, which says to be of orders: whoever comes after it is known, and it is not.
    let (false_one, c) = (instance("orders", "http://e"), instance("orders", "http://f"));
    bucket.put(&format!("users.{}", false_one.id), &false_one, None).await.unwrap();
    let _third = register(&rig, &c).await;
    names(&mut registry, &[&c]).await;
    assert_eq!(registry.instances("users").len(), 1, "it renews itself");
}

#[tokio::test]
async fn a_server_that_dies_takes_nobody_away() {
    let rig = Rig::bare().await;
    let mut registry = Registry::watch(&rig.connection, OPTIONS).await.unwrap();
    let (a, b) = (instance("orders", "http://a"), instance("orders", "http://b"));
    let _first = register(&rig, &a).await;
    let second = register(&rig, &b).await;
    names(&mut registry, &[&a, &b]).await;
    let mut witness = registry.clone();
    let changed = tokio::spawn(async move {
        while witness.changed().await {
            assert!(!witness.instances("orders").is_empty(), "everyone was taken away");
        }
    });

    rig.server.kill().await;
    until("away", async || !rig.connection.is_connected()).await;
    rig.connected().await;
    // It comes back with an expired bucket; new instances are seen, and those that go then are gone.
    let c = instance("orders", "http://c");
    let third = register(&rig, &c).await;
    names(&mut registry, &[&a, &b, &c]).await;
    second.stop().await;
    third.stop().await;
    names(&mut registry, &[&a]).await;
    assert!(!changed.is_finished());
    changed.abort();
}

#[tokio::test]
async fn a_server_that_stands_still_takes_nobody_away() {
    let rig = Rig::bare().await;
    let mut registry = Registry::watch(&rig.connection, OPTIONS).await.unwrap();
    let a = instance("orders", "http://a");
    let first = register(&rig, &a).await;
    names(&mut registry, &[&a]).await;
    let mut witness = registry.clone();

    rig.server.pause();
    // Far beyond the lifetime of the entry.
    tokio::time::timeout(OPTIONS.lifetime * 3, witness.changed()).await.unwrap_err();
    rig.server.resume();
    rig.connected().await;
    let b = instance("orders", "http://b");
    let _second = register(&rig, &b).await;
    assert!(soon("the next change", witness.changed()).await);
    assert_eq!(witness.instances("orders"), [a, b.clone()], "the first change is the one that came");
    first.stop().await;
    names(&mut registry, &[&b]).await;
}
