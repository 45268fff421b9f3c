//! Builds that are called off in what takes long at once: copying tables, and making indexes. What keeps them there is a lock of
//! PostgreSQL; on `SQLite` such a lock would keep everything else as well.

use super::*;
use sqlx::{AssertSqlSafe, ConnectOptions, PgConnection, raw_sql};

/// Keeps this lock of a table for as long as the connection is there.
async fn locked(rig: &Rig, table: &str, mode: &str) -> PgConnection {
    let Storage::Postgres(url) = rig.storage() else { panic!("locks are of PostgreSQL") };
    let mut connection = url.options().connect().await.unwrap();
    let sql = format!("BEGIN; LOCK TABLE {table} IN {mode} MODE");
    raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
    connection
}

/// Calls the build off that is in this stage, and sees that nothing of it is left once nobody holds it up any more.
async fn called_off(rig: &Rig, place: &Place, process: Process, stage: &str, lock: PgConnection) {
    rig.builds("orders", stage).await;
    rig.ask(ProjectionRebuildCancelled { service: "orders".to_owned() }.into()).await;
    rig.is(&[(1, State::Live)]).await;
    drop(lock);
    within("its tables are gone", async || (!rig.has(place, 2)).then_some(())).await;
    rig.orders(20..25).await;
    rig.caught_up(&process).await;
    assert!(process.projections.serves() && process.projections.generation() == 1);
    rig.folded(&process.projections.database()).await;
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_makes_indexes_is_called_off() {
    let place = Place::postgres();
    let rig = Rig::start(&place).await;
    rig.orders(0..20).await;
    let process = rig.process(&orders::VIEW).await;
    rig.caught_up(&process).await;
    // Tables that are there are taken up, as those of a build that was killed.
    Database::build(&rig.storage(), &orders::VIEW, 2, &[]).await.unwrap().close().await;
    // Rows may be written, and no index is made.
    let lock = locked(&rig, "orders_2.orders", "ROW EXCLUSIVE").await;
    rig.rebuild(None, vec![]).await;
    called_off(&rig, &place, process, "indexing", lock).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_copies_is_called_off() {
    let place = Place::postgres();
    let rig = Rig::start(&place).await;
    rig.orders(0..20).await;
    let process = rig.process(&orders::VIEW).await;
    rig.caught_up(&process).await;
    // Nobody reads what is to be copied.
    let lock = locked(&rig, "orders_1.progress", "ACCESS EXCLUSIVE").await;
    rig.rebuild(Some("order_events"), vec![]).await;
    called_off(&rig, &place, process, "copying", lock).await;
}
