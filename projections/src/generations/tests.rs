//! Generations over a real nats-server: built while another serves, switched to, taken up by another process, given up.

#[path = "../../examples/apply/flows.rs"]
mod flows;
mod held;
mod rig;

use super::{catalogue::Wanted, *};
use crate::{
    Projections, orders, rebuild, shipping,
    testing::{Place, Streams, on_both},
};
use axum::{
    Extension, Router,
    body::Body,
    http::{Request, StatusCode},
};
use events::{
    Actor, Aggregate, CommandId, DomainEvent, Envelope, FactType, Metadata, Position,
    ops::{
        ProjectionDropRequested, ProjectionEvent, ProjectionRebuildCancelled, ProjectionRebuildRequested,
        ProjectionRollbackRequested,
    },
};
use nats::{Connection, EventStore, KeyRing, Policy, ReadModels, Write, server::Server};
use rig::*;
use service::{
    Metrics,
    auth::{Principal, Role},
};
use tempfile::TempDir;
use tower::ServiceExt;

async fn a_read_model_is_built_again_while_it_serves_and_is_the_same(place: &Place) {
    let rig = Rig::start(place).await;
    rig.orders(0..150).await;
    let (one, two) = (rig.process(&orders::VIEW).await, rig.process(&orders::VIEW).await);
    rig.caught_up(&one).await;
    let clients = [client(&rig, &one), client(&rig, &two)];
    for number in 2..=3 {
        let asked = rig.rebuild(None, vec![]).await;
        let more = 100 * u64::from(number);
        rig.orders(more + 50..more + 80).await;
        serves(&one, number).await;
        serves(&two, number).await;
        let catalogue = rig.catalogue().await;
        let live = catalogue.live().unwrap();
        assert_eq!((live.shown.asked, live.shown.mark.len(), live.copied.as_ref()), (Some(asked), 4, None));
        rig.is(&[(number - 1, State::Kept), (number, State::Live)]).await;
    }
    rig.orders(500..510).await;
    rig.caught_up(&one).await;
    rig.caught_up(&two).await;
    for client in clients {
        client.passed().await;
    }
    rig.folded(&one.projections.database()).await;
    within("of the first one nothing is left", async || (!rig.has(place, 1)).then_some(())).await;
    let facts = within("both switches are recorded", async || {
        let models = rig.models().await;
        let mut facts = models.requests("orders", 0).await.unwrap();
        let mut switched = Vec::new();
        while let Ok(next) = tokio::time::timeout(Duration::from_millis(200), facts.next()).await {
            if let (_, ProjectionEvent::Switched(fact)) = next.unwrap() {
                switched.push((fact.previous, fact.generation));
            }
        }
        (switched.len() == 2).then_some(switched)
    })
    .await;
    assert_eq!(facts, [(1, 2), (2, 3)]);
    one.stop().await;
    two.stop().await;
}

async fn rebuilding_twice_gives_the_same_tables(place: &Place) {
    let rig = Rig::start(place).await;
    rig.orders(0..60).await;
    let process = rig.process(&orders::VIEW).await;
    rig.caught_up(&process).await;
    let mut digests = vec![rig.folded(&process.projections.database()).await];
    for number in [2, 3] {
        rig.rebuild(None, vec![]).await;
        serves(&process, number).await;
        rig.caught_up(&process).await;
        let mut moment = process.projections.database().moment().await.unwrap();
        digests.push(moment.digest().await.unwrap());
    }
    assert!(digests.iter().all(|digest| *digest == digests[0]), "{digests:?}");
    process.stop().await;
}

async fn what_was_switched_away_from_comes_back_up_to_date_until_it_is_dropped(place: &Place) {
    let rig = Rig::start(place).await;
    rig.orders(0..20).await;
    let process = rig.process(&orders::VIEW).await;
    rig.rebuild(None, vec![]).await;
    serves(&process, 2).await;
    let client = client(&rig, &process);
    rig.orders(20..40).await;
    rig.ask(ProjectionRollbackRequested { service: "orders".to_owned() }.into()).await;
    serves(&process, 1).await;
    rig.orders(40..50).await;
    rig.caught_up(&process).await;
    client.passed().await;
    rig.is(&[(1, State::Live), (2, State::Kept)]).await;
    rig.folded(&process.projections.database()).await;
    rig.ask(ProjectionDropRequested { service: "orders".to_owned() }.into()).await;
    rig.is(&[(1, State::Live)]).await;
    within("its file is gone", async || (!rig.has(place, 2)).then_some(())).await;
    let asked = rig.ask(ProjectionRollbackRequested { service: "orders".to_owned() }.into()).await;
    let refused = within("it is refused", async || rig.catalogue().await.refused).await;
    assert_eq!((refused.asked, &*refused.why), (asked, "no generation is kept"));
    let models = rig.models().await;
    within("operators see it", async || {
        let shown = models.get("orders").await.unwrap()?;
        (shown.asked == asked && shown.refused.is_some()).then_some(())
    })
    .await;
    process.stop().await;
}

async fn a_build_is_called_off_and_another_begins_anew(place: &Place) {
    let rig = Rig::start(place).await;
    rig.orders(0..20).await;
    let process = rig.process(&orders::VIEW).await;
    // Nobody builds as long as all slots are taken.
    let none = Rebuilds::at_most(0);
    let feed = Feed { rebuilds: none, ..rig.feed().await };
    let (metrics, shutdown) = (Metrics::new(), Shutdown::new());
    process.stop().await;
    let counters = ProjectionMetrics::new(&metrics);
    let storage = rig.storage();
    let started =
        Projections::start(&orders::VIEW, &feed, &storage, Clock::system(), &metrics, counters, &shutdown);
    let process = Process { projections: started.await.unwrap(), shutdown };
    rig.rebuild(None, vec![]).await;
    rig.is(&[(1, State::Live), (2, State::Building)]).await;
    let waiting = within("it waits for its turn", async || {
        let catalogue = rig.catalogue().await;
        catalogue.find(2)?.shown.build.clone()
    });
    assert_eq!(waiting.await.stage, "waiting");
    assert!(metrics.render().contains("waybill_rebuild_generation{projection=\"orders\"} 2"));
    rig.ask(ProjectionRebuildCancelled { service: "orders".to_owned() }.into()).await;
    rig.is(&[(1, State::Live)]).await;
    process.stop().await;
    let process = rig.process(&orders::VIEW).await;
    rig.rebuild(None, vec![]).await;
    serves(&process, 3).await;
    process.stop().await;
}

/// Also in the middle of it: nothing of its tables is left, and what serves is as it was.
async fn a_build_that_reads_is_called_off(place: &Place) {
    let rig = Rig::start(place).await;
    rig.orders(0..20).await;
    let process = rig.process(&orders::VIEW).await;
    rig.caught_up(&process).await;
    rig.unreadable_payments().await;
    rig.rebuild(None, vec![]).await;
    rig.builds("orders", "reading").await;
    within("its tables are there", async || rig.has(place, 2).then_some(())).await;
    rig.ask(ProjectionRebuildCancelled { service: "orders".to_owned() }.into()).await;
    rig.is(&[(1, State::Live)]).await;
    within("its tables are gone", async || (!rig.has(place, 2)).then_some(())).await;
    assert!(process.projections.serves() && process.projections.generation() == 1);
    let rows = process.projections.database().rows("SELECT id FROM orders", vec![]).await.unwrap();
    assert_eq!(rows.len(), 20);
    process.stop().await;
}

/// Over all services of a process: the next one waits until there is a slot.
async fn so_many_are_built_at_the_same_time_and_no_more(place: &Place) {
    let rig = Rig::start(place).await;
    rig.orders(0..20).await;
    let rebuilds = Rebuilds::at_most(1);
    let orders = rig.process_of(&orders::VIEW, rebuilds.clone()).await;
    serves(&orders, 1).await;
    let shipping = rig.process_of(&shipping::VIEW, rebuilds).await;
    serves(&shipping, 1).await;
    rig.unreadable_payments().await;
    rig.rebuild(None, vec![]).await;
    rig.builds("orders", "reading").await;
    let again = |service: &str| {
        let (service, model, from, from_time) = (service.to_owned(), None, vec![], None);
        ProjectionRebuildRequested { service, model, from, from_time }.into()
    };
    rig.ask_of("shipping", again("shipping")).await;
    rig.builds("shipping", "waiting").await;
    // It would have been done long ago: what it is made of is read in no time.
    let looked = within("it goes on to wait", async || {
        let shown = rig.catalogue_of("shipping").await.find(2)?.shown.clone();
        let waited = Clock::system().now().duration_since(shown.begun);
        (waited.as_secs() >= 2).then_some(shown)
    });
    assert_eq!(looked.await.build.unwrap().stage, "waiting");
    assert_eq!(shipping.projections.generation(), 1);
    rig.ask(ProjectionRebuildCancelled { service: "orders".to_owned() }.into()).await;
    serves(&shipping, 2).await;
    assert!(orders.projections.serves() && orders.projections.generation() == 1);
    orders.stop().await;
    shipping.stop().await;
}

async fn one_model_is_built_again_beside_copies_of_the_others(place: &Place) {
    let rig = Rig::start(place).await;
    rig.orders(0..80).await;
    let process = rig.process(&orders::VIEW).await;
    rig.caught_up(&process).await;
    let database = process.projections.database();
    // What only the live tables hold, so that one can tell which were copied.
    let mut writer = database.writer().await.unwrap();
    for table in ["orders", "progress"] {
        let table = *orders::VIEW.tables.iter().find(|one| one.name == table).unwrap();
        let mut changes = crate::Changes::default();
        changes.upsert::<0>(table, Uuid::from_u128(7), []);
        writer.commit(changes, &[]).await.unwrap();
    }
    let client = client(&rig, &process);
    rig.rebuild(Some("progress"), vec![]).await;
    rig.orders(100..120).await;
    serves(&process, 2).await;
    rig.orders(120..130).await;
    rig.caught_up(&process).await;
    client.passed().await;
    let mut moment = process.projections.database().moment().await.unwrap();
    let until = moment.checkpoints().to_vec();
    let scratch = Storage::Sqlite(rig.folder.path().join("scratch"));
    let fresh = rebuild(&orders::VIEW, &rig.connection, &scratch, &[], &until).await.unwrap();
    let differences = moment.differences(&mut fresh.database.moment().await.unwrap()).await.unwrap();
    let tables: Vec<_> = differences.iter().map(|one| one.table).collect();
    assert_eq!(tables, ["orders"], "the row that no event made is in the table that was copied only");
    process.stop().await;
}

async fn a_generation_may_begin_later_than_the_log(place: &Place) {
    let rig = Rig::start(place).await;
    rig.orders(0..20).await;
    let process = rig.process(&orders::VIEW).await;
    rig.rebuild(None, vec!["ORDERS:21".parse().unwrap()]).await;
    serves(&process, 2).await;
    rig.caught_up(&process).await;
    let database = process.projections.database();
    let created = "SELECT id FROM orders WHERE user_id IS NOT NULL";
    assert_eq!(database.rows(created, vec![]).await.unwrap().len(), 10);
    let since = database.moment().await.unwrap().since().await.unwrap();
    assert_eq!(since, ["ORDERS:21".parse().unwrap()]);
    rig.folded(&database).await;
    assert_eq!(rig.catalogue().await.live().unwrap().shown.since, since);

    let time = Clock::system().now();
    rig.orders(30..35).await;
    let (service, from_time) = ("orders".to_owned(), Some(time));
    rig.ask(ProjectionRebuildRequested { service, model: None, from: vec![], from_time }.into()).await;
    serves(&process, 3).await;
    rig.caught_up(&process).await;
    assert_eq!(process.projections.database().rows(created, vec![]).await.unwrap().len(), 5);
    rig.rebuild(None, vec!["FRAUD:1".parse().unwrap()]).await;
    let refused = within("it is refused", async || rig.catalogue().await.refused).await;
    assert_eq!(refused.why, "it is not made of stream FRAUD");
    process.stop().await;
}

async fn changed_code_builds_its_own_while_the_old_serves_and_both_stay_up_to_date(place: &Place) {
    let rig = Rig::start(place).await;
    rig.orders(0..100).await;
    let old = rig.process(&orders::VIEW).await;
    rig.caught_up(&old).await;
    let asking = client(&rig, &old);
    let new = rig.process(&CHANGED).await;
    assert!(new.projections.check()().is_err() || new.projections.serves(), "not ready before it serves");
    serves(&new, 2).await;
    rig.is(&[(1, State::Kept), (2, State::Live)]).await;
    rig.orders(100..120).await;
    rig.caught_up(&new).await;
    rig.caught_up(&old).await;
    assert_eq!(old.projections.generation(), 1, "its queries fit its own tables only");
    asking.passed().await;
    old.projections.check()().unwrap();
    new.projections.check()().unwrap();
    old.stop().await;
    rig.folded(&rig_database(&rig, &CHANGED, 2).await).await;

    // The older program is started again, and finds what it had: it may serve that, and takes no place.
    let old = rig.process(&orders::VIEW).await;
    serves(&old, 1).await;
    rig.orders(120..130).await;
    rig.caught_up(&old).await;
    rig.is(&[(1, State::Kept), (2, State::Live)]).await;
    // Until nobody keeps up the newer one.
    new.stop().await;
    rig.is(&[(1, State::Live), (2, State::Kept)]).await;
    old.stop().await;
}

async fn rig_database(rig: &Rig, view: &'static View, generation: u32) -> Database {
    Database::open(&rig.storage(), view, generation).await.unwrap()
}

async fn a_database_newer_than_the_program_is_refused(place: &Place) {
    let rig = Rig::start(place).await;
    let process = rig.process(&CHANGED).await;
    process.stop().await;
    let feed = rig.feed().await;
    let counters = ProjectionMetrics::new(&Metrics::new());
    let opened = Shared::open(&orders::VIEW, &feed, &rig.storage(), Clock::system(), counters).await;
    let error = opened.unwrap_err();
    let why = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(error.to_string(), "cannot serve the read model");
    assert!(why.contains("run the newer program"), "{why}");
}

async fn a_build_is_taken_up_by_another_process_and_a_switch_that_stands_still_is_off(place: &Place) {
    let rig = Rig::start(place).await;
    rig.orders(0..50).await;
    let process = rig.process(&orders::VIEW).await;
    rig.caught_up(&process).await;
    process.stop().await;
    // A process that began a build, and died when it had closed the live generation.
    let dead = Uuid::from_u128(13);
    let mut shelf = rig.storage().shelf("orders").await.unwrap();
    let (revision, text) = shelf.load().await.unwrap().unwrap();
    let mut catalogue = Catalogue::read(&text).unwrap();
    catalogue.begin(&Own::of(&orders::VIEW), Wanted::default(), Clock::system().now()).unwrap();
    assert!(catalogue.hold(2, dead, None, None) && catalogue.close(2, dead, 77));
    assert!(shelf.swap(revision, &catalogue.text().unwrap()).await.unwrap());
    rig.storage().close("orders", 1, 77).await.unwrap();
    rig.orders(50..60).await;
    let (one, two) = (rig.process(&orders::VIEW).await, rig.process(&orders::VIEW).await);
    serves(&one, 2).await;
    serves(&two, 2).await;
    rig.caught_up(&one).await;
    rig.folded(&one.projections.database()).await;
    one.stop().await;
    two.stop().await;

    // The same of a newer program, with nobody to go on with it.
    let (revision, text) = shelf.load().await.unwrap().unwrap();
    let mut catalogue = Catalogue::read(&text).unwrap();
    catalogue.ensure(&Own::of(&CHANGED), true, false, Clock::system().now()).unwrap();
    assert!(catalogue.hold(3, dead, None, None) && catalogue.close(3, dead, 78));
    assert!(shelf.swap(revision, &catalogue.text().unwrap()).await.unwrap());
    rig.storage().close("orders", 2, 78).await.unwrap();
    let process = rig.process(&orders::VIEW).await;
    rig.orders(60..70).await;
    rig.caught_up(&process).await;
    assert_eq!(rig.catalogue().await.find(3).unwrap().closing, None);
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_from_before_there_were_generations_serve_on() {
    let rig = Rig::start(&Place::sqlite()).await;
    rig.orders(0..20).await;
    let Storage::Sqlite(folder) = rig.storage() else { unreachable!() };
    let until = rig.ends().await;
    let built = rebuild(&orders::VIEW, &rig.connection, &rig.storage(), &[], &until).await.unwrap();
    built.database.close().await;
    tokio::fs::rename(folder.join("orders.1.sqlite"), folder.join("orders.sqlite")).await.unwrap();
    let process = rig.process(&orders::VIEW).await;
    serves(&process, 0).await;
    rig.orders(20..30).await;
    rig.caught_up(&process).await;
    rig.rebuild(None, vec![]).await;
    serves(&process, 1).await;
    rig.ask(ProjectionDropRequested { service: "orders".to_owned() }.into()).await;
    rig.is(&[(1, State::Live)]).await;
    within("its tables are gone", async || {
        rig.storage().adopt(&orders::VIEW).await.unwrap().is_none().then_some(())
    })
    .await;
    process.stop().await;
}

on_both! {
    a_read_model_is_built_again_while_it_serves_and_is_the_same,
    rebuilding_twice_gives_the_same_tables,
    what_was_switched_away_from_comes_back_up_to_date_until_it_is_dropped,
    a_build_is_called_off_and_another_begins_anew,
    a_build_that_reads_is_called_off,
    so_many_are_built_at_the_same_time_and_no_more,
    one_model_is_built_again_beside_copies_of_the_others,
    a_generation_may_begin_later_than_the_log,
    changed_code_builds_its_own_while_the_old_serves_and_both_stay_up_to_date,
    a_database_newer_than_the_program_is_refused,
    a_build_is_taken_up_by_another_process_and_a_switch_that_stands_still_is_off,
}
