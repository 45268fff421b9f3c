//! The topology: ensured by everybody at once, and never weaker than declared.

use crate::rig::Rig;
use async_nats::jetstream::{
    self, kv,
    stream::{Config, StorageType},
};
use events::Context;
use futures::future::join_all;
use nats::{
    ConnectError, Connection,
    topology::{TopologyError, ensure},
};
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

#[tokio::test(flavor = "multi_thread")]
async fn ensuring_twice_and_by_many_at_once_is_the_same_as_once() {
    let rig = Rig::bare().await;
    let all = join_all((0..4).map(|_| ensure(&rig.connection, &Context::ALL, 1))).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    ensure(&rig.connection, &Context::ALL, 1).await.unwrap();
}

async fn differences(connection: &Connection) -> Vec<String> {
    match ensure(connection, &[Context::Orders], 1).await {
        Err(TopologyError::Weaker { differences, .. }) => differences,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_weaker_stream_is_refused_and_every_difference_named() {
    let rig = Rig::bare().await;
    let jetstream = jetstream::new(rig.client().await);
    let weak = Config {
        name: "ORDERS".to_owned(),
        subjects: vec!["evt.orders.order.*".to_owned()],
        storage: StorageType::Memory,
        max_messages_per_subject: 5,
        max_message_size: 1000,
        max_age: Duration::from_hours(1),
        no_ack: true,
        ..Config::default()
    };
    jetstream.create_stream(weak).await.unwrap();
    let found = differences(&rig.connection).await.join("; ");
    for setting in [
        "allow_direct",
        "allow_atomic",
        "deny_delete",
        "deny_purge",
        "subjects",
        "storage",
        "max_msgs_per_subject",
        "max_msg_size",
        "max_age",
        "no_ack",
    ] {
        assert!(found.contains(&format!("{setting} is ")), "{setting} is missing in: {found}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_forgets_too_soon_is_refused() {
    let rig = Rig::start().await;
    let jetstream = jetstream::new(rig.client().await);
    jetstream.delete_key_value("LEDGER_ORDERS").await.unwrap();
    let weak = kv::Config {
        bucket: "LEDGER_ORDERS".to_owned(),
        max_age: Duration::from_mins(2),
        storage: StorageType::Memory,
        ..kv::Config::default()
    };
    jetstream.create_key_value(weak).await.unwrap();
    let found = differences(&rig.connection).await.join("; ");
    assert!(found.contains("storage is ") && found.contains("max_age is "), "{found}");
}

/// Speaks just enough of the protocol to say which version it is.
async fn pretender(version: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("nats://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let info = format!(
            r#"INFO {{"server_id":"x","version":"{version}","proto":1,"host":"h","port":1,"headers":true,"jetstream":true,"max_payload":1048576}}"#
        );
        socket.write_all(format!("{info}\r\n").as_bytes()).await.unwrap();
        let mut buffer = vec![0; 4096];
        while socket.read(&mut buffer).await.is_ok_and(|read| read > 0) {
            if socket.write_all(b"PONG\r\n").await.is_err() {
                break;
            }
        }
    });
    url
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_server_is_refused() {
    for version in ["2.14.3", "2.9.25", "nonsense"] {
        let url = pretender(version).await;
        match Connection::connect(&url, "test").await {
            Err(error @ ConnectError::TooOld { .. }) => {
                let text = error.to_string();
                assert!(text.contains(version) && text.contains("2.14.4"), "{text}");
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(Connection::connect(&pretender("2.14.4").await, "test").await.is_ok());
}
