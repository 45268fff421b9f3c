//! Read models of one process share its threads, its connection and perhaps its database: one that has much to do, or cannot
//! do it, takes nothing from the others.

use crate::{DEADLINE, On, System, flow};
use events::{Aggregate, Position};
use projections::{Projections, database::Storage};

/// Events that one read model is behind: seconds of work in a build for tests.
const BEHIND: u64 = 6000;
/// Events of the other that have to be in its tables meanwhile.
const MEANWHILE: u64 = 5;

/// Records the payment of an order.
async fn pay(system: &System, number: u64) -> Position {
    let made = flow(number).into_iter().find(|made| made.subject.aggregate() == Aggregate::Payment).unwrap();
    system.append(&made, 0).await
}

async fn reached(projections: &Projections, position: Position) {
    let mut progress = projections.progress();
    let there = progress.wait_for(|progress| progress.has(position) == Some(true));
    tokio::time::timeout(DEADLINE, there).await.expect("the other read model goes on").unwrap();
}

/// Each payment is there while orders are far behind; were it to wait for them, the first one would be the last.
pub(crate) async fn one_read_model_that_is_far_behind_delays_no_other(on: On) {
    let system = System::start(on).await;
    let payments = system.projections("payments").await;
    system.place(0..BEHIND).await;
    let end = Position { context: events::Context::Orders, sequence: BEHIND };
    let orders = system.projections("orders").await;
    let is_behind = || orders.progress().borrow().has(end) != Some(true);
    let mut meanwhile = 0;
    for number in 0..2 * MEANWHILE {
        let paid = pay(&system, number).await;
        reached(&payments, paid).await;
        meanwhile += u64::from(is_behind());
    }
    assert!(meanwhile >= MEANWHILE, "while orders caught up, {meanwhile} payments were there");
    reached(&orders, end).await;
    assert!(system.shutdown.drain(DEADLINE).await);
}

/// Nothing can be written into the table of orders, however often it is tried: payments go on, orders afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn one_read_model_that_cannot_write_delays_no_other() {
    let system = System::start(On::Postgres).await;
    let (orders, payments) = (system.projections("orders").await, system.projections("payments").await);
    let first = system.order(0).await;
    system.caught_up(&orders).await;
    let Storage::Postgres(url) = system.storage("orders") else { unreachable!() };
    let (cluster, database) = (system.cluster.clone().unwrap(), url.database().to_owned());
    let refuse = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
                  RAISE EXCEPTION 'refused' USING ERRCODE = '55P03'; END $$; \
                  CREATE TRIGGER refuse BEFORE INSERT ON orders_1.orders EXECUTE FUNCTION refuse()";
    cluster.sql(&database, refuse);
    system.append(&flow(1)[0], 0).await;
    for number in 1..100 {
        let paid = pay(&system, number).await;
        reached(&payments, paid).await;
    }
    assert!(orders.progress().borrow().has(Position { sequence: first.sequence + 1, ..first }) != Some(true));
    cluster.sql(&database, "DROP TRIGGER refuse ON orders_1.orders");
    system.caught_up(&orders).await;
    let rows = orders.database().rows("SELECT id FROM orders", Vec::new()).await.unwrap();
    assert_eq!(rows.len(), 2);
    assert!(system.shutdown.drain(DEADLINE).await);
}
