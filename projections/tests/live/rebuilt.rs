//! The tables are built again while clients follow them: they notice nothing.

use crate::{
    client::Events,
    rig::{DEADLINE, OPERATOR, Rig, soon},
};
use events::{
    Actor, Aggregate, CommandId, DomainEvent, Envelope, Metadata,
    ops::{ProjectionEvent, ProjectionRebuildRequested},
};
use nats::Write;
use service::Clock;
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

#[tokio::test(flavor = "multi_thread")]
async fn while_the_tables_are_built_again_clients_are_told_everything_once() {
    built_beneath_those_who_follow(Rig::start().await).await;
}

/// What an operator asks for.
async fn ask(rig: &Rig) {
    let service = "inventory".to_owned();
    let request = ProjectionRebuildRequested { service, model: None, from: vec![], from_time: None };
    let (event, subject) = (ProjectionEvent::from(request), Aggregate::Projection.subject("inventory"));
    loop {
        let last = rig.store.last(&subject).await.unwrap();
        let version = last.as_ref().map_or(0, |last| last.envelope().unwrap().version) + 1;
        let guard = last.map_or(0, |last| last.position.sequence);
        let command = CommandId::new(Clock::system().uuid());
        let (correlation, causation) = (command.uuid().into(), command.uuid());
        let from = Metadata { command, correlation, causation, actor: Actor::CLIENT, traceparent: None };
        let envelope = Envelope::new(event.fact_type(), &subject, version, 0, Clock::system().now(), &from);
        let tail = (version > 1).then(|| "?".to_owned());
        let write = Write::new(&subject, Some(guard), &envelope, tail, event.to_json());
        match rig.store.append(vec![write]).await {
            Ok(_) => return,
            // The read model says there that it was switched.
            Err(nats::AppendError::Conflict) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

pub(crate) async fn built_beneath_those_who_follow(rig: Rig) {
    let rig = Arc::new(rig);
    let node = rig.usual("inventory").await;
    let mut whole = node.follow("/products/stream?limit=100", OPERATOR).await;
    whole.expect("snapshot").await;
    whole.expect("live").await;
    let over = Arc::new(AtomicBool::new(false));
    let writer = {
        let (rig, over) = (Arc::clone(&rig), Arc::clone(&over));
        let mut progress = node.projections.progress();
        tokio::spawn(async move {
            let mut number = 0;
            while !over.load(Ordering::SeqCst) {
                rig.product_behind(&mut progress, &format!("P{}", number % 8)).await;
                number += 1;
            }
        })
    };
    let models = rig.read_models().await;
    let builder = {
        let rig = Arc::clone(&rig);
        tokio::spawn(async move {
            for number in 2..=3 {
                ask(&rig).await;
                let serves = async {
                    loop {
                        let stands = models.get("inventory").await.unwrap();
                        let live = stands.iter().flat_map(|model| &model.generations);
                        if live.into_iter().any(|one| one.number == number && one.served.is_some()) {
                            return;
                        }
                        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                    }
                };
                soon("the next generation serves", serves).await;
            }
            over.store(true, Ordering::SeqCst);
        })
    };
    let mut told = BTreeMap::<String, u64>::new();
    // Another one comes and goes all the time.
    let mut cursor = String::new();
    let mut seen = BTreeMap::<String, u64>::new();
    while !builder.is_finished() {
        hear(&mut whole, &mut told).await;
        let last = Some(&*cursor).filter(|cursor| !cursor.is_empty());
        let mut brief = soon(
            "it is answered",
            Events::open(node.address, "/products/stream?until=live&limit=100", OPERATOR, last),
        )
        .await
        .unwrap();
        while let Ok(event) = brief.next().await {
            assert_ne!(event.name, "reset", "{}", event.data);
            if event.name == "snapshot" {
                for item in event.data["items"].as_array().unwrap() {
                    note(&mut seen, item);
                }
            } else if event.name == "change" {
                note(&mut seen, &event.data);
            }
        }
        cursor = brief.last;
    }
    builder.await.unwrap();
    writer.await.unwrap();
    soon("the rest is told", async {
        while told != rig.prices() {
            hear(&mut whole, &mut told).await;
        }
    })
    .await;
    assert!(node.shutdown.drain(DEADLINE).await);
}

async fn hear(events: &mut Events, told: &mut BTreeMap<String, u64>) {
    let event = soon("something is told", events.next()).await.unwrap();
    assert_eq!(event.name, "change", "{}", event.data);
    note(told, &event.data);
}

/// None comes twice, and none goes back.
fn note(told: &mut BTreeMap<String, u64>, item: &serde_json::Value) {
    let sku = item["sku"].as_str().unwrap().to_owned();
    let price = item["price"]["amount"].as_u64().unwrap();
    let before = told.insert(sku.clone(), price).unwrap_or(0);
    assert!(before < price, "{sku}: {price} after {before}");
}
