//! Builds that are held up by the database: they can be called off, also where they copy tables and make indexes, and stay with
//! whoever has them. What holds them up is a lock of PostgreSQL; on `SQLite` such a lock would hold up everything else as well.

use super::*;
use sqlx::{AssertSqlSafe, ConnectOptions, PgConnection, raw_sql};

/// Keeps what this takes for as long as the connection is there.
async fn taken(rig: &Rig, sql: String) -> PgConnection {
    let Storage::Postgres(url) = rig.storage() else { panic!("locks are of PostgreSQL") };
    let mut connection = url.options().connect().await.unwrap();
    raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
    connection
}

async fn locked(rig: &Rig, table: &str, mode: &str) -> PgConnection {
    taken(rig, format!("BEGIN; LOCK TABLE {table} IN {mode} MODE")).await
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

/// Otherwise two processes that are slow take a build from each other for ever.
#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_the_database_keeps_the_build() {
    let place = Place::postgres();
    let rig = Rig::start(&place).await;
    rig.orders(0..20).await;
    let (one, two) = (rig.process(&orders::VIEW).await, rig.process(&orders::VIEW).await);
    rig.caught_up(&one).await;
    // Whoever makes the tables waits for this.
    let sql = "SELECT pg_advisory_lock(hashtext('waybill schema'), hashtext('orders_2'))";
    let lock = taken(&rig, sql.to_owned()).await;
    rig.rebuild(None, vec![]).await;
    let lease = async || rig.catalogue().await.find(2)?.lease;
    let first = within("somebody builds", &lease).await;
    within("who builds says so again and again", async || {
        let now = lease().await?;
        assert_eq!(now.holder, first.holder, "nobody takes it from him");
        (now.beat >= first.beat + 4).then_some(())
    })
    .await;
    drop(lock);
    serves(&one, 2).await;
    serves(&two, 2).await;
    one.stop().await;
    two.stop().await;
}
