//! A read model is built again through the front door, whatever kills the process that builds it.

#[path = "../../projections/examples/apply/flows.rs"]
mod flows;

use crate::READ_MODELS;
use events::Position;
use futures::{StreamExt, TryStreamExt, stream};
use nats::{Connection, Durability, EventStore, StoreOptions, Write};
use projections::{Rebuilds, View, database::Database};
use serde_json::{Value, json};
use std::{process::Output, time::Duration};
use tokio::{process::Command, time::sleep};
use waybill::system::Service;
use waybill_tests::{Front, Process, Serve, World, eventually};

const SOON: Duration = Duration::from_mins(2);
const ORDERS: u64 = 2500;
const KILLS: u32 = 5;

async fn record(world: &World, orders: std::ops::Range<u64>) {
    let connection = Connection::connect(&world.config.nats_url, "test").await.unwrap();
    let options = StoreOptions { durability: Durability::Interval, ..StoreOptions::default() };
    let store = EventStore::new(&connection, options);
    let place = async |number| {
        let mut created = 0;
        for made in flows::flow(number) {
            let expect = if made.envelope.version == 1 { 0 } else { created };
            let write = Write::new(&made.subject, Some(expect), &made.envelope, None, made.body);
            match store.append(vec![write]).await {
                Ok(appended) => created = if created == 0 { appended.first } else { created },
                // A service that runs has answered already.
                Err(nats::AppendError::Conflict) if made.envelope.version > 1 => {}
                Err(error) => return Err(error),
            }
        }
        Ok::<_, nats::AppendError>(())
    };
    let all = stream::iter(orders).map(place).buffer_unordered(100);
    all.try_collect::<()>().await.unwrap();
}

async fn stands(world: &World) -> Value {
    world.api.get(Service::Operations, "/ops/projections/orders").await.unwrap().body
}

async fn live(world: &World, number: u32) {
    eventually(&format!("generation {number} serves"), SOON, async || {
        (stands(world).await["live"] == number).then_some(())
    })
    .await;
}

/// On PostgreSQL the server is killed too, with whatever was not on disk for good.
#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_is_killed_again_and_again_ends_with_the_same_tables() {
    let world =
        World::of(READ_MODELS, &[Service::Operations], |config| config.durability = Durability::Interval);
    let world = world.await.unwrap();
    record(&world, 0..ORDERS).await;
    let folder = world.config.data.with_file_name("orders");
    let storage = world.config.databases.storage(Service::Orders, &folder);
    let start = || Serve::with(&world, "orders", "orders", &["--durability", "interval"]).unwrap();
    let mut process = start();
    live(&world, 1).await;
    let path = "/ops/projections/orders/rebuild";
    let asked = world.api.post(Service::Operations, path, "again", &json!({})).await.unwrap();
    assert_eq!(asked.status, 202, "{}", asked.body);
    for kill in 0..KILLS {
        eventually("it is built", SOON, async || {
            let generations = stands(&world).await["generations"].clone();
            generations.as_array().unwrap().iter().any(|one| one["number"] == 2).then_some(())
        })
        .await;
        // Somewhere in the middle, or at its end: each time is another.
        sleep(Duration::from_millis(fastrand::u64(0..1500))).await;
        if let Some(cluster) = world.kept.cluster().filter(|_| kill % 2 == 0) {
            cluster.kill();
            cluster.launch();
        } else {
            process.kill().await.unwrap();
            process = start();
        }
    }
    record(&world, ORDERS..ORDERS + 50).await;
    live(&world, 2).await;
    let again = world.api.post(Service::Operations, path, "again", &json!({})).await.unwrap();
    assert_eq!((again.status, again.body), (202, asked.body), "sent again it is the same request");

    let connection = Connection::connect(&world.config.nats_url, "test").await.unwrap();
    let view = View::of("orders").unwrap();
    let database = Database::open(&storage, view, 2).await.unwrap();
    let mut ends: Vec<Position> = Vec::new();
    for context in view.contexts() {
        let sequence = nats::last_sequence(&connection, context).await.unwrap();
        ends.push(Position { context, sequence });
    }
    eventually("it has caught up", SOON, async || {
        (database.moment().await.ok()?.checkpoints() == ends).then_some(())
    })
    .await;
    process.kill().await.unwrap();
    let differences =
        projections::verify(view, &connection, &database, &folder.join("scratch")).await.unwrap();
    assert_eq!(differences, []);
    let rows = database.rows("SELECT id FROM orders", Vec::new()).await.unwrap();
    assert_eq!(rows.len() as u64, ORDERS + 50);
}

async fn waybill(front: &Front, token: &str, arguments: &[&str]) -> Output {
    let url = format!("{}/api", front.url);
    Command::new(Process::executable())
        .args(arguments)
        .args(["--url", &url, "--token", token])
        .output()
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_builds_again_goes_back_and_drops_through_the_gateway() {
    let world = World::of(READ_MODELS, &[Service::Users, Service::Operations, Service::Orders], |_| ())
        .await
        .unwrap();
    let front = Front::start(&world).await.unwrap();
    front.knows(&[Service::Users, Service::Operations]).await.unwrap();
    record(&world, 0..50).await;
    let operator = world.api.tokens().unwrap().operator().await.unwrap();
    let said = async |arguments: &[&str]| {
        let output = waybill(&front, &operator, arguments).await;
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    live(&world, 1).await;
    let (out, progress) = said(&["rebuild", "orders"]).await;
    assert_eq!(out, "orders: generation 2 serves\n");
    assert!(progress.is_empty() || progress.contains("orders: "), "{progress}");
    let (out, _) = said(&["rebuild", "orders/progress"]).await;
    assert_eq!(out, "orders: generation 3 serves\n");
    let (out, _) = said(&["rebuild", "orders", "--rollback"]).await;
    assert_eq!(out, "orders: generation 2 serves\n");
    let (out, _) = said(&["rebuild", "--status"]).await;
    assert!(out.contains("    2  live") && out.contains("    3  kept"), "{out}");
    let (out, _) = said(&["rebuild", "orders", "--drop"]).await;
    assert_eq!(out, "orders: the tables that served before are removed\n");
    let (out, _) = said(&["rebuild", "orders", "--status", "--json"]).await;
    let shown: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(shown["items"][0]["generations"].as_array().unwrap().len(), 1, "{shown}");

    for (arguments, why) in [
        (&["rebuild", "carts"][..], "projection-not-found"),
        (&["rebuild", "orders/carts"], "model-unknown"),
        (&["rebuild", "orders", "--from", "yesterday"], "from-invalid"),
        (&["rebuild", "orders", "--cancel"], "no-rebuild"),
        (&["rebuild", "orders", "--rollback"], "nothing-kept"),
        (&["rebuild", "orders", "--drop"], "nothing-kept"),
        (&["rebuild", "orders", "--from", "FRAUD:1"], "it is not made of stream FRAUD"),
    ] {
        let output = waybill(&front, &operator, arguments).await;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && said.contains(why), "{arguments:?}: {said}");
    }
    let output = waybill(&front, &operator, &["rebuild", "orders/"]).await;
    assert_eq!(output.status.code(), Some(64));
    assert!(front.stop().await);
}

/// One that has not come to its turn, so that it is there for as long as it takes to call it off.
#[tokio::test(flavor = "multi_thread")]
async fn an_operator_calls_a_build_off() {
    let mut world = World::start(READ_MODELS).await.unwrap();
    live(&world, 1).await;
    assert!(world.stop().await);
    world.config.rebuilds = Rebuilds::at_most(0);
    world.resume().await.unwrap();
    let front = Front::start(&world).await.unwrap();
    front.knows(&[Service::Users, Service::Operations]).await.unwrap();
    let operator = world.api.tokens().unwrap().operator().await.unwrap();
    let said = async |arguments: &[&str]| {
        let output = waybill(&front, &operator, arguments).await;
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let out = said(&["rebuild", "orders", "--detach"]).await;
    assert_eq!(out, "orders: it is being built; waybill rebuild orders --status\n");
    eventually("it waits for its turn", SOON, async || {
        said(&["rebuild", "orders", "--status"]).await.contains("waiting").then_some(())
    })
    .await;
    assert_eq!(said(&["rebuild", "orders", "--cancel"]).await, "orders: nothing is built any more\n");
    eventually("what serves is all there is", SOON, async || {
        let shown = said(&["rebuild", "orders", "--status", "--json"]).await;
        let shown: Value = serde_json::from_str(&shown).unwrap();
        let generations = shown["items"][0]["generations"].as_array().unwrap().clone();
        (generations.len() == 1 && generations[0]["state"] == "live").then_some(())
    })
    .await;
    assert!(front.stop().await && world.stop().await);
}
