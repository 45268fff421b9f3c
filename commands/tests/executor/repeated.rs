//! The same command again: at once, later, elsewhere, after the cache is gone. One effect, one answer.

use crate::rig::{Change, Process, Rig, again, command, shelf, sku};
use commands::{Key, Receipt, Stop};
use events::CommandId;
use futures::future::join_all;

async fn put_both(
    by: Process,
    id: CommandId,
    a: Key<crate::rig::Shelf>,
    b: Key<crate::rig::Shelf>,
) -> Receipt {
    let put = move |decision: &mut commands::Decision| -> Result<(), Stop> {
        decision.apply(&a, (sku(&a), Change::Put(1)))?;
        decision.apply(&b, (sku(&b), Change::Put(1)))
    };
    by.run(id, vec![], put).await.unwrap()
}

fn one_effect(receipts: &[Receipt], events: usize) {
    let first: Vec<&Receipt> = receipts.iter().filter(|receipt| !receipt.replayed).collect();
    assert_eq!(first.len(), 1, "{receipts:?}");
    assert_eq!(first[0].events, events);
    let last = first[0].position.sequence;
    for receipt in receipts {
        // Read from the log, the last event on the first shelf stands for all.
        let behind = last - receipt.position.sequence;
        assert!(behind < events as u64, "{receipts:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn at_once_on_one_shelf() {
    let rig = Rig::start().await;
    let (process, key, id) = (rig.process().await, shelf(), command());
    // Beside others, so that the same command meets itself in one flight.
    let all = join_all((0..60).map(|index| {
        let id = if index % 3 == 1 { id } else { command() };
        let (process, key) = (process.clone(), again(&key));
        async move { (index % 3 == 1, process.repeat(id, &key, Change::Put(1)).await.unwrap()) }
    }))
    .await;
    let same: Vec<Receipt> = all.into_iter().filter(|(same, _)| *same).map(|(_, receipt)| receipt).collect();
    one_effect(&same, 1);
    assert_eq!((process.on(&key).await, rig.versions(&key).await), (41, 41));
}

#[tokio::test(flavor = "multi_thread")]
async fn at_once_on_two_shelves_by_two_processes() {
    let rig = Rig::start().await;
    let processes = [rig.process().await, rig.process().await];
    for _ in 0..20 {
        let (a, b, id) = (shelf(), shelf(), command());
        let receipts = join_all((0..6).map(|index: usize| {
            let by = processes[index % 2].clone();
            tokio::spawn(put_both(by, id, again(&a), again(&b)))
        }))
        .await;
        let receipts: Vec<Receipt> = receipts.into_iter().map(Result::unwrap).collect();
        one_effect(&receipts, 2);
        assert_eq!((rig.versions(&a).await, rig.versions(&b).await), (1, 1));
    }
}

/// Another process carried out one of the commands of a group: the others of the group must not be lost with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_with_one_repeated_command_loses_no_other() {
    let rig = Rig::start().await;
    let (here, there) = (rig.process().await, rig.process().await);
    for _ in 0..10 {
        let key = shelf();
        here.change(&key, Change::Put(1)).await.unwrap();
        let ids: Vec<CommandId> = (0..8).map(|_| command()).collect();
        // The first one flies alone, the others together behind it.
        let puts = ids.iter().map(|id| here.repeat(*id, &key, Change::Put(1)));
        let (done, repeated) = tokio::join!(join_all(puts), there.repeat(ids[1], &key, Change::Put(1)));
        assert!(done.iter().all(Result::is_ok) && repeated.is_ok());
        assert_eq!((here.on(&key).await, rig.versions(&key).await), (9, 9));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn later_elsewhere_and_after_a_snapshot() {
    let rig = Rig::start().await;
    let (here, key) = (rig.process().await, shelf());
    let mut receipts = Vec::new();
    for _ in 0..50 {
        let id = command();
        receipts.push((id, here.repeat(id, &key, Change::Put(1)).await.unwrap()));
    }
    let store = here.executor.store();
    crate::rig::until("a snapshot is kept", async || {
        store.load(key.subject(), "shelf/1").await.unwrap().snapshot.is_some()
    })
    .await;
    let there = rig.process().await;
    for (id, receipt) in &receipts {
        for by in [&here, &there] {
            let again = by.repeat(*id, &key, Change::Put(1)).await.unwrap();
            assert_eq!(again, Receipt { position: receipt.position, events: 0, replayed: true });
        }
    }
    // Recognised without the help of the server's duplicate window, which is short.
    assert_eq!(there.count(r#"waybill_appends_total{outcome="duplicate"}"#), 0);
    here.executor.forget();
    for (id, receipt) in receipts {
        assert_eq!(here.repeat(id, &key, Change::Put(1)).await.unwrap().position, receipt.position);
    }
    assert_eq!(rig.versions(&key).await, 50);
}
